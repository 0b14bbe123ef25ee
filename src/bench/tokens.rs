//! What the works read: token ids that a name stands for, which another program can make, too.

use crate::agents::{AgentConfig, TeamConfig};
use crate::random::uniform;
use crate::text::TokenizedSample;

/// What every name begins with.
pub(super) const SEED: u64 = 20_260_421;
/// Ids below this are mostly special tokens, and left out where there are others.
const SPECIAL: usize = 8;
/// Tokens of each agent's prompt.
pub(super) const PROMPT: usize = 120;
/// Tokens of a target.
pub(super) const TARGET: usize = 64;

/// `n` ids below `vocab` that `tag` stands for.
pub fn ids(tag: &str, n: usize, vocab: usize) -> Vec<u32> {
    let first = if vocab > SPECIAL { SPECIAL } else { 0 };
    let id = |u: f64| (first as f64 + (u * (vocab - first) as f64).floor()) as u32;
    uniform(&format!("{SEED}/{tag}"), 0).take(n).map(id).collect()
}

/// The team whose work is timed: planner, critic, refiner and solver, each reading all before it.
pub fn team(latent_steps: usize) -> TeamConfig {
    let agents = ["planner", "critic", "refiner", "solver"].map(AgentConfig::named).to_vec();
    TeamConfig { latent_steps, agents, ..TeamConfig::default() }
}

/// The `row`-th sample: a prompt of 120 tokens for each of four agents, and a target of 64.
pub fn sample(row: usize, vocab: usize) -> TokenizedSample {
    TokenizedSample {
        line: row + 1,
        prompts: (0..4).map(|j| ids(&format!("bt/{j}/{row}"), PROMPT, vocab)).collect(),
        target: Some(ids(&format!("bt/t/{row}"), TARGET, vocab)),
        ..TokenizedSample::default()
    }
}
