//! What is trained here is what the library reads.

use std::fs;
use std::path::Path;

use burn::prelude::*;
use burn::tensor::TensorData;
use diffmas::backbone::{ModelFiles, Parameters, Positions, Precision};
use diffmas::backends::{BackendKind, Job, ModelBackend};
use diffmas::checkpoint::read_safetensors;

use super::Pretrain;
use super::model::Sizes;

/// Logits of the tiny model by the transformer that is trained and by the library's backbone.
struct Pretrained<'a>(&'a Path);

impl Job for Pretrained<'_> {
    type Output = [Vec<f64>; 2];

    fn run<B: ModelBackend>(self, device: B::Device) -> Self::Output {
        let backbone = ModelFiles::open(self.0).unwrap().load::<B>(&device, Precision::default()).unwrap();
        let sizes = Sizes::tiny(backbone.config.vocab_size);
        let stored = read_safetensors(&self.0.join("model.safetensors")).unwrap();
        let matrix = |(name, (shape, values)): (String, (Vec<usize>, Vec<f32>))| {
            let shape = [if shape.len() == 1 { 1 } else { shape[0] }, shape[shape.len() - 1]];
            (name, Tensor::<B, 2>::from_data(TensorData::new(values, shape), &device))
        };
        let weights: Parameters<B> = stored.into_iter().map(matrix).collect();
        let ids: Vec<u32> = (3..13).collect();
        let at: Vec<i64> = (0..10).collect();
        let words: Vec<i64> = ids.iter().map(|&id| i64::from(id)).collect();
        let own = sizes.logits(&weights, &words, 1, &at);
        let positions = Positions::issue(&[true; 10], &mut [0]);
        let (hidden, _) = backbone.forward(backbone.embed(&ids), &positions, &[], None, None);
        [own, backbone.logits(hidden)].map(|t| t.into_data().iter::<f64>().collect())
    }
}

#[test]
fn a_tiny_model_is_trained_written_and_read_by_the_library() {
    let dir = tempfile::tempdir().unwrap();
    let output = dir.path().join("tiny");
    fs::create_dir(&output).unwrap();
    let job = Pretrain { output: output.clone(), steps: 2, questions: 32 };
    BackendKind::default_kind().unwrap().run(None, job).unwrap().unwrap();
    let [own, library] = BackendKind::default_kind().unwrap().run(None, Pretrained(&output)).unwrap();
    let largest = own.iter().fold(0.0f64, |m, x| m.max(x.abs()));
    assert!(own.iter().zip(&library).all(|(a, b)| (a - b).abs() < 1e-5 * largest), "{own:?}\n{library:?}");
    let card = fs::read_to_string(output.join("README.md")).unwrap();
    assert!(card.contains("2 updates") && card.contains("(32 each"), "{card}");
}
