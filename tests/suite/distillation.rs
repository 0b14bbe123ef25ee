//! Learning from a teacher that holds all evidence: against PyTorch, finite differences, rows alone and a run that was stopped.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::batches::open_team;
use crate::bits::is_exact;
use crate::channels::Setting;
use crate::common::*;
use diffmas::agents::{AdapterScope, ChannelKind, FeedKind, TeamBatch, Topology};
use diffmas::backends::{Job, ModelBackend};
use diffmas::text::TokenizedSample;
use diffmas::training::{
    DataMark, Distillation, Event, FrozenTeacher, StepMetrics, StopReason, Teach, Teacher, TrainConfig,
    Trainer,
};
use serde::Deserialize;

/// The numbers of `scripts/make_distillation_fixture.py`.
#[derive(Deserialize)]
struct Fixture {
    cases: Vec<Reference>,
}

#[derive(Deserialize)]
struct Reference {
    model: String,
    distill_weight: f64,
    teacher_tokens: usize,
    stop_tokens: Vec<u32>,
    /// The teacher's, for samples whose target is taken away.
    answers: Vec<Option<Vec<u32>>>,
    loss: f64,
    distillation_loss: f64,
    grad_norm: f64,
    /// Norm, and product with the tensor's probe.
    tensors: BTreeMap<String, [f64; 2]>,
}

/// `samples` with the prompts of a teacher: all agents' one after another.
fn taught(samples: &[TokenizedSample]) -> Vec<TokenizedSample> {
    let teach = |s: &TokenizedSample| TokenizedSample { teacher: Some(s.prompts.concat()), ..s.clone() };
    samples.iter().map(teach).collect()
}

/// The same, with a target in the first one only.
fn unlabelled(samples: &[TokenizedSample]) -> Vec<TokenizedSample> {
    let mut samples = taught(samples);
    samples[1..].iter_mut().for_each(|s| s.target = None);
    samples
}

fn updates<B: ModelBackend>(trainer: &mut Trainer<B>, samples: &[TokenizedSample]) -> Vec<StepMetrics> {
    let mut steps = Vec::new();
    let record = |event: Event<'_>| {
        if let Event::Step { metrics, .. } = event {
            steps.push(metrics.clone());
        }
        Ok(())
    };
    assert_eq!(trainer.train(samples, None, || false, record).unwrap(), StopReason::Finished);
    steps
}

struct References;

impl Job for References {
    type Output = ();

    fn run<B: ModelBackend>(self, device: B::Device) {
        let text = include_str!("../fixtures/distillation.json");
        for want in serde_json::from_str::<Fixture>(text).unwrap().cases {
            let g = Golden::<B>::load(&want.model, AdapterScope::Shared, |_| (), &device);
            let config = TrainConfig {
                teacher: Teacher::AllEvidence,
                distill_weight: want.distill_weight,
                teacher_tokens: want.teacher_tokens,
                batch_size: 2,
                gradient_accumulation_steps: 2,
                max_steps: Some(1),
                ..TrainConfig::default()
            };
            let trainer = || g.trainer(config.clone()).with_stop_tokens(want.stop_tokens.clone());
            let step = &updates(&mut trainer(), &unlabelled(&g.samples))[0];
            let name = &want.model;
            close(step.loss.unwrap(), want.loss, want.loss, 1e-5, name);
            close(step.distillation_loss.unwrap(), want.distillation_loss, want.loss, 1e-5, name);
            close(step.grad_norm.unwrap(), want.grad_norm, want.grad_norm, 2e-4, name);

            // The same update with the teacher's answers given, tensor by tensor.
            let mut samples = taught(&g.samples);
            for (sample, answer) in samples.iter_mut().zip(&want.answers) {
                sample.target = answer.clone().or(sample.target.take());
            }
            let labelled = want.answers.iter().map(Option::is_none).collect();
            let got = trainer().gradients(&[batch(&samples).labelled(labelled)]);
            close(got.loss, want.loss, want.loss, 1e-5, name);
            assert_eq!(got.gradients.iter().count(), want.tensors.len());
            for (tensor, [want_norm, want_product]) in &want.tensors {
                let got = values(got.gradients.get(tensor));
                let probe = det_fill(&format!("20260421/probe/{tensor}"), got.len(), 1.0);
                let product: f64 = got.iter().zip(probe).map(|(x, v)| x * f64::from(v)).sum();
                close(norm(&got), *want_norm, *want_norm, 1e-3, tensor);
                close(product, *want_product, *want_norm, 1e-3, tensor);
            }
        }
    }
}

#[test]
fn an_update_with_a_teacher_has_the_numbers_of_pytorch() {
    on_backend(References);
}

struct Slopes;

impl Job for Slopes {
    type Output = ();

