//! LoRA adapters in PEFT's folders: `adapter_config.json` and `adapter_model.safetensors`.

use super::adapter_config::AdapterConfig;
use super::safetensors::{NamedTensors, SafetensorsWeights, write_safetensors};
use super::target_modules::can_carry_factors;
use super::weights::{EMBEDDING, HEAD, Weights, first_non_finite};
use crate::error::{Error, Result};
use crate::files::{Fields, write_atomic};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::Path;

/// What PEFT puts before the name of every module.
const PREFIX: &str = "base_model.model.";
/// PEFT's description of an adapter.
pub const CONFIG: &str = "adapter_config.json";
const WEIGHTS: &str = "adapter_model.safetensors";
/// The files of a folder.
pub(super) const FILES: [&str; 2] = [CONFIG, WEIGHTS];
/// The team that an adapter learned in.
pub const TEAM: &str = "team.toml";
/// The weights that it learned on.
pub const BASE: &str = "base.json";
/// What the team learned beside adapters.
pub const COMMUNICATION: &str = "communication.safetensors";
/// Of which channel and sizes that is.
pub const COMMUNICATION_CONFIG: &str = "communication_config.json";
/// What may stand beside PEFT's files.
pub(super) const BESIDE: [&str; 4] = [TEAM, BASE, COMMUNICATION, COMMUNICATION_CONFIG];

/// A LoRA adapter as it lies on the disk.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct AdapterFile {
    /// Its configuration.
    pub config: AdapterConfig,
    /// `model.layers.0.self_attn.q_proj.lora_A.weight` (`[r, in]`) and `….lora_B.weight` (`[out, r]`).
    pub tensors: NamedTensors,
    /// Weights of the model that the file holds as a whole, by the model's name of each: its name there.
    pub whole: BTreeMap<String, String>,
}

impl AdapterFile {
    /// Whether it has modules of the model as a whole, or should have.
    pub fn has_whole_modules(&self) -> bool {
        !self.whole.is_empty() || !self.config.modules_to_save.is_empty()
    }

    /// Reads the folder `dir`.
    ///
    /// # Errors
    /// When a file is missing or wrong, the configuration describes another method or variant, or a tensor is
    /// unknown, misshapen, not finite, or lacks its other factor; names the field or tensor.
    pub fn read(dir: &Path) -> Result<Self> {
        let (config_path, path) = (dir.join(CONFIG), dir.join(WEIGHTS));
        if !config_path.exists() {
            let hint = if dir.join("config.json").exists() {
                "; it holds a whole model, perhaps one with the adapter merged in: give it as --model"
            } else {
                ""
            };
            let why = format!("the folder has no `{CONFIG}`, so it is no PEFT adapter{hint}");
            return Err(Error::file(dir, why));
        }
        if !path.exists() {
            let hint = if dir.join("adapter_model.bin").exists() {
                "; save the adapter again as safetensors (`save_pretrained`)"
            } else {
                ""
            };
            return Err(Error::file(dir, format!("the folder has no `{WEIGHTS}`{hint}")));
        }
        let config = AdapterConfig::from_fields(&Fields::read(&config_path)?)?;
        let weights = open_weights(dir)?;
        let mut adapter = Self { config, tensors: NamedTensors::new(), whole: BTreeMap::new() };
        for key in weights.names() {
            let Some(name) = key.strip_prefix(PREFIX) else {
                return Err(Error::file(&path, format!("the tensor `{key}` does not start with `{PREFIX}`")));
            };
            // Checkpoints of a running PEFT model keep the adapter's name, and that of what wraps a module.
            let name = [".default.", ".modules_to_save.", ".base_layer."]
                .iter()
                .fold(name.to_string(), |name, part| name.replace(part, "."));
            let is_whole = [EMBEDDING, HEAD].contains(&name.as_str()) || adapter.saves(&name);
            let twice = if is_whole {
                adapter.whole.insert(name, key.clone()).is_some()
            } else {
                let shape = weights.shape(&key).unwrap_or_default();
                adapter.tensors.insert(name, (shape, weights.read_f32(&key)?)).is_some()
            };
            if twice {
                return Err(Error::file(&path, format!("the tensor `{key}` is there twice")));
            }
        }
        adapter.check(&path)?;
        Ok(adapter)
    }

    /// Whether the weight `name` belongs to a module of `modules_to_save`: one whose path ends so, as PEFT has it.
    pub(super) fn saves(&self, name: &str) -> bool {
        let module = module_of(name);
        self.config.modules_to_save.iter().any(|saved| module.ends_with(saved.as_str()))
    }

    /// Writes the folder `dir`, the configuration last; each file appears only when it is complete.
    ///
    /// # Errors
    /// When the tensors do not fit the configuration or the folder cannot be written.
    pub fn write(&self, dir: &Path) -> Result<()> {
        let path = dir.join(WEIGHTS);
        self.config.check().map_err(|error| Error::file(dir.join(CONFIG), error))?;
        self.check(&path)?;
        let named = self.tensors.iter().map(|(name, tensor)| (format!("{PREFIX}{name}"), tensor.clone()));
        let metadata = HashMap::from([("format".to_string(), "pt".to_string())]);
        write_safetensors(&path, &named.collect(), Some(metadata))?;
        write_atomic(&dir.join(CONFIG), self.config.to_json().as_bytes())
    }

