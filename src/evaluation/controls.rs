//! Other messages in place of the real one. They act on the final agent's reading only; upstream agents ran as usual.

use std::fmt;
use std::str::FromStr;

use burn::prelude::*;
use burn::tensor::TensorData;
use diffmas_backends::{KeyValueBlock, host_data};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rand_distr::{Distribution, StandardNormal};
use serde::{Deserialize, Serialize};

use crate::agents::{TeamConfig, check_self_context};
use crate::backbone::KeyValues;
use crate::communication::{Message, ReceivedMessages};
use crate::error::{Error, Result};
use crate::random::generator;
use crate::text::TokenizedSample;

/// What the final agent reads.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Control {
    /// What the upstream agents left.
    #[default]
    Real,
    /// Nothing; its positions start at 0.
    None,
    /// Keys, values and vectors of zero, with the same positions and masks: zeros still take part in the softmax, and vectors of zeros still
    /// carry their sender's embedding.
    Zero,
    /// What they left for another sample.
    Shuffled,
    /// What they left with the images of another sample and their own prompts.
    ShuffledImages,
    /// Gaussian keys and values with the moments of a real message, per layer, KV head and channel; vectors likewise. It is another
    /// sample's message where there are several samples, since the moments of its own message still carry information about it.
    Random,
    /// The final agent's own rollout on its own prompt, with as many positions as the messages have: [`Team::roll_out_self`](crate::agents::Team::roll_out_self). What it
    /// computes is what the messages took, and nothing of another agent is in it: what real messages are better by was communicated.
    SelfRollout,
    /// The real trace with one role's message masked; positions stay.
    Drop(String),
}

impl Control {
    /// The names of all controls but those of roles.
    pub const NAMES: [&str; 7] = ["real", "none", "zero", "shuffled", "shuffled-images", "random", "self"];
}

impl FromStr for Control {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        Ok(match text {
            "real" => Self::Real,
            "none" => Self::None,
            "zero" => Self::Zero,
            "shuffled" => Self::Shuffled,
            "shuffled-images" => Self::ShuffledImages,
            "random" => Self::Random,
            "self" => Self::SelfRollout,
            _ => match text.strip_prefix("drop:") {
                Some(role) if !role.is_empty() => Self::Drop(role.to_string()),
                _ => {
                    return Err(Error::invalid(format!(
                        "unknown control `{text}`; it is real, none, zero, shuffled, shuffled-images, random, self or drop:ROLE"
                    )));
                }
            },
        })
    }
}

impl TryFrom<String> for Control {
    type Error = Error;

    fn try_from(text: String) -> Result<Self> {
        text.parse()
    }
}

impl From<Control> for String {
    fn from(value: Control) -> Self {
        value.to_string()
    }
}

impl fmt::Display for Control {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Real => f.write_str("real"),
            Self::None => f.write_str("none"),
            Self::Zero => f.write_str("zero"),
            Self::Shuffled => f.write_str("shuffled"),
            Self::ShuffledImages => f.write_str("shuffled-images"),
            Self::Random => f.write_str("random"),
            Self::SelfRollout => f.write_str("self"),
            Self::Drop(role) => write!(f, "drop:{role}"),
        }
    }
}

impl Control {
    /// Checks that the control can be applied to a team and to so many samples.
    ///
    /// # Errors
    /// If the final agent does not read a role that is to be dropped, there is no other sample to shuffle with, or the team has no internal state to
    /// replace.
    pub fn validate(&self, team: &TeamConfig, samples: usize) -> Result<()> {
        let last = team.agents.len() - 1;
        let read: Vec<&str> = team.reads(last).into_iter().map(|j| team.agents[j].name.as_str()).collect();
        match self {
            Self::Drop(role) if !read.contains(&role.as_str()) => Err(Error::invalid(format!(
                "drop:{role}: the final agent reads no `{role}` (it reads: {})",
                read.join(", ")
            ))),
            Self::Real | Self::None => Ok(()),
            Self::ShuffledImages if (0..last).all(|j| team.encoder(j).is_none()) => {
                Err(Error::invalid(format!("{self}: no agent of the team sees an image")))
            }
            _ if team.channel.kind.text => Err(Error::invalid(format!(
                "{self} replaces internal state, but on the channel `{}` agents pass sentences; use real or none",
                team.channel
            ))),
            Self::Shuffled | Self::ShuffledImages if samples < 2 => Err(Error::invalid(format!(
                "{self} needs at least two samples, to give each what is another's"
            ))),
            _ => Ok(()),
        }
    }

