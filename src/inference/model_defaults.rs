//! What a model says of how its answers are drawn: its `generation_config.json`.

use std::path::Path;

use serde_json::Value;

use super::GenerationConfig;
use crate::error::{Error, Result};
use crate::files::Fields;
use crate::settings::{Layer, Merged};

/// The file beside a model's weights.
pub const GENERATION_CONFIG: &str = "generation_config.json";

/// What the `generation_config.json` of the model at `model` sets of [`GenerationConfig`]; nothing where there is none, as beside a GGUF file.
///
/// `do_sample: false` is `greedy`. With `do_sample: true`, what the file does not say of temperature, `top_k` and `top_p` is what
/// `transformers` takes then: 1, 50 and 1. Without `do_sample`, only what the file says counts.
///
/// # Errors
/// When the file cannot be read, or a value is of another type or out of its range; names file and field.
pub fn model_defaults(model: &Path) -> Result<Layer> {
    let path = model.join(GENERATION_CONFIG);
    if !path.exists() {
        return Ok(Layer::default());
    }
    let fields = Fields::read(&path)?;
    let mut layer = Layer::default();
    let mut set = |name: &str, value: Option<Value>| {
        layer.values.extend(value.map(|value| (name.to_string(), value)));
    };
    let do_sample: Option<bool> = fields.get("do_sample")?;
    if do_sample == Some(false) {
        set("greedy", Some(true.into()));
    } else {
        let draws = do_sample == Some(true);
        let number = |name: &str, otherwise: f64| {
            Ok::<_, Error>(fields.get::<f64>(name)?.or(draws.then_some(otherwise)).map(Value::from))
        };
        set("temperature", number("temperature", 1.0)?);
        set("top_p", number("top_p", 1.0)?);
        let top_k = fields.get::<i64>("top_k")?.or(draws.then_some(50));
        set("top_k", top_k.map(|k| k.max(0).into()));
        set("min_p", fields.get::<f64>("min_p")?.map(Value::from));
    }
    set("repetition_penalty", fields.get::<f64>("repetition_penalty")?.map(Value::from));
    set("max_new_tokens", fields.get::<u64>("max_new_tokens")?.map(Value::from));
    let config: GenerationConfig = Merged::new([layer.clone()], &[])?.get()?;
    config.validate().map_err(|e| Error::file(&path, e.to_string().replace("--", "")))?;
    Ok(layer)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn of(config: Value) -> std::result::Result<Value, String> {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join(GENERATION_CONFIG), config.to_string()).unwrap();
        model_defaults(dir.path()).map(|layer| layer.values.into()).map_err(|e| e.to_string())
    }

    #[test]
    fn what_the_file_says_are_the_defaults_of_transformers() {
        for (config, expected) in [
            (json!({"eos_token_id": 2, "_from_model_config": true}), json!({})),
            (json!({"do_sample": false, "temperature": 0.6}), json!({"greedy": true})),
            (json!({"do_sample": true}), json!({"temperature": 1.0, "top_p": 1.0, "top_k": 50})),
            (
                json!({"do_sample": true, "temperature": 0.7, "top_k": 20, "top_p": 0.8, "repetition_penalty": 1.05, "max_new_tokens": 9}),
                json!({"temperature": 0.7, "top_p": 0.8, "top_k": 20, "repetition_penalty": 1.05, "max_new_tokens": 9}),
            ),
            (
                json!({"temperature": 0.0, "top_k": -1, "min_p": 0.1}),
                json!({"temperature": 0.0, "top_k": 0, "min_p": 0.1}),
            ),
        ] {
            assert_eq!(of(config.clone()).unwrap(), expected, "{config}");
        }
        assert!(model_defaults(Path::new("/no/such")).unwrap().values.is_empty());
    }

    #[test]
    fn wrong_values_name_file_and_field() {
        for (config, sentence) in [
            (json!({"temperature": "warm"}), "the field `temperature` has a value that cannot be used"),
            (json!({"do_sample": true, "top_p": 1.5}), "top-p must be above 0 and at most 1"),
            (json!({"temperature": -1}), "temperature must be"),
            (json!({"max_new_tokens": -1}), "the field `max_new_tokens` has a value"),
        ] {
            let error = of(config).unwrap_err();
            assert!(error.contains(&format!("generation_config.json: {sentence}")), "{error}");
        }
    }
}
