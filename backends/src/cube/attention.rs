//! Attention over blocks of keys and values where they lie, by tiles: no matrix of scores is kept, and no head is expanded.
//!
//! The queries of all heads that read one KV head are rows `ρ = head · t + query` of one matrix (`rep · t` of them, `rep = H / G`). A cube takes
//! some of those rows and all keys that they see, tile by tile, with the softmax corrected as its maximum grows (Milakov & Gimelshein,
//! arXiv 1805.02867; Dao et al., arXiv 2205.14135). Which keys a row sees follows from its place and, where rows have padding, from one flag a
//! key.

use burn_cubecl::CubeRuntime;
use burn_cubecl::cubecl;
use burn_cubecl::cubecl::prelude::*;
use burn_cubecl::tensor::CubeTensor;

use super::launch::{cube_number, cubes, dense, empty, zeros};

/// Units of a cube, and keys of a tile: each unit has the scores of one key.
pub(super) const UNITS: usize = 128;
/// Rows of a cube, where there are as many.
pub(super) const ROWS: usize = 8;
/// The widest head: each of its elements has a unit.
const WIDEST: usize = UNITS;
/// The most blocks of one launch: devices bound what a kernel may read.
const BLOCKS: usize = 8;
/// The score of a key that is not seen, and the maximum before any was; finite, so that differences are.
const LEAST: f32 = -1.0e30;

/// A tensor of four dimensions of which the last has no gaps, and how far the others' elements lie apart.
#[derive(CubeType, CubeLaunch)]
pub(super) struct Heads {
    pub numbers: Array<f32>,
    pub batch: usize,
    pub position: usize,
    pub head: usize,
}

/// `[B, t, H, d]` as kernels take it.
pub(super) fn heads_arg<R: CubeRuntime>(x: CubeTensor<R>) -> HeadsLaunch<R> {
    let [batch, position, head] = [0, 1, 2].map(|i| x.meta.strides()[i]);
    HeadsLaunch::new(x.into_array_arg(), batch, position, head)
}

/// Keys and values.
#[derive(CubeType, CubeLaunch)]
pub(super) struct Block {
    /// `[B or 1, G, n, d]`
    pub key: Heads,
    /// `[B or 1, G, n, d]`
    pub value: Heads,
    /// Positions `n`.
    pub len: usize,
}

/// Keys and values as kernels take them.
pub(super) fn block_arg<R: CubeRuntime>(block: [CubeTensor<R>; 2]) -> BlockLaunch<R> {
    let len = block[0].meta.shape()[2];
    let [key, value] = block.map(|x| {
        let (shape, strides) = (x.meta.shape(), x.meta.strides());
        // A block of one row is everybody's.
        let batch = if shape[0] == 1 { 0 } else { strides[0] };
        let (head, position) = (strides[1], strides[2]);
        HeadsLaunch::new(x.into_array_arg(), batch, position, head)
    });
    BlockLaunch::new(key, value, len)
}

/// The sizes of a call.
#[derive(CubeType, CubeLaunch, Clone, Copy)]
pub(super) struct Sizes {
    /// Rows of the batch, `B`.
    pub batch: usize,
    /// KV heads `G`.
    pub kv_heads: usize,
    /// Queries `t` of a head.
    pub queries: usize,
    /// Rows `rep · t`.
    pub rows: usize,
    /// Keys of all blocks.
    pub keys: usize,
    /// The factor of the scores.
    pub scale: f32,
    /// From the flags of a row of the batch, which tell padding, to those of the next.
    pub padding: usize,
    /// Whether there are any. CubeCL 0.10 leaves out of the hash of an option whether it is there, and finds kernels that it kept on disk by their
    /// hashes alone.
    #[cube(comptime)]
    #[allow(dead_code)]
    pub padded: bool,
}

/// The place of one cube.
#[derive(CubeType)]
pub(super) struct Place {
    pub batch: usize,
    pub head: usize,
    /// Which tile of rows or keys.
    pub tile: usize,
}

/// What a cube works on: tiles go fastest, then KV heads, then the batch.
#[cube]
pub(super) fn place(sizes: &Sizes, tiles: usize) -> Place {
    let cube = cube_number();
    let head = cube / tiles;
    Place { batch: head / sizes.kv_heads, head: head % sizes.kv_heads, tile: cube % tiles }
}

