//! The upstream agents of a team on a batch of samples, whatever the channel: internal state that the final agent receives, or text that
//! stands in the prompts of those who read it.

use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;

use diffmas_backends::ModelBackend;

use super::{DecodeOptions, decode};
use crate::agents::{AgentInput, PromptBuilder, Team, TeamBatch, TeamConfig};
use crate::communication::{Context, MessageDtype, ReceivedMessages, Rollout};
use crate::error::Result;
use crate::text::{TokenizedSample, lines};

/// The token ids that an upstream agent generated for one line, on the channel `text`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WrittenMessage {
    /// Index of the agent.
    pub sender: usize,
    /// The tokens, without the end of turn.
    pub token_ids: Vec<u32>,
}

/// How messages of text are generated and put into prompts; only teams on the channel `text` have it.
#[derive(Clone, Debug)]
pub struct Writing {
    prompts: Arc<PromptBuilder>,
    options: DecodeOptions,
    teacher_forced: bool,
}

impl Writing {
    /// For a team on the channel `text`; `None` on channels that pass internal state. The agents' own `message_tokens` replace
    /// `max_new_tokens` of `options`.
    pub fn new(team: &TeamConfig, prompts: Arc<PromptBuilder>, options: DecodeOptions) -> Option<Self> {
        team.channel.kind.text.then_some(Self { prompts, options, teacher_forced: false })
    }

    /// With the trajectories of a sample, where it has any, in place of generated messages.
    pub fn teacher_forced(self) -> Self {
        Self { teacher_forced: true, ..self }
    }

