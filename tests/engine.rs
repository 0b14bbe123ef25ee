//! The engine as a program uses it: answers, events, cancellation, training, several teams on the same weights.

#[path = "shared/mod.rs"]
mod shared;

use std::fs;
use std::path::Path;

use diffmas::Error;
use diffmas::agents::{AgentConfig, ChannelKind, TeamConfig};
use diffmas::engine::{
    AnswerEvent, AnswerOptions, AnswerRequest, AnswerRow, Cancel, Engine, EngineConfig, EvaluateRequest,
    OutputLock, RowAnswer, TeamChoice, TraceFile, TrainEvent, TrainRequest, Trained,
};
use diffmas::evaluation::Control;
use diffmas::inference::{DecodeOptions, Sampling};
use diffmas::text::{Answers, ChatMessage, Sample, TokenizedSample};
use diffmas::training::{StopReason, TrainConfig};
use serde_json::{Value, json};
use shared::{Place, diffmas, golden, letters};

/// The first agent reads the question, too; what they pass on is up to `channel`.
fn team(channel: ChannelKind) -> TeamConfig {
    let agent = |name: &str, user: &str| AgentConfig { user: Some(user.into()), ..AgentConfig::named(name) };
    let agents = vec![agent("planner", "Plan {{ question }}"), agent("solver", "{{ question }}")];
    TeamConfig {
        channel: channel.into(),
        latent_steps: 3,
        message_tokens: 4,
        num_vectors: 2,
        vector_dim: 8,
        vector_heads: 2,
        agents,
        ..TeamConfig::default()
    }
}

fn open(place: &Place) -> Engine {
    let config = EngineConfig::of_model(letters(place, "tiny-qwen3").to_str().unwrap());
    Engine::open(EngineConfig { team: Some(team(ChannelKind::TRACE)), ..config }).unwrap()
}

fn question(engine: &Engine, text: &str) -> TokenizedSample {
    engine.session().tokenize(Path::new("test"), &Sample::question(text), 0).unwrap()
}

fn questions(engine: &Engine, count: usize) -> Vec<TokenizedSample> {
    (0..count).map(|i| question(engine, &format!("{i} + 2?"))).collect()
}

fn at_most(max_new_tokens: usize) -> AnswerOptions {
    AnswerOptions {
        decode: DecodeOptions { max_new_tokens, ..DecodeOptions::default() },
        ..Default::default()
    }
}

fn tokens(answers: &[RowAnswer]) -> Vec<Vec<u32>> {
    answers.iter().map(|answer| answer.token_ids.clone()).collect()
}

fn interrupted<T>(result: diffmas::Result<T>) -> bool {
    matches!(result, Err(Error::Interrupted(_)))
}

#[test]
fn a_handle_goes_to_other_threads_and_a_question_is_answered_as_by_the_program() {
    fn anywhere<T: Clone + Send + Sync + 'static>(value: &T) -> T {
        value.clone()
    }
    let place = Place::new();
    let engine = open(&place);
    let file = place.write("team.toml", toml::to_string(&engine.session().team).unwrap());
    let asked = ["2 + 3?", "Who?"].map(|question| {
        let handle = anywhere(&engine);
        std::thread::spawn(move || (question, handle.ask(question).unwrap()))
    });
    let mut answers = Vec::new();
    for (question, answer) in asked.map(|thread| thread.join().unwrap()) {
        let mut program =
            diffmas(&[&"run", &"--greedy", &"--model", &place.path("letters"), &"--system", &file]);
        let out = program.args(["--question", question]).output().unwrap();
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
        assert_eq!(answer, String::from_utf8(out.stdout).unwrap().trim());
        answers.push(answer);
    }
    assert_ne!(answers[0], answers[1], "the question reaches the team");
}

