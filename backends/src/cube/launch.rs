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
    let placed = |(&shape, &start): (&[usize; D], &usize)| (part(whole.clone(), start, shape), start);
    let parts = shapes.iter().zip(&starts).map(placed).collect();
    (whole, parts)
}

/// The tensors of [`parts`], one of each shape, without their places.
pub(super) fn unplaced<R: CubeRuntime, const N: usize>(
    parts: Vec<(CubeTensor<R>, usize)>,
) -> [CubeTensor<R>; N] {
    let tensors: Vec<_> = parts.into_iter().map(|(tensor, _)| tensor).collect();
    tensors.try_into().expect("a tensor of each shape")
}

/// Whether the device takes a buffer that begins at the number `from` of a tensor that has no gaps.
pub(super) fn begins<R: CubeRuntime>(flat: &CubeTensor<R>, from: usize) -> bool {
    let start = flat.handle.offset_start.unwrap_or(0) + (from * flat.dtype.size()) as u64;
    start.is_multiple_of(flat.client.properties().memory.alignment)
}

/// The numbers from `from` on, where they lie: the device must take a buffer that [`begins`] there. While somebody holds the whole, Burn changes
/// neither in place.
pub(super) fn part<R: CubeRuntime, const D: usize>(
    flat: CubeTensor<R>,
    from: usize,
    shape: [usize; D],
) -> CubeTensor<R> {
    let size = flat.dtype.size();
    let end = from + shape.iter().product::<usize>();
    assert!(end <= flat.meta.num_elements(), "a part of the tensor");
    let [before, after] = [from, flat.meta.num_elements() - end].map(|numbers| (numbers * size) as u64);
    let memory = flat.handle.offset_start(before).offset_end(after);
    CubeTensor::new_contiguous(flat.client, flat.device, Shape::from(shape), memory, flat.dtype)
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
