//! The gradients of attention: weights are computed again from what the forward pass kept, the logarithm of each row's sum.

use burn_cubecl::CubeRuntime;
use burn_cubecl::cubecl;
use burn_cubecl::cubecl::prelude::*;
use burn_cubecl::tensor::CubeTensor;

use super::attention::{
    Block, Call, Heads, ROWS, Sizes, UNITS, block_arg, block_start, collected, farthest, heads_arg, is_valid,
    leave, limit, load, place, row_start,
};
use super::launch::{cubes, dense, empty, zeros};

/// Keys of a cube that sums over rows: each has a unit for each row of a tile.
const KEYS: usize = UNITS / ROWS;

/// The gradient of the queries, and `Σ_c dO·O` of each row, which that of keys needs, too.
#[cube(launch_unchecked)]
#[allow(clippy::too_many_arguments)]
fn queries_kernel<M: Int>(
    q: &Heads,
    blocks: &Sequence<Block>,
    padding: &ComptimeOption<Array<M>>,
    d_out: &Heads,
    out: &Heads,
    lse: &Array<f32>,
    d_q: &mut Heads,
    delta: &mut Array<f32>,
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
    let groups = comptime!(UNITS / d);
    let (column, group) = (unit % d, unit / d);
    let all = (place.batch * sizes.kv_heads + place.head) * sizes.rows;

    let mut queries = SharedMemory::<f32>::new(comptime!(rows * d));
    let mut slopes = SharedMemory::<f32>::new(comptime!(rows * d));
    let mut scores = SharedMemory::<f32>::new(comptime!(rows * UNITS));
    let mut along = SharedMemory::<f32>::new(rows);
    let mut logs = SharedMemory::<f32>::new(rows);
    load(q, sizes, &place, first, sizes.scale, &mut queries, rows, d);
    load(d_out, sizes, &place, first, 1.0, &mut slopes, rows, d);
    sync_cube();
    if unit < rows {
        let rho = min(first + unit, sizes.rows - 1);
        let from = row_start(out, sizes, &place, rho);
        let mut sum = 0.0f32;
        for i in 0..d {
            sum += slopes[unit * d + i] * out.numbers[from + i];
        }
        along[unit] = sum;
        logs[unit] = lse[all + rho];
        if first + unit < sizes.rows {
            delta[all + rho] = sum;
        }
    }
    let mut sums = zeros(rows);
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
            let key = from + unit;
            let mut products = zeros(rows);
            let mut weights = zeros(rows);
            let mut seen = false;
            if key < n {
                seen = is_valid::<M>(padding, sizes, place.batch, start + key);
                let at_key = keys + key * block.key.position;
                let at_value = values + key * block.value.position;
                for i in 0..d {
                    let (k, v) = (block.key.numbers[at_key + i], block.value.numbers[at_value + i]);
                    #[unroll]
                    for row in 0..rows {
                        products[row] += queries[row * d + i] * k;
                        weights[row] += slopes[row * d + i] * v;
                    }
                }
            }
            #[unroll]
            for row in 0..rows {
                let seen = seen && start + key <= limit(sizes, first + row);
                // What is not seen may be larger than all that is.
                let score = select(seen, products[row] - logs[row], 0.0);
                let slope = f32::exp(score) * (weights[row] - along[row]);
                scores[row * UNITS + unit] = select(seen, slope, 0.0);
            }
            sync_cube();
            if group < groups {
                let mut i = group;
                while i < UNITS && from + i < n {
                    let k = block.key.numbers[keys + (from + i) * block.key.position + column];
                    #[unroll]
                    for row in 0..rows {
                        sums[row] += scores[row * UNITS + i] * k;
                    }
                    i += groups;
                }
            }
            sync_cube();
            from += UNITS;
        }
        start += n;
    }

    leave(&sums, &mut scores, rows, d);
    sync_cube();
    let mut i = unit;
    while i < rows * d {
        let rho = first + i / d;
        if rho < sizes.rows {
            d_q.numbers[row_start(d_q, sizes, &place, rho) + i % d] =
                collected(&scores, i, rows, d) * sizes.scale;
        }
        i += UNITS;
    }
}

