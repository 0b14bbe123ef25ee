//! Rotary position embedding with explicit positions.

use burn::prelude::*;
use burn::tensor::TensorData;

use super::{Positions, RopeConfig};

/// The inverse frequencies of a model's rotary embedding.
///
/// Computed in f32, as Hugging Face's models were trained: `θ^(−2i/d)`, for `llama3` with wavelengths stretched as in
/// `transformers.modeling_rope_utils`.
#[derive(Clone, Debug)]
pub struct RotaryEmbedding {
    inv_freq: Vec<f32>,
}

impl RotaryEmbedding {
    /// The embedding for heads of width `head_dim`.
    pub fn new(config: &RopeConfig, head_dim: usize) -> Self {
        let inv_freq = (0..head_dim / 2)
            .map(|i| {
                let exponent = (2 * i) as f32 / head_dim as f32;
                let freq = 1.0 / (config.theta as f32).powf(exponent);
                (f64::from(freq) / config.scaling.divisor(f64::from(freq))) as f32
            })
            .collect();
        Self { inv_freq }
    }

    /// `cos` and `sin` of every position's angles.
    ///
    /// # Shapes
    /// `B·n` positions → two tensors `[B·n, d/2]`
    pub fn cos_sin<B: Backend>(&self, positions: &Positions, device: &B::Device) -> [Tensor<B, 2>; 2] {
        let angles: Vec<f32> =
            positions.ids.iter().flat_map(|&p| self.inv_freq.iter().map(move |f| p as f32 * f)).collect();
        let shape = [positions.ids.len(), self.inv_freq.len()];
        [f32::cos, f32::sin].map(|f| {
            let data: Vec<f32> = angles.iter().map(|&a| f(a)).collect();
            Tensor::from_data(TensorData::new(data, shape), device)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::RopeScaling;
    use super::*;

    #[test]
    fn llama3_scaling_keeps_high_frequencies_and_stretches_low_ones() {
        let scaling = RopeScaling::Llama3 {
            factor: 8.0,
            low_freq_factor: 1.0,
            high_freq_factor: 4.0,
            original_max_position_embeddings: 8192,
        };
        let inv_freq =
            |scaling| RotaryEmbedding::new(&RopeConfig { theta: 500_000.0, scaling }, 128).inv_freq;
        let (plain, scaled) = (inv_freq(RopeScaling::None), inv_freq(scaling));
        assert_eq!(scaled[0], plain[0]);
        assert_eq!(scaled[63], plain[63] / 8.0);
        // `ROPE_INIT_FUNCTIONS["llama3"]` of transformers 5.23 for these settings.
        for (i, want) in [(28, 3.211_446e-3), (30, 1.371_893_7e-3), (32, 5.248_46e-4), (36, 7.784_655_5e-5)] {
            assert!(
                (scaled[i] / want - 1.0f32).abs() < 2e-6,
                "frequency {i}: {} instead of {want}",
                scaled[i]
            );
        }
    }
}
