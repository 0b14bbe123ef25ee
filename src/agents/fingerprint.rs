//! What a team has learned, as a hash.

use burn::prelude::*;
use diffmas_backends::{ModelBackend, host_data};
use sha2::{Digest, Sha256};

use super::{Team, TeamLayout};

impl<B: ModelBackend> Team<B> {
    /// SHA-256 of everything learned, as f32: adapters with their scales, and the communication modules.
    pub fn learned_sha256(&self) -> String {
        let mut adapter = Sha256::new();
        let TeamLayout { config, adapters, .. } = &*self.layout;
        let channel = &config.channel;
        adapter.update(format!("{:?} {channel}", adapters.scope));
        if !channel.settings().is_empty() {
            adapter.update(serde_json::to_vec(channel).expect("settings are plain data"));
        }
        for (name, one) in &adapters.adapters {
            let scalings: Vec<f64> = one.modules.keys().map(|path| one.config.scaling(path)).collect();
            adapter.update(format!("{name} {scalings:?}"));
        }
        for (name, value) in self.parameters.iter() {
            adapter.update(name);
            add(&mut adapter, value.clone());
        }
        format!("{:x}", adapter.finalize())
    }
}

fn add<B: Backend, const D: usize>(hash: &mut Sha256, tensor: Tensor<B, D>) {
    let bytes: Vec<u8> = host_data(tensor).iter::<f32>().flat_map(f32::to_le_bytes).collect();
    hash.update(bytes);
}
