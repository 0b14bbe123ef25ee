//! A device whose memory is too small for what is asked of it, on Vulkan in software: one sentence with the size, and nothing wrong is printed or
//! kept.

#[cfg(feature = "vulkan")]
mod shared;

#[cfg(not(feature = "vulkan"))]
#[test]
fn skipped_without_the_feature_vulkan() {
    eprintln!("SKIPPED: Vulkan is not in this binary; build with --features vulkan");
}

#[cfg(feature = "vulkan")]
mod tests {
    use assert_cmd::Command;
    use serde_json::json;

    use crate::shared::{Place, diffmas, failure, golden, line, says};

    /// Lines whose embeddings, taken together, are larger than what a shader of lavapipe may read: 1100 · 500 positions · 64 numbers · 4 bytes.
    fn place() -> Place {
        let place = Place::new();
        let prompt: Vec<u32> = (0..500).map(|i| 5 + i % 100).collect();
        let lines: Vec<String> =
            (0..1100).map(|_| line(&json!(prompt), &json!([20, 21])).to_string()).collect();
        place.write("data.jsonl", lines.join("\n"));
        place
    }

    fn on_lavapipe(mut command: Command) -> Command {
        command.args(["--backend", "vulkan", "--batch-size", "1100"]).env("DIFFMAS_SOFTWARE_GPU", "1");
        command
    }

    /// What is said of a tensor of that size.
    const PARTS: [&str; 3] =
        ["the device failed at its work: ", "134.28 MiB", "less is needed with a smaller batch_size"];

    #[test]
    fn memory_that_is_missing_in_training_is_a_sentence_and_leaves_no_adapter() {
        let place = place();
        let run = place.path("run");
        says(&failure(on_lavapipe(place.train(&run, &[]))), &PARTS);
        assert!(!run.join("adapter").exists() && !run.join("checkpoints").exists());
    }

    #[test]
    fn memory_that_is_missing_in_scoring_is_a_sentence_and_leaves_no_score() {
        let place = place();
        let output = place.path("scores");
        says(&failure(on_lavapipe(place.eval(&[&"--output", &output]))), &PARTS);
        assert!(!output.join("results.json").exists());
    }

    #[test]
    fn memory_that_is_missing_in_answering_is_a_sentence_and_no_answer() {
        let place = place();
        let mut run = diffmas(&[&"run", &"--model", &golden("tiny-llama").join("model")]);
        run.args(["--greedy", "--max-new-tokens", "2", "--latent-steps", "1", "--data"]);
        run.arg(place.path("data.jsonl"));
        let mut run = on_lavapipe(run);
        let printed = run.output().unwrap().stdout;
        assert_eq!(String::from_utf8(printed).unwrap(), "");
        says(&failure(run), &PARTS);
    }
}
