//! AdamW with its state by parameter name, and clipping by the global norm.

use std::collections::BTreeMap;

use burn::optim::{AdamW, AdamWConfig, AdamWState, AdaptiveMomentumState, SimpleOptimizer};
use burn::prelude::*;
use burn::tensor::TensorData;
use diffmas_backends::host_data;

use super::TrainConfig;
use crate::backbone::{ParameterSpecs, Parameters, Pull};
use crate::checkpoint::NamedTensors;
use crate::error::{Error, Result};

/// AdamW (arXiv 1711.05101), decoupled weight decay as in torch.
pub struct Optimizer<B: Backend> {
    rule: AdamW,
    /// The same without weight decay.
    sparing: AdamW,
    weight_decay: f64,
    /// Where weight decay pulls what it does not pull to zero.
    pulls: BTreeMap<String, Pull>,
    state: BTreeMap<String, AdamWState<B, 2>>,
}

impl<B: Backend> Optimizer<B> {
    /// An optimiser as `config` describes it that has seen no gradient yet; `specs` say where its `decay` pulls.
    pub fn new(config: &TrainConfig, specs: &ParameterSpecs) -> Self {
        let TrainConfig { weight_decay, decay, .. } = *config;
        let rule = |weight_decay: f64| {
            AdamWConfig::new()
                .with_beta_1(config.adam_beta1 as f32)
                .with_beta_2(config.adam_beta2 as f32)
                .with_epsilon(config.adam_epsilon as f32)
                .with_weight_decay(weight_decay as f32)
                .build()
        };
        let pulls = specs.iter().map(|spec| (spec.name.clone(), decay.pull(spec)));
        Self {
            rule: rule(weight_decay),
            sparing: rule(0.0),
            weight_decay,
            pulls: pulls.filter(|(_, pull)| *pull != Pull::Zero).collect(),
            state: BTreeMap::new(),
        }
    }

    /// One update; a parameter without a gradient stays as it is.
    pub fn step(&mut self, lr: f64, parameters: &Parameters<B>, gradients: &Parameters<B>) -> Parameters<B> {
        parameters
            .iter()
            .map(|(name, value)| {
                let Some(grad) = gradients.find(name).cloned() else { return (name.clone(), value.clone()) };
                let pull = self.pulls.get(name).copied().unwrap_or_default();
                let rule = if pull == Pull::Nowhere { &self.sparing } else { &self.rule };
                let (mut value, state) = rule.step(lr, value.clone(), grad, self.state.remove(name));
                if pull == Pull::Identity && self.weight_decay > 0.0 {
                    let [width, _] = value.dims();
                    let identity = Tensor::eye(width, &value.device());
                    value = value + identity.mul_scalar(lr * self.weight_decay);
                }
                if let Some(state) = state {
                    self.state.insert(name.clone(), state);
                }
                (name.clone(), value)
            })
            .collect()
    }

    /// The moments, as `{name}.exp_avg`, `{name}.exp_avg_sq` and `{name}.step`.
    pub(crate) fn to_host(&self) -> NamedTensors {
        let mut all = NamedTensors::new();
        for (name, state) in &self.state {
            let m = &state.momentum;
            for (part, t) in [("exp_avg", &m.moment_1), ("exp_avg_sq", &m.moment_2)] {
                let values = host_data(t.clone()).iter::<f32>().collect();
                all.insert(format!("{name}.{part}"), (t.dims().to_vec(), values));
            }
            all.insert(format!("{name}.step"), (vec![1], vec![m.time as f32]));
        }
        all
    }

    /// Takes over moments written by `to_host`.
    ///
    /// # Errors
    /// If they do not fit `parameters`.
    pub fn load(&mut self, mut stored: NamedTensors, parameters: &Parameters<B>) -> Result<()> {
        self.state.clear();
        for (name, value) in parameters.iter() {
            let Some((_, step)) = stored.remove(&format!("{name}.step")) else { continue };
            let mut take = |part: &str| {
                let key = format!("{name}.{part}");
                match stored.remove(&key) {
                    Some((shape, data)) if shape == value.dims() => {
                        Ok(Tensor::from_data(TensorData::new(data, value.dims()), &value.device()))
                    }
                    _ => Err(Error::invalid(format!(
                        "the optimizer's state has no `{key}` of shape {:?}",
                        value.dims()
                    ))),
                }
            };
            let mut momentum = AdaptiveMomentumState::new(0, take("exp_avg")?, take("exp_avg_sq")?);
            momentum.time = step.first().copied().unwrap_or(0.0) as usize;
            self.state.insert(name.clone(), AdamWState::new(momentum));
        }
        match stored.keys().next() {
            Some(extra) => {
                Err(Error::invalid(format!("the optimizer's state has `{extra}`, which nothing here learns")))
            }
            None => Ok(()),
        }
    }
}

/// Scales `gradients` so that their global norm is at most `max_norm` (torch's `min(1, max_norm / (norm + 1e-6))`), and returns the
/// factor; 0 switches clipping off.
pub fn clip<B: Backend>(gradients: Parameters<B>, norm: f64, max_norm: f64) -> (Parameters<B>, f64) {
    let factor = max_norm / (norm + 1e-6);
    if max_norm <= 0.0 || factor >= 1.0 { (gradients, 1.0) } else { (gradients.scaled(factor), factor) }
}