    /// Checks that what the control puts in place of messages fits the model's context, with `answer` tokens or the target after it.
    ///
    /// # Errors
    /// If it is longer than `max_positions`, naming the sample's line.
    pub fn check_context(
        &self,
        team: &TeamConfig,
        samples: &[TokenizedSample],
        answer: usize,
        max_positions: usize,
    ) -> Result<()> {
        if *self != Self::SelfRollout {
            return Ok(());
        }
        samples.iter().try_for_each(|sample| {
            let answer = sample.target.as_ref().map_or(0, Vec::len).max(answer);
            check_self_context(team, sample, answer, max_positions)
        })
    }

    /// Which line's upstream agents run for each of `samples` lines, or which line's images they see, where it is not its own.
    pub fn senders(&self, samples: usize, seed: u64) -> Option<Vec<usize>> {
        let others = matches!(self, Self::Shuffled | Self::ShuffledImages | Self::Random) && samples > 1;
        others.then(|| derangement(samples, seed))
    }

    /// What upstream agents are given for a line whose first question is `own`, where [`Control::senders`] says `other`: that, or its images with the
    /// line's own prompts.
    pub fn input(&self, own: &TokenizedSample, other: &TokenizedSample) -> TokenizedSample {
        match self {
            Self::ShuffledImages => TokenizedSample { images: other.images.clone(), ..own.clone() },
            _ => other.clone(),
        }
    }

    /// The trace that the final agent reads, of what upstream agents or, for [`Control::SelfRollout`], itself has left. `sample_ids` numbers the samples, for draws that depend on nothing else than the seed and the
    /// sample. (Whose upstream prompts are run is a matter of [`Control::senders`].)
    pub fn apply<B: Backend>(
        &self,
        mut received: ReceivedMessages<B>,
        team: &TeamConfig,
        seed: u64,
        sample_ids: &[u64],
    ) -> ReceivedMessages<B> {
        match self {
            Self::Real | Self::Shuffled | Self::ShuffledImages | Self::SelfRollout => {}
            Self::None => received = ReceivedMessages::empty(received.start.len()),
            Self::Zero => {
                for message in &mut received.messages {
                    if let Some(segment) = &mut message.segment {
                        for block in &mut segment.kv.layers {
                            (block.key, block.value) = (block.key.zeros_like(), block.value.zeros_like());
                        }
                    }
                    if let Some(vectors) = &mut message.vectors {
                        vectors.values = vectors.values.zeros_like();
                    }
                }
            }
            Self::Random => random(&mut received, seed, sample_ids),
            Self::Drop(role) => {
                let dropped = |m: &&mut Message<B>| team.agents[m.sender].name == *role;
                received.messages.iter_mut().filter(dropped).for_each(Message::hide);
            }
        }
        received
    }
}

