//! A model of given sizes whose weights are drawn: as fast as a trained one, and nothing need be downloaded.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use diffmas_backends::StoredDtype;

use super::tensors::expected;
use super::{BackboneConfig, ModelFiles};
use crate::checkpoint::Weights;
use crate::error::{Error, Result};
use crate::random::uniform;

/// The standard deviation of matrices, as transformers draws them (`initializer_range`).
const DEVIATION: f64 = 0.02;

impl ModelFiles {
    /// A model called `name` of the sizes `config`: matrices and biases are uniform with standard deviation 0.02, norms are 1. The same `seed`
    /// gives the same numbers on every backend, up to their rounding to what they are stored as. Nothing is written; each tensor is drawn when
    /// it is loaded.
    pub fn random(name: &str, config: BackboneConfig, seed: u64) -> Self {
        let path = PathBuf::from(name);
        let shapes = expected(&config).into_iter().collect();
        let weights = RandomWeights { path: path.clone(), shapes, seed };
        Self::of_weights(path, config, Arc::new(weights))
    }
}

/// Weights that are drawn as they are read.
struct RandomWeights {
    path: PathBuf,
    shapes: BTreeMap<String, Vec<usize>>,
    seed: u64,
}

impl Weights for RandomWeights {
    fn names(&self) -> Vec<String> {
        self.shapes.keys().cloned().collect()
    }

    fn shape(&self, name: &str) -> Option<Vec<usize>> {
        self.shapes.get(name).cloned()
    }

    fn dtype(&self, _name: &str) -> Option<StoredDtype> {
        Some(StoredDtype::F32)
    }

    fn read_values(&self, name: &str, from: usize, out: &mut [f32]) -> Result<()> {
        if name.ends_with("norm.weight") {
            out.fill(1.0);
            return Ok(());
        }
        let bound = DEVIATION * 3_f64.sqrt();
        let drawn = uniform(&format!("{}/{name}", self.seed), from as u64);
        out.iter_mut().zip(drawn).for_each(|(out, u)| *out = (bound * (2.0 * u - 1.0)) as f32);
        Ok(())
    }

    fn read_bytes(&self, name: &str, out: &mut [u8]) -> Result<()> {
        let count = out.len() / size_of::<f32>();
        if count * size_of::<f32>() != out.len() {
            return Err(Error::file(&self.path, format!("`{name}` consists of numbers of four bytes")));
        }
        let mut values = vec![0.0; count];
        self.read_values(name, 0, &mut values)?;
        out.copy_from_slice(bytemuck::cast_slice(&values));
        Ok(())
    }

    fn path(&self) -> &Path {
        &self.path
    }
}

#[cfg(all(test, feature = "flex"))]
mod tests {
    use diffmas_backends::FrozenMatrix;

    use super::super::fixtures::{TestBackend, config, numbers};
    use super::super::{Precision, WeightDtype};
    use super::*;

    #[test]
    fn a_seed_gives_one_model_and_another_seed_another() {
        let load = |seed| {
            let files = ModelFiles::random("drawn", config(), seed);
            let model = files.load::<TestBackend>(&Default::default(), Precision::default()).unwrap();
            assert_eq!(numbers(&model.norm.weight.clone()), vec![1.0; config().hidden_size]);
            (files.sha256().unwrap(), model.layers[1].mlp.up_proj.weight.rows(0..3))
        };
        assert_eq!(load(1), load(1));
        let ((one, first), (two, second)) = (load(1), load(2));
        assert!(one != two && first != second);
        let (rows, count) = (&first, first.len() as f64);
        let mean = rows.iter().map(|&x| f64::from(x)).sum::<f64>() / count;
        let spread = (rows.iter().map(|&x| f64::from(x).powi(2)).sum::<f64>() / count).sqrt();
        assert!(mean.abs() < 0.01 && (0.01..0.03).contains(&spread), "{mean} {spread}");
    }

    #[test]
    fn stored_in_16_bits_they_are_the_same_numbers_rounded() {
        let files = ModelFiles::random("drawn", config(), 1);
        let [wide, narrow] = [WeightDtype::F32, WeightDtype::Bf16].map(|dtype| {
            let model = files.load::<TestBackend>(&Default::default(), Precision::stored(dtype)).unwrap();
            model.embed_tokens.rows(0..4)
        });
        assert_ne!(wide, narrow);
        for (wide, narrow) in wide.iter().zip(&narrow) {
            assert!((wide - narrow).abs() <= wide.abs() / 256.0, "{wide} {narrow}");
        }
    }
}
