//! How a hidden state becomes the next input embedding of a latent step.

use std::ops::Range;

use burn::prelude::*;
use burn::tensor::TensorData;
use diffmas_backends::{Autodiff, FrozenMatrix, ModelBackend, host_data};
use nalgebra::DMatrix;

use super::FeedKind;
use crate::backbone::{Backbone, Parameters};
use crate::images::EncoderKind;

/// Name of the trainable matrix `[D, D]` among the parameters.
pub(super) const LEARNED: &str = "feed.learned";

/// Names of weight and bias of the first or second layer of the projector behind an encoder.
pub(super) fn projector_of(kind: &EncoderKind, layer: usize) -> [String; 2] {
    ["weight", "bias"].map(|part| format!("projector.{}.linear_{layer}.{part}", kind.name))
}

/// Name of the trainable input embeddings `[T, D]` of the agent `name`.
pub(super) fn slots_of(name: &str) -> String {
    format!("slots.{name}")
}

/// `z = h·W_a`, rescaled to the mean norm `ρ` of the input embeddings, in at least f32.
#[derive(Clone, Debug)]
pub struct FeedModule<B: Backend> {
    /// `ρ`: mean over the vocabulary of the input embeddings' norms.
    pub rho: f64,
    /// The realignment matrix `[D, D]`, where an agent uses it.
    pub realign: Option<Tensor<B, 2>>,
}

impl<B: ModelBackend> FeedModule<B> {
    /// What agents with feeds `kinds` need.
    pub fn new(backbone: &Backbone<B>, kinds: &[FeedKind]) -> Self {
        Self {
            rho: mean_norm(backbone),
            realign: kinds.contains(&FeedKind::Realign).then(|| realign(backbone)),
        }
    }

    /// The module for training.
    pub fn to_autodiff(&self) -> FeedModule<Autodiff<B>> {
        FeedModule { rho: self.rho, realign: self.realign.clone().map(Tensor::from_inner) }
    }

    /// The next input embedding; a trainable matrix is among `parameters`.
    ///
    /// # Shapes
    /// `h [B, D]` → `[B, D]`
    ///
    /// # Panics
    /// If the module was made without `kind`, or slots are asked for, which are read without any hidden state.
    pub fn forward(
        &self,
        kind: FeedKind,
        h: Tensor<B, 2>,
        backbone: &Backbone<B>,
        parameters: &Parameters<B>,
    ) -> Tensor<B, 2> {
        let z = match kind {
            FeedKind::Identity => h,
            FeedKind::Realign => {
                B::matmul(h, self.realign.clone().expect("made with the realignment matrix"))
            }
            FeedKind::Learned => B::matmul(h, parameters.get(LEARNED).clone()),
            FeedKind::Soft => {
                B::frozen_transposed(B::softmax_last(backbone.logits(h)), &backbone.embed_tokens)
            }
            FeedKind::Slots => unreachable!("slots are read in one pass, not step by step"),
        };
        self.rescaled(z)
    }

    /// The input embeddings of the slots of agent `name`, `[T, D]`: what is among `parameters`, rescaled as every feed.
    pub fn slots(&self, name: &str, parameters: &Parameters<B>) -> Tensor<B, 2> {
        self.rescaled(parameters.get(&slots_of(name)).clone())
    }

    /// `z · ρ / max(‖z‖, 1e-6)`, row by row.
    pub(super) fn rescaled(&self, z: Tensor<B, 2>) -> Tensor<B, 2> {
        let norm = B::sum_last(z.clone().powi_scalar(2)).sqrt().clamp_min(1e-6);
        z * norm.recip().mul_scalar(self.rho)
    }
}

/// Rows of the vocabulary that are expanded at once: more than one block, the last of them shorter, for the smallest models that are tested.
const ROWS: usize = 384;

/// The rows of the vocabulary, a block after the other.
fn blocks(rows: usize) -> impl Iterator<Item = Range<usize>> {
    (0..rows).step_by(ROWS).map(move |from| from..rows.min(from + ROWS))
}

/// The mean norm of the input embeddings.
fn mean_norm<B: ModelBackend>(backbone: &Backbone<B>) -> f64 {
    let rows = backbone.config.vocab_size;
    let mut sum = 0.0;
    for block in blocks(rows) {
        let ids: Vec<u32> = block.map(|id| id as u32).collect();
        let norms = host_data(B::sum_last(backbone.embed(&ids).powi_scalar(2)).sqrt());
        sum = norms.iter::<f64>().fold(sum, |sum, x| sum + x);
    }
    sum / rows as f64
}

/// `(W_outᵀ·W_out + 1e-5·I)⁻¹·W_outᵀ·W_in`, summed over blocks of rows and solved once in f64 on the host (LatentMAS, arXiv 2511.20639).
fn realign<B: ModelBackend>(backbone: &Backbone<B>) -> Tensor<B, 2> {
    let d = backbone.config.hidden_size;
    // A row-major block, read column by column, is its transpose.
    let transposed = |weight: &B::Weight, block: Range<usize>| {
        let (rows, values) = (block.len(), weight.rows(block));
        DMatrix::from_iterator(d, rows, values.into_iter().map(f64::from))
    };
    let tied = backbone.config.tie_word_embeddings;
    let (mut gram, mut cross) = (DMatrix::zeros(d, d), DMatrix::zeros(d, d));
    for block in blocks(backbone.config.vocab_size) {
        let output = transposed(&backbone.lm_head.weight, block.clone());
        gram.gemm(1.0, &output, &output.transpose(), 1.0);
        if !tied {
            let input = transposed(&backbone.embed_tokens, block);
            cross.gemm(1.0, &output, &input.transpose(), 1.0);
        }
    }
    let cross = if tied { gram.clone() } else { cross };
    let gram = gram + DMatrix::identity(d, d) * 1e-5;
    let solved = gram.cholesky().expect("a Gram matrix plus a ridge is positive definite").solve(&cross);
    let data: Vec<f32> = solved.transpose().iter().map(|&x| x as f32).collect();
    Tensor::from_data(TensorData::new(data, [d, d]), &backbone.device())
}
