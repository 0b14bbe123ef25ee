//! The works of the bench do what they say: as many tokens and steps, and the very tokens, states and losses that the library computes
//! otherwise.

use std::ops::ControlFlow;
use std::sync::atomic::{AtomicUsize, Ordering};

use burn::prelude::*;

use crate::common::*;
use diffmas::agents::{AdapterSet, PaddedIds, TeamBatch, TeamModel};
use diffmas::backbone::{Backbone, ComputeDtype, ModelFiles, Positions, Precision, WeightDtype};
use diffmas::backends::{BackendKind, Job, ModelBackend};
use diffmas::bench::{
    BenchConfig, BenchModel, Column, ColumnEvent, ColumnRequest, TrainingStep, Work, decoding, ids,
    latent_steps, measure, prefill, team, written,
};
use diffmas::communication::Context;
use diffmas::inference::{DecodeOptions, decode};

const MODEL: &str = "tiny-qwen3";

fn backbone<B: ModelBackend>(device: &B::Device) -> Backbone<B> {
    ModelFiles::open(&folder(MODEL).join("model")).unwrap().load(device, Precision::default()).unwrap()
}

/// `tokens` tokens of the answer to one prompt that nothing comes before.
fn answer<B: ModelBackend>(backbone: &Backbone<B>, prompt: &[u32], tokens: usize) -> Vec<u32> {
    let options = DecodeOptions { max_new_tokens: tokens, ..DecodeOptions::default() };
    let prompt = PaddedIds::left(&[prompt]).into();
    let more = |_, _| ControlFlow::Continue(());
    decode(backbone, &prompt, &Context::empty(1), &options, &[0], more).unwrap().remove(0).token_ids
}

#[test]
fn a_prefill_reads_its_prompt_and_gives_the_best_token_after_it() {
    struct Own;
    impl Job for Own {
        type Output = ();
        fn run<B: ModelBackend>(self, device: B::Device) {
            let model = backbone::<B>(&device);
            for n in [7, 120] {
                let (run, answer) = prefill(&model, n).unwrap();
                let prompt = ids("p/0", n, model.config.vocab_size);
                let at = Positions::issue(&vec![true; n], &mut [0]);
                let (hidden, _) = model.forward(model.embed(&prompt), &at, &[], None, None);
                let logits: Vec<f32> = model.logits(hidden.narrow(0, n - 1, 1)).into_data().iter().collect();
                let best = (0..logits.len()).max_by(|&a, &b| logits[a].total_cmp(&logits[b])).unwrap();
                assert_eq!((run.count, answer.token_ids), (n, vec![best as u32]));
                assert!(run.seconds > 0.0);
            }
        }
    }
    on_backend(Own);
}

#[test]
fn answers_at_500_positions_are_those_to_prompts_of_500() {
    struct Own;
    impl Job for Own {
        type Output = ();
        fn run<B: ModelBackend>(self, device: B::Device) {
            let model = backbone::<B>(&device);
            let vocab = model.config.vocab_size;
            let past = written(&model, 499, 3);
            let (run, answers) = decoding(&model, &past, 6, 3).unwrap();
            assert_eq!(run.count, 3 * 6);
            for (row, got) in answers.iter().enumerate() {
                let prompt = [ids(&format!("c/{row}"), 499, vocab), ids("d", 1, vocab)].concat();
                assert_eq!(got.token_ids, answer(&model, &prompt, 7));
            }
            let (run, early) = decoding(&model, &past, 6, 1).unwrap();
            assert_eq!(run.count, 6, "only the row that stays counts");
            assert_eq!(early[0].token_ids, answers[0].token_ids);
            assert!(early[1..].iter().all(|answer| answer.token_ids.len() == 1));
        }
    }
    on_backend(Own);
}

#[test]
fn latent_steps_are_those_of_an_agent_with_the_whole_as_its_prompt() {
    struct Own;
    impl Job for Own {
        type Output = ();
        fn run<B: ModelBackend>(self, device: B::Device) {
            let model = backbone::<B>(&device);
            let vocab = model.config.vocab_size;
            let frozen = TeamModel::new(team(5), AdapterSet::none(), model.clone());
            let thinking = frozen.bind(&frozen.init(0));
            let (run, rollout) = latent_steps(&thinking, &written(&model, 99, 1));
            assert_eq!((run.count, rollout.latents.len()), (6, 6), "a pass for the prompt and one a step");
            let prompt = [ids("c/0", 99, vocab), ids("l/0", 1, vocab)].concat();
            let input = PaddedIds::left(&[&prompt]).into();
            let batch = TeamBatch::of_inputs(vec![input; 4]);
            let plan = thinking.plan(&batch);
            let whole = thinking.roll_out(&[0], &batch, &plan, &[Context::empty(1)]);
            for (got, want) in rollout.latents.iter().zip(&whole[0].latents) {
                let off = (got.clone() - want.clone()).abs().max().into_data().iter::<f64>().next().unwrap();
                assert!(off < 1e-4, "{off}");
            }
        }
    }
    on_backend(Own);
}

