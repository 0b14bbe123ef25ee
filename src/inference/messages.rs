//! The channel `text`: upstream agents write, and what they wrote stands in the prompts of those who read them.

use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;

use diffmas_backends::ModelBackend;

use super::{DecodeOptions, decode};
use crate::agents::{PaddedIds, Team};
use crate::communication::Context;
use crate::error::Result;
use crate::text::{PromptBuilder, TokenizedSample};

/// What an upstream agent wrote for one sample.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WrittenMessage {
    /// Index of the agent.
    pub sender: usize,
    /// Its tokens, without the end of turn.
    pub token_ids: Vec<u32>,
}

/// Who writes the messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Author {
    /// The agents themselves.
    Agents,
    /// Trajectories where a sample has them, else the agents.
    Trajectories,
}

/// How upstream agents write.
#[derive(Clone, Debug)]
pub struct Writing {
    /// Makes prompts of what was written.
    pub prompts: Arc<PromptBuilder>,
    /// How tokens are chosen; each agent's `message_tokens` bounds its text.
    pub options: DecodeOptions,
}

/// Lets the upstream agents write for `samples`, each agent for all of them as one batch, and returns the samples with the prompts that
/// result, and what was written. `path` is named in errors.
///
/// # Errors
/// If a prompt cannot be made of what was written.
pub fn write_messages<B: ModelBackend>(
    team: &Team<B>,
    writing: &Writing,
    path: &Path,
    samples: &[TokenizedSample],
    author: Author,
    sample_ids: &[u64],
) -> Result<(Vec<TokenizedSample>, Vec<Vec<WrittenMessage>>)> {
    let Writing { prompts, options } = writing;
    let last = team.layout.config.agents.len() - 1;
    let mut samples = samples.to_vec();
    let mut written: Vec<Vec<WrittenMessage>> = vec![Vec::new(); samples.len()];
    for j in 0..=last {
        let reads = team.layout.config.reads(j);
        for (sample, written) in samples.iter_mut().zip(&written) {
            let found = reads.iter().filter_map(|r| written.iter().find(|w| w.sender == *r));
            let inbox: Vec<_> = found.map(|w| (w.sender, w.token_ids.clone())).collect();
            sample.prompts[j] = prompts.prompt_after(path, sample, j, &inbox)?;
        }
        if j == last {
            break;
        }
        let given = |s: &TokenizedSample| match author {
            Author::Agents => None,
            Author::Trajectories => s.trajectories.get(j).cloned().flatten(),
        };
        let given: Vec<Option<Vec<u32>>> = samples.iter().map(given).collect();
        let rows: Vec<usize> = (0..samples.len()).filter(|&i| given[i].is_none()).collect();
        let mut sampled = Vec::new();
        if !rows.is_empty() {
            let prompts: Vec<_> = rows.iter().map(|&i| samples[i].prompts[j].as_slice()).collect();
            let prompt = PaddedIds::left(&prompts).into();
            let own: Vec<u64> = rows.iter().map(|&i| sample_ids[i]).collect();
            let options =
                DecodeOptions { max_new_tokens: team.layout.config.message_tokens(j), ..options.clone() };
            let context = Context::empty(rows.len());
            sampled =
                decode(&team.roles[j], &prompt, &context, &options, &own, |_, _| ControlFlow::Continue(()))
                    .map_err(|e| e.of_agent(&team.layout.config.agents[j].name))?;
        }
        let mut sampled = sampled.into_iter();
        for (given, written) in given.into_iter().zip(&mut written) {
            let token_ids = match given {
                Some(ids) => options.without_end(&ids).to_vec(),
                None => sampled.next().expect("every other row was written").token_ids,
            };
            written.push(WrittenMessage { sender: j, token_ids });
        }
    }
    Ok((samples, written))
}
