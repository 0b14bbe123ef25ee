//! Tensors that come to the host, the one way: what a failed device computed never does.

use std::any::TypeId;

use burn::prelude::*;
use burn::tensor::backend::ExecutionError;
use burn::tensor::{BasicOps, TensorData, Transaction};

use crate::device_failure::waited;

/// The data of a tensor.
///
/// # Panics
/// If its device has failed, now or before, without a word: [`BackendKind::run`](crate::BackendKind::run) and the engine return
/// [`DeviceError::Failed`](crate::DeviceError::Failed).
pub fn host_data<B: Backend, const D: usize, K: BasicOps<B>>(tensor: Tensor<B, D, K>) -> TensorData {
    let device = tensor.device();
    from_device::<B, _>(&device, || tensor.try_into_data())
}

/// The data of several tensors of `device`, which are read at once.
///
/// # Panics
/// As [`host_data`].
pub fn host_data_of_all<B: Backend>(tensors: Transaction<B>, device: &B::Device) -> Vec<TensorData> {
    from_device::<B, _>(device, || tensors.try_execute())
}

/// Waits until everything that `device` was told is done.
///
/// # Panics
/// As [`host_data`].
pub fn settle<B: Backend>(device: &B::Device) {
    from_device::<B, _>(device, || Ok(()));
}

fn from_device<B: Backend, T>(device: &B::Device, read: impl FnOnce() -> Result<T, ExecutionError>) -> T {
    if on_host::<B>() {
        return read().expect("memory of the process can be read");
    }
    // With wgpu a read tells nothing of kernels that were not launched; who waits for the queue is told.
    waited(|| read().and_then(|data| B::sync(device).map(|()| data)))
}

/// Whether a backend computes in the process's own memory, where nothing fails that does not fail at once.
fn on_host<B: Backend>() -> bool {
    let host = [
        #[cfg(feature = "flex")]
        TypeId::of::<burn::backend::Flex>(),
        #[cfg(feature = "ndarray")]
        TypeId::of::<burn::backend::NdArray>(),
    ];
    host.contains(&TypeId::of::<B>())
}