/// The gradients of the keys and values of one block, which begins with key `start` of all: a cube takes some of its keys and all rows. `onto`
/// tells kernels with a sum from those without, as in [`Sizes::padded`].
#[cube(launch_unchecked)]
#[allow(clippy::too_many_arguments)]
fn keys_kernel<M: Int>(
    q: &Heads,
    block: &Block,
    padding: &ComptimeOption<Array<M>>,
    d_out: &Heads,
    lse: &Array<f32>,
    delta: &Array<f32>,
    sum: &ComptimeOption<Block>,
    d_key: &mut Array<f32>,
    d_value: &mut Array<f32>,
    sizes: &Sizes,
    start: usize,
    tiles: usize,
    #[comptime] d: usize,
    #[comptime] _onto: bool,
    #[define(M)] _flag: StorageType,
) {
    let place = place(sizes, tiles);
    if place.batch >= sizes.batch {
        terminate!();
    }
    let n = block.len;
    let from = place.tile * KEYS;
    let unit = UNIT_POS as usize;
    // One unit for each score of a tile.
    let (row, key) = (unit / KEYS, from + unit % KEYS);
    // `groups` units for each column, `each` of the keys a unit.
    let groups = comptime!(if UNITS / d < KEYS { UNITS / d } else { KEYS });
    let each = comptime!(KEYS.div_ceil(groups));
    let (column, group) = (unit % d, unit / d);
    let all = (place.batch * sizes.kv_heads + place.head) * sizes.rows;
    let (keys, values) = (block_start(&block.key, &place), block_start(&block.value, &place));

    let mut queries = SharedMemory::<f32>::new(comptime!(ROWS * d));
    let mut slopes = SharedMemory::<f32>::new(comptime!(ROWS * d));
    let mut weights = SharedMemory::<f32>::new(UNITS);
    let mut scores = SharedMemory::<f32>::new(UNITS);
    let mut key_sums = zeros(each);
    let mut value_sums = zeros(each);
    let mut real = false;
    if key < n {
        real = is_valid::<M>(padding, sizes, place.batch, start + key);
    }

    let mut first = 0usize;
    while first < sizes.rows {
        if start + from <= farthest(sizes, first, ROWS) {
            load(q, sizes, &place, first, sizes.scale, &mut queries, ROWS, d);
            load(d_out, sizes, &place, first, 1.0, &mut slopes, ROWS, d);
            sync_cube();
            let rho = first + row;
            let mut weight = 0.0f32;
            let mut slope = 0.0f32;
            if real && rho < sizes.rows && start + key <= limit(sizes, rho) {
                let at_key = keys + key * block.key.position;
                let at_value = values + key * block.value.position;
                let mut product = 0.0f32;
                let mut along = 0.0f32;
                for i in 0..d {
                    product += queries[row * d + i] * block.key.numbers[at_key + i];
                    along += slopes[row * d + i] * block.value.numbers[at_value + i];
                }
                weight = f32::exp(product - lse[all + rho]);
                slope = weight * (along - delta[all + rho]);
            }
            weights[unit] = weight;
            scores[unit] = slope;
            sync_cube();
            if group < groups {
                #[unroll]
                for r in 0..ROWS {
                    let (query, output) = (queries[r * d + column], slopes[r * d + column]);
                    #[unroll]
                    for i in 0..each {
                        // Keys beyond the last of the tile are summed and not written.
                        let at = r * KEYS + min(group + i * groups, comptime!(KEYS - 1));
                        key_sums[i] += scores[at] * query;
                        value_sums[i] += weights[at] * output;
                    }
                }
            }
            sync_cube();
        }
        first += ROWS;
    }

    if group < groups {
        #[unroll]
        for i in 0..each {
            let place_in_tile = group + i * groups;
            let key = from + place_in_tile;
            if place_in_tile < KEYS && key < n {
                let at = ((place.batch * sizes.kv_heads + place.head) * n + key) * d + column;
                let mut of_key = key_sums[i];
                let mut of_value = value_sums[i];
                #[comptime]
                match sum {
                    ComptimeOption::Some(sum) => {
                        of_key +=
                            sum.key.numbers[block_start(&sum.key, &place) + key * sum.key.position + column];
                        of_value += sum.value.numbers
                            [block_start(&sum.value, &place) + key * sum.value.position + column];
                    }
                    ComptimeOption::None => {}
                }
                d_key[at] = of_key;
                d_value[at] = of_value;
            }
        }
    }
}

