//! Which messages each agent reads, and the position ids of all segments: decided on the host, before any tensor.

use std::collections::BTreeMap;

use rand::Rng;

use super::{SlotPlacement, SlotPlaces, TeamBatch, TeamConfig};
use crate::backbone::Positions;
use crate::communication::{MessageLayout, RolloutLayout, Transmit};
use crate::random::generator;

/// A message that an agent reads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Read {
    /// Index of its sender.
    pub agent: usize,
    /// Per row, how far behind its own place the segment stands for this reader.
    pub offsets: Vec<u32>,
}

/// What one agent reads and where it writes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AgentPlan {
    /// What it reads, in reading order.
    pub reads: Vec<Read>,
    /// Per row of the messages, the id of its first position: the largest id ever issued in what it reads, plus one.
    pub start: Vec<u32>,
    /// Per row of the messages, for the final agent per question, the first id after its prompt and its latent positions.
    pub end: Vec<u32>,
    /// Per row, the first id of its trajectory: behind the latent steps, but where slots stand behind the prompt, in place of them.
    pub branch: Vec<u32>,
    /// Where its slots stand, if it has any that something reads.
    pub slots: Option<SlotPlaces>,
    /// The form of its message; empty for the final agent.
    pub message: MessageLayout,
    /// Latent positions that are computed: none where they have no reader.
    pub steps: usize,
    /// Rows whose message communication dropout hides from its readers.
    pub dropped: Vec<bool>,
}

/// Agents that run as one batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StagePlan {
    /// Their indices.
    pub agents: Vec<usize>,
    /// The stages whose messages some of them read; behind these, those of their own prompts that it goes on from.
    pub reads: Vec<usize>,
    /// How much of their passes it is.
    pub part: StagePart,
}

/// How much of its agents' passes a stage is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum StagePart {
    /// All of them.
    #[default]
    Whole,
    /// Some layers of the prefill of their prompts; of the final agent, with the target.
    Prompts(Layers),
    /// What follows the prompts: latent steps, what they send and what they learn.
    Rest,
}

/// Neighbouring layers of the model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layers {
    /// The first.
    pub from: usize,
    /// The one after the last.
    pub to: usize,
}

/// How a team runs on one batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TeamPlan {
    /// One plan an agent.
    pub agents: Vec<AgentPlan>,
    /// The stages, each of which reads only earlier ones; the last is the final agent's. Agents whose message has no reader and that have
    /// no trajectory to learn are in none.
    pub stages: Vec<StagePlan>,
    /// The draws of LoRA's dropout, while training.
    pub factor_draws: Option<FactorDraws>,
}

/// What keys the dropout of what LoRA's factors read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FactorDraws {
    /// Of the run.
    pub seed: u64,
    /// The number of each message in the run.
    pub messages: Vec<u64>,
    /// The number of each question in the run.
    pub questions: Vec<u64>,
}

/// How often what is sent is hidden from its readers while training; one draw per sample and sender, the same for all readers.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Dropout {
    /// Probability that a whole message is hidden.
    pub senders: f64,
    /// Probability that a single latent position or vector is.
    pub positions: f64,
}

impl TeamPlan {
    /// The plan of a team whose channel makes messages of the form `layout`.
    ///
    /// A segment stands for a reader where it stood for its sender, as long as ids grow in reading order; a segment that was built
    /// beside those before it moves as a block behind the largest id so far. Which of the two is decided for each row by itself.
    pub fn new(
        config: &TeamConfig,
        batch: &TeamBatch,
        layout: impl Fn(&RolloutLayout) -> MessageLayout,
    ) -> Self {
        let last = config.agents.len() - 1;
        let rows = batch.message_rows();
        let mut agents: Vec<AgentPlan> = Vec::with_capacity(last + 1);
        for j in 0..=last {
            let heard: Vec<usize> =
                config.reads(j).into_iter().filter(|&r| !agents[r].message.is_empty()).collect();
            let (reads, start) = place(&agents, &heard, rows);
            let (valid, steps) = (batch.prompts[j].valid(), config.steps(j));
            let slots = (config.slots(j) > 0).then(|| {
                let contents = batch.contents.get(j).map_or(&[][..], Vec::as_slice);
                SlotPlaces::new(config.slot_placement, valid, rows, contents, steps)
            });
            let mut end = match j {
                _ if j < last => start.clone(),
                _ => batch.messages.iter().map(|&row| start[row]).collect(),
            };
            let at_end = slots.is_some() && config.slot_placement == SlotPlacement::End;
            let (prompt, latent, branch) = match &slots {
                Some(slots) if !at_end => {
                    let [prompt, latent] = slots.issue(valid, &mut end);
                    (prompt, latent, end.clone())
                }
                _ => {
                    let prompt = Positions::issue(valid, &mut end);
                    let after = end.clone();
                    let latent = Positions::issue(&vec![true; end.len() * steps], &mut end);
                    (prompt, latent, if at_end { after } else { end.clone() })
                }
            };
            let rollout = RolloutLayout { sender: j, prompt, latent, transmit: config.transmit(j) };
            let message = if j < last { layout(&rollout) } else { MessageLayout::default() };
            let unread = config.transmit(j) == Transmit::Prompt
                && match slots {
                    // A prompt with slots in it is another one.
                    Some(_) => at_end,
                    None => !batch.has_trajectory(j),
                };
            let slots = slots.filter(|_| !unread);
            let steps = if unread { 0 } else { steps };
            let dropped = vec![false; rows];
            agents.push(AgentPlan { reads, start, end, branch, slots, message, steps, dropped });
        }
        let stages = stages(&agents, |j| batch.has_trajectory(j));
        Self { agents, stages, factor_draws: None }
    }

