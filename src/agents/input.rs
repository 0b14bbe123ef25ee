//! What an agent reads of its own: token ids, or embeddings that something else made.

use burn::prelude::*;
use burn::tensor::TensorData;
use diffmas_backends::ModelBackend;

use super::{PaddedIds, SeenImages};
use crate::backbone::Backbone;
use crate::rectangle::{Padding, Rectangle, padded, real};
use crate::text::TokenizedSample;

/// Input embeddings of `B` rows padded to one length: of an image, a sound, the state of a sensor.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PaddedEmbeddings {
    /// Rows `B`.
    pub batch: usize,
    /// Positions `n` per row, padding included.
    pub len: usize,
    /// Width `D` of an embedding.
    pub width: usize,
    /// `[B, n, D]`, row-major; 0 at padding.
    pub values: Vec<f32>,
    /// `[B, n]`, false at padding.
    pub valid: Vec<bool>,
}

impl PaddedEmbeddings {
    /// Pads rows of embeddings of `width` numbers on the left, so that the last position of every row is real.
    ///
    /// # Panics
    /// If a row is not a whole number of embeddings.
    pub fn left(rows: &[&[f32]], width: usize) -> Self {
        assert!(rows.iter().all(|row| row.len().is_multiple_of(width)), "embeddings of {width} numbers");
        let len = rows.iter().map(|row| row.len() / width).max().unwrap_or(0);
        Self {
            batch: rows.len(),
            len,
            width,
            values: padded(rows, 0.0, Padding::Left),
            valid: real(rows.iter().map(|row| row.len() / width), Padding::Left),
        }
    }
}

/// The input of one agent for all rows of a batch.
#[derive(Clone, Debug, PartialEq)]
pub enum AgentInput {
    /// Token ids of a prompt.
    Ids(PaddedIds),
    /// Embeddings, which stand where those of a prompt would.
    Embeddings(PaddedEmbeddings),
    /// Images, of which an encoder of the team and its projector make embeddings, and token ids behind them.
    Images(SeenImages),
}

impl From<PaddedIds> for AgentInput {
    fn from(ids: PaddedIds) -> Self {
        Self::Ids(ids)
    }
}

impl From<PaddedEmbeddings> for AgentInput {
    fn from(embeddings: PaddedEmbeddings) -> Self {
        Self::Embeddings(embeddings)
    }
}

impl From<SeenImages> for AgentInput {
    fn from(images: SeenImages) -> Self {
        Self::Images(images)
    }
}

impl AgentInput {
    /// What agent `j` reads of its own for each of `samples`, padded on the left.
    ///
    /// # Panics
    /// If there is no sample, or the samples are of different teams.
    pub fn of_agent(samples: &[&TokenizedSample], j: usize) -> Self {
        let ids = PaddedIds::left(&samples.iter().map(|s| s.prompts[j].as_slice()).collect::<Vec<_>>());
        let images: Option<Vec<_>> = samples.iter().map(|s| s.image(j).cloned()).collect();
        match images {
            Some(images) => SeenImages::new(images, ids).into(),
            None => ids.into(),
        }
    }

    /// Rows `B`.
    pub fn batch(&self) -> usize {
        match self {
            Self::Ids(ids) => ids.batch,
            Self::Embeddings(embeddings) => embeddings.batch,
            Self::Images(seen) => seen.images.len(),
        }
    }

    /// Positions `n` per row, padding included.
    pub fn len(&self) -> usize {
        match self {
            Self::Ids(ids) => ids.len,
            Self::Embeddings(embeddings) => embeddings.len,
            Self::Images(seen) => seen.len(),
        }
    }

    /// Whether there is no position.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// `[B, n]`, false at padding.
    pub fn valid(&self) -> &[bool] {
        match self {
            Self::Ids(ids) => &ids.valid,
            Self::Embeddings(embeddings) => &embeddings.valid,
            Self::Images(seen) => seen.valid(),
        }
    }

    /// How many positions are real.
    pub fn count(&self) -> usize {
        self.valid().iter().filter(|&&v| v).count()
    }

    /// The tokens, where it consists of tokens.
    pub fn ids(&self) -> Option<&PaddedIds> {
        match self {
            Self::Ids(ids) => Some(ids),
            Self::Embeddings(_) | Self::Images(_) => None,
        }
    }

    /// The input on the device of `backbone`, tokens looked up. Images are read by a team: [`Team::embed`](super::Team::embed).
    ///
    /// # Panics
    /// If embeddings have another width than the backbone's, or it is images.
    pub fn embed<B: ModelBackend>(&self, backbone: &Backbone<B>) -> Embedded<B> {
        let x = match self {
            Self::Ids(ids) => backbone.embed(&ids.ids),
            Self::Embeddings(e) => {
                assert_eq!(e.width, backbone.config.hidden_size, "embeddings of the backbone's width");
                let data = TensorData::new(e.values.clone(), [e.batch * e.len, e.width]);
                Tensor::from_data(data, &backbone.device())
            }
            Self::Images(_) => unreachable!("images are read by a team"),
        };
        Embedded { x, batch: self.batch(), valid: self.valid().to_vec() }
    }
}

