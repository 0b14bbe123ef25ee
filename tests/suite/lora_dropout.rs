//! Dropout of what LoRA's factors read: the same draws in every pass over a position, whatever runs beside it and whenever.

use std::sync::Arc;

use crate::common::*;
use diffmas::agents::{AdapterScope, TeamConfig, TeamModel, Topology};
use diffmas::backends::{Job, ModelBackend};
use diffmas::training::{Event, TrainConfig};

/// A reference model whose adapters drop a third of their input.
fn dropping<B: ModelBackend>(scope: AdapterScope, topology: Topology, device: &B::Device) -> Golden<B> {
    let change = |c: &mut TeamConfig| (c.topology, c.latent_steps) = (topology, 2);
    let mut g = Golden::<B>::load("tiny-llama", scope, change, device);
    set_dropout(&mut g.model, 0.3);
    g
}

fn set_dropout<B: ModelBackend>(model: &mut TeamModel<B>, p: f64) {
    let adapters = Arc::make_mut(&mut model.layout).adapters.adapters.values_mut();
    adapters.for_each(|adapter| adapter.config.lora_dropout = p);
}

struct SameDraws;

impl Job for SameDraws {
    type Output = ();

    fn run<B: ModelBackend>(self, device: B::Device) {
        for scope in [AdapterScope::Shared, AdapterScope::PerRole] {
            for topology in [Topology::Sequential, Topology::Hierarchical] {
                let what = format!("{scope} {topology}");
                let g = dropping::<B>(scope, topology, &device);
                let (p, trainer) = (&g.parameters, g.trainer(TrainConfig::default()));
                let b = &batch(&g.samples);
                let plan = trainer.plan(b);
                let case = Case { model: &g.model, batch: b, through: &[true; 4], lambda: 0.0 };
                let got = case.recomputed_on(&plan, p);
                let loss: f64 = got.losses.iter().sum();
                let (want, gradients) = case.end_to_end_on(&plan, p);
                close(loss, want, want, 1e-6, &what);
                same_gradients(&got.gradients, &gradients, 1e-4, &what);
                slope_of_every_tensor(|p| case.loss_on(&plan, p), p, &got.gradients, &what);
                let apart = trainer.gradients(&micro_batches(&g.samples, 1));
                close(apart.loss, loss, loss, 1e-5, &format!("{what}, row by row"));
                same_gradients(&apart.gradients, &got.gradients, 1e-3, &format!("{what}, row by row"));

                let other = g.trainer(TrainConfig { seed: 7, ..TrainConfig::default() });
                let mut bare = g.model.clone();
                set_dropout(&mut bare, 0.0);
                let bare = Case { model: &bare, ..case };
                for other in
                    [other.gradients(std::slice::from_ref(b)).loss, bare.recomputed(p).losses.iter().sum()]
                {
                    assert!((other - loss).abs() > 1e-4 * loss, "{what}: {other} with other draws, {loss}");
                }
            }
        }
    }
}

#[test]
fn a_stage_that_is_run_again_and_rows_alone_meet_the_same_draws() {
    on_backend(SameDraws);
}

struct Resumed;

impl Job for Resumed {
    type Output = ();

    fn run<B: ModelBackend>(self, device: B::Device) {
        let g = dropping::<B>(AdapterScope::Shared, Topology::Sequential, &device);
        let config = TrainConfig {
            learning_rate: 1e-2,
            batch_size: 1,
            gradient_accumulation_steps: 2,
            max_steps: Some(4),
            adam_beta1: 0.8,
            adam_beta2: 0.99,
            adam_epsilon: 1e-6,
            ..TrainConfig::default()
        };
        let mut whole = g.trainer(config.clone());
        whole.train(&g.samples, None, || false, |_, _| Ok(())).unwrap();
        let dir = tempfile::tempdir().unwrap();
        let stop = std::cell::Cell::new(false);
        let mut first = g.trainer(config.clone());
        first
            .train(
                &g.samples,
                Some(dir.path()),
                || stop.get(),
                |_, event| {
                    if let Event::Step { metrics, .. } = event {
                        stop.set(metrics.step == 2);
                    }
                    Ok(())
                },
            )
            .unwrap();
        let mut resumed = g.trainer(config.clone());
        assert_eq!(resumed.resume(dir.path(), &g.samples).unwrap(), Some(2));
        resumed.train(&g.samples, None, || false, |_, _| Ok(())).unwrap();
        for (name, want) in whole.parameters().iter() {
            assert_eq!(values(resumed.parameters().get(name)), values(want), "{name}");
        }

        let mut other = g.model.clone();
        set_dropout(&mut other, 0.1);
        let mut other = diffmas::training::Trainer::new(config, other, g.parameters.clone()).unwrap();
        let refused = other.resume(dir.path(), &g.samples).unwrap_err().to_string();
        assert!(refused.contains("lora_dropout"), "{refused}");
    }
}

#[test]
fn a_run_that_goes_on_meets_the_draws_of_one_that_never_stopped() {
    on_backend(Resumed);
}
