//! The final agent's own rollout in place of the messages that it reads: the same number of positions, computed from its own prompt alone.

use burn::prelude::*;
use diffmas_backends::ModelBackend;

use super::model::Stepped;
use super::{Team, TeamBatch, TeamConfig, TeamPlan};
use crate::backbone::KeyValues;
use crate::communication::{Message, MessageLayout, ReceivedMessages, Rollout, Segment, Transmit};
use crate::error::{Error, Result};
use crate::text::TokenizedSample;

/// Which latent steps of the one rollout stand for each sender.
struct Shares {
    /// The senders whose messages are made, in reading order.
    senders: Vec<usize>,
    /// Of each sender and row, its first step and the one after its last.
    steps: Vec<Vec<[usize; 2]>>,
}

impl Shares {
    /// A step for each position of a segment that the final agent sees; where messages have none, for each latent step of the sender.
    fn new(config: &TeamConfig, plan: &TeamPlan, rows: usize) -> Self {
        let last = config.agents.len() - 1;
        let mut senders: Vec<usize> = plan.answering().reads.iter().map(|read| read.agent).collect();
        if config.channel.kind.replaces && !senders.is_empty() {
            // The state that is read has passed through all of them.
            senders = (0..last).collect();
        }
        let mut next = vec![0; rows];
        let steps = senders.iter().map(|&j| {
            let agent = &plan.agents[j];
            let share = |(row, next): (usize, &mut usize)| {
                let from = *next;
                *next += match &agent.message.segment {
                    Some(segment) => {
                        let n = segment.positions.len;
                        segment.positions.valid[row * n..(row + 1) * n].iter().filter(|&&v| v).count()
                    }
                    None => agent.steps,
                };
                [from, *next]
            };
            next.iter_mut().enumerate().map(share).collect()
        });
        Self { steps: steps.collect(), senders }
    }

    /// Steps of row `row`.
    fn total(&self, row: usize) -> usize {
        self.steps.last().map_or(0, |last| last[row][1])
    }

    /// The steps of the `i`-th sender out of all of them; cells that are another's in a row are not seen there.
    fn cut<B: Backend>(&self, i: usize, latent: &KeyValues<B>) -> Segment<B> {
        let own = &self.steps[i];
        let from = own.iter().map(|share| share[0]).min().expect("a row");
        let to = own.iter().map(|share| share[1]).max().expect("a row");
        let mut kv = latent.slice(from, to);
        for (valid, &[first, end]) in kv.positions.valid.chunks_exact_mut(to - from).zip(own) {
            valid.iter_mut().zip(from..).for_each(|(valid, t)| *valid = (first..end).contains(&t));
        }
        Segment { prompt_len: 0, kv }
    }
}

/// Checks that the final agent's own rollout, its prompt once more and `answer` tokens fit the model's context.
///
/// # Errors
/// If they are longer than `max_positions`, naming the sample's line.
pub(crate) fn check_self_context(
    config: &TeamConfig,
    sample: &TokenizedSample,
    answer: usize,
    max_positions: usize,
) -> Result<()> {
    let plan = TeamPlan::new(config, &TeamBatch::new(&[sample]), |rollout| {
        let segments = config.channel.kind.segments;
        MessageLayout { segment: segments.then(|| rollout.segment()), vectors: (!segments).then(Vec::new) }
    });
    let (prompt, steps) = (sample.prompts.last().map_or(0, Vec::len), Shares::new(config, &plan, 1).total(0));
    let total = (2 * prompt + steps).saturating_add(answer);
    if total > max_positions {
        return Err(Error::invalid(format!(
            "line {}: with its own rollout in place of messages, agent `{}` has {prompt} prompt tokens twice and {steps} latent \
             positions, and writes {answer} tokens: {total} positions, but the model has {max_positions} (max_position_embeddings)",
            sample.line,
            config.final_name()
        )));
    }
    Ok(())
}

impl<B: ModelBackend> Team<B> {
    /// What the final agent finds in place of all messages: its own rollout on its own prompt, with its own adapter, from position 0 on, by
    /// the feed of the first sender; beside it, how many positions were computed for it.
    ///
    /// The rollout makes as many latent steps as the messages have positions in total, row by row. The segment of each message is its share
    /// of them, in reading order; vectors are what the channel makes of the whole rollout in the sender's place, with what that transmits.
    /// Upstream agents do not run: nothing of their prompts counts but the lengths. The final agent's prompt follows at the next position id.
    pub fn roll_out_self(&self, batch: &TeamBatch) -> (ReceivedMessages<B>, usize) {
        let batch = &batch.clone().without_trajectories();
        let (plan, rows) = (self.plan(batch), batch.rows());
        let config = &self.layout.config;
        let shares = Shares::new(config, &plan, rows);
        let Some(&first) = shares.senders.first() else {
            return (ReceivedMessages::empty(rows), 0);
        };
        let totals: Vec<usize> = (0..rows).map(|row| shares.total(row)).collect();
        let most = totals.iter().copied().max().unwrap_or(0);
        // Rows that have finished stay in the batch, unseen, until all have.
        let seen = (0..most).map(|t| totals.iter().map(|&n| t < n).collect()).collect();
        let backbone = self.answering();
        let input = batch.prompts.last().expect("a team has an agent");
        let nothing = self.read(&ReceivedMessages::empty(rows));
        let Stepped { prompt, hidden, latent, latents, next } =
            self.run_steps(&[first], backbone, input.embed(backbone), &nothing, seen);
        let d = hidden.dims()[1];
        let own = Rollout {
            sender: first,
            transmit: Transmit::Latent,
            dropped: vec![false; rows],
            prompt,
            latent,
            hidden: hidden.reshape([rows, input.len(), d]),
            latents,
        };
        let mut made: Vec<Option<Message<B>>> = vec![None; config.agents.len()];
        let mut order: Vec<usize> = (0..shares.senders.len()).collect();
        order.sort_by_key(|&i| shares.senders[i]);
        for i in order {
            let sender = shares.senders[i];
            let rollout = Rollout { sender, transmit: config.transmit(sender), ..own.clone() };
            let read = config.reads(sender).into_iter().filter_map(|r| made[r].clone()).collect();
            let received = ReceivedMessages { messages: read, start: vec![0; rows] };
            let mut message = self.send(&rollout, &received);
            if let (Some(segment), Some(latent)) = (&mut message.segment, &own.latent) {
                *segment = shares.cut(i, latent);
            }
            made[sender] = Some(message);
        }
        let read = plan.answering().reads.iter();
        let messages = read.map(|read| made[read.agent].clone().expect("one for each sender")).collect();
        (ReceivedMessages { messages, start: next }, input.count() + totals.iter().sum::<usize>())
    }
}
