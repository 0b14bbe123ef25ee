//! Data, settings and commands as people bring them along from Hugging Face, lm-eval and llama.cpp.

mod commands;
mod data;
mod settings;
#[path = "../shared/mod.rs"]
mod shared;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Output;

use serde_json::Value;
use shared::{Place, diffmas, letters};

/// Two agents, of which one asks for nothing but the question.
const TEAM: &str = "latent_steps = 1\n[[agents]]\nname = \"planner\"\nuser = \"{{ question }}\"\n\
    [[agents]]\nname = \"solver\"\nuser = \"{{ question }}\"\n";

/// A place with the tiny Llama, whose tokens are letters, and a team.
struct Letters {
    place: Place,
    model: PathBuf,
    team: PathBuf,
}

impl Letters {
    fn new(team: &str) -> Self {
        let place = Place::new();
        let model = letters(&place, "tiny-llama");
        let team = place.write("team.toml", team);
        Self { place, model, team }
    }

    fn command(&self, name: &str) -> assert_cmd::Command {
        diffmas(&[&name, &"--model", &self.model, &"--system", &self.team])
    }

    /// What `eval` prints of the data at `path`.
    fn score(&self, path: &Path, more: &[&str]) -> String {
        let mut command = self.command("eval");
        command.arg("--data").arg(path).args(more);
        stdout(&command.output().unwrap())
    }
}

#[track_caller]
fn stdout(out: &Output) -> String {
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    String::from_utf8(out.stdout.clone()).unwrap()
}

fn lines(path: &Path) -> Vec<Value> {
    fs::read_to_string(path).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name)
}
