//! The weights of an ONNX file in a generated module.

use std::collections::BTreeMap;

use burn::module::{Module, ModuleMapper, Param};
use burn::prelude::*;
use burn::tensor::TensorData;

use crate::onnx::{Onnx, Weight};

/// `module` with the weights of the ONNX file `bytes`. `table` says which of them each parameter is, and whether it is transposed.
///
/// # Errors
/// A sentence, if the file cannot be read, or lacks one of them.
pub fn filled<B: Backend, M: Module<B>>(
    module: M,
    bytes: &[u8],
    table: &[(&str, &str, bool)],
    device: &B::Device,
) -> Result<M, String> {
    let weights = Onnx::read(bytes)?.weights()?;
    let sources = table.iter().map(|&(parameter, weight, transposed)| (parameter, (weight, transposed)));
    let mut filler =
        Filler::<B> { device, path: Vec::new(), sources: sources.collect(), weights, wrong: None };
    let module = module.map(&mut filler);
    filler.wrong.map_or(Ok(module), Err)
}

struct Filler<'a, B: Backend> {
    device: &'a B::Device,
    /// Names of the modules that are being walked through.
    path: Vec<String>,
    sources: BTreeMap<&'a str, (&'a str, bool)>,
    weights: BTreeMap<String, Weight>,
    /// The first thing that is wrong.
    wrong: Option<String>,
}

impl<B: Backend> Filler<'_, B> {
    /// The values of the parameter at the current place.
    fn value<const D: usize>(&self, shape: &[usize]) -> Result<Tensor<B, D>, String> {
        let parameter = self.path.join(".");
        let source = self.sources.get(parameter.as_str());
        let &(name, transposed) =
            source.ok_or_else(|| format!("nothing is known of the parameter `{parameter}`"))?;
        let weight = self.weights.get(name).ok_or_else(|| format!("the file has no weight `{name}`"))?;
        let mut stored = shape.to_vec();
        if transposed {
            stored.reverse();
        }
        if weight.values.len() != shape.iter().product::<usize>()
            || (weight.shape.len() == D && weight.shape != stored)
        {
            return Err(format!("the weight `{name}` is {:?}, but {stored:?} is needed", weight.shape));
        }
        let value = Tensor::from_data(TensorData::new(weight.values.clone(), stored), self.device);
        Ok(if transposed { value.swap_dims(0, 1) } else { value })
    }
}

impl<B: Backend> ModuleMapper<B> for Filler<'_, B> {
    fn enter_module(&mut self, name: &str, _container_type: &str) {
        self.path.push(name.into());
    }

    fn exit_module(&mut self, _name: &str, _container_type: &str) {
        self.path.pop();
    }

    fn map_float<const D: usize>(&mut self, param: Param<Tensor<B, D>>) -> Param<Tensor<B, D>> {
        match self.value(&param.lazy_shape().to_vec()) {
            Ok(value) => Param::initialized(param.id, value),
            Err(why) => {
                self.wrong.get_or_insert(why);
                param
            }
        }
    }
}
