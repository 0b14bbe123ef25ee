//! AMD GPUs through ROCm's HIP.

impl crate::ModelBackend for burn::backend::Rocm {}
