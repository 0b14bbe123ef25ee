//! Commands. Exit codes: 0 done, 1 failure, 2 wrong usage, 130 interrupted.

mod bench;
mod chat;
mod completions;
mod config;
mod csv_log;
mod demo;
mod devices;
mod eval;
mod fetch;
mod fields;
mod flags;
mod generate_task;
mod interrupt;
mod job;
mod lines;
mod merge;
mod models;
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

use std::ffi::OsString;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::process::ExitCode;

use clap::error::ErrorKind;
use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};
use diffmas::settings::Conflict;
use diffmas::{Error, Result};

use config::Flags;
use flags::{EvalFlags, RunFlags, TrainFlags, join_values, with_switches};

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
    /// See agents learn to talk: train a small team in minutes, measure it beside other methods, write a report.
    #[command(after_help = "Example: diffmas demo --task two-hop --output two-hop-report")]
    Demo(demo::DemoCommand),
    /// Train a team: adapters learn to communicate through its channel.
    #[command(after_help = "Example: diffmas train --model MODEL_DIR --data train.jsonl --output runs/first")]
    Train(Box<TrainFlags>),
    /// Let a team answer a question or a file of questions, or chat with it.
    #[command(after_help = run::AFTER_HELP)]
    Run(Box<RunFlags>),
    /// Loss and perplexity of a team on a file, with real messages or with a control.
    #[command(after_help = "Example: diffmas eval runs/first --data test.jsonl --control shuffled")]
    Eval(Box<EvalFlags>),
    /// Write questions whose evidence is spread over a team, and that team.
    #[command(
        after_help = "Example: diffmas generate-task --family two-hop --facts 4 --output tasks/two-hop"
    )]
    GenerateTask(generate_task::GenerateTaskCommand),
    /// One HTML page about an output folder: does the message matter, how the team learned, who attended to whom.
    #[command(after_help = "Example: diffmas report runs/first")]
    Report(report::ReportCommand),
    /// Time the same work on every backend in this binary: prefill, latent steps, decoding, training.
    #[command(after_help = bench::AFTER_HELP)]
    Bench(Box<bench::BenchCommand>),
    /// Fetch a model from the Hugging Face hub and print where it is.
    #[command(after_help = "Example: diffmas fetch Qwen/Qwen3-0.6B")]
    Fetch(fetch::FetchCommand),
    /// List cached models and well-known ones of the supported families.
    #[command(after_help = "Example: diffmas models")]
    Models,
    /// Write model and adapter as one ordinary Hugging Face folder.
    #[command(after_help = "Example: diffmas merge runs/first --output merged")]
    Merge(merge::MergeCommand),
    /// List the backends in this binary, their devices, and whether they work here.
    #[command(after_help = "Example: diffmas devices")]
    Devices(devices::DevicesCommand),
    /// Print a script that completes commands and flags in a shell.
    #[command(
        after_help = "Example: diffmas completions bash > ~/.local/share/bash-completion/completions/diffmas"
    )]
    Completions(completions::CompletionsCommand),
}

/// The program's flags.
fn program() -> clap::Command {
    with_switches(Cli::command())
}

impl Cli {
    /// Reads the command line, or ends the program with what is wrong with it.
    fn of(args: impl IntoIterator<Item = OsString>) -> Self {
        let mut program = program();
        let args = join_values(&program, args);
        let matches = program.try_get_matches_from_mut(args).unwrap_or_else(|e| e.exit());
        let cli = Self::from_arg_matches(&matches).unwrap_or_else(|e| e.format(&mut program).exit());
        if let Some(Conflict { one, other }) = cli.command.conflict() {
            let [one, other] = [one, other].map(|key| format!("--{}", key.replace('_', "-")));
            let command = matches.subcommand_name().and_then(|name| program.find_subcommand_mut(name));
            let sentence = format!("the argument '{one}' cannot be used with '{other}'");
            command
                .expect("it was found in the flags of one")
                .error(ErrorKind::ArgumentConflict, sentence)
                .exit();
        }
        cli
    }
}

impl Command {
    /// Whether the processes of a job share the work; other commands are the first one's.
    fn is_shared(&self) -> bool {
        matches!(self, Self::Train(_) | Self::Run(_) | Self::Eval(_))
    }

    /// Two flags that exclude each other, where it depends on their values.
    fn conflict(&self) -> Option<Conflict> {
        match self {
            Self::Train(flags) => flags.conflict(),
            Self::Run(flags) => flags.conflict(),
            Self::Eval(flags) => flags.conflict(),
            _ => None,
        }
    }
}

/// Runs the command line and says in one sentence what went wrong.
pub fn main() -> ExitCode {
    let cli = Cli::of(std::env::args_os());
    let shared = cli.command.is_shared();
    let (job, joined) = match job::join(shared) {
        Ok(job) => (Some(job), Ok(())),
        Err(e) => (None, Err(e)),
    };
    cli.verbosity.install();
    interrupt::install();
    job::tell_alone();
    let work = || {
        joined?;
        if !shared && !job::is_first() {
            return Ok(());
        }
        threads::install()?;
        dispatch(cli.command)
    };
    // The hook has told of a panic.
    let outcome = catch_unwind(AssertUnwindSafe(work)).map(code_of);
    match outcome {
        Ok(None) => {
            // Where all processes of a job have done their work, they take leave of each other.
            let _leaving = job;
            ExitCode::SUCCESS
        }
        Ok(Some(code)) => {
            job::abort(code);
            ExitCode::from(code)
        }
        Err(panic) => {
            job::abort(PANICKED);
            resume_unwind(panic)
        }
    }
}

/// The exit code of a program that panicked.
const PANICKED: u8 = 101;

/// Says what went wrong; the exit code of it, or nothing where nothing did.
fn code_of(outcome: Result<()>) -> Option<u8> {
    match outcome {
        Ok(()) => None,
        Err(_) if output::closed() => job::is_shared().then_some(0),
        Err(Error::Interrupted(message)) => {
            job::let_first_speak();
            verbosity::say(message);
            Some(interrupt::CODE)
        }
        Err(e) => {
            job::let_first_speak();
            verbosity::say(format_args!("error: {}", one_line(&e.to_string())));
            Some(1)
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
        Command::Train(flags) => train::TrainCommand::execute(&flags),
        Command::Run(flags) => run::RunCommand::execute(&flags),
        Command::Eval(flags) => eval::EvalCommand::execute(&flags),
        Command::GenerateTask(c) => c.execute(),
        Command::Report(c) => c.execute(),
        Command::Bench(c) => c.execute(),
        Command::Fetch(c) => c.execute(),
        Command::Models => models::execute(),
        Command::Merge(c) => c.execute(),
        Command::Devices(c) => c.execute(),
        Command::Completions(c) => c.execute(program()),
    }
}
