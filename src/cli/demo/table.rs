//! What was measured, as tables.

use diffmas::evaluation::{Comparison, Method};
use serde::Serialize;

use super::part::Part;

/// A demo that was measured: an entry of `demo.json`.
#[derive(Debug, Serialize)]
pub struct Measured {
    pub part: Part,
    pub seed: u64,
    pub comparison: Comparison,
}

/// A comparison for a terminal.
pub fn text(comparison: &Comparison) -> String {
    let mut lines = vec![
        comparison.title.clone(),
        String::new(),
        format!(
            "{:<28} {:>24} {:>14} {:>10} {:>19}",
            "method", "correct answers % [95 %]", "bytes/message", "s/question", "positions/question"
        ),
    ];
    for method in &comparison.rows {
        lines.push(format!(
            "{:<28} {:>24} {:>14.0} {:>10.4} {:>19.0}",
            method.name,
            method.accuracy.in_percent(1, ""),
            method.message_bytes,
            method.cost.seconds,
            method.cost.forward_positions
        ));
    }
    lines.push(format!("the best constant answer: {:.1} %", 100.0 * comparison.guessing));
    lines.join("\n")
}

/// All demos, part by part, every seed shown: a Markdown document.
pub fn markdown(all: &[Measured]) -> String {
    let mut parts: Vec<String> = Vec::new();
    for same in all.chunk_by(|a, b| a.part == b.part) {
        let seeds: Vec<String> = same.iter().map(|m| m.seed.to_string()).collect();
        let mut lines = vec![
            format!("**{}**", same[0].comparison.title),
            String::new(),
            format!(
                "| method | correct answers, %: seed{} {} | spread | bytes a message | s a question | positions a question |",
                if seeds.len() == 1 { "" } else { "s" },
                seeds.join(" / ")
            ),
            "|---|---|---|---|---|---|".to_string(),
        ];
        for (i, first) in same[0].comparison.rows.iter().enumerate() {
            let rows: Vec<&Method> = same.iter().map(|m| &m.comparison.rows[i]).collect();
            lines.push(row(&first.name, &rows));
        }
        let guessing = same.iter().map(|m| 100.0 * m.comparison.guessing).fold(0.0, f64::max);
        lines.extend([String::new(), format!("The best constant answer: {guessing:.1} %.")]);
        parts.push(lines.join("\n"));
    }
    parts.join("\n\n") + "\n"
}

/// A method on every seed: each accuracy (where there is one seed, with its interval), the largest minus the smallest, and medians.
fn row(name: &str, rows: &[&Method]) -> String {
    let right: Vec<f64> = rows.iter().map(|m| 100.0 * m.accuracy.accuracy).collect();
    let said = match rows {
        [one] => one.accuracy.in_percent(1, ""),
        _ => right.iter().map(|x| format!("{x:.1}")).collect::<Vec<_>>().join(" / "),
    };
    let spread =
        right.iter().copied().fold(f64::MIN, f64::max) - right.iter().copied().fold(f64::MAX, f64::min);
    let median = |of: fn(&Method) -> f64| {
        let mut values: Vec<f64> = rows.iter().map(|m| of(m)).collect();
        values.sort_by(f64::total_cmp);
        values[values.len() / 2]
    };
    format!(
        "| {name} | {said} | {spread:.1} | {:.0} | {:.4} | {:.0} |",
        median(|m| m.message_bytes),
        median(|m| m.cost.seconds),
        median(|m| m.cost.forward_positions)
    )
}

#[cfg(test)]
mod tests {
    use diffmas::evaluation::{Accuracy, Cost, Part as Kind};

    use super::*;

    fn measured(part: Part, seed: u64, right: f64) -> Measured {
        let method = Method {
            name: "slots, trained".into(),
            part: Kind::Trained,
            channel: Some("trace".into()),
            accuracy: Accuracy { accuracy: right, interval: [right - 0.01, right + 0.01], checked: 640 },
            message_positions: Some(8.0),
            message_bytes: 16384.0,
            cost: Cost { seconds: right / 100.0, forward_positions: 57.4 },
            against_real: None,
        };
        let comparison =
            Comparison { title: format!("{part}: facts"), guessing: 0.03125, rows: vec![method] };
        Measured { part, seed, comparison }
    }

    #[test]
    fn every_seed_of_a_part_stands_in_its_row() {
        let all = [measured(Part::A, 42, 1.0), measured(Part::A, 43, 0.844), measured(Part::A, 44, 0.9)];
        let [a, b] = [markdown(&all), markdown(&[measured(Part::B, 7, 0.5)])];
        assert_eq!(
            a,
            "**A: facts**\n\n\
             | method | correct answers, %: seeds 42 / 43 / 44 | spread | bytes a message | s a question | positions a question |\n\
             |---|---|---|---|---|---|\n\
             | slots, trained | 100.0 / 84.4 / 90.0 | 15.6 | 16384 | 0.0090 | 57 |\n\n\
             The best constant answer: 3.1 %.\n"
        );
        assert!(b.contains("seed 7 |") && b.contains("| 50.0 [49.0, 51.0] | 0.0 |"), "{b}");
    }
}
