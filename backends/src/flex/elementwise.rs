//! Passes over activations: one read, one write, vectorised for the processor at hand, split over rows.

use burn::backend::Flex;
use burn::prelude::*;
use rayon::prelude::*;

use super::instructions::arch;
use super::{contiguous, tensor, values};

/// Fewer elements than this are not worth waking another core for.
const PARALLEL_ELEMENTS: usize = 32 * 1024;

/// Calls `f(i, out_row_i)` for all rows of `width`, on several cores where it pays, with the processor's vector instructions.
fn for_rows(out: &mut [f32], width: usize, f: impl Fn(usize, &mut [f32]) + Sync) {
    if out.len() < PARALLEL_ELEMENTS {
        arch().dispatch(
            #[inline(always)]
            || out.chunks_exact_mut(width).enumerate().for_each(|(i, row)| f(i, row)),
        );
    } else {
        let rows = out.len() / width;
        let group = rows.div_ceil(4 * rayon::current_num_threads()).max(1);
        out.par_chunks_mut(group * width).enumerate().for_each(|(g, part)| {
            arch().dispatch(
                #[inline(always)]
                || {
                    for (i, row) in part.chunks_exact_mut(width).enumerate() {
                        f(g * group + i, row);
                    }
                },
            );
        });
    }
}

/// `Σ f(i)` over `0..n` in 32 interleaved partial sums, so that it vectorises and is more exact than one running sum.
#[inline(always)]
pub(super) fn sum(n: usize, f: impl Fn(usize) -> f32) -> f32 {
    let mut lanes = [0.0f32; 32];
    let whole = n / 32 * 32;
    let mut i = 0;
    while i < whole {
        for (l, lane) in lanes.iter_mut().enumerate() {
            *lane += f(i + l);
        }
        i += 32;
    }
    let tail: f32 = (whole..n).map(&f).sum();
    lanes.iter().sum::<f32>() + tail
}

/// `e^x` to about one unit in the last place, without branches (Cephes' `expf`); 0 below −87, finite above.
#[inline(always)]
pub(super) fn exp(x: f32) -> f32 {
    /// Adding and subtracting it rounds to the nearest integer; its low bits then hold that integer.
    const ROUND: f32 = 12_582_912.0;
    let small = x < -87.0;
    let x = x.clamp(-87.0, 88.0);
    let n = x * std::f32::consts::LOG2_E + ROUND;
    let power = f32::from_bits((n.to_bits() << 23).wrapping_add(127 << 23));
    let n = n - ROUND;
    let r = x - n * 0.693_359_4 + n * 2.121_944_4e-4;
    let p = 1.987_569_1e-4;
    let p = p * r + 1.398_199_9e-3;
    let p = p * r + 8.333_452e-3;
    let p = p * r + 4.166_579_6e-2;
    let p = p * r + 1.666_666_5e-1;
    let p = p * r + 0.5;
    let y = (p * r * r + r + 1.0) * power;
    if small { 0.0 } else { y }
}

/// The reciprocal root of the mean square.
#[inline(always)]
fn rstd(x: &[f32], eps: f32) -> f32 {
    (sum(x.len(), |i| x[i] * x[i]) / x.len() as f32 + eps).sqrt().recip()
}

pub(super) fn rms_norm(x: Tensor<Flex, 2>, weight: &Tensor<Flex, 1>, eps: f64) -> Tensor<Flex, 2> {
    let [rows, width] = x.dims();
    let (x, w) = (contiguous(x), contiguous(weight.clone()));
    let (x, w) = (values(&x), values(&w));
    let mut y = vec![0.0; rows * width];
    for_rows(
        &mut y,
        width,
        #[inline(always)]
        |i, y| {
            let x = &x[i * width..][..width];
            let r = rstd(x, eps as f32);
            for ((y, x), w) in y.iter_mut().zip(x).zip(w) {
                *y = x * r * w;
            }
        },
    );
    tensor(y, [rows, width])
}

