//! Encoders on a device.

use std::path::Path;
use std::sync::Arc;

use burn::prelude::*;
use burn::tensor::TensorData;
use diffmas_backends::{ModelBackend, host_data};
use diffmas_encoders::{Encoder, load};

use super::{EncoderKind, ImageEncoder};
use crate::error::{Error, Result};
use crate::files::read;

/// Most bytes of an encoder's file.
const MOST_BYTES: u64 = 1 << 30;

/// Images can be read.
pub(crate) fn check_built() -> Result<()> {
    Ok(())
}

/// The encoder of this kind with the weights of the ONNX file at `path`; `on_cpu`, several threads may encode at once.
///
/// # Errors
/// If the file cannot be read, or holds other weights.
pub fn open_encoder<B: ModelBackend>(
    kind: &'static EncoderKind,
    path: &Path,
    on_cpu: bool,
    device: &B::Device,
) -> Result<Arc<dyn ImageEncoder>> {
    let bytes = read(path, MOST_BYTES).map_err(|e| Error::file(path, e))?;
    let encoder = load::<B>(kind.name, &bytes, device).map_err(|e| Error::file(path, e))?;
    Ok(Arc::new(OnDevice { kind, encoder, on_cpu, device: device.clone() }))
}

#[derive(Debug)]
struct OnDevice<B: ModelBackend> {
    kind: &'static EncoderKind,
    encoder: Box<dyn Encoder<B>>,
    on_cpu: bool,
    device: B::Device,
}

impl<B: ModelBackend> ImageEncoder for OnDevice<B> {
    fn kind(&self) -> &'static EncoderKind {
        self.kind
    }

    fn features(&self, pixels: &[f32]) -> Vec<f32> {
        let shape = [1, 3, self.kind.height, self.kind.width];
        let x = Tensor::<B, 4>::from_data(TensorData::new(pixels.to_vec(), shape), &self.device);
        host_data(self.encoder.forward(x)).iter::<f32>().collect()
    }

    fn is_parallel(&self) -> bool {
        self.on_cpu
    }
}