#[test]
fn rows_with_options_of_their_own_are_answered_as_if_each_were_alone() {
    let place = Place::new();
    let engine = open(&place);
    let random = |seed, temperature| DecodeOptions {
        sampling: Sampling::Random { temperature, top_k: 0, top_p: 0.95, min_p: 0.0 },
        max_new_tokens: 9,
        seed,
        ..DecodeOptions::default()
    };
    let greedy = at_most(30);
    let text =
        engine.answer(AnswerRequest::new(questions(&engine, 1), greedy.clone())).unwrap().answers().unwrap();
    let first = text[0].text.clone().unwrap();
    let stop = first.chars().next_back().expect("the tiny model says something").to_string();
    let of = |decode| AnswerOptions { decode, ..AnswerOptions::default() };
    let all = [
        greedy.clone(),
        AnswerOptions { stop: vec![stop.clone()], ..greedy.clone() },
        of(random(1, 0.7)),
        of(random(1, 0.7)),
        of(random(2, 1.3)),
        of(DecodeOptions { repetition_penalty: 1.5, ..random(2, 1.0) }),
        AnswerOptions { control: Control::None, ..greedy.clone() },
        AnswerOptions { control: Control::Zero, ..greedy },
        at_most(0),
    ];
    let sample = question(&engine, "0 + 2?");
    let row = |(options, sample_id): (AnswerOptions, u64)| AnswerRow {
        sample: sample.clone(),
        upstream: None,
        sample_id,
        options,
    };
    let rows: Vec<AnswerRow> = all.into_iter().zip(0..).map(row).collect();
    let together =
        AnswerRequest { rows: rows.clone(), batch_size: Some(rows.len()), ..AnswerRequest::default() };
    let together = engine.answer(together).unwrap().answers().unwrap();
    assert_eq!(together.len(), rows.len());
    for (row, got) in rows.into_iter().zip(&together) {
        let alone = AnswerRequest { rows: vec![row], ..AnswerRequest::default() };
        let alone = engine.answer(alone).unwrap().answers().unwrap().remove(0);
        assert_eq!((&alone.token_ids, &alone.text), (&got.token_ids, &got.text), "row {}", got.row);
        assert_eq!(alone.received.positions, got.received.positions);
    }
    let said = |row: usize| together[row].text.clone().unwrap();
    assert_eq!(said(0), first);
    assert_eq!(Some(said(1).as_str()), first.split(&stop).next(), "a stop text of one row ends that row");
    assert_ne!(together[2].token_ids, together[3].token_ids, "draws are keyed by the sample's id");
    assert_ne!(together[0].token_ids, together[6].token_ids, "without a message the answer is another");
    assert_eq!((together[6].received.positions, together[8].token_ids.len()), (0, 0));
}

#[test]
fn events_come_in_order_and_texts_add_up_to_the_answers() {
    let place = Place::new();
    let engine = open(&place);
    let request =
        AnswerRequest { batch_size: Some(2), ..AnswerRequest::new(questions(&engine, 5), at_most(7)) };
    let mut stream = engine.answer(request).unwrap();
    let (mut texts, mut running, mut finished) = (vec![String::new(); 5], Vec::new(), Vec::new());
    for event in &mut stream {
        match event {
            AnswerEvent::RolledOut(batch) => {
                assert!(running.is_empty(), "a batch begins when the one before it is done");
                assert!(batch.received.iter().all(|r| r.messages[0].sender == "planner" && r.positions > 3));
                running = batch.rows;
            }
            AnswerEvent::Text { row, text } => {
                assert!(running.contains(&row) && !text.is_empty());
                texts[row].push_str(&text);
            }
            AnswerEvent::Finished(answer) => {
                running.retain(|&row| row != answer.row);
                finished.push(answer);
            }
        }
    }
    stream.finish().unwrap();
    assert_eq!(finished.iter().map(|a| a.row).collect::<Vec<_>>(), [0, 1, 2, 3, 4]);
    assert_eq!(finished.iter().map(|a| a.batch_size).collect::<Vec<_>>(), [2, 2, 2, 2, 1]);
    for (answer, text) in finished.iter().zip(texts) {
        assert_eq!(answer.text.as_deref(), Some(text.as_str()));
    }
}

#[test]
fn a_request_is_cancelled_and_the_one_behind_it_goes_on() {
    let place = Place::new();
    let engine = open(&place);
    let alone =
        engine.answer(AnswerRequest::new(questions(&engine, 2), at_most(5))).unwrap().answers().unwrap();
    let long =
        || AnswerRequest { batch_size: Some(1), ..AnswerRequest::new(questions(&engine, 400), at_most(40)) };
    let cancel = Cancel::new();
    let mut first = engine.answer(AnswerRequest { cancel: cancel.clone(), ..long() }).unwrap();
    let queued = engine.answer(AnswerRequest::new(questions(&engine, 2), at_most(5))).unwrap();
    let never = engine.answer(AnswerRequest { cancel: cancel.clone(), ..long() }).unwrap();
    assert!(matches!(first.next(), Some(AnswerEvent::RolledOut(_))));
    cancel.cancel();
    let rows = first.by_ref().filter(|event| matches!(event, AnswerEvent::Finished(_))).count();
    assert!(rows < 400, "{rows}");
    assert!(interrupted(first.finish()));
    assert_eq!(tokens(&queued.answers().unwrap()), tokens(&alone));
    assert!(interrupted(never.answers()), "a request that waits is cancelled, too");
    // Who no longer listens wants no more.
    drop(engine.answer(long()).unwrap());
    drop(engine.evaluate(EvaluateRequest::new(questions(&engine, 1))));
    let last = engine.answer(AnswerRequest::new(questions(&engine, 2), at_most(5))).unwrap();
    drop(engine);
    assert_eq!(tokens(&last.answers().unwrap()), tokens(&alone), "a stream outlives the handle");
}

