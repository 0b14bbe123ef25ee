//! A device that fails at its work. Alone in its program: what fails here has failed for the whole process.

use std::path::Path;

use diffmas::engine::{Engine, EngineConfig, OutputLock, TrainEvent, TrainRequest};
use diffmas::text::Answers;
use diffmas::training::TrainConfig;

/// What CubeCL's thread does when an allocation fails.
fn fail() {
    let server = std::thread::Builder::new().name("DSD-0-0".into());
    let panic =
        || panic!("called `Result::unwrap()` on an `Err` value: can't allocate buffer of size: 146591744");
    assert!(server.spawn(panic).unwrap().join().is_err());
}

#[test]
fn what_a_failed_device_computed_is_neither_told_nor_written() {
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures");
    let model = fixtures.join("golden/tiny-qwen3/model");
    let config =
        EngineConfig { latent_steps: Some(1), ..EngineConfig::of_model(model.display().to_string()) };
    let engine = Engine::open(config).unwrap();
    let samples = engine.session().data(fixtures.join("smoke/train.jsonl"), Answers::Required, 0).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let output = dir.path().join("run");
    let request = TrainRequest {
        config: TrainConfig { max_steps: Some(1000), ..TrainConfig::default() },
        output: Some(OutputLock::create(output.display().to_string()).unwrap()),
        ..TrainRequest::new(samples.clone())
    };
    let mut run = engine.train(request).unwrap();
    assert!(run.any(|event| matches!(event, TrainEvent::Step(_))), "it trains");
    fail();
    let error = run.finish().unwrap_err().to_string();
    assert!(
        error.contains("the device failed at its work: there is no memory for another 139.80 MiB"),
        "{error}"
    );
    assert!(!output.join("adapter").exists() && !output.join("checkpoints").exists());
    // For good: the weights on it may be damaged, too.
    let error = engine.inspect(&samples, 1).unwrap_err().to_string();
    assert!(error.contains("the device failed"), "{error}");
}
