//! The page: what its template is filled with.

use std::path::Path;

use minijinja::Environment;
use serde::Serialize;

use super::charts;
use super::equalities::{Equalities, equalities};
use super::folder::Report;
use super::inside::{AttentionMaps, Example, Lens, attention, example, lens};
use super::learning::{Training, training};
use super::results::{Results, compared, scored};
use crate::error::{Error, Result};
use crate::files::write_atomic;

/// Everything that the template shows.
#[derive(Serialize)]
struct Page<'a> {
    verdict: String,
    warning: bool,
    name: String,
    sources: String,
    version: &'static str,
    inks: Vec<(String, String)>,
    results: Vec<Results>,
    equalities: Option<Equalities>,
    training: Option<Training>,
    attention: Option<AttentionMaps>,
    lens: Vec<Lens>,
    example: Option<Example<'a>>,
    config: Option<&'a str>,
}

impl Report {
    /// The page.
    ///
    /// # Errors
    /// If a chart cannot be drawn.
    pub fn render(&self) -> Result<String> {
        let verdict = self.verdict();
        let mut results = Vec::new();
        results.extend(self.comparison.as_ref().filter(|c| !c.rows.is_empty()).map(compared).transpose()?);
        if !self.evaluations.is_empty() {
            results.push(scored(&self.evaluations)?);
        }
        let inspection = self.inspection.as_ref();
        let page = Page {
            // A number and its unit stay on one line.
            verdict: verdict.sentence.replace(" %", "\u{a0}%"),
            warning: verdict.warning,
            name: self.name(),
            sources: self.sources.iter().map(|s| s.display().to_string()).collect::<Vec<_>>().join(", "),
            version: env!("CARGO_PKG_VERSION"),
            inks: charts::inks(),
            results,
            equalities: self.comparison.as_ref().and_then(equalities),
            training: Some(&self.curves).filter(|c| !c.is_empty()).map(training).transpose()?,
            attention: inspection.filter(|i| !i.attention.is_empty()).map(attention).transpose()?,
            lens: inspection.map_or(Vec::new(), lens),
            example: inspection.map(example),
            config: self.config.as_deref(),
        };
        let mut environment = Environment::new();
        environment.set_trim_blocks(true);
        environment.set_lstrip_blocks(true);
        environment.set_undefined_behavior(minijinja::UndefinedBehavior::Strict);
        // The name's ending makes the template escape what it is filled with.
        let rendered = environment
            .add_template("page.html", include_str!("page.html"))
            .and_then(|()| environment.get_template("page.html")?.render(&page))
            .map_err(|e| Error::invalid(format!("the page cannot be made: {e:#}")))?;
        Ok(rendered.replace(|c| !is_text(c), "\u{fffd}"))
    }

    /// Writes the page to `path`, in place of what is there.
    ///
    /// # Errors
    /// If a chart cannot be drawn or the file not be written.
    pub fn write(&self, path: &Path) -> Result<()> {
        write_atomic(path, self.render()?.as_bytes())
    }
}

