//! The backends whose kernels CubeCL compiles: CUDA, ROCm, and any graphics API through wgpu.

mod reduce;

use burn::prelude::*;
use burn::tensor::backend::{DTypeUsage, DeviceOps};
use burn::tensor::{DType, TensorData, TensorPrimitive};
use burn_cubecl::cubecl::server::ComputeServer;
use burn_cubecl::kernel::matmul::{MatmulStrategy, init_matmul_output};
use burn_cubecl::tensor::CubeTensor;
use burn_cubecl::{BoolElement, CubeBackend, CubeRuntime, FloatElement, IntElement};
use cubek::matmul::definition::{MatmulElems, MatmulGlobalElems};
use cubek::matmul::launch::{Strategy, launch_ref};
use cubek::reduce::components::instructions::ReduceOperationConfig as Operation;
use cubek::std::InputBinding;

use crate::{
    DeviceMemory, LinearGrads, LoraRef, StoredDtype, StoredMatrix, WeightUse, check_device, composed,
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
    type Weight = Tensor<Self, 2>;

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

    fn frozen_weight(matrix: StoredMatrix, _used: WeightUse, device: &Self::Device) -> Self::Weight {
        let (dtype, shape) = (float(matrix.dtype()).expect("numbers that the device keeps"), matrix.shape());
        Tensor::from_data(TensorData::from_bytes(matrix.into_bytes(), shape, dtype), (device, dtype))
    }

    fn frozen_linear(
        x: Tensor<Self, 2>,
        weight: &Self::Weight,
        bias: Option<&Tensor<Self, 1>>,
        lora: Option<LoraRef<'_, Self>>,
    ) -> Tensor<Self, 2> {
        composed::frozen_linear(x, weight, bias, lora)
    }

    fn frozen_linear_backward(
        dy: Tensor<Self, 2>,
        x: Option<Tensor<Self, 2>>,
        weight: &Self::Weight,
        lora: Option<LoraRef<'_, Self>>,
        wants_dx: bool,
    ) -> LinearGrads<Self> {
        composed::frozen_linear_backward(dy, x, weight, lora, wants_dx)
    }

    fn frozen_transposed(x: Tensor<Self, 2>, weight: &Self::Weight) -> Tensor<Self, 2> {
        composed::frozen_transposed(x, weight)
    }

    fn embed(weight: &Self::Weight, ids: &[u32], _device: &Self::Device) -> Tensor<Self, 2> {
        composed::embed(weight, ids)
    }

    fn matmul<const D: usize>(a: Tensor<Self, D>, b: Tensor<Self, D>) -> Tensor<Self, D> {
        matmul(a, b)
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

/// `a·b`. Products of f32 are f32: the automatic strategy would give them to tensor cores, which round to TF32 without a word.
///
/// # Shapes
/// `[.., m, k]`, `[.., k, n]` of the same leading dimensions → `[.., m, n]`
fn matmul<B, R, const D: usize>(a: Tensor<B, D>, b: Tensor<B, D>) -> Tensor<B, D>
where
    R: CubeRuntime,
    B: Backend<FloatTensorPrimitive = CubeTensor<R>>,
{
    if [a.dtype(), b.dtype()] != [DType::F32; 2] {
        return a.matmul(b);
    }
    assert_eq!(a.dims()[D - 1], b.dims()[D - 2], "the inner dimensions of a matrix product");
    let rows = a.dims()[D - 2];
    let [a, b] = [a, b].map(|x| x.into_primitive().tensor());
    let out = init_matmul_output(&a, &b, DType::F32);
    let launch = |strategy: &Strategy| {
        let [a, b] = [&a, &b].map(|x| InputBinding::new(x.clone().binding(), DType::F32.into()));
        let f32 = DType::F32.into();
        let mut dtypes = MatmulElems::from_globals(&MatmulGlobalElems { lhs: f32, rhs: f32, out: f32 });
        launch_ref(strategy, &out.client, a, b, out.clone().binding(), &mut dtypes)
    };
    // One row reads each weight once: a plane sums along it. It needs rows of weights that a plane divides, and refuses others.
    let by_planes = D == 2 && rows == 1 && launch(&Strategy::GemvPlaneParallel(Default::default())).is_ok();
    if !by_planes {
        launch(&Strategy::SimpleUnit(Default::default()))
            .expect("a product on plain cores fits every device");
    }
    Tensor::from_primitive(TensorPrimitive::Float(out))
}

/// Neither autotuning nor fusion is compiled in: with autotuning this pattern would not be the only one, and with fusion the backends would be
/// other types than the one above.
const _: fn(MatmulStrategy) = |MatmulStrategy::Cube| ();