    /// Checks the adapter against the linear modules of a model, `(name, [out, in])`: every module that the
    /// configuration targets has its factors, every factor its module.
    ///
    /// # Errors
    /// When nothing is targeted, factors are missing or left over, or a shape differs; names the first and counts the others.
    pub fn check_modules<N: AsRef<str>>(&self, dir: &Path, modules: &[(N, [usize; 2])]) -> Result<()> {
        let mut left: BTreeSet<&str> = self.tensors.keys().map(String::as_str).collect();
        let (mut missing, mut misshapen) = (Vec::new(), Vec::new());
        for (module, [rows, columns]) in modules {
            let module = module.as_ref();
            if !self.config.targets(module).map_err(|error| Error::file(dir, error))? {
                continue;
            }
            let r = self.config.rank(module);
            for (factor, expected) in [("lora_A", [r, *columns]), ("lora_B", [*rows, r])] {
                let name = format!("{module}.{factor}.weight");
                left.remove(name.as_str());
                match self.tensors.get(&name) {
                    None => missing.push(name),
                    Some((shape, _)) if *shape != expected => {
                        misshapen.push(format!(
                            "`{name}` has the shape {shape:?}, but the model needs {expected:?}"
                        ));
                    }
                    Some(_) => {}
                }
            }
        }
        let left: Vec<String> = left.into_iter().map(String::from).collect();
        let base = self.config.base_model_name_or_path.as_deref();
        let base = base.map_or("another model".to_string(), |base| format!("`{base}`"));
        let problems = [
            (misshapen, format!("the adapter was made for {base}, whose sizes are others")),
            (missing, "the adapter lacks tensors for modules that `target_modules` names".into()),
            (left, format!("the adapter, made for {base}, has tensors for modules that this model lacks")),
        ];
        match problems.iter().find(|(names, _)| !names.is_empty()) {
            Some((names, what)) => {
                let more = match names.len() {
                    1 => String::new(),
                    n => format!(" and {} more", n - 1),
                };
                Err(Error::file(dir, format!("{what}: {}{more}", names[0])))
            }
            None if self.tensors.is_empty() => {
                Err(Error::file(dir, "the field `target_modules` names no module of the model"))
            }
            None => Ok(()),
        }
    }

    /// Checks names, shapes and values against the configuration.
    fn check(&self, path: &Path) -> Result<()> {
        let error = |name: &str, why: String| Err(Error::file(path, format!("the tensor `{name}` {why}")));
        if self.tensors.is_empty() {
            return Err(Error::file(path, "the adapter holds no tensors"));
        }
        for (name, (shape, values)) in &self.tensors {
            let a = name.strip_suffix(".lora_A.weight").map(|module| (module, "lora_B", 0));
            let b = || name.strip_suffix(".lora_B.weight").map(|module| (module, "lora_A", 1));
            let Some((module, other, rank_at)) = a.or_else(b) else {
                return error(
                    name,
                    "is neither a `lora_A` nor a `lora_B` factor; plain LoRA has no other".into(),
                );
            };
            if !can_carry_factors(module) {
                return error(name, "belongs to a module that cannot carry an adapter here".into());
            }
            if !self.config.targets(module)? {
                return error(name, "belongs to a module that `target_modules` does not name".into());
            }
            let rank = self.config.rank(module);
            if shape.len() != 2 || shape[rank_at] != rank {
                return error(name, format!("has the shape {shape:?}, which is not of the rank {rank}"));
            }
            if let Some(at) = first_non_finite(values) {
                return error(name, format!("is not finite: its value {at} is {}", values[at]));
            }
            let pair = format!("{module}.{other}.weight");
            if !self.tensors.contains_key(&pair) {
                return error(name, format!("is there, but its other factor `{pair}` is missing"));
            }
        }
        Ok(())
    }
}

/// The module that the tensor `name` belongs to.
pub(super) fn module_of(name: &str) -> &str {
    name.rsplit_once('.').map_or(name, |(module, _)| module)
}

/// The weights of the adapter in the folder `dir`.
pub(super) fn open_weights(dir: &Path) -> Result<SafetensorsWeights> {
    SafetensorsWeights::open_file(&dir.join(WEIGHTS))
}

#[cfg(test)]
mod tests {
    use super::super::safetensors::read_safetensors;
    use super::super::target_modules::TargetModules;
    use super::*;

    const Q: &str = "model.layers.0.self_attn.q_proj";

