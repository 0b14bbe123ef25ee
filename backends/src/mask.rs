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

    /// Which keys are padding, on `device`, `[B, 1, 1, n]`.
    fn padding<B: Backend>(&self, device: &B::Device) -> Option<Tensor<B, 4, Bool>> {
        let valid = self.valid.as_ref()?;
        let padding: Vec<bool> = valid.iter().map(|v| !v).collect();
        Some(Tensor::from_data(TensorData::new(padding, [self.batch, 1, 1, self.keys]), device))
    }

    /// Which keys a query does not see, on `device`: the future from the sizes alone, padding from the validity `[B, n]`.
    fn hidden<B: Backend>(&self, device: &B::Device) -> Option<Tensor<B, 4, Bool>> {
        let (b, t, n) = (self.batch, self.queries, self.keys);
        let future = (t > 1).then(|| Tensor::<B, 4, Bool>::tril_mask([1, 1, t, n], (n - t) as i64, device));
        match (future, self.padding(device)) {
            (Some(future), Some(padding)) => {
                Some(future.expand([b, 1, t, n]).bool_or(padding.expand([b, 1, t, n])))
            }
            (future, padding) => future.or(padding),
        }
    }
}

/// A [`HostMask`] and what a backend's attention reads of it on the device.
#[derive(Clone, Debug)]
pub struct AttentionMask<B: Backend> {
    /// The mask on the host.
    pub host: Arc<HostMask>,
    on_device: OnDevice<B>,
}

/// What of a mask lies on the device, made once for all layers of a pass.
#[derive(Clone, Debug)]
enum OnDevice<B: Backend> {
    Nothing,
    /// See [`AttentionMask::padding`].
    Padding(Tensor<B, 4, Bool>),
    /// See [`AttentionMask::hidden`].
    Hidden(Tensor<B, 4, Bool>),
}

impl<B: Backend> AttentionMask<B> {
    /// A mask that lives on the host alone, for backends whose kernels read it there.
    pub fn on_host(mask: HostMask) -> Self {
        Self { host: Arc::new(mask), on_device: OnDevice::Nothing }
    }

    /// A mask with its padding on `device`, for backends whose kernels know the order of keys.
    pub fn with_padding(mask: HostMask, device: &B::Device) -> Self {
        let on_device = mask.padding(device).map_or(OnDevice::Nothing, OnDevice::Padding);
        Self { host: Arc::new(mask), on_device }
    }

    /// A mask with its tensor on `device`, for backends that compute attention from composed operations. No more than the validity travels
    /// there.
    pub fn on_device(mask: HostMask, device: &B::Device) -> Self {
        let on_device = mask.hidden(device).map_or(OnDevice::Nothing, OnDevice::Hidden);
        Self { host: Arc::new(mask), on_device }
    }

    /// Which keys are padding, `[B, 1, 1, n]`; `None` where none is.
    pub fn padding(&self, device: &B::Device) -> Option<Tensor<B, 4, Bool>> {
        match &self.on_device {
            OnDevice::Padding(padding) => Some(padding.clone()),
            _ => self.host.padding(device),
        }
    }

    /// Which keys a query does not see, `[B or 1, 1, t or 1, n]`; `None` where every query sees every key. Made now where only a part of it
    /// lies on the device.
    pub fn hidden(&self, device: &B::Device) -> Option<Tensor<B, 4, Bool>> {
        match &self.on_device {
            OnDevice::Hidden(hidden) => Some(hidden.clone()),
            _ => self.host.hidden(device),
        }
    }

    /// The same mask for another backend, its tensor converted by `convert`.
    pub fn map<C: Backend>(
        &self,
        convert: impl FnOnce(Tensor<B, 4, Bool>) -> Tensor<C, 4, Bool>,
    ) -> AttentionMask<C> {
        let on_device = match self.on_device.clone() {
            OnDevice::Nothing => OnDevice::Nothing,
            OnDevice::Padding(padding) => OnDevice::Padding(convert(padding)),
            OnDevice::Hidden(hidden) => OnDevice::Hidden(convert(hidden)),
        };
        AttentionMask { host: self.host.clone(), on_device }
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

    #[cfg(feature = "flex")]
    #[test]
    fn the_tensor_hides_what_the_host_hides() {
        use burn::backend::Flex;
        for (b, t, n) in [(1, 1, 4), (1, 3, 5), (2, 1, 4), (2, 4, 4), (3, 2, 9)] {
            for padded in [false, true] {
                let valid = padded.then(|| (0..b * n).map(|i| i % 3 != 1).collect());
                let mask = HostMask::new(b, t, n, valid);
                let device = Default::default();
                let whole = AttentionMask::<Flex>::on_device(mask.clone(), &device);
                let hidden = whole.hidden(&device);
                assert_eq!(hidden.is_none(), mask.is_trivial());
                let Some(hidden) = hidden else { continue };
                let got: Vec<bool> = hidden.expand([b, 1, t, n]).into_data().iter::<bool>().collect();
                let cells = (0..b).flat_map(|b| (0..t).flat_map(move |i| (0..n).map(move |j| (b, i, j))));
                let want: Vec<bool> = cells.map(|(b, i, j)| !mask.sees(b, i, j)).collect();
                assert_eq!(got, want, "B = {b}, t = {t}, n = {n}");
            }
        }
    }
}
