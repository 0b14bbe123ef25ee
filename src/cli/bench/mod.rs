//! `diffmas bench`: the same work on every backend, side by side.

mod child;

use std::path::{Path, PathBuf};

use clap::Args;
use diffmas::backbone::{ComputeDtype, WeightDtype};
use diffmas::backends::{BackendKind, DeviceError};
use diffmas::bench::{
    BenchConfig, BenchModel, BenchRecord, Column, ColumnEvent, ColumnRequest, Comparison, ModelRecord, Shape,
    WorkKind,
};
use diffmas::engine::OutputLock;
use diffmas::files::{write_atomic, write_json};
use diffmas::{Error, Result};

use super::flags::one_of;
use super::{fetch, interrupt, output, verbosity};

/// What stands below the help.
pub const AFTER_HELP: &str = "\
A backend, a type of weights and a precision are a column of the table, measured in a process of its own. Lists are separated by commas.

Example: diffmas bench --shape smollm2-135m --backend flex --output bench";

/// Flags of `bench`.
#[derive(Debug, Args)]
#[command(args_override_self = true)]
pub struct BenchCommand {
    /// Hugging Face folder, .gguf file, ORG/NAME[@REVISION][:FILE.gguf] on the Hugging Face hub, or a known name
    /// (`diffmas models`)
    #[arg(long, conflicts_with = "shape", help_heading = "Model")]
    model: Option<String>,
    /// Fetch nothing: the model must be here or cached
    #[arg(long, help_heading = "Model")]
    offline: bool,
    /// Random weights of the sizes of a published model, in place of --model [smollm2-135m; qwen3-0.6b, qwen3-4b, qwen3-8b]
    #[arg(long, value_parser = Shape::named, help_heading = "Model")]
    shape: Option<Shape>,
    /// Backends; the first is what the others are compared with [all that have a device here]
    #[arg(long, value_name = "LIST", value_delimiter = ',', help_heading = "Device")]
    backend: Vec<String>,
    /// Which of the backend's devices, by its number in `diffmas devices` [0]
    #[arg(long, value_name = "N", alias = "device-index", help_heading = "Device")]
    device: Option<usize>,
    /// How weights are stored; those that a backend does not have are left out [f32,bf16; f16, q8, q4, auto]
    #[arg(long, value_name = "LIST", value_delimiter = ',', help_heading = "Device")]
    dtype: Vec<WeightDtype>,
    /// What products with them are computed in; what a backend does not have is left out [f32; tf32, bf16, f16]
    #[arg(long, value_name = "LIST", value_delimiter = ',', help_heading = "Device")]
    precision: Vec<ComputeDtype>,
    /// What is timed, beside loading [all: first-token, prefill, latent-step, decode, train]
    #[arg(long, value_name = "LIST", value_delimiter = ',', value_parser = one_of::<WorkKind>(), hide_possible_values = true, help_heading = "Work")]
    works: Vec<WorkKind>,
    /// Latent steps of each upstream agent in a training step [0,10]
    #[arg(long, value_name = "LIST", value_delimiter = ',', help_heading = "Work")]
    latent_steps: Vec<usize>,
    /// Rows of a training step [1]
    #[arg(long, value_name = "LIST", value_delimiter = ',', help_heading = "Work")]
    train_batch: Vec<usize>,
    /// Rows that are decoded together [1,8]
    #[arg(long, value_name = "LIST", value_delimiter = ',', help_heading = "Work")]
    decode_batch: Vec<usize>,
    /// Runs of each work [3]
    #[arg(long, value_name = "N", help_heading = "Work")]
    runs: Option<usize>,
    /// Runs before these that do not count [1]
    #[arg(long, value_name = "N", help_heading = "Work")]
    warmup: Option<usize>,
    /// Seed of random weights [42]
    #[arg(long, help_heading = "Work")]
    seed: Option<u64>,
    /// Folder for bench.json, bench.md and bench.svg
    #[arg(long, value_name = "DIR", help_heading = "Output")]
    output: Option<PathBuf>,
    /// Replace what the output folder holds
    #[arg(long, help_heading = "Output")]
    overwrite: bool,
    /// Compare with the bench.json of an earlier bench, here or elsewhere
    #[arg(long, value_name = "FILE.json", help_heading = "Output")]
    against: Option<PathBuf>,
    /// One column, as JSON: told as events, a line of JSON each
    #[arg(long, hide = true, value_name = "JSON")]
    column: Option<String>,
}

impl BenchCommand {
    /// Measures, prints a table and writes files.
    pub fn execute(self) -> Result<()> {
        if let Some(request) = &self.column {
            return child::serve(request);
        }
        let config = self.config();
        config.validate()?;
        let backends = self.backends()?;
        let read = |path| BenchRecord::read(path).map(|before| (path, before));
        let against = self.against.as_deref().map(read).transpose()?;
        let (model, name) = self.model(config.seed)?;
        let files = model.open()?;
        let record = BenchRecord::new(ModelRecord::new(&name, model.is_random(), &files.config), config);
        drop(files);
        let lock = self.output.as_deref().map(|dir| self.lock(dir)).transpose()?;
        let mut bench = Bench { record, against, lock };
        let dtypes = given(&self.dtype, vec![WeightDtype::F32, WeightDtype::Bf16]);
        let mut requests = Vec::new();
        let precisions = given(&self.precision, vec![ComputeDtype::F32]);
        for backend in backends {
            let numbers =
                once(&dtypes).flat_map(|dtype| once(&precisions).map(move |precision| (dtype, precision)));
            requests.extend(numbers.map(|(dtype, precision)| ColumnRequest {
                model: model.clone(),
                backend: backend.name().into(),
                device: self.device,
                dtype,
                precision,
                config: bench.record.settings.clone(),
                named: !self.backend.is_empty(),
            }));
        }
        bench.run(&requests)
    }

