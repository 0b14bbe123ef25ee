//! Sums and maxima of rows by many threads each. Without autotuning Burn 0.21 gives every row to one thread: a softmax over 151,936 scores
//! takes milliseconds.
//!
//! What a routine adds up in which order depends on the length of a row alone, so that equal rows give equal bits, whatever lies beside them.

use burn::prelude::*;
use burn::tensor::{DType, TensorPrimitive};
use burn_cubecl::CubeRuntime;
use burn_cubecl::cubecl::Runtime;
use burn_cubecl::cubecl::client::ComputeClient;
use burn_cubecl::cubecl::features::Plane;
use burn_cubecl::kernel::reduce::{KernelReduceStrategy, reduce_dim};
use burn_cubecl::tensor::CubeTensor;
use cubek::reduce::ReduceStrategy;
use cubek::reduce::components::instructions::ReduceOperationConfig as Operation;
use cubek::reduce::launch::{RoutineStrategy, VectorizationStrategy};
use cubek::reduce::routines::BlueprintStrategy;
use cubek::reduce::routines::cube::CubeStrategy;
use cubek::reduce::routines::plane::PlaneStrategy;

/// Shorter rows are done by a thread each before a plane has shared them out.
const SHORT: usize = 32;
/// Longer rows keep all planes of a cube busy, each thread with loads of four numbers: their number is then the same for any count of rows.
const LONG: usize = 4096;
/// More elements than this are summed in parts.
const ONE_CUBE: usize = 1 << 16;
/// The parts.
const PARTS: usize = 256;

/// The last dimension reduced to one element, of the same type.
pub(super) fn last<B, R, const D: usize>(x: Tensor<B, D>, operation: Operation) -> Tensor<B, D>
where
    R: CubeRuntime,
    B: Backend<FloatTensorPrimitive = CubeTensor<R>>,
{
    let x = x.into_primitive().tensor();
    Tensor::from_primitive(TensorPrimitive::Float(reduced(x, D - 1, None, operation)))
}

/// The index of the first of the largest elements of the last dimension.
pub(super) fn argmax_last<B, R, const D: usize>(x: Tensor<B, D>, dtype: DType) -> Tensor<B, D, Int>
where
    R: CubeRuntime,
    B: Backend<FloatTensorPrimitive = CubeTensor<R>, IntTensorPrimitive = CubeTensor<R>>,
{
    let x = x.into_primitive().tensor();
    Tensor::from_primitive(reduced(x, D - 1, Some(dtype), Operation::ArgMax))
}

/// The sum of all elements, `[1]`. Burn's own adds with atomics, in whichever order threads come.
pub(super) fn sum<B, R, const D: usize>(x: Tensor<B, D>) -> Tensor<B, 1>
where
    R: CubeRuntime,
    B: Backend<FloatTensorPrimitive = CubeTensor<R>>,
{
    let n = x.shape().num_elements();
    let x = if n > ONE_CUBE && n.is_multiple_of(PARTS) {
        last(x.reshape([PARTS, n / PARTS]), Operation::Sum).reshape([1, PARTS])
    } else {
        x.reshape([1, n])
    };
    last(x, Operation::Sum).reshape([1])
}

fn reduced<R: CubeRuntime>(
    x: CubeTensor<R>,
    axis: usize,
    dtype: Option<DType>,
    operation: Operation,
) -> CubeTensor<R> {
    let routine = routine(&x.client, x.meta.shape()[axis]);
    let own = |routine| {
        let vectorization = VectorizationStrategy { parallel_output_vectorization: false };
        KernelReduceStrategy::Specific(ReduceStrategy { routine, vectorization })
    };
    let strategy = routine.map_or(KernelReduceStrategy::Unspecified, own);
    reduce_dim(x, dtype, axis, strategy, operation).expect("a reduction that the device can do")
}

/// Who reduces a row of `len` elements: a plane, or a cube; none for Burn's own choice, a thread.
fn routine<R: Runtime>(client: &ComputeClient<R>, len: usize) -> Option<RoutineStrategy> {
    let properties = client.properties();
    let hardware = &properties.hardware;
    let planes =
        properties.features.plane.contains(Plane::Ops) && hardware.plane_size_min == hardware.plane_size_max;
    match len {
        ..SHORT => None,
        SHORT..LONG if planes => {
            Some(RoutineStrategy::Plane(BlueprintStrategy::Inferred(PlaneStrategy { independent: true })))
        }
        // How large a cube is depends on the number of short rows.
        SHORT..LONG => None,
        _ => Some(RoutineStrategy::Cube(BlueprintStrategy::Inferred(CubeStrategy { use_planes: planes }))),
    }
}