    /// Hides messages and positions from their readers as `dropout` says; `sample_ids` numbers the draws of each message. `hide` is what
    /// [`Channel::hide`](crate::communication::Channel::hide) says of whole messages.
    pub fn drop_messages(
        &mut self,
        dropout: Dropout,
        seed: u64,
        sample_ids: &[u64],
        hide: impl Fn(&mut MessageLayout, Option<&MessageLayout>, &[bool]),
    ) -> Vec<Dropped> {
        let mut dropped = Vec::new();
        for (row, &stream) in sample_ids.iter().enumerate() {
            let mut rng = generator(seed, stream);
            for (agent, plan) in self.agents.iter_mut().enumerate() {
                let all = rng.random_bool(dropout.senders);
                let mut positions = 0;
                let mut hide_some = |valid: &mut [bool]| {
                    for v in valid {
                        let single = rng.random_bool(dropout.positions);
                        positions += usize::from(*v && single && !all);
                        *v &= !single;
                    }
                };
                if let Some(s) = &mut plan.message.segment {
                    let n = s.positions.len;
                    hide_some(&mut s.positions.valid[row * n + s.prompt_len..(row + 1) * n]);
                }
                if let Some(valid) = &mut plan.message.vectors {
                    let m = valid.len() / sample_ids.len();
                    hide_some(&mut valid[row * m..(row + 1) * m]);
                }
                plan.dropped[row] = all;
                if !plan.message.is_empty() && (all || positions > 0) {
                    dropped.push(Dropped { agent, all, positions });
                }
            }
        }
        for agent in 0..self.agents.len() {
            let (earlier, rest) = self.agents.split_at_mut(agent);
            let AgentPlan { reads, message, dropped, .. } = &mut rest[0];
            hide(message, reads.last().map(|read| &earlier[read.agent].message), dropped);
        }
        dropped
    }

    /// The same where prompts are stages of their own: one for each of `pieces`, which make up the model's layers, and one for what follows. Where
    /// there is but one piece, only those stages are divided that have latent steps. Agents with slots that run as one batch with others stay
    /// whole.
    ///
    /// # Panics
    /// If there is no piece.
    pub fn with_prompts_apart(self, pieces: &[Layers]) -> Self {
        let Self { agents, stages, factor_draws } = self;
        let mut split: Vec<StagePlan> = Vec::with_capacity((pieces.len() + 1) * stages.len());
        // Where the messages of each stage are made now.
        let mut places = Vec::with_capacity(stages.len());
        for StagePlan { agents: own, reads, .. } in stages {
            let mut reads: Vec<usize> = reads.into_iter().map(|r| places[r]).collect();
            let slots = own.iter().filter(|&&j| agents[j].slots.is_some()).count();
            let answers = own.contains(&(agents.len() - 1));
            let steps = own.iter().any(|&j| agents[j].steps > 0) && slots == 0 && !answers;
            let mut part = StagePart::Whole;
            if if pieces.len() > 1 { slots == 0 || slots == own.len() } else { steps } {
                let first = split.len();
                for (i, &layers) in pieces.iter().enumerate() {
                    let before = (i > 0).then(|| first + i - 1);
                    let reads = reads.iter().copied().chain(before).collect();
                    split.push(StagePlan { agents: own.clone(), reads, part: StagePart::Prompts(layers) });
                }
                // Of the final agent's keys and values nobody reads any.
                reads.extend(if answers { split.len() - 1 } else { first }..split.len());
                part = StagePart::Rest;
            }
            places.push(split.len());
            split.push(StagePlan { agents: own, reads, part });
        }
        Self { agents, stages: split, factor_draws }
    }

