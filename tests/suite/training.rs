//! The loop: resumed equals uninterrupted, first step as fast as the second, non-finite updates are skipped.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::common::*;
use burn::tensor::Tensor;
use diffmas::agents::{AdapterScope, AdapterSet, ChannelKind, FeedKind, TeamConfig};
use diffmas::backbone::Parameters;
use diffmas::backends::{Job, ModelBackend};
use diffmas::checkpoint::{AdapterConfig, TargetModules};
use diffmas::text::TokenizedSample;
use diffmas::training::{DataMark, Decay, Event, FlatGradient, Optimizer, StopReason, TrainConfig, Trainer};

fn config() -> TrainConfig {
    TrainConfig {
        learning_rate: 1e-2,
        batch_size: 1,
        gradient_accumulation_steps: 2,
        max_steps: Some(6),
        warmup_steps: 1,
        weight_decay: 0.01,
        save_steps: 2,
        ..TrainConfig::default()
    }
}

fn golden<B: ModelBackend>(device: &B::Device) -> Golden<B> {
    let change = |c: &mut diffmas::agents::TeamConfig| {
        c.latent_steps = 2;
        c.feed = FeedKind::Learned;
    };
    Golden::<B>::load("tiny-qwen3-tied", AdapterScope::Shared, change, device)
}

fn bits<B: ModelBackend>(trainer: &Trainer<B>) -> Vec<(String, Vec<u64>)> {
    let bits = |t: &Tensor<B, 2>| values(t).iter().map(|x| x.to_bits()).collect();
    trainer.parameters().iter().map(|(n, t)| (n.clone(), bits(t))).collect()
}

struct Resume<'a>(&'a Path);

impl Job for Resume<'_> {
    type Output = ();

    fn run<B: ModelBackend>(self, device: B::Device) {
        let g = golden::<B>(&device);
        let never = || false;
        let mut whole = g.trainer(config());
        let mut losses = Vec::new();
        let reason = whole.train(&g.samples, None, never, |_, e| {
            if let Event::Step { metrics, .. } = e {
                losses.push(metrics.loss.unwrap());
            }
            Ok(())
        });
        assert_eq!(reason.unwrap(), StopReason::Finished);
        assert!(losses[5] < losses[0], "six updates on three samples lower the loss: {losses:?}");

        // Stopped after update 3 (a checkpoint is written), taken up by a fresh trainer.
        let stop = AtomicBool::new(false);
        let mut first = g.trainer(config());
        let reason = first.train(
            &g.samples,
            Some(self.0),
            || stop.load(Ordering::SeqCst),
            |_, e| {
                if let Event::Step { metrics, .. } = e {
                    stop.store(metrics.step == 3, Ordering::SeqCst);
                }
                Ok(())
            },
        );
        assert_eq!(reason.unwrap(), StopReason::Interrupted);
        let mut second = g.trainer(config());
        assert_eq!(second.resume(self.0, &g.samples).unwrap(), Some(3));
        let mut resumed = Vec::new();
        second
            .train(&g.samples, Some(self.0), never, |_, e| {
                if let Event::Step { metrics, .. } = e {
                    resumed.push(metrics.loss.unwrap());
                }
                Ok(())
            })
            .unwrap();
        assert_eq!(resumed, losses[3..], "losses after resuming");
        assert_eq!(bits(&second), bits(&whole), "parameters after resuming");

        // A newest checkpoint that is cut in half is passed over for the one before it.
        let newest = self.0.join("checkpoints/step-6/optimizer.safetensors");
        let bytes = std::fs::read(&newest).unwrap();
        std::fs::write(&newest, &bytes[..bytes.len() / 2]).unwrap();
        let mut third = g.trainer(config());
        assert_eq!(third.resume(self.0, &g.samples).unwrap(), Some(4));
        third.train(&g.samples, None, never, |_, _| Ok(())).unwrap();
        assert_eq!(bits(&third), bits(&whole), "parameters after resuming from the earlier checkpoint");

        // One bit that flips anywhere in a checkpoint, or a file more or less, is noticed.
        let step = self.0.join("checkpoints/step-6");
        std::fs::write(&newest, &bytes).unwrap();
        let files = [
            "state.json",
            "optimizer.safetensors",
            "adapter/communication.safetensors",
            "adapter/communication_config.json",
            "adapter/adapter_config.json",
            "adapter/adapter_model.safetensors",
            "manifest.json",
        ];
        let resumed = || g.trainer(config()).resume(self.0, &g.samples).unwrap();
        assert_eq!(resumed(), Some(6));
        for (file, place) in files.iter().cycle().zip(filler::det_uniform("bits", 56)) {
            let path = step.join(file);
            let whole = std::fs::read(&path).unwrap();
            let mut flipped = whole.clone();
            let bit = (place * 8.0 * whole.len() as f64) as usize;
            flipped[bit / 8] ^= 1 << (bit % 8);
            std::fs::write(&path, &flipped).unwrap();
            assert_eq!(resumed(), Some(4), "bit {bit} of {file}");
            std::fs::remove_file(&path).unwrap();
            assert_eq!(resumed(), Some(4), "without {file}");
            std::fs::write(&path, whole).unwrap();
        }
        std::fs::write(step.join("more"), "x").unwrap();
        assert_eq!(resumed(), Some(4));

        // Other data is refused.
        let refusal = |samples: &[TokenizedSample]| {
            g.trainer(config()).resume(self.0, samples).unwrap_err().to_string()
        };
        let e = refusal(&g.samples[..2]);
        assert!(e.contains("3 samples") && e.contains("2 samples"), "{e}");
        let mut other = g.samples.clone();
        other[1].prompts[0][0] += 1;
        let e = refusal(&other);
        assert!(e.matches("3 samples").count() == 2 && e.contains("same data"), "{e}");
        let told = |trajectories: [Option<Vec<u32>>; 3]| {
            let sample = TokenizedSample { trajectories: trajectories.to_vec(), ..g.samples[0].clone() };
            DataMark::new(&[sample])
        };
        assert_ne!(
            told([Some(vec![5]), None, None]),
            told([None, Some(vec![5]), None]),
            "a text of another agent"
        );
        assert_ne!(told([Some(vec![]), None, None]), told([None, None, None]));
    }
}

