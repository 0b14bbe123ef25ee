//! Initial values of what a channel learns.

use burn::prelude::*;
use burn::tensor::TensorData;
use nalgebra::DMatrix;
use rand_chacha::ChaCha8Rng;
use rand_distr::{Distribution, Normal};

use crate::backbone::Parameters;
use crate::random::{CHANNEL, generator};

/// Draws parameters one after another from one seeded generator.
pub(super) struct Draws<'a, B: Backend> {
    rng: ChaCha8Rng,
    device: &'a B::Device,
    drawn: Parameters<B>,
}

/// Orthonormal directions, which encoder and readers share at first.
pub(super) struct Projection<B: Backend> {
    /// `[hidden, c]`
    pub onto: Tensor<B, 2>,
    /// `[c, hidden]`, which brings back what the projection kept.
    pub back: Tensor<B, 2>,
}

impl<'a, B: Backend> Draws<'a, B> {
    pub fn new(seed: u64, device: &'a B::Device) -> Self {
        Self { rng: generator(seed, CHANNEL), device, drawn: Parameters::default() }
    }

    /// A Gaussian matrix.
    pub fn normal(&mut self, name: String, shape: [usize; 2], std: f64) {
        let normal = Normal::new(0.0, std).expect("a finite deviation");
        let data: Vec<f32> = (0..shape[0] * shape[1]).map(|_| normal.sample(&mut self.rng) as f32).collect();
        self.drawn.insert(name, Tensor::from_data(TensorData::new(data, shape), self.device));
    }

    /// A matrix `[in, out]` that keeps the size of what it is applied to.
    pub fn linear(&mut self, name: impl Into<String>, shape: [usize; 2]) {
        self.normal(name.into(), shape, (shape[0] as f64).powf(-0.5));
    }

    /// A projection from `hidden` to `c` dimensions: `min(hidden, c)` orthonormal directions, drawn evenly.
    pub fn projection(&mut self, hidden: usize, c: usize) -> Projection<B> {
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
        Projection {
            onto: by_rows(&directions.transpose(), [hidden, c]),
            back: by_rows(&directions, [c, hidden]),
        }
    }

    /// A copy of `matrix`.
    pub fn copy(&mut self, name: impl Into<String>, matrix: &Tensor<B, 2>) {
        self.drawn.insert(name.into(), matrix.clone());
    }

    /// The identity of width `c`.
    pub fn identity(&mut self, name: impl Into<String>, c: usize) {
        self.drawn.insert(name.into(), Tensor::eye(c, self.device));
    }

    /// A matrix of one value.
    pub fn full(&mut self, name: impl Into<String>, shape: [usize; 2], value: f64) {
        self.drawn.insert(name.into(), Tensor::full(shape, value, self.device));
    }

    pub fn finish(self) -> Parameters<B> {
        self.drawn
    }
}
