//! `diffmas completions`

use clap::{Args, Command};
use clap_complete::Shell;
use diffmas::{Error, Result};

use super::output;

/// Flags of `completions`.
#[derive(Debug, Args)]
pub struct CompletionsCommand {
    /// The shell to write for
    shell: Shell,
}

impl CompletionsCommand {
    /// Prints the script that completes the flags of `program`.
    pub fn execute(self, mut program: Command) -> Result<()> {
        let name = program.get_name().to_string();
        let mut script = Vec::new();
        clap_complete::generate(self.shell, &mut program, name, &mut script);
        output::print(String::from_utf8(script).map_err(Error::invalid)?.trim_end())
    }
}
