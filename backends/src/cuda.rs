//! NVIDIA GPUs through CUDA. Compiles without a CUDA toolkit.

impl crate::ModelBackend for burn::backend::Cuda {}
