//! Lines a second from a JSONL file to token ids: reading, templates and tokenizer, as every command does it before it starts.
//!
//! ```text
//! cargo bench --bench text -- MODEL_FOLDER
//! ```

use std::path::{Path, PathBuf};
use std::time::Instant;

use clap::Parser;
use diffmas::agents::{AgentConfig, PromptBuilder, TeamConfig};
use diffmas::text::{Answers, TokenizedSample, Tokenizer, read_samples};
use diffmas::{Error, Result};
use rayon::prelude::*;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

#[derive(Parser)]
struct Args {
    /// A Hugging Face folder with a tokenizer; weights are not needed.
    model: PathBuf,
    /// Lines to repeat until there are enough.
    #[arg(long, default_value = "examples/data/commonsense_qa/train.jsonl")]
    data: PathBuf,
    /// How many are enough.
    #[arg(long, default_value_t = 20_000)]
    lines: usize,
    #[arg(long, default_value_t = 5)]
    runs: usize,
    /// Passed by `cargo bench`.
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() -> Result<()> {
    let args = Args::parse();
    let tokenizer = Tokenizer::from_folder(&args.model)?
        .ok_or_else(|| Error::file(&args.model, "the folder has no tokenizer.json"))?;
    let tokenizer = std::sync::Arc::new(tokenizer);
    let file = repeated(&args.data, args.lines)?;
    let one = AgentConfig { user: Some("{{ question }}".into()), ..AgentConfig::named("solver") };
    for agents in [vec![one], TeamConfig::preset().agents] {
        let builder = PromptBuilder::new(&agents, Some(tokenizer.clone()))?;
        let mut rates = Vec::with_capacity(args.runs);
        let mut tokens = 0;
        for _ in 0..args.runs {
            let clock = Instant::now();
            let samples = tokenised(file.path(), &builder, tokenizer.vocab_size())?;
            rates.push(samples.len() as f64 / clock.elapsed().as_secs_f64());
            tokens = samples.iter().flat_map(|s| s.prompts.iter().chain(&s.target)).map(Vec::len).sum();
        }
        rates.sort_by(f64::total_cmp);
        let (team, median, per_line) = (agents.len(), rates[args.runs / 2], tokens / args.lines);
        println!(
            "agents {team}: {median:.0} lines/s, median of {} runs ({per_line} tokens a line)",
            args.runs
        );
    }
    Ok(())
}

fn tokenised(path: &Path, builder: &PromptBuilder, vocab_size: usize) -> Result<Vec<TokenizedSample>> {
    let samples = read_samples(&path.into(), Answers::Required)?;
    let built: Vec<_> = samples.par_iter().map(|s| builder.build(path, s, vocab_size)).collect();
    built.into_iter().collect()
}

/// A file of `lines` lines, those of `data` in turn.
fn repeated(data: &Path, lines: usize) -> Result<tempfile::NamedTempFile> {
    let text = std::fs::read_to_string(data).map_err(|e| Error::file(data, e))?;
    let all: Vec<&str> = text.lines().cycle().take(lines).collect();
    let file = tempfile::NamedTempFile::new().map_err(Error::invalid)?;
    std::fs::write(file.path(), all.join("\n")).map_err(|e| Error::file(file.path(), e))?;
    Ok(file)
}
