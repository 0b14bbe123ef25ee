//! Commands. Exit codes: 0 done, 1 failure, 2 wrong usage, 130 interrupted.

mod chat;
mod completions;
mod csv_log;
mod demo;
mod devices;
mod eval;
mod fetch;
mod generate_task;
mod generation;
mod interrupt;
mod lines;
mod merge;
mod models;
mod options;
mod output;
mod progress;
mod report;
mod run;
mod session;
mod summary;
mod threads;
mod train;
mod verbosity;
mod visible;

use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand};
use diffmas::{Error, Result};

/// Teams of language agents that think together without text.
#[derive(Debug, Parser)]
#[command(name = "diffmas", version, arg_required_else_help = true, after_help = AFTER_HELP)]
struct Cli {
    #[command(flatten)]
    verbosity: verbosity::Verbosity,
    #[command(subcommand)]
    command: Command,
}

const AFTER_HELP: &str = "\
Exit codes: 0 done, 1 failure, 2 wrong usage, 130 interrupted.
Messages go to standard error; RUST_LOG chooses among them (RUST_LOG=debug), NO_COLOR=1 switches colours off.

Example: diffmas run --model smollm2-135m-instruct";

#[derive(Debug, Subcommand)]
enum Command {
    /// See agents learn to talk: train a small team in minutes, measure it beside other ways, write a report.
    #[command(after_help = "Example: diffmas demo --task two-hop --output two-hop-report")]
    Demo(demo::DemoCommand),
    /// Train a team: adapters learn to communicate through the trace.
    #[command(after_help = "Example: diffmas train --model MODEL_DIR --data train.jsonl --output runs/first")]
    Train(Box<train::TrainCommand>),
    /// Let a team answer a question or a file of questions, or chat with it.
    #[command(after_help = run::AFTER_HELP)]
    Run(Box<run::RunCommand>),
    /// Loss and perplexity of a team on a file, with real messages or with a control.
    #[command(after_help = "Example: diffmas eval runs/first --data test.jsonl --control shuffled")]
    Eval(Box<eval::EvalCommand>),
    /// Write questions whose evidence is spread over a team, and that team.
    #[command(
        after_help = "Example: diffmas generate-task --family two-hop --facts 4 --output tasks/two-hop"
    )]
    GenerateTask(generate_task::GenerateTaskCommand),
    /// One HTML page about an output folder: does the message matter, how the team learned, who attended to whom.
    #[command(after_help = "Example: diffmas report runs/first")]
    Report(report::ReportCommand),
    /// Fetch a model from the Hugging Face hub and print where it is.
    #[command(after_help = "Example: diffmas fetch Qwen/Qwen3-0.6B")]
    Fetch(fetch::FetchCommand),
    /// List cached models and well-known ones of the supported families.
    #[command(after_help = "Example: diffmas models")]
    Models,
    /// Write model and adapter as one ordinary Hugging Face folder.
    #[command(after_help = "Example: diffmas merge runs/first --output merged")]
    Merge(merge::MergeCommand),
    /// List the backends in this binary and whether they work here.
    #[command(after_help = "Example: diffmas devices")]
    Devices,
    /// Print a script that completes commands and flags in a shell.
    #[command(
        after_help = "Example: diffmas completions bash > ~/.local/share/bash-completion/completions/diffmas"
    )]
    Completions(completions::CompletionsCommand),
}

/// Runs the command line and says in one sentence what went wrong.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    cli.verbosity.install();
    interrupt::install();
    threads::install();
    match dispatch(cli.command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) if output::closed() => ExitCode::SUCCESS,
        Err(Error::Interrupted(message)) => {
            verbosity::say(message);
            ExitCode::from(interrupt::CODE)
        }
        Err(e) => {
            verbosity::say(format_args!("error: {}", one_line(&e.to_string())));
            ExitCode::FAILURE
        }
    }
}

/// The message without the line breaks that names out of a file can bring along.
fn one_line(message: &str) -> String {
    message.split(['\r', '\n', '\t']).filter(|part| !part.is_empty()).collect::<Vec<_>>().join(" ")
}

fn dispatch(command: Command) -> Result<()> {
    match command {
        Command::Demo(c) => c.execute(),
        Command::Train(c) => c.execute(),
        Command::Run(c) => c.execute(),
        Command::Eval(c) => c.execute(),
        Command::GenerateTask(c) => c.execute(),
        Command::Report(c) => c.execute(),
        Command::Fetch(c) => c.execute(),
        Command::Models => models::execute(),
        Command::Merge(c) => c.execute(),
        Command::Devices => devices::execute(),
        Command::Completions(c) => c.execute(Cli::command()),
    }
}
