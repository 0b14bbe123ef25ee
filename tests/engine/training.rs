//! Training and scores.

use std::fs;

use diffmas::engine::{
    AnswerRequest, Engine, EngineConfig, EvaluateRequest, OutputLock, TrainEvent, TrainRequest, Trained,
};
use diffmas::evaluation::{Control, Gains};
use diffmas::text::Answers;
use diffmas::training::{StopReason, Teacher, TrainConfig};
use serde_json::{Value, json};

use super::shared::{Place, diffmas, golden};
use super::{at_most, tokens};

/// Settings of `Place::training`.
fn training() -> TrainConfig {
    TrainConfig {
        batch_size: 2,
        max_steps: Some(4),
        save_steps: 2,
        learning_rate: 1e-2,
        ..TrainConfig::default()
    }
}

/// The tiny Llama with the built-in team, as `Place::train` has it.
fn untrained() -> Engine {
    let config = EngineConfig::of_model(golden("tiny-llama").join("model").to_str().unwrap());
    Engine::open(EngineConfig { latent_steps: Some(2), batch_size: Some(2), ..config }).unwrap()
}

pub fn train(engine: &Engine, request: TrainRequest) -> (Vec<TrainEvent>, Trained) {
    let mut stream = engine.train(request).unwrap();
    let events = stream.by_ref().collect();
    (events, stream.finish().unwrap())
}

#[test]
fn a_team_that_the_engine_trained_is_the_one_that_the_program_trains_and_it_answers_at_once() {
    let place = Place::new();
    let data = place.path("data.jsonl");
    place.train(&place.path("program"), &["--eval-data", data.to_str().unwrap()]).assert().success();
    let engine = untrained();
    let samples = engine.session().data(&data, Answers::Required, 0).unwrap();
    let before = engine.learned_sha256().unwrap();
    let (events, trained) = train(
        &engine,
        TrainRequest {
            config: training(),
            held_out: Some(samples.clone()),
            output: Some(OutputLock::create(place.path("engine")).unwrap()),
            ..TrainRequest::new(samples.clone())
        },
    );
    assert_eq!((trained.reason, trained.steps.len(), trained.scores.len()), (StopReason::Finished, 4, 2));
    let kinds: Vec<&str> = events
        .iter()
        .map(|event| match event {
            TrainEvent::Started(start) => {
                assert_eq!((start.done, start.total), (0, 4));
                "started"
            }
            TrainEvent::Scored { .. } => "scored",
            TrainEvent::HeldOut(_) => "loss",
            TrainEvent::Updating => "updating",
            TrainEvent::Step(_) => "step",
            TrainEvent::Checkpoint(_) => "checkpoint",
            TrainEvent::Updated(_) => "updated",
        })
        .collect();
    let updates = ["step", "step", "checkpoint", "step", "step", "checkpoint"];
    let score = ["scored", "scored", "loss"];
    assert_eq!(kinds, [&["started"][..], &score, &["updating"], &updates, &["updated"], &score].concat());
    for file in ["adapter/adapter_model.safetensors", "adapter/base.json", "eval_metrics.jsonl"] {
        let [program, engine] =
            ["program", "engine"].map(|dir| fs::read(place.path(dir).join(file)).unwrap());
        assert_eq!(program, engine, "{file}");
    }
    assert_ne!(engine.learned_sha256().unwrap(), before);

    // The folder is one that the program knows how to run.
    let mut program = diffmas(&[&"run", &place.path("engine"), &"--data", &data]);
    let out = program.args(["--greedy", "--max-new-tokens", "6"]).output().unwrap();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    let lines = String::from_utf8(out.stdout).unwrap();
    let ids = |line: &str| serde_json::from_str::<Value>(line).unwrap()["token_ids"].clone();
    let said: Vec<Value> = lines.lines().map(ids).collect();
    let answers = engine.answer(AnswerRequest::new(samples.clone(), at_most(6))).unwrap().answers().unwrap();
    assert_eq!(json!(tokens(&answers)), json!(said));
    let opened = Engine::open(EngineConfig::default().of_run(&place.path("engine")).unwrap()).unwrap();
    assert_eq!(opened.learned_sha256().unwrap(), engine.learned_sha256().unwrap());
    let scored = engine.evaluate(EvaluateRequest::new(samples)).finish().unwrap();
    assert_eq!(trained.scores[1].eval_loss, Some(scored[0].evaluation.loss));
}

