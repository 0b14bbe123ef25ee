//! The backends that diffmas runs on.
//!
//! This is the only crate that names a concrete Burn backend. It defines [`ModelBackend`], the bound every component of
//! diffmas uses: the few operations that a backend may do better than composed Burn operations, each with a default in
//! plain Burn operations ([`composed`]) and a hand-written gradient, so that `Autodiff<B>` records one node an operation
//! ([`mod@autodiff`]) whatever `B` is.
//!
//! Each backend type lives in one file behind a Cargo feature (`flex`, `ndarray`; `cube.rs` for all whose kernels CubeCL compiles: `wgpu`
//! with its settings `vulkan` and `metal`, `cuda`, `rocm`). [`BackendKind`] names those compiled in, and [`BackendKind::run`] is the one point that turns a name
//! into a type.

#![warn(missing_docs)]

use burn::prelude::*;

mod adamw;
mod attention;
pub mod autodiff;
mod cache_folder;
pub mod composed;
#[cfg(feature = "cube")]
mod cube;
#[cfg(feature = "cuda")]
mod cuda;
mod device;
mod device_failure;
mod device_info;
#[cfg(feature = "flex")]
mod flex;
#[cfg(any(feature = "flex", feature = "ndarray"))]
mod host;
mod human_bytes;
#[cfg(any(feature = "wgpu", feature = "cuda"))]
mod kernel_cache;
mod mask;
mod memory;
#[cfg(feature = "ndarray")]
mod ndarray;
mod quiet;
mod read;
mod scores;
mod stored;
mod weight;
#[cfg(feature = "wgpu")]
mod wgpu;

pub use adamw::{AdamWRange, AdamWState};
pub use attention::{AttentionCall, AttentionGrads, KeyValueBlock};
pub use burn::backend::Autodiff;
#[cfg(feature = "flex")]
pub use burn::backend::Flex;
pub use cache_folder::{cache_folder, keep_no_kernels};
pub use device::{BackendKind, BackendVisitor, DeviceError, Job, for_each_backend};
pub use device_failure::check_device;
pub use device_info::{DeviceInfo, software_wanted};
#[cfg(feature = "flex")]
pub use flex::cpu_instructions;
pub use human_bytes::human_bytes;
pub use mask::{AttentionMask, HostMask};
pub use memory::{DeviceMemory, free_host_memory};
pub use read::{host_data, host_data_of_all, settle};
pub use scores::{BestToken, Penalty, ScoredToken};
pub use stored::{BlockError, BlockFormat, StoredDtype, StoredMatrix};
use weight::DOES_NOT_MULTIPLY;
pub use weight::{FrozenMatrix, ProductDtype, WeightUse};

/// Borrowed LoRA factors of one linear layer.
#[derive(Debug)]
pub struct LoraRef<'a, B: Backend> {
    /// `lora_A`, `[r, in]`.
    pub a: &'a Tensor<B, 2>,
    /// `lora_B`, `[out, r]`.
    pub b: &'a Tensor<B, 2>,
    /// `lora_alpha / r`, or `lora_alpha / sqrt(r)` for rank-stabilised LoRA.
    pub scaling: f64,
}

impl<B: Backend> Clone for LoraRef<'_, B> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<B: Backend> Copy for LoraRef<'_, B> {}

/// Borrowed parts of one linear layer, and what is added to its output.
#[derive(Debug)]
pub struct LinearRef<'a, B: ModelBackend> {
    /// `[out, in]`, frozen.
    pub weight: &'a B::Weight,
    /// `[out]`, frozen.
    pub bias: Option<&'a Tensor<B, 1>>,
    /// Trainable factors.
    pub lora: Option<LoraRef<'a, B>>,
    /// `[N, out]`
    pub residual: Option<&'a Tensor<B, 2>>,
}

/// Borrowed parts of a norm over each head.
#[derive(Debug)]
pub struct HeadNorm<'a, B: Backend> {
    /// `[d]`, frozen.
    pub weight: &'a Tensor<B, 1>,
    /// What is added to the mean square.
    pub eps: f64,
}

