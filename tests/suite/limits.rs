//! What a device cannot hold is refused before it is read, with the sizes.

use std::fs::File;
use std::io::Write;
use std::path::Path;

use diffmas::backbone::{Backbone, ModelFiles, Precision};
use diffmas::backends::{Job, ModelBackend};
use serde_json::{Map, json};

use crate::common::{folder, json as reference, on_backend};

/// Values of a row of the embedding.
const WIDTH: usize = 64;

/// Writes `tiny-llama` with `vocab` words into `dir`. Its weights have the right size and are holes, of which nothing can be loaded.
fn write_model(dir: &Path, vocab: usize) {
    let mut config = reference("tiny-llama", "model/config.json");
    config["vocab_size"] = json!(vocab);
    std::fs::write(dir.join("config.json"), config.to_string()).unwrap();
    let original = std::fs::read(folder("tiny-llama").join("model/model.safetensors")).unwrap();
    let length = u64::from_le_bytes(original[..8].try_into().unwrap()) as usize;
    let mut header: Map<String, serde_json::Value> =
        serde_json::from_slice(&original[8..8 + length]).unwrap();
    let mut end = 0;
    for (name, tensor) in header.iter_mut().filter(|(name, _)| *name != "__metadata__") {
        if name == "model.embed_tokens.weight" {
            tensor["shape"] = json!([vocab, WIDTH]);
        }
        let values: usize =
            tensor["shape"].as_array().unwrap().iter().map(|n| n.as_u64().unwrap() as usize).product();
        tensor["data_offsets"] = json!([end, end + 4 * values]);
        end += 4 * values;
    }
    let mut header = serde_json::to_vec(&header).unwrap();
    header.resize(header.len().next_multiple_of(8), b' ');
    let mut file = File::create(dir.join("model.safetensors")).unwrap();
    file.write_all(&(header.len() as u64).to_le_bytes()).unwrap();
    file.write_all(&header).unwrap();
    file.set_len((8 + header.len() + end) as u64).unwrap();
}

struct TooLarge;

impl Job for TooLarge {
    type Output = ();

    fn run<B: ModelBackend>(self, device: B::Device) {
        let Some(limit) = B::largest_tensor(&device) else { return };
        let dir = tempfile::tempdir().unwrap();
        let rows = limit as usize / (4 * WIDTH) + 1;
        if u32::try_from(rows).is_err() {
            eprintln!("SKIPPED: this device holds tensors of {limit} bytes");
            return;
        }
        write_model(dir.path(), rows);
        let files = ModelFiles::open(dir.path()).unwrap();
        let error =
            files.load::<B>(&device, Precision::default()).map(|_: Backbone<B>| ()).unwrap_err().to_string();
        let named = format!("`model.embed_tokens.weight` [{rows}, {WIDTH}] needs a tensor of");
        assert!(error.starts_with(&named) && error.contains("--backend flex"), "{error}");
    }
}

#[test]
fn a_matrix_that_the_device_cannot_hold_is_refused_before_it_is_read() {
    on_backend(TooLarge);
}
