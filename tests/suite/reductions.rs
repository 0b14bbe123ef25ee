//! Sums and maxima of rows, at lengths that no thread, plane or cube divides, against sums in f64.

use burn::prelude::*;
use burn::tensor::TensorData;
use diffmas::backends::{Autodiff, Job, ModelBackend};

use crate::common::{det_fill, on_backend};

const LENGTHS: [usize; 14] = [1, 2, 7, 31, 32, 33, 63, 100, 576, 1000, 4095, 4096, 4099, 20_000];
const ROWS: [usize; 4] = [1, 3, 33, 257];

fn tensor<B: Backend>(values: &[f32], rows: usize, device: &B::Device) -> Tensor<B, 2> {
    Tensor::from_data(TensorData::new(values.to_vec(), [rows, values.len() / rows]), device)
}

fn floats<B: Backend, const D: usize>(x: Tensor<B, D>) -> Vec<f32> {
    x.into_data().to_vec().unwrap()
}

#[test]
fn every_row_is_reduced_as_it_is_alone() {
    struct Rows;
    impl Job for Rows {
        type Output = ();
        fn run<B: ModelBackend>(self, device: B::Device) {
            for (len, rows) in LENGTHS.iter().flat_map(|&len| ROWS.map(|rows| (len, rows))) {
                let values = det_fill(&format!("rows/{len}/{rows}"), rows * len, 1.0);
                let x = tensor::<B>(&values, rows, &device);
                let sums = floats(B::sum_last(x.clone()));
                let means = floats(B::mean_last(x.clone()));
                let largest = floats(B::max_last(x.clone()));
                let least = floats(B::min_last(x.clone()));
                let first: Vec<i64> = B::argmax_last(x.clone()).into_data().iter().collect();
                for (row, values) in values.chunks(len).enumerate() {
                    let what = format!("row {row} of {rows}, length {len}");
                    let (sum, size) = values
                        .iter()
                        .fold((0.0, 0.0), |(sum, size), &x| (sum + f64::from(x), size + f64::from(x.abs())));
                    let off = (f64::from(sums[row]) - sum).abs();
                    assert!(off <= 1e-6 * size.max(1e-6), "{what}: {} and not {sum}", sums[row]);
                    let off = (f64::from(means[row]) - sum / len as f64).abs();
                    assert!(off <= 1e-6 * (size / len as f64).max(1e-6), "{what}: a mean of {}", means[row]);
                    let max = values.iter().copied().fold(f32::MIN, f32::max);
                    assert_eq!(largest[row], max, "{what}");
                    assert_eq!(least[row], values.iter().copied().fold(f32::MAX, f32::min), "{what}");
                    let at = values.iter().position(|&x| x == max).unwrap();
                    assert_eq!(first[row] as usize, at, "{what}");
                }
                let alone = floats(B::sum_last(x.narrow(0, rows - 1, 1)));
                // A sum of one row takes another way on ndarray.
                if B::name(&device) != "ndarray" {
                    assert_eq!(
                        alone[0].to_bits(),
                        sums[rows - 1].to_bits(),
                        "the last of {rows}, length {len}"
                    );
                }
            }
        }
    }
    on_backend(Rows);
}

#[test]
fn of_equal_numbers_the_first_is_the_largest() {
    struct Ties;
    impl Job for Ties {
        type Output = ();
        fn run<B: ModelBackend>(self, device: B::Device) {
            for len in LENGTHS {
                let mut values = vec![-1.0f32; 2 * len];
                let (a, b) = (len / 3, len / 2);
                values[a] = 3.0;
                values[len - 1] = 3.0;
                values[len + b] = 3.0;
                values[2 * len - 1] = 3.0;
                let first: Vec<i64> =
                    B::argmax_last(tensor::<B>(&values, 2, &device)).into_data().iter().collect();
                assert_eq!(first, [a as i64, b as i64], "length {len}");
            }
        }
    }
    on_backend(Ties);
}

#[test]
fn all_elements_are_summed_the_same_way_every_time() {
    struct Sums;
    impl Job for Sums {
        type Output = ();
        fn run<B: ModelBackend>(self, device: B::Device) {
            for shape in [[1, 1], [1, 7], [3, 5], [8, 576], [1536, 8], [4099, 1], [256, 300], [257, 331]] {
                let n = shape[0] * shape[1];
                let values = det_fill(&format!("sum/{n}"), n, 1.0);
                let sum = |values: &[f32]| floats(B::sum(tensor::<B>(values, shape[0], &device)))[0];
                let got = sum(&values);
                let (exact, size) = values
                    .iter()
                    .fold((0.0, 0.0), |(sum, size), &x| (sum + f64::from(x), size + f64::from(x.abs())));
                assert!((f64::from(got) - exact).abs() <= 1e-6 * size.max(1e-6), "{shape:?}: {got}, {exact}");
                assert!((0..3).all(|_| sum(&values).to_bits() == got.to_bits()), "{shape:?}");
            }
        }
    }
    on_backend(Sums);
}

#[test]
fn each_element_of_a_row_has_the_gradient_of_its_sum() {
    struct Gradient;
    impl Job for Gradient {
        type Output = ();
        fn run<B: ModelBackend>(self, device: B::Device) {
            for len in [5, 100, 4099] {
                let x = det_fill(&format!("x/{len}"), 3 * len, 1.0);
                let x = tensor::<Autodiff<B>>(&x, 3, &device).require_grad();
                let weights = tensor::<Autodiff<B>>(&[2.0, -3.0, 0.5], 3, &device);
                let loss = (<Autodiff<B> as ModelBackend>::sum_last(x.clone()) * weights).sum();
                let grad = floats(x.grad(&loss.backward()).unwrap());
                for (row, weight) in grad.chunks(len).zip([2.0, -3.0, 0.5]) {
                    assert!(row.iter().all(|&g| g == weight), "length {len}: {row:?}");
                }
            }
        }
    }
    on_backend(Gradient);
}
