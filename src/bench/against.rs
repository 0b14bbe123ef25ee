//! What was measured now beside what a file says was measured before.

use std::fmt::Write;

use super::record::BenchRecord;
use super::table::short;

/// Two records side by side.
pub struct Comparison<'a> {
    /// What was measured now.
    pub now: &'a BenchRecord,
    /// What a file says.
    pub before: &'a BenchRecord,
    /// The file.
    pub name: String,
}

impl Comparison<'_> {
    /// How the two differ in what speed depends on, a sentence each.
    pub fn differences(&self) -> Vec<String> {
        let Self { now, before, .. } = self;
        let mut all = Vec::new();
        let mut differ = |what: &str, ours: String, theirs: String| {
            if ours != theirs {
                all.push(format!("the {what} differs: {ours} here, {theirs} in the file"));
            }
        };
        differ("machine", now.machine.describe(), before.machine.describe());
        differ("model", now.model.describe(), before.model.describe());
        differ("version", now.version.clone(), before.version.clone());
        for column in now.shown() {
            if let Some(other) = before.find(column) {
                let said = |adapter: &Option<String>| adapter.clone().unwrap_or_else(|| "none".into());
                let what = format!("adapter of {}", column.name());
                differ(&what, said(&column.adapter), said(&other.adapter));
            }
        }
        all
    }

    /// Whether the two models compute as much.
    pub fn is_of_one_model(&self) -> bool {
        self.now.model.is_as_large_as(&self.before.model)
    }

    /// The speed of each work as a multiple of that in the file, for equal backends, types of weights, works and models, as a table in
    /// Markdown; then what differs, and what has no like.
    pub fn markdown(&self) -> String {
        let Self { now, before, name } = self;
        let mut text = format!("Speed as a multiple of that in {name} ({}):\n\n", before.date);
        let columns: Vec<_> = now.shown().collect();
        let pairs: Vec<_> =
            columns.iter().filter_map(|column| Some((*column, before.find(column)?))).collect();
        let shared = |work| pairs.iter().any(|(a, b)| a.find(work).is_some() && b.find(work).is_some());
        let works: Vec<_> = now.works().into_iter().filter(|&work| shared(work)).collect();
        if self.is_of_one_model() && !works.is_empty() {
            let names: Vec<String> = pairs.iter().map(|(column, _)| column.name()).collect();
            let _ = writeln!(text, "| | {} |\n|---|{}", names.join(" | "), "---|".repeat(names.len()));
            for work in works {
                let cell = |(a, b): &(&super::Column, &super::Column)| match (a.find(work), b.find(work)) {
                    (Some(own), Some(other)) => format!("{}×", short(own.speed_to(other))),
                    _ => "–".into(),
                };
                let cells: Vec<String> = pairs.iter().map(cell).collect();
                let _ = writeln!(text, "| {} | {} |", work.title(), cells.join(" | "));
            }
            text.push('\n');
        } else {
            text.push_str("nothing: no work of this model, backend and type of weights is in both.\n\n");
        }
        for difference in self.differences() {
            let _ = writeln!(text, "{difference}\n");
        }
        let lacking = columns.iter().filter(|column| before.find(column).is_none());
        for column in lacking {
            let _ = writeln!(text, "the file has no {}\n", column.name());
        }
        text
    }
}