#[test]
fn a_resumed_run_equals_an_uninterrupted_one_bit_for_bit() {
    let dir = tempfile::tempdir().unwrap();
    on_backend(Resume(dir.path()));
}

struct Skip;

impl Job for Skip {
    type Output = ();

    fn run<B: ModelBackend>(self, device: B::Device) {
        let mut g = golden::<B>(&device);
        let name = "adapter.default.model.layers.0.self_attn.q_proj.lora_B";
        g.parameters.insert(name.into(), g.parameters.get(name).clone().mul_scalar(f32::NAN));
        let mut trainer = g.trainer(TrainConfig { max_skipped_updates: 3, ..config() });
        let before = bits(&trainer);
        let mut skipped = 0;
        let e = trainer
            .train(
                &g.samples,
                None,
                || false,
                |_, e| {
                    if let Event::Step { metrics, .. } = e {
                        assert!(metrics.skipped && metrics.loss.is_none());
                        skipped += 1;
                    }
                    Ok(())
                },
            )
            .unwrap_err();
        assert_eq!(skipped, 3);
        assert!(e.to_string().contains("3 updates in a row"), "{e}");
        assert_eq!(bits(&trainer), before, "skipped updates change nothing");
    }
}

#[test]
fn updates_that_are_not_finite_are_skipped_and_then_stop_the_run() {
    on_backend(Skip);
}

struct FirstStep;

impl Job for FirstStep {
    type Output = ();

    fn run<B: ModelBackend>(self, device: B::Device) {
        // Long rollouts make the graph large: merging graphs again and again would show in the first pass after an update.
        let g = Golden::<B>::load("tiny-qwen2", AdapterScope::Shared, |c| c.latent_steps = 60, &device);
        let b = [batch(&g.samples[..1])];
        let mut trainer = g.trainer(config());
        trainer.gradients(&b);
        let seconds = |n: usize| -> f64 {
            let fastest = (0..n).map(|_| {
                let clock = std::time::Instant::now();
                trainer.gradients(&b);
                clock.elapsed().as_secs_f64()
            });
            fastest.fold(f64::INFINITY, f64::min)
        };
        let second = seconds(3);
        let mut first = f64::INFINITY;
        for _ in 0..3 {
            trainer.update(&b, 1e-4).unwrap();
            let clock = std::time::Instant::now();
            trainer.gradients(&b);
            first = first.min(clock.elapsed().as_secs_f64());
        }
        assert!(first <= 2.0 * second, "first pass after an update {first:.3} s, later ones {second:.3} s");
    }
}