    fn config(&self) -> BenchConfig {
        let own = BenchConfig::default();
        BenchConfig {
            works: given(&self.works, own.works),
            latent_steps: given(&self.latent_steps, own.latent_steps),
            train_batch: given(&self.train_batch, own.train_batch),
            decode_batch: given(&self.decode_batch, own.decode_batch),
            runs: self.runs.unwrap_or(own.runs),
            warmup: self.warmup.unwrap_or(own.warmup),
            seed: self.seed.unwrap_or(own.seed),
        }
    }

    /// The backends asked for, else all that are compiled in, with those of the CPU first; each once.
    fn backends(&self) -> Result<Vec<BackendKind>> {
        let named =
            self.backend.iter().map(|name| name.parse()).collect::<std::result::Result<Vec<_>, _>>()?;
        let mut all = BackendKind::ALL.to_vec();
        all.sort_by_key(|kind| !kind.is_cpu());
        match (named.is_empty(), all.is_empty()) {
            (false, _) => Ok(once(&named).collect()),
            (true, false) => Ok(all),
            (true, true) => Err(DeviceError::Empty.into()),
        }
    }

    /// The model, fetched where necessary, and its name.
    fn model(&self, seed: u64) -> Result<(BenchModel, String)> {
        let Some(name) = &self.model else {
            let shape = self.shape.unwrap_or_default();
            return Ok((BenchModel::Random(shape, seed), shape.name().into()));
        };
        let path = fetch::model(name, self.offline)?;
        let name = match Path::new(name).exists() {
            true => ModelRecord::name_of(&path),
            false => name.clone(),
        };
        Ok((BenchModel::Files(path), name))
    }

    fn lock(&self, dir: &Path) -> Result<OutputLock> {
        let lock = OutputLock::new_run(dir, self.overwrite, "give --overwrite or another --output")?;
        let model = self.model.as_deref().map(Path::new);
        lock.keep_inputs(model.into_iter().chain(self.against.as_deref()))?;
        lock.clear()?;
        Ok(lock)
    }
}

/// What a flag lists, else `own`.
fn given<T: Clone>(flag: &[T], own: Vec<T>) -> Vec<T> {
    if flag.is_empty() { own } else { flag.to_vec() }
}

/// `values` without those that came before.
fn once<T: Copy + PartialEq>(values: &[T]) -> impl Iterator<Item = T> {
    values.iter().enumerate().filter(|(i, value)| !values[..*i].contains(value)).map(|(_, value)| *value)
}

/// A bench in progress.
struct Bench<'a> {
    record: BenchRecord,
    against: Option<(&'a Path, BenchRecord)>,
    lock: Option<OutputLock>,
}

impl Bench<'_> {
    fn run(&mut self, requests: &[ColumnRequest]) -> Result<()> {
        interrupt::silence();
        let heard = interrupt::Heard::start();
        for request in requests {
            let column = measured(request)?;
            let said = column.left_out.as_ref().or(column.failed.as_ref());
            if let Some(reason) = said {
                let what = if column.left_out.is_some() { "left out" } else { "failed" };
                verbosity::note(format_args!("{}: {what}: {reason}", column.name()));
            }
            self.record.columns.push(column);
            self.write()?;
            if interrupt::requested() {
                break;
            }
        }
        output::print(self.markdown().trim_end())?;
        if heard.finish().is_err() {
            let kept = self.lock.as_ref().map(|lock| format!(" is in {}", lock.dir().display()));
            let kept = kept.unwrap_or_else(|| " stands above".into());
            return Err(Error::Interrupted(format!("stopped; what was measured{kept}")));
        }
        self.record.check_any()?;
        let failed = self.record.columns.iter().filter(|column| column.failed.is_some());
        let failed: Vec<String> = failed.map(Column::name).collect();
        match failed.is_empty() {
            true => Ok(()),
            false => Err(Error::invalid(format!("not measured to the end: {}", failed.join(", ")))),
        }
    }

    /// Writes what there is so far.
    fn write(&self) -> Result<()> {
        let Some(lock) = &self.lock else { return Ok(()) };
        write_json(&lock.dir().join("bench.json"), &self.record)?;
        write_atomic(&lock.dir().join("bench.md"), self.markdown().as_bytes())?;
        write_atomic(&lock.dir().join("bench.svg"), self.record.svg()?.as_bytes())
    }

    fn markdown(&self) -> String {
        let own = self.record.markdown();
        let Some((path, before)) = &self.against else { return own };
        let comparison = Comparison { now: &self.record, before, name: path.display().to_string() };
        format!("{own}\n{}", comparison.markdown())
    }
}

/// A column, with a line of progress for each work; until all is done or the user asks to stop.
fn measured(request: &ColumnRequest) -> Result<Column> {
    let mut column = Column::new(request.backend.clone(), request.numbers());
    let name = column.name();
    child::run(request, |event| {
        match &event {
            ColumnEvent::Measured { measurement } => {
                verbosity::note(format_args!(
                    "{name}: {}: {}",
                    measurement.work.title(),
                    measurement.describe()
                ));
            }
            ColumnEvent::Skipped { work, reason } => {
                verbosity::note(format_args!("{name}: {} left out: {reason}", work.title()));
            }
            _ => {}
        }
        column.add(event);
    })?;
    Ok(column)
}