    /// The final agent's plan.
    pub fn answering(&self) -> &AgentPlan {
        self.agents.last().expect("a team has an agent")
    }
}

/// What one draw hid.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Dropped {
    /// The sender.
    pub agent: usize,
    /// Whether its whole message was hidden.
    pub all: bool,
    /// Single latent positions and vectors that were.
    pub positions: usize,
}

/// Where the segments of `heard` stand for a reader, and its own first id. Rows do not depend on each other.
fn place(agents: &[AgentPlan], heard: &[usize], rows: usize) -> (Vec<Read>, Vec<u32>) {
    let mut reads: Vec<Read> = Vec::with_capacity(heard.len());
    let mut free = vec![0u32; rows];
    for &agent in heard {
        let plan = &agents[agent];
        let mut offsets = vec![0; rows];
        if plan.message.segment.is_some() {
            for (row, (offset, free)) in offsets.iter_mut().zip(&mut free).enumerate() {
                let together = if reads.is_empty() { Some(0) } else { beside(&reads, plan, row) };
                let grows = |together: &u32| plan.start[row] + together >= *free;
                *offset = together.filter(grows).unwrap_or(*free);
                *free = plan.end[row] + *offset;
            }
        }
        reads.push(Read { agent, offsets });
    }
    (reads, free)
}

/// The offset under which a segment keeps its distance, in row `row`, to everything in `reads` that its sender read; `None` where it read
/// nothing of it, or no offset does.
fn beside(reads: &[Read], sender: &AgentPlan, row: usize) -> Option<u32> {
    let mut distances = reads.iter().filter_map(|here| {
        let there = sender.reads.iter().find(|there| there.agent == here.agent)?;
        Some(here.offsets[row].checked_sub(there.offsets[row]))
    });
    let first = distances.next()??;
    distances.all(|distance| distance == Some(first)).then_some(first)
}

