//! Data in rows: Parquet files, as the Hugging Face hub keeps data sets.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::Path;

use parquet::basic::Compression;
use parquet::errors::ParquetError;
use parquet::file::metadata::ParquetMetaData;
use parquet::file::reader::{FileReader, SerializedFileReader};
use serde_json::{Map, Value};

use crate::error::{Error, Result};
use crate::files::{MAX_LINE, open_file};
use crate::guard::guarded;

/// What Parquet files begin and end with.
const MAGIC: &[u8] = b"PAR1";
/// Most bytes of the description at a file's end. A level of its schema takes seven, and is read by a call within another.
const MOST_METADATA: u32 = 4 << 20;
/// Most bytes of all values of a file: a value that stands in it once can be that of every row.
const MOST_BYTES: u64 = 16 << 30;
/// What a value takes beside its text.
const VALUE: u64 = 32;
/// Enough for the deepest schema that so long a description can have; only what is used is taken.
const STACK: usize = 1 << 30;

/// Whether the file that begins with `start` is a Parquet file.
pub(super) fn is_parquet(start: &[u8]) -> bool {
    start.starts_with(MAGIC)
}

/// As [`for_each`](super::lines::for_each), of the rows of a Parquet file, which count as lines.
///
/// # Errors
/// Names file and row: what `each` says; a file that is damaged or too large.
pub(super) fn for_each(
    path: &Path,
    file: &Path,
    before: usize,
    each: &mut (impl FnMut(usize, usize, Map<String, Value>) -> std::result::Result<bool, String> + Send),
) -> Result<Option<usize>> {
    let damaged = |e: String| Error::file(path, format!("the Parquet file cannot be read: {e}"));
    let read = || {
        let outcome = guarded(|| rows(path, file, before, each));
        outcome.unwrap_or_else(|panic| Err(damaged(panic)))
    };
    std::thread::scope(|scope| {
        let worker = std::thread::Builder::new().stack_size(STACK).spawn_scoped(scope, read);
        let worker = worker.map_err(|e| damaged(format!("no thread for it can be started: {e}")))?;
        worker.join().unwrap_or_else(|_| Err(damaged("it gave up without a message".into())))
    })
}

fn rows(
    path: &Path,
    file: &Path,
    before: usize,
    each: &mut impl FnMut(usize, usize, Map<String, Value>) -> std::result::Result<bool, String>,
) -> Result<Option<usize>> {
    let damaged =
        |e: &dyn std::fmt::Display| Error::file(path, format!("the Parquet file cannot be read: {e}"));
    let explained = |e: ParquetError| match e {
        ParquetError::NYI(what) => damaged(&what),
        ParquetError::General(what) | ParquetError::EOF(what) => damaged(&what),
        other => damaged(&other),
    };
    let mut file = open_file(file).map_err(|e| damaged(&e))?;
    check_metadata(&mut file).map_err(|e| damaged(&e))?;
    let reader = SerializedFileReader::new(file).map_err(explained)?;
    check_codecs(reader.metadata()).map_err(|e| damaged(&e))?;
    let (mut count, mut bytes) = (0, 0);
    for row in reader.get_row_iter(None).map_err(explained)? {
        let index = before + count + 1;
        let Value::Object(fields) = row.map_err(explained)?.to_json_value() else {
            return Err(damaged(&"a row is no object"));
        };
        let own: u64 = fields.iter().map(|(name, value)| name.len() as u64 + size(value)).sum();
        bytes += own;
        if own > MAX_LINE || bytes > MOST_BYTES {
            let (what, most) = if own > MAX_LINE { ("the row", MAX_LINE) } else { ("the file", MOST_BYTES) };
            return Err(Error::line(path, index, format!("{what} has more than {} MiB", most >> 20)));
        }
        count += 1;
        if !each(index, own as usize, fields).map_err(|message| Error::line(path, index, message))? {
            return Ok(None);
        }
    }
    Ok(Some(count))
}

/// Refuses a file without an end, or with a description that is no use.
fn check_metadata(file: &mut File) -> std::result::Result<(), String> {
    let mut end = [0; 8];
    let read = file.seek(SeekFrom::End(-8)).and_then(|_| file.read_exact(&mut end));
    let length = u32::from_le_bytes([end[0], end[1], end[2], end[3]]);
    if read.is_err() || &end[4..] != MAGIC {
        return Err("it has no end; it was perhaps not copied whole".into());
    }
    if length > MOST_METADATA {
        return Err(format!("its description has more than {} MiB", MOST_METADATA >> 20));
    }
    Ok(())
}

/// Refuses columns that nothing here unpacks. What is unpacked is bounded: a page says how long it becomes, at most 2 GiB.
fn check_codecs(metadata: &ParquetMetaData) -> std::result::Result<(), String> {
    let columns = metadata.row_groups().iter().flat_map(|group| group.columns());
    let mut codecs = columns.map(|column| column.compression());
    let known = |codec: &Compression| {
        matches!(codec, Compression::UNCOMPRESSED | Compression::SNAPPY | Compression::ZSTD(_))
    };
    match codecs.find(|codec| !known(codec)) {
        Some(codec) => {
            let codec = codec.to_string();
            let name = codec.split('(').next().unwrap_or_default();
            Err(format!("its columns are compressed with {name}; write it with snappy or zstd"))
        }
        None => Ok(()),
    }
}

/// About how many bytes `value` takes.
fn size(value: &Value) -> u64 {
    VALUE
        + match value {
            Value::String(text) => text.len() as u64,
            Value::Array(items) => items.iter().map(size).sum(),
            Value::Object(fields) => fields.iter().map(|(name, value)| name.len() as u64 + size(value)).sum(),
            _ => 0,
        }
}
