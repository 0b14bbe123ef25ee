//! The factors of LoRA, apart from the weight that they change: `x·A·B`, never `W + BA`.

use burn::prelude::*;
use diffmas_backends::{Autodiff, LoraRef, ModelBackend};

use super::LoraDropout;

/// The factors of one linear layer (arXiv 2106.09685).
#[derive(Clone, Debug)]
pub struct Lora<B: Backend> {
    /// `lora_A`, `[r, in]`.
    pub a: Tensor<B, 2>,
    /// `lora_B`, `[out, r]`.
    pub b: Tensor<B, 2>,
    /// The factor of the product, `lora_alpha / r` (or `/ sqrt(r)`).
    pub scaling: f64,
    /// Dropout of the input in training.
    pub dropout: LoraDropout,
}

impl<B: ModelBackend> Lora<B> {
    /// `s·(drop(x)·Aᵀ)·Bᵀ`, with what is dropped at positions of the keys `keys`.
    ///
    /// # Shapes
    /// `[N, in]` → `[N, out]`
    pub(super) fn dropped(&self, x: Tensor<B, 2>, keys: &[u64]) -> Tensor<B, 2> {
        let x = self.dropout.apply(x, keys);
        let narrow = B::matmul(x, self.a.clone().transpose());
        B::matmul(narrow, self.b.clone().transpose()).mul_scalar(self.scaling)
    }
}

impl<B: Backend> Lora<B> {
    /// The factors as a layer takes them.
    pub fn as_ref(&self) -> LoraRef<'_, B> {
        LoraRef { a: &self.a, b: &self.b, scaling: self.scaling }
    }
}

/// The factors that are active in a layer.
#[derive(Clone, Debug)]
pub enum ActiveLora<B: Backend> {
    /// One pair for all rows.
    One(Lora<B>),
    /// One pair for each of several roles that run as one batch.
    Stacked(LoraStack<B>),
}

impl<B: ModelBackend> ActiveLora<B> {
    /// Whether a part of the input is dropped in training.
    pub(super) fn drops(&self) -> bool {
        match self {
            Self::One(lora) => lora.dropout.p > 0.0,
            Self::Stacked(stack) => stack.dropouts.iter().flatten().any(|dropout| dropout.p > 0.0),
        }
    }

    /// The same factors for training, sharing their storage, without gradient.
    pub fn to_autodiff(&self) -> ActiveLora<Autodiff<B>> {
        match self {
            Self::One(Lora { a, b, scaling, dropout }) => ActiveLora::One(Lora {
                a: Tensor::from_inner(a.clone()),
                b: Tensor::from_inner(b.clone()),
                scaling: *scaling,
                dropout: *dropout,
            }),
            Self::Stacked(LoraStack { a, b, dropouts }) => ActiveLora::Stacked(LoraStack {
                a: Tensor::from_inner(a.clone()),
                b: Tensor::from_inner(b.clone()),
                dropouts: dropouts.clone(),
            }),
        }
    }
}

/// The factors of several roles, multiplied as a batch. Rank and presence may differ: what a role lacks is zero.
#[derive(Clone, Debug)]
pub struct LoraStack<B: Backend> {
    /// `[K, in, r]`
    a: Tensor<B, 3>,
    /// `[K, r, out]`, times each role's scaling.
    b: Tensor<B, 3>,
    /// Dropout of each role's input in training.
    dropouts: Vec<Option<LoraDropout>>,
}

impl<B: ModelBackend> LoraStack<B> {
    /// The factors of a layer `[out, in]` for each role in turn; `None` where no role has any.
    pub(super) fn new(roles: &[Option<&Lora<B>>], [out, cols]: [usize; 2]) -> Option<Self> {
        let device = roles.iter().flatten().next()?.a.device();
        let rank = roles.iter().flatten().map(|l| l.a.dims()[0]).max()?;
        let pad = |x: Tensor<B, 2>, missing: usize, width: usize| match missing {
            0 => x,
            _ => Tensor::cat(vec![x, Tensor::zeros([missing, width], &device)], 0),
        };
        let factor = |of: &dyn Fn(&Lora<B>) -> Tensor<B, 2>, width: usize| {
            let each = roles.iter().map(|role| {
                let x = role.map(of).unwrap_or_else(|| Tensor::zeros([rank, width], &device));
                let missing = rank - x.dims()[0];
                pad(x, missing, width)
            });
            Tensor::stack::<3>(each.collect(), 0)
        };
        let a = factor(&|l| l.a.clone(), cols).swap_dims(1, 2);
        let b = factor(&|l| l.b.clone().transpose().mul_scalar(l.scaling), out);
        let dropouts = roles.iter().map(|role| role.map(|lora| lora.dropout)).collect();
        Some(Self { a, b, dropouts })
    }

    /// `s·(x·Aᵀ)·Bᵀ`, the rows of each role with its own factors; with the `keys` of positions, of inputs with dropout.
    ///
    /// # Shapes
    /// `[K·N, in]`, role after role → `[K·N, out]`
    pub fn forward(&self, x: Tensor<B, 2>, keys: Option<&[u64]>) -> Tensor<B, 2> {
        let [n, cols] = x.dims();
        let [roles, _, out] = self.b.dims();
        let x = match keys {
            Some(keys) => {
                let own = n / roles;
                let each = self.dropouts.iter().enumerate().map(|(k, dropout)| {
                    let rows = x.clone().narrow(0, k * own, own);
                    dropout.map_or(rows.clone(), |dropout| dropout.apply(rows, &keys[k * own..][..own]))
                });
                Tensor::cat(each.collect(), 0)
            }
            None => x,
        };
        let x = x.reshape([roles, n / roles, cols]);
        B::matmul(B::matmul(x, self.a.clone()), self.b.clone()).reshape([n, out])
    }
}
