//! Keys and values that grow: what was there and what is new, in one piece.

use burn_cubecl::CubeRuntime;
use burn_cubecl::cubecl;
use burn_cubecl::cubecl::prelude::*;
use burn_cubecl::tensor::CubeTensor;

use super::attention::{Block, Heads, block_arg};
use super::launch::{blocks, dense, parts, unit_number};

/// The number in `column` of a position.
#[cube]
fn number(x: &Heads, batch: usize, head: usize, position: usize, column: usize) -> f32 {
    x.numbers[batch * x.batch + head * x.head + position * x.position + column]
}

/// A unit for each number of the keys, and the one of the values in its place.
#[cube(launch_unchecked)]
#[allow(clippy::too_many_arguments)]
fn append_kernel(
    tail: &Block,
    new: &Block,
    out: &mut Array<f32>,
    values: usize,
    batch: usize,
    kv_heads: usize,
    d: usize,
) {
    let unit = unit_number();
    let len = tail.len + new.len;
    if unit >= batch * kv_heads * len * d {
        terminate!();
    }
    let (column, position) = (unit % d, unit / d % len);
    let head = unit / (d * len);
    let (row, head) = (head / kv_heads, head % kv_heads);
    if position < tail.len {
        out[unit] = number(&tail.key, row, head, position, column);
        out[values + unit] = number(&tail.value, row, head, position, column);
    } else {
        let position = position - tail.len;
        out[unit] = number(&new.key, row, head, position, column);
        out[values + unit] = number(&new.value, row, head, position, column);
    }
}

/// See [`crate::ModelBackend::appended`].
pub(super) fn appended<R: CubeRuntime>(
    tail: [CubeTensor<R>; 2],
    new: [CubeTensor<R>; 2],
) -> [CubeTensor<R>; 2] {
    let [tail, new] = [tail, new].map(|block| block.map(dense));
    let ([batch, kv_heads, before, d], [_, _, t, _]) =
        (tail[0].meta.shape().dims(), new[0].meta.shape().dims());
    let shape = [batch, kv_heads, before + t, d];
    let (out, results) = parts(&tail[0], &[shape; 2]);
    let client = tail[0].client.clone();
    let (count, dim) = blocks(shape.iter().product());
    // SAFETY: units beyond the last number do nothing.
    unsafe {
        append_kernel::launch_unchecked(
            &client,
            count,
            dim,
            block_arg(tail),
            block_arg(new),
            out.into_array_arg(),
            results[1].1,
            batch,
            kv_heads,
            d,
        );
    }
    let results: Vec<_> = results.into_iter().map(|(result, _)| result).collect();
    results.try_into().expect("keys and values")
}