pub(super) fn rms_norm_backward(
    dy: Tensor<Flex, 2>,
    x: Tensor<Flex, 2>,
    weight: &Tensor<Flex, 1>,
    eps: f64,
) -> Tensor<Flex, 2> {
    let [rows, width] = x.dims();
    let (dy, x, w) = (contiguous(dy), contiguous(x), contiguous(weight.clone()));
    let (dy, x, w) = (values(&dy), values(&x), values(&w));
    let mut dx = vec![0.0; rows * width];
    for_rows(
        &mut dx,
        width,
        #[inline(always)]
        |i, dx| {
            let (x, dy) = (&x[i * width..][..width], &dy[i * width..][..width]);
            let r = rstd(x, eps as f32);
            let mean = sum(width, |i| dy[i] * w[i] * x[i]) * r / width as f32;
            for (((dx, x), dy), w) in dx.iter_mut().zip(x).zip(dy).zip(w) {
                *dx = r * (dy * w - x * r * mean);
            }
        },
    );
    tensor(dx, [rows, width])
}

pub(super) fn rotary(x: Tensor<Flex, 3>, cos: &Tensor<Flex, 2>, sin: &Tensor<Flex, 2>) -> Tensor<Flex, 3> {
    let [rows, heads, d] = x.dims();
    let half = d / 2;
    let (x, cos, sin) = (contiguous(x), contiguous(cos.clone()), contiguous(sin.clone()));
    let (x, cos, sin) = (values(&x), values(&cos), values(&sin));
    let mut y = vec![0.0; rows * heads * d];
    for_rows(
        &mut y,
        heads * d,
        #[inline(always)]
        |i, y| {
            let (c, s) = (&cos[i * half..][..half], &sin[i * half..][..half]);
            let x = &x[i * heads * d..][..heads * d];
            for (y, x) in y.chunks_exact_mut(d).zip(x.chunks_exact(d)) {
                let ((y1, y2), (x1, x2)) = (y.split_at_mut(half), x.split_at(half));
                for k in 0..half {
                    y1[k] = x1[k] * c[k] - x2[k] * s[k];
                    y2[k] = x2[k] * c[k] + x1[k] * s[k];
                }
            }
        },
    );
    tensor(y, [rows, heads, d])
}

pub(super) fn swiglu(gate: Tensor<Flex, 2>, up: Tensor<Flex, 2>) -> Tensor<Flex, 2> {
    let [rows, width] = gate.dims();
    let (gate, up) = (contiguous(gate), contiguous(up));
    let (gate, up) = (values(&gate), values(&up));
    let mut y = vec![0.0; rows * width];
    for_rows(
        &mut y,
        width,
        #[inline(always)]
        |i, y| {
            let (g, u) = (&gate[i * width..][..width], &up[i * width..][..width]);
            for ((y, g), u) in y.iter_mut().zip(g).zip(u) {
                *y = g / (1.0 + exp(-g)) * u;
            }
        },
    );
    tensor(y, [rows, width])
}

pub(super) fn swiglu_backward(
    dy: Tensor<Flex, 2>,
    gate: Tensor<Flex, 2>,
    up: Tensor<Flex, 2>,
) -> (Tensor<Flex, 2>, Tensor<Flex, 2>) {
    let [rows, width] = gate.dims();
    let (dy, gate, up) = (contiguous(dy), contiguous(gate), contiguous(up));
    let (dy, gate, up) = (values(&dy), values(&gate), values(&up));
    let (mut d_gate, mut d_up) = (vec![0.0; rows * width], vec![0.0; rows * width]);
    for_rows(
        &mut d_up,
        width,
        #[inline(always)]
        |i, d_up| {
            let (dy, g) = (&dy[i * width..][..width], &gate[i * width..][..width]);
            for ((d, dy), g) in d_up.iter_mut().zip(dy).zip(g) {
                *d = dy * g / (1.0 + exp(-g));
            }
        },
    );
    for_rows(
        &mut d_gate,
        width,
        #[inline(always)]
        |i, d_gate| {
            let (dy, g, u) =
                (&dy[i * width..][..width], &gate[i * width..][..width], &up[i * width..][..width]);
            for (((d, dy), g), u) in d_gate.iter_mut().zip(dy).zip(g).zip(u) {
                let s = 1.0 / (1.0 + exp(-g));
                *d = dy * u * s * (1.0 + g * (1.0 - s));
            }
        },
    );
    (tensor(d_gate, [rows, width]), tensor(d_up, [rows, width]))
}

