//! `diffmas report`

use std::path::PathBuf;

use clap::Args;
use diffmas::files::check_output_file;
use diffmas::report::Report;
use diffmas::{Error, Result};

use super::{one_line, output};

/// Flags of `report`.
#[derive(Debug, Args)]
#[command(args_override_self = true)]
pub struct ReportCommand {
    /// Output folder of `train`, `eval` or `demo`
    #[arg(value_name = "DIR")]
    dir: PathBuf,
    /// File for the page [DIR/report.html]
    #[arg(long, value_name = "FILE.html")]
    output: Option<PathBuf>,
    /// Replace the file, whatever it is; a page of an earlier report is replaced anyway
    #[arg(long)]
    overwrite: bool,
}

impl ReportCommand {
    /// Writes the page and prints its first line.
    pub fn execute(self) -> Result<()> {
        let report = Report::read(&self.dir)?;
        let path = self.output.unwrap_or_else(|| self.dir.join("report.html"));
        let replaced = self.overwrite || Report::is_page(&path);
        let file = check_output_file(&path, "output", replaced)?;
        if report.is_made_of(&file) {
            return Err(Error::file(&path, "--overwrite would replace this input; give another --output"));
        }
        report.write(&file)?;
        output::print(&one_line(&report.verdict().sentence))?;
        output::print(&format!("report in {}", path.display()))
    }
}
