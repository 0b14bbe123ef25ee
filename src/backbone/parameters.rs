//! Everything that learns, by name. Sums over parameters run in name order, so that they are repeatable.

use std::collections::BTreeMap;

use burn::prelude::*;
use diffmas_backends::{Autodiff, ModelBackend, autodiff, host_data};

/// Named trainable matrices, or their gradients.
#[derive(Clone, Debug)]
pub struct Parameters<B: Backend>(BTreeMap<String, Tensor<B, 2>>);

impl<B: Backend> Default for Parameters<B> {
    fn default() -> Self {
        Self(BTreeMap::new())
    }
}

impl<B: Backend> Parameters<B> {
    /// Adds or replaces a parameter.
    pub fn insert(&mut self, name: String, value: Tensor<B, 2>) {
        self.0.insert(name, value);
    }

    /// Adds or replaces all parameters of `other`.
    pub fn extend(&mut self, other: Self) {
        self.0.extend(other.0);
    }

    /// The parameter called `name`.
    ///
    /// # Panics
    /// If there is none.
    pub fn get(&self, name: &str) -> &Tensor<B, 2> {
        self.0.get(name).unwrap_or_else(|| panic!("there is no parameter `{name}`"))
    }

    /// The parameter called `name`, if there is one.
    pub fn find(&self, name: &str) -> Option<&Tensor<B, 2>> {
        self.0.get(name)
    }

    /// Takes the parameter called `name` out, if there is one.
    pub fn remove(&mut self, name: &str) -> Option<Tensor<B, 2>> {
        self.0.remove(name)
    }

    /// The parameters whose names begin with `prefix`, without it.
    pub fn within(&self, prefix: &str) -> Self {
        let found = self.0.range(prefix.to_string()..).map_while(|(name, value)| {
            name.strip_prefix(prefix).map(|rest| (rest.to_string(), value.clone()))
        });
        Self(found.collect())
    }

    /// The same parameters with `prefix` before each name.
    pub fn under(self, prefix: &str) -> Self {
        Self(self.0.into_iter().map(|(name, value)| (format!("{prefix}{name}"), value)).collect())
    }

    /// Names and values in name order.
    pub fn iter(&self) -> impl Iterator<Item = (&String, &Tensor<B, 2>)> {
        self.0.iter()
    }

    /// How many parameters there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether nothing learns.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Numbers in all parameters together.
    pub fn num_elements(&self) -> usize {
        self.0.values().map(|t| t.shape().num_elements()).sum()
    }

    /// Adds `other`, name by name; what is missing here counts as zero.
    pub fn add(&mut self, other: Self) {
        for (name, value) in other.0 {
            let sum = match self.0.remove(&name) {
                Some(old) => old + value,
                None => value,
            };
            self.0.insert(name, sum);
        }
    }

    /// All values times `factor`.
    pub fn scaled(self, factor: f64) -> Self {
        Self(self.0.into_iter().map(|(n, t)| (n, t.mul_scalar(factor))).collect())
    }

    /// The parameters for an autodiff graph: those that `learns` names as leaves, the others without gradient.
    pub fn leaves(&self, learns: impl Fn(&str) -> bool) -> Parameters<Autodiff<B>> {
        let (learning, frozen): (Vec<_>, Vec<_>) = self.0.iter().partition(|(name, _)| learns(name));
        let leaves = autodiff::leaves(learning.iter().map(|(_, value)| (*value).clone()).collect());
        let leaves = learning.into_iter().map(|(name, _)| name.clone()).zip(leaves);
        let frozen =
            frozen.into_iter().map(|(name, value)| (name.clone(), Tensor::from_inner(value.clone())));
        Parameters(leaves.chain(frozen).collect())
    }
}

impl<B: ModelBackend> Parameters<B> {
    /// Their [`frobenius`] norm, summed in name order.
    pub fn norm(&self) -> f64 {
        frobenius(self.0.values())
    }
}

/// The Frobenius norm over several tensors, summed in f64; 0 where there is none.
pub fn frobenius<'a, B: ModelBackend, const D: usize>(
    tensors: impl IntoIterator<Item = &'a Tensor<B, D>>,
) -> f64 {
    let squares: Vec<_> = tensors.into_iter().map(|t| B::sum(t.clone().powi_scalar(2))).collect();
    if squares.is_empty() {
        return 0.0;
    }
    host_data(Tensor::cat(squares, 0)).iter::<f64>().sum::<f64>().sqrt()
}

impl<B: Backend> FromIterator<(String, Tensor<B, 2>)> for Parameters<B> {
    fn from_iter<I: IntoIterator<Item = (String, Tensor<B, 2>)>>(items: I) -> Self {
        Self(items.into_iter().collect())
    }
}
