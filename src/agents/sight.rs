//! Agents that see: images as input embeddings, through an encoder and its projector.

use std::sync::Arc;

use burn::prelude::*;
use burn::tensor::TensorData;
use burn::tensor::activation::gelu;
use diffmas_backends::{ModelBackend, host_data};

use super::feed::projector_of;
use super::{AgentInput, Embedded, PaddedEmbeddings, Team};
use crate::backbone::{Backbone, select_rows};
use crate::images::{Image, encode};

impl<B: ModelBackend> Team<B> {
    /// What an agent reads, as input embeddings: tokens looked up, images through the team's encoder and projector.
    ///
    /// # Panics
    /// If it is images, and the team was made without their encoder.
    pub fn embed(&self, input: &AgentInput, backbone: &Backbone<B>) -> Embedded<B> {
        let AgentInput::Images(seen) = input else { return input.embed(backbone) };
        let images = self.project(&seen.images, backbone);
        if seen.ids.len == 0 {
            return images;
        }
        let all = images.beside(AgentInput::from(seen.ids.clone()).embed(backbone));
        let x = match seen.valid().contains(&false) {
            true => select_rows(all.x, &seen.sources()),
            false => all.x,
        };
        Embedded { x, batch: all.batch, valid: seen.valid().to_vec() }
    }

    /// The features of images as input embeddings: `W₂ᵀ·gelu(W₁ᵀ·x + b₁) + b₂`, rescaled as every feed (LLaVA-1.5, arXiv 2310.03744, over windows).
    fn project(&self, images: &[Arc<Image>], backbone: &Backbone<B>) -> Embedded<B> {
        let kind = images[0].kind();
        let encoder = self.encoders.get(kind);
        encode(images, encoder);
        let features = images.iter().flat_map(|image| image.features(encoder).iter().copied()).collect();
        let shape = [images.len() * kind.positions(), kind.inputs()];
        let features = Tensor::<B, 2>::from_data(TensorData::new(features, shape), &backbone.device());
        let linear = |x, i| {
            let [weight, bias] = projector_of(kind, i).map(|name| self.parameters.get(&name).clone());
            B::matmul(x, weight) + bias
        };
        let x = self.feed.rescaled(linear(gelu(linear(features, 1)), 2));
        Embedded { x, batch: images.len(), valid: vec![true; images.len() * kind.positions()] }
    }

    /// The same input without images: in their place the embeddings that they become.
    pub fn without_images(&self, input: AgentInput, backbone: &Backbone<B>) -> AgentInput {
        let AgentInput::Images(seen) = &input else { return input };
        let Embedded { x, batch, valid } = self.embed(&input, backbone);
        let width = x.dims()[1];
        PaddedEmbeddings {
            batch,
            len: seen.len(),
            width,
            values: host_data(x).iter::<f32>().collect(),
            valid,
        }
        .into()
    }
}