#[test]
fn the_first_step_after_an_update_takes_at_most_twice_the_second() {
    on_backend(FirstStep);
}

struct Decays;

impl Job for Decays {
    type Output = ();

    fn run<B: ModelBackend>(self, device: B::Device) {
        let hybrid = |c: &mut TeamConfig| {
            (c.channel, c.feed) = (ChannelKind::HYBRID.into(), FeedKind::Learned);
        };
        let g = Golden::<B>::load("tiny-qwen3", AdapterScope::Shared, hybrid, &device);
        let specs = g.model.parameter_specs();
        let names = ["cross_attention.0.gate", "encoder.k_proj", "feed.learned"];
        let value = || Tensor::<B, 2>::from_data([[0.5, -2.0], [3.0, 0.25]], &device);
        let parameters: Parameters<B> = names.iter().map(|n| (n.to_string(), value())).collect();
        let still: Parameters<B> = names.iter().map(|n| (n.to_string(), value().zeros_like())).collect();
        // Without a gradient what is left of an update is the decay: a tenth of the way to where it pulls.
        let after = |decay| {
            let config = TrainConfig { weight_decay: 0.5, decay, ..TrainConfig::default() };
            let mut optimizer = Optimizer::new(&config, &specs, &parameters).unwrap();
            let mut gradient = FlatGradient::new(optimizer.layout().clone(), &device);
            gradient.add(&still);
            optimizer.step(0.2, &gradient, 1.0);
            let after = optimizer.parameters();
            names.map(|name| {
                values(after.get(name)).iter().map(|x| (x * 1e6).round() / 1e6).collect::<Vec<_>>()
            })
        };
        let (whole, shrunk) = (vec![0.5, -2.0, 3.0, 0.25], vec![0.45, -1.8, 2.7, 0.225]);
        assert_eq!(after(Decay::All), [shrunk.clone(), shrunk.clone(), shrunk.clone()]);
        assert_eq!(after(Decay::Hf), [whole, shrunk, vec![0.55, -1.8, 2.7, 0.325]]);
    }
}

#[test]
fn weight_decay_pulls_where_it_says() {
    on_backend(Decays);
}

struct Streams;

impl Job for Streams {
    type Output = ();

    fn run<B: ModelBackend>(self, device: B::Device) {
        let g = golden::<B>(&device);
        let lora = AdapterConfig::new(2, 4.0, TargetModules::List(vec!["q_proj".into()]));
        let draw = |scope, seed| {
            let (team, sizes) = (&g.model.layout.config, &g.model.layout.sizes);
            let adapters = AdapterSet::new(scope, &lora, team, sizes).unwrap();
            adapters.init::<B>(team, sizes, seed, &device)
        };
        let roles: Vec<String> = g.model.layout.config.agents.iter().map(|a| a.name.clone()).collect();
        let a = |p: &Parameters<B>, name: &str| {
            values(p.get(&format!("adapter.{name}.model.layers.0.self_attn.q_proj.lora_A")))
        };
        let mut drawn: Vec<Vec<f64>> = (42..46)
            .map(|seed| draw(AdapterScope::PerRole, seed))
            .flat_map(|p| roles.iter().map(|role| a(&p, role)).collect::<Vec<_>>())
            .collect();
        // The one adapter of all roles is the first role's.
        assert_eq!(a(&draw(AdapterScope::Shared, 42), "default"), drawn[0]);
        drawn.sort_by(|a, b| a.partial_cmp(b).unwrap());
        assert!(drawn.windows(2).all(|pair| pair[0] != pair[1]), "two roles or seeds draw the same adapter");
    }
}

#[test]
fn every_role_and_seed_draws_an_adapter_of_its_own() {
    on_backend(Streams);
}
