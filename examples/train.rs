//! A team learns from a file of questions and answers, and answers with what it has learned:
//! `cargo run --release --example train -- MODEL train.jsonl OUTPUT_FOLDER`

use diffmas::engine::{Engine, EngineConfig, OutputLock, TrainEvent, TrainRequest};
use diffmas::text::Answers;
use diffmas::training::TrainConfig;
use diffmas::{Error, Result};

fn main() -> Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [model, data, output] = &args[..] else {
        return Err(Error::invalid("usage: train MODEL DATA.jsonl OUTPUT_FOLDER"));
    };
    let config = EngineConfig { latent_steps: Some(8), ..EngineConfig::of_model(model) };
    let engine = Engine::open(config)?;
    let samples = engine.session().data(data, Answers::Required, 0)?;
    let request = TrainRequest {
        config: TrainConfig { learning_rate: 1e-4, max_steps: Some(20), ..TrainConfig::default() },
        output: Some(OutputLock::create(output)?),
        ..TrainRequest::new(samples)
    };
    let mut run = engine.train(request)?;
    for event in &mut run {
        if let TrainEvent::Step(metrics) = event {
            println!("update {}: loss {:?}", metrics.step, metrics.loss);
        }
    }
    println!("{} updates, adapter in {output}/adapter", run.finish()?.steps.len());
    println!("{}", engine.ask("What is the capital of France?")?);
    Ok(())
}