    fn adapter() -> AdapterFile {
        let targets = TargetModules::List(vec!["q_proj".into()]);
        let tensors = NamedTensors::from([
            (format!("{Q}.lora_A.weight"), (vec![2, 3], vec![0.5, -1.0, 2.0, 1e-3, 4.0, 5.0])),
            (format!("{Q}.lora_B.weight"), (vec![4, 2], vec![0.25; 8])),
        ]);
        AdapterFile { config: AdapterConfig::new(2, 4.0, targets), tensors, whole: BTreeMap::new() }
    }

    #[test]
    fn a_written_folder_is_read_back_and_has_the_names_of_peft() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("out/adapter");
        adapter().write(&folder).unwrap();
        adapter().write(&folder).unwrap();
        assert_eq!(AdapterFile::read(&folder).unwrap(), adapter());
        let names: Vec<_> = read_safetensors(&folder.join(WEIGHTS)).unwrap().into_keys().collect();
        assert_eq!(names[0], format!("base_model.model.{Q}.lora_A.weight"));
        assert_eq!(std::fs::read_dir(&folder).unwrap().count(), 2);
    }

    #[test]
    fn the_infix_of_the_adapters_name_is_tolerated() {
        let dir = tempfile::tempdir().unwrap();
        adapter().write(dir.path()).unwrap();
        let tensors = read_safetensors(&dir.path().join(WEIGHTS)).unwrap();
        let rename = |name: String| name.replace(".weight", ".default.weight");
        let renamed = tensors.into_iter().map(|(name, tensor)| (rename(name), tensor)).collect();
        write_safetensors(&dir.path().join(WEIGHTS), &renamed, None).unwrap();
        assert_eq!(AdapterFile::read(dir.path()).unwrap(), adapter());
    }

    #[test]
    fn tensors_that_do_not_fit_are_refused_by_name() {
        let (a, b) = (format!("{Q}.lora_A.weight"), format!("{Q}.lora_B.weight"));
        let magnitude = format!("{Q}.lora_magnitude_vector");
        let elsewhere = "model.layers.0.self_attn.v_proj.lora_A.weight".to_string();
        type Change<'a> = &'a dyn Fn(&mut NamedTensors);
        let cases: [(Change, &str); 8] = [
            (&|t| drop(t.insert(magnitude.clone(), (vec![1], vec![1.0]))), "lora_magnitude_vector"),
            (
                &|t| drop(t.insert(elsewhere.clone(), (vec![2, 3], vec![0.0; 6]))),
                "`target_modules` does not name",
            ),
            (&|t| drop(t.insert("norm.lora_A.weight".into(), (vec![2, 3], vec![0.0; 6]))), "cannot carry"),
            (
                &|t| drop(t.insert("lm_head.lora_A.weight".into(), (vec![2, 3], vec![0.0; 6]))),
                "`target_modules` does not name",
            ),
            (&|t| drop(t.insert(a.clone(), (vec![3, 3], vec![0.0; 9]))), "not of the rank 2"),
            (&|t| drop(t.insert(a.clone(), (vec![2, 1], vec![0.0, f32::NAN]))), "not finite: its value 1"),
            (&|t| drop(t.remove(&b)), "its other factor"),
            (&|t| t.clear(), "no tensors"),
        ];
        for (change, expected) in cases {
            let dir = tempfile::tempdir().unwrap();
            adapter().write(dir.path()).unwrap();
            let mut changed = adapter();
            change(&mut changed.tensors);
            let error = changed.write(dir.path()).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
            let named = changed.tensors.into_iter().map(|(name, tensor)| (format!("{PREFIX}{name}"), tensor));
            write_safetensors(&dir.path().join(WEIGHTS), &named.collect(), None).unwrap();
            let error = AdapterFile::read(dir.path()).unwrap_err().to_string();
            assert!(error.contains(expected) && error.contains(WEIGHTS), "{error}");
        }
    }

    #[test]
    fn an_adapter_of_another_model_is_refused() {
        let check = |modules: &[(&str, [usize; 2])]| {
            adapter().check_modules(Path::new("dir"), modules).map_err(|error| error.to_string())
        };
        let v = "model.layers.0.self_attn.v_proj";
        let next = "model.layers.1.self_attn.q_proj";
        assert_eq!(check(&[(Q, [4, 3]), (v, [4, 3])]), Ok(()));
        assert!(
            check(&[(Q, [4, 3]), (next, [4, 3])]).unwrap_err().contains(&format!("{next}.lora_A.weight"))
        );
        assert!(check(&[(Q, [4, 5])]).unwrap_err().contains("[2, 3], but the model needs [2, 5]"));
        assert!(check(&[(v, [4, 3])]).unwrap_err().contains("that this model lacks"));
    }

    #[test]
    fn a_folder_without_its_files_says_which() {
        let dir = tempfile::tempdir().unwrap();
        assert!(AdapterFile::read(dir.path()).unwrap_err().to_string().contains("no `adapter_config.json`"));
        std::fs::write(dir.path().join(CONFIG), adapter().config.to_json()).unwrap();
        assert!(
            AdapterFile::read(dir.path()).unwrap_err().to_string().contains("no `adapter_model.safetensors`")
        );
    }
}
