//! `diffmas completions`

use std::io::Write;

use clap::{Args, Command};
use clap_complete::Shell;
use diffmas::{Error, Result};

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
        std::io::stdout().write_all(&script).map_err(|e| Error::file("standard output", e))
    }
}
