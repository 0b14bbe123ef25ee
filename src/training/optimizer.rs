//! AdamW over everything that learns at once, and clipping by the global norm.

use std::sync::Arc;

use burn::prelude::*;
use diffmas_backends::{AdamWRange, AdamWState, ModelBackend, host_data};

use super::{FlatGradient, FlatLayout, TrainConfig};
use crate::backbone::{ParameterSpecs, Parameters, Pull};
use crate::checkpoint::NamedTensors;
use crate::error::{Error, Result};

/// AdamW (arXiv 1711.05101), decoupled weight decay as in torch, on one tensor of all that learns.
pub struct Optimizer<B: ModelBackend> {
    betas: [f32; 2],
    eps: f32,
    weight_decay: f64,
    layout: Arc<FlatLayout>,
    /// Of each matrix, in the order of the layout, where weight decay pulls it and how many updates it has had.
    matrices: Vec<(Pull, usize)>,
    /// Only an update that panics leaves nothing here.
    state: Option<AdamWState<B>>,
    device: B::Device,
}

impl<B: ModelBackend> Optimizer<B> {
    /// An optimiser of `parameters` as `config` describes it that has seen no gradient yet; `specs` say where its `decay` pulls.
    ///
    /// # Errors
    /// If the device cannot hold them in one piece.
    ///
    /// # Panics
    /// If there is no parameter.
    pub fn new(config: &TrainConfig, specs: &ParameterSpecs, parameters: &Parameters<B>) -> Result<Self> {
        let TrainConfig { weight_decay, decay, .. } = *config;
        let pull = |name: &str| specs.get(name).map_or_else(Pull::default, |spec| decay.pull(spec));
        // Those that are treated alike lie side by side.
        let mut matrices: Vec<_> =
            parameters.iter().map(|(name, value)| (pull(name), name.clone(), value.dims())).collect();
        matrices.sort();
        let layout = FlatLayout::new(matrices.iter().map(|(_, name, shape)| (name.clone(), *shape)));
        let (_, first) = parameters.iter().next().expect("something that learns");
        let device = first.device();
        layout.check::<B>(&device)?;
        let zeros = || layout.zeros(&device);
        let state = AdamWState {
            parameters: layout.added(zeros(), parameters),
            exp_avg: zeros(),
            exp_avg_sq: zeros(),
        };
        Ok(Self {
            betas: [config.adam_beta1 as f32, config.adam_beta2 as f32],
            eps: config.adam_epsilon as f32,
            weight_decay,
            matrices: matrices.into_iter().map(|(pull, ..)| (pull, 0)).collect(),
            layout: Arc::new(layout),
            state: Some(state),
            device,
        })
    }

    fn state(&self) -> &AdamWState<B> {
        self.state.as_ref().expect("no update has panicked")
    }

    /// Where what learns lies.
    pub fn layout(&self) -> &Arc<FlatLayout> {
        &self.layout
    }

    /// What learns, as it is now. Whoever holds it keeps the next update from being one in place.
    pub fn parameters(&self) -> Parameters<B> {
        self.layout.parts(&self.state().parameters, |_| true)
    }

    /// One update by `gradient` times `clip_factor`; a parameter without a gradient stays as it is.
    ///
    /// # Panics
    /// If the gradient is of another layout.
    pub fn step(&mut self, lr: f64, gradient: &FlatGradient<B>, clip_factor: f64) {
        assert_eq!(gradient.layout().len(), self.layout.len(), "the gradient of what learns here");
        let reached = gradient.reached();
        for ((_, updates), reached) in self.matrices.iter_mut().zip(reached) {
            *updates += usize::from(*reached);
        }
        let ranges = self.ranges(lr, reached, clip_factor as f32);
        let state = self.state.take().expect("no update has panicked");
        self.state = Some(B::adamw(state, gradient.sum(), &ranges));
    }

    /// The arithmetic of an update: of each run of matrices that have a gradient and are treated alike.
    fn ranges(&self, lr: f64, reached: &[bool], clip_factor: f32) -> Vec<AdamWRange> {
        let decay = lr * f64::from(self.weight_decay as f32);
        let mut ranges: Vec<AdamWRange> = Vec::new();
        let mut alike = None;
        for place in self.layout.places().into_iter().filter(|place| reached[place.index]) {
            let own @ (pull, updates) = self.matrices[place.index];
            let continues = |last: &&mut AdamWRange| alike == Some(own) && last.numbers.end == place.from;
            if let Some(last) = ranges.last_mut().filter(continues) {
                last.numbers.end = place.end();
                continue;
            }
            let pulled = pull == Pull::Identity && self.weight_decay > 0.0;
            let diagonal = pulled.then(|| (place.shape[0], (lr * self.weight_decay) as f32));
            // The diagonal of one matrix ends with it.
            alike = (!pulled).then_some(own);
            let end = if pulled { place.from + place.num_elements() } else { place.end() };
            ranges.push(AdamWRange {
                numbers: place.from..end,
                lr: lr as f32,
                betas: self.betas,
                eps: self.eps,
                bias_corrections: self.betas.map(|beta| 1.0 - beta.powi(updates as i32)),
                kept: if pull == Pull::Nowhere { 1.0 } else { (1.0 - decay) as f32 },
                clip_factor,
                diagonal,
            });
        }
        ranges
    }

