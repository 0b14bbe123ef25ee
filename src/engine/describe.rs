//! What results depend on: two runs of which this is the same give the same results.

use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

use super::Engine;
use crate::error::Result;
use crate::text::TokenizedSample;
use crate::training::DataMark;

impl Engine {
    /// What the results on `samples` depend on: weights, what was learned, team, data, batches, device, and `settings` beside them.
    ///
    /// # Errors
    /// If the model's weights cannot be read, or the worker has ended.
    pub fn describe(
        &self,
        samples: &[TokenizedSample],
        settings: Map<String, Value>,
    ) -> Result<Map<String, Value>> {
        let session = self.session();
        let mut data = Sha256::new();
        for sample in samples {
            let fields = sample.source.as_ref().map(|source| &source.fields);
            data.update(serde_json::to_vec(&(sample.line, fields))?);
        }
        let precision = session.config.load_precision();
        let common = json!({
            "data": format!("{:x}", data.finalize()),
            "model": session.model.sha256()?,
            "adapter": self.learned_sha256()?,
            "system": session.team,
            "prompts": DataMark::new(samples).sha256,
            "batch_size": session.config.batch_size(),
            "backend": session.config.backend()?.name(),
            "dtype": precision.weights,
            "precision": precision.compute,
            "version": env!("CARGO_PKG_VERSION"),
        });
        let mut run = settings;
        run.extend(common.as_object().cloned().into_iter().flatten());
        Ok(run)
    }
}
