//! Rotary position embedding with explicit positions.

use burn::prelude::*;
use burn::tensor::TensorData;

use super::{Positions, RopeConfig};

/// The inverse frequencies of a model's rotary embedding.
///
/// Computed in f32, as Hugging Face's models were trained: `θ^(−2i/d)`, for `llama3` and `yarn` with wavelengths stretched as in
/// `transformers.modeling_rope_utils`.
#[derive(Clone, Debug)]
pub struct RotaryEmbedding {
    inv_freq: Vec<f32>,
    /// What queries and keys are multiplied by beside their rotation.
    attention_factor: f64,
}

impl RotaryEmbedding {
    /// The embedding for heads of width `head_dim`.
    pub fn new(config: &RopeConfig, head_dim: usize) -> Self {
        let unscaled = |i: usize| {
            let exponent = (2 * i) as f32 / head_dim as f32;
            f64::from(1.0 / (config.theta as f32).powf(exponent))
        };
        let unscaled: Vec<f64> = (0..head_dim / 2).map(unscaled).collect();
        let divisors = config.scaling.divisors(config.theta, &unscaled);
        let inv_freq = unscaled.iter().zip(divisors).map(|(freq, divisor)| (freq / divisor) as f32).collect();
        Self { inv_freq, attention_factor: config.scaling.attention_factor() }
    }

    /// [`RotaryEmbedding::cos_sin`] times the attention factor: what queries and keys are embedded with, once each.
    ///
    /// # Shapes
    /// `B·n` positions → two tensors `[B·n, d/2]`
    pub fn scaled_cos_sin<B: Backend>(&self, positions: &Positions, device: &B::Device) -> [Tensor<B, 2>; 2] {
        let rotation = self.cos_sin(positions, device);
        match self.attention_factor {
            1.0 => rotation,
            factor => rotation.map(|x| x.mul_scalar(factor)),
        }
    }

    /// `cos` and `sin` of every position's angles, position times frequency: a rotation.
    ///
    /// # Shapes
    /// `B·n` positions → two tensors `[B·n, d/2]`
    pub fn cos_sin<B: Backend>(&self, positions: &Positions, device: &B::Device) -> [Tensor<B, 2>; 2] {
        // 1. angles [B·n, d/2]
        let angles: Vec<f32> =
            positions.ids.iter().flat_map(|&p| self.inv_freq.iter().map(move |f| p as f32 * f)).collect();

        // 2. their cosines and sines
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

    /// Two heads of width 6, turned to `position`.
    #[cfg(feature = "flex")]
    fn turned(x: &[f64], position: u32) -> Vec<f64> {
        use super::super::fixtures::*;
        use diffmas_backends::ModelBackend;

        let rotary = RotaryEmbedding::new(&RopeConfig { theta: 100.0, scaling: RopeScaling::None }, 6);
        let at = Positions { batch: 1, len: 1, ids: vec![position], valid: vec![true] };
        let [cos, sin] = rotary.cos_sin::<TestBackend>(&at, &Default::default());
        let data: Vec<f32> = x.iter().map(|&x| x as f32).collect();
        let x = Tensor::from_data(TensorData::new(data, [1, 2, 6]), &Default::default());
        numbers(&TestBackend::rotary(x, &cos, &sin))
    }

    #[cfg(feature = "flex")]
    #[test]
    fn each_pair_of_numbers_is_turned_by_its_own_angle() {
        let x: Vec<f64> = (0..12).map(|i| f64::from(i) - 4.5).collect();
        super::super::fixtures::close(&turned(&x, 0), &x);
        let mut want = x.clone();
        for (head, i) in [(0, 0), (0, 1), (0, 2), (6, 0), (6, 1), (6, 2)] {
            // The pair is (i, i + 3) of a head; θ^(−2i/d) is the frequency.
            let (sin, cos) = (7.0 * 100f64.powf(-2.0 * i as f64 / 6.0)).sin_cos();
            let (a, b) = (x[head + i], x[head + i + 3]);
            (want[head + i], want[head + i + 3]) = (a * cos - b * sin, b * cos + a * sin);
        }
        super::super::fixtures::close(&turned(&x, 7), &want);
    }

    #[cfg(feature = "flex")]
    #[test]
    fn a_score_depends_on_the_distance_alone() {
        use super::super::fixtures::{close, numbers, random};
        let (q, k) = (numbers(&random([12], 1)), numbers(&random([12], 2)));
        let score = |m, n| turned(&q, m).iter().zip(turned(&k, n)).map(|(q, k)| q * k).sum::<f64>();
        for by in [1, 10, 40] {
            close(&[score(5 + by, 2 + by), score(by, by)], &[score(5, 2), score(0, 0)]);
        }
        assert!((score(5, 2) - score(2, 5)).abs() > 1e-3, "a distance has a direction");
    }

    /// `ROPE_INIT_FUNCTIONS["yarn"]` of transformers 5.24.
    #[test]
    fn yarn_stretches_what_turns_seldom_and_sharpens_scores() {
        let embedding = |text: &str| {
            let config = format!(
                r#"{{"model_type": "llama", "vocab_size": 8, "hidden_size": 128, "intermediate_size": 8, "num_hidden_layers": 1,
                    "num_attention_heads": 1, "max_position_embeddings": 131072, "rope_parameters": {{"rope_type": "yarn", {text}}}}}"#
            );
            let config = super::super::BackboneConfig::from_json("config.json".as_ref(), &config).unwrap();
            RotaryEmbedding::new(&config.rope, config.head_dim)
        };
        let plain = r#""factor": 4.0, "rope_theta": 1e6, "original_max_position_embeddings": 32768"#;
        let full = r#""factor": 16.0, "rope_theta": 1e4, "original_max_position_embeddings": 4096, "mscale": 2.0, "mscale_all_dim": 0.5,
            "beta_fast": 8, "beta_slow": 2, "truncate": false"#;
        let cases = [
            (
                plain,
                1.138_629_436,
                [(24, 5.375_321_5e-3), (30, 1.064_361e-3), (35, 2.462_584e-4), (45, 1.510_740_9e-5)],
            ),
            (
                full,
                1.365_253_431,
                [(30, 1.333_521_5e-2), (35, 3.698_796e-3), (40, 2.623_957_7e-4), (63, 7.217_387e-6)],
            ),
        ];
        for (text, attention_factor, frequencies) in cases {
            let embedding = embedding(text);
            assert!(
                (embedding.attention_factor - attention_factor).abs() < 1e-8,
                "{}",
                embedding.attention_factor
            );
            for (i, want) in frequencies {
                let got = embedding.inv_freq[i];
                assert!((got / want - 1.0f32).abs() < 2e-5, "frequency {i}: {got} instead of {want}");
            }
        }
    }

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
