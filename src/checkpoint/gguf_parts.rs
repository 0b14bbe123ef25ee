//! The files of a GGUF model, which may be split over several: `NAME-00001-of-00003.gguf` and so on.

use std::io::BufReader;
use std::path::{Path, PathBuf};

use candle_core::quantized::gguf_file::{Content, Value};

use super::candle_message;
use crate::error::{Error, Result};
use crate::files::PositionedFile;
use crate::guard::guarded;

const COUNT: &str = "split.count";
const NUMBER: &str = "split.no";
const TENSORS: &str = "split.tensors.count";

/// One file with its metadata and its table of tensors.
pub(super) struct GgufPart {
    pub file: PositionedFile,
    pub content: Content,
}

impl GgufPart {
    fn open(path: &Path) -> Result<Self> {
        let file = PositionedFile::open(path)?;
        let content = read_content(&file).map_err(|message| Error::file(path, message))?;
        Ok(Self { file, content })
    }

    fn number(&self, key: &str) -> Option<usize> {
        self.content.metadata.get(key).and_then(whole)
    }
}

/// Opens the file at `path`, and with it those that the model goes on in.
///
/// # Errors
/// When one is no complete GGUF file or missing, the first is not the model's first, or they do not belong together.
pub(super) fn open_parts(path: &Path) -> Result<Vec<GgufPart>> {
    let first = GgufPart::open(path)?;
    let count = first.number(COUNT).unwrap_or(1);
    if count <= 1 {
        return Ok(vec![first]);
    }
    let error = |message: String| Error::file(path, message);
    let at = first.number(NUMBER).ok_or_else(|| error(format!("the field `{NUMBER}` is missing")))?;
    let stem = path
        .file_name()
        .and_then(|name| name.to_str())
        .and_then(|name| name.strip_suffix(&format!("-{:05}-of-{count:05}.gguf", at.checked_add(1)?)));
    let Some(stem) = stem else {
        return Err(error(format!(
            "the file is one of {count} (`{COUNT}`), but is not called NAME-{:05}-of-{count:05}.gguf, by which the others are found",
            at.saturating_add(1)
        )));
    };
    let part =
        |at: usize| -> PathBuf { path.with_file_name(format!("{stem}-{:05}-of-{count:05}.gguf", at + 1)) };
    if at > 0 {
        return Err(error(format!(
            "this is part {} of {count}; give the first, {}",
            at + 1,
            part(0).display()
        )));
    }
    let mut parts = vec![first];
    for at in 1..count {
        let path = part(at);
        if !path.exists() {
            return Err(Error::file(path, format!("part {} of {count} of the model is missing", at + 1)));
        }
        let next = GgufPart::open(&path)?;
        for (key, expected) in [(NUMBER, at), (COUNT, count)] {
            let found = next.number(key);
            if found != Some(expected) {
                let found = found.map_or("no number".into(), |found| found.to_string());
                return Err(Error::file(path, format!("the field `{key}` is {found}, not {expected}")));
            }
        }
        parts.push(next);
    }
    let found: usize = parts.iter().map(|part| part.content.tensor_infos.len()).sum();
    match parts[0].number(TENSORS).filter(|expected| *expected != found) {
        Some(expected) => Err(error(format!(
            "the field `{TENSORS}` is {expected}, but the {count} parts hold {found} tensors"
        ))),
        None => Ok(parts),
    }
}

/// A number in the metadata that is not negative, of any integer type.
pub fn whole(value: &Value) -> Option<usize> {
    let number = match *value {
        Value::I8(number) => number.try_into().ok()?,
        Value::I16(number) => number.try_into().ok()?,
        Value::I32(number) => number.try_into().ok()?,
        Value::I64(number) => number.try_into().ok()?,
        Value::Bool(_) => return None,
        ref other => other.to_u64().ok()?,
    };
    usize::try_from(number).ok()
}

/// Reads the metadata and the table of tensors; the error is a message without the file.
fn read_content(file: &PositionedFile) -> std::result::Result<Content, String> {
    let unreadable = |why: String| format!("this is no GGUF file that can be read: {why}");
    match guarded(|| Content::read(&mut BufReader::new(file.file()))) {
        Ok(content) => content.map_err(|error| unreadable(candle_message(&error))),
        // The alignment is all that candle divides by.
        Err(panic) if panic.contains("divisor of zero") || panic.contains("divide by zero") => {
            Err("the field `general.alignment` is 0".into())
        }
        Err(panic) => Err(unreadable(panic)),
    }
}

#[cfg(test)]
mod tests {
    use super::super::GgufWeights;
    use super::super::weights::Weights;
    use candle_core::quantized::gguf_file::{self, Value};
    use candle_core::quantized::{GgmlDType, QTensor};
    use candle_core::{Device, Tensor};
    use std::fs;
    use std::path::Path;

    /// A part with one tensor that holds its own number.
    fn write(path: &Path, at: u16, count: u16, tensor: &str) {
        let metadata = [
            ("general.architecture", Value::String("llama".into())),
            ("split.no", Value::U16(at)),
            ("split.count", Value::U16(count)),
            ("split.tensors.count", Value::I32(2)),
        ];
        let metadata: Vec<_> = metadata.iter().map(|(name, value)| (*name, value)).collect();
        let values = Tensor::from_slice(&[f32::from(at)], 1, &Device::Cpu).unwrap();
        let values = QTensor::quantize(&values, GgmlDType::F32).unwrap();
        gguf_file::write(&mut fs::File::create(path).unwrap(), &metadata, &[(tensor, &values)]).unwrap();
    }

    #[test]
    fn the_tensors_of_all_parts_are_one_model() {
        let dir = tempfile::tempdir().unwrap();
        let [one, two] = [1, 2].map(|at| dir.path().join(format!("m-0000{at}-of-00002.gguf")));
        write(&one, 0, 2, "output_norm.weight");
        write(&two, 1, 2, "blk.0.ffn_norm.weight");
        let weights = GgufWeights::open(&one).unwrap();
        let names = ["model.layers.0.post_attention_layernorm.weight", "model.norm.weight"];
        assert_eq!(weights.names(), names);
        assert_eq!(names.map(|name| weights.read_f32(name).unwrap()), [vec![1.0], vec![0.0]]);
        assert_eq!((weights.files(), weights.file(names[0])), (vec![one.as_path(), &two], two.as_path()));
    }

    #[test]
    fn parts_that_are_missing_or_do_not_fit_are_named() {
        let dir = tempfile::tempdir().unwrap();
        let [one, two] = [1, 2].map(|at| dir.path().join(format!("m-0000{at}-of-00002.gguf")));
        let error = |path: &Path| GgufWeights::open(path).err().unwrap().to_string();
        write(&one, 0, 2, "output_norm.weight");
        let message = error(&one);
        assert!(message.contains("m-00002-of-00002.gguf: part 2 of 2 of the model is missing"), "{message}");
        write(&two, 1, 2, "output_norm.weight");
        assert!(error(&one).contains("`output_norm.weight` is also in"), "{}", error(&one));
        assert!(error(&two).contains("this is part 2 of 2; give the first"), "{}", error(&two));
        write(&two, 1, 3, "output.weight");
        assert!(error(&one).contains("the field `split.count` is 3, not 2"), "{}", error(&one));
        write(&two, 0, 2, "output.weight");
        assert!(error(&one).contains("the field `split.no` is 0, not 1"), "{}", error(&one));
        let other = dir.path().join("other.gguf");
        write(&other, 0, 2, "output.weight");
        assert!(error(&other).contains("is not called NAME-00001-of-00002.gguf"), "{}", error(&other));
    }
}
