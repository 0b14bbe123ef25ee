//! Keys and values of some positions, as a value: passed in, returned, sliced, joined; never hidden state of a layer.

use burn::prelude::*;
use diffmas_backends::{KeyValueBlock, ModelBackend};

use super::{Positions, RotaryEmbedding, select_rows};

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
        if from == 0 && to == self.len() {
            return self.clone();
        }
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

    /// What several readers read, as one batch: one under the other, each one's caches one after another, left-padded to the longest.
    /// `rows[i]` is the number of rows of reader `i`, who may read nothing. `None` when nobody reads anything.
    pub fn stack(parts: &[&[KeyValues<B>]], rows: &[usize]) -> Option<Self> {
        let full = |part: &&[KeyValues<B>]| part.iter().filter(|p| !p.is_empty()).cloned().collect();
        let parts: Vec<Vec<KeyValues<B>>> = parts.iter().map(full).collect();
        let first = parts.iter().flatten().next()?;
        let positions: Vec<Positions> = parts
            .iter()
            .zip(rows)
            .map(|(part, &rows)| Positions::cat(&part.iter().map(|p| &p.positions).collect::<Vec<_>>(), rows))
            .collect();
        let lengths: Vec<usize> = positions.iter().map(|p| p.len).collect();
        let positions = Positions::stack(&positions.iter().collect::<Vec<_>>());
        let pile = |get: &dyn Fn(&KeyValueBlock<B>) -> Tensor<B, 4>, l: usize| {
            let [_, heads, _, width] = get(&first.layers[l]).dims();
            let device = first.layers[l].key.device();
            let each = parts.iter().zip(rows).zip(&lengths).map(|((part, &rows), len)| {
                let missing = positions.len - len;
                let padding = (missing > 0).then(|| Tensor::zeros([rows, heads, missing, width], &device));
                Tensor::cat(padding.into_iter().chain(part.iter().map(|p| get(&p.layers[l]))).collect(), 2)
            });
            Tensor::cat(each.collect(), 0)
        };
        let layers = (0..first.layers.len())
            .map(|l| KeyValueBlock { key: pile(&|b| b.key.clone(), l), value: pile(&|b| b.value.clone(), l) })
            .collect();
        Some(Self { layers, positions })
    }

    /// The rows `from..from + count`.
    pub fn rows(&self, from: usize, count: usize) -> Self {
        if count == self.positions.batch {
            return self.clone();
        }
        let cut = |x: &Tensor<B, 4>| x.clone().narrow(0, from, count);
        let layers =
            self.layers.iter().map(|l| KeyValueBlock { key: cut(&l.key), value: cut(&l.value) }).collect();
        Self { layers, positions: self.positions.rows(from, count) }
    }

    /// The rows with these indices, in this order: neighbours as a view, others copied.
    pub fn select(&self, rows: &[usize]) -> Self {
        let layers = self.layers.iter().map(|l| selected(l, rows)).collect();
        Self { layers, positions: self.positions.select(rows) }
    }

    /// The only row as `batch` equal ones, which share what it holds.
    ///
    /// # Panics
    /// If there are other rows.
    pub fn repeated(&self, batch: usize) -> Self {
        let repeat = |x: &Tensor<B, 4>| {
            let [_, heads, n, width] = x.dims();
            x.clone().expand([batch, heads, n, width])
        };
        let layers =
            self.layers.iter().map(|l| KeyValueBlock { key: repeat(&l.key), value: repeat(&l.value) });
        Self { layers: layers.collect(), positions: self.positions.select(&vec![0; batch]) }
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

    /// Bytes that the keys and values of one position of one row take.
    pub fn position_bytes(&self) -> usize {
        let block = |l: &KeyValueBlock<B>| {
            let [_, heads, _, width] = l.key.dims();
            heads * width * l.key.dtype().size() * 2
        };
        self.layers.iter().map(block).sum()
    }
}

impl<B: ModelBackend> KeyValues<B> {
    /// The same keys and values `offsets[b]` positions later in row `b`: keys are rotated on, since a rotary embedding is a rotation.
    pub fn shifted(self, offsets: &[u32], rotary: &RotaryEmbedding) -> Self {
        if offsets.iter().all(|&o| o == 0) || self.is_empty() {
            return self;
        }
        let at = Positions { batch: offsets.len(), len: 1, ids: offsets.to_vec(), valid: Vec::new() };
        let [cos, sin] = rotary.cos_sin(&at, &self.layers[0].key.device());
        let turn = |key: Tensor<B, 4>| {
            let [b, g, n, d] = key.dims();
            B::rotary(key.reshape([b, g * n, d]), &cos, &sin).reshape([b, g, n, d])
        };
        let layers =
            self.layers.into_iter().map(|l| KeyValueBlock { key: turn(l.key), value: l.value }).collect();
        Self { layers, positions: self.positions.shifted(offsets) }
    }

