//! Keys and values that grow: what was there and what is new, in one piece.

use burn_cubecl::CubeRuntime;
use burn_cubecl::cubecl;
use burn_cubecl::cubecl::prelude::*;
use burn_cubecl::tensor::CubeTensor;

use super::attention::{Block, Heads, block_arg};
use super::launch::{blocks, dense, parts, unit_number, unplaced};

/// The number in `column` of a position.
#[cube]
fn number(x: &Heads, batch: usize, head: usize, position: usize, column: usize) -> f32 {
    x.numbers[batch * x.batch + head * x.head + position * x.position + column]
}

/// A unit for each number of the keys, and the one of the values in its place: `tail` and then `new`, each head with room for `capacity`
/// positions.
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
    capacity: usize,
) {
    let unit = unit_number();
    let len = tail.len + new.len;
    if unit >= batch * kv_heads * len * d {
        terminate!();
    }
    let (column, position) = (unit % d, unit / d % len);
    let head = unit / (d * len);
    let to = (head * capacity + position) * d + column;
    let (row, head) = (head / kv_heads, head % kv_heads);
    if position < tail.len {
        out[to] = number(&tail.key, row, head, position, column);
        out[values + to] = number(&tail.value, row, head, position, column);
    } else {
        let position = position - tail.len;
        out[to] = number(&new.key, row, head, position, column);
        out[values + to] = number(&new.value, row, head, position, column);
    }
}

/// As [`append_kernel`] where the first `from` positions are there.
#[cube(launch_unchecked)]
#[allow(clippy::too_many_arguments)]
fn write_kernel(
    new: &Block,
    out: &mut Array<f32>,
    values: usize,
    batch: usize,
    kv_heads: usize,
    d: usize,
    capacity: usize,
    from: usize,
) {
    let unit = unit_number();
    if unit >= batch * kv_heads * new.len * d {
        terminate!();
    }
    let (column, position) = (unit % d, unit / d % new.len);
    let head = unit / (d * new.len);
    let to = (head * capacity + from + position) * d + column;
    let (row, head) = (head / kv_heads, head % kv_heads);
    out[to] = number(&new.key, row, head, position, column);
    out[values + to] = number(&new.value, row, head, position, column);
}

/// Memory for keys and values in one piece.
#[derive(Debug)]
struct Memory<R: CubeRuntime> {
    /// All of it.
    whole: CubeTensor<R>,
    /// `[B, G, C, d]` each.
    parts: [CubeTensor<R>; 2],
    /// Where the values begin, counted in numbers.
    values: usize,
}

impl<R: CubeRuntime> Memory<R> {
    /// `new` behind `tail`, and beyond them room for up to `capacity` positions.
    fn holding(capacity: usize, tail: [CubeTensor<R>; 2], new: [CubeTensor<R>; 2]) -> Self {
        let ([batch, kv_heads, before, d], [_, _, t, _]) =
            (tail[0].meta.shape().dims(), new[0].meta.shape().dims());
        let capacity = capacity.max(before + t);
        let (whole, results) = parts(&tail[0], &[[batch, kv_heads, capacity, d]; 2]);
        let values = results[1].1;
        let (count, dim) = blocks(batch * kv_heads * (before + t) * d);
        // SAFETY: units beyond the last number do nothing.
        unsafe {
            append_kernel::launch_unchecked(
                &whole.client,
                count,
                dim,
                block_arg(tail),
                block_arg(new),
                whole.clone().into_array_arg(),
                values,
                batch,
                kv_heads,
                d,
                capacity,
            );
        }
        Self { whole, parts: unplaced(results), values }
    }

    /// Writes `new` behind the first `from` positions.
    fn write(&self, from: usize, new: [CubeTensor<R>; 2]) {
        let [batch, kv_heads, t, d] = new[0].meta.shape().dims();
        let (count, dim) = blocks(batch * kv_heads * t * d);
        // SAFETY: units beyond the last number do nothing, and there is room.
        unsafe {
            write_kernel::launch_unchecked(
                &self.whole.client,
                count,
                dim,
                block_arg(new),
                self.whole.clone().into_array_arg(),
                self.values,
                batch,
                kv_heads,
                d,
                self.parts[0].meta.shape()[2],
                from,
            );
        }
    }

    /// The first `len` positions, where they lie.
    fn first(&self, len: usize) -> [CubeTensor<R>; 2] {
        self.parts.each_ref().map(|part| {
            let mut view = part.clone();
            view.meta.shape_mut()[2] = len;
            view
        })
    }
}

/// See [`crate::ModelBackend::Room`]. Readers hold views of what is written; what is written next lies behind all of them.
#[derive(Debug)]
pub struct Room<R: CubeRuntime> {
    memory: Option<Memory<R>>,
    /// Positions that are written.
    len: usize,
}

impl<R: CubeRuntime> Default for Room<R> {
    fn default() -> Self {
        Self { memory: None, len: 0 }
    }
}

impl<R: CubeRuntime> Room<R> {
    /// See [`crate::ModelBackend::grown`].
    ///
    /// # Panics
    /// If `tail` is not as long as what was returned last.
    pub(super) fn grown(
        &mut self,
        capacity: usize,
        tail: [CubeTensor<R>; 2],
        new: [CubeTensor<R>; 2],
    ) -> [CubeTensor<R>; 2] {
        let new = new.map(dense);
        let (before, t) = (tail[0].meta.shape()[2], new[0].meta.shape()[2]);
        assert!(self.memory.is_none() || before == self.len, "a room of another tail");
        self.len = before + t;
        match &self.memory {
            Some(memory) if self.len <= memory.parts[0].meta.shape()[2] => memory.write(before, new),
            _ => self.memory = Some(Memory::holding(capacity, tail.map(dense), new)),
        }
        self.memory.as_ref().expect("it was made").first(self.len)
    }
}

/// See [`crate::ModelBackend::appended`].
pub(super) fn appended<R: CubeRuntime>(
    tail: [CubeTensor<R>; 2],
    new: [CubeTensor<R>; 2],
) -> [CubeTensor<R>; 2] {
    let [tail, new] = [tail, new].map(|block| block.map(dense));
    Memory::holding(0, tail, new).parts
}
