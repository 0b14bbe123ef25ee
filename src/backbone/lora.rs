//! LoRA as a conversion of a loaded backbone: the factors stay apart from the weight (`x·A·B`, never `W + BA`).

use std::collections::BTreeMap;
use std::path::Path;

use burn::prelude::*;
use burn::tensor::TensorData;
use diffmas_backends::{FrozenMatrix, LoraRef, ModelBackend};
use rand_distr::{Distribution, Uniform};

use super::{Backbone, Linear};
use crate::checkpoint::target_modules::{ends_with_module, projection_names};
use crate::checkpoint::{AdapterConfig, AdapterFile, TargetModules};
use crate::error::{Error, Result};
use crate::random::generator;

/// The factors of one linear layer (arXiv 2106.09685).
#[derive(Clone, Debug)]
pub struct Lora<B: Backend> {
    /// `lora_A`, `[r, in]`.
    pub a: Tensor<B, 2>,
    /// `lora_B`, `[out, r]`.
    pub b: Tensor<B, 2>,
    /// The factor of the product, `lora_alpha / r` (or `/ sqrt(r)`).
    pub scaling: f64,
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

/// The factors of several roles, multiplied as a batch. Rank and presence may differ: what a role lacks is zero.
#[derive(Clone, Debug)]
pub struct LoraStack<B: Backend> {
    /// `[K, in, r]`
    a: Tensor<B, 3>,
    /// `[K, r, out]`, times each role's scaling.
    b: Tensor<B, 3>,
}

impl<B: ModelBackend> LoraStack<B> {
    /// The factors of a layer `[out, in]` for each role in turn; `None` where no role has any.
    fn new(roles: &[Option<&Lora<B>>], [out, cols]: [usize; 2]) -> Option<Self> {
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
        Some(Self { a, b })
    }

    /// `s·(x·Aᵀ)·Bᵀ`, the rows of each role with its own factors.
    ///
    /// # Shapes
    /// `[K·N, in]`, role after role → `[K·N, out]`
    pub fn forward(&self, x: Tensor<B, 2>) -> Tensor<B, 2> {
        let [n, cols] = x.dims();
        let [roles, _, out] = self.b.dims();
        let x = x.reshape([roles, n / roles, cols]);
        B::matmul(B::matmul(x, self.a.clone()), self.b.clone()).reshape([n, out])
    }
}

/// The factors of all converted layers, by module path (`model.layers.0.self_attn.q_proj`).
#[derive(Clone, Debug)]
pub struct Adapter<B: Backend> {
    /// Rank, scaling and targets.
    pub config: AdapterConfig,
    /// Factors by module path.
    pub factors: BTreeMap<String, Lora<B>>,
}

impl<B: ModelBackend> Backbone<B> {
    /// Calls `f` with the module path of every linear layer that LoRA can convert.
    pub(super) fn for_linears(&mut self, mut f: impl FnMut(String, &mut Linear<B>)) {
        for (i, layer) in self.layers.iter_mut().enumerate() {
            let attn = &mut layer.self_attn;
            let mlp = &mut layer.mlp;
            for (name, linear) in [
                ("self_attn.q_proj", &mut attn.q_proj),
                ("self_attn.k_proj", &mut attn.k_proj),
                ("self_attn.v_proj", &mut attn.v_proj),
                ("self_attn.o_proj", &mut attn.o_proj),
                ("mlp.gate_proj", &mut mlp.gate_proj),
                ("mlp.up_proj", &mut mlp.up_proj),
                ("mlp.down_proj", &mut mlp.down_proj),
            ] {
                f(format!("model.layers.{i}.{name}"), linear);
            }
        }
    }

    /// The backbone with `adapter` attached in place of any other; weights are shared.
    pub fn with_adapter(&self, adapter: &Adapter<B>) -> Self {
        let mut converted = self.clone();
        converted.for_linears(|path, linear| {
            linear.lora = adapter.factors.get(&path).cloned().map(ActiveLora::One);
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
            let factors: Vec<_> = roles.iter().map(|role| role.and_then(|a| a.factors.get(&path))).collect();
            linear.lora = LoraStack::new(&factors, linear.weight.shape()).map(ActiveLora::Stacked);
        });
        converted
    }

