//! What kernels of our own take and give: tensors whose last dimension has no gaps, on one device. Rows may lie further apart than they are
//! long, as Burn makes them on CUDA.
//!
//! Sizes and strides are numbers of a launch. A kernel that asks a tensor for them has them in a buffer: an allocation and a copy a launch, which
//! cost the host as much as the launch.

use burn::tensor::{DType, Shape};
use burn_cubecl::CubeRuntime;
use burn_cubecl::cubecl;
use burn_cubecl::cubecl::prelude::*;
use burn_cubecl::kernel::into_contiguous;
use burn_cubecl::tensor::CubeTensor;

use super::arena::{STEP, room};

/// Bytes of a number.
const SIZE: usize = size_of::<f32>();

/// The most cubes of one dimension of a launch that every device takes.
const CUBES: usize = 65_535;

/// `x` with its last dimension without gaps.
pub(super) fn dense<R: CubeRuntime>(x: CubeTensor<R>) -> CubeTensor<R> {
    let last = x.meta.rank() - 1;
    if x.meta.strides()[last] == 1 || x.meta.shape()[last] == 1 { x } else { into_contiguous(x) }
}

/// A matrix, its rows `stride` numbers apart.
#[derive(CubeType, CubeLaunch)]
pub(super) struct Rows {
    pub numbers: Array<f32>,
    pub stride: usize,
}

/// A vector or a matrix as kernels take it.
pub(super) fn rows_arg<R: CubeRuntime>(x: CubeTensor<R>) -> RowsLaunch<R> {
    let stride = x.meta.strides()[0];
    RowsLaunch::new(x.into_array_arg(), stride)
}

/// Room for a result in f32 beside `like`.
pub(super) fn empty<R: CubeRuntime, const D: usize>(
    like: &CubeTensor<R>,
    shape: [usize; D],
) -> CubeTensor<R> {
    let memory = room(like, shape.iter().product::<usize>() * SIZE);
    CubeTensor::new_contiguous(
        like.client.clone(),
        like.device.clone(),
        Shape::from(shape),
        memory,
        DType::F32,
    )
}

/// Room for several tensors in f32 in one piece beside `like`: all of it, and each with its place, counted in numbers.
pub(super) fn parts<R: CubeRuntime, const D: usize>(
    like: &CubeTensor<R>,
    shapes: &[[usize; D]],
) -> (CubeTensor<R>, Vec<(CubeTensor<R>, usize)>) {
    let step = like.client.properties().memory.alignment.max(STEP) as usize / SIZE;
    let mut starts = Vec::with_capacity(shapes.len());
    let mut all = 0;
    for shape in shapes {
        starts.push(all);
        all = (all + shape.iter().product::<usize>()).next_multiple_of(step);
    }
    let whole = empty(like, [all]);
    let part = |(&shape, &start): (&[usize; D], &usize)| {
        let end = start + shape.iter().product::<usize>();
        let rest = (all - end) * SIZE;
        let memory = whole.handle.clone().offset_start((start * SIZE) as u64).offset_end(rest as u64);
        let (client, device) = (like.client.clone(), like.device.clone());
        (CubeTensor::new_contiguous(client, device, Shape::from(shape), memory, DType::F32), start)
    };
    let parts = shapes.iter().zip(&starts).map(part).collect();
    (whole, parts)
}

/// Indices from the host, beside `like`.
///
/// # Panics
/// If one is not below `bound`: a kernel would read what is not there.
pub(super) fn indices<R: CubeRuntime>(like: &CubeTensor<R>, values: &[u32], bound: usize) -> CubeTensor<R> {
    assert!(values.iter().all(|&i| (i as usize) < bound), "indices below {bound}");
    let handle = like.client.create_from_slice(u32::as_bytes(values));
    let shape = Shape::from([values.len()]);
    CubeTensor::new_contiguous(like.client.clone(), like.device.clone(), shape, handle, DType::U32)
}

/// `n` cubes in the first two dimensions of a launch, and more than that where one dimension does not hold them, times `z`.
pub(super) fn cubes(n: usize, z: usize) -> CubeCount {
    let y = n.div_ceil(CUBES);
    CubeCount::Static(n.div_ceil(y.max(1)) as u32, y as u32, z as u32)
}

/// Units of a cube for a unit each of `n` elements.
pub(super) const BLOCK: u32 = 256;

/// The cubes of [`BLOCK`] units that hold `n` of them.
pub(super) fn blocks(n: usize) -> (CubeCount, CubeDim) {
    (cubes(n.div_ceil(BLOCK as usize), 1), CubeDim::new_1d(BLOCK))
}

/// The number of the cube in the first two dimensions of its launch.
#[cube]
pub(super) fn cube_number() -> usize {
    (CUBE_POS_X + CUBE_POS_Y * CUBE_COUNT_X) as usize
}

/// The number of the unit in a launch of [`blocks`].
#[cube]
pub(super) fn unit_number() -> usize {
    cube_number() * CUBE_DIM as usize + UNIT_POS as usize
}

/// `n` zeros of a unit's own.
#[cube]
pub(super) fn zeros(#[comptime] n: usize) -> Array<f32> {
    let mut all = Array::<f32>::new(n);
    #[unroll]
    for i in 0..n {
        all[i] = 0.0;
    }
    all
}
