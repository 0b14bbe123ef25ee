//! Keys and values of some positions, as a value: passed in, returned, sliced, joined; never hidden state of a layer.

use burn::prelude::*;
use diffmas_backends::{Autodiff, KeyValueBlock, ModelBackend};

/// Where the `n` positions of each of `B` rows stand; known on the host before any tensor is computed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Positions {
    /// Rows `B`.
    pub batch: usize,
    /// Positions `n` per row, padding included.
    pub len: usize,
    /// Position ids `[B, n]`, row-major; padding repeats a neighbour's and is never read.
    pub ids: Vec<u32>,
    /// `[B, n]`, false at padding.
    pub valid: Vec<bool>,
}

impl Positions {
    /// No positions, for `batch` rows.
    pub fn empty(batch: usize) -> Self {
        Self { batch, ..Self::default() }
    }

    /// Positions of tokens with the given validity `[B, n]`, counted on from `next[b]`, which moves on by the number of valid ones.
    ///
    /// # Panics
    /// If `valid` is not `[next.len(), n]`.
    pub fn issue(valid: &[bool], next: &mut [u32]) -> Self {
        let batch = next.len();
        let len = valid.len() / batch;
        assert_eq!(valid.len(), batch * len, "validity is [batch, len]");
        let mut ids = Vec::with_capacity(valid.len());
        for (row, next) in valid.chunks_exact(len.max(1)).zip(next) {
            for &v in row {
                ids.push(*next);
                *next += u32::from(v);
            }
        }
        Self { batch, len, ids, valid: valid.to_vec() }
    }

    /// The positions `from..to` of every row.
    pub fn slice(&self, from: usize, to: usize) -> Self {
        fn cut<T: Copy>(x: &[T], len: usize, from: usize, to: usize) -> Vec<T> {
            x.chunks_exact(len.max(1)).flat_map(|row| row[from..to].iter().copied()).collect()
        }
        Self {
            batch: self.batch,
            len: to - from,
            ids: cut(&self.ids, self.len, from, to),
            valid: cut(&self.valid, self.len, from, to),
        }
    }

    /// Several lists of positions of the same rows, one after another.
    ///
    /// # Panics
    /// If the numbers of rows differ.
    pub fn cat(parts: &[&Positions], batch: usize) -> Self {
        assert!(parts.iter().all(|p| p.batch == batch), "positions of different batches");
        let mut all = Self { batch, len: parts.iter().map(|p| p.len).sum(), ..Self::default() };
        for b in 0..batch {
            for p in parts {
                all.ids.extend_from_slice(&p.ids[b * p.len..(b + 1) * p.len]);
                all.valid.extend_from_slice(&p.valid[b * p.len..(b + 1) * p.len]);
            }
        }
        all
    }
}

/// Keys (already rotated) and values of all layers for some positions.
#[derive(Clone, Debug)]
pub struct KeyValues<B: Backend> {
    /// One block a layer, keys and values `[B, G, n, d]` each.
    pub layers: Vec<KeyValueBlock<B>>,
    /// Where the positions stand.
    pub positions: Positions,
}

impl<B: Backend> KeyValues<B> {
    /// Positions `n` per row, padding included.
    pub fn len(&self) -> usize {
        self.positions.len
    }

    /// Whether there are no positions.
    pub fn is_empty(&self) -> bool {
        self.positions.len == 0
    }

    /// The positions `from..to`.
    ///
    /// # Panics
    /// If the range is empty or reaches beyond the end.
    pub fn slice(&self, from: usize, to: usize) -> Self {
        let cut = |x: &Tensor<B, 4>| x.clone().narrow(2, from, to - from);
        let layers =
            self.layers.iter().map(|l| KeyValueBlock { key: cut(&l.key), value: cut(&l.value) }).collect();
        Self { layers, positions: self.positions.slice(from, to) }
    }

    /// Several caches of the same rows and layers, one after another; `None` when all are empty.
    pub fn cat(parts: &[&KeyValues<B>]) -> Option<Self> {
        let parts: Vec<_> = parts.iter().copied().filter(|p| !p.is_empty()).collect();
        let (first, rest) = parts.split_first()?;
        if rest.is_empty() {
            return Some((*first).clone());
        }
        let layers = (0..first.layers.len())
            .map(|l| KeyValueBlock {
                key: Tensor::cat(parts.iter().map(|p| p.layers[l].key.clone()).collect(), 2),
                value: Tensor::cat(parts.iter().map(|p| p.layers[l].value.clone()).collect(), 2),
            })
            .collect();
        let positions: Vec<_> = parts.iter().map(|p| &p.positions).collect();
        Some(Self { layers, positions: Positions::cat(&positions, first.positions.batch) })
    }

    /// Key and value of each layer in turn; [`KeyValues::from_tensors`] is the way back.
    pub fn into_tensors(self) -> Vec<Tensor<B, 4>> {
        self.layers.into_iter().flat_map(|l| [l.key, l.value]).collect()
    }

    /// Keys and values from the tensors of [`KeyValues::into_tensors`].
    ///
    /// # Panics
    /// If the number of tensors is odd.
    pub fn from_tensors(tensors: Vec<Tensor<B, 4>>, positions: Positions) -> Self {
        assert_eq!(tensors.len() % 2, 0, "a key and a value for each layer");
        let mut tensors = tensors.into_iter();
        let mut layers = Vec::with_capacity(tensors.len() / 2);
        while let (Some(key), Some(value)) = (tensors.next(), tensors.next()) {
            layers.push(KeyValueBlock { key, value });
        }
        Self { layers, positions }
    }

    /// Bytes that the keys and values take.
    pub fn bytes(&self) -> usize {
        self.layers.iter().map(|l| l.key.shape().num_elements() * l.key.dtype().size() * 2).sum()
    }
}

impl<B: ModelBackend> KeyValues<Autodiff<B>> {
    /// The same values with no gradient.
    pub fn detach(self) -> Self {
        let positions = self.positions.clone();
        let tensors = self.into_tensors().into_iter().map(|t| Tensor::from_inner(t.inner())).collect();
        Self::from_tensors(tensors, positions)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn padding_does_not_use_up_position_ids() {
        let mut next = [3, 0];
        let p = Positions::issue(&[false, true, true, true, true, true], &mut next);
        assert_eq!(p.ids, [3, 3, 4, 0, 1, 2]);
        assert_eq!(next, [5, 3]);
    }

    #[test]
    fn slices_and_joins_keep_rows_apart() {
        let p = Positions::issue(&[true; 6], &mut [0, 10]);
        let joined = Positions::cat(&[&p.slice(0, 1), &p.slice(1, 3)], 2);
        assert_eq!(joined, p);
        assert_eq!(p.slice(1, 2).ids, [1, 11]);
    }
}