/// Agents by the length of the longest chain of messages to them; the final agent stands alone.
fn stages(agents: &[AgentPlan], learns: impl Fn(usize) -> bool) -> Vec<StagePlan> {
    let last = agents.len() - 1;
    let mut needed: Vec<bool> = (0..=last).map(|j| j == last || learns(j)).collect();
    for j in (0..=last).rev() {
        if needed[j] {
            agents[j].reads.iter().for_each(|r| needed[r.agent] = true);
        }
    }
    let mut level = vec![0; last + 1];
    for j in 0..=last {
        level[j] = agents[j].reads.iter().map(|r| level[r.agent] + 1).max().unwrap_or(0);
    }
    level[last] = level.iter().max().map_or(0, |l| l + 1);
    let mut by_level: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
    for j in (0..=last).filter(|&j| needed[j]) {
        by_level.entry(level[j]).or_default().push(j);
    }
    let groups: Vec<Vec<usize>> = by_level.into_values().collect();
    let stage_of = |agent: usize| groups.iter().position(|g| g.contains(&agent)).expect("it is needed");
    groups
        .iter()
        .map(|group| {
            let mut reads: Vec<usize> =
                group.iter().flat_map(|&j| agents[j].reads.iter().map(|r| stage_of(r.agent))).collect();
            reads.sort_unstable();
            reads.dedup();
            StagePlan { agents: group.clone(), reads, part: StagePart::Whole }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::super::team::Topology;
    use super::super::{AgentConfig, PaddedIds};
    use super::*;

    /// A graph of agents with prompts of 3 and 2 tokens and one latent step.
    fn plan(agents: &[(&str, &[&str])]) -> TeamPlan {
        let agent = |(name, reads): &(&str, &[&str])| AgentConfig {
            reads: Some(reads.iter().map(|r| r.to_string()).collect()),
            ..AgentConfig::named(*name)
        };
        let config = TeamConfig {
            topology: Topology::Graph,
            latent_steps: 1,
            agents: agents.iter().map(agent).collect(),
            ..TeamConfig::default()
        };
        config.validate().unwrap();
        let prompt = PaddedIds::left(&[&[1, 2, 3], &[1, 2]]);
        let prompts = vec![prompt.into(); agents.len()];
        let batch = TeamBatch::of_inputs(prompts);
        TeamPlan::new(&config, &batch, |t| MessageLayout { segment: Some(t.segment()), vectors: None })
    }

    fn offsets(plan: &TeamPlan, agent: usize) -> Vec<Vec<u32>> {
        plan.agents[agent].reads.iter().map(|r| r.offsets.clone()).collect()
    }

    #[test]
    fn a_chain_stays_where_it_was_built() {
        let p = plan(&[("a", &[]), ("b", &["a"]), ("c", &["a", "b"])]);
        assert_eq!(offsets(&p, 2), [[0, 0], [0, 0]]);
        assert_eq!((&p.agents[1].start, &p.agents[2].start), (&vec![4, 3], &vec![8, 6]));
        assert_eq!(p.stages.iter().map(|s| s.agents.clone()).collect::<Vec<_>>(), [[0], [1], [2]]);
    }

    #[test]
    fn independent_segments_are_laid_one_after_another() {
        let p = plan(&[("a", &[]), ("b", &[]), ("c", &["a", "b"])]);
        assert_eq!(offsets(&p, 2), [[0, 0], [4, 3]]);
        assert_eq!(p.agents[2].start, [8, 6]);
        assert_eq!(p.stages[0].agents, [0, 1]);
        assert_eq!(p.stages[1].reads, [0]);
    }

    #[test]
    fn prompts_stand_apart_from_the_steps_that_read_them() {
        let all = Layers { from: 0, to: 4 };
        let p = plan(&[("a", &[]), ("b", &[]), ("c", &["a", "b"])]).with_prompts_apart(&[all]);
        let stages: Vec<_> = p.stages.iter().map(|s| (&s.agents[..], &s.reads[..], s.part)).collect();
        let want: [(&[usize], &[usize], StagePart); 3] = [
            (&[0, 1], &[], StagePart::Prompts(all)),
            (&[0, 1], &[0], StagePart::Rest),
            (&[2], &[1], StagePart::Whole),
        ];
        assert_eq!(stages, want);
        let reads = |p: TeamPlan| p.stages.iter().map(|s| s.reads.clone()).collect::<Vec<_>>();
        let p = plan(&[("a", &[]), ("b", &["a"]), ("c", &["a", "b"])]);
        assert_eq!(
            reads(p.clone().with_prompts_apart(&[all])),
            [vec![], vec![0], vec![1], vec![1, 2], vec![1, 3]]
        );
        let p = p.with_prompts_apart(&[Layers { from: 0, to: 3 }, Layers { from: 3, to: 4 }]);
        let a: [&[usize]; 3] = [&[], &[0], &[0, 1]];
        let b: [&[usize]; 3] = [&[2], &[2, 3], &[2, 3, 4]];
        let c: [&[usize]; 3] = [&[2, 5], &[2, 5, 6], &[2, 5, 7]];
        assert_eq!(reads(p), [a, b, c].concat());
    }

    #[test]
    fn a_segment_moves_with_what_its_sender_read() {
        // d reads b, then a with c, which c read: a and c move together behind b.
        let p = plan(&[("a", &[]), ("b", &[]), ("c", &["a"]), ("d", &["b", "a", "c"])]);
        assert_eq!(offsets(&p, 3), [[0, 0], [4, 3], [4, 3]]);
        // In the order c, a the distance cannot stay, because ids grow; c's own place has a gap where a was.
        let p = plan(&[("a", &[]), ("c", &["a"]), ("d", &["c", "a"])]);
        assert_eq!(offsets(&p, 2), [[0, 0], [8, 6]]);
        // b stands between: c cannot follow a directly.
        let p = plan(&[("a", &[]), ("b", &[]), ("c", &["a"]), ("d", &["a", "b", "c"])]);
        assert_eq!(offsets(&p, 3), [[0, 0], [4, 3], [8, 6]]);
    }

    #[test]
    fn draws_hide_messages_from_readers_and_repeat() {
        let fresh = plan(&[("a", &[]), ("b", &["a"])]);
        let drop = |dropout| {
            let mut p = fresh.clone();
            let dropped = p.drop_messages(dropout, 3, &[7, 8], |message, _, dropped| message.hide(dropped));
            (p.agents[0].message.clone().segment.unwrap().positions.valid, dropped.len())
        };
        let all = fresh.agents[0].message.clone().segment.unwrap().positions.valid;
        assert_eq!(drop(Dropout::default()), (all.clone(), 0));
        assert_eq!(drop(Dropout { senders: 1.0, positions: 0.0 }), (vec![false; 8], 2));
        let (latent, n) = drop(Dropout { senders: 0.0, positions: 1.0 });
        assert_eq!((n, &latent[..3], latent[3]), (2, &all[..3], false));
        let half = Dropout { senders: 0.5, positions: 0.5 };
        assert_eq!(drop(half), drop(half));
    }
}
