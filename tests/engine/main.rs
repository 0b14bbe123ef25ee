//! The engine as a program uses it: answers, events, cancellation, training, several teams on the same weights.

#[path = "../shared/mod.rs"]
mod shared;

mod answers;
mod training;

use std::path::Path;

use diffmas::Error;
use diffmas::agents::{AgentConfig, ChannelKind, TeamConfig};
use diffmas::engine::{
    AnswerOptions, AnswerRequest, Engine, EngineConfig, EvaluateRequest, RowAnswer, TeamChoice, TrainRequest,
};
use diffmas::evaluation::Control;
use diffmas::inference::DecodeOptions;
use diffmas::text::{Answers, ChatMessage, Sample, TokenizedSample};
use diffmas::training::TrainConfig;
use serde_json::Map;
use shared::{Place, diffmas, golden, letters};

use self::training::train;

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
fn a_conversation_leaves_out_its_oldest_turns_when_it_no_longer_fits() {
    let place = Place::new();
    let engine = open(&place);
    let session = engine.session();
    let room = session.model.config.max_position_embeddings;
    let turn = |i: usize| ChatMessage::new(["user", "assistant"][i % 2], "x".repeat(room / 12));
    let messages: Vec<ChatMessage> = (0..9).map(turn).collect();
    let (whole, none) = session.conversation(&messages[..1], &Map::new(), 1, 8).unwrap();
    let (fitting, left_out) = session.conversation(&messages, &Map::new(), 5, 8).unwrap();
    assert!(none == 0 && left_out > 0 && left_out % 2 == 0, "{left_out}");
    assert!(fitting.prompts[1].len() > whole.prompts[1].len());
    let (again, none) = session.conversation(&messages[left_out..], &Map::new(), 5, 8).unwrap();
    assert_eq!((again.prompts, none), (fitting.prompts, 0));
    let endless = [ChatMessage::new("user", "x".repeat(room))];
    let error = session.conversation(&endless, &Map::new(), 3, 8).unwrap_err().to_string();
    assert!(error.contains("the conversation") && error.contains("line 3"), "{error}");
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
    assert!([&sent, &before[0]].iter().all(|answer| answer.sender_attention[0].0 == "planner"));
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
