//! How a hidden state becomes the next input embedding of a latent step.

use burn::prelude::*;
use burn::tensor::TensorData;
use diffmas_backends::{Autodiff, ModelBackend};
use nalgebra::DMatrix;

use super::FeedKind;
use crate::backbone::{Backbone, Parameters};

/// Name of the trainable matrix `[D, D]` among the parameters.
pub(super) const LEARNED: &str = "feed.learned";

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
        let norms = backbone.embed_tokens.clone().powi_scalar(2).sum_dim(1).sqrt();
        let norms = norms.into_data();
        let (sum, n) = norms.iter::<f64>().fold((0.0, 0usize), |(s, n), x| (s + x, n + 1));
        Self { rho: sum / n as f64, realign: kinds.contains(&FeedKind::Realign).then(|| realign(backbone)) }
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
    /// If the module was made without `kind`.
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
            FeedKind::Soft => B::matmul(B::softmax_last(backbone.logits(h)), backbone.embed_tokens.clone()),
        };
        let norm = z.clone().powi_scalar(2).sum_dim(1).sqrt().clamp_min(1e-6);
        z * norm.recip().mul_scalar(self.rho)
    }
}

/// `(W_outᵀ·W_out + 1e-5·I)⁻¹·W_outᵀ·W_in`, solved once in f64 on the host (LatentMAS, arXiv 2511.20639).
fn realign<B: ModelBackend>(backbone: &Backbone<B>) -> Tensor<B, 2> {
    let d = backbone.config.hidden_size;
    let host = |w: &Tensor<B, 2>| {
        let data: Vec<f64> = w.to_data().iter::<f64>().collect();
        DMatrix::from_row_slice(data.len() / d, d, &data)
    };
    let (input, output) = (host(&backbone.embed_tokens), host(&backbone.lm_head));
    let gram = output.tr_mul(&output) + DMatrix::identity(d, d) * 1e-5;
    let solved = gram
        .cholesky()
        .expect("a Gram matrix plus a ridge is positive definite")
        .solve(&output.tr_mul(&input));
    let data: Vec<f32> = solved.transpose().iter().map(|&x| x as f32).collect();
    Tensor::from_data(TensorData::new(data, [d, d]), &backbone.device())
}
