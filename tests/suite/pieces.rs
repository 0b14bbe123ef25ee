//! A matrix larger than a device binds in one piece computes what its rows do.

use burn::prelude::*;
use burn::tensor::{Bytes, TensorData};
use diffmas::backends::{
    FrozenMatrix, Job, LoraRef, ModelBackend, StoredDtype, StoredMatrix, WeightUse, host_data,
};

use crate::common::{det_fill, on_backend};

/// Values of a row: so many that no unit sums more than 65,535 outputs, after which lavapipe ends a loop.
const WIDTH: usize = 128;

/// More than this is too much for a test.
const MOST: u64 = 1 << 28;

/// The number in a place of the matrix, which every type of weights holds.
fn number(row: usize, column: usize) -> f32 {
    ((row * 31 + column * 17) % 97) as f32 / 64.0 - 0.75
}

fn values<B: Backend, const D: usize>(x: Tensor<B, D>) -> Vec<f32> {
    host_data(x).iter().collect()
}

#[track_caller]
fn close(got: &[f32], want: &[f64], what: &str) {
    assert_eq!(got.len(), want.len(), "{what}");
    let scale = want.iter().map(|x| x * x).sum::<f64>().sqrt();
    let off = got.iter().zip(want).map(|(a, b)| (f64::from(*a) - b).powi(2)).sum::<f64>().sqrt();
    // Sums of a quarter of a million numbers in f32.
    assert!(scale > 0.0 && off / scale < 3e-5, "{what}: off by {:.1e} of the norm", off / scale);
}

struct InPieces;

impl Job for InPieces {
    type Output = ();

    fn run<B: ModelBackend>(self, device: B::Device) {
        let Some(limit) = B::largest_tensor(&device).filter(|limit| *limit <= MOST) else {
            eprintln!("SKIPPED: this device binds more than {MOST} bytes");
            return;
        };
        // The last row of the first piece, as f32.
        let last = limit as usize / (4 * WIDTH) - 1;
        let out = last + 1003;
        let numbers: Vec<f32> = (0..out * WIDTH).map(|i| number(i / WIDTH, i % WIDTH)).collect();
        let bytes = Bytes::from_elems(numbers);
        let matrix = StoredMatrix::new(StoredDtype::F32, [out, WIDTH], bytes);
        let kept = B::frozen_weight(matrix, WeightUse::Table, &device);
        assert_eq!((kept.shape(), kept.held_bytes()), ([out, WIDTH], 4 * out * WIDTH));

        let chosen = [last + 1, 0, last, out - 1, last];
        let row = |row: usize| (0..WIDTH).map(move |column| f64::from(number(row, column)));
        let ids = chosen.map(|id| id as u32);
        let want: Vec<f64> = chosen.into_iter().flat_map(row).collect();
        close(&values(B::embed(&kept, &ids, &device)), &want, "rows of the table");
        let want: Vec<f64> = (last..last + 2).flat_map(row).collect();
        close(&kept.rows(last..last + 2), &want, "rows on the host");

        let filled = |name: &str, shape: [usize; 2]| {
            let values = det_fill(name, shape[0] * shape[1], 1.0);
            Tensor::<B, 2>::from_data(TensorData::new(values, shape), &device)
        };
        let (a, b) = (filled("a", [2, WIDTH]), filled("b", [out, 2]));
        let lora = LoraRef { a: &a, b: &b, scaling: 0.5 };
        for rows in [2, 20] {
            let x = filled("x", [rows, WIDTH]);
            let got = values(B::frozen_linear(x.clone(), &kept, None, Some(lora)));
            let numbers: Vec<f64> = values(x.clone()).into_iter().map(f64::from).collect();
            let narrow: Vec<f64> = values(x.clone().matmul(a.clone().transpose()).mul_scalar(0.5))
                .into_iter()
                .map(f64::from)
                .collect();
            let wide: Vec<f64> = values(b.clone()).into_iter().map(f64::from).collect();
            for id in chosen {
                let of_row = |i: usize| {
                    let base: f64 =
                        row(id).zip(&numbers[i * WIDTH..]).map(|(weight, x)| weight * x).sum::<f64>();
                    base + (0..2).map(|r| narrow[i * 2 + r] * wide[id * 2 + r]).sum::<f64>()
                };
                let want: Vec<f64> = (0..rows).map(of_row).collect();
                let got: Vec<f32> = (0..rows).map(|i| got[i * out + id]).collect();
                close(&got, &want, &format!("{rows} rows, output {id}"));
            }
        }

        let dy = filled("dy", [1, out]);
        let slopes = values(dy.clone());
        let mut want = vec![0.0_f64; WIDTH];
        for (id, slope) in slopes.into_iter().enumerate() {
            want.iter_mut().zip(row(id)).for_each(|(sum, weight)| *sum += f64::from(slope) * weight);
        }
        close(&values(B::frozen_transposed(dy.clone(), &kept)), &want, "transposed");
        let x = filled("x", [1, WIDTH]);
        let (dx, factors) = B::frozen_linear_backward(dy.clone(), Some(x.clone()), &kept, Some(lora), true);
        let g = dy.clone().matmul(b.clone()).mul_scalar(0.5);
        let (want_a, h) = (g.clone().transpose().matmul(x.clone()), x.matmul(a.clone().transpose()));
        let want_b = dy.clone().transpose().matmul(h.mul_scalar(0.5));
        let (da, db) = factors.unwrap();
        let wide = |x: Tensor<B, 2>| values(x).into_iter().map(f64::from).collect::<Vec<_>>();
        close(&values(da), &wide(want_a), "dA");
        close(&values(db), &wide(want_b), "dB");
        let through_lora = g.matmul(a.clone());
        let want: Vec<f64> = want.iter().zip(wide(through_lora)).map(|(base, lora)| base + lora).collect();
        close(&values(dx.unwrap()), &want, "dx");
    }
}

#[test]
fn a_matrix_larger_than_the_device_binds_computes_what_its_rows_do() {
    on_backend(InPieces);
}
