//! The final agent's own rollout in place of the messages that it reads: the same number of latent positions, computed from its own prompt
//! alone.

use burn::prelude::*;
use diffmas_backends::ModelBackend;

use super::rollout::{Prefilled, Stepped, latents};
use super::{FeedKind, SlotPlacement, SlotPlaces, Team, TeamBatch, TeamConfig, TeamPlan};
use crate::backbone::KeyValues;
use crate::communication::{Message, MessageLayout, ReceivedMessages, Rollout, Segment, Transmit};
use crate::error::{Error, Result};
use crate::text::TokenizedSample;

/// Which latent positions of the one rollout stand for each sender.
struct Shares {
    /// The senders whose messages are made, in reading order.
    senders: Vec<usize>,
    /// Of each sender and row, its first step and the one after its last; none where the sender has slots.
    steps: Vec<Vec<[usize; 2]>>,
    /// Of each sender with slots, its first among those of all and the one after its last.
    slots: Vec<Option<[usize; 2]>>,
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
        let mut free = 0;
        let slots = senders.iter().map(|&j| {
            (config.feed(j) == FeedKind::Slots).then(|| {
                let from = free;
                free += plan.agents[j].slots.as_ref().map_or(0, |_| config.slots(j));
                [from, free]
            })
        });
        let slots = slots.collect();
        let mut next = vec![0; rows];
        let steps = senders.iter().map(|&j| {
            let agent = &plan.agents[j];
            let share = |(row, next): (usize, &mut usize)| {
                let from = *next;
                *next += match &agent.message.segment {
                    _ if config.feed(j) == FeedKind::Slots => 0,
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
        Self { steps: steps.collect(), slots, senders }
    }

    /// Slots of all senders.
    fn count(&self) -> usize {
        self.slots.iter().flatten().last().map_or(0, |last| last[1])
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
    let shares = Shares::new(config, &plan, 1);
    let (prompt, steps) = (sample.prompts.last().map_or(0, Vec::len), shares.count() + shares.total(0));
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
    /// What the final agent finds in place of all messages: its own rollout on its own prompt, with its own adapter, from position 0 on; beside
    /// it, how many positions were computed for it.
    ///
    /// The slots of all senders stand behind its prompt, in reading order, in one pass. Then it makes as many latent steps as the messages of
    /// senders without slots have positions in total, row by row, by the feed of the first of these. The segment of such a sender's message is
    /// its share of the steps, and vectors are what the channel makes of the prompt and all steps in the sender's place, with what that transmits.
    /// The message of a sender with slots is what the channel makes of the prompt and these slots: its size is the sender's where slots alone
    /// are transmitted. Upstream agents do not run: nothing of their prompts counts but the lengths. The final agent's prompt follows at the next
    /// position id.
    ///
    /// # Panics
    /// If questions share a message: see [`TeamBatch::by_question`].
    pub fn roll_out_self(&self, batch: &TeamBatch) -> (ReceivedMessages<B>, usize) {
        assert_eq!(batch.rows(), batch.message_rows(), "a rollout for each question");
        let batch = &batch.clone().without_trajectories();
        let (plan, rows) = (self.plan(batch), batch.rows());
        let config = &self.layout.config;
        let shares = Shares::new(config, &plan, rows);
        if shares.senders.is_empty() {
            return (ReceivedMessages::empty(rows), 0);
        }
        let own = self.think(batch, &shares);
        let mut made: Vec<Option<Message<B>>> = vec![None; config.agents.len()];
        let mut order: Vec<usize> = (0..shares.senders.len()).collect();
        order.sort_by_key(|&i| shares.senders[i]);
        for i in order {
            let sender = shares.senders[i];
            let rollout = own.of(&shares, i, config.transmit(sender));
            let read = config.reads(sender).into_iter().filter_map(|r| made[r].clone()).collect();
            let received = ReceivedMessages { messages: read, start: vec![0; rows] };
            let mut message = self.channel.inner.send(&self.parameters, &rollout, &received);
            if let (None, Some(segment), Some(latent)) = (shares.slots[i], &mut message.segment, &own.latent)
            {
                *segment = shares.cut(i, latent);
            }
            made[sender] = Some(self.rounded(message));
        }
        let read = plan.answering().reads.iter();
        let messages = read.map(|read| made[read.agent].clone().expect("one for each sender")).collect();
        let steps: usize = (0..rows).map(|row| shares.count() + shares.total(row)).sum();
        let prompts = batch.prompts.last().expect("a team has an agent").count();
        (ReceivedMessages { messages, start: own.next }, prompts + steps)
    }

    /// The one rollout.
    fn think(&self, batch: &TeamBatch, shares: &Shares) -> OwnRollout<B> {
        let (config, rows) = (&self.layout.config, batch.rows());
        let backbone = self.answering();
        let prompt = batch.prompts.last().expect("a team has an agent");
        let places = SlotPlaces::new(SlotPlacement::End, prompt.valid(), rows, &[], shares.count());
        let mut input = prompt.embed(backbone);
        if shares.count() > 0 {
            let senders = shares.senders.iter().zip(&shares.slots);
            let slots = senders.filter(|(_, slots)| slots.is_some_and(|[from, to]| to > from));
            let slots = slots.map(|(&j, _)| self.feed.slots(&config.agents[j].name, &self.parameters));
            input = places.insert(input, Tensor::cat(slots.collect(), 0));
        }
        let totals: Vec<usize> = (0..rows).map(|row| shares.total(row)).collect();
        let most = totals.iter().copied().max().unwrap_or(0);
        // Rows that have finished stay in the batch, unseen, until all have.
        let seen = (0..most).map(|t| totals.iter().map(|&n| t < n).collect()).collect();
        let serial = shares.senders.iter().zip(&shares.slots).find(|(_, slots)| slots.is_none());
        let feed = serial.map_or(shares.senders[0], |(&first, _)| first);
        let nothing = self.read(&ReceivedMessages::empty(rows));
        let prefilled = Prefilled::new(backbone, input, &nothing);
        let Stepped { prompt: written, hidden, latent, latents, next } =
            self.run_steps(&[feed], backbone, prefilled, &nothing, seen);
        let (len, d) = (written.len(), hidden.dims()[1]);
        let hidden = hidden.reshape([rows, len, d]);
        let own = OwnRollout { prompt: written, hidden, slots: None, latent, latents, next };
        if shares.count() == 0 {
            return own;
        }
        let [prompt, slots] = places.split_kv(&own.prompt);
        let [hidden, states] = places.split_hidden(&own.hidden);
        OwnRollout { prompt, hidden, slots: Some((slots, states)), ..own }
    }
}

/// The final agent's rollout on its own prompt: slots, then latent steps.
struct OwnRollout<B: Backend> {
    prompt: KeyValues<B>,
    /// `[B, p, D]`
    hidden: Tensor<B, 3>,
    /// Keys and values of all slots, and their hidden states, `[B, T, D]`.
    slots: Option<(KeyValues<B>, Tensor<B, 3>)>,
    latent: Option<KeyValues<B>>,
    latents: Vec<Tensor<B, 2>>,
    /// Per row, the id of the next position.
    next: Vec<u32>,
}

impl<B: Backend> OwnRollout<B> {
    /// What stands for the rollout of the `i`-th sender.
    fn of(&self, shares: &Shares, i: usize, transmit: Transmit) -> Rollout<B> {
        let rollout = Rollout {
            sender: shares.senders[i],
            transmit,
            dropped: vec![false; self.next.len()],
            prompt: self.prompt.clone(),
            latent: self.latent.clone(),
            hidden: self.hidden.clone(),
            latents: self.latents.clone(),
        };
        let Some([from, to]) = shares.slots[i] else { return rollout };
        let own = self.slots.as_ref().filter(|_| to > from);
        let own =
            own.map(|(slots, states)| (slots.slice(from, to), states.clone().narrow(1, from, to - from)));
        let latents = latents(&self.hidden, own.as_ref().map(|(_, states)| states));
        Rollout { latent: own.map(|(slots, _)| slots), latents, ..rollout }
    }
}