/// The largest value.
#[inline(always)]
pub(super) fn largest(x: &[f32]) -> f32 {
    x.iter().copied().fold(f32::NEG_INFINITY, f32::max)
}

/// The sum of all values, in an order that depends on their number alone.
#[inline(always)]
pub(super) fn total(x: &[f32]) -> f32 {
    sum(x.len(), |i| x[i])
}

/// The largest value, and `Σ exp(x − max)`.
#[inline(always)]
fn max_and_sum(x: &[f32]) -> (f32, f32) {
    let max = largest(x);
    (max, sum(x.len(), |i| exp(x[i] - max)))
}

/// Softmax over the last dimension; the exponentials that are not 0 are summed as if they stood alone.
pub(super) fn softmax<const D: usize>(x: Tensor<Flex, D>) -> Tensor<Flex, D> {
    let shape = x.dims();
    let (x, width) = (contiguous(x), shape[D - 1]);
    let mut y = values(&x).to_vec();
    for_rows(
        &mut y,
        width,
        #[inline(always)]
        |_, y| {
            let max = largest(y);
            y.iter_mut().for_each(|y| *y = exp(*y - max));
            let seen: Vec<f32> = y.iter().copied().filter(|&y| y != 0.0).collect();
            let scale = total(&seen).recip();
            y.iter_mut().for_each(|y| *y *= scale);
        },
    );
    tensor(y, shape)
}

pub(super) fn token_nll(logits: Tensor<Flex, 2>, targets: &[u32]) -> Tensor<Flex, 1> {
    let [rows, vocab] = logits.dims();
    let logits = contiguous(logits);
    let logits = values(&logits);
    let nll = logits
        .par_chunks_exact(vocab)
        .zip(targets)
        .map(|(row, &t)| {
            arch().dispatch(
                #[inline(always)]
                || {
                    let (max, sum) = max_and_sum(row);
                    sum.ln() + max - row[t as usize]
                },
            )
        })
        .collect();
    tensor(nll, [rows])
}

pub(super) fn token_nll_backward(
    d_nll: Tensor<Flex, 1>,
    logits: Tensor<Flex, 2>,
    targets: &[u32],
) -> Tensor<Flex, 2> {
    let [rows, vocab] = logits.dims();
    let (logits, d_nll) = (contiguous(logits), contiguous(d_nll));
    let (logits, d_nll) = (values(&logits), values(&d_nll));
    let mut d = vec![0.0; rows * vocab];
    for_rows(
        &mut d,
        vocab,
        #[inline(always)]
        |i, d| {
            let row = &logits[i * vocab..][..vocab];
            let (max, sum) = max_and_sum(row);
            let scale = d_nll[i] / sum;
            for (d, x) in d.iter_mut().zip(row) {
                *d = exp(x - max) * scale;
            }
            d[targets[i] as usize] -= d_nll[i];
        },
    );
    tensor(d, [rows, vocab])
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_exponential_is_within_two_units_in_the_last_place() {
        for i in -870..880 {
            let x = i as f32 / 10.0;
            let (got, want) = (f64::from(super::exp(x)), f64::from(x).exp());
            assert!((got / want - 1.0).abs() < 2.5e-7, "exp({x}) = {got}, not {want}");
        }
        assert_eq!(super::exp(-200.0), 0.0);
    }
}
