//! `diffmas models`

use diffmas::Result;
use diffmas::checkpoint::hub::{CachedModel, KNOWN_MODELS, KnownModel, cached_models};
use indicatif::DecimalBytes;

use super::output;

/// Lists the models in the caches and the known ones.
pub fn execute() -> Result<()> {
    let cached = cached_models()?;
    let nothing = if cached.is_empty() { "  nothing yet\n" } else { "" };
    output::print(&format!(
        "Cached:\n{nothing}{}\n\
         Models of the supported families (Llama, Qwen2, Qwen3), fetched at their first use:\n{}\n\
         Any other repository of these families: ORG/NAME, ORG/NAME@REVISION, ORG/NAME:FILE.gguf, as --model of any \
         command or for `diffmas fetch`.",
        table(cached.iter().map(cached_row).collect()),
        table(KNOWN_MODELS.iter().map(known_row).collect()),
    ))
}

fn cached_row(model: &CachedModel) -> [String; 4] {
    let state = if model.partial { "incomplete" } else { "" };
    let size = DecimalBytes(model.bytes).to_string();
    [model.name.clone(), size, state.into(), model.path.display().to_string()]
}

fn known_row(model: &KnownModel) -> [String; 4] {
    let gate = if model.gated { ", to be accepted on the hub first (HF_TOKEN)" } else { "" };
    let size = format!("about {:.1} GB", model.bytes as f64 / 1e9);
    [model.name.into(), size, model.hub_id.into(), format!("{}{gate}", model.licence)]
}

/// Rows with aligned columns.
fn table(rows: Vec<[String; 4]>) -> String {
    let width = |column: usize| rows.iter().map(|row| row[column].len()).max().unwrap_or(0);
    let [a, b, c] = [0, 1, 2].map(width);
    rows.iter().map(|row| format!("  {:<a$}  {:>b$}  {:<c$}  {}\n", row[0], row[1], row[2], row[3])).collect()
}
