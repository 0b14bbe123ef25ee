//! The scores of the next token after each token of a sequence, from a model alone or with a PEFT adapter: what other programs are
//! compared with (`scripts/check_peft.py`).
//! `cargo run --release --example logits -- MODEL_FOLDER --adapter DIR --ids 5,17,8 --output logits.safetensors`

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Parser;
use diffmas::backbone::{AdapterLayout, Backbone, ModelFiles, Positions, Precision};
use diffmas::backends::{BackendKind, Job, ModelBackend};
use diffmas::checkpoint::{NamedTensors, write_safetensors};
use diffmas::{Error, Result};
use serde_json::json;

/// Prints or writes logits `[tokens, vocabulary]`.
#[derive(Parser)]
struct Args {
    /// Hugging Face folder or .gguf file
    model: String,
    /// PEFT adapter folder
    #[arg(long, value_name = "DIR")]
    adapter: Option<PathBuf>,
    /// Token ids
    #[arg(long, required = true, value_delimiter = ',')]
    ids: Vec<u32>,
    /// Safetensors file for one tensor `logits` in f32; without it, they are printed as JSON
    #[arg(long, value_name = "FILE.safetensors")]
    output: Option<PathBuf>,
    /// Backend [the default of this build]
    #[arg(long)]
    backend: Option<String>,
}

/// Logits `[tokens, vocabulary]`, row-major.
pub struct Logits {
    pub shape: Vec<usize>,
    pub values: Vec<f32>,
}

/// Runs `ids` through the model in one pass.
pub fn logits(kind: BackendKind, model: &str, adapter: Option<&Path>, ids: &[u32]) -> Result<Logits> {
    let files = ModelFiles::open(model.as_ref())?;
    let files = match adapter {
        Some(dir) => files.with_saved_modules(dir)?,
        None => files,
    };
    let vocab_size = files.config.vocab_size;
    if let Some(id) = ids.iter().find(|&&id| id as usize >= vocab_size) {
        return Err(Error::invalid(format!("--ids holds {id}, but the model has only {vocab_size} tokens")));
    }
    kind.run(None, Forward { files, adapter, ids }).map_err(Error::invalid)?
}

struct Forward<'a> {
    files: ModelFiles,
    adapter: Option<&'a Path>,
    ids: &'a [u32],
}

impl Job for Forward<'_> {
    type Output = Result<Logits>;

    fn run<B: ModelBackend>(self, device: B::Device) -> Result<Logits> {
        let mut backbone: Backbone<B> = self.files.load(&device, Precision::default())?;
        if let Some(dir) = self.adapter {
            let (adapter, factors) = AdapterLayout::read(dir, &backbone)?;
            backbone = backbone.with_adapter(&adapter.bind(&factors));
        }
        let positions = Positions::issue(&vec![true; self.ids.len()], &mut [0]);
        let (hidden, _) = backbone.forward(backbone.embed(self.ids), &positions, &[], None, None);
        let logits = backbone.logits(hidden);
        Ok(Logits { shape: logits.dims().to_vec(), values: logits.into_data().iter::<f32>().collect() })
    }
}

fn run(args: &Args) -> Result<()> {
    let kind = match &args.backend {
        Some(name) => name.parse(),
        None => BackendKind::default_kind(),
    };
    let kind = kind.map_err(Error::invalid)?;
    let Logits { shape, values } = logits(kind, &args.model, args.adapter.as_deref(), &args.ids)?;
    match &args.output {
        Some(path) => {
            write_safetensors(path, &NamedTensors::from([("logits".into(), (shape, values))]), None)
        }
        None => {
            let rows: Vec<&[f32]> = values.chunks_exact(shape[1]).collect();
            println!("{}", json!({ "logits": rows }));
            Ok(())
        }
    }
}

fn main() -> ExitCode {
    match run(&Args::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("error: {e}");
            ExitCode::FAILURE
        }
    }
}
