//! The communication encoder: an agent's hidden states, however many, as `M` vectors of width `c`.
//!
//! For a rollout of `n` transmitted positions, `H [B, n, D]` after the final norm:
//! 1. `S = norm(H)` — `[B·n, D]`
//! 2. `Q = Q_j` of the sender — `[M, c]`, the same for all rows → `[B, heads, M, c/heads]`
//! 3. `K = S·W_k`, `V = S·W_v` — `[B, heads, n, c/heads]`
//! 4. `A = softmax(Q·Kᵀ/√(c/heads) + P)·V` — `[B·M, c]`; `P [B, 1, M, n]`: the position prior, padding hidden
//! 5. `E_j = A + silu(norm(A)·W_up)·W_down` — `[B, M, c]`

use burn::prelude::*;
use burn::tensor::TensorData;
use burn::tensor::activation::silu;
use diffmas_backends::ModelBackend;

use super::cross_attention::{HIDDEN, attend, heads, normalise};
use super::{Initializer, Rollout, Vectors, VectorsConfig};
use crate::backbone::{ParameterGroup, ParameterSpec, Parameters};

/// How much the score of a state falls with each part of the rollout between it and a query's own.
const SLOPE: f32 = 2.0;

/// What an encoder learns, by part.
#[derive(Clone, Debug)]
pub(super) struct Encoder<B: Backend> {
    /// Of each sender, `[M, c]`.
    queries: Vec<Tensor<B, 2>>,
    /// `[D, c]`
    k_proj: Tensor<B, 2>,
    /// `[D, c]`
    v_proj: Tensor<B, 2>,
    /// `[c, 2c]`
    up_proj: Tensor<B, 2>,
    /// `[2c, c]`
    down_proj: Tensor<B, 2>,
    heads: usize,
    /// Of the position prior; 0 without one.
    slope: f32,
}

impl<B: ModelBackend> Encoder<B> {
    /// What learns, on hidden states of width `d`: a vector begins as a mean around its part of the rollout.
    pub fn parameters(config: &VectorsConfig, d: usize) -> Vec<(ParameterSpec, Initializer)> {
        let (m, c) = (config.num_vectors, config.vector_dim);
        let spec = |name: String, shape| ParameterSpec::new(name, shape, ParameterGroup::ENCODER);
        // Directions are drawn before anything else.
        let mut all = vec![(spec("encoder.v_proj".into(), [d, c]), Initializer::Projection)];
        all.extend(config.senders().iter().map(|sender| {
            (spec(format!("encoder.queries.{sender}"), [m, c]).spared(), Initializer::Normal(0.02))
        }));
        all.extend([
            (spec("encoder.k_proj".into(), [d, c]), Initializer::Linear),
            (spec("encoder.up_proj".into(), [c, 2 * c]), Initializer::Linear),
            (spec("encoder.down_proj".into(), [2 * c, c]), Initializer::Full(0.0)),
        ]);
        all
    }

    /// The encoder with the values of `parameters`.
    pub fn new(config: &VectorsConfig, parameters: &Parameters<B>) -> Self {
        let get = |name: &str| parameters.get(&format!("encoder.{name}")).clone();
        Self {
            queries: config.senders().iter().map(|sender| get(&format!("queries.{sender}"))).collect(),
            k_proj: get("k_proj"),
            v_proj: get("v_proj"),
            up_proj: get("up_proj"),
            down_proj: get("down_proj"),
            heads: config.vector_heads,
            slope: if config.encoder_position_prior { SLOPE } else { 0.0 },
        }
    }

    /// The vectors of `rollout`: its sender's queries attend over the hidden states of its transmitted positions.
    ///
    /// # Shapes
    /// `H [B, n, D]` → `[B, M, c]`
    pub fn forward(&self, rollout: &Rollout<B>) -> Vectors<B> {
        let (states, valid) = rollout.hidden_states();
        let ([batch, n, d], [m, c]) = (states.dims(), self.queries[rollout.sender].dims());
        let places = TensorData::new(places(&valid, batch, m, self.slope), [batch, 1, m, n]);
        let places = Tensor::from_data(places, &states.device());
        // 1. S
        let states = normalise(states.reshape([batch * n, d]));
        // 2. Q
        let queries = self.queries[rollout.sender].clone();
        let queries = heads(queries, 1, self.heads).expand([batch, self.heads, m, c / self.heads]);
        // 3. K, V
        let project = |w: &Tensor<B, 2>| heads(B::matmul(states.clone(), w.clone()), batch, self.heads);
        let (keys, values) = (project(&self.k_proj), project(&self.v_proj));
        // 4. A
        let (gathered, _) = attend(queries, keys, values, Some(places), false);
        let gathered = gathered.reshape([batch * m, c]);
        // 5. E_j
        let up = B::matmul(normalise(gathered.clone()), self.up_proj.clone());
        let values = gathered + B::matmul(silu(up), self.down_proj.clone());
        Vectors { values: values.reshape([batch, m, c]), valid: vec![true; batch * m] }
    }
}