/// What a linear layer makes of its input.
#[derive(Debug)]
pub struct LinearOutput<B: Backend> {
    /// `[N, out]`
    pub y: Tensor<B, 2>,
    /// `s·x·Aᵀ` `[N, r]`, which LoRA's gradient needs again, where the backend keeps it.
    pub kept: Option<Tensor<B, 2>>,
}

/// What reaches the output of a linear layer from above.
#[derive(Debug)]
pub struct LinearSlope<'a, B: ModelBackend> {
    /// The gradient of its output, `[N, out]`.
    pub dy: Tensor<B, 2>,
    /// `[out, in]`
    pub weight: &'a B::Weight,
    /// Trainable factors.
    pub lora: Option<LoraRef<'a, B>>,
    /// See [`LinearOutput::kept`].
    pub kept: Option<Tensor<B, 2>>,
    /// Gradients of `A` and `B` to which those of this layer are added.
    pub sums: Option<(Tensor<B, 2>, Tensor<B, 2>)>,
}

/// The gradients of layers of one input: of that input, and by layer of the factors `A` and `B`, where there is LoRA.
pub type LinearsGrads<B> = (Option<Tensor<B, 2>>, Vec<Option<(Tensor<B, 2>, Tensor<B, 2>)>>);

/// The gradients of a linear layer: of its input, and of the factors `A` and `B`, where asked for.
pub type LinearGrads<B> = (Option<Tensor<B, 2>>, Option<(Tensor<B, 2>, Tensor<B, 2>)>);

/// The operations of a transformer that a backend may do better than composed Burn operations.
///
/// Symbols: `N` tokens of all rows, `B` rows, `t` queries a row, `n` keys a row, `H`/`G` query/KV heads, `d` head width,
/// `r` LoRA rank. Weights are frozen: only activations and LoRA factors have gradients.
pub trait ModelBackend: Backend {
    /// How a frozen matrix is kept; the same with and without autodiff.
    type Weight: FrozenMatrix;

    /// Memory in which the keys and values of one layer grow, taken when they first do; the same with and without autodiff.
    type Room: Default + std::fmt::Debug + Send + 'static;

    /// Whether keys and values grow in such memory; else all of them are copied each time.
    const GROWS_IN_PLACE: bool = false;

    /// What its allocator holds on `device` for the calling thread; none where tensors lie in the process's own memory, or once the device
    /// has failed.
    fn device_memory(_device: &Self::Device) -> Option<DeviceMemory> {
        None
    }

    /// Makes the form of `mask` that this backend's attention reads.
    fn attention_mask(mask: HostMask, device: &Self::Device) -> AttentionMask<Self> {
        AttentionMask::on_device(mask, device)
    }

    /// `a·b` over the last two dimensions. Sums of f32 are f32 on every backend, which Burn's own product does not promise.
    ///
    /// # Shapes
    /// `[.., m, k]`, `[.., k, n]` of the same leading dimensions → `[.., m, n]`
    fn matmul<const D: usize>(a: Tensor<Self, D>, b: Tensor<Self, D>) -> Tensor<Self, D> {
        a.matmul(b)
    }

    /// The sum of all elements, `[1]`; the same bits for the same elements every time, which Burn's own sum does not promise.
    fn sum<const D: usize>(x: Tensor<Self, D>) -> Tensor<Self, 1> {
        x.sum()
    }

    /// The sum over the last dimension, which stays with length 1. Except on ndarray, a row's bits do not depend on the rows beside it.
    fn sum_last<const D: usize>(x: Tensor<Self, D>) -> Tensor<Self, D> {
        x.sum_dim(D - 1)
    }

    /// The mean over the last dimension, which stays with length 1.
    fn mean_last<const D: usize>(x: Tensor<Self, D>) -> Tensor<Self, D> {
        x.mean_dim(D - 1)
    }

    /// The maximum over the last dimension, which stays with length 1.
    fn max_last<const D: usize>(x: Tensor<Self, D>) -> Tensor<Self, D> {
        x.max_dim(D - 1)
    }

    /// The minimum over the last dimension, which stays with length 1.
    fn min_last<const D: usize>(x: Tensor<Self, D>) -> Tensor<Self, D> {
        x.min_dim(D - 1)
    }

    /// The index of the first of the largest elements of the last dimension, which stays with length 1.
    fn argmax_last<const D: usize>(x: Tensor<Self, D>) -> Tensor<Self, D, Int> {
        x.argmax(D - 1)
    }

