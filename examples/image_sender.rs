//! A sender that sees: a team learns from images of facts, and answers with them:
//! `cargo run --release --features vision --example image_sender -- MODEL TASK OUTPUT_FOLDER`, with a task of
//! `diffmas generate-task --evidence image --output TASK`

use std::path::Path;

use diffmas::agents::{AgentConfig, FeedKind, TeamConfig, Topology, Transmit};
use diffmas::engine::{Engine, EngineConfig, EvaluateRequest, OutputLock, TrainEvent, TrainRequest};
use diffmas::evaluation::Control;
use diffmas::text::Answers;
use diffmas::training::{LoraConfig, TrainConfig};
use diffmas::{Error, Result};

/// Two agents that see an image each and are told nothing of the question, and one that is told nothing else.
fn team() -> TeamConfig {
    let eye = |name: &str| AgentConfig {
        encoder: Some("text-line".into()),
        image: Some(format!("{{{{ images.{name} }}}}")),
        user: Some("report".into()),
        ..AgentConfig::named(name)
    };
    let solver = AgentConfig { user: Some("{{ question }}".into()), ..AgentConfig::named("solver") };
    TeamConfig {
        topology: Topology::Hierarchical,
        feed: FeedKind::Slots,
        transmit: Transmit::Latent,
        latent_steps: 8,
        agents: vec![eye("holder_1"), eye("holder_2"), solver],
        ..TeamConfig::default()
    }
}

fn main() -> Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [model, task, output] = &args[..] else {
        return Err(Error::invalid("usage: image_sender MODEL TASK OUTPUT_FOLDER"));
    };
    let engine = Engine::open(EngineConfig::of_model(model).with_team(team()))?;
    let data =
        |name: &str, answer| engine.session().data(Path::new(task).join(name), Answers::Required, answer);
    let request = TrainRequest {
        config: TrainConfig {
            learning_rate: 2e-3,
            batch_size: 32,
            max_steps: Some(300),
            ..TrainConfig::default()
        },
        lora: LoraConfig { lora_r: 16, lora_alpha: 16.0, ..LoraConfig::default() },
        output: Some(OutputLock::create(output)?),
        ..TrainRequest::new(data("train.jsonl", 0)?)
    };
    let mut run = engine.train(request)?;
    for event in &mut run {
        if let TrainEvent::Step(metrics) = event {
            println!("update {}: loss {:?}", metrics.step, metrics.loss);
        }
    }
    run.finish()?;
    let controls = vec![Control::Real, Control::ShuffledImages, Control::None];
    let checking = Some(engine.session().checking(8));
    let samples = data("test.jsonl", 8)?;
    for scored in
        engine.evaluate(EvaluateRequest { samples, controls, checking, ..Default::default() }).finish()?
    {
        let score = scored.evaluation;
        println!("{}: {:.1} % right", score.control, 100.0 * score.accuracy.map_or(0.0, |a| a.accuracy));
    }
    Ok(())
}
