//! TensorBoard event files: curves that `tensorboard --logdir` draws while a run goes on.
//!
//! A file is a sequence of TFRecords, each holding one `Event`. Field numbers are those of TensorFlow's `event.proto` and
//! `summary.proto`; only what scalars need is declared.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use prost::{Message, Oneof};

use super::{EvalMetrics, StepMetrics};
use crate::error::{Error, Result};

/// What TensorBoard wants to find in the first event.
const FILE_VERSION: &str = "brain.Event:2";

/// `SessionLog.SessionStatus.START`.
const START: i32 = 1;

#[derive(Clone, PartialEq, Message)]
struct Event {
    #[prost(double, tag = "1")]
    wall_time: f64,
    #[prost(int64, tag = "2")]
    step: i64,
    #[prost(oneof = "What", tags = "3, 5, 7")]
    what: Option<What>,
}

#[derive(Clone, PartialEq, Oneof)]
enum What {
    #[prost(string, tag = "3")]
    FileVersion(String),
    #[prost(message, tag = "5")]
    Summary(Summary),
    #[prost(message, tag = "7")]
    SessionLog(SessionLog),
}

#[derive(Clone, PartialEq, Message)]
struct Summary {
    #[prost(message, repeated, tag = "1")]
    value: Vec<Scalar>,
}

#[derive(Clone, PartialEq, Message)]
struct Scalar {
    #[prost(string, tag = "1")]
    tag: String,
    /// Optional, so that a value of 0 is written too.
    #[prost(float, optional, tag = "2")]
    simple_value: Option<f32>,
}

#[derive(Clone, PartialEq, Message)]
struct SessionLog {
    #[prost(int32, tag = "1")]
    status: i32,
}

/// An event file that grows by one record a step.
///
/// Tags are those of Hugging Face's trainer where it has them: `train/loss`, `train/learning_rate`, `train/grad_norm`, `eval/loss`;
/// besides them `train/tokens_per_second` and `trace_grad_norm/{role}`. Values that are not finite are left out.
#[derive(Debug)]
pub struct EventFile {
    path: PathBuf,
    file: File,
}

impl EventFile {
    /// Starts `events.out.tfevents.{unix time}.{host}` in `dir` for a session that goes on after update `done`.
    ///
    /// Earlier sessions keep their files: TensorBoard joins them to one curve, and drops what they logged after `done`.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn create(dir: &Path, done: usize) -> Result<Self> {
        let (path, file) = new_file(dir)?;
        let mut events = Self { path, file };
        events.write(0, What::FileVersion(FILE_VERSION.into()))?;
        // What stands at this step or later in earlier files is dropped; a score of the untrained team stands at step 0.
        let first = if done == 0 { 0 } else { done + 1 };
        events.write(first, What::SessionLog(SessionLog { status: START }))?;
        Ok(events)
    }

    /// Adds what an update reports.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn step(&mut self, metrics: &StepMetrics) -> Result<()> {
        let mut scalars = vec![
            ("train/loss".to_string(), metrics.loss),
            ("train/learning_rate".into(), Some(metrics.learning_rate)),
            ("train/grad_norm".into(), metrics.grad_norm),
            ("train/clip_factor".into(), Some(metrics.clip_factor)),
            ("train/tokens_per_second".into(), Some(metrics.tokens_per_second)),
            ("train/trajectory_loss".into(), metrics.trajectory_loss),
            ("train/distillation_loss".into(), metrics.distillation_loss),
            ("train/competence".into(), metrics.competence),
            ("train/dropped_senders".into(), metrics.dropped_senders.map(|n| n as f64)),
            ("train/dropped_positions".into(), metrics.dropped_positions.map(|n| n as f64)),
        ];
        let norms = metrics.trace_grad_norm.iter();
        scalars.extend(norms.map(|(role, &norm)| (format!("trace_grad_norm/{role}"), Some(norm))));
        self.scalars(metrics.step, scalars)
    }

    /// Adds a score of held-out data.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn score(&mut self, metrics: &EvalMetrics) -> Result<()> {
        let scalars =
            vec![("eval/loss".into(), metrics.eval_loss), ("eval/accuracy".into(), metrics.eval_accuracy)];
        self.scalars(metrics.step, scalars)
    }

    fn scalars(&mut self, step: usize, values: Vec<(String, Option<f64>)>) -> Result<()> {
        let value: Vec<Scalar> = values
            .into_iter()
            .filter_map(|(tag, x)| Some((tag, x.filter(|x| x.is_finite())?)))
            .map(|(tag, x)| Scalar { tag, simple_value: Some(x as f32) })
            .collect();
        if value.is_empty() {
            return Ok(());
        }
        self.write(step, What::Summary(Summary { value }))
    }

    fn write(&mut self, step: usize, what: What) -> Result<()> {
        let event = Event { wall_time: now().as_secs_f64(), step: step as i64, what: Some(what) };
        // One write a record: a reader meets whole records, whenever it looks.
        self.file.write_all(&record(&event.encode_to_vec())).map_err(|e| failed(&self.path, &e))
    }
}