/// Input embeddings on a device: of a prompt, of what else an agent reads, or of a latent step.
#[derive(Clone, Debug)]
pub struct Embedded<B: Backend> {
    /// `[B·n, D]`, row-major over rows.
    pub x: Tensor<B, 2>,
    /// Rows `B`.
    pub batch: usize,
    /// `[B, n]`, false at padding.
    pub valid: Vec<bool>,
}

impl<B: Backend> Embedded<B> {
    /// Positions `n` per row, padding included.
    pub fn len(&self) -> usize {
        self.valid.len() / self.batch
    }

    /// Whether there is no position.
    pub fn is_empty(&self) -> bool {
        self.valid.is_empty()
    }

    /// Two inputs of the same rows, one after the other.
    ///
    /// # Panics
    /// If the numbers of rows differ.
    pub fn beside(self, after: Self) -> Self {
        assert_eq!(self.batch, after.batch, "inputs of the same rows");
        if after.is_empty() {
            return self;
        }
        let (batch, [n, m], d) = (self.batch, [self.len(), after.len()], self.x.dims()[1]);
        let parts = vec![self.x.reshape([batch, n, d]), after.x.reshape([batch, m, d])];
        let valid = Rectangle::beside(&[marks(&self.valid, batch), marks(&after.valid, batch)], batch);
        Self { x: Tensor::cat(parts, 1).reshape([batch * (n + m), d]), batch, valid }
    }

    /// Several inputs as one batch, one under the other, left-padded to the longest.
    ///
    /// # Panics
    /// If there is none.
    pub fn stack(mut parts: Vec<Self>) -> Self {
        if parts.len() == 1 {
            return parts.remove(0);
        }
        let len = parts.iter().map(Self::len).max().expect("an input");
        let valid: Vec<_> = parts.iter().map(|part| marks(&part.valid, part.batch)).collect();
        let valid = Rectangle::under(&valid, false);
        let padded = parts.into_iter().map(|part| {
            let (batch, n, d) = (part.batch, part.len(), part.x.dims()[1]);
            if n == len {
                return (batch, part.x);
            }
            let padding = Tensor::zeros([batch, len - n, d], &part.x.device());
            let x = Tensor::cat(vec![padding, part.x.reshape([batch, n, d])], 1);
            (batch, x.reshape([batch * len, d]))
        });
        let (batches, x): (Vec<usize>, Vec<_>) = padded.unzip();
        Self { x: Tensor::cat(x, 0), batch: batches.iter().sum(), valid }
    }
}

/// `[B, n]` marks of `batch` rows.
pub(super) fn marks(valid: &[bool], batch: usize) -> Rectangle<'_, bool> {
    Rectangle { batch, len: valid.len() / batch, cells: valid }
}

#[cfg(all(test, feature = "flex"))]
mod tests {
    use diffmas_backends::Flex;

    use super::*;

    fn embedded(rows: &[&[f32]]) -> Embedded<Flex> {
        let e = PaddedEmbeddings::left(rows, 2);
        let x = Tensor::from_data(TensorData::new(e.values, [e.batch * e.len, 2]), &Default::default());
        Embedded { x, batch: e.batch, valid: e.valid }
    }

    fn values(e: &Embedded<Flex>) -> Vec<f32> {
        e.x.to_data().to_vec().unwrap()
    }

    #[test]
    fn rows_of_embeddings_are_padded_on_the_left() {
        let e = embedded(&[&[1.0, 2.0], &[3.0, 4.0, 5.0, 6.0]]);
        assert_eq!((e.batch, e.len()), (2, 2));
        assert_eq!(values(&e), [0.0, 0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
        assert_eq!(e.valid, [false, true, true, true]);
    }

    #[test]
    fn inputs_stand_beside_and_under_each_other() {
        let (a, b) = (embedded(&[&[1.0, 2.0], &[3.0, 4.0]]), embedded(&[&[5.0, 6.0], &[7.0, 8.0]]));
        let beside = a.clone().beside(b);
        assert_eq!(values(&beside), [1.0, 2.0, 5.0, 6.0, 3.0, 4.0, 7.0, 8.0]);
        let under = Embedded::stack(vec![a, beside]);
        assert_eq!((under.batch, under.len()), (4, 2));
        assert_eq!(values(&under)[..8], [0.0, 0.0, 1.0, 2.0, 0.0, 0.0, 3.0, 4.0]);
        assert_eq!(under.valid, [false, true, false, true, true, true, true, true]);
    }
}
