//! Which keys a query may see: padding and causality, decided on the host before any tensor exists.

use std::sync::Arc;

use burn::prelude::*;
use burn::tensor::TensorData;

/// Who sees whom in one attention call, on the host.
///
/// The keys are the concatenation of all blocks; the queries are the last `queries` keys. Query `i` sees key `j` if
/// `j <= keys - queries + i` (causal over the queries' own positions) and `valid[j]`.
#[derive(Clone, Debug, PartialEq)]
pub struct HostMask {
    /// Rows `B`.
    pub batch: usize,
    /// Queries `t` per row.
    pub queries: usize,
    /// Keys `n` per row, over all blocks; at least `queries`.
    pub keys: usize,
    /// `[B, n]` row-major, `false` at padding; `None` when every key of every row is real.
    pub valid: Option<Arc<[bool]>>,
}

impl HostMask {
    /// A mask over `keys` keys per row, the last `queries` of which are the queries' own.
    ///
    /// # Panics
    /// If `valid` is not `[batch, keys]` or there are fewer keys than queries.
    pub fn new(batch: usize, queries: usize, keys: usize, valid: Option<Vec<bool>>) -> Self {
        assert!(keys >= queries, "{queries} queries among {keys} keys");
        let valid = valid.filter(|v| v.iter().any(|x| !x));
        if let Some(v) = &valid {
            assert_eq!(v.len(), batch * keys, "validity is [batch, keys]");
        }
        Self { batch, queries, keys, valid: valid.map(Into::into) }
    }

    /// Whether query `i` of row `b` may see key `j`.
    #[inline]
    pub fn sees(&self, b: usize, i: usize, j: usize) -> bool {
        j <= self.keys - self.queries + i && self.is_valid(b, j)
    }

    /// Whether key `j` of row `b` is real.
    #[inline]
    pub fn is_valid(&self, b: usize, j: usize) -> bool {
        self.valid.as_ref().is_none_or(|v| v[b * self.keys + j])
    }

    /// Whether every query sees every key, so that no mask has to be applied.
    pub fn is_trivial(&self) -> bool {
        self.queries == 1 && self.valid.is_none()
    }
}

/// A [`HostMask`] and, for backends that compute attention from composed operations, its tensor.
#[derive(Clone, Debug)]
pub struct AttentionMask<B: Backend> {
    /// The mask on the host.
    pub host: Arc<HostMask>,
    /// `[B or 1, 1, t, n]`, 1 where a key is seen and 0 where not; `None` where the host's form is used or the mask is trivial.
    pub allowed: Option<Tensor<B, 4>>,
}

impl<B: Backend> AttentionMask<B> {
    /// A mask that lives on the host alone, for backends whose kernels read it there.
    pub fn on_host(mask: HostMask) -> Self {
        Self { host: Arc::new(mask), allowed: None }
    }

    /// A mask with its tensor on `device`, made once for all layers of a pass.
    pub fn on_device(mask: HostMask, device: &B::Device) -> Self {
        let allowed = (!mask.is_trivial()).then(|| {
            let rows = if mask.valid.is_some() { mask.batch } else { 1 };
            let mut data = Vec::with_capacity(rows * mask.queries * mask.keys);
            for b in 0..rows {
                for i in 0..mask.queries {
                    data.extend((0..mask.keys).map(|j| f32::from(u8::from(mask.sees(b, i, j)))));
                }
            }
            Tensor::from_data(TensorData::new(data, [rows, 1, mask.queries, mask.keys]), device)
        });
        Self { host: Arc::new(mask), allowed }
    }

    /// The same mask for another backend, its tensor converted by `convert`.
    pub fn map<C: Backend>(&self, convert: impl FnOnce(Tensor<B, 4>) -> Tensor<C, 4>) -> AttentionMask<C> {
        AttentionMask { host: self.host.clone(), allowed: self.allowed.clone().map(convert) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_query_sees_the_past_and_itself_but_no_later_key() {
        let m = HostMask::new(1, 2, 5, None);
        assert!((0..4).all(|j| m.sees(0, 0, j)) && !m.sees(0, 0, 4));
        assert!((0..5).all(|j| m.sees(0, 1, j)));
    }

    #[test]
    fn padding_is_never_seen_and_an_all_true_validity_is_dropped() {
        let m = HostMask::new(2, 1, 2, Some(vec![false, true, true, true]));
        assert!(!m.sees(0, 0, 0) && m.sees(1, 0, 0));
        assert!(HostMask::new(1, 1, 2, Some(vec![true, true])).is_trivial());
    }
}