/// A run of `config` on the data of `place` that is cancelled and gone on with, beside one that is not.
fn cancel_and_go_on(place: &Place, config: &TrainConfig) -> Trained {
    let request = |engine: &Engine, output: Option<OutputLock>| {
        let samples = engine.session().training_data(place.path("data.jsonl"), config).unwrap();
        let held_out = config.eval_steps.map(|_| samples.clone());
        let config = config.clone();
        TrainRequest { config, held_out, output, tensorboard: false, ..TrainRequest::new(samples) }
    };
    let (whole, dir) = (untrained(), place.path("run"));
    let (_, undisturbed) = train(&whole, request(&whole, None));
    let engine = untrained();
    let first = request(&engine, Some(OutputLock::create(&dir).unwrap()));
    let cancel = first.cancel.clone();
    let mut stream = engine.train(first).unwrap();
    assert!(OutputLock::resumed(&dir).unwrap_err().to_string().contains("another diffmas is writing"));
    for event in &mut stream {
        if matches!(event, TrainEvent::Step(_)) {
            cancel.cancel();
        }
    }
    let stopped = stream.finish().unwrap();
    assert!(stopped.reason == StopReason::Interrupted && stopped.steps.len() < 4, "{stopped:?}");
    assert!(!dir.join("adapter").exists());
    let engine = untrained();
    let (events, resumed) = train(&engine, request(&engine, Some(OutputLock::resumed(&dir).unwrap())));
    assert!(
        matches!(&events[0], TrainEvent::Started(start) if start.done == stopped.steps.len() && start.steps == stopped.steps)
    );
    let losses = |run: &Trained| run.steps.iter().map(|m| m.loss).collect::<Vec<_>>();
    assert_eq!(losses(&resumed), losses(&undisturbed));
    assert_eq!(resumed.scores, undisturbed.scores);
    assert_eq!(engine.learned_sha256().unwrap(), whole.learned_sha256().unwrap());
    undisturbed
}

#[test]
fn a_run_that_is_cancelled_goes_on_to_the_same_end() {
    let untaught = cancel_and_go_on(&Place::new(), &training());
    assert!(untaught.steps.iter().all(|m| m.distillation_loss.is_none()));
}

#[test]
fn so_does_one_that_is_scored_between_updates_and_scores_change_nothing() {
    let config = TrainConfig { eval_steps: Some(1), eval_accuracy: true, ..training() };
    let scored = cancel_and_go_on(&Place::new(), &config);
    assert_eq!(scored.scores.iter().map(|score| score.step).collect::<Vec<_>>(), [0, 1, 2, 3, 4]);
    assert!(scored.scores.iter().all(|s| s.eval_accuracy.is_some_and(|x| (0.0..=1.0).contains(&x))));
    let losses = |run: &Trained| run.steps.iter().map(|m| m.loss).collect::<Vec<_>>();
    assert_eq!(losses(&scored), losses(&cancel_and_go_on(&Place::new(), &training())));
}

#[test]
fn so_does_one_whose_teacher_answers_in_place_of_the_data() {
    let place = Place::new();
    let lines = fs::read_to_string(place.path("data.jsonl")).unwrap();
    let mut lines: Vec<Value> = lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    for line in &mut lines[1..] {
        line.as_object_mut().unwrap().remove("target_ids");
    }
    place.write("data.jsonl", lines.iter().map(|line| format!("{line}\n")).collect::<String>());
    let config = TrainConfig { teacher: Teacher::AllEvidence, teacher_tokens: 4, ..training() };
    let taught = cancel_and_go_on(&place, &config);
    assert!(taught.steps.iter().all(|m| m.distillation_loss.unwrap() > 0.0));
    let engine = untrained();
    let samples = engine.session().data(place.path("data.jsonl"), Answers::Optional, 0).unwrap();
    let refused = engine.train(TrainRequest { config, ..TrainRequest::new(samples) }).err().unwrap();
    assert!(refused.to_string().contains("line 1: there is no prompt for the teacher"), "{refused}");
}

#[test]
fn scores_go_on_after_batches_that_are_done() {
    let place = Place::new();
    let engine = untrained();
    let samples = engine.session().data(place.path("data.jsonl"), Answers::Required, 0).unwrap();
    let request = || EvaluateRequest {
        controls: vec![Control::Real, Control::Shuffled, Control::SelfRollout],
        ..EvaluateRequest::new(samples.clone())
    };
    let mut done = Vec::new();
    let whole = engine.evaluate(request()).for_each_event(|event| {
        done.push((event.control, event.batch));
        Ok(())
    });
    let whole = whole.unwrap();
    assert_eq!((done.len(), whole.len()), (6, 3));
    assert!(whole[0].evaluation.against_real.is_none() && whole[1].evaluation.against_real.is_some());
    let gains = whole[0].evaluation.gains;
    let difference = |other: usize| whole[other].evaluation.loss - whole[0].evaluation.loss;
    assert!((gains.pairing_gain.unwrap().loss - difference(1)).abs() < 1e-9);
    assert!((gains.communication_gain.unwrap().loss - difference(2)).abs() < 1e-9);
    assert!(gains.own_gain.is_none() && whole[1].evaluation.gains == Gains::default());
    done.truncate(3);
    let mut more = 0;
    let resumed = engine.evaluate(EvaluateRequest { done, ..request() }).for_each_event(|_| {
        more += 1;
        Ok(())
    });
    assert_eq!((resumed.unwrap(), more), (whole, 3));
    assert!(engine.inspect(&samples, 4).unwrap().is_none(), "this model has no tokenizer");
}
