//! The best scores of rows, a cube each: what may be among them, in no order.
//!
//! As where backends have no kernel for it, a score counts only if the largest of its group does: of few numbers that stay beside the units it is
//! found which score must be reached, and the row is read twice.

use burn_cubecl::CubeRuntime;
use burn_cubecl::cubecl;
use burn_cubecl::cubecl::prelude::*;
use burn_cubecl::tensor::CubeTensor;

use super::launch::{Rows, cube_number, cubes, empty, indices, rows_arg};
use super::rows::{INDEXED, cube_largest, cube_sum};

const UNITS: usize = 256;
/// The most groups of a row.
const GROUPS: usize = 2048;
/// How often the scores between which the least one lies are halved.
const HALVINGS: usize = 20;

/// The groups of a row of `len` scores, if the `k` best of them are found here.
fn groups(len: usize, k: usize) -> Option<usize> {
    let groups = (len / 4).min(GROUPS);
    (k > 0 && k <= groups / 4 && len <= INDEXED).then_some(groups)
}

/// Leaves of each row how many scores it found, then each with its index before it, at most `room` of them: `[N, 1 + 2·room]`.
#[cube(launch_unchecked)]
fn top_kernel(
    scores: &Rows,
    counts: &Array<u32>,
    found: &mut Array<f32>,
    rows: usize,
    len: usize,
    groups: usize,
    room: usize,
) {
    let row = cube_number();
    if row >= rows {
        terminate!();
    }
    let unit = UNIT_POS as usize;
    let mut maxima = SharedMemory::<f32>::new(GROUPS);
    let mut scratch = SharedMemory::<f32>::new(UNITS);
    let from = row * scores.stride;

    // 1. The largest score of each group, of which neighbours belong to neighbouring groups.
    let mut largest = scores.numbers[from];
    let mut least = largest;
    let mut group = unit;
    while group < groups {
        let mut of_group = scores.numbers[from + group];
        let mut i = group + groups;
        while i < len {
            of_group = max(of_group, scores.numbers[from + i]);
            i += groups;
        }
        maxima[group] = of_group;
        largest = max(largest, of_group);
        least = min(least, of_group);
        group += UNITS;
    }

    // 2. A score that as many groups reach as there are scores wanted, and few more.
    let mut high = cube_largest(largest, &mut scratch);
    let mut low = -cube_largest(-least, &mut scratch);
    let wanted = f32::cast_from(counts[row]);
    for _ in 0..HALVINGS {
        let middle = low + (high - low) * 0.5;
        let mut reach = 0.0f32;
        let mut group = unit;
        while group < groups {
            if maxima[group] >= middle {
                reach += 1.0;
            }
            group += UNITS;
        }
        let enough = cube_sum(reach, &mut scratch) >= wanted;
        low = select(enough, middle, low);
        high = select(enough, high, middle);
    }

    // 3. How many scores of each unit's groups reach it.
    let mut own = 0.0f32;
    let mut group = unit;
    while group < groups {
        if maxima[group] >= low {
            let mut i = group;
            while i < len {
                if scores.numbers[from + i] >= low {
                    own += 1.0;
                }
                i += groups;
            }
        }
        group += UNITS;
    }
    sync_cube();
    scratch[unit] = own;
    sync_cube();

    // 4. Those scores, one unit's after the other's.
    let mut before = 0.0f32;
    for i in 0..unit {
        before += scratch[i];
    }
    let start = row * (1 + 2 * room);
    if unit == UNITS - 1 {
        found[start] = before + own;
    }
    let mut at = usize::cast_from(before);
    let mut group = unit;
    while group < groups {
        if maxima[group] >= low {
            let mut i = group;
            while i < len {
                let score = scores.numbers[from + i];
                if score >= low {
                    if at < room {
                        found[start + 1 + 2 * at] = f32::cast_from(i);
                        found[start + 2 + 2 * at] = score;
                    }
                    at += 1;
                }
                i += groups;
            }
        }
        group += UNITS;
    }
}

/// What [`top_kernel`] leaves for at least `counts[i]` scores of each row, and how many of each row it has room for; none where counts are
/// too large for it.
///
/// # Panics
/// If there are not as many counts as rows.
pub(super) fn top<R: CubeRuntime>(scores: CubeTensor<R>, counts: &[usize]) -> Option<(CubeTensor<R>, usize)> {
    let [rows, len] = scores.meta.shape().dims();
    assert_eq!(counts.len(), rows, "a count for each row");
    let most = counts.iter().copied().max()?;
    let groups = counts.iter().try_fold(0, |_, &k| groups(len, k))?;
    let room = 2 * most + 64;
    let counts: Vec<u32> = counts.iter().map(|&k| k as u32).collect();
    let counts = indices(&scores, &counts, len);
    let found = empty(&scores, [rows, 1 + 2 * room]);
    // SAFETY: cubes beyond the last row do nothing; no unit leaves its row, or writes beyond the room of it. Every group has a score.
    unsafe {
        top_kernel::launch_unchecked(
            &found.client,
            cubes(rows, 1),
            CubeDim::new_1d(UNITS as u32),
            rows_arg(scores),
            counts.into_array_arg(),
            found.clone().into_array_arg(),
            rows,
            len,
            groups,
            room,
        );
    }
    Some((found, room))
}
