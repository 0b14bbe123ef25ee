//! A team answers a question: `cargo run --release --example quickstart -- MODEL "What is the capital of France?"`

use diffmas::engine::{Engine, EngineConfig};

fn main() -> diffmas::Result<()> {
    let mut args = std::env::args().skip(1);
    let model = args.next().unwrap_or("smollm2-135m-instruct".into());
    let question = args.next().unwrap_or("What is the capital of France?".into());
    let engine = Engine::open(EngineConfig::of_model(model))?;
    println!("{}", engine.ask(&question)?);
    Ok(())
}
