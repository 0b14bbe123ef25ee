//! Products of more rows than a kernel of our own takes.

use burn::tensor::DType;
use burn_cubecl::CubeRuntime;
use burn_cubecl::kernel::cast;
use burn_cubecl::kernel::matmul::{MatmulStrategy, init_matmul_output};
use burn_cubecl::tensor::CubeTensor;
use cubek::matmul::definition::{MatmulElems, MatmulGlobalElems};
use cubek::matmul::launch::{Strategy, launch_ref};
use cubek::std::InputBinding;

/// `a·b` in f32, whatever type the operands are kept in: the automatic strategy would give them to tensor cores, which round to TF32 without a
/// word.
///
/// # Shapes
/// `[.., m, k]`, `[.., k, n]` of the same leading dimensions → `[.., m, n]`
pub(super) fn product<R: CubeRuntime>(a: CubeTensor<R>, b: CubeTensor<R>) -> CubeTensor<R> {
    let [a, b] = [a, b].map(|x| if x.dtype == DType::F32 { x } else { cast(x, DType::F32) });
    let rank = a.meta.rank();
    let (rows, len) = (a.meta.shape()[rank - 2], a.meta.shape()[rank - 1]);
    assert_eq!(len, b.meta.shape()[rank - 2], "the inner dimensions of a matrix product");
    let out = init_matmul_output(&a, &b, DType::F32);
    let launch = |strategy: &Strategy| {
        let [a, b] = [&a, &b].map(|x| InputBinding::new(x.clone().binding(), DType::F32.into()));
        let f32 = DType::F32.into();
        let mut dtypes = MatmulElems::from_globals(&MatmulGlobalElems { lhs: f32, rhs: f32, out: f32 });
        launch_ref(strategy, &out.client, a, b, out.clone().binding(), &mut dtypes)
    };
    // One row reads each number of the other matrix once: a plane sums along it. It needs rows that a plane divides, and refuses others.
    let by_planes =
        rank == 2 && rows == 1 && launch(&Strategy::GemvPlaneParallel(Default::default())).is_ok();
    if !by_planes {
        launch(&Strategy::SimpleUnit(Default::default()))
            .expect("a product on plain cores fits every device");
    }
    out
}

/// Neither autotuning nor fusion is compiled in: with autotuning this pattern would not be the only one, and with fusion the backends would be
/// other types.
const _: fn(MatmulStrategy) = |MatmulStrategy::Cube| ();
