//! The states of one latent rollout, of which a channel makes a message.

use burn::prelude::*;

use super::{Segment, SegmentLayout};
use crate::backbone::{KeyValues, Positions, select_rows};

named_enum! {
    /// Which of its positions an upstream agent passes on.
    Transmit, "transmit" {
        /// Prompt and latent positions.
        #[default]
        All = "all",
        /// Latent positions only.
        Latent = "latent",
        /// Prompt positions only.
        Prompt = "prompt",
    }
}

/// Where an agent's positions stand; known on the host before its tensors are computed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RolloutLayout {
    /// Index of the agent.
    pub sender: usize,
    /// Positions of its prompt.
    pub prompt: Positions,
    /// Positions of its latent steps.
    pub latent: Positions,
    /// Which of them it passes on.
    pub transmit: Transmit,
}

impl RolloutLayout {
    /// Rows.
    pub fn batch(&self) -> usize {
        self.prompt.batch
    }

    /// Where the segment of all transmitted positions stands.
    pub fn segment(&self) -> SegmentLayout {
        let prompt_len = if self.transmit == Transmit::Latent { 0 } else { self.prompt.len };
        let positions = match self.transmit {
            Transmit::All => Positions::cat(&[&self.prompt, &self.latent], self.batch()),
            Transmit::Latent => self.latent.clone(),
            Transmit::Prompt => self.prompt.clone(),
        };
        SegmentLayout { positions, prompt_len }
    }
}

/// The states of an upstream agent: keys and values of its prompt and its latent steps, and its hidden states.
#[derive(Clone, Debug)]
pub struct Rollout<B: Backend> {
    /// Index of the agent.
    pub sender: usize,
    /// Which positions it passes on.
    pub transmit: Transmit,
    /// Rows whose message communication dropout hides from its readers; in training only.
    pub dropped: Vec<bool>,
    /// Keys and values of its prompt.
    pub prompt: KeyValues<B>,
    /// Keys and values of its latent steps, if it made any.
    pub latent: Option<KeyValues<B>>,
    /// Hidden states of its prompt after the final norm, `[B, p, D]`.
    pub hidden: Tensor<B, 3>,
    /// `h_0 … h_T` after the final norm, `[B, D]` each; `h_0` is the last prompt position's.
    pub latents: Vec<Tensor<B, 2>>,
}

impl<B: Backend> Rollout<B> {
    /// Keys and values of the transmitted positions.
    pub fn segment(&self) -> Segment<B> {
        let prompt_len = self.prompt.len();
        match (self.transmit, &self.latent) {
            (Transmit::Latent, Some(latent)) => Segment { prompt_len: 0, kv: latent.clone() },
            (Transmit::All, Some(latent)) => {
                let kv = KeyValues::cat(&[&self.prompt, latent]).expect("a prompt is never empty");
                Segment { prompt_len, kv }
            }
            _ => Segment { prompt_len, kv: self.prompt.clone() },
        }
    }

    /// Hidden states of the transmitted positions `[B, n, D]`, in the order in which they stand, and which of them are real, `[B, n]`
    /// row-major.
    pub fn hidden_states(&self) -> (Tensor<B, 3>, Vec<bool>) {
        let latent = || self.latents[1..].iter().map(|h| h.clone().unsqueeze_dim::<3>(1));
        let (prompt, rollout) = (&self.prompt.positions, self.latent.as_ref().map(|l| &l.positions));
        match (self.transmit, rollout) {
            (Transmit::Latent, Some(rollout)) => (Tensor::cat(latent().collect(), 1), rollout.valid.clone()),
            (Transmit::All, Some(rollout)) => {
                let states = std::iter::once(self.hidden.clone()).chain(latent()).collect();
                in_order(Tensor::cat(states, 1), Positions::cat(&[prompt, rollout], prompt.batch))
            }
            _ => (self.hidden.clone(), prompt.valid.clone()),
        }
    }
}

/// States `[B, n, D]` and which of them are real, in the order of their position ids; padding stays in front of what it stands before.
fn in_order<B: Backend>(states: Tensor<B, 3>, positions: Positions) -> (Tensor<B, 3>, Vec<bool>) {
    let n = positions.len;
    if positions.ids.chunks_exact(n).all(<[u32]>::is_sorted) {
        return (states, positions.valid);
    }
    let rows = positions.ids.chunks_exact(n).flat_map(|ids| {
        let mut columns: Vec<usize> = (0..n).collect();
        columns.sort_by_key(|&column| ids[column]);
        columns
    });
    let columns: Vec<usize> = rows.collect();
    let [batch, _, d] = states.dims();
    let from: Vec<usize> = columns.iter().enumerate().map(|(i, c)| i / n * n + c).collect();
    let states = select_rows(states.reshape([batch * n, d]), &from).reshape([batch, n, d]);
    (states, positions.gathered(&columns).valid)
}