    /// The moments, as `{name}.exp_avg`, `{name}.exp_avg_sq` and `{name}.step`.
    pub(crate) fn to_host(&self) -> NamedTensors {
        let state = self.state();
        let [first, second] = [&state.exp_avg, &state.exp_avg_sq]
            .map(|all| host_data(all.clone()).iter::<f32>().collect::<Vec<f32>>());
        let mut all = NamedTensors::new();
        for (name, place) in self.layout.iter() {
            let (_, updates) = self.matrices[place.index];
            if updates == 0 {
                continue;
            }
            for (part, values) in [("exp_avg", &first), ("exp_avg_sq", &second)] {
                let values = values[place.from..][..place.num_elements()].to_vec();
                all.insert(format!("{name}.{part}"), (place.shape.to_vec(), values));
            }
            all.insert(format!("{name}.step"), (vec![1], vec![updates as f32]));
        }
        all
    }

    /// Takes over `parameters`, and their moments as `to_host` has written them.
    ///
    /// # Errors
    /// If they do not fit what learns here; then it stays as it is.
    pub fn load(&mut self, mut stored: NamedTensors, parameters: &Parameters<B>) -> Result<()> {
        let shapes = |(name, value): (&String, &Tensor<B, 2>)| (name.clone(), value.dims());
        if !parameters.iter().map(shapes).eq(self.layout.iter().map(|(name, p)| (name.clone(), p.shape))) {
            return Err(Error::invalid("the parameters are of other names or shapes than what learns here"));
        }
        let mut matrices = self.matrices.clone();
        matrices.iter_mut().for_each(|(_, updates)| *updates = 0);
        let (mut first, mut second) = (Vec::new(), Vec::new());
        for (name, place) in self.layout.iter() {
            let Some((_, updates)) = stored.remove(&format!("{name}.step")) else { continue };
            let mut take = |part: &str| {
                let key = format!("{name}.{part}");
                match stored.remove(&key) {
                    Some((shape, data)) if shape == place.shape => Ok(data),
                    _ => Err(Error::invalid(format!(
                        "the optimizer's state has no `{key}` of shape {:?}",
                        place.shape
                    ))),
                }
            };
            first.push((place, take("exp_avg")?));
            second.push((place, take("exp_avg_sq")?));
            matrices[place.index].1 = updates.first().copied().unwrap_or(0.0) as usize;
        }
        if let Some(extra) = stored.keys().next() {
            return Err(Error::invalid(format!(
                "the optimizer's state has `{extra}`, which nothing here learns"
            )));
        }
        let [exp_avg, exp_avg_sq] =
            [first, second].map(|moments| self.layout.from_host(moments, &self.device));
        let parameters = self.layout.added(self.layout.zeros(&self.device), parameters);
        (self.matrices, self.state) = (matrices, Some(AdamWState { parameters, exp_avg, exp_avg_sq }));
        Ok(())
    }
}

/// torch's factor of gradients of the global norm `norm`, `min(1, max_norm / (norm + 1e-6))`, after which that is at most `max_norm`; 0 switches
/// clipping off.
pub fn clip_factor(norm: f64, max_norm: f64) -> f64 {
    let factor = max_norm / (norm + 1e-6);
    if max_norm <= 0.0 || factor >= 1.0 { 1.0 } else { factor }
}

#[cfg(test)]
mod tests {
    use burn::tensor::TensorData;

    use super::super::Decay;
    use super::*;
    use crate::backbone::{ParameterGroup, ParameterSpec};