/// Gaussian keys, values and vectors; only what a reader sees counts and is drawn, so that padding changes nothing.
fn random<B: Backend>(received: &mut ReceivedMessages<B>, seed: u64, sample_ids: &[u64]) {
    let mut rngs: Vec<ChaCha8Rng> = sample_ids.iter().map(|&stream| generator(seed, stream)).collect();
    if let Some(joined) = KeyValues::cat(&received.segments().collect::<Vec<_>>()) {
        let valid = &joined.positions.valid;
        let layers: Vec<KeyValueBlock<B>> = joined
            .layers
            .iter()
            .map(|b| KeyValueBlock {
                key: gaussian(&b.key, valid, &mut rngs),
                value: gaussian(&b.value, valid, &mut rngs),
            })
            .collect();
        let mut from = 0;
        for segment in received.messages.iter_mut().filter_map(|m| m.segment.as_mut()) {
            let n = segment.kv.len();
            let cut = |t: &Tensor<B, 4>| t.clone().narrow(2, from, n);
            segment.kv.layers =
                layers.iter().map(|b| KeyValueBlock { key: cut(&b.key), value: cut(&b.value) }).collect();
            from += n;
        }
    }
    let found: Vec<_> = received.messages.iter_mut().filter_map(|m| m.vectors.as_mut()).collect();
    let Some(first) = found.first() else { return };
    let [rows, m, _] = first.values.dims();
    let joined = Tensor::cat(found.iter().map(|v| v.values.clone()).collect(), 1).unsqueeze_dim(1);
    let valid: Vec<bool> = (0..rows)
        .flat_map(|b| found.iter().flat_map(move |v| v.valid[b * m..(b + 1) * m].to_vec()))
        .collect();
    let drawn: Tensor<B, 3> = gaussian(&joined, &valid, &mut rngs).squeeze_dim(1);
    for (i, vectors) in found.into_iter().enumerate() {
        vectors.values = drawn.clone().narrow(1, i * m, m);
    }
}

/// A tensor `[B, G, n, d]` with the mean and variance of `x` over the valid positions, per row, head and channel.
fn gaussian<B: Backend>(x: &Tensor<B, 4>, valid: &[bool], rngs: &mut [ChaCha8Rng]) -> Tensor<B, 4> {
    let [rows, heads, n, d] = x.dims();
    let data: Vec<f64> = host_data(x.clone()).iter::<f64>().collect();
    let mut out = vec![0.0f32; data.len()];
    for (b, rng) in rngs.iter_mut().enumerate().take(rows) {
        let real: Vec<usize> = (0..n).filter(|&i| valid[b * n + i]).collect();
        let count = real.len().max(1) as f64;
        for h in 0..heads {
            for c in 0..d {
                let at = |i: usize| ((b * heads + h) * n + i) * d + c;
                let mean = real.iter().map(|&i| data[at(i)]).sum::<f64>() / count;
                let variance = real.iter().map(|&i| (data[at(i)] - mean).powi(2)).sum::<f64>() / count;
                for &i in &real {
                    let z: f64 = StandardNormal.sample(rng);
                    out[at(i)] = (mean + variance.sqrt() * z) as f32;
                }
            }
        }
    }
    Tensor::from_data(TensorData::new(out, [rows, heads, n, d]), &x.device())
}

/// A permutation of `0..n` that leaves nothing in place (Sattolo's algorithm).
///
/// # Panics
/// If `n` is 1.
fn derangement(n: usize, seed: u64) -> Vec<usize> {
    assert_ne!(n, 1, "one element cannot be deranged");
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut p: Vec<usize> = (0..n).collect();
    for i in (1..n).rev() {
        p.swap(i, rng.random_range(0..i));
    }
    p
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_derangement_is_a_permutation_that_moves_everything() {
        for n in [2, 3, 10, 101] {
            let p = derangement(n, 5);
            assert!(p.iter().enumerate().all(|(i, &j)| i != j));
            let mut sorted = p.clone();
            sorted.sort_unstable();
            assert_eq!(sorted, (0..n).collect::<Vec<_>>());
        }
    }

    #[test]
    fn shuffled_and_random_messages_come_from_other_samples() {
        for control in [Control::Shuffled, Control::Random] {
            assert_eq!(control.senders(5, 1), Some(derangement(5, 1)));
        }
        assert_eq!(Control::Random.senders(1, 1), None);
        assert_eq!(Control::Zero.senders(5, 1), None);
    }

    #[test]
    fn names_of_controls_read_back() {
        for name in Control::NAMES.into_iter().chain(["drop:critic"]) {
            assert_eq!(name.parse::<Control>().unwrap().to_string(), name);
        }
        assert!("drop:".parse::<Control>().is_err() && "reel".parse::<Control>().is_err());
    }
}