    /// The same with keys, so far without the rotary embedding, turned to their positions.
    pub(crate) fn rotated(self, rotary: &RotaryEmbedding) -> Self {
        self.turned(rotary, |sin| sin)
    }

    /// The same with keys as they are before the rotary embedding: turned back by their positions.
    pub(crate) fn unrotated(self, rotary: &RotaryEmbedding) -> Self {
        self.turned(rotary, Tensor::neg)
    }

    fn turned(self, rotary: &RotaryEmbedding, way: impl Fn(Tensor<B, 4>) -> Tensor<B, 4>) -> Self {
        let Some(first) = self.layers.first().filter(|_| !self.is_empty()) else { return self };
        let [b, g, n, d] = first.key.dims();
        // Of each position, for all heads.
        let [cos, sin] = rotary.cos_sin(&self.positions, &first.key.device());
        let by_head = |x: Tensor<B, 2>| x.reshape([b, 1, n, d / 2]).expand([b, g, n, d / 2]);
        let flat = |x: Tensor<B, 4>| x.reshape([b * g * n, d / 2]);
        let (cos, sin) = (flat(by_head(cos)), flat(way(by_head(sin))));
        let turn =
            |key: Tensor<B, 4>| B::rotary(key.reshape([b * g * n, 1, d]), &cos, &sin).reshape([b, g, n, d]);
        let layers =
            self.layers.into_iter().map(|l| KeyValueBlock { key: turn(l.key), value: l.value }).collect();
        Self { layers, positions: self.positions }
    }
}

/// Keys and values after those of `tail`.
pub(super) fn extended<B: ModelBackend>(
    tail: Option<&KeyValueBlock<B>>,
    new: KeyValueBlock<B>,
) -> KeyValueBlock<B> {
    match tail {
        Some(tail) => B::appended(tail.clone(), new),
        None => new,
    }
}

/// The rows of a block with these indices: neighbours as a view, others copied.
pub(super) fn selected<B: Backend>(block: &KeyValueBlock<B>, rows: &[usize]) -> KeyValueBlock<B> {
    let neighbours = rows.windows(2).all(|pair| pair[1] == pair[0] + 1);
    let pick = |x: &Tensor<B, 4>| match rows.first() {
        Some(&from) if neighbours => x.clone().narrow(0, from, rows.len()),
        _ => select_rows(x.clone(), rows),
    };
    KeyValueBlock { key: pick(&block.key), value: pick(&block.value) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(feature = "flex")]
    #[test]
    fn readers_of_one_batch_find_what_each_reads_at_the_right() {
        use super::super::fixtures::*;
        let of = |n: usize, seed: u64| {
            let block =
                KeyValueBlock { key: random([1, 2, n, 4], seed), value: random([1, 2, n, 4], seed + 1) };
            KeyValues { layers: vec![block], positions: Positions::issue(&vec![true; n], &mut [seed as u32]) }
        };
        let (long, short) = ([of(2, 1), of(0, 3), of(3, 5)], [of(1, 7)]);
        let all = KeyValues::stack(&[&long, &[], &short], &[1, 1, 1]).unwrap();
        assert_eq!((all.positions.batch, all.len()), (3, 5));
        assert_eq!(all.positions.ids, [1, 2, 5, 6, 7, 0, 0, 0, 0, 0, 0, 0, 0, 0, 7]);
        assert_eq!(all.positions.valid, [[true; 5], [false; 5], [false, false, false, false, true]].concat());
        let joined = KeyValues::cat(&[&long[0], &long[2]]).unwrap();
        let row = |b: usize| all.rows(b, 1).layers.remove(0);
        close(&numbers(&row(0).key), &numbers(&joined.layers[0].key));
        close(&numbers(&row(1).value), &[0.0; 40]);
        close(&numbers(&row(2).key.narrow(2, 4, 1)), &numbers(&short[0].layers[0].key));
        assert!(KeyValues::<TestBackend>::stack(&[&[], &[]], &[1, 2]).is_none());
    }
}
