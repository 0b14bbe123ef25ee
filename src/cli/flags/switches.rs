//! Flags that are on or off: `--flag`, `--flag false`, `--flag=false`. Off undoes what a file says.

use std::ffi::OsString;

use clap::builder::ValueParser;
use clap::{Arg, ArgAction, Command};

/// Gives the flags of type `bool` and `Option<bool>` of all commands that form.
pub fn with_switches(command: Command) -> Command {
    let form = |arg: Arg| {
        if !is_switch(&arg) {
            return arg;
        }
        let arg = match arg.get_action() {
            ArgAction::SetTrue => arg.action(ArgAction::Set).default_value("false").hide_default_value(true),
            _ => arg,
        };
        let arg = arg.num_args(0..=1).require_equals(true).default_missing_value("true");
        arg.value_name("BOOL").hide_possible_values(true)
    };
    command.mut_args(form).mut_subcommands(with_switches)
}

/// `args` with `--flag false` as `--flag=false`: a word after a flag that is neither `true` nor `false` is not its value.
pub fn join_values(command: &Command, args: impl IntoIterator<Item = OsString>) -> Vec<OsString> {
    let names = switches(command);
    let mut joined: Vec<OsString> = Vec::new();
    let mut only_words = false;
    for arg in args {
        let last = joined.last().and_then(|last| last.to_str()?.strip_prefix("--"));
        let value = arg.to_str().filter(|text| ["true", "false"].contains(text));
        match (last, value) {
            (Some(name), Some(value)) if !only_words && names.iter().any(|switch| switch == name) => {
                let flag = format!("--{name}={value}");
                joined.pop();
                joined.push(flag.into());
            }
            _ => {
                only_words |= arg == "--";
                joined.push(arg);
            }
        }
    }
    joined
}

fn is_switch(arg: &Arg) -> bool {
    let is_bool = arg.get_value_parser().type_id() == ValueParser::bool().type_id();
    is_bool && matches!(arg.get_action(), ArgAction::Set | ArgAction::SetTrue)
}

/// The long names of the switches of all commands.
fn switches(command: &Command) -> Vec<String> {
    let own = command.get_arguments().filter(|arg| is_switch(arg));
    let own = own.filter_map(|arg| arg.get_long().map(String::from));
    own.chain(command.get_subcommands().flat_map(switches)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Debug, Parser)]
    struct Program {
        dir: Option<String>,
        #[arg(long)]
        greedy: Option<bool>,
        #[arg(long)]
        question: Option<String>,
        #[arg(long)]
        overwrite: bool,
    }

    fn program(args: &[&str]) -> Program {
        use clap::{CommandFactory, FromArgMatches};
        let command = with_switches(Program::command());
        let args = join_values(&command, ["program"].iter().chain(args).map(OsString::from));
        Program::from_arg_matches(&command.get_matches_from(args)).unwrap()
    }

    fn parse(args: &[&str]) -> (Option<bool>, Option<String>, Option<String>) {
        let program = program(args);
        (program.greedy, program.dir, program.question)
    }

    #[test]
    fn a_switch_is_on_off_or_not_said_and_takes_no_other_word() {
        let word = |word: &str| Some(word.to_string());
        assert_eq!(parse(&[]), (None, None, None));
        assert_eq!(parse(&["--greedy"]), (Some(true), None, None));
        assert_eq!(parse(&["--greedy", "false"]), (Some(false), None, None));
        assert_eq!(parse(&["--greedy=false", "runs/first"]), (Some(false), word("runs/first"), None));
        assert_eq!(parse(&["--greedy", "runs/first"]), (Some(true), word("runs/first"), None));
        assert_eq!(parse(&["--greedy", "true", "x"]), (Some(true), word("x"), None));
        assert_eq!(parse(&["--question", "true"]), (None, None, word("true")));
        assert_eq!(parse(&["--greedy", "--", "false"]), (Some(true), word("false"), None));
        let overwrites = |args: &[&str]| program(args).overwrite;
        assert!(
            !overwrites(&[]) && overwrites(&["--overwrite", "x"]) && !overwrites(&["--overwrite", "false"])
        );
    }
}