/// The gradients of keys and of values `[B, G, n, d]`.
pub(super) type BlockGrads<R> = (CubeTensor<R>, CubeTensor<R>);

/// The gradients of the queries `[B, t, H, d]`, and of the blocks that are wanted, with the sum that each may have; see [`crate::ModelBackend::block_attention_backward`].
pub(super) fn attention_backward<R: CubeRuntime>(
    call: &Call<R>,
    d_out: CubeTensor<R>,
    out: CubeTensor<R>,
    lse: CubeTensor<R>,
    wanted: Vec<Option<Option<[CubeTensor<R>; 2]>>>,
) -> (CubeTensor<R>, Vec<Option<BlockGrads<R>>>) {
    let [batch, t, heads, d] = call.shape();
    let (kv_heads, (rows, tiles), q) = (call.kv_heads(), call.tiles(), call.q());
    let (d_out, out) = (dense(d_out), dense(out));
    let d_q = empty(q, [batch, t, heads, d]);
    let delta = empty(q, [batch, kv_heads, call.rows()]);
    let (padding, dtype) = call.padding();
    // SAFETY: cubes beyond the last row of the batch do nothing; rows beyond the last read the last and write nothing; keys end with their block.
    unsafe {
        queries_kernel::launch_unchecked(
            &q.client,
            cubes(batch * kv_heads * tiles, 1),
            CubeDim::new_1d(UNITS as u32),
            heads_arg(q.clone()),
            call.block_args(),
            padding,
            heads_arg(d_out.clone()),
            heads_arg(out),
            lse.clone().into_array_arg(),
            heads_arg(d_q.clone()),
            delta.clone().into_array_arg(),
            call.sizes(),
            tiles,
            rows,
            d,
            dtype,
        );
    }
    let mut start = 0;
    let grads = call.keys().zip(wanted).enumerate().map(|(i, (n, wanted))| {
        let grads = wanted.map(|sum| {
            let onto = sum.is_some();
            let [d_key, d_value] = [(); 2].map(|()| empty(q, [batch, kv_heads, n, d]));
            let tiles = n.div_ceil(KEYS);
            let (padding, dtype) = call.padding();
            // SAFETY: as above; keys beyond the last of the block are neither read nor written.
            unsafe {
                keys_kernel::launch_unchecked(
                    &q.client,
                    cubes(batch * kv_heads * tiles, 1),
                    CubeDim::new_1d(UNITS as u32),
                    heads_arg(q.clone()),
                    block_arg(call.block(i).clone()),
                    padding,
                    heads_arg(d_out.clone()),
                    lse.clone().into_array_arg(),
                    delta.clone().into_array_arg(),
                    sum.map(block_arg).into(),
                    d_key.clone().into_array_arg(),
                    d_value.clone().into_array_arg(),
                    call.sizes(),
                    start,
                    tiles,
                    d,
                    onto,
                    dtype,
                );
            }
            (d_key, d_value)
        });
        start += n;
        grads
    });
    let grads = grads.collect();
    (d_q, grads)
}
