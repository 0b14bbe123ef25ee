//! Messages of internal state out of a file, or into one.

use std::ops::Range;
use std::path::{Path, PathBuf};

use diffmas_backends::ModelBackend;

use super::Session;
use crate::agents::Team;
use crate::communication::{Fingerprint, ReceivedMessages, TraceOwner};
use crate::error::{Error, Result};
use crate::inference::Upstream;
use crate::text::{TokenizedSample, lines};

/// A trace file in place of messages that stay in memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TraceFile {
    /// What the upstream agents send is written, too.
    Save(PathBuf),
    /// The upstream agents do not run: their messages are read.
    Load(PathBuf),
}

/// What the upstream agents leave for `samples`: read from the file, or the result of `run`, which is written to it.
///
/// # Errors
/// If the file cannot be read or written, or holds messages of another model, team or batch.
pub(super) fn through_file<B: ModelBackend>(
    file: &TraceFile,
    session: &Session,
    team: &Team<B>,
    samples: &[TokenizedSample],
    max_new_tokens: usize,
    run: impl FnOnce() -> Result<Upstream<B>>,
) -> Result<Upstream<B>> {
    let config = &team.layout.config;
    let agents: Vec<&str> = config.agents.iter().map(|a| a.name.as_str()).collect();
    let fingerprint = Fingerprint { model: session.model.sha256()?, adapter: team.learned_sha256() };
    let owner = TraceOwner {
        model: &session.model.config,
        fingerprint: &fingerprint,
        agents: &agents,
        vectors: config.vectors(),
        dtype: config.message_dtype,
    };
    match file {
        TraceFile::Load(path) => {
            let received = ReceivedMessages::read(path, owner, &team.answering().device())?;
            let room = session.model.config.max_position_embeddings;
            check(path, &received.start, samples, max_new_tokens, room)?;
            Ok(Upstream {
                received,
                written: Vec::new(),
                samples: samples.to_vec(),
                by_question: false,
                positions: 0,
            })
        }
        TraceFile::Save(path) => {
            let upstream = run()?;
            upstream.received.write(path, owner)?;
            Ok(upstream)
        }
    }
}

/// Refuses messages of other rows, or after which the final agent's positions do not fit the model.
fn check(
    path: &Path,
    start: &[u32],
    samples: &[TokenizedSample],
    max_new_tokens: usize,
    room: usize,
) -> Result<()> {
    let lines = lines(samples);
    if start.len() != lines.len() {
        let (theirs, ours) = (start.len(), lines.len());
        let what = if ours < samples.len() { "lines" } else { "questions" };
        return Err(Error::file(path, format!("the trace is of {theirs} {what}, but there are {ours} here")));
    }
    let of_line =
        |(line, &start): (Range<usize>, &u32)| samples[line].iter().map(move |sample| (sample, start));
    for (sample, start) in lines.into_iter().zip(start).flat_map(of_line) {
        let prompt = sample.prompts.last().map_or(0, Vec::len);
        let total = (start as usize + prompt).saturating_add(max_new_tokens);
        if total > room {
            return Err(Error::file(
                path,
                format!(
                    "line {}: the trace ends at position {start}, and {prompt} prompt tokens and --max-new-tokens make {total}, \
                     but the model has {room} (max_position_embeddings)",
                    sample.line
                ),
            ));
        }
    }
    Ok(())
}
