//! A file of settings: every value is checked where it stands, so that an error names file, line and the nearest key.

use std::collections::BTreeMap;
use std::path::Path;

use serde::Deserialize;
use serde_json::{Map, Value};
use toml::Spanned;
use toml::de::{DeString, DeTable, DeValue, ValueDeserializer};

use super::layer::Layer;
use super::schema::{Schema, Section};
use crate::error::{Error, Result};
use crate::files::{explained, line_of, text_of, unknown};

/// What a file says to one command.
#[derive(Clone, Debug, Default)]
pub struct FileLayers {
    /// The settings at its top level, those of other commands included.
    pub top: Layer,
    /// Those in the table of the command's name.
    pub table: Layer,
}

/// Reads what the TOML file at `path` says to `command`. All of it is checked, whomever it concerns.
///
/// # Errors
/// Naming file and line, if the file cannot be read, has a key that is none, or a value that does not fit or is no number.
pub fn read_file(path: &Path, schema: &Schema, command: &str) -> Result<FileLayers> {
    let text = text_of(path)?;
    let file = File { path, text: &text };
    let root = DeTable::parse(&text).map_err(|e| file.explain(&e))?.into_inner();
    let is_command = |key: &str| schema.commands.iter().any(|(name, _)| *name == key);
    let mut layers = FileLayers { top: file.layer(), table: file.layer() };
    let (mut top, mut tables) = (Vec::new(), Vec::new());
    for (key, value) in root {
        if !is_command(key.get_ref()) {
            top.push((key, value));
            continue;
        }
        let (at, name) = (key.span().start, key.into_inner());
        let DeValue::Table(table) = value.into_inner() else {
            let sentence = format!("`{name}` is a table of the settings of a command: write [{name}]");
            return Err(file.wrong(at, sentence));
        };
        tables.push((name, table));
    }
    let commands: Vec<&str> = schema.commands.iter().map(|(name, _)| *name).collect();
    let known = [schema.keys(), commands].concat();
    file.read(&mut layers.top, top, &known, schema.sections())?;
    for (name, table) in tables {
        let mut layer = file.layer();
        file.read(&mut layer, table, &schema.keys_of(&name), schema.sections_of(&name).iter())?;
        if name == command {
            layers.table = layer;
        }
    }
    Ok(layers)
}

/// Keys that had another name before, which is read as well.
const FORMER: [(&str, &str); 1] = [("device_index", "device")];

/// The name that a key has now.
fn current(name: &str) -> &str {
    FORMER.iter().find(|(former, _)| *former == name).map_or(name, |(_, now)| now)
}

/// A key and its value.
type Entry<'a> = (Spanned<DeString<'a>>, Spanned<DeValue<'a>>);

struct File<'a> {
    path: &'a Path,
    text: &'a str,
}

