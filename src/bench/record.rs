//! Columns side by side, as a file.

use std::ops::RangeInclusive;
use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::column::Column;
use super::config::BenchConfig;
use super::machine::Machine;
use super::measurement::Measurement;
use super::model::ModelRecord;
use crate::error::{Error, Result};
use crate::files::Fields;

/// The form of the file.
const FORMAT: u32 = 1;
/// Most columns, and most works of one, that a file is believed to have.
const MOST: usize = 10_000;
/// Most tokens or steps of a run.
const MOST_DONE: usize = 1 << 32;
/// Seconds and figures that anybody can have measured.
const POSSIBLE: RangeInclusive<f64> = 1e-12..=1e12;

/// What was measured, on what, and how: `bench.json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct BenchRecord {
    /// The form of the file.
    pub format: u32,
    /// The program's version.
    pub version: String,
    /// When it began, in local time.
    pub date: String,
    /// Where.
    pub machine: Machine,
    /// The model.
    pub model: ModelRecord,
    /// Which works, and how often.
    pub settings: BenchConfig,
    /// One for each backend and type of weights; speeds are told as multiples of the first.
    pub columns: Vec<Column>,
}

impl BenchRecord {
    /// Nothing measured yet, here and now.
    pub fn new(model: ModelRecord, settings: BenchConfig) -> Self {
        Self {
            format: FORMAT,
            version: env!("CARGO_PKG_VERSION").into(),
            date: chrono::Local::now().format("%Y-%m-%d %H:%M").to_string(),
            machine: Machine::here(),
            model,
            settings,
            columns: Vec::new(),
        }
    }

    /// Reads the file at `path`.
    ///
    /// # Errors
    /// Naming file and field, where it is no such file, or holds what nobody can have measured.
    pub fn read(path: &Path) -> Result<Self> {
        let fields = Fields::read(path)?;
        let format: u32 = fields.require("format")?;
        if format != FORMAT {
            return Err(fields.error("format", format!("is {format}; this version reads {FORMAT}")));
        }
        let columns: Vec<Value> = fields.require("columns")?;
        if columns.len() > MOST {
            return Err(fields.error("columns", format!("has {} entries, more than {MOST}", columns.len())));
        }
        let column = |(i, value): (usize, Value)| {
            let name = format!("columns[{i}]");
            let column: Column = serde_json::from_value(value)
                .map_err(|e| fields.error(&name, format!("is no column of a bench: {e}")))?;
            check(&column).map_err(|(field, why)| fields.error(&format!("{name}.{field}"), why))?;
            Ok(column)
        };
        let columns = columns.into_iter().enumerate().map(column).collect::<Result<_>>()?;
        Ok(Self {
            format,
            version: fields.require("version")?,
            date: fields.require("date")?,
            machine: fields.require("machine")?,
            model: fields.require("model")?,
            settings: fields.require("settings")?,
            columns,
        })
    }

    /// The columns in which something was to be measured.
    pub(super) fn shown(&self) -> impl Iterator<Item = &Column> {
        self.columns.iter().filter(|column| column.left_out.is_none())
    }

    /// The column of this backend and precision.
    pub(super) fn find(&self, like: &Column) -> Option<&Column> {
        let numbers = |column: &Column| (column.dtype, column.precision);
        self.shown().find(|column| column.backend == like.backend && numbers(column) == numbers(like))
    }

    /// An error where nothing at all could be measured.
    ///
    /// # Errors
    /// What the first column says.
    pub fn check_any(&self) -> Result<()> {
        if self.columns.iter().any(|column| !column.measurements.is_empty()) {
            return Ok(());
        }
        let why = |column: &Column| {
            let reason = column.failed.as_ref().or(column.left_out.as_ref())?;
            Some(format!("{}: {reason}", column.name()))
        };
        let why: Vec<String> = self.columns.iter().filter_map(why).collect();
        Err(Error::invalid(format!("nothing was measured: {}", why.join("; "))))
    }
}

/// The field of a column that cannot be, and why.
fn check(column: &Column) -> std::result::Result<(), (String, String)> {
    if column.measurements.len() > MOST {
        return Err(("measurements".into(), format!("has more than {MOST} entries")));
    }
    for (i, m) in column.measurements.iter().enumerate() {
        let Measurement { count, median, min, max, figure, .. } = m;
        let wrong = |field: &str, why: String| Err((format!("measurements[{i}].{field}"), why));
        if !(1..=MOST_DONE).contains(count) {
            return wrong("count", format!("is {count}, which is not from 1 to {MOST_DONE}"));
        }
        for (field, value) in [("median", median), ("min", min), ("max", max), ("figure", figure)] {
            if !POSSIBLE.contains(value) {
                let why =
                    format!("is {value}, which is not from {:e} to {:e}", POSSIBLE.start(), POSSIBLE.end());
                return wrong(field, why);
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::fs;

    use serde_json::json;

    use super::super::{Run, Shape, Work};
    use super::*;
    use crate::backbone::Precision;

    /// A record of one column.
    pub(in super::super) fn record() -> BenchRecord {
        let model = ModelRecord::new("m", true, &Shape::Smollm2_135m.config());
        let mut record = BenchRecord::new(model, BenchConfig::default());
        let mut column = Column::new("flex", Precision::default());
        let runs = [0.25, 0.5, 0.125].map(|seconds| Run { seconds, count: 512 });
        column.measurements.push(Measurement::new(Work::Prefill, &runs));
        column.skipped.push((Work::LatentStep, "too long".into()));
        column.finished = true;
        record.columns.push(column);
        record
    }

    #[test]
    fn a_file_is_read_back_as_it_was_written() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("bench.json");
        fs::write(&path, serde_json::to_string(&record()).unwrap()).unwrap();
        assert_eq!(BenchRecord::read(&path).unwrap(), record());
    }

    #[test]
    fn what_nobody_can_have_measured_is_told_with_file_and_field() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("old.json");
        let says = |change: &dyn Fn(&mut Value), part: &str| {
            let mut value = serde_json::to_value(record()).unwrap();
            change(&mut value);
            fs::write(&path, value.to_string()).unwrap();
            let error = BenchRecord::read(&path).unwrap_err().to_string();
            assert!(error.contains("old.json: the field ") && error.contains(part), "{error}");
        };
        says(&|v| v["format"] = json!(2), "`format` is 2");
        says(&|v| v["columns"] = json!(7), "`columns`");
        says(&|v| v["machine"]["cores"] = json!("two"), "`machine`");
        says(&|v| v["columns"][0]["backend"] = json!(3), "`columns[0]`");
        says(&|v| v["columns"][0]["measurements"][0]["work"] = json!("sleep"), "unknown work `sleep`");
        for (field, value) in [("median", json!(-1)), ("min", json!(0)), ("count", json!(0))] {
            let name = format!("`columns[0].measurements[0].{field}`");
            says(&|v| v["columns"][0]["measurements"][0][field] = value.clone(), &name);
        }
        says(&|v| drop(v.as_object_mut().unwrap().remove("model")), "`model` is missing");
    }
}
