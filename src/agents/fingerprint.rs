//! Which weights a team runs on, as two hashes.

use burn::prelude::*;
use diffmas_backends::ModelBackend;
use sha2::{Digest, Sha256};

use super::Team;
use crate::communication::Fingerprint;

impl<B: ModelBackend> Team<B> {
    /// The hashes of the team's weights, as f32: of a part of every layer of the frozen model (its first norm, and one row each of the
    /// first and the last projection), and of everything learned.
    pub fn fingerprint(&self) -> Fingerprint {
        let (mut model, mut adapter) = (Sha256::new(), Sha256::new());
        for layer in &self.answering().layers {
            add(&mut model, layer.input_layernorm.weight.clone());
            for linear in [&layer.self_attn.q_proj, &layer.mlp.down_proj] {
                add(&mut model, linear.weight.clone().narrow(0, 0, 1));
            }
        }
        adapter.update(format!("{:?} {}", self.adapters.scope, self.config.channel));
        for (name, one) in &self.adapters.adapters {
            let scalings: Vec<f64> = one.factors.values().map(|lora| lora.scaling).collect();
            adapter.update(format!("{name} {scalings:?}"));
        }
        for (name, value) in self.parameters.iter() {
            adapter.update(name);
            add(&mut adapter, value.clone());
        }
        let hex = |hash: Sha256| format!("{:x}", hash.finalize());
        Fingerprint { model: hex(model), adapter: hex(adapter) }
    }
}

fn add<B: Backend, const D: usize>(hash: &mut Sha256, tensor: Tensor<B, D>) {
    let bytes: Vec<u8> = tensor.into_data().iter::<f32>().flat_map(f32::to_le_bytes).collect();
    hash.update(bytes);
}