    /// The messages of all upstream agents, each agent's for all lines as one batch, and the samples with the prompts that result. The questions
    /// of a line read the same messages, whose draws are keyed by the first one's of `sample_ids`.
    ///
    /// # Errors
    /// If a prompt cannot be made of a message, or a score is not finite.
    pub fn write<B: ModelBackend>(
        &self,
        team: &Team<B>,
        samples: &[TokenizedSample],
        sample_ids: &[u64],
    ) -> Result<(Vec<TokenizedSample>, Vec<Vec<WrittenMessage>>)> {
        let Self { prompts, options, teacher_forced } = self;
        let config = &team.layout.config;
        let last = config.agents.len() - 1;
        let vocab_size = team.answering().config.vocab_size;
        let mut samples = samples.to_vec();
        let lines = lines(&samples);
        let mut written: Vec<Vec<WrittenMessage>> = vec![Vec::new(); lines.len()];
        for j in 0..=last {
            let reads = config.reads(j);
            for (line, written) in lines.iter().zip(&written) {
                let found = reads.iter().filter_map(|r| written.iter().find(|w| w.sender == *r));
                let inbox: Vec<_> = found.map(|w| (w.sender, w.token_ids.clone())).collect();
                let (first, others) = samples[line.clone()].split_first_mut().expect("a line has a question");
                let prompt = |sample: &TokenizedSample| {
                    prompts.prompt_after(Path::new("data"), sample, j, &inbox, vocab_size)
                };
                first.prompts[j] = prompt(first)?;
                for other in others {
                    other.prompts[j] = match j {
                        _ if j == last => prompt(other)?,
                        _ => first.prompts[j].clone(),
                    };
                }
            }
            if j == last {
                break;
            }
            let firsts: Vec<usize> = lines.iter().map(|line| line.start).collect();
            let given = |i: usize| samples[i].trajectories.get(j).cloned().flatten();
            let given: Vec<Option<Vec<u32>>> =
                firsts.iter().map(|&i| teacher_forced.then(|| given(i)).flatten()).collect();
            let rows: Vec<usize> =
                firsts.into_iter().zip(&given).filter(|(_, g)| g.is_none()).map(|(i, _)| i).collect();
            let mut sampled = Vec::new();
            if !rows.is_empty() {
                let read: Vec<&TokenizedSample> = rows.iter().map(|&i| &samples[i]).collect();
                let prompt = team.without_images(AgentInput::of_agent(&read, j), &team.roles[j]);
                let own: Vec<u64> = rows.iter().map(|&i| sample_ids[i]).collect();
                let options = DecodeOptions { max_new_tokens: config.message_tokens(j), ..options.clone() };
                let context = Context::empty(rows.len());
                let all = |_, _| ControlFlow::Continue(());
                sampled = decode(&team.roles[j], &prompt, &context, &options, &own, all)
                    .map_err(|e| e.of_agent(&config.agents[j].name))?;
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
}

/// What the upstream agents of a team leave for its final agent, for a batch of samples.
#[derive(Clone, Debug)]
pub struct Upstream<B: ModelBackend> {
    /// The messages of internal state, one row for all questions of a line; none on the channel `text`.
    pub received: ReceivedMessages<B>,
    /// The messages of text by line; none on other channels.
    pub written: Vec<Vec<WrittenMessage>>,
    /// The samples, whose prompts hold what was written.
    pub samples: Vec<TokenizedSample>,
    /// Whether each question has messages of its own, although it shares a line with others.
    pub by_question: bool,
    /// Positions that were computed for all of it: prompts, latent steps and what was written.
    pub positions: usize,
}

impl<B: ModelBackend> Upstream<B> {
    /// The samples as one batch, whose `messages` say which row of `received` and `written` each reads.
    ///
    /// # Panics
    /// If there is none.
    pub fn batch(&self) -> TeamBatch {
        let samples: Vec<_> = self.samples.iter().collect();
        if self.by_question { TeamBatch::by_question(&samples) } else { TeamBatch::new(&samples) }
    }

    /// Bytes of each message of row `row`, passed on as `dtype`, padding not counted.
    pub fn message_bytes(&self, row: usize, dtype: MessageDtype) -> Vec<usize> {
        let written = self.written.get(row).into_iter().flatten();
        let written = written.map(|w| w.token_ids.len() * size_of::<u32>());
        written.chain(self.received.messages.iter().map(|m| m.bytes(row, dtype))).collect()
    }
}

/// Runs the upstream agents of `team` on `samples`, whose draws are keyed by `sample_ids`. Without `writing`, messages of text stay out.
/// `watch` sees each latent rollout and the messages that the agent had received.
///
/// # Errors
/// As [`Writing::write`].
///
/// # Panics
/// If there is no sample.
pub fn roll_out_upstream<B: ModelBackend>(
    team: &Team<B>,
    samples: &[TokenizedSample],
    writing: Option<&Writing>,
    sample_ids: &[u64],
    watch: impl FnMut(&Rollout<B>, &ReceivedMessages<B>),
) -> Result<Upstream<B>> {
    let (samples, written) = match writing {
        Some(writing) => writing.write(team, samples, sample_ids)?,
        None => (samples.to_vec(), Vec::new()),
    };
    let batch = TeamBatch::new(&samples.iter().collect::<Vec<_>>());
    let config = &team.layout.config;
    let prompts: usize = batch.prompts[..config.upstream().len()].iter().map(AgentInput::count).sum();
    let tokens: usize = written.iter().flatten().map(|w| w.token_ids.len()).sum();
    let positions = prompts + batch.message_rows() * config.total_steps() + tokens;
    Ok(Upstream {
        received: team.roll_out_watched(&batch, watch),
        written,
        samples,
        by_question: false,
        positions,
    })
}

/// What the final agent of `team` leaves for itself on each question, in place of all messages: [`Team::roll_out_self`].
///
/// # Panics
/// If there is no sample.
pub fn roll_out_self<B: ModelBackend>(team: &Team<B>, samples: &[TokenizedSample]) -> Upstream<B> {
    let batch = TeamBatch::by_question(&samples.iter().collect::<Vec<_>>());
    let (received, positions) = team.roll_out_self(&batch);
    Upstream { received, written: Vec::new(), samples: samples.to_vec(), by_question: true, positions }
}
