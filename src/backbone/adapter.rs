//! LoRA as a conversion of a loaded backbone: which layers an adapter converts, its factors by name, and the backbone that has them.

use std::collections::BTreeMap;
use std::path::Path;

use burn::prelude::*;
use burn::tensor::TensorData;
use diffmas_backends::{FrozenMatrix, ModelBackend, host_data};
use rand_distr::{Distribution, Uniform};

use super::tensors::linears;
use super::{
    ActiveLora, Attention, Backbone, BackboneConfig, Linear, Lora, LoraDropout, LoraStack, Mlp, Parameters,
};
use crate::checkpoint::target_modules::{LM_HEAD, PROJECTIONS, ends_with_module, projection_names};
use crate::checkpoint::{AdapterConfig, AdapterFile, TargetModules};
use crate::error::{Error, Result};
use crate::random::generator;

/// What an adapter is, without its values: rank, scaling, and the layers that it converts.
#[derive(Clone, Debug, PartialEq)]
pub struct AdapterLayout {
    /// Rank, scaling and targets.
    pub config: AdapterConfig,
    /// `[out, in]` of each converted layer, by module path (`model.layers.0.self_attn.q_proj`).
    pub modules: BTreeMap<String, [usize; 2]>,
}

/// The names of a layer's factors among the parameters of an adapter.
fn factor_names(path: &str) -> [String; 2] {
    ["lora_A", "lora_B"].map(|part| format!("{path}.{part}"))
}

impl AdapterLayout {
    /// The layout of an adapter for a model of the sizes `model`.
    ///
    /// # Errors
    /// If `config` makes no sense or targets no layer of the model.
    pub fn new(config: AdapterConfig, model: &BackboneConfig) -> Result<Self> {
        config.check()?;
        let mut modules = BTreeMap::new();
        for (path, shape) in linears(model) {
            if config.targets(&path)? {
                let (r, largest) = (config.rank(&path), shape[0].max(shape[1]));
                if r > largest {
                    return Err(Error::invalid(format!(
                        "lora_r is {r}, but `{path}` is only {} x {}: no rank above {largest} makes sense",
                        shape[0], shape[1]
                    )));
                }
                modules.insert(path, shape);
            }
        }
        if let TargetModules::List(names) = &config.target_modules {
            let alone = |name: &&String| !modules.keys().any(|path| ends_with_module(path, name));
            if let Some(name) = names.iter().find(alone) {
                return Err(Error::invalid(format!(
                    "target_modules: `{name}` is no module that LoRA can change here; those are {}, which `all-linear` means, and {LM_HEAD}",
                    projection_names().join(", ")
                )));
            }
        }
        if modules.is_empty() {
            return Err(Error::invalid("target_modules names no linear layer of this model"));
        }
        Ok(Self { config, modules })
    }

    /// Names and shapes of the factors: `A [r, in]` and `B [out, r]` of each converted layer.
    pub fn shapes(&self) -> Vec<(String, [usize; 2])> {
        let of_layer = |(path, &[out, cols]): (&String, &[usize; 2])| {
            let (r, [a, b]) = (self.config.rank(path), factor_names(path));
            [(a, [r, cols]), (b, [out, r])]
        };
        self.modules.iter().flat_map(of_layer).collect()
    }

    /// Fresh factors, `{module path}.lora_A` and `.lora_B`: `A` uniform in `±1/sqrt(in)` as PEFT draws it (Kaiming with `a = √5`), `B` zero,
    /// so that they change nothing yet. Each role draws from a stream of its own under `seed`; layers draw in the order of `model`.
    pub fn init<B: Backend>(
        &self,
        model: &BackboneConfig,
        seed: u64,
        role: usize,
        device: &B::Device,
    ) -> Parameters<B> {
        let mut rng = generator(seed, role as u64);
        let mut factors = Parameters::default();
        for (path, [out, cols]) in linears(model) {
            if !self.modules.contains_key(&path) {
                continue;
            }
            let r = self.config.rank(&path);
            let bound = (cols as f32).powf(-0.5);
            let uniform = Uniform::new(-bound, bound).expect("a positive bound");
            let a: Vec<f32> = (0..r * cols).map(|_| uniform.sample(&mut rng)).collect();
            let [a_name, b_name] = factor_names(&path);
            factors.insert(a_name, Tensor::from_data(TensorData::new(a, [r, cols]), device));
            factors.insert(b_name, Tensor::zeros([out, r], device));
        }
        factors
    }

