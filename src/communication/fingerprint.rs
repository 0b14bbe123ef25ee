//! Which weights a team runs on, as two hashes.

use burn::prelude::*;
use diffmas_backends::ModelBackend;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::backbone::Backbone;

/// SHA-256 of weights as the backend holds them, in f32: teams with the same two read each other's traces.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fingerprint {
    /// Of a part of every layer of the frozen model: its first norm, and one row each of the first and the last projection.
    pub model: String,
    /// Of everything learned: the factors of each role's adapter and the feed.
    pub adapter: String,
}

impl Fingerprint {
    /// The fingerprint of a team's roles and learned feed.
    pub fn new<B: ModelBackend>(roles: &[Backbone<B>], feed: Option<&Tensor<B, 2>>) -> Self {
        let (mut model, mut adapter) = (Sha256::new(), Sha256::new());
        for layer in roles.first().into_iter().flat_map(|role| &role.layers) {
            add(&mut model, layer.input_layernorm.weight.clone());
            for linear in [&layer.self_attn.q_proj, &layer.mlp.down_proj] {
                add(&mut model, linear.weight.clone().narrow(0, 0, 1));
            }
        }
        for (index, role) in roles.iter().enumerate() {
            for (path, lora) in role.factors() {
                adapter.update(format!("{index}.{path}.{}", lora.scaling));
                add(&mut adapter, lora.a);
                add(&mut adapter, lora.b);
            }
        }
        if let Some(feed) = feed {
            adapter.update("feed");
            add(&mut adapter, feed.clone());
        }
        let hex = |hash: Sha256| format!("{:x}", hash.finalize());
        Self { model: hex(model), adapter: hex(adapter) }
    }
}

fn add<B: Backend, const D: usize>(hash: &mut Sha256, tensor: Tensor<B, D>) {
    let bytes: Vec<u8> = tensor.into_data().iter::<f32>().flat_map(f32::to_le_bytes).collect();
    hash.update(bytes);
}