/// Where row `rho` of a KV head lies in `[B, t, H, d]`.
#[cube]
pub(super) fn row_start(x: &Heads, sizes: &Sizes, place: &Place, rho: usize) -> usize {
    let rep = sizes.rows / sizes.queries;
    let head = place.head * rep + rho / sizes.queries;
    place.batch * x.batch + rho % sizes.queries * x.position + head * x.head
}

/// Brings rows of `x [B, t, H, d]` from `first` on into `tile [rows, d]`, times `factor`; what lies beyond the last row is the last once more.
#[cube]
pub(super) fn load(
    x: &Heads,
    sizes: &Sizes,
    place: &Place,
    first: usize,
    factor: f32,
    tile: &mut SharedMemory<f32>,
    #[comptime] rows: usize,
    #[comptime] d: usize,
) {
    let mut i = UNIT_POS as usize;
    while i < rows * d {
        let rho = min(first + i / d, sizes.rows - 1);
        tile[i] = x.numbers[row_start(x, sizes, place, rho) + i % d] * factor;
        i += UNITS;
    }
}

/// The last key that row `rho` may see by order.
#[cube]
pub(super) fn limit(sizes: &Sizes, rho: usize) -> usize {
    sizes.keys - sizes.queries + rho % sizes.queries
}

/// The last key that any of `rows` rows from `first` on may see by order.
#[cube]
pub(super) fn farthest(sizes: &Sizes, first: usize, #[comptime] rows: usize) -> usize {
    let last = first % sizes.queries + rows - 1;
    sizes.keys - sizes.queries + min(last, sizes.queries - 1)
}

/// Whether a key is real.
#[cube]
pub(super) fn is_valid<M: Int>(
    padding: &ComptimeOption<Array<M>>,
    sizes: &Sizes,
    batch: usize,
    key: usize,
) -> bool {
    #[comptime]
    match padding {
        ComptimeOption::Some(padding) => padding[batch * sizes.padding + key] == M::from_int(0),
        ComptimeOption::None => true.runtime(),
    }
}

/// Where a block's keys or values for a cube begin.
#[cube]
pub(super) fn block_start(x: &Heads, place: &Place) -> usize {
    place.batch * x.batch + place.head * x.head
}

/// Leaves a unit's share of `[rows, d]`, a column of it, in `scratch`; every column has `UNITS / d` units.
#[cube]
pub(super) fn leave(
    share: &Array<f32>,
    scratch: &mut SharedMemory<f32>,
    #[comptime] rows: usize,
    #[comptime] d: usize,
) {
    let (column, group) = (UNIT_POS as usize % d, UNIT_POS as usize / d);
    if group < comptime!(UNITS / d) {
        #[unroll]
        for row in 0..rows {
            scratch[(group * rows + row) * d + column] = share[row];
        }
    }
}

/// The sum of all shares of element `i` of `[rows, d]` that [`leave`] has left.
#[cube]
pub(super) fn collected(
    scratch: &SharedMemory<f32>,
    i: usize,
    #[comptime] rows: usize,
    #[comptime] d: usize,
) -> f32 {
    let mut sum = 0.0f32;
    #[unroll]
    for group in 0..comptime!(UNITS / d) {
        sum += scratch[group * rows * d + i];
    }
    sum
}

