//! Products of more rows than a kernel of our own takes.

use burn::tensor::DType;
use burn_cubecl::CubeRuntime;
use burn_cubecl::cubecl::features::{MmaConfig, TypeUsage};
use burn_cubecl::cubecl::ir::DeviceProperties;
use burn_cubecl::cubecl::prelude::*;
use burn_cubecl::cubecl::tf32;
use burn_cubecl::kernel::cast;
use burn_cubecl::kernel::matmul::{MatmulStrategy, init_matmul_output};
use burn_cubecl::tensor::CubeTensor;
use cubek::matmul::definition::{MatmulElems, MatmulGlobalElems};
use cubek::matmul::launch::{Strategy, launch_ref};
use cubek::std::InputBinding;
use half::{bf16, f16};

use crate::ProductDtype;

/// `a·b`, summed in f32. In [`ProductDtype::F32`] plain cores multiply f32, to which numbers of other types are widened where they are read: the
/// automatic strategy would give f32 to tensor cores, which round it to TF32 without a word. In the others both operands are rounded, and
/// tensor cores multiply them where the device has such, and where its tiles fit.
///
/// # Shapes
/// `[.., m, k]`, `[.., k, n]` of the same leading dimensions → `[.., m, n]`
pub(super) fn product<R: CubeRuntime>(
    a: CubeTensor<R>,
    b: CubeTensor<R>,
    dtype: ProductDtype,
) -> CubeTensor<R> {
    let [a, b] = match operand(dtype) {
        Some(dtype) => [a, b].map(|x| if x.dtype == dtype { x } else { cast(x, dtype) }),
        None => [a, b],
    };
    let rank = a.meta.rank();
    let (rows, len) = (a.meta.shape()[rank - 2], a.meta.shape()[rank - 1]);
    assert_eq!(len, b.meta.shape()[rank - 2], "the inner dimensions of a matrix product");
    let out = init_matmul_output(&a, &b, DType::F32);
    let launch = |strategy: &Strategy| {
        let (lhs, rhs, out_dtype) = (a.dtype.into(), b.dtype.into(), DType::F32.into());
        let mut dtypes = MatmulElems::from_globals(&MatmulGlobalElems { lhs, rhs, out: out_dtype });
        let [a, b] = [&a, &b].map(|x| InputBinding::new(x.clone().binding(), x.dtype.into()));
        launch_ref(strategy, &out.client, a, b, out.clone().binding(), &mut dtypes)
    };
    // One row reads each number of the other matrix once: a plane sums along it. It needs rows that a plane divides, and refuses others.
    let special = match dtype {
        ProductDtype::F32 if rank == 2 && rows == 1 && a.dtype == b.dtype => {
            launch(&Strategy::GemvPlaneParallel(Default::default())).is_ok()
        }
        ProductDtype::F32 => false,
        _ => launch(&Strategy::SimpleCyclicCmma(Default::default())).is_ok(),
    };
    if !special {
        launch(&Strategy::SimpleUnit(Default::default()))
            .expect("a product on plain cores fits every device");
    }
    out
}

/// What operands are rounded to before they are multiplied; TF32 is rounded to where tensor cores read f32.
fn operand(dtype: ProductDtype) -> Option<DType> {
    match dtype {
        ProductDtype::F32 => None,
        ProductDtype::Tf32 => Some(DType::F32),
        ProductDtype::Bf16 => Some(DType::BF16),
        ProductDtype::F16 => Some(DType::F16),
    }
}

/// Whether a device of these properties multiplies such numbers: on tensor cores, or f16 on plain ones.
pub(super) fn multiplies(dtype: ProductDtype, device: &DeviceProperties) -> bool {
    let number = match dtype {
        ProductDtype::F32 => return true,
        ProductDtype::Tf32 => tf32::as_type_native_unchecked(),
        ProductDtype::Bf16 => bf16::as_type_native_unchecked(),
        ProductDtype::F16 => f16::as_type_native_unchecked(),
    }
    .storage_type();
    let sum = f32::as_type_native_unchecked().storage_type();
    let tile = |tile: &MmaConfig| [tile.a_type, tile.b_type, tile.cd_type] == [number, number, sum];
    let plain = device.features.type_usage(number).contains(TypeUsage::Arithmetic);
    device.features.matmul.cmma.iter().any(tile) || dtype == ProductDtype::F16 && plain
}

/// Neither autotuning nor fusion is compiled in: with autotuning this pattern would not be the only one, and with fusion the backends would be
/// other types.
const _: fn(MatmulStrategy) = |MatmulStrategy::Cube| ();