#[test]
fn a_conversation_leaves_out_its_oldest_turns_when_it_no_longer_fits() {
    let place = Place::new();
    let engine = open(&place);
    let session = engine.session();
    let room = session.model.config.max_position_embeddings;
    let turn = |i: usize| ChatMessage::new(["user", "assistant"][i % 2], "x".repeat(room / 12));
    let messages: Vec<ChatMessage> = (0..9).map(turn).collect();
    let (whole, none) = session.conversation(&messages[..1], 1, 8).unwrap();
    let (fitting, left_out) = session.conversation(&messages, 5, 8).unwrap();
    assert!(none == 0 && left_out > 0 && left_out % 2 == 0, "{left_out}");
    assert!(fitting.prompts[1].len() > whole.prompts[1].len());
    let (again, none) = session.conversation(&messages[left_out..], 5, 8).unwrap();
    assert_eq!((again.prompts, none), (fitting.prompts, 0));
    let endless = [ChatMessage::new("user", "x".repeat(room))];
    let error = session.conversation(&endless, 3, 8).unwrap_err().to_string();
    assert!(error.contains("the conversation") && error.contains("line 3"), "{error}");
}

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

fn train(engine: &Engine, request: TrainRequest) -> (Vec<TrainEvent>, Trained) {
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
            TrainEvent::EvalLoss(_) => "loss",
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

#[test]
fn a_run_that_is_cancelled_goes_on_to_the_same_end() {
    let place = Place::new();
    let request = |engine: &Engine, output: Option<OutputLock>| {
        let samples = engine.session().data(&place.path("data.jsonl"), Answers::Required, 0).unwrap();
        TrainRequest { config: training(), output, tensorboard: false, ..TrainRequest::new(samples) }
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
    assert_eq!(engine.learned_sha256().unwrap(), whole.learned_sha256().unwrap());
}

#[test]
fn teams_on_the_same_weights_do_not_know_of_each_other() {
    let place = Place::new();
    let engine = open(&place);
    let other = |channel| TeamChoice { team: Some(team(channel)), ..TeamChoice::default() };
    let (text, vectors) = (
        engine.with_team(other(ChannelKind::TEXT)).unwrap(),
        engine.with_team(other(ChannelKind::VECTORS)).unwrap(),
    );
    let ask = |engine: &Engine| {
        let request =
            AnswerRequest { sender_attention: true, ..AnswerRequest::new(questions(engine, 2), at_most(5)) };
        engine.answer(request).unwrap().answers().unwrap()
    };
    let before = ask(&engine);
    let wrote = ask(&text).remove(0);
    assert_eq!((wrote.received.written[0].sender.as_str(), wrote.received.messages.len()), ("planner", 0));
    let sent = ask(&vectors).remove(0);
    assert_eq!((sent.received.messages[0].vectors, sent.received.positions), (Some([2, 8]), 2));
    assert!(sent.sender_attention[0].0 == "planner" && before[0].sender_attention.is_empty());
    let data = place.write("learn.jsonl", "{\"question\": \"a\", \"answer\": \"b\"}\n");
    let samples = vectors.session().data(&data, Answers::Required, 0).unwrap();
    let config = TrainConfig { max_steps: Some(2), learning_rate: 0.05, ..TrainConfig::default() };
    let [fresh, untouched] = [&vectors, &text].map(|team| team.learned_sha256().unwrap());
    train(&vectors, TrainRequest { config, ..TrainRequest::new(samples) });
    assert_ne!(vectors.learned_sha256().unwrap(), fresh);
    assert_eq!(text.learned_sha256().unwrap(), untouched);
    assert_eq!(tokens(&ask(&engine)), tokens(&before));
    // The last handle of the first team is gone, and the weights are not.
    drop(engine);
    assert_eq!(ask(&text).remove(0).token_ids, wrote.token_ids);
}

#[test]
fn scores_go_on_after_batches_that_are_done() {
    let place = Place::new();
    let engine = untrained();
    let samples = engine.session().data(&place.path("data.jsonl"), Answers::Required, 0).unwrap();
    let request = || EvaluateRequest {
        controls: vec![Control::Real, Control::Shuffled, Control::Drop("critic".into())],
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
    done.truncate(3);
    let mut more = 0;
    let resumed = engine.evaluate(EvaluateRequest { done, ..request() }).for_each_event(|_| {
        more += 1;
        Ok(())
    });
    assert_eq!((resumed.unwrap(), more), (whole, 3));
    assert!(engine.inspect(&samples, 4).unwrap().is_none(), "this model has no tokenizer");
}

#[test]
fn messages_go_through_a_file() {
    let place = Place::new();
    let engine = open(&place);
    let file = place.path("messages.safetensors");
    let ask = |engine: &Engine, trace| {
        let request = AnswerRequest { trace, ..AnswerRequest::new(questions(engine, 3), at_most(5)) };
        engine.answer(request)?.answers()
    };
    let direct = ask(&engine, None).unwrap();
    let saved = ask(&engine, Some(TraceFile::Save(file.clone()))).unwrap();
    let loaded = ask(&engine, Some(TraceFile::Load(file.clone()))).unwrap();
    assert!(tokens(&saved) == tokens(&direct) && tokens(&loaded) == tokens(&direct));
    let text = TeamChoice { team: Some(team(ChannelKind::TEXT)), ..TeamChoice::default() };
    let error = ask(&engine.with_team(text).unwrap(), Some(TraceFile::Load(file))).unwrap_err().to_string();
    assert!(error.contains("internal state"), "{error}");
}

#[test]
fn what_is_wrong_is_a_sentence() {
    let place = Place::new();
    let says = |result: diffmas::Result<Engine>, part: &str| {
        let error = result.err().expect(part).to_string();
        assert!(error.contains(part), "{error}");
    };
    let known = EngineConfig::of_model(golden("tiny-llama").join("model").to_str().unwrap());
    says(Engine::open(EngineConfig::of_model(place.path("none").to_str().unwrap())), "none");
    says(Engine::open(EngineConfig::default()), "--model is required");
    says(Engine::open(EngineConfig { backend: Some("abacus".into()), ..known.clone() }), "abacus");
    says(
        Engine::open(EngineConfig { batch_size: Some(0), ..known.clone() }),
        "batch_size must be at least 1",
    );
    says(Engine::open(EngineConfig { adapter: Some(golden("tiny-qwen3").join("adapter")), ..known }), "");
    let engine = open(&place);
    let team = Some(TeamConfig { latent_steps: 100_000, ..team(ChannelKind::TRACE) });
    let long = engine.with_team(TeamChoice { team, ..TeamChoice::default() }).unwrap();
    assert!(long.ask("?").unwrap_err().to_string().contains("max_position_embeddings"));
    says(
        engine.with_team(TeamChoice { adapter: Some(place.path("nowhere")), ..TeamChoice::default() }),
        "nowhere",
    );
    let refused = |options: AnswerOptions| {
        engine.answer(AnswerRequest::new(questions(&engine, 1), options)).err().unwrap().to_string()
    };
    assert!(
        refused(AnswerOptions { stop: vec![String::new()], ..at_most(1) }).contains("stop text is empty")
    );
    assert!(
        refused(AnswerOptions { control: Control::Shuffled, ..at_most(1) }).contains("at least two samples")
    );
    assert!(
        refused(AnswerOptions { control: Control::Drop("clown".into()), ..at_most(1) }).contains("clown")
    );
    assert!(refused(at_most(1_000_000)).contains("max_position_embeddings"));
    let empty = engine.train(TrainRequest::new(Vec::new())).err().unwrap().to_string();
    assert!(empty.contains("no training sample"), "{empty}");
    let unanswered = engine.train(TrainRequest::new(questions(&engine, 1))).err().unwrap().to_string();
    assert!(unanswered.contains("line 1: there is no answer"), "{unanswered}");
    let scored = engine.evaluate(EvaluateRequest::new(questions(&engine, 1))).finish().unwrap_err();
    assert!(scored.to_string().contains("no answer to score"), "{scored}");
    assert_eq!(engine.ask("still here?").unwrap(), engine.ask("still here?").unwrap());
}
