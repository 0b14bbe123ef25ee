//! A merged model computes what base and adapter compute.

use crate::common::*;
use diffmas::Error;
use diffmas::agents::AdapterScope;
use diffmas::backbone::{Backbone, ModelFiles, Positions, Precision, merge};
use diffmas::backends::{Job, ModelBackend};
use diffmas::checkpoint::StoredType;

struct SameScores(&'static str);

impl Job for SameScores {
    type Output = ();

    fn run<B: ModelBackend>(self, device: B::Device) {
        let golden = Golden::<B>::load(self.0, AdapterScope::Shared, |_| {}, &device);
        let adapted = golden.model.bind(&golden.parameters).roles.remove(0);
        let dir = tempfile::tempdir().unwrap();
        let merged = dir.path().join("merged");
        let (base, adapter) = (folder(self.0).join("model"), folder(self.0).join("adapter"));
        let stopped = merge(&base, &adapter, &merged, None, |name| match name.contains("layers.1.") {
            true => Err(Error::invalid("stopped")),
            false => Ok(()),
        });
        assert!(stopped.unwrap_err().to_string() == "stopped" && !merged.exists());
        assert_eq!(merge(&base, &adapter, &merged, None, |_| Ok(())).unwrap(), StoredType::Float32);
        let merged = ModelFiles::open(&merged).unwrap().load::<B>(&device, Precision::default()).unwrap();
        let ids = &golden.samples[0].prompts[0];
        let want = logits(&adapted, ids);
        let scale = want.iter().fold(0.0_f64, |max, x| max.max(x.abs()));
        let off = |got: &[f64]| got.iter().zip(&want).fold(0.0_f64, |max, (a, b)| max.max((a - b).abs()));
        let merged = off(&logits(&merged, ids));
        assert!(merged <= 1e-5 * scale, "{}: off by {merged} of {scale}", self.0);
        let bare = off(&logits(&golden.model.backbone, ids));
        assert!(bare > 1e-3 * scale, "{}: the adapter changes nothing ({bare})", self.0);
    }
}

fn logits<B: ModelBackend>(backbone: &Backbone<B>, ids: &[u32]) -> Vec<f64> {
    let at = Positions::issue(&vec![true; ids.len()], &mut [0]);
    let (hidden, _) = backbone.forward(backbone.embed(ids), &at, &[], None, None);
    values::<B, 2>(&backbone.logits(hidden))
}

#[test]
fn a_merged_model_scores_as_base_and_adapter_do() {
    for model in ["tiny-llama", "tiny-qwen2", "tiny-qwen3", "tiny-qwen3-tied"] {
        on_backend(SameScores(model));
    }
}
