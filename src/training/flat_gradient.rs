//! The gradient of everything that learns, added up in one tensor.

use std::sync::Arc;

use burn::prelude::*;
use diffmas_backends::ModelBackend;

use super::FlatLayout;
use crate::backbone::Parameters;

/// A sum of gradients. What no gradient has reached is missing in it, as it is among [`Parameters`].
#[derive(Clone, Debug)]
pub struct FlatGradient<B: ModelBackend> {
    layout: Arc<FlatLayout>,
    device: B::Device,
    /// Nothing before anything was added.
    sum: Option<Tensor<B, 1>>,
    /// Of each matrix, whether there is a gradient.
    reached: Vec<bool>,
}

impl<B: ModelBackend> FlatGradient<B> {
    /// The sum of no gradients, of matrices that lie on `device` as in `layout`.
    pub fn new(layout: Arc<FlatLayout>, device: &B::Device) -> Self {
        Self { reached: vec![false; layout.iter().count()], layout, device: device.clone(), sum: None }
    }

    /// Adds gradients by name, each in its place.
    ///
    /// # Panics
    /// If one of them has no place in the layout.
    pub fn add(&mut self, gradients: &Parameters<B>) {
        if gradients.is_empty() {
            return;
        }
        let sum = self.sum.take().unwrap_or_else(|| self.layout.zeros(&self.device));
        self.sum = Some(self.layout.added(sum, gradients));
        for place in gradients.iter().filter_map(|(name, _)| self.layout.find(name)) {
            self.reached[place.index] = true;
        }
    }

    /// The sum of no gradients, of the same matrices.
    pub(super) fn like(&self) -> Self {
        Self::new(self.layout.clone(), &self.device)
    }

    /// Adds another sum of the same matrices.
    pub(super) fn join(&mut self, other: Self) {
        let Some(theirs) = other.sum else { return };
        self.sum = Some(match self.sum.take() {
            Some(own) => own + theirs,
            None => theirs,
        });
        self.reached.iter_mut().zip(other.reached).for_each(|(own, theirs)| *own |= theirs);
    }

    /// Puts a sum in place of this one that has reached so much.
    pub(super) fn replace(&mut self, sum: Tensor<B, 1>, reached: Vec<bool>) {
        (self.sum, self.reached) = (Some(sum), reached);
    }

    /// Where the sum is.
    pub(super) fn device(&self) -> B::Device {
        self.device.clone()
    }

    /// Where the matrices lie.
    pub fn layout(&self) -> &FlatLayout {
        &self.layout
    }

    /// Of each matrix, in the order of the layout, whether there is a gradient.
    pub fn reached(&self) -> &[bool] {
        &self.reached
    }

    /// The sum, `[N]`; −0 where nothing was added.
    pub fn sum(&self) -> Tensor<B, 1> {
        self.sum.clone().unwrap_or_else(|| self.layout.zeros(&self.device))
    }

    /// The gradients by name; without a copy where the backend has views.
    pub fn by_name(&self) -> Parameters<B> {
        self.sum
            .as_ref()
            .map_or_else(Parameters::default, |sum| self.layout.parts(sum, |place| self.reached[place.index]))
    }

    /// Their [Frobenius norm](crate::backbone::frobenius) over all matrices, in the order in which they lie.
    pub fn norm(&self) -> f64 {
        self.sum.clone().map_or(0.0, |sum| B::sum_of_squares(sum).sqrt())
    }
}