/// A new file under the present second, or the next one that no other session has taken.
fn new_file(dir: &Path) -> Result<(PathBuf, File)> {
    let host = host();
    let mut second = now().as_secs();
    loop {
        let path = dir.join(format!("events.out.tfevents.{second:010}.{host}"));
        match OpenOptions::new().write(true).create_new(true).open(&path) {
            Ok(file) => return Ok((path, file)),
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => second += 1,
            Err(e) => return Err(failed(&path, &e)),
        }
    }
}

fn failed(path: &Path, error: &io::Error) -> Error {
    Error::file(path, format!("the TensorBoard events cannot be written: {error}"))
}

fn now() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

/// The machine's name, where the system tells it without a library.
fn host() -> String {
    fs::read_to_string("/proc/sys/kernel/hostname")
        .or_else(|_| std::env::var("COMPUTERNAME").or_else(|_| std::env::var("HOSTNAME")))
        .ok()
        .map(|name| name.trim().to_string())
        .filter(|name| !name.is_empty() && !name.contains(['/', '\\']))
        .unwrap_or_else(|| "localhost".into())
}

/// `data` as a TFRecord: length, its checksum, data, its checksum.
fn record(data: &[u8]) -> Vec<u8> {
    let length = (data.len() as u64).to_le_bytes();
    [&length[..], &masked_crc(&length), data, &masked_crc(data)].concat()
}

/// CRC-32C, rotated and shifted so that checksums may themselves be part of data with a checksum.
fn masked_crc(data: &[u8]) -> [u8; 4] {
    crc32c::crc32c(data).rotate_right(15).wrapping_add(0xA282_EAD8).to_le_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    /// The events of every file in `dir`, in the order of the names, with both checksums of each record checked.
    fn read(dir: &Path) -> Vec<Event> {
        let mut paths: Vec<PathBuf> = fs::read_dir(dir).unwrap().map(|e| e.unwrap().path()).collect();
        paths.sort();
        let mut events = Vec::new();
        for path in paths {
            let bytes = fs::read(path).unwrap();
            let mut rest = &bytes[..];
            while let Some((length, after)) = rest.split_first_chunk::<8>() {
                let n = u64::from_le_bytes(*length) as usize;
                assert_eq!(after[..4], masked_crc(length));
                assert_eq!(after[4 + n..8 + n], masked_crc(&after[4..4 + n]));
                events.push(Event::decode(&after[4..4 + n]).unwrap());
                rest = &after[8 + n..];
            }
            assert!(rest.is_empty());
        }
        events
    }

    fn metrics(step: usize) -> StepMetrics {
        StepMetrics {
            step,
            phase: None,
            trajectory_loss: None,
            distillation_loss: None,
            clip_factor: 1.0,
            competence: None,
            dropped_senders: None,
            dropped_positions: None,
            loss: Some(2.5),
            learning_rate: 0.0,
            grad_norm: None,
            trace_grad_norm: BTreeMap::from([("planner".into(), 0.25)]),
            tokens_per_second: 100.0,
            step_seconds: 1.0,
            peak_memory_bytes: None,
            peak_device_memory_bytes: None,
            skipped: false,
        }
    }

    #[test]
    fn a_file_starts_with_the_bytes_that_every_event_file_starts_with() {
        let dir = tempfile::tempdir().unwrap();
        let events = EventFile::create(dir.path(), 0).unwrap();
        let name = events.path.file_name().unwrap().to_str().unwrap();
        assert!(name.starts_with("events.out.tfevents.") && name.ends_with(&host()), "{name}");
        // Length 24 and its checksum, as TensorFlow writes them.
        let start = [0x18, 0, 0, 0, 0, 0, 0, 0, 0xA3, 0x7F, 0x4B, 0x22];
        assert_eq!(fs::read(&events.path).unwrap()[..12], start);
    }

    #[test]
    fn scalars_are_read_back_with_zeros_and_without_what_is_not_finite() {
        let dir = tempfile::tempdir().unwrap();
        let mut events = EventFile::create(dir.path(), 0).unwrap();
        events.step(&metrics(3)).unwrap();
        events.score(&EvalMetrics { step: 3, eval_loss: None, eval_accuracy: None }).unwrap();
        let read = read(dir.path());
        assert_eq!(read[0].what, Some(What::FileVersion("brain.Event:2".into())));
        assert_eq!((read[2].step, read.len()), (3, 3));
        let scalars = |event: &Event| match &event.what {
            Some(What::Summary(s)) => s.value.iter().map(|v| (v.tag.clone(), v.simple_value)).collect(),
            _ => Vec::new(),
        };
        let want = [
            ("train/loss", 2.5),
            ("train/learning_rate", 0.0),
            ("train/clip_factor", 1.0),
            ("train/tokens_per_second", 100.0),
            ("trace_grad_norm/planner", 0.25),
        ];
        assert_eq!(scalars(&read[2]), want.map(|(tag, x)| (tag.to_string(), Some(x))));
    }

    #[test]
    fn a_resumed_session_gets_a_file_of_its_own_that_starts_after_the_checkpoint() {
        let dir = tempfile::tempdir().unwrap();
        EventFile::create(dir.path(), 0).unwrap();
        EventFile::create(dir.path(), 2).unwrap();
        let starts: Vec<i64> = read(dir.path())
            .iter()
            .filter(|e| e.what == Some(What::SessionLog(SessionLog { status: START })))
            .map(|e| e.step)
            .collect();
        assert_eq!(starts, [0, 3]);
    }
}
