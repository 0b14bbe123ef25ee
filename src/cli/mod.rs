//! Commands. Exit codes: 0 done, 1 failure, 2 wrong usage, 130 interrupted.

mod devices;
mod eval;
mod fetch;
mod interrupt;
mod merge;
mod models;
mod options;
mod output;
mod progress;
mod run;
mod session;
mod train;

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use diffmas::{Error, Result};

/// Teams of language agents that think together without text.
#[derive(Debug, Parser)]
#[command(name = "diffmas", version, arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Train a team: adapters learn to communicate through the trace.
    #[command(after_help = "Example: diffmas train --model MODEL_DIR --data train.jsonl --output runs/first")]
    Train(Box<train::TrainCommand>),
    /// Let a team answer a question or a file of questions.
    #[command(
        after_help = "Example: diffmas run --model MODEL_DIR --adapter runs/first/adapter --question \"2 + 3?\" --greedy"
    )]
    Run(Box<run::RunCommand>),
    /// Loss and perplexity of a team on a file, with real messages or with a control.
    #[command(after_help = "Example: diffmas eval --model MODEL_DIR --data test.jsonl --trace shuffled")]
    Eval(Box<eval::EvalCommand>),
    /// Fetch a model from the Hugging Face hub and print where it is.
    #[command(after_help = "Example: diffmas fetch Qwen/Qwen3-0.6B")]
    Fetch(fetch::FetchCommand),
    /// List cached models and well-known ones of the supported families.
    Models,
    /// Write model and adapter as one ordinary Hugging Face folder.
    #[command(
        after_help = "Example: diffmas merge --model MODEL_DIR --adapter runs/first/adapter --output merged"
    )]
    Merge(merge::MergeCommand),
    /// List the backends in this binary and whether they work here.
    Devices,
}

/// Runs the command line and says in one sentence what went wrong.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .with_target(false)
        .without_time()
        .with_env_filter(
            tracing_subscriber::EnvFilter::try_from_default_env()
                .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("warn,diffmas=info")),
        )
        .init();
    interrupt::install();
    match dispatch(cli.command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(Error::Interrupted(message)) => {
            eprintln!("{message}");
            ExitCode::from(130)
        }
        Err(e) => {
            eprintln!("error: {e}");
            ExitCode::FAILURE
        }
    }
}

fn dispatch(command: Command) -> Result<()> {
    match command {
        Command::Train(c) => c.execute(),
        Command::Run(c) => c.execute(),
        Command::Eval(c) => c.execute(),
        Command::Fetch(c) => c.execute(),
        Command::Models => models::execute(),
        Command::Merge(c) => c.execute(),
        Command::Devices => devices::execute(),
    }
}
