//! Writes the Rust of an encoder from its ONNX file, and which of the file's weights each of its parameters is.
//!
//! `diffmas-encoders-generate ENCODER.onnx FOLDER` writes `FOLDER/model.rs`, generic over Burn's backends, and `FOLDER/weights.rs`.

// The same reader as at run time; a part of it is used.
#[path = "../../src/onnx.rs"]
#[allow(dead_code)]
mod onnx;

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::Path;
use std::{env, fs};

use burn_onnx::{LoadStrategy, ModelGen};
use burn_store::{BurnpackStore, ModuleStore};

use onnx::{Onnx, Weight};

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

fn main() -> Result<()> {
    let args: Vec<String> = env::args().skip(1).collect();
    let [input, folder] = &args[..] else {
        return Err("usage: diffmas-encoders-generate ENCODER.onnx FOLDER".into());
    };
    let bytes = fs::read(input).map_err(|e| format!("{input}: {e}"))?;
    let model = Onnx::read(&bytes).map_err(|e| format!("{input}: {e}"))?;
    for (name, shape) in model.inputs().map_err(|e| format!("{input}: {e}"))? {
        println!("{name}: {shape:?}");
    }
    // Generated code ends a name there.
    if let Some(name) = model.outputs().find(|name| name.contains('.')) {
        return Err(format!("{input}: the output `{name}` has a dot in its name; rename it").into());
    }
    let scratch = Path::new(folder).join("scratch");
    // Once with its weights, to see which is which, and once without any.
    let stem = generate(input, &scratch, LoadStrategy::File)?;
    let mut store = BurnpackStore::from_file(scratch.join(&stem).with_extension("bpk"));
    let mut parameters = BTreeMap::new();
    for (name, snapshot) in store.get_all_snapshots().map_err(|e| format!("{e:?}"))? {
        let data = snapshot.to_data().map_err(|e| format!("{e:?}"))?;
        let values: Vec<f32> = data.to_vec().map_err(|e| format!("{name}: {e:?}"))?;
        parameters.insert(name.clone(), Weight { shape: data.shape.to_vec(), values });
    }
    fs::write(Path::new(folder).join("weights.rs"), table(&parameters, &model.weights()?)?)?;
    let stem = generate(input, &scratch, LoadStrategy::None)?;
    // Its first line names the file as it was given, and every machine has it elsewhere.
    let code = fs::read_to_string(scratch.join(&stem).with_extension("rs"))?;
    let code = code.replace(&format!("{input:?}"), &format!("`{stem}.onnx`"));
    fs::write(Path::new(folder).join("model.rs"), code)?;
    Ok(fs::remove_dir_all(scratch)?)
}

/// Writes the Rust of `input` into `folder`; returns its name without an extension.
fn generate(input: &str, folder: &Path, strategy: LoadStrategy) -> Result<String> {
    // Simplified, an attention is scaled twice: its outputs are wrong.
    ModelGen::new()
        .input(input)
        .out_dir(folder.to_str().ok_or("a folder whose name is no text")?)
        .simplify(false)
        .partition(false)
        .load_strategy(strategy)
        .run_from_cli();
    Ok(Path::new(input).file_stem().and_then(|stem| stem.to_str()).ok_or("a file without a name")?.into())
}

/// The Rust that says which weight of the file each parameter is: the one with the same numbers, as it is or transposed.
fn table(parameters: &BTreeMap<String, Weight>, weights: &BTreeMap<String, Weight>) -> Result<String> {
    let mut text = String::from(
        "//! Which weight of the ONNX file each parameter is, and whether it is transposed: written by `encoders/generate`.\n\n\
         /// Parameter, weight, and whether that is transposed.\n\
         #[rustfmt::skip]\n\
         pub const WEIGHTS: &[(&str, &str, bool)] = &[\n",
    );
    for (name, parameter) in parameters {
        let same = |transposed: bool| {
            let is = |weight: &&Weight| match transposed {
                false => weight.values == parameter.values,
                true => transpose(weight).is_some_and(|t| t == *parameter),
            };
            weights.iter().find(|(_, weight)| is(weight)).map(|(name, _)| (name, transposed))
        };
        let found = same(false).or_else(|| same(true));
        let (weight, transposed) =
            found.ok_or_else(|| format!("no weight has the numbers of `{name}`, {:?}", parameter.shape))?;
        writeln!(text, "    ({name:?}, {weight:?}, {transposed}),")?;
    }
    Ok(text + "];\n")
}

fn transpose(weight: &Weight) -> Option<Weight> {
    let [rows, columns] = weight.shape[..] else { return None };
    let values = (0..rows * columns).map(|i| weight.values[i % rows * columns + i / rows]).collect();
    Some(Weight { shape: vec![columns, rows], values })
}