#[cube(launch_unchecked)]
#[allow(clippy::too_many_arguments)]
fn attention_kernel<M: Int>(
    q: &Heads,
    blocks: &Sequence<Block>,
    padding: &ComptimeOption<Array<M>>,
    out: &mut Heads,
    lse: &mut Array<f32>,
    sizes: &Sizes,
    tiles: usize,
    #[comptime] rows: usize,
    #[comptime] d: usize,
    #[define(M)] _flag: StorageType,
) {
    let place = place(sizes, tiles);
    if place.batch >= sizes.batch {
        terminate!();
    }
    let first = place.tile * rows;
    let unit = UNIT_POS as usize;
    // Each row's maximum and sum are looked for by `share` units, the first of which keeps them.
    let share = comptime!(UNITS / rows);
    let (own, part) = (unit / share, unit % share);
    // Each element of the output is summed by `groups` units, a share of the keys each.
    let groups = comptime!(UNITS / d);
    let (column, group) = (unit % d, unit / d);

    let mut queries = SharedMemory::<f32>::new(comptime!(rows * d));
    let mut scores = SharedMemory::<f32>::new(comptime!(rows * UNITS));
    let mut parts = SharedMemory::<f32>::new(UNITS);
    let mut maxima = SharedMemory::<f32>::new(rows);
    let mut corrections = SharedMemory::<f32>::new(rows);
    let mut sums = SharedMemory::<f32>::new(rows);
    load(q, sizes, &place, first, sizes.scale, &mut queries, rows, d);
    if part == 0 {
        maxima[own] = f32::new(LEAST);
        sums[own] = 0.0;
    }
    let mut outputs = zeros(rows);
    sync_cube();

    let farthest = farthest(sizes, first, rows);
    let mut start = 0usize;
    #[unroll]
    for number in 0..blocks.len() {
        let block = blocks.index(number);
        let n = block.len;
        let (keys, values) = (block_start(&block.key, &place), block_start(&block.value, &place));
        let mut from = 0usize;
        while from < n && start + from <= farthest {
            // 1. The scores of one key with each row.
            let key = from + unit;
            let mut products = zeros(rows);
            let mut seen = false;
            if key < n {
                seen = is_valid::<M>(padding, sizes, place.batch, start + key);
                let at = keys + key * block.key.position;
                for i in 0..d {
                    let k = block.key.numbers[at + i];
                    #[unroll]
                    for row in 0..rows {
                        products[row] += queries[row * d + i] * k;
                    }
                }
            }
            #[unroll]
            for row in 0..rows {
                let seen = seen && start + key <= limit(sizes, first + row);
                scores[row * UNITS + unit] = select(seen, products[row], f32::new(LEAST));
            }
            sync_cube();

            // 2. The maximum of each row, and what it makes of what was summed under the one before.
            let mut largest = f32::new(LEAST);
            #[unroll]
            for i in 0..rows {
                largest = max(largest, scores[own * UNITS + part + i * share]);
            }
            parts[unit] = largest;
            sync_cube();
            if part == 0 {
                let mut largest = maxima[own];
                for i in 0..share {
                    largest = max(largest, parts[unit + i]);
                }
                corrections[own] = f32::exp(maxima[own] - largest);
                maxima[own] = largest;
            }
            sync_cube();

            // 3. Weights.
            #[unroll]
            for row in 0..rows {
                let score = scores[row * UNITS + unit];
                let weight = f32::exp(min(score - maxima[row], 0.0));
                scores[row * UNITS + unit] = select(score > LEAST, weight, 0.0);
            }
            sync_cube();

            // 4. Sums of weights, and of values by weight.
            let mut sum = 0.0f32;
            #[unroll]
            for i in 0..rows {
                sum += scores[own * UNITS + part + i * share];
            }
            parts[unit] = sum;
            if group < groups {
                #[unroll]
                for row in 0..rows {
                    outputs[row] = outputs[row] * corrections[row];
                }
                let mut i = group;
                while i < UNITS && from + i < n {
                    let v = block.value.numbers[values + (from + i) * block.value.position + column];
                    #[unroll]
                    for row in 0..rows {
                        outputs[row] += scores[row * UNITS + i] * v;
                    }
                    i += groups;
                }
            }
            sync_cube();
            if part == 0 {
                let mut sum = sums[own] * corrections[own];
                for i in 0..share {
                    sum += parts[unit + i];
                }
                sums[own] = sum;
            }
            from += UNITS;
        }
        start += n;
    }

    // 5. The shares of all groups.
    sync_cube();
    leave(&outputs, &mut scores, rows, d);
    sync_cube();
    let mut i = unit;
    while i < rows * d {
        let row = i / d;
        let rho = first + row;
        if rho < sizes.rows {
            // A row that sees nothing gives zeros.
            out.numbers[row_start(out, sizes, &place, rho) + i % d] =
                collected(&scores, i, rows, d) / max(sums[row], 1.0e-30);
        }
        i += UNITS;
    }
    if part == 0 && first + own < sizes.rows {
        let row = (place.batch * sizes.kv_heads + place.head) * sizes.rows + first + own;
        lse[row] = f32::ln(max(sums[own], 1.0e-30)) + maxima[own];
    }
}

