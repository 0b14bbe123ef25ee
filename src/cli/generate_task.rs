//! `diffmas generate-task`

use std::path::PathBuf;

use clap::Args;
use diffmas::Result;
use diffmas::agents::ChannelKind;
use diffmas::benchmarks::synthetic::{Evidence, Facts, Family, HeldOut, Problem, Split, TaskConfig};
use diffmas::engine::OutputLock;
use diffmas::files::{write_atomic, write_jsonl};

use super::flags::{offered, offering};
use super::output;

/// Flags of `generate-task`.
#[derive(Debug, Args)]
#[command(args_override_self = true)]
pub struct GenerateTaskCommand {
    /// What makes a question need a message [relay, two-hop, distractor]
    #[arg(long, default_value_t, value_parser = offered::<Family>(), hide_possible_values = true, help_heading = "Task")]
    family: Family,
    /// Agents that hold evidence and never see the question
    #[arg(long, value_name = "N", default_value_t = 2, help_heading = "Task")]
    holders: usize,
    /// Facts of each holder: a number, or a range like 2-8
    #[arg(
        long,
        value_name = "N",
        default_value = "4",
        default_value_if("evidence", "image", "1"),
        help_heading = "Task"
    )]
    facts: Facts,
    /// As many facts as there can be in every test line, and in every other training line by chance
    #[arg(long, help_heading = "Task")]
    full_size: bool,
    /// What training lines never pair, and every test question is about: half of all pairs of a subject and an object, of which test
    /// lines consist; or an eighth, among facts of all pairs in test lines [half, eighth]
    #[arg(long, default_value_t, value_parser = offered::<HeldOut>(), hide_possible_values = true, help_heading = "Task")]
    split: HeldOut,
    /// In which form holders get their facts; an image, which has room for one, lies beside the data and is read by a frozen encoder [text,
    /// image]
    #[arg(long, default_value_t, value_parser = offered::<Evidence>(), hide_possible_values = true, help_heading = "Task")]
    evidence: Evidence,
    /// Questions of a line of train.jsonl, on the same evidence; lines of test.jsonl have one
    #[arg(long, value_name = "N", default_value_t = 1, help_heading = "Lines")]
    questions_per_line: usize,
    /// Leave answers and reports out of train.jsonl, to learn without labels
    #[arg(long, help_heading = "Lines")]
    no_answers: bool,
    /// What the agents of team.toml pass on [trace, vectors, hybrid, overwrite, text]
    #[arg(long, default_value_t, value_parser = offering::<ChannelKind>(ChannelKind::all().iter().map(|kind| kind.name())), hide_possible_values = true, help_heading = "Task")]
    channel: ChannelKind,
    /// Lines of train.jsonl
    #[arg(long, value_name = "N", default_value_t = 4096, help_heading = "Lines")]
    train: usize,
    /// Lines of test.jsonl; the facts that they ask about are in no line of train.jsonl
    #[arg(long, value_name = "N", default_value_t = 640, help_heading = "Lines")]
    test: usize,
    /// Seed of all draws
    #[arg(long, default_value_t = 42, help_heading = "Lines")]
    seed: u64,
    /// Folder for train.jsonl, test.jsonl, team.toml and, to compare with, all_evidence.toml and alone.toml
    #[arg(long, value_name = "DIR", help_heading = "Output")]
    output: PathBuf,
    /// Replace what the output folder holds
    #[arg(long, help_heading = "Output")]
    overwrite: bool,
}

impl GenerateTaskCommand {
    /// Writes data and team file.
    pub fn execute(self) -> Result<()> {
        let config = TaskConfig {
            family: self.family,
            holders: self.holders,
            facts: self.facts,
            full_size: self.full_size,
            held_out: self.split,
            evidence: self.evidence,
            questions: self.questions_per_line,
        };
        config.validate()?;
        let team = config.team_on(self.channel);
        team.validate()?;
        TaskConfig::check_count("train", self.train)?;
        TaskConfig::check_count("test", self.test)?;
        let lock =
            OutputLock::new_run(&self.output, self.overwrite, "give another --output, or --overwrite")?;
        lock.clear()?;
        let mut drawings = config.drawings(&self.output, self.seed)?;
        let learned = |problem: &Problem| match self.no_answers {
            true => problem.fields_without_answers(),
            false => problem.fields_with_trajectories(usize::MAX),
        };
        let train = config.lines(Split::Train, self.seed, self.train, &mut drawings, learned)?;
        let test = config.lines(Split::Test, self.seed, self.test, &mut drawings, Problem::fields)?;
        write_jsonl(&self.output.join("train.jsonl"), &train)?;
        write_jsonl(&self.output.join("test.jsonl"), &test)?;
        for (name, team) in [
            ("team.toml", team),
            ("all_evidence.toml", config.all_evidence()),
            ("alone.toml", config.alone()),
        ] {
            let team = toml::to_string(&team)?;
            write_atomic(&self.output.join(name), team.as_bytes())?;
        }
        let what = if self.questions_per_line == 1 { "questions" } else { "lines" };
        output::print(&format!(
            "{} training and {} test {what}, and teams for them, in {}",
            self.train,
            self.test,
            self.output.display()
        ))
    }
}