/// What is added to the scores of `m` queries, `[B, m, n]` row-major: each prefers its own of `m` equal parts of the rollout, which is where
/// `valid` (`[B, n]` row-major) is true, by `slope` for each part between them; the rest is hidden. Hidden states carry no position, and what
/// is gathered from all of them at once does not depend on their order.
fn places(valid: &[bool], batch: usize, m: usize, slope: f32) -> Vec<f32> {
    let mut scores = Vec::with_capacity(m * valid.len());
    for valid in valid.chunks_exact(valid.len() / batch) {
        let width = m as f32 / valid.iter().filter(|&&v| v).count() as f32;
        for query in 0..m {
            let mut seen = 0.0;
            scores.extend(valid.iter().map(|&v| {
                let between = (seen + 0.5) * width - (query as f32 + 0.5);
                seen += f32::from(v);
                if v { -slope * between.abs() } else { HIDDEN }
            }));
        }
    }
    scores
}

#[cfg(all(test, feature = "flex"))]
mod tests {
    use super::*;
    use crate::backbone::{KeyValues, Positions};
    use crate::communication::{Transmit, initializer::initialize};

    type TestBackend = diffmas_backends::Flex;

    const WIDTH: usize = 4;

    fn config(prior: bool) -> VectorsConfig {
        VectorsConfig {
            num_vectors: 2,
            vector_dim: WIDTH,
            vector_heads: 1,
            cross_attention_layers: vec![0],
            encoder_position_prior: prior,
            agents: vec!["first".into(), "last".into()],
        }
    }

    /// A rollout of one row with these hidden states, of which the first `padding` are not there.
    fn rollout(states: &[[f32; WIDTH]], padding: usize) -> Rollout<TestBackend> {
        let valid: Vec<bool> = (0..states.len()).map(|i| i >= padding).collect();
        let data = TensorData::new(states.concat(), [1, states.len(), WIDTH]);
        let hidden: Tensor<TestBackend, 3> = Tensor::from_data(data, &Default::default());
        Rollout {
            sender: 0,
            transmit: Transmit::Prompt,
            dropped: vec![false],
            prompt: KeyValues { layers: Vec::new(), positions: Positions::issue(&valid, &mut [0]) },
            latent: None,
            latents: vec![hidden.clone().narrow(1, states.len() - 1, 1).squeeze_dim(1)],
            hidden,
        }
    }

    fn encode(config: &VectorsConfig, rollout: &Rollout<TestBackend>) -> Vec<f32> {
        let drawn = initialize(&Encoder::<TestBackend>::parameters(config, WIDTH), 1, &Default::default());
        Encoder::new(config, &drawn).forward(rollout).values.into_data().iter().collect()
    }

    #[test]
    fn queries_prefer_their_own_parts_of_what_is_there() {
        let (h, s) = (HIDDEN, SLOPE);
        let left_padded = [false, true, true, true, true];
        let whole = [true; 5];
        let scores = places(&[left_padded, whole].concat(), 2, 2, s);
        // Four states in two parts: a query stands in the middle of its two.
        assert_eq!(scores[..5], [h, -0.25 * s, -0.25 * s, -0.75 * s, -1.25 * s]);
        assert_eq!(scores[5..10], [h, -1.25 * s, -0.75 * s, -0.25 * s, -0.25 * s]);
        assert!(scores.len() == 20 && scores[10..].iter().all(|&x| x > h));
        // As many queries as states: one each.
        let own = places(&[true; 3], 1, 3, s);
        assert_eq!([own[0], own[4], own[8]], [0.0; 3]);
        assert!([own[1], own[3], own[5], own[7]].iter().all(|x| (x + s).abs() < 1e-6), "{own:?}");
        // Without the prior all that is there counts the same, and padding is hidden all the same.
        assert_eq!(places(&left_padded, 1, 1, 0.0), [h, 0.0, 0.0, 0.0, 0.0]);
    }

    #[test]
    fn vectors_do_not_depend_on_padding_nor_on_the_length_of_a_state() {
        let config = config(true);
        let states = [[1.0, 2.0, -1.0, 0.5], [0.0, -2.0, 1.0, 1.0], [3.0, 0.0, 0.0, 1.0]];
        let own = encode(&config, &rollout(&states, 0));
        let padded = [[[9.0; WIDTH]; 2].to_vec(), states.to_vec()].concat();
        for (a, b) in own.iter().zip(encode(&config, &rollout(&padded, 2))) {
            assert!((a - b).abs() < 1e-6, "{a} {b}");
        }
        let longer = states.map(|state| state.map(|x| 100.0 * x));
        for (a, b) in own.iter().zip(encode(&config, &rollout(&longer, 0))) {
            assert!((a - b).abs() < 1e-5, "{a} {b}");
        }
    }

    #[test]
    fn a_fresh_encoder_keeps_what_all_states_have_in_common() {
        // Whatever the weights of attention, the mean of equal states is that state: norm(h)·W_v, W_v orthonormal.
        let state = [1.0, 2.0, -1.0, 0.5];
        let vectors = encode(&config(false), &rollout(&[state; 3], 0));
        let (first, second) = vectors.split_at(WIDTH);
        let square = |x: &[f32]| x.iter().map(|x| x * x).sum::<f32>();
        assert!((square(first) - WIDTH as f32).abs() < 1e-4, "{first:?}");
        assert!(first.iter().zip(second).all(|(a, b)| (a - b).abs() < 1e-6), "{vectors:?}");
    }
}
