//! A training on the backend under test learns what it learns on flex.

use diffmas::agents::AdapterScope;
use diffmas::backends::{BackendKind, Job, ModelBackend};
use diffmas::training::TrainConfig;

use crate::common::{Golden, micro_batches, under_test};

/// The loss of each of `updates` updates of a small team.
struct Curve {
    updates: usize,
}

impl Job for Curve {
    type Output = Vec<f64>;

    fn run<B: ModelBackend>(self, device: B::Device) -> Vec<f64> {
        let shorter = |config: &mut diffmas::agents::TeamConfig| config.latent_steps = 2;
        let golden = Golden::<B>::load("tiny-qwen3", AdapterScope::Shared, shorter, &device);
        let mut trainer = golden.trainer(TrainConfig::default());
        let batches = micro_batches(&golden.samples, golden.samples.len());
        (0..self.updates)
            .map(|_| trainer.update(&batches, 1e-3).unwrap().loss.expect("it is finite"))
            .collect()
    }
}

#[test]
fn fifty_updates_have_the_loss_curve_of_flex() {
    let (kind, flex) = (under_test(), "flex".parse::<BackendKind>());
    let Ok(flex) = flex else {
        eprintln!("SKIPPED: flex is not in this binary, with which {kind} is compared");
        return;
    };
    let [own, expected] = [kind, flex].map(|kind| kind.run(None, Curve { updates: 50 }).unwrap());
    let off = |(a, b): (&f64, &f64)| (a - b).abs() / b.abs();
    let most = own.iter().zip(&expected).map(off).fold(0.0, f64::max);
    eprintln!("{kind} and {flex}: {most:.1e} apart; loss {:.4} to {:.4}", expected[0], expected[49]);
    assert!(expected[49] < 0.5 * expected[0], "it learns: {expected:?}");
    assert!(most <= 1e-3, "{kind} is {most:.1e} off: {own:?} instead of {expected:?}");
}