    /// The layers that LoRA can convert: module path, `out` and `in`.
    fn linears(&self) -> Vec<(String, [usize; 2])> {
        let mut all = Vec::new();
        self.clone().for_linears(|path, linear| all.push((path, linear.weight.shape())));
        all
    }
}

impl<B: ModelBackend> Adapter<B> {
    /// A fresh adapter: `A` uniform in `±1/sqrt(in)` as PEFT draws it (Kaiming with `a = √5`), `B` zero, so that it changes nothing yet.
    /// Each role draws from a stream of its own under `seed`.
    ///
    /// # Errors
    /// If `config` makes no sense or targets no layer of `backbone`.
    pub fn init(config: AdapterConfig, backbone: &Backbone<B>, seed: u64, role: usize) -> Result<Self> {
        config.check()?;
        let device = backbone.device();
        let mut rng = generator(seed, role as u64);
        let mut targeted = Vec::new();
        for (path, shape) in backbone.linears() {
            if config.targets(&path)? {
                let (r, largest) = (config.rank(&path), shape[0].max(shape[1]));
                if r > largest {
                    return Err(Error::invalid(format!(
                        "lora_r is {r}, but `{path}` is only {} x {}: no rank above {largest} makes sense",
                        shape[0], shape[1]
                    )));
                }
                targeted.push((path, shape));
            }
        }
        if let TargetModules::List(names) = &config.target_modules {
            let alone = |name: &&String| !targeted.iter().any(|(path, _)| ends_with_module(path, name));
            if let Some(name) = names.iter().find(alone) {
                return Err(Error::invalid(format!(
                    "target_modules: `{name}` is no module that LoRA can change here; those are {}, and `all-linear` means all of them",
                    projection_names().join(", ")
                )));
            }
        }
        if targeted.is_empty() {
            return Err(Error::invalid("target_modules names no linear layer of this model"));
        }
        let factors = targeted
            .into_iter()
            .map(|(path, [out, cols])| {
                let r = config.rank(&path);
                let bound = (cols as f32).powf(-0.5);
                let uniform = Uniform::new(-bound, bound).expect("a positive bound");
                let a: Vec<f32> = (0..r * cols).map(|_| uniform.sample(&mut rng)).collect();
                let lora = Lora {
                    a: Tensor::from_data(TensorData::new(a, [r, cols]), &device),
                    b: Tensor::zeros([out, r], &device),
                    scaling: config.scaling(&path),
                };
                (path, lora)
            })
            .collect();
        Ok(Self { config, factors })
    }

    /// Reads an adapter from a PEFT folder.
    ///
    /// # Errors
    /// If it cannot be read or does not fit `backbone`, naming the tensors.
    pub fn read(dir: &Path, backbone: &Backbone<B>) -> Result<Self> {
        let device = backbone.device();
        let file = AdapterFile::read(dir)?;
        let linears = backbone.linears();
        file.check_modules(dir, &linears)?;
        let AdapterFile { config, mut tensors } = file;
        let mut factors = BTreeMap::new();
        for (path, _) in linears {
            let mut take = |part: &str| {
                let (shape, data) = tensors.remove(&format!("{path}.{part}.weight"))?;
                Some(Tensor::from_data(TensorData::new(data, shape), &device))
            };
            if let (Some(a), Some(b)) = (take("lora_A"), take("lora_B")) {
                factors.insert(path.clone(), Lora { a, b, scaling: config.scaling(&path) });
            }
        }
        Ok(Self { config, factors })
    }

    /// The adapter as PEFT stores it.
    pub fn to_file(&self) -> AdapterFile {
        let mut tensors = BTreeMap::new();
        for (path, lora) in &self.factors {
            for (name, t) in [("lora_A", &lora.a), ("lora_B", &lora.b)] {
                let data = t.to_data().convert::<f32>();
                let values = data.to_vec().expect("converted to f32");
                tensors.insert(format!("{path}.{name}.weight"), (t.dims().to_vec(), values));
            }
        }
        AdapterFile { config: self.config.clone(), tensors }
    }
}