    fn run<B: ModelBackend>(self, device: B::Device) {
        for (channel, feed) in [
            (ChannelKind::TRACE, FeedKind::Learned),
            (ChannelKind::VECTORS, FeedKind::Soft),
            (ChannelKind::HYBRID, FeedKind::Slots),
            (ChannelKind::OVERWRITE, FeedKind::Identity),
        ] {
            let mut setting = Setting::new(channel, Topology::Sequential);
            setting.trajectories = channel == ChannelKind::TRACE;
            let what = setting.name();
            let g = open_team::<B>(&setting, feed, &device);
            let p = g.parameters.clone();
            let batch = &batch(&taught(&g.samples)).labelled(vec![true, false, true]);
            let case = Case { model: &g.model, batch, through: &[true; 4], lambda: 0.5 };
            let objective = Distillation::new(FrozenTeacher::new(g.model.backbone.clone()), 0.7);
            let got = case.recomputed_by(&objective, &p);
            assert!(got.distillation.unwrap() > 0.0, "{what}");
            let (loss, want) = case.end_to_end_by(&objective, &p);
            close(got.losses.iter().sum(), loss, loss, 1e-6, &what);
            same_gradients(&got.gradients, &want, 1e-4, &what);
            slope_of_every_tensor(|p| case.loss_by(&objective, p), &p, &got.gradients, &what);
        }
    }
}

#[test]
fn every_tensor_has_the_slope_of_the_loss_with_a_teacher() {
    on_backend(Slopes);
}

struct Rows;

impl Job for Rows {
    type Output = ();

    fn run<B: ModelBackend>(self, device: B::Device) {
        let setting = Setting::new(ChannelKind::HYBRID, Topology::Hierarchical);
        let g = open_team::<B>(&setting, FeedKind::Identity, &device);
        let samples = taught(&g.samples);
        let teacher = FrozenTeacher::new(g.model.backbone.clone());
        let said = |batch: &TeamBatch| values(&Teach::<B>::log_probs(&teacher, batch));
        let alone: Vec<f64> = samples.iter().flat_map(|s| said(&TeamBatch::new(&[s]))).collect();
        let together = said(&batch(&samples));
        if is_exact::<B>(&device) {
            assert_eq!(together, alone, "what the teacher says of a row");
        }
        let config = TrainConfig { teacher: Teacher::AllEvidence, ..TrainConfig::default() };
        let trainer = g.trainer(config);
        let labels = [true, false, true];
        let all = trainer.gradients(&[batch(&samples).labelled(labels.to_vec())]);
        let rows = micro_batches(&samples, 1).into_iter().zip(labels);
        let apart =
            trainer.gradients(&rows.map(|(row, label)| row.labelled(vec![label])).collect::<Vec<_>>());
        close(all.loss, apart.loss, apart.loss, 1e-5, "loss");
        let divergence = apart.distillation_loss.unwrap();
        close(all.distillation_loss.unwrap(), divergence, divergence, 1e-5, "divergence from the teacher");
        same_gradients(&all.gradients, &apart.gradients, 1e-3, "together");
        same_gradients(&apart.gradients, &all.gradients, 1e-3, "apart");
        assert!(trainer.gradients(&[batch(&samples)]).loss != all.loss, "a label counts");
    }
}

#[test]
fn a_batch_with_a_teacher_is_the_sum_of_its_rows() {
    on_backend(Rows);
}

struct Resume<'a>(&'a Path);

impl Job for Resume<'_> {
    type Output = ();

    fn run<B: ModelBackend>(self, device: B::Device) {
        let change = |c: &mut diffmas::agents::TeamConfig| c.latent_steps = 2;
        let g = Golden::<B>::load("tiny-qwen3-tied", AdapterScope::Shared, change, &device);
        let samples = unlabelled(&g.samples);
        let config = TrainConfig {
            learning_rate: 2e-3,
            batch_size: 2,
            gradient_accumulation_steps: 2,
            max_steps: Some(6),
            teacher: Teacher::AllEvidence,
            teacher_tokens: 5,
            ..TrainConfig::default()
        };
        let trainer = || g.trainer(config.clone());
        let mut whole = trainer();
        let numbers = |m: &StepMetrics| (m.step, m.loss, m.distillation_loss, m.grad_norm);
        let undisturbed: Vec<_> = updates(&mut whole, &samples).iter().map(numbers).collect();
        assert!(undisturbed[5].2 < undisturbed[0].2, "six updates lower the divergence: {undisturbed:?}");

        let (stop, mut steps) = (AtomicBool::new(false), Vec::new());
        let reason = trainer().train(
            &samples,
            Some(self.0),
            || stop.load(Ordering::SeqCst),
            |event| {
                if let Event::Step { metrics, .. } = event {
                    steps.push(numbers(metrics));
                    stop.store(metrics.step == 3, Ordering::SeqCst);
                }
                Ok(())
            },
        );
        assert_eq!(reason.unwrap(), StopReason::Interrupted);
        let mut second = trainer();
        assert_eq!(second.resume(self.0, &samples).unwrap(), Some(3));
        steps.extend(updates(&mut second, &samples).iter().map(numbers));
        assert_eq!(steps, undisturbed);
        let learned = |t: &Trainer<B>| t.parameters().iter().flat_map(|(_, t)| values(t)).collect::<Vec<_>>();
        assert!(learned(&second) == learned(&whole), "parameters after resuming");

        // What the teacher reads is data, too.
        let mut others = samples.clone();
        others[2].teacher.as_mut().unwrap().pop();
        assert_ne!(DataMark::new(&samples), DataMark::new(&others));
        let refused = trainer().resume(self.0, &others).unwrap_err().to_string();
        assert!(refused.contains("a resumed run needs the same data"), "{refused}");
    }
}

#[test]
fn a_resumed_run_without_answers_is_the_uninterrupted_one() {
    let dir = tempfile::tempdir().unwrap();
    on_backend(Resume(dir.path()));
}
