//! A record as a table in Markdown.

use std::fmt::Write;

use super::column::Column;
use super::measurement::Measurement;
use super::record::BenchRecord;
use super::work::Work;

/// What stands where there is no figure.
const NOTHING: &str = "–";

impl BenchRecord {
    /// The table, with what it was measured on; reasons stand where figures would.
    pub fn markdown(&self) -> String {
        let columns: Vec<&Column> = self.shown().collect();
        let mut text = String::new();
        if !columns.is_empty() {
            let names: Vec<String> = columns.iter().map(|column| column.name()).collect();
            row(&mut text, "", names);
            row(&mut text, "---", columns.iter().map(|_| "---".into()));
            for work in self.works() {
                row(
                    &mut text,
                    &work.title(),
                    columns.iter().map(|column| self.cell(columns[0], column, work)),
                );
            }
            row(&mut text, "peak memory", columns.iter().map(|column| memory(column)));
            text.push('\n');
        }
        for line in self.notes() {
            let _ = writeln!(text, "{line}");
        }
        text
    }

    /// The works of the settings, then any other that was measured.
    pub(super) fn works(&self) -> Vec<Work> {
        let mut all = self.settings.list(self.model.random);
        let measured = self.columns.iter().flat_map(|c| &c.measurements).map(|m| m.work);
        for work in measured {
            if !all.contains(&work) {
                all.push(work);
            }
        }
        all
    }

    fn cell(&self, first: &Column, column: &Column, work: Work) -> String {
        let Some(own) = column.find(work) else { return self.reason(column, work) };
        let mut text = format!("{} {}", short(own.figure), own.unit);
        if own.seconds.len() > 1 {
            let [a, b] = [own.min, own.max].map(|seconds| work.figure(seconds, own.count).0);
            let (low, high) = (a.min(b), a.max(b));
            let _ = write!(text, " ({} to {})", short(low), short(high));
        }
        match first.find(work) {
            Some(other) if !std::ptr::eq(first, column) => {
                let _ = write!(text, ", {}×", short(own.speed_to(other)));
            }
            _ => {}
        }
        text
    }

    /// Why there is no figure.
    fn reason(&self, column: &Column, work: Work) -> String {
        if let Some((_, reason)) = column.skipped.iter().find(|(skipped, _)| *skipped == work) {
            return format!("left out: {reason}");
        }
        let works = self.works();
        let next = || works.iter().copied().find(|work| column.find(*work).is_none());
        match &column.failed {
            Some(reason) if column.at.or_else(next) == Some(work) => format!("failed: {reason}"),
            None if !column.finished && column.at == Some(work) => "stopped".into(),
            _ => NOTHING.into(),
        }
    }

    fn notes(&self) -> Vec<String> {
        let Self { version, date, machine, model, settings, .. } = self;
        let mut notes = Vec::new();
        let columns: Vec<&Column> = self.shown().collect();
        let runs = settings.runs;
        notes.push(format!(
            "Medians of {runs} runs after {} that do not count (shortest to longest).",
            settings.warmup
        ));
        if columns.len() > 1 {
            notes.push(format!("× is how many times as fast as {}.", columns[0].name()));
        }
        notes.push(format!("diffmas {version}, {date}; {}; {}.", model.describe(), machine.describe()));
        for column in &columns {
            let adapter = column.adapter.iter().map(|adapter| format!("{}: {adapter}.", column.name()));
            notes.extend(adapter);
        }
        for column in &self.columns {
            let left_out = column.left_out.iter();
            notes.extend(left_out.map(|reason| format!("Left out: {}: {reason}.", column.name())));
        }
        notes.iter().map(|note| one_line(note)).collect()
    }
}

/// The most memory of a column, and whose it is.
fn memory(column: &Column) -> String {
    let gib = |bytes: u64| bytes as f64 / f64::from(1 << 30);
    match (column.peak_device_memory_bytes, column.peak_memory_bytes) {
        (Some(device), _) => format!("{:.2} GiB of the device", gib(device)),
        (None, Some(process)) => format!("{:.2} GiB of the process", gib(process)),
        (None, None) => NOTHING.into(),
    }
}

/// A line of the table.
fn row(text: &mut String, name: &str, cells: impl IntoIterator<Item = String>) {
    let cells: Vec<String> = cells.into_iter().map(|cell| one_line(&cell).replace('|', "\\|")).collect();
    let _ = writeln!(text, "| {name} | {} |", cells.join(" | "));
}

/// Text without what would end a line.
fn one_line(text: &str) -> String {
    text.split(char::is_control).filter(|part| !part.is_empty()).collect::<Vec<_>>().join(" ")
}

/// A number with three digits.
pub(super) fn short(x: f64) -> String {
    match x.abs() {
        0.0 => "0".into(),
        a if !(1e-4..1e7).contains(&a) => format!("{x:.2e}"),
        a => {
            let digits = (2 - a.log10().floor() as i32).max(0) as usize;
            format!("{x:.digits$}")
        }
    }
}

impl Measurement {
    /// The figure with its unit, and the seconds of a run.
    pub fn describe(&self) -> String {
        format!("{} {} ({} s)", short(self.figure), self.unit, short(self.median))
    }
}