    /// Softmax over the last dimension. A score whose exponential is 0 changes no other weight, not even by rounding, where a backend
    /// promises rows that do not depend on padding.
    fn softmax_last<const D: usize>(x: Tensor<Self, D>) -> Tensor<Self, D> {
        composed::softmax_last(x)
    }

    /// Whether a frozen matrix of these numbers can stay as it is on `device`. Every backend keeps f32.
    fn keeps(dtype: StoredDtype, device: &Self::Device) -> bool;

    /// The bytes of the largest tensor that `device` can hold in one piece; none where only memory bounds it.
    fn largest_tensor(device: &Self::Device) -> Option<u64> {
        let _ = device;
        None
    }

    /// Whether products of frozen matrices can be computed in these numbers on `device`. Every backend computes in f32.
    ///
    /// # Errors
    /// Why they cannot, as what follows "this device".
    fn multiplies(dtype: ProductDtype, device: &Self::Device) -> Result<(), String> {
        let _ = device;
        if dtype == ProductDtype::F32 { Ok(()) } else { Err(DOES_NOT_MULTIPLY.into()) }
    }

    /// Takes over a matrix `[out, in]`.
    ///
    /// # Panics
    /// If the backend does not keep its numbers; see [`ModelBackend::keeps`].
    fn frozen_weight(matrix: StoredMatrix, used: WeightUse, device: &Self::Device) -> Self::Weight;

    /// The matrix, whose products with many rows are computed in `products` from here on, the numbers of both rounded to them. With few rows
    /// a product waits for the numbers of the matrix, not for arithmetic, and is computed in f32.
    ///
    /// # Panics
    /// If the backend does not compute in them; see [`ModelBackend::multiplies`].
    fn multiplied_in(weight: Self::Weight, products: ProductDtype) -> Self::Weight {
        assert_eq!(products, ProductDtype::F32, "what this backend computes in");
        weight
    }

    /// `y = x · Wᵀ + bias + s·(x · Aᵀ)·Bᵀ`, LoRA kept factored (Hu et al., arXiv 2106.09685).
    ///
    /// # Shapes
    /// `x [N, in]`, `weight [out, in]`, `bias [out]` → `[N, out]`
    fn frozen_linear(
        x: Tensor<Self, 2>,
        weight: &Self::Weight,
        bias: Option<&Tensor<Self, 1>>,
        lora: Option<LoraRef<'_, Self>>,
    ) -> Tensor<Self, 2>;

    /// The gradients of [`ModelBackend::frozen_linear`]: of `x` if `wants_dx`, and of `A` and `B` where there is LoRA (`x` must be given then).
    fn frozen_linear_backward(
        dy: Tensor<Self, 2>,
        x: Option<Tensor<Self, 2>>,
        weight: &Self::Weight,
        lora: Option<LoraRef<'_, Self>>,
        wants_dx: bool,
    ) -> LinearGrads<Self>;

