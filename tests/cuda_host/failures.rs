//! A card that has too little memory, a compiler that finds mistakes, a card that is lost: each is one sentence, and nothing wrong is printed or
//! kept.

use std::fs;
use std::path::Path;

use assert_cmd::Command;

use super::shared::{Place, diffmas, failed, failure, golden, says, tree};
use super::stub::toolkit;

/// `command` on the stub, which fails as `how` says.
fn on_stub(mut command: Command, place: &Place, how: &[(&str, u64)]) -> Option<Command> {
    let dir = toolkit()?;
    command.args(["--backend", "cuda"]).env("CUDA_PATH", dir).env("LD_LIBRARY_PATH", dir.join("lib64"));
    // Kernels that the stub's compiler made are of no use to anybody.
    command.env("XDG_CACHE_HOME", place.path("cache"));
    command.envs(how.iter().map(|(name, n)| (name, n.to_string())));
    Some(command)
}

fn generation(place: &Place) -> Command {
    let mut command = diffmas(&[&"run", &"--model", &golden("tiny-llama").join("model")]);
    command.args(["--greedy", "--max-new-tokens", "3", "--latent-steps", "2"]);
    command.arg("--data").arg(place.path("data.jsonl")).arg("--output").arg(place.path("answers"));
    command
}

/// Runs what `command` makes on the stub with `how` set to `first`, and ever more, until it ends well; returns how often it did not.
/// Each must be a sentence with `parts`, and leave no result.
#[track_caller]
fn fails_everywhere(
    command: impl Fn(&Place) -> Command,
    how: &str,
    first: u64,
    next: impl Fn(u64) -> u64,
    parts: &[&str],
) -> usize {
    let mut failures = 0;
    let mut n = first;
    loop {
        let place = Place::new();
        let Some(mut run) = on_stub(command(&place), &place, &[(how, n)]) else { return 0 };
        let out = run.output().unwrap();
        if out.status.success() {
            return failures;
        }
        let said = failed(&out);
        // What a device says that does not start is not the same; one that is too small for a weight is refused before that is read.
        if said.contains("in one piece") {
            says(&said, &["needs a tensor of", "holds at most"]);
            failures += 1;
        } else if !said.contains("has no usable device here") {
            says(&said, parts);
            failures += 1;
        }
        let printed = String::from_utf8(out.stdout).unwrap();
        assert!(!printed.contains("adapter in") && !printed.contains("token_ids"), "{how}={n}: {printed}");
        let kept = tree(&place.path(""));
        for name in kept.iter().filter(|name| name.ends_with("results.json") || name.contains("adapter/")) {
            assert!(name.contains("checkpoints/"), "{how}={n} leaves {name}");
        }
        n = next(n);
    }
}

const LESS: &str = "less is needed with a smaller batch_size, fewer latent_steps";

#[test]
fn memory_that_is_missing_in_loading_training_scoring_and_answering_is_a_sentence_with_its_size() {
    let parts = ["the device failed at its work: there is no memory for another ", "B; ", LESS];
    let more = |n| n + n / 3;
    if toolkit().is_none() {
        return;
    }
    let training = |place: &Place| place.train(&place.path("run"), &[]);
    // The weights alone are half a megabyte.
    assert!(fails_everywhere(training, "CUDA_STUB_MEMORY", 200_000, more, &parts) >= 6);
    assert!(fails_everywhere(|place| place.eval(&[]), "CUDA_STUB_MEMORY", 300_000, more, &parts) >= 2);
    assert!(fails_everywhere(generation, "CUDA_STUB_MEMORY", 300_000, more, &parts) >= 2);
}

#[test]
fn a_kernel_that_does_not_compile_is_a_sentence_with_the_compiler_s_words() {
    let parts = [
        "the device failed at its work: a kernel does not compile: ",
        "error: the stub was told to find one",
    ];
    if toolkit().is_none() {
        return;
    }
    let doubled = |n| 2 * n;
    let training = |place: &Place| place.train(&place.path("run"), &[]);
    assert!(fails_everywhere(training, "CUDA_STUB_FAIL_COMPILE", 1, doubled, &parts) >= 4);
    assert!(fails_everywhere(generation, "CUDA_STUB_FAIL_COMPILE", 1, doubled, &parts) >= 4);
}

#[test]
fn a_card_that_is_lost_is_a_sentence_and_a_run_goes_on_from_its_last_checkpoint() {
    let parts = ["the device failed at its work: ", "CUDA_ERROR_LAUNCH_FAILED"];
    if toolkit().is_none() {
        return;
    }
    let later = |n| n + n / 2 + 1;
    assert!(fails_everywhere(generation, "CUDA_STUB_LOST", 1, later, &parts) >= 8);

    let place = Place::new();
    let output = place.path("run");
    let checkpoints = |dir: &Path| fs::read_dir(dir.join("checkpoints")).map_or(0, |all| all.count());
    // The run is lost ever later until it has left a checkpoint; then it is gone on with.
    let mut n = 1 << 7;
    loop {
        let run = place.train(&output, &["--overwrite"]);
        let said = failure(on_stub(run, &place, &[("CUDA_STUB_LOST", n)]).unwrap());
        says(&said, &parts);
        assert!(!output.join("adapter").exists());
        if checkpoints(&output) > 0 {
            break;
        }
        n += n / 4;
    }
    let mut resumed = diffmas(&[&"train", &"--resume", &"--output", &output]);
    resumed.env_remove("CUDA_STUB_LOST");
    let out = on_stub(resumed, &place, &[]).unwrap().output().unwrap();
    let text = String::from_utf8_lossy(&out.stderr);
    assert!(out.status.success(), "{text}");
    assert!(output.join("adapter/adapter_model.safetensors").exists());
    let metrics = fs::read_to_string(output.join("metrics.jsonl")).unwrap();
    assert_eq!(metrics.lines().count(), 4, "each update once: {metrics}");
}