    /// Reads an adapter and its factors from a PEFT folder, onto the device of `model`.
    ///
    /// # Errors
    /// If it cannot be read or does not fit the model, naming the tensors; if it holds whole modules and the model was not opened with them
    /// ([`ModelFiles::with_saved_modules`](super::ModelFiles::with_saved_modules)).
    pub fn read<B: ModelBackend>(dir: &Path, model: &Backbone<B>) -> Result<(Self, Parameters<B>)> {
        let file = AdapterFile::read(dir)?;
        let (linears, device) = (linears(&model.config), &model.device());
        file.check_modules(dir, &linears)?;
        model.check_saved_modules(&file, dir)?;
        let AdapterFile { config, mut tensors, .. } = file;
        let (mut modules, mut factors) = (BTreeMap::new(), Parameters::default());
        for (path, shape) in linears {
            let names = factor_names(&path);
            let stored = names.each_ref().map(|name| tensors.remove(&format!("{name}.weight")));
            if let [Some(a), Some(b)] = stored {
                for (name, (shape, data)) in names.into_iter().zip([a, b]) {
                    factors.insert(name, Tensor::from_data(TensorData::new(data, shape), device));
                }
                modules.insert(path, shape);
            }
        }
        Ok((Self { config, modules }, factors))
    }

    /// The adapter with its `factors` as PEFT stores it.
    ///
    /// # Panics
    /// If a factor is missing.
    pub(crate) fn to_file<B: Backend>(&self, factors: &Parameters<B>) -> AdapterFile {
        let mut tensors = BTreeMap::new();
        for name in self.modules.keys().flat_map(|path| factor_names(path)) {
            let factor = factors.get(&name);
            let values = host_data(factor.clone()).iter::<f32>().collect();
            tensors.insert(format!("{name}.weight"), (factor.dims().to_vec(), values));
        }
        AdapterFile { config: self.config.clone(), tensors, whole: BTreeMap::new() }
    }

    /// Layouts and values joined: the factors of each converted layer, by module path.
    ///
    /// # Panics
    /// If a factor is missing.
    pub fn bind<B: Backend>(&self, factors: &Parameters<B>) -> Adapter<B> {
        let lora = |path: &String| {
            let [a, b] = factor_names(path).map(|name| factors.get(&name).clone());
            let dropout = LoraDropout::new(self.config.lora_dropout, path);
            (path.clone(), Lora { a, b, scaling: self.config.scaling(path), dropout })
        };
        Adapter(self.modules.keys().map(lora).collect())
    }
}

/// The factors of all converted layers, by module path: a view of an adapter's parameters that layers take.
#[derive(Clone, Debug)]
pub struct Adapter<B: Backend>(BTreeMap<String, Lora<B>>);

impl<B: ModelBackend> Backbone<B> {
    /// Calls `f` with the module path of every linear layer that LoRA can convert.
    pub(super) fn for_linears(&mut self, mut f: impl FnMut(String, &mut Linear<B>)) {
        for (i, layer) in self.layers.iter_mut().enumerate() {
            let Attention { q_proj, k_proj, v_proj, o_proj, .. } = &mut layer.self_attn;
            let Mlp { gate_proj, up_proj, down_proj } = &mut layer.mlp;
            let linears = [q_proj, k_proj, v_proj, o_proj, gate_proj, up_proj, down_proj];
            for (name, linear) in PROJECTIONS.into_iter().zip(linears) {
                f(format!("model.layers.{i}.{name}"), linear);
            }
        }
        f(LM_HEAD.into(), &mut self.lm_head);
    }

    /// The backbone with `adapter` attached in place of any other; weights are shared.
    pub fn with_adapter(&self, adapter: &Adapter<B>) -> Self {
        let mut converted = self.clone();
        converted.for_linears(|path, linear| {
            linear.lora = adapter.0.get(&path).cloned().map(ActiveLora::One);
        });
        converted
    }

    /// One backbone for several roles whose rows run as one batch, role after role: each row meets the adapter of its role.
    ///
    /// # Panics
    /// If there is no role.
    pub fn with_adapters(&self, roles: &[Option<&Adapter<B>>]) -> Self {
        let mut converted = self.clone();
        converted.for_linears(|path, linear| {
            let factors: Vec<_> = roles.iter().map(|role| role.and_then(|a| a.0.get(&path))).collect();
            linear.lora = LoraStack::new(&factors, linear.weight.shape()).map(ActiveLora::Stacked);
        });
        converted
    }
}
