//! What may be added to the residual stream before a layer.

use std::fmt::Debug;
use std::sync::Mutex;

use burn::prelude::*;

/// Changes what enters a decoder layer, before its `input_layernorm`. Cross-agent attention is one.
pub trait ResidualHook<B: Backend>: Debug + Send + Sync {
    /// The residual stream as layer `layer` is to read it; `batch` rows one after another, `t` positions each.
    ///
    /// # Shapes
    /// `x [B·t, D]` → `[B·t, D]`
    fn apply(&self, layer: usize, x: Tensor<B, 2>, batch: usize) -> Tensor<B, 2>;

    /// How much each position listens to each sender in layer `layer`, where the hook listens there; the rest of the weight, up to 1, is
    /// on nobody.
    ///
    /// # Shapes
    /// `x [B·t, D]` → `[B·t, senders]`
    fn weights(&self, _layer: usize, _x: Tensor<B, 2>, _batch: usize) -> Option<Tensor<B, 2>> {
        None
    }
}

/// What passed a [`Recorder`] before a layer.
#[derive(Clone, Debug)]
pub struct Passed<B: Backend> {
    /// The residual stream as it came, `[B·t, D]`.
    pub before: Tensor<B, 2>,
    /// The residual stream as the layer read it, `[B·t, D]`.
    pub after: Tensor<B, 2>,
}

/// A hook that does what another does, if there is one, and keeps what passes it before each layer.
#[derive(Debug)]
pub struct Recorder<'a, B: Backend> {
    hook: Option<&'a dyn ResidualHook<B>>,
    passed: Mutex<Vec<Passed<B>>>,
}

impl<'a, B: Backend> Recorder<'a, B> {
    /// A recorder around `hook`, for one pass.
    pub fn new(hook: Option<&'a dyn ResidualHook<B>>) -> Self {
        Self { hook, passed: Mutex::default() }
    }

    /// What passed, by layer.
    pub fn into_passed(self) -> Vec<Passed<B>> {
        self.passed.into_inner().expect("nobody panicked with the lock")
    }
}

impl<B: Backend> ResidualHook<B> for Recorder<'_, B> {
    fn apply(&self, layer: usize, x: Tensor<B, 2>, batch: usize) -> Tensor<B, 2> {
        let after = self.hook.map_or_else(|| x.clone(), |hook| hook.apply(layer, x.clone(), batch));
        let passed = Passed { before: x, after: after.clone() };
        self.passed.lock().expect("nobody panicked with the lock").push(passed);
        after
    }
}

#[cfg(all(test, feature = "flex"))]
mod tests {
    use super::super::fixtures::*;
    use super::*;

    #[derive(Debug)]
    struct Double;

    impl ResidualHook<TestBackend> for Double {
        fn apply(&self, _: usize, x: Tensor<TestBackend, 2>, _: usize) -> Tensor<TestBackend, 2> {
            x.mul_scalar(2.0)
        }
    }

    #[test]
    fn a_recorder_keeps_what_came_and_what_the_layer_read() {
        let x = random([2, 3], 1);
        for (hook, factor) in [(None, 1.0), (Some(&Double as &dyn ResidualHook<_>), 2.0)] {
            let recorder = Recorder::new(hook);
            let once = recorder.apply(0, x.clone(), 1);
            recorder.apply(1, once, 1);
            let passed = recorder.into_passed();
            assert_eq!(passed.len(), 2);
            for (l, passed) in passed.iter().enumerate() {
                let came = numbers(&x.clone().mul_scalar(f64::powi(factor, l as i32)));
                close(&numbers(&passed.before), &came);
                close(&numbers(&passed.after), &came.iter().map(|x| factor * x).collect::<Vec<_>>());
            }
        }
    }
}