/// A call on the device.
pub(super) struct Call<R: CubeRuntime> {
    /// `[B, t, H, d]`
    q: CubeTensor<R>,
    /// `[B or 1, G, n_i, d]` each.
    blocks: Vec<[CubeTensor<R>; 2]>,
    /// `[B, 1, 1, n]`
    padding: Option<CubeTensor<R>>,
    scale: f32,
}

impl<R: CubeRuntime> Call<R> {
    /// A call of attention, if the kernels here can do it.
    pub fn new(
        q: CubeTensor<R>,
        blocks: Vec<[CubeTensor<R>; 2]>,
        padding: Option<CubeTensor<R>>,
        scale: f64,
    ) -> Option<Self> {
        let fits = q.meta.shape()[3] <= WIDEST && blocks.len() <= BLOCKS;
        let blocks = || blocks.into_iter().map(|kv| kv.map(dense)).collect();
        fits.then(|| Self { q: dense(q), blocks: blocks(), padding, scale: scale as f32 })
    }

    pub(super) fn q(&self) -> &CubeTensor<R> {
        &self.q
    }

    pub(super) fn block(&self, i: usize) -> &[CubeTensor<R>; 2] {
        &self.blocks[i]
    }

    /// `[B, t, H, d]`
    pub(super) fn shape(&self) -> [usize; 4] {
        self.q.meta.shape().dims()
    }

    pub(super) fn kv_heads(&self) -> usize {
        self.blocks[0][0].meta.shape()[1]
    }

    /// Rows `rep · t` of a KV head.
    pub(super) fn rows(&self) -> usize {
        let [_, t, heads, _] = self.shape();
        heads / self.kv_heads() * t
    }

    /// Keys of each block.
    pub(super) fn keys(&self) -> impl Iterator<Item = usize> {
        self.blocks.iter().map(|[key, _]| key.meta.shape()[2])
    }

    pub(super) fn sizes(&self) -> SizesLaunch<R> {
        let keys = self.keys().sum();
        let padding = self.padding.as_ref().map_or(0, |p| p.meta.strides()[0]);
        let [batch, queries, ..] = self.shape();
        let padded = self.padding.is_some();
        SizesLaunch::new(batch, self.kv_heads(), queries, self.rows(), keys, self.scale, padding, padded)
    }

    pub(super) fn block_args(&self) -> SequenceArg<R, Block> {
        self.blocks.iter().cloned().map(block_arg).collect()
    }

    /// Padding and the type of its flags.
    pub(super) fn padding<M: Int>(&self) -> (ComptimeOptionArgs<Array<M>, R>, StorageType) {
        let dtype =
            self.padding.as_ref().map_or(u32::as_type_native_unchecked().storage_type(), |p| p.dtype.into());
        (self.padding.clone().map(CubeTensor::into_array_arg).into(), dtype)
    }

    /// Rows of a cube, and the cubes of a KV head.
    pub(super) fn tiles(&self) -> (usize, usize) {
        let rows = self.rows().next_power_of_two().min(ROWS);
        (rows, self.rows().div_ceil(rows))
    }
}

/// The output `[B, t, H, d]` and the log-sum-exp `[B, G, rep·t, 1]`; see [`crate::ModelBackend::block_attention`].
pub(super) fn attention<R: CubeRuntime>(call: &Call<R>) -> (CubeTensor<R>, CubeTensor<R>) {
    let [batch, t, heads, d] = call.shape();
    let (kv_heads, (rows, tiles)) = (call.kv_heads(), call.tiles());
    let out = empty(&call.q, [batch, t, heads, d]);
    let lse = empty(&call.q, [batch, kv_heads, call.rows(), 1]);
    let (padding, dtype) = call.padding();
    // SAFETY: cubes beyond the last row of the batch do nothing; rows beyond the last read the last and write nothing; keys end with their block.
    unsafe {
        attention_kernel::launch_unchecked(
            &out.client,
            cubes(batch * kv_heads * tiles, 1),
            CubeDim::new_1d(UNITS as u32),
            heads_arg(call.q.clone()),
            call.block_args(),
            padding,
            heads_arg(out.clone()),
            lse.clone().into_array_arg(),
            call.sizes(),
            tiles,
            rows,
            d,
            dtype,
        );
    }
    (out, lse)
}
