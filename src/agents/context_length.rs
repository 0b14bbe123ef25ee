//! Whether all positions of a team fit the context of its model.

use super::{TeamBatch, TeamConfig, TeamPlan};
use crate::communication::MessageLayout;
use crate::error::{Error, Result};
use crate::text::TokenizedSample;

/// Checks that every position of the team fits the model's context, once per sample.
///
/// # Errors
/// If trace, prompt and `answer` tokens together, or an agent's latent positions and its trajectory, are longer than `max_positions`, naming the
/// sample's line.
pub fn check_context(
    config: &TeamConfig,
    sample: &TokenizedSample,
    answer: usize,
    max_positions: usize,
) -> Result<()> {
    // Checked before anything of that size is made; the sum over agents is checked with their places.
    let most = |j: usize| sample.positions(j).saturating_add(config.steps(j));
    if (0..config.agents.len()).all(|j| most(j) <= max_positions) {
        return check_places(config, sample, answer, max_positions);
    }
    let (longest, n) =
        (0..config.agents.len()).map(|j| (j, most(j))).max_by_key(|(_, n)| *n).expect("an agent");
    Err(Error::invalid(format!(
        "line {}: prompt and latent positions of agent `{}` are {n}, but the model has {max_positions} \
         (max_position_embeddings); shorten its prompt or lower latent_steps",
        sample.line, config.agents[longest].name
    )))
}

fn check_places(
    config: &TeamConfig,
    sample: &TokenizedSample,
    answer: usize,
    max_positions: usize,
) -> Result<()> {
    let batch = TeamBatch::new(&[sample]);
    // The most that a segment of any channel takes.
    let plan = TeamPlan::new(config, &batch, |rollout| MessageLayout {
        segment: config.channel.kind.segments.then(|| rollout.segment()),
        vectors: None,
    });
    let last = config.agents.len() - 1;
    for (j, agent) in plan.agents.iter().enumerate() {
        let (prompt, steps) = (sample.positions(j), config.steps(j));
        let (mut text, mut before) = (batch.trajectory(j).map_or(0, |e| e.len), agent.start[0] as usize);
        if config.channel.kind.text {
            before = config.reads(j).iter().map(|&r| config.message_tokens(r)).fold(0, usize::saturating_add);
            text = text.max(config.message_tokens(j));
        }
        if j == last {
            text = answer;
        }
        let total = before.saturating_add(prompt).saturating_add(steps).saturating_add(text);
        if total > max_positions {
            return Err(Error::invalid(format!(
                "line {}: agent `{}` reads {before} positions, has {prompt} prompt tokens and {steps} latent positions, and \
                 writes {text} tokens: {total} positions, but the model has {max_positions} (max_position_embeddings); \
                 shorten prompts or lower latent_steps",
                sample.line, config.agents[j].name
            )));
        }
    }
    Ok(())
}

/// Checks that the prompt of a sample's teacher and `answer` tokens after it fit the model's context.
///
/// # Errors
/// If they do not, naming the sample's line.
pub fn check_teacher_context(sample: &TokenizedSample, answer: usize, max_positions: usize) -> Result<()> {
    let prompt = sample.teacher.as_ref().map_or(0, Vec::len);
    let total = prompt.saturating_add(answer);
    if total <= max_positions {
        return Ok(());
    }
    let by = match sample.target {
        Some(_) => "shorten prompts, or write a shorter `teacher_user`",
        None => "shorten prompts, write a shorter `teacher_user` or lower teacher_tokens",
    };
    Err(Error::invalid(format!(
        "line {}: the teacher reads {prompt} prompt tokens and writes {answer}: {total} positions, but the model has {max_positions} \
         (max_position_embeddings); {by}",
        sample.line
    )))
}
