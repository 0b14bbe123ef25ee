//! Data: samples in files, in the forms that the peers' files have.
//!
//! | form | question | answer |
//! |---|---|---|
//! | `{"question", "answer", …}` | `question` | `answer` |
//! | `{"messages": [{"role", "content"}, …], …}` | last user turn | last assistant turn |
//! | `{"prompt", "completion", …}` | `prompt` | `completion` |
//! | `{"prompt": [{"role", "content"}, …], "completion": [{"role", "content"}], …}` | last user turn | last assistant turn |
//! | `{"conversations": [{"from", "value"}, …], …}` (ShareGPT) | last turn of `human` | last turn of `gpt` |
//! | `{"instruction", "input", "output", …}` (Alpaca) | `instruction`, and on a line of its own `input` | `output` |
//! | `{"prompt_ids": {"planner": […], …}, "target_ids": […], …}` | token ids per role | token ids |
//!
//! Beside these, `trajectories` (`trajectory_ids` in the last form) may hold, by role, what upstream agents should write if they wrote
//! text. Numbers are taken as texts. A `content` may be a list of parts of the type `text`, and be null beside `tool_calls`.
//!
//! A line with a list `questions` holds several samples, for which upstream agents compute their messages once. Each is an object with the
//! fields of a form without turns and any others; these stand over the line's. `prompt_ids` of upstream agents stay on the line.
//!
//! Turns of a conversation before the last user turn, whoever speaks in them, are what the agents see as the conversation so far; so are calls
//! of tools and what these returned, between question and answer. Templates see all turns as `messages`, whatever the form.

mod conversation;
mod forms;
mod ids;
mod kind;
mod lines;
mod questions;
mod rows;
mod source;

use std::fs::File;
use std::io::Read;
use std::path::Path;

use serde_json::{Map, Value};

pub(crate) use conversation::around_question;
pub use forms::Sample;
pub use ids::SampleIds;
pub use kind::Answers;
pub use source::DataSource;

use crate::error::{Error, Result};

/// Most samples of a file: all of them are in memory, and a pipe could bring more and more.
const MOST_SAMPLES: usize = 10_000_000;

/// The samples of `source`: JSON objects, one a line, or the rows of Parquet files. Blank lines are skipped; lines and rows are counted through all
/// files.
///
/// # Errors
/// Names file, line and field: malformed JSON, a line that has none of the forms or fields of several, a
/// field of the wrong type, an empty question, answer, prompt or target, a token id that is no unsigned
/// 32-bit integer, no or too many `questions`; and a file without samples.
pub fn read_samples(source: &DataSource, answers: Answers) -> Result<Vec<Sample>> {
    let name = source.name.as_path();
    let (mut samples, mut lines) = (Vec::new(), 0);
    let mut take = |line, bytes, mut fields: Map<String, Value>| {
        match fields.remove("questions") {
            Some(all) => samples.extend(questions::samples(line, &fields, all, bytes, answers)?),
            None => samples.push(forms::sample(line, 1, fields, answers)?),
        }
        if samples.len() > MOST_SAMPLES {
            return Err(format!("the file has more than {MOST_SAMPLES} samples; split it"));
        }
        lines += 1;
        Ok(source.limit.is_none_or(|limit| lines < limit.get()))
    };
    let mut before = 0;
    for file in &source.files {
        let count = match is_parquet(name, file)? {
            true => rows::for_each(name, file, before, &mut take)?,
            false => lines::for_each(name, file, before, &mut take)?,
        };
        match count {
            Some(count) => before += count,
            None => break,
        }
    }
    if samples.is_empty() {
        return Err(Error::file(name, "the file holds no samples; expected one JSON object a line"));
    }
    Ok(samples)
}

/// Whether `file` is a file, and a Parquet file; errors call it `path`. Pipes are not looked into, which would lose what they begin with.
fn is_parquet(path: &Path, file: &Path) -> Result<bool> {
    if !file.is_file() {
        return Ok(false);
    }
    let mut start = [0; 4];
    let mut file =
        File::open(file).map_err(|e| Error::file(path, format!("the file cannot be read: {e}")))?;
    Ok(file.read_exact(&mut start).is_ok() && rows::is_parquet(&start))
}

#[cfg(test)]
mod tests;