/// Whether a page may hold the character: tokens can be control characters.
fn is_text(c: char) -> bool {
    matches!(c, '\n' | '\t') || !(c.is_control() || matches!(c, '\u{fffe}' | '\u{ffff}'))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use serde_json::json;

    use super::super::figure::MAX_POINTS;
    use super::*;

    const HOSTILE: &str = "<script>alert(\"1\")</script>'&\u{8}";

    /// A folder with these files.
    fn folder(files: &[(&str, String)]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        files.iter().for_each(|(name, text)| fs::write(dir.path().join(name), text).unwrap());
        dir
    }

    /// The page of a folder, which must be well-formed.
    fn page(dir: &Path) -> String {
        let html = Report::read(dir).unwrap().render().unwrap();
        let options = roxmltree::ParsingOptions { allow_dtd: true, ..Default::default() };
        roxmltree::Document::parse_with_options(&html, options).unwrap();
        html
    }

    fn has(html: &str, section: &str) -> bool {
        html.contains(&format!("<section class=\"{section}\">"))
    }

    fn metrics(updates: usize) -> String {
        let line = |i: usize| {
            let norms = json!({"a": 0.1, HOSTILE: 0.2});
            json!({"step": i, "phase": HOSTILE, "loss": 1.0 / i as f64, "trajectory_loss": 0.1, "learning_rate": i, "grad_norm": null,
                "clip_factor": null, "trace_grad_norm": norms, "tokens_per_second": 1.0, "step_seconds": 0.5, "skipped": true})
        };
        (1..=updates).map(|i| format!("{}\n", line(i))).collect()
    }

    fn comparison() -> String {
        let method = |part: &str, right: f64| {
            json!({"name": format!("{HOSTILE} {part}"), "part": part, "message_bytes": 10.5, "seconds": 0.1, "forward_positions": 20.0,
                "accuracy": {"accuracy": right, "interval": [right - 0.05, right + 0.05], "checked": 60}})
        };
        let rows =
            [method("bound", 1.0), method("baseline", 0.5), method("trained", 0.9), method("control", 0.25)];
        json!({"title": HOSTILE, "guessing": 0.25, "rows": rows}).to_string()
    }

    fn inspection() -> String {
        let agents = [HOSTILE, "b", "c"];
        let attention = |j: usize, weights: &[Option<f64>]| {
            let weights = [weights, weights];
            json!({"reader": agents[j], "senders": &agents[..j], "layers": [0, 3], "weights": weights})
        };
        let tokens =
            [json!({"token": HOSTILE, "probability": 0.75}), json!({"token": " x\n", "probability": null})];
        let example = json!({"line": 4, "prompts": [HOSTILE, "p", "q"], "written": [HOSTILE], "message_bytes": [2048, 100],
            "expected": HOSTILE, "answered": HOSTILE, "is_correct": false});
        json!({"agents": agents, "samples": 1, "attention": [attention(1, &[Some(0.5)]), attention(2, &[Some(0.034), None])],
            "latents": [{"sender": HOSTILE, "positions": [tokens, []]}], "example": example})
        .to_string()
    }

    #[test]
    fn each_file_brings_its_sections_and_no_other() {
        let all = ["results", "equalities", "training", "attention", "lens", "example", "settings"];
        let results = json!({"control": "real", "loss": null, "perplexity": null, "samples": 2, "target_tokens": 4, "message_bytes": 0});
        for (file, text, sections) in [
            ("metrics.jsonl", metrics(3), &["training"][..]),
            ("eval_metrics.jsonl", "{\"step\":0,\"eval_loss\":1.5}\n".into(), &["training"]),
            ("results.json", results.to_string(), &["results"]),
            ("results.json", format!("[{results}, {results}]"), &["results"]),
            ("comparison.json", comparison(), &["results"]),
            ("inspection.json", inspection(), &["attention", "lens", "example"]),
            ("config.toml", "seed = 1".into(), &["settings"]),
        ] {
            // An empty file beside it changes nothing.
            let empty = if file == "metrics.jsonl" { "results.json" } else { "metrics.jsonl" };
            let html = page(folder(&[(file, text), (empty, String::new())]).path());
            for section in all {
                assert_eq!(has(&html, section), sections.contains(&section), "{file}: {section}");
            }
        }
    }

    #[test]
    fn a_latent_message_stands_beside_one_of_text() {
        let text =
            comparison().replace("\"part\":\"baseline\"", "\"part\":\"baseline\",\"channel\":\"text\"");
        let both = text.replace(
            "\"part\":\"trained\"",
            "\"part\":\"trained\",\"channel\":\"trace\",\"message_positions\":8.0",
        );
        let html = page(folder(&[("comparison.json", both)]).path());
        assert!(has(&html, "equalities") && html.contains("<td class=\"better\">90.0\u{a0}%</td>"), "{html}");
        assert!(!has(&page(folder(&[("comparison.json", text)]).path()), "equalities"));
    }

    #[test]
    fn nothing_of_a_file_becomes_markup() {
        let toml = format!("# {HOSTILE}");
        let files = [
            ("metrics.jsonl", metrics(3)),
            ("comparison.json", comparison()),
            ("inspection.json", inspection()),
            ("config.toml", toml),
        ];
        let html = page(folder(&files).path());
        assert!(!html.contains("<script") && !html.contains('\u{8}') && !html.contains("alert(\"1"));
        // Each place shows it as text: title, rows, curves, phases, senders, tokens, prompt, message, answers, settings.
        assert!(html.matches("&lt;script&gt;").count() > 20);
        for reference in ["src=", "href=", "url(", "@import"] {
            assert!(!html.contains(reference), "{reference}");
        }
        assert_eq!(
            html.matches("http").count(),
            html.matches("xmlns=\"http://www.w3.org/2000/svg\"").count() + 1,
            "and http-equiv"
        );
    }

    #[test]
    fn a_long_run_makes_a_page_no_longer_than_a_short_one_of_as_many_points() {
        let length = |updates: usize| page(folder(&[("metrics.jsonl", metrics(updates))]).path()).len();
        let (short, long) = (length(MAX_POINTS), length(50 * MAX_POINTS));
        assert!(long < short + short / 5, "{short} {long}");
    }

    #[test]
    fn what_is_no_output_folder_is_a_sentence() {
        let dir = folder(&[("notes.txt", "years of work".into()), ("metrics.jsonl", String::new())]);
        let says = |path: &Path, parts: &[&str]| {
            let e = Report::read(path).unwrap_err().to_string();
            assert!(parts.iter().all(|part| e.contains(part)), "{e}");
        };
        let name = dir.path().file_name().unwrap().to_str().unwrap();
        says(dir.path(), &[name, "nothing to report", "results.json", "metrics.jsonl", "inspection.json"]);
        says(&dir.path().join("none"), &["none", "there is no such folder"]);
        says(&dir.path().join("notes.txt"), &["notes.txt", "this is a file"]);
        for file in ["results.json", "comparison.json", "inspection.json"] {
            says(folder(&[(file, "{\n\"trace\": 3,".into())]).path(), &[file, ", line 2: malformed JSON"]);
        }
    }
}