    /// Several layers of one input, [`ModelBackend::frozen_linear`] each, with what is added to their outputs.
    ///
    /// # Shapes
    /// `x [N, in]` → `[N, out]` by layer
    fn frozen_linears(x: Tensor<Self, 2>, layers: &[LinearRef<'_, Self>]) -> Vec<LinearOutput<Self>> {
        composed::frozen_linears(x, layers)
    }

    /// The gradients of [`ModelBackend::frozen_linears`] from what reaches some of the layers, one at least: of `x` if `wants_dx`, and of `A`
    /// and `B` where there is LoRA (`x` must be given then). That of a residual is `dy`.
    fn frozen_linears_backward(
        x: Option<Tensor<Self, 2>>,
        slopes: Vec<LinearSlope<'_, Self>>,
        wants_dx: bool,
    ) -> LinearsGrads<Self> {
        composed::frozen_linears_backward(x, slopes, wants_dx)
    }

    /// `y = x · W`. Its gradient is [`ModelBackend::frozen_linear`].
    ///
    /// # Shapes
    /// `x [N, out]`, `weight [out, in]` → `[N, in]`
    fn frozen_transposed(x: Tensor<Self, 2>, weight: &Self::Weight) -> Tensor<Self, 2>;

    /// The rows `ids` of a table, in at least f32.
    ///
    /// # Shapes
    /// `n` ids below `out`, `weight [out, in]` → `[n, in]`
    fn embed(weight: &Self::Weight, ids: &[u32], device: &Self::Device) -> Tensor<Self, 2>;

    /// Root-mean-square norm over the last dimension, in at least f32 (Zhang & Sennrich, arXiv 1910.07467).
    ///
    /// # Shapes
    /// `x [N, D]`, `weight [D]` → `[N, D]`
    fn rms_norm(x: Tensor<Self, 2>, weight: &Tensor<Self, 1>, eps: f64) -> Tensor<Self, 2> {
        composed::rms_norm(x, weight, eps)
    }

    /// The gradient of [`ModelBackend::rms_norm`] with respect to `x`.
    fn rms_norm_backward(
        dy: Tensor<Self, 2>,
        x: Tensor<Self, 2>,
        weight: &Tensor<Self, 1>,
        eps: f64,
    ) -> Tensor<Self, 2> {
        composed::rms_norm_backward(dy, x, weight, eps)
    }

    /// [`ModelBackend::rms_norm_backward`], and `sum` added to it.
    ///
    /// # Shapes
    /// `sum`, `dy`, `x` `[N, D]`, `weight [D]` → `[N, D]`
    fn rms_norm_backward_onto(
        sum: Tensor<Self, 2>,
        dy: Tensor<Self, 2>,
        x: Tensor<Self, 2>,
        weight: &Tensor<Self, 1>,
        eps: f64,
    ) -> Tensor<Self, 2> {
        Self::rms_norm_backward(dy, x, weight, eps) + sum
    }

    /// Rotary embedding with halves rotated (Su et al., arXiv 2104.09864, as in Llama): with `x = [x₁, x₂]`,
    /// `[x₁·cos − x₂·sin, x₂·cos + x₁·sin]`.
    ///
    /// # Shapes
    /// `x [N, heads, d]`, `cos`, `sin` `[N, d/2]` → `[N, heads, d]`
    fn rotary(x: Tensor<Self, 3>, cos: &Tensor<Self, 2>, sin: &Tensor<Self, 2>) -> Tensor<Self, 3> {
        composed::rotary(x, cos, sin)
    }

    /// The gradient of [`ModelBackend::rotary`]: the rotation by the negative angle.
    fn rotary_backward(dy: Tensor<Self, 3>, cos: &Tensor<Self, 2>, sin: &Tensor<Self, 2>) -> Tensor<Self, 3> {
        Self::rotary(dy, cos, &sin.clone().neg())
    }

    /// [`ModelBackend::rotary`] of several tensors of the same positions.
    fn rotary_all<const N: usize>(
        xs: [Tensor<Self, 3>; N],
        cos: &Tensor<Self, 2>,
        sin: &Tensor<Self, 2>,
    ) -> [Tensor<Self, 3>; N] {
        xs.map(|x| Self::rotary(x, cos, sin))
    }

    /// [`ModelBackend::rms_norm`] over each head, then [`ModelBackend::rotary`], of several tensors of the same positions.
    fn normed_rotary_all<const N: usize>(
        xs: [Tensor<Self, 3>; N],
        norms: [HeadNorm<'_, Self>; N],
        cos: &Tensor<Self, 2>,
        sin: &Tensor<Self, 2>,
    ) -> [Tensor<Self, 3>; N] {
        composed::normed_rotary_all(xs, norms, cos, sin)
    }

    /// The gradient of one tensor of [`ModelBackend::normed_rotary_all`].
    fn normed_rotary_backward(
        dy: Tensor<Self, 3>,
        x: Tensor<Self, 3>,
        norm: HeadNorm<'_, Self>,
        cos: &Tensor<Self, 2>,
        sin: &Tensor<Self, 2>,
    ) -> Tensor<Self, 3> {
        composed::normed_rotary_backward(dy, x, norm, cos, sin)
    }

    /// `silu(gate) · up`, elementwise (Shazeer, arXiv 2002.05202).
    fn swiglu(gate: Tensor<Self, 2>, up: Tensor<Self, 2>) -> Tensor<Self, 2> {
        composed::swiglu(gate, up)
    }

    /// The gradients of [`ModelBackend::swiglu`]: `(d_gate, d_up)`.
    fn swiglu_backward(
        dy: Tensor<Self, 2>,
        gate: Tensor<Self, 2>,
        up: Tensor<Self, 2>,
    ) -> (Tensor<Self, 2>, Tensor<Self, 2>) {
        composed::swiglu_backward(dy, gate, up)
    }

    /// Grouped-query attention over blocks joined before the softmax; keys and values are never expanded or copied together. Query head
    /// `h` reads KV head `h / (H / G)`. A query that sees nothing gives zeros.
    ///
    /// # Shapes
    /// `q [B, t, H, d]`, blocks `[B or 1, G, n_i, d]` with `Σ n_i` = the mask's keys → output `[B, t, H, d]`, and the log-sum-exp of the
    /// scaled scores `[B, G, (H/G)·t, 1]` for the backward pass.
    fn block_attention(call: &AttentionCall<Self>) -> (Tensor<Self, 4>, Tensor<Self, 4>) {
        composed::block_attention(call)
    }

    /// The gradients of [`ModelBackend::block_attention`], which returned `out` and `lse`; `wants` says which blocks need theirs.
    fn block_attention_backward(
        call: &AttentionCall<Self>,
        d_out: Tensor<Self, 4>,
        out: Tensor<Self, 4>,
        lse: Tensor<Self, 4>,
        wants: &[bool],
    ) -> AttentionGrads<Self> {
        composed::block_attention_backward(call, d_out, out, lse, wants)
    }

    /// [`ModelBackend::block_attention_backward`]; to the gradients of each block that has one, its sum is added.
    fn block_attention_backward_onto(
        sums: Vec<Option<KeyValueBlock<Self>>>,
        call: &AttentionCall<Self>,
        d_out: Tensor<Self, 4>,
        out: Tensor<Self, 4>,
        lse: Tensor<Self, 4>,
        wants: &[bool],
    ) -> AttentionGrads<Self> {
        let AttentionGrads { query, blocks } = Self::block_attention_backward(call, d_out, out, lse, wants);
        AttentionGrads { query, blocks: composed::onto(sums, blocks) }
    }

    /// `−log softmax(logits)[target]` of each row, in at least f32.
    ///
    /// # Shapes
    /// `logits [N, V]`, `N` targets below `V` → `[N]`
    fn token_nll(logits: Tensor<Self, 2>, targets: &[u32]) -> Tensor<Self, 1> {
        composed::token_nll(logits, targets)
    }

    /// The gradient of [`ModelBackend::token_nll`] with respect to the logits.
    fn token_nll_backward(
        d_nll: Tensor<Self, 1>,
        logits: Tensor<Self, 2>,
        targets: &[u32],
    ) -> Tensor<Self, 2> {
        composed::token_nll_backward(d_nll, logits, targets)
    }

    /// `KL(p ‖ softmax(logits)) = Σ_v p_v (log p_v − log softmax(logits)_v)` of each row, in at least f32. `log_p` is a constant: no
    /// gradient goes into it. `−∞` there is a probability of 0, which adds nothing.
    ///
    /// # Shapes
    /// `log_p [N, V]`, `logits [N, V]` → `[N]`
    fn token_kl(log_p: Tensor<Self, 2>, logits: Tensor<Self, 2>) -> Tensor<Self, 1> {
        composed::token_kl(log_p, logits)
    }

    /// The gradient of [`ModelBackend::token_kl`] with respect to the logits.
    fn token_kl_backward(
        d_kl: Tensor<Self, 1>,
        log_p: Tensor<Self, 2>,
        logits: Tensor<Self, 2>,
    ) -> Tensor<Self, 2> {
        composed::token_kl_backward(d_kl, log_p, logits)
    }

    /// The best token of each row, all that greedy generation brings to the host; of log-probabilities in at least f32.
    ///
    /// # Shapes
    /// `logits [N, V]` → `N` tokens
    fn best_tokens(logits: Tensor<Self, 2>) -> Vec<BestToken> {
        composed::best_tokens(logits)
    }

    /// The `counts[i]` best tokens of each row of finite scores and what ties with the last of them, best first and equals in order of their
    /// ids; all tokens where that is 0 or more than there are.
    ///
    /// # Shapes
    /// `logits [N, V]`, `N` counts → `N` lists
    fn top_tokens(logits: Tensor<Self, 2>, counts: &[usize]) -> Vec<Vec<ScoredToken>> {
        composed::top_tokens(logits, counts)
    }

    /// `Σ_v exp((logits_v − max) / temperature)` of each row of finite scores, to a relative error well below 1e-4.
    ///
    /// # Shapes
    /// `logits [N, V]`, `N` temperatures → `N` sums
    fn warm_sums(logits: Tensor<Self, 2>, temperatures: &[f64]) -> Vec<f64> {
        composed::warm_sums(logits, temperatures)
    }

    /// Scores with the [`Penalty`] of each row.
    ///
    /// # Shapes
    /// `logits [N, V]`, `N` penalties → `[N, V]`
    fn penalised(logits: Tensor<Self, 2>, penalties: &[Penalty]) -> Tensor<Self, 2> {
        composed::penalised(logits, penalties)
    }

    /// Keys and values of `new` after those of `tail`.
    ///
    /// # Shapes
    /// `[B, G, n, d]` and `[B, G, t, d]` → `[B, G, n + t, d]`
    fn appended(tail: KeyValueBlock<Self>, new: KeyValueBlock<Self>) -> KeyValueBlock<Self> {
        composed::appended(tail, new)
    }

    /// [`ModelBackend::appended`], in `room` where the backend has such: memory for `capacity` positions, in which each is written once. A room
    /// is that of one tail, which is what it returned last; what it returned before stays as it is.
    fn grown(
        room: &mut Self::Room,
        capacity: usize,
        tail: KeyValueBlock<Self>,
        new: KeyValueBlock<Self>,
    ) -> KeyValueBlock<Self> {
        let _ = (room, capacity);
        Self::appended(tail, new)
    }

    /// A cache with `new` at the positions from `from` on; in place where nobody else holds the cache.
    ///
    /// # Shapes
    /// `cache [B, G, C, d]`, `new [B, G, t, d]` with `from + t ≤ C` → `[B, G, C, d]`
    fn written(cache: Tensor<Self, 4>, new: Tensor<Self, 4>, from: usize) -> Tensor<Self, 4> {
        composed::written(cache, new, from)
    }

    /// The matrix that lies in `flat` from the number `from` on, row after row; without a copy where the backend has views.
    ///
    /// # Shapes
    /// `flat [N]`, `shape` of at most `N − from` numbers → `shape`
    fn part(flat: &Tensor<Self, 1>, from: usize, shape: [usize; 2]) -> Tensor<Self, 2> {
        composed::part(flat, from, shape)
    }

    /// `flat`, each matrix added to the numbers from its place on; in place where nobody else holds `flat`. No two matrices have a place in
    /// common.
    ///
    /// # Shapes
    /// `flat [N]`, matrices that end before `N` → `[N]`
    fn added(flat: Tensor<Self, 1>, parts: Vec<(usize, Tensor<Self, 2>)>) -> Tensor<Self, 1> {
        composed::added(flat, parts)
    }

    /// The sum of the squares of all numbers, on the host; the same bits for the same numbers every time.
    fn sum_of_squares(x: Tensor<Self, 1>) -> f64 {
        composed::sum_of_squares(x)
    }

    /// An update of AdamW (Loshchilov & Hutter, arXiv 1711.05101) of the numbers in `ranges`, which have none in common; the others stay as they
    /// are. With the gradient `g` times its factor, of each number `θ`
    ///
    /// `m ← β₁·m + (1 − β₁)·g`, `v ← β₂·v + (1 − β₂)·g²`, `θ ← (1 − η·λ)·θ − η·(m / (1 − β₁ᵗ)) / (√(v / (1 − β₂ᵗ)) + ε)`;
    ///
    /// in place where nobody else holds a tensor of `state`.
    ///
    /// # Shapes
    /// All tensors `[N]`.
    fn adamw(state: AdamWState<Self>, gradient: Tensor<Self, 1>, ranges: &[AdamWRange]) -> AdamWState<Self> {
        composed::adamw(state, gradient, ranges)
    }
}
