//! A backend under test learns what it learns on flex.

use diffmas::agents::{AdapterScope, TeamConfig};
use diffmas::backends::{BackendKind, Job, ModelBackend};
use diffmas::training::TrainConfig;

use crate::common::{Case, Golden, batch, close, norm, under_test, values};

/// A small team with one line, so that a backend which launches slowly ends, too.
fn small<B: ModelBackend>(device: &B::Device) -> Golden<B> {
    let change = |config: &mut TeamConfig| config.latent_steps = 1;
    let mut golden = Golden::<B>::load("tiny-qwen3", AdapterScope::Shared, change, device);
    golden.samples.truncate(1);
    golden
}

/// The loss of each of `updates` updates.
struct Curve {
    updates: usize,
}

impl Job for Curve {
    type Output = Vec<f64>;

    fn run<B: ModelBackend>(self, device: B::Device) -> Vec<f64> {
        let golden = small::<B>(&device);
        let mut trainer = golden.trainer(TrainConfig::default());
        let batches = [batch(&golden.samples)];
        (0..self.updates)
            .map(|_| trainer.update(&batches, 1e-3).unwrap().loss.expect("it is finite"))
            .collect()
    }
}

/// The gradients of LoRA's factors by plain autodiff, where nothing else is tracked.
struct FactorGradients;

impl Job for FactorGradients {
    type Output = Vec<(String, Vec<f64>)>;

    fn run<B: ModelBackend>(self, device: B::Device) -> Self::Output {
        let golden = small::<B>(&device);
        let batch = batch(&golden.samples);
        let case = Case { model: &golden.model, batch: &batch, through: &[true; 4], lambda: 0.0 };
        let (_, gradients) = case.end_to_end(&golden.parameters);
        gradients.iter().map(|(name, value)| (name.clone(), values(value))).collect()
    }
}

/// What `job` comes to on the backend under test and on flex; nothing where that is not in this binary.
fn beside_flex<J: Job>(job: impl Fn() -> J) -> Option<[J::Output; 2]> {
    let kind = under_test();
    let Ok(flex) = "flex".parse::<BackendKind>() else {
        eprintln!("SKIPPED: flex is not in this binary, with which {kind} is compared");
        return None;
    };
    Some([kind, flex].map(|kind| kind.run(None, job()).unwrap()))
}

#[test]
fn fifty_updates_have_the_loss_curve_of_flex() {
    let Some([own, expected]) = beside_flex(|| Curve { updates: 50 }) else { return };
    let off = |(a, b): (&f64, &f64)| (a - b).abs() / b.abs();
    let most = own.iter().zip(&expected).map(off).fold(0.0, f64::max);
    eprintln!("{most:.1e} apart; loss {:.4} to {:.4}", expected[0], expected[49]);
    assert!(expected[49] < 0.5 * expected[0], "it learns: {expected:?}");
    assert!(most <= 1e-3, "{most:.1e} off: {own:?} instead of {expected:?}");
}

/// tracel-ai/burn#5162: on wgpu they were seen to be no numbers.
#[test]
fn the_gradients_of_factors_alone_are_those_of_flex() {
    let Some([own, expected]) = beside_flex(|| FactorGradients) else { return };
    assert!(expected.len() > 20 && own.len() == expected.len(), "{} factors", own.len());
    for ((name, own), (other, expected)) in own.iter().zip(&expected) {
        assert_eq!(name, other);
        let difference: Vec<f64> = own.iter().zip(expected).map(|(a, b)| a - b).collect();
        close(norm(&difference), 0.0, norm(expected).max(1e-6), 1e-4, name);
    }
}