#[test]
fn a_training_step_is_the_gradient_of_the_mean_loss_of_its_targets() {
    struct Own;
    impl Job for Own {
        type Output = ();
        fn run<B: ModelBackend>(self, device: B::Device) {
            let mut step = TrainingStep::new(backbone::<B>(&device), team(2), 2).unwrap();
            let (run, gradient) = step.run();
            assert_eq!((run.count, step.batch().rows(), step.batch().target_tokens()), (1, 2, 2 * 64));
            assert_eq!(gradient.positions, 2 * (4 * 120 + 64 + 3 * 2));
            let team = step.trainer().team();
            let received = team.roll_out_all(step.batch());
            let (prompt, target) = (&step.batch().prompts[3], step.batch().target.as_ref().unwrap());
            let nll = team.target_nll(prompt, target, &team.read(&received));
            let mean = nll.into_data().iter::<f64>().sum::<f64>() / 128.0;
            assert!((gradient.loss - mean).abs() < 1e-5 * mean, "{} {mean}", gradient.loss);
            for (name, _) in step.trainer().parameters().iter() {
                let slope = gradient.gradients.find(name).unwrap_or_else(|| panic!("{name} learns nothing"));
                assert!(slope.clone().abs().max().into_data().iter::<f64>().next().unwrap() > 0.0, "{name}");
            }
            assert_eq!(step.update().unwrap().loss, Some(gradient.loss));
        }
    }
    on_backend(Own);
}

/// A request for the tiny model on `backend`.
fn request(backend: &str, config: BenchConfig) -> ColumnRequest {
    ColumnRequest {
        model: BenchModel::Files(folder(MODEL).join("model")),
        backend: backend.into(),
        device: None,
        dtype: WeightDtype::F32,
        precision: ComputeDtype::F32,
        config,
        named: true,
    }
}

/// What is told, and the column that comes of it.
fn column(request: &ColumnRequest, cancelled: &(dyn Fn() -> bool + Sync)) -> (Vec<ColumnEvent>, Column) {
    let (mut events, mut column) = (Vec::new(), Column::new(request.backend.clone(), request.numbers()));
    measure(request, cancelled, &mut |event| {
        column.add(event.clone());
        events.push(event);
        Ok(())
    })
    .unwrap();
    (events, column)
}

#[test]
fn every_cpu_backend_of_the_binary_does_all_works() {
    let config = BenchConfig {
        latent_steps: vec![0, 1],
        train_batch: vec![1, 2],
        decode_batch: vec![2],
        runs: 2,
        warmup: 0,
        ..BenchConfig::default()
    };
    for kind in BackendKind::ALL.iter().filter(|kind| kind.is_cpu()) {
        let request = request(kind.name(), config.clone());
        let (events, column) = column(&request, &|| false);
        assert!(column.finished && column.failed.is_none(), "{events:?}");
        let works: Vec<Work> = column.measurements.iter().map(|m| m.work).collect();
        assert_eq!(works, config.list(false));
        for m in &column.measurements {
            let runs = if m.work == Work::FirstTokenCold { 1 } else { 2 };
            assert_eq!(m.seconds.len(), runs, "{}", m.work);
            let count = match m.work {
                Work::Prefill => 512,
                Work::LatentStep => 33,
                Work::Decode { batch } => 32 * batch,
                _ => 1,
            };
            assert_eq!(m.count, count, "{}", m.work);
            assert!(0.0 < m.min && m.min <= m.median && m.median <= m.max, "{m:?}");
        }
        assert_eq!(column.peak_device_memory_bytes, None, "tensors lie in the process's own memory");
        assert!(column.peak_memory_bytes.is_none_or(|bytes| bytes > 1 << 20));
    }
}

#[test]
fn memory_is_told_of_devices_that_have_their_own() {
    struct Own;
    impl Job for Own {
        type Output = bool;
        fn run<B: ModelBackend>(self, device: B::Device) -> bool {
            let Some(before) = B::device_memory(&device) else { return false };
            let numbers = 3 << 20;
            let held = Tensor::<B, 1>::ones([numbers], &device);
            let after = B::device_memory(&device).unwrap();
            assert!(after.in_use >= before.in_use + 4 * numbers as u64, "{before:?} {after:?}");
            assert!(after.reserved >= after.in_use);
            drop(held);
            true
        }
    }
    let name = std::env::var("DIFFMAS_TEST_BACKEND").map(|name| name.parse().unwrap());
    let kind: BackendKind = name.unwrap_or_else(|_| BackendKind::default_kind().unwrap());
    assert_eq!(on_backend(Own), !kind.is_cpu());
}

#[test]
fn what_is_stopped_keeps_what_was_measured() {
    let runs = AtomicUsize::new(0);
    // Asked before each run: loading has four, the first token one.
    let cancelled = || runs.fetch_add(1, Ordering::SeqCst) >= 5;
    let backend = BackendKind::default_kind().unwrap();
    let (events, column) = column(&request(backend.name(), BenchConfig::default()), &cancelled);
    let works: Vec<Work> = column.measurements.iter().map(|m| m.work).collect();
    assert_eq!(works, [Work::Load, Work::FirstTokenCold]);
    assert!(!column.finished && column.failed.is_none());
    assert_eq!(column.at, Some(Work::FirstToken), "{events:?}");
}

#[test]
fn what_goes_wrong_is_told_and_what_does_not_fit_is_left_out() {
    let backend = BackendKind::default_kind().unwrap();
    let own = request(backend.name(), BenchConfig::default());
    let missing = ColumnRequest { model: BenchModel::Files("none".into()), ..own.clone() };
    let failed = column(&missing, &|| false).1.failed.unwrap();
    assert!(failed.contains("none: there is no such model"), "{failed}");
    let unknown = ColumnRequest { backend: "abacus".into(), ..own.clone() };
    assert!(column(&unknown, &|| false).1.failed.unwrap().contains("`abacus` is not in this binary"));
    let config = BenchConfig {
        works: vec!["train".parse().unwrap()],
        latent_steps: vec![4000],
        runs: 1,
        warmup: 0,
        ..BenchConfig::default()
    };
    let long = column(&request(backend.name(), config), &|| false).1;
    let work = Work::Train { latent_steps: 4000, batch: 1 };
    let reason = "it needs 12544 positions, but the model has 2048".to_string();
    assert_eq!(long.skipped, [(work, reason)]);
    assert!(long.finished && long.measurements.len() == 1);
}