    type TestBackend = diffmas_backends::Flex;
    type Named = (&'static str, [usize; 2]);

    fn matrices(list: &[Named], value: impl Fn(usize) -> f32) -> Parameters<TestBackend> {
        let one = |(name, shape): &(&str, [usize; 2])| {
            let data: Vec<f32> = (0..shape[0] * shape[1]).map(&value).collect();
            (name.to_string(), Tensor::from_data(TensorData::new(data, *shape), &Default::default()))
        };
        list.iter().map(one).collect()
    }

    fn bits(parameters: &Parameters<TestBackend>, name: &str) -> Vec<u32> {
        let data = host_data(parameters.get(name).clone());
        data.iter::<f32>().map(f32::to_bits).collect()
    }

    fn gradient(optimizer: &Optimizer<TestBackend>, parts: &[Named], x: f32) -> FlatGradient<TestBackend> {
        let mut gradient = FlatGradient::new(optimizer.layout().clone(), &Default::default());
        gradient.add(&matrices(parts, |i| x * (i as f32 - 3.5)));
        gradient
    }

    fn list() -> Vec<Named> {
        vec![("a", [3, 5]), ("b", [1, 1]), ("c", [4, 4]), ("d", [8, 8]), ("e", [2, 2])]
    }

    fn optimizer() -> Optimizer<TestBackend> {
        let spec = |name: &str, shape| ParameterSpec::new(name, shape, ParameterGroup::CHANNEL);
        let specs = list().into_iter().map(|(name, shape)| match name {
            "b" => spec(name, shape).spared(),
            "c" => spec(name, shape).pulled(Pull::Identity),
            _ => spec(name, shape),
        });
        let specs = specs.collect();
        let config = TrainConfig { weight_decay: 0.1, decay: Decay::Hf, ..TrainConfig::default() };
        Optimizer::new(&config, &specs, &matrices(&list(), |i| 0.5 - i as f32)).unwrap()
    }

    #[test]
    fn matrices_that_are_treated_alike_are_updated_in_one_range() {
        let mut optimizer = optimizer();
        assert_eq!(optimizer.ranges(1e-3, &[true; 5], 1.0).len(), 3, "one for each way to be pulled");
        let some = [("a", [3, 5]), ("e", [2, 2])];
        let part = gradient(&optimizer, &some, 0.1);
        assert_eq!(optimizer.ranges(1e-3, part.reached(), 1.0).len(), 2, "what lies between has no gradient");
        optimizer.step(1e-3, &part, 1.0);
        // `d` lies between two that have had an update.
        assert_eq!(optimizer.ranges(1e-3, &[true; 5], 1.0).len(), 5);
    }

    #[test]
    fn what_has_no_gradient_stays_as_it_is_with_its_moments() {
        let mut optimizer = optimizer();
        optimizer.step(1e-2, &gradient(&optimizer, &list(), 0.3), 0.5);
        let (before, state) = (optimizer.parameters(), optimizer.to_host());
        let some = [("b", [1, 1]), ("d", [8, 8])];
        optimizer.step(1e-2, &gradient(&optimizer, &some, -0.2), 1.0);
        let (after, later) = (optimizer.parameters(), optimizer.to_host());
        for (name, _) in list() {
            let changes = ["b", "d"].contains(&name);
            assert_eq!(bits(&before, name) != bits(&after, name), changes, "{name}");
            for part in ["exp_avg", "exp_avg_sq", "step"] {
                let key = format!("{name}.{part}");
                assert_eq!(state[&key] != later[&key], changes, "{key}");
            }
        }
        assert_eq!(later["d.step"].1, [2.0]);
    }

    #[test]
    fn an_optimizer_that_is_stored_and_read_again_goes_on_bit_for_bit() {
        let (mut first, mut second) = (optimizer(), optimizer());
        let some = &list()[..3];
        first.step(1e-2, &gradient(&first, some, 0.3), 1.0);
        second.load(first.to_host(), &first.parameters()).unwrap();
        for optimizer in [&mut first, &mut second] {
            optimizer.step(1e-2, &gradient(optimizer, &list(), 0.7), 0.9);
        }
        assert_eq!(first.to_host(), second.to_host());
        for (name, _) in list() {
            assert_eq!(bits(&first.parameters(), name), bits(&second.parameters(), name), "{name}");
        }
        let other = matrices(&[("a", [3, 5])], |_| 0.0);
        let error = second.load(first.to_host(), &other).unwrap_err().to_string();
        assert!(error.contains("names or shapes"), "{error}");
    }

    #[test]
    fn an_update_has_the_bits_of_burns_own_on_each_matrix() {
        use burn::optim::{AdamWConfig, SimpleOptimizer};
        let rule = |decay: f32| {
            let config = AdamWConfig::new().with_beta_1(0.9).with_beta_2(0.999).with_epsilon(1e-8);
            config.with_weight_decay(decay).build()
        };
        let mut optimizer = optimizer();
        let mut want = optimizer.parameters();
        let mut states = std::collections::BTreeMap::new();
        for step in 0..4 {
            let (lr, factor) = (1e-2 / (step + 1) as f64, 0.3 + 0.1 * step as f64);
            let gradients = matrices(&list(), |i| (i as f32 - 2.0).sin() * 0.01 * (step + 1) as f32);
            let mut gradient = FlatGradient::new(optimizer.layout().clone(), &Default::default());
            gradient.add(&gradients);
            optimizer.step(lr, &gradient, factor);
            let update = |(name, value): (&String, &Tensor<TestBackend, 2>)| {
                let slope = gradients.get(name).clone().mul_scalar(factor);
                let rule = rule(if name == "b" { 0.0 } else { 0.1 });
                let (mut value, state) = rule.step(lr, value.clone(), slope, states.remove(name));
                if name == "c" {
                    value = value + Tensor::eye(4, &Default::default()).mul_scalar(lr * 0.1);
                }
                states.extend(state.map(|state| (name.clone(), state)));
                (name.clone(), value)
            };
            want = want.iter().map(update).collect();
            for (name, _) in list() {
                assert_eq!(bits(&optimizer.parameters(), name), bits(&want, name), "{name}, update {step}");
            }
        }
    }
}
