//! Initial values of what a channel learns.

use std::collections::BTreeMap;

use burn::prelude::*;
use burn::tensor::TensorData;
use nalgebra::DMatrix;
use rand_chacha::ChaCha8Rng;
use rand_distr::{Distribution, Normal};

use crate::backbone::{ParameterSpec, Parameters};
use crate::random::{CHANNEL, generator};

/// How a matrix of a channel begins.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Initializer {
    /// Gaussian numbers of this standard deviation.
    Normal(f64),
    /// The same; one draw for all that have this shape, so that they begin alike.
    Alike(f64),
    /// Gaussian numbers such that a matrix `[in, out]` keeps the size of what it is applied to: deviation `1/√in`.
    Linear,
    /// `[D, c]`: `min(D, c)` orthonormal directions, drawn evenly; one draw for all of a channel that have this shape.
    Projection,
    /// `[c, D]`: the transpose of the [`Initializer::Projection`] from `D` to `c`, which brings back what that kept.
    Transposed,
    /// The identity.
    Identity,
    /// One value everywhere.
    Full(f64),
}

/// Values for `parameters`, drawn one after another from one generator.
pub(crate) fn initialize<B: Backend>(
    parameters: &[(ParameterSpec, Initializer)],
    seed: u64,
    device: &B::Device,
) -> Parameters<B> {
    let mut generator = Generator {
        rng: generator(seed, CHANNEL),
        device,
        projections: BTreeMap::new(),
        alike: BTreeMap::new(),
    };
    parameters
        .iter()
        .map(|(spec, initializer)| (spec.name.clone(), generator.draw(*initializer, spec.shape)))
        .collect()
}

struct Generator<'a, B: Backend> {
    rng: ChaCha8Rng,
    device: &'a B::Device,
    /// By shape `[D, c]`, the projection and its transpose.
    projections: BTreeMap<[usize; 2], [Tensor<B, 2>; 2]>,
    /// By shape, what all begin with that begin alike.
    alike: BTreeMap<[usize; 2], Tensor<B, 2>>,
}

impl<B: Backend> Generator<'_, B> {
    fn draw(&mut self, initializer: Initializer, shape @ [rows, columns]: [usize; 2]) -> Tensor<B, 2> {
        match initializer {
            Initializer::Normal(deviation) => self.normal(deviation, shape),
            Initializer::Alike(deviation) => {
                let drawn = self.alike.get(&shape).cloned();
                let drawn = drawn.unwrap_or_else(|| self.normal(deviation, shape));
                self.alike.insert(shape, drawn.clone());
                drawn
            }
            Initializer::Linear => self.normal((rows as f64).powf(-0.5), shape),
            Initializer::Projection => self.projection(shape)[0].clone(),
            Initializer::Transposed => self.projection([columns, rows])[1].clone(),
            Initializer::Identity => Tensor::eye(rows, self.device),
            Initializer::Full(value) => Tensor::full(shape, value, self.device),
        }
    }

    fn normal(&mut self, deviation: f64, shape: [usize; 2]) -> Tensor<B, 2> {
        let normal = Normal::new(0.0, deviation).expect("a finite deviation");
        let data: Vec<f32> = (0..shape[0] * shape[1]).map(|_| normal.sample(&mut self.rng) as f32).collect();
        Tensor::from_data(TensorData::new(data, shape), self.device)
    }

    fn projection(&mut self, shape @ [hidden, c]: [usize; 2]) -> &[Tensor<B, 2>; 2] {
        self.projections.entry(shape).or_insert_with(|| {
            let normal = Normal::new(0.0, 1.0).expect("a finite deviation");
            let (long, short) = (hidden.max(c), hidden.min(c));
            let drawn = DMatrix::from_fn(long, short, |_, _| normal.sample(&mut self.rng));
            let directions = drawn.qr().q();
            let directions = if hidden >= c { directions } else { directions.transpose() };
            // A matrix by columns is its transpose by rows.
            let by_rows = |transpose: &DMatrix<f64>, shape: [usize; 2]| {
                let data: Vec<f32> = transpose.iter().map(|&x| x as f32).collect();
                Tensor::from_data(TensorData::new(data, shape), self.device)
            };
            [by_rows(&directions.transpose(), [hidden, c]), by_rows(&directions, [c, hidden])]
        })
    }
}

#[cfg(all(test, feature = "flex"))]
mod tests {
    use super::*;
    use crate::backbone::ParameterGroup;

    type TestBackend = diffmas_backends::Flex;

    fn drawn(list: &[(&str, [usize; 2], Initializer)]) -> Parameters<TestBackend> {
        let spec = |&(name, shape, initializer): &(&str, [usize; 2], Initializer)| {
            (ParameterSpec::new(name, shape, ParameterGroup::CHANNEL), initializer)
        };
        initialize(&list.iter().map(spec).collect::<Vec<_>>(), 3, &Default::default())
    }

    fn numbers(t: &Tensor<TestBackend, 2>) -> Vec<f32> {
        t.to_data().iter().collect()
    }

    #[test]
    fn projections_of_a_shape_are_one_set_of_orthonormal_directions() {
        for [d, c] in [[6, 3], [3, 6]] {
            let p = drawn(&[
                ("onto", [d, c], Initializer::Projection),
                ("again", [d, c], Initializer::Projection),
                ("back", [c, d], Initializer::Transposed),
            ]);
            let (onto, back) = (p.get("onto"), p.get("back"));
            assert_eq!(numbers(onto), numbers(p.get("again")));
            assert_eq!(numbers(&onto.clone().transpose()), numbers(back));
            let small =
                if d > c { back.clone().matmul(onto.clone()) } else { onto.clone().matmul(back.clone()) };
            let off = small - Tensor::eye(d.min(c), &Default::default());
            assert!(numbers(&off).iter().all(|x| x.abs() < 1e-6), "{d} {c}");
        }
    }

    #[test]
    fn the_same_seed_draws_the_same_and_sizes_are_kept() {
        let list = [("a", [400, 20], Initializer::Linear), ("b", [2, 2], Initializer::Full(0.5))];
        let (p, q) = (drawn(&list), drawn(&list));
        assert_eq!(numbers(p.get("a")), numbers(q.get("a")));
        let square = numbers(p.get("a")).iter().map(|x| x * x).sum::<f32>() / 20.0;
        assert!((square - 1.0).abs() < 0.1, "{square}");
        assert_eq!(numbers(p.get("b")), [0.5; 4]);
    }
}
