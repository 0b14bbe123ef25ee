//! The backends whose kernels CubeCL compiles: CUDA, ROCm, and any graphics API through wgpu.

mod append;
mod arena;
mod attention;
mod attention_backward;
mod elementwise;
mod flat;
mod head_norm;
mod launch;
mod linear;
mod linear_kernels;
mod matmul;
mod reduce;
mod rows;
mod top;
mod weight;

use burn::prelude::*;
use burn::tensor::backend::{DTypeUsage, DeviceOps};
use burn::tensor::{DType, TensorPrimitive};
use burn_cubecl::cubecl::server::ComputeServer;
use burn_cubecl::tensor::CubeTensor;
use burn_cubecl::{BoolElement, CubeBackend, CubeRuntime, FloatElement, IntElement};
use cubek::reduce::components::instructions::ReduceOperationConfig as Operation;

use self::matmul::product;
use self::weight::DeviceMatrix;
use crate::scores::best_first;
use crate::{
    AdamWRange, AdamWState, AttentionCall, AttentionGrads, AttentionMask, BestToken, DOES_NOT_MULTIPLY,
    DeviceMemory, FrozenMatrix, HeadNorm, HostMask, KeyValueBlock, LinearGrads, LinearOutput, LinearRef,
    LinearSlope, LinearsGrads, LoraRef, ProductDtype, ScoredToken, StoredDtype, StoredMatrix, WeightUse,
    check_device, composed, host_data,
};