impl File<'_> {
    fn layer(&self) -> Layer {
        Layer { values: Map::new(), source: Some((self.path.to_path_buf(), BTreeMap::new())) }
    }

    fn explain(&self, error: &toml::de::Error) -> Error {
        explained(self.path, self.text, error)
    }

    /// An error at the byte `offset`.
    fn wrong(&self, offset: usize, message: String) -> Error {
        Error::line(self.path, line_of(self.text, offset), message)
    }

    /// Reads the entries of one table, whose keys `sections` know.
    fn read<'a, 's>(
        &self,
        layer: &mut Layer,
        entries: impl IntoIterator<Item = Entry<'a>>,
        known: &[&str],
        sections: impl Iterator<Item = &'s Section> + Clone,
    ) -> Result<()> {
        for (key, value) in entries {
            let (at, written) = (key.span().start, key.get_ref());
            let name = current(written).to_string();
            if layer.values.contains_key(&name) {
                return Err(self.wrong(at, format!("`{written}` sets `{name}` a second time")));
            }
            let key = Spanned::new(key.span(), DeString::from(name.clone()));
            let mut knowing = sections.clone().filter(|s| s.keys.contains(&name.as_str())).peekable();
            if knowing.peek().is_none() {
                return Err(self.wrong(at, unknown("key", &name, known)));
            }
            self.check_numbers(&value)?;
            for section in knowing {
                let only = DeTable::from_iter([(key.clone(), value.clone())]);
                (section.check)(Spanned::new(value.span(), only)).map_err(|e| self.explain(&e))?;
            }
            let value = Value::deserialize(ValueDeserializer::from(value)).map_err(|e| self.explain(&e))?;
            layer.values.insert(name.clone(), value);
            if let Some((_, lines)) = &mut layer.source {
                lines.insert(name, line_of(self.text, at));
            }
        }
        Ok(())
    }

    /// TOML has `nan` and `inf`, which no setting can be.
    fn check_numbers(&self, value: &Spanned<DeValue<'_>>) -> Result<()> {
        match value.get_ref() {
            DeValue::Float(number) if number.as_str().parse().is_ok_and(|x: f64| !x.is_finite()) => {
                Err(self.wrong(value.span().start, format!("{number} is not a finite number")))
            }
            DeValue::Array(items) => items.iter().try_for_each(|item| self.check_numbers(item)),
            DeValue::Table(table) => table.iter().try_for_each(|(_, value)| self.check_numbers(value)),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::Merged;
    use serde_json::json;

    #[derive(Debug, Default, PartialEq, Deserialize)]
    #[serde(default)]
    struct Learning {
        rate: Option<f64>,
        seed: Option<u64>,
        phases: Vec<Phase>,
    }

    #[derive(Debug, Default, PartialEq, Deserialize)]
    #[serde(default, deny_unknown_fields)]
    struct Phase {
        name: String,
        rate: Option<f64>,
    }

    #[derive(Debug, Default, PartialEq, Deserialize)]
    #[serde(default)]
    struct Answering {
        greedy: bool,
        seed: Option<u64>,
    }

    fn read(text: &str, command: &str) -> std::result::Result<FileLayers, String> {
        let schema = Schema {
            commands: vec![
                ("train", vec![Section::of::<Learning>()]),
                ("run", vec![Section::of::<Answering>()]),
            ],
        };
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.toml");
        std::fs::write(&path, text).unwrap();
        read_file(&path, &schema, command)
            .map_err(|e| e.to_string().replace(&format!("{}", path.display()), "a.toml"))
    }

    #[test]
    fn a_command_is_told_what_stands_above_and_in_its_own_table() {
        let text = "rate = 1\nseed = 3\n[run]\nseed = 4\n[train]\nseed = 5\n";
        for (command, seed) in [("run", 4), ("train", 5)] {
            let FileLayers { top, table } = read(text, command).unwrap();
            assert_eq!(Value::from(top.values.clone()), json!({"rate": 1, "seed": 3}));
            let merged = Merged::new([top, table], &[]).unwrap();
            assert_eq!(merged.get::<Answering>().unwrap(), Answering { greedy: false, seed: Some(seed) });
            assert_eq!(merged.get::<Learning>().unwrap().rate, Some(1.0));
        }
        assert!(read("rate = 1\n[run]\nseed = 4\n", "train").unwrap().table.values.is_empty());
    }

    #[test]
    fn keys_that_are_none_are_refused_wherever_they_stand() {
        assert_eq!(
            read("seed = 1\ngredy = true\n", "train").unwrap_err(),
            "a.toml, line 2: unknown key `gredy`; did you mean `greedy`? (known here: `rate`, `seed`, `phases`, `greedy`, `train`, \
             `run`)"
        );
        assert_eq!(
            read("[run]\n\nseeed = 1\n", "train").unwrap_err(),
            "a.toml, line 3: unknown key `seeed`; did you mean `seed`? (known here: `greedy`, `seed`)"
        );
        let error = read("[run]\nrate = 1\n", "train").unwrap_err();
        assert!(error.starts_with("a.toml, line 2: unknown key `rate`; known here: `greedy`"), "{error}");
        let error = read("[[phases]]\nname = \"a\"\nrat = 1\n", "run").unwrap_err();
        assert!(error.starts_with("a.toml, line 3: unknown key `rat`; did you mean `rate`?"), "{error}");
        let error = read("run = 3\n", "run").unwrap_err();
        assert_eq!(error, "a.toml, line 1: `run` is a table of the settings of a command: write [run]");
    }

    #[test]
    fn a_key_is_read_under_its_former_name() {
        #[derive(Debug, Default, PartialEq, Deserialize)]
        #[serde(default)]
        struct Place {
            device: Option<usize>,
        }
        let schema = Schema { commands: vec![("run", vec![Section::of::<Place>()])] };
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.toml");
        let read = |text: &str| {
            std::fs::write(&path, text).unwrap();
            read_file(&path, &schema, "run")
        };
        let FileLayers { top, table } = read("device_index = 1\n[run]\ndevice = 2\n").unwrap();
        assert_eq!(Merged::new([top.clone()], &[]).unwrap().get::<Place>().unwrap().device, Some(1));
        assert_eq!(Merged::new([top, table], &[]).unwrap().get::<Place>().unwrap().device, Some(2));
        let error = read("device = 1\ndevice_index = 2\n").unwrap_err().to_string();
        assert!(error.ends_with("line 2: `device_index` sets `device` a second time"), "{error}");
        let error = read("device_index = \"a\"\n").unwrap_err().to_string();
        assert!(error.contains("line 1: invalid type"), "{error}");
    }

    #[test]
    fn values_that_do_not_fit_are_refused_where_they_stand_whomever_they_concern() {
        for (text, sentence) in [
            ("seed = 1\nrate = \"fast\"\n", "line 2: invalid type: string \"fast\", expected f64"),
            ("[run]\ngreedy = 1\n", "line 2: invalid type: integer `1`, expected a boolean"),
            ("seed = 1\nrate = -inf\n", "line 2: -inf is not a finite number"),
            ("[[phases]]\nname = \"a\"\nrate = nan\n", "line 3: nan is not a finite number"),
            ("seed = -1\n", "line 1: invalid value: integer `-1`, expected u64"),
            ("seed = = 1\n", "line 1: "),
            ("[run]\nseed = 1\nseed = 2\n", "line 3: duplicate key"),
        ] {
            let error = read(text, "train").unwrap_err();
            assert!(error.starts_with(&format!("a.toml, {sentence}")), "{error}");
        }
    }

    #[test]
    fn rivals_of_a_file_are_told_with_its_line() {
        let rivals: &[(&str, &[&str])] = &[("greedy", &["seed"])];
        let both = read("greedy = true\n\nseed = 1\n", "run").unwrap();
        let error = Merged::new([both.top, both.table], rivals).unwrap_err().to_string();
        assert!(
            error.ends_with("a.toml, line 3: `greedy` and `seed` exclude each other; leave one of them out"),
            "{error}"
        );
        let apart = read("greedy = true\n[run]\nseed = 1\n", "run").unwrap();
        let merged = Merged::new([apart.top, apart.table], rivals).unwrap();
        assert_eq!(merged.get::<Answering>().unwrap(), Answering { greedy: false, seed: Some(1) });
    }
}