impl<R, F, I, BT> crate::ModelBackend for CubeBackend<R, F, I, BT>
where
    R: CubeRuntime,
    R::Server: ComputeServer,
    R::Device: DeviceOps,
    F: FloatElement,
    I: IntElement,
    BT: BoolElement,
{
    type Weight = DeviceMatrix<Self>;
    type Room = append::Room<R>;

    const GROWS_IN_PLACE: bool = true;

    fn device_memory(device: &Self::Device) -> Option<DeviceMemory> {
        // The thread of a device that has failed answers nobody.
        check_device().ok()?;
        let usage = R::client(device).memory_usage().ok()?;
        Some(DeviceMemory { in_use: usage.bytes_in_use, reserved: usage.bytes_reserved })
    }

    fn keeps(dtype: StoredDtype, device: &Self::Device) -> bool {
        dtype == StoredDtype::F32
            || float(dtype)
                .is_some_and(|dtype| Self::dtype_usage(device, dtype).contains(DTypeUsage::Storage))
    }

    fn largest_tensor(device: &Self::Device) -> Option<u64> {
        Some(R::client(device).properties().memory.max_page_size)
    }

    fn multiplies(dtype: ProductDtype, device: &Self::Device) -> Result<(), String> {
        let client = R::client(device);
        if !matmul::multiplies(dtype, client.properties()) {
            return Err(DOES_NOT_MULTIPLY.into());
        }
        #[cfg(feature = "cuda")]
        if dtype != ProductDtype::F32 && R::name(&client) == "cuda" {
            return crate::cuda::tensor_cores();
        }
        Ok(())
    }

    fn frozen_weight(matrix: StoredMatrix, _used: WeightUse, device: &Self::Device) -> Self::Weight {
        let dtype = float(matrix.dtype()).expect("numbers that the device keeps");
        DeviceMatrix::new(matrix, dtype, R::client(device).properties().memory.max_page_size, device)
    }

    fn multiplied_in(weight: Self::Weight, products: ProductDtype) -> Self::Weight {
        weight.multiplied_in(products)
    }

    fn frozen_linear(
        x: Tensor<Self, 2>,
        weight: &Self::Weight,
        bias: Option<&Tensor<Self, 1>>,
        lora: Option<LoraRef<'_, Self>>,
    ) -> Tensor<Self, 2> {
        let Some(whole) = weight.whole() else {
            let pieces = weight.pieces().map(|(_, piece)| Self::frozen_linear(x.clone(), &piece, None, None));
            return composed::with_bias_and_lora(Tensor::cat(pieces.collect(), 1), x, bias, lora);
        };
        if !linear_in_f32(&x, lora) {
            return composed::frozen_linear(x, whole, bias, lora);
        }
        let layer = LinearRef { weight, bias, lora, residual: None };
        let output = Self::frozen_linears(x, &[layer]).pop();
        output.expect("an output for each layer").y
    }

    fn frozen_linear_backward(
        dy: Tensor<Self, 2>,
        x: Option<Tensor<Self, 2>>,
        weight: &Self::Weight,
        lora: Option<LoraRef<'_, Self>>,
        wants_dx: bool,
    ) -> LinearGrads<Self> {
        let Some(whole) = weight.whole() else {
            let dx = wants_dx.then(|| Self::frozen_transposed(dy.clone(), weight));
            return composed::with_lora_gradients(dx, dy, x, lora);
        };
        if !linear_in_f32(&dy, lora) {
            return composed::frozen_linear_backward(dy, x, whole, lora, wants_dx);
        }
        let slope = LinearSlope { dy, weight, lora, kept: None, sums: None };
        let (dx, mut factors) = Self::frozen_linears_backward(x, vec![slope], wants_dx);
        (dx, factors.pop().flatten())
    }

    fn frozen_linears(x: Tensor<Self, 2>, layers: &[LinearRef<'_, Self>]) -> Vec<LinearOutput<Self>> {
        let in_f32 = |layer: &LinearRef<'_, Self>| {
            linear_in_f32(&x, layer.lora) && layer.residual.is_none_or(|residual| in_f32([residual]))
        };
        let matrices: Option<Vec<_>> = layers.iter().map(|layer| matrix(layer.weight)).collect();
        let Some(matrices) = matrices.filter(|_| layers.iter().all(in_f32)) else {
            return composed::frozen_linears(x, layers);
        };
        let layers = layers.iter().zip(matrices).map(|(layer, matrix)| linear::Linear {
            matrix,
            bias: layer.bias.map(|bias| raw(bias.clone())),
            lora: layer.lora.map(factors),
            residual: layer.residual.map(|residual| raw(residual.clone())),
        });
        let outputs = linear::frozen_linears(raw(x), layers.collect());
        outputs.into_iter().map(|(y, kept)| LinearOutput { y: wrapped(y), kept: kept.map(wrapped) }).collect()
    }

    fn frozen_linears_backward(
        x: Option<Tensor<Self, 2>>,
        slopes: Vec<LinearSlope<'_, Self>>,
        wants_dx: bool,
    ) -> LinearsGrads<Self> {
        let in_f32 = |slope: &LinearSlope<'_, Self>| linear_in_f32(&slope.dy, slope.lora);
        let matrices: Option<Vec<_>> = slopes.iter().map(|slope| matrix(slope.weight)).collect();
        let Some(matrices) = matrices.filter(|_| slopes.iter().all(in_f32)) else {
            return composed::frozen_linears_backward(x, slopes, wants_dx);
        };
        let slopes = slopes.into_iter().zip(matrices).map(|(slope, matrix)| linear::Slope {
            dy: raw(slope.dy),
            matrix,
            lora: slope.lora.map(factors),
            kept: slope.kept.map(raw),
            sums: slope.sums.map(|(a, b)| (raw(a), raw(b))),
        });
        let (dx, grads) = linear::frozen_linears_backward(x.map(raw), slopes.collect(), wants_dx);
        let grads = grads.into_iter().map(|grads| grads.map(|(a, b)| (wrapped(a), wrapped(b))));
        (dx.map(wrapped), grads.collect())
    }

    fn frozen_transposed(x: Tensor<Self, 2>, weight: &Self::Weight) -> Tensor<Self, 2> {
        let Some(whole) = weight.whole() else {
            let of_piece = |(from, piece): (usize, Self::Weight)| {
                Self::frozen_transposed(x.clone().narrow(1, from, piece.shape()[0]), &piece)
            };
            let sum = weight.pieces().map(of_piece).reduce(|sum, part| sum + part);
            return sum.expect("one piece at least");
        };
        match matrix(weight).filter(|_| in_f32([&x])) {
            Some(matrix) => wrapped(linear::frozen_transposed(raw(x), matrix)),
            None => composed::frozen_transposed(x, whole),
        }
    }

    fn embed(weight: &Self::Weight, ids: &[u32], device: &Self::Device) -> Tensor<Self, 2> {
        match weight.whole() {
            Some(whole) => composed::embed(whole, ids),
            None => weight.embed(ids, device),
        }
    }

    fn rms_norm(x: Tensor<Self, 2>, weight: &Tensor<Self, 1>, eps: f64) -> Tensor<Self, 2> {
        match in_f32([&x]) {
            true => wrapped(rows::rms_norm(raw(x), raw(weight.clone()), eps)),
            false => composed::rms_norm(x, weight, eps),
        }
    }

    fn rms_norm_backward(
        dy: Tensor<Self, 2>,
        x: Tensor<Self, 2>,
        weight: &Tensor<Self, 1>,
        eps: f64,
    ) -> Tensor<Self, 2> {
        match in_f32([&dy, &x]) {
            true => wrapped(rows::rms_norm_backward(None, raw(dy), raw(x), raw(weight.clone()), eps)),
            false => composed::rms_norm_backward(dy, x, weight, eps),
        }
    }

    fn rms_norm_backward_onto(
        sum: Tensor<Self, 2>,
        dy: Tensor<Self, 2>,
        x: Tensor<Self, 2>,
        weight: &Tensor<Self, 1>,
        eps: f64,
    ) -> Tensor<Self, 2> {
        match in_f32([&sum, &dy, &x]) {
            true => {
                wrapped(rows::rms_norm_backward(Some(raw(sum)), raw(dy), raw(x), raw(weight.clone()), eps))
            }
            false => composed::rms_norm_backward(dy, x, weight, eps) + sum,
        }
    }

    fn rotary(x: Tensor<Self, 3>, cos: &Tensor<Self, 2>, sin: &Tensor<Self, 2>) -> Tensor<Self, 3> {
        let [y] = rotated([x], cos, sin, 1.0);
        y
    }

    fn rotary_backward(dy: Tensor<Self, 3>, cos: &Tensor<Self, 2>, sin: &Tensor<Self, 2>) -> Tensor<Self, 3> {
        let [dx] = rotated([dy], cos, sin, -1.0);
        dx
    }

    fn rotary_all<const N: usize>(
        xs: [Tensor<Self, 3>; N],
        cos: &Tensor<Self, 2>,
        sin: &Tensor<Self, 2>,
    ) -> [Tensor<Self, 3>; N] {
        rotated(xs, cos, sin, 1.0)
    }

    fn normed_rotary_all<const N: usize>(
        xs: [Tensor<Self, 3>; N],
        norms: [HeadNorm<'_, Self>; N],
        cos: &Tensor<Self, 2>,
        sin: &Tensor<Self, 2>,
    ) -> [Tensor<Self, 3>; N] {
        if !xs.iter().all(|x| in_f32([x])) || !in_f32([cos, sin]) {
            return composed::normed_rotary_all(xs, norms, cos, sin);
        }
        let (xs, norms) = (xs.map(raw), norms.map(head_norm));
        head_norm::normed_rotary(xs, norms, raw(cos.clone()), raw(sin.clone())).map(wrapped)
    }

    fn normed_rotary_backward(
        dy: Tensor<Self, 3>,
        x: Tensor<Self, 3>,
        norm: HeadNorm<'_, Self>,
        cos: &Tensor<Self, 2>,
        sin: &Tensor<Self, 2>,
    ) -> Tensor<Self, 3> {
        if !in_f32([&dy, &x]) || !in_f32([cos, sin]) {
            return composed::normed_rotary_backward(dy, x, norm, cos, sin);
        }
        let (dy, x, norm) = (raw(dy), raw(x), head_norm(norm));
        wrapped(head_norm::normed_rotary_backward(dy, x, norm, raw(cos.clone()), raw(sin.clone())))
    }

    fn appended(tail: KeyValueBlock<Self>, new: KeyValueBlock<Self>) -> KeyValueBlock<Self> {
        if !in_f32([&tail.key, &tail.value, &new.key, &new.value]) {
            return composed::appended(tail, new);
        }
        let [key, value] = append::appended(primitives(tail), primitives(new)).map(wrapped);
        KeyValueBlock { key, value }
    }

    fn grown(
        room: &mut Self::Room,
        capacity: usize,
        tail: KeyValueBlock<Self>,
        new: KeyValueBlock<Self>,
    ) -> KeyValueBlock<Self> {
        if !in_f32([&tail.key, &tail.value, &new.key, &new.value]) {
            return composed::appended(tail, new);
        }
        let [key, value] = room.grown(capacity, primitives(tail), primitives(new)).map(wrapped);
        KeyValueBlock { key, value }
    }

    fn swiglu(gate: Tensor<Self, 2>, up: Tensor<Self, 2>) -> Tensor<Self, 2> {
        match in_f32([&gate, &up]) {
            true => wrapped(elementwise::swiglu(raw(gate), raw(up))),
            false => composed::swiglu(gate, up),
        }
    }

    fn swiglu_backward(
        dy: Tensor<Self, 2>,
        gate: Tensor<Self, 2>,
        up: Tensor<Self, 2>,
    ) -> (Tensor<Self, 2>, Tensor<Self, 2>) {
        match in_f32([&dy, &gate, &up]) {
            true => {
                let (d_gate, d_up) = elementwise::swiglu_backward(raw(dy), raw(gate), raw(up));
                (wrapped(d_gate), wrapped(d_up))
            }
            false => composed::swiglu_backward(dy, gate, up),
        }
    }

    fn attention_mask(mask: HostMask, device: &Self::Device) -> AttentionMask<Self> {
        AttentionMask::with_padding(mask, device)
    }

    fn block_attention(call: &AttentionCall<Self>) -> (Tensor<Self, 4>, Tensor<Self, 4>) {
        match kernel_call(call) {
            Some(call) => {
                let (out, lse) = attention::attention(&call);
                (wrapped(out), wrapped(lse))
            }
            None => composed::block_attention(call),
        }
    }

    fn block_attention_backward(
        call: &AttentionCall<Self>,
        d_out: Tensor<Self, 4>,
        out: Tensor<Self, 4>,
        lse: Tensor<Self, 4>,
        wants: &[bool],
    ) -> AttentionGrads<Self> {
        Self::block_attention_backward_onto(vec![None; wants.len()], call, d_out, out, lse, wants)
    }

    fn block_attention_backward_onto(
        sums: Vec<Option<KeyValueBlock<Self>>>,
        call: &AttentionCall<Self>,
        d_out: Tensor<Self, 4>,
        out: Tensor<Self, 4>,
        lse: Tensor<Self, 4>,
        wants: &[bool],
    ) -> AttentionGrads<Self> {
        let added_in_f32 = sums.iter().flatten().all(|sum| in_f32([&sum.key, &sum.value]));
        let Some(kernel) = kernel_call(call).filter(|_| added_in_f32) else {
            let AttentionGrads { query, blocks } =
                composed::block_attention_backward(call, d_out, out, lse, wants);
            return AttentionGrads { query, blocks: composed::onto(sums, blocks) };
        };
        let [d_out, out, lse] = [d_out, out, lse].map(|x| x.into_primitive().tensor());
        let sums = sums.into_iter().map(|sum| sum.map(|sum| [sum.key, sum.value].map(raw)));
        let wanted = wants.iter().zip(sums).map(|(&wanted, sum)| wanted.then_some(sum)).collect();
        let (query, blocks) = attention_backward::attention_backward(&kernel, d_out, out, lse, wanted);
        let blocks = blocks.into_iter().map(|grads| grads.map(|(k, v)| (wrapped(k), wrapped(v))));
        AttentionGrads { query: wrapped(query), blocks: blocks.collect() }
    }

    fn token_nll(logits: Tensor<Self, 2>, targets: &[u32]) -> Tensor<Self, 1> {
        match in_f32([&logits]) {
            true => wrapped(rows::token_nll(raw(logits), targets)),
            false => composed::token_nll(logits, targets),
        }
    }

    fn token_nll_backward(
        d_nll: Tensor<Self, 1>,
        logits: Tensor<Self, 2>,
        targets: &[u32],
    ) -> Tensor<Self, 2> {
        match in_f32([&logits]) {
            true => wrapped(rows::token_nll_backward(raw(d_nll), raw(logits), targets)),
            false => composed::token_nll_backward(d_nll, logits, targets),
        }
    }

    fn best_tokens(logits: Tensor<Self, 2>) -> Vec<BestToken> {
        if !in_f32([&logits]) || logits.dims()[1] > rows::INDEXED {
            return composed::best_tokens(logits);
        }
        let best: Tensor<Self, 2> = wrapped(rows::best(raw(logits)));
        let numbers: Vec<f32> = host_data(best).iter().collect();
        let rows = numbers.as_chunks::<{ rows::BEST }>().0.iter();
        rows.map(|&[id, largest, least, sum]| BestToken::new(id as u32, largest, least, sum)).collect()
    }

    fn top_tokens(logits: Tensor<Self, 2>, counts: &[usize]) -> Vec<Vec<ScoredToken>> {
        let found = in_f32([&logits]).then(|| top::top(raw(logits.clone()), counts)).flatten();
        let Some((found, room)) = found else { return composed::top_tokens(logits, counts) };
        let found: Tensor<Self, 2> = wrapped(found);
        let numbers: Vec<f32> = host_data(found).iter().collect();
        let rows = || numbers.chunks_exact(1 + 2 * room);
        if rows().any(|row| row[0] as usize > room) {
            // Many scores are equal.
            return composed::top_tokens(logits, counts);
        }
        let token = |&[id, score]: &[f32; 2]| ScoredToken { id: id as u32, score };
        let tokens = |row: &[f32]| row[1..].as_chunks().0[..row[0] as usize].iter().map(token).collect();
        rows().zip(counts).map(|(row, &k)| best_first(tokens(row), k)).collect()
    }

    fn matmul<const D: usize>(a: Tensor<Self, D>, b: Tensor<Self, D>) -> Tensor<Self, D> {
        match in_f32([&a, &b]) {
            true => {
                wrapped(product(a.into_primitive().tensor(), b.into_primitive().tensor(), ProductDtype::F32))
            }
            false => a.matmul(b),
        }
    }

    fn sum<const D: usize>(x: Tensor<Self, D>) -> Tensor<Self, 1> {
        reduce::sum(x)
    }

    fn sum_last<const D: usize>(x: Tensor<Self, D>) -> Tensor<Self, D> {
        reduce::last(x, Operation::Sum)
    }

    fn mean_last<const D: usize>(x: Tensor<Self, D>) -> Tensor<Self, D> {
        reduce::last(x, Operation::Mean)
    }

    fn max_last<const D: usize>(x: Tensor<Self, D>) -> Tensor<Self, D> {
        reduce::last(x, Operation::Max)
    }

    fn min_last<const D: usize>(x: Tensor<Self, D>) -> Tensor<Self, D> {
        reduce::last(x, Operation::Min)
    }

    fn argmax_last<const D: usize>(x: Tensor<Self, D>) -> Tensor<Self, D, Int> {
        reduce::argmax_last(x, I::dtype())
    }

    fn part(flat: &Tensor<Self, 1>, from: usize, shape: [usize; 2]) -> Tensor<Self, 2> {
        let raw = raw(flat.clone());
        match launch::begins(&raw, from) {
            true => wrapped(launch::part(raw, from, shape)),
            false => composed::part(flat, from, shape),
        }
    }

    fn added(flat: Tensor<Self, 1>, parts: Vec<(usize, Tensor<Self, 2>)>) -> Tensor<Self, 1> {
        if !in_f32([&flat]) || !parts.iter().all(|(_, part)| in_f32([part])) {
            return composed::added(flat, parts);
        }
        let parts = parts.into_iter().map(|(from, part)| (from, raw(part))).collect();
        wrapped(flat::added(raw(flat), parts))
    }

    fn sum_of_squares(x: Tensor<Self, 1>) -> f64 {
        if !in_f32([&x]) {
            return composed::sum_of_squares(x);
        }
        host_data(wrapped::<_, Self, 1>(flat::squares(raw(x)))).iter::<f64>().sum()
    }

    fn adamw(state: AdamWState<Self>, gradient: Tensor<Self, 1>, ranges: &[AdamWRange]) -> AdamWState<Self> {
        if !in_f32([&state.parameters, &state.exp_avg, &state.exp_avg_sq, &gradient]) {
            return composed::adamw(state, gradient, ranges);
        }
        let state = [state.parameters, state.exp_avg, state.exp_avg_sq].map(raw);
        let [parameters, exp_avg, exp_avg_sq] = flat::adamw(state, raw(gradient), ranges).map(wrapped);
        AdamWState { parameters, exp_avg, exp_avg_sq }
    }
}

/// The tensor below the public one, its last dimension without gaps.
fn raw<R: CubeRuntime, B: Backend<FloatTensorPrimitive = CubeTensor<R>>, const D: usize>(
    x: Tensor<B, D>,
) -> CubeTensor<R> {
    launch::dense(x.into_primitive().tensor())
}

/// The public tensor above.
fn wrapped<R: CubeRuntime, B: Backend<FloatTensorPrimitive = CubeTensor<R>>, const D: usize>(
    x: CubeTensor<R>,
) -> Tensor<B, D> {
    Tensor::from_primitive(TensorPrimitive::Float(x))
}

/// Keys and values below the public ones.
fn primitives<R: CubeRuntime, B: Backend<FloatTensorPrimitive = CubeTensor<R>>>(
    block: KeyValueBlock<B>,
) -> [CubeTensor<R>; 2] {
    [block.key, block.value].map(|x| x.into_primitive().tensor())
}

/// Heads rotated by the angle times `sign`, which is 1 or −1.
fn rotated<R: CubeRuntime, B: Backend<FloatTensorPrimitive = CubeTensor<R>>, const N: usize>(
    xs: [Tensor<B, 3>; N],
    cos: &Tensor<B, 2>,
    sin: &Tensor<B, 2>,
    sign: f32,
) -> [Tensor<B, 3>; N] {
    if xs.iter().all(|x| in_f32([x])) && in_f32([cos, sin]) {
        return elementwise::rotary(xs.map(raw), raw(cos.clone()), raw(sin.clone()), sign).map(wrapped);
    }
    let sin = sin.clone().mul_scalar(sign);
    xs.map(|x| composed::rotary(x, cos, &sin))
}

/// A norm over heads below the public one.
fn head_norm<R: CubeRuntime, B: Backend<FloatTensorPrimitive = CubeTensor<R>>>(
    norm: HeadNorm<'_, B>,
) -> head_norm::Norm<R> {
    (raw(norm.weight.clone()), norm.eps)
}

/// A call of attention as kernels take it, if they can do it.
fn kernel_call<R, B>(call: &AttentionCall<B>) -> Option<attention::Call<R>>
where
    R: CubeRuntime,
    B: Backend<FloatTensorPrimitive = CubeTensor<R>, BoolTensorPrimitive = CubeTensor<R>>,
{
    if !in_f32([&call.q]) || !call.blocks.iter().all(|b| in_f32([&b.key, &b.value])) {
        return None;
    }
    let primitive = |x: &Tensor<B, 4>| x.clone().into_primitive().tensor();
    let blocks = call.blocks.iter().map(|b| [primitive(&b.key), primitive(&b.value)]).collect();
    let padding = call.mask.padding(&call.q.device()).map(Tensor::into_primitive);
    attention::Call::new(primitive(&call.q), blocks, padding, call.scale)
}

/// A frozen matrix as kernels take it, if it is in one piece.
fn matrix<R: CubeRuntime, B: Backend<FloatTensorPrimitive = CubeTensor<R>>>(
    weight: &DeviceMatrix<B>,
) -> Option<linear::Matrix<R>> {
    let numbers = raw(weight.whole()?.clone());
    Some(linear::Matrix { numbers, products: weight.products })
}

/// The factors of LoRA below the public ones.
fn factors<R: CubeRuntime, B: Backend<FloatTensorPrimitive = CubeTensor<R>>>(
    lora: LoraRef<'_, B>,
) -> linear::Factors<R> {
    linear::Factors { a: raw(lora.a.clone()), b: raw(lora.b.clone()), scaling: lora.scaling }
}

/// Whether the kernels of linear layers, which compute in f32 whatever the weight is kept in, take these tensors as they are.
fn linear_in_f32<B: Backend>(x: &Tensor<B, 2>, lora: Option<LoraRef<'_, B>>) -> bool {
    in_f32([x]) && lora.is_none_or(|l| in_f32([l.a, l.b]))
}

/// Whether the kernels of this module, which compute in f32, take these tensors as they are.
fn in_f32<B: Backend, const N: usize, const D: usize>(tensors: [&Tensor<B, D>; N]) -> bool {
    tensors.iter().all(|x| x.dtype() == DType::F32)
}

/// The tensor type of stored numbers; none for blocks, which only the host reads.
fn float(dtype: StoredDtype) -> Option<DType> {
    match dtype {
        StoredDtype::F32 => Some(DType::F32),
        StoredDtype::Bf16 => Some(DType::BF16),
        StoredDtype::F16 => Some(DType::F16),
        StoredDtype::Blocks(_) => None,
    }
}
