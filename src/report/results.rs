//! The page's part on results: ways of answering the same questions, as a chart and a table.

use diffmas_backends::human_bytes;
use serde::Serialize;

use super::charts::{self, Ink, Whisker, plain};
use super::figure::{Figure, NOTHING, entry, finite};
use crate::error::Result;
use crate::evaluation::{Accuracy, Comparison, Cost, Evaluation, Part};

/// Ways of answering the same questions.
#[derive(Serialize)]
pub struct Results {
    heading: String,
    figure: Figure,
    has_accuracy: bool,
    has_loss: bool,
    has_cost: bool,
    rows: Vec<Row>,
}

/// A row of their table, as text.
#[derive(Serialize)]
struct Row {
    name: String,
    trained: bool,
    accuracy: String,
    loss: String,
    bytes: String,
    seconds: String,
    positions: String,
}

/// A loss with its interval.
fn with_interval(x: f64, interval: Option<[f64; 2]>) -> String {
    let number = |x: f64| finite(x).map_or("not finite".to_string(), |x| format!("{x:.4}"));
    let interval = interval.map_or(String::new(), |i| {
        let [low, high] = i.map(number);
        format!(" [{low}, {high}]")
    });
    format!("{}{interval}", number(x))
}

fn accuracy(a: &Accuracy) -> String {
    a.in_percent(1, " %")
}

fn accuracy_caption(questions: usize, lines: Option<usize>) -> String {
    format!("Right answers in percent, with 95 % intervals; {}", in_lines(questions, "questions", lines))
}

/// So many of `what`, and in how many lines where these have several questions.
fn in_lines(count: usize, what: &str, lines: Option<usize>) -> String {
    lines.map_or(format!("{count} {what}"), |lines| format!("{count} {what} in {lines} lines"))
}

fn accuracy_whisker(name: &str, a: &Accuracy, part: Part) -> Whisker {
    Whisker {
        name: name.into(),
        value: finite(100.0 * a.accuracy),
        interval: Some(a.interval.map(|x| 100.0 * x)),
        said: accuracy(a),
        ink: ink(part),
    }
}

fn bytes(n: f64) -> String {
    if n > 0.0 { human_bytes(n.round() as u64) } else { NOTHING.into() }
}

fn ink(part: Part) -> Ink {
    Ink::Series(match part {
        Part::Trained => 0,
        Part::Control => 1,
        Part::Baseline => 2,
        Part::Bound => 4,
    })
}

/// The parts that are there, with their colours.
fn key_of(parts: &[Part]) -> Vec<(String, String)> {
    let names = [
        (Part::Trained, "the real message"),
        (Part::Control, "a control in its place"),
        (Part::Baseline, "other ways to communicate"),
        (Part::Bound, "bounds"),
    ];
    names
        .iter()
        .filter(|(part, _)| parts.contains(part))
        .map(|(part, name)| entry(ink(*part), name))
        .collect()
}

/// The ways of a comparison.
pub fn compared(comparison: &Comparison) -> Result<Results> {
    let whiskers: Vec<Whisker> = comparison
        .rows
        .iter()
        .map(|method| accuracy_whisker(&method.name, &method.accuracy, method.part))
        .collect();
    let questions = comparison.rows.iter().map(|method| method.accuracy.checked).max().unwrap_or(0);
    let parts: Vec<Part> = comparison.rows.iter().map(|method| method.part).collect();
    let guessing = 100.0 * comparison.guessing;
    let caption = accuracy_caption(questions, None);
    let mut key = key_of(&parts);
    key.push(entry(Ink::Guess, &format!("guessing: {} %", plain(guessing))));
    let rows = comparison.rows.iter().map(|method| Row {
        name: method.name.clone(),
        trained: method.part == Part::Trained,
        accuracy: accuracy(&method.accuracy),
        loss: NOTHING.into(),
        bytes: bytes(method.message_bytes),
        seconds: seconds(Some(method.cost)),
        positions: positions(Some(method.cost)),
    });
    let label = label(&caption, &whiskers);
    Ok(Results {
        heading: comparison.title.clone(),
        figure: Figure { chart: charts::whiskers(label, &whiskers, 100.0, finite(guessing))?, caption, key },
        has_accuracy: true,
        has_loss: false,
        has_cost: true,
        rows: rows.collect(),
    })
}

/// Scores with the real message and with controls.
pub fn scored(all: &[Evaluation]) -> Result<Results> {
    let part = |e: &Evaluation| if e.control == "real" { Part::Trained } else { Part::Control };
    let loss = |e: &Evaluation| with_interval(e.loss, e.loss_interval);
    let checked: Option<Vec<(&Evaluation, Accuracy)>> = all.iter().map(|e| Some((e, e.accuracy?))).collect();
    let (caption, whiskers, end) = match checked {
        Some(checked) => {
            let whiskers = checked.iter().map(|(e, a)| accuracy_whisker(&e.control, a, part(e))).collect();
            (accuracy_caption(checked[0].1.checked, all[0].clusters), whiskers, 100.0)
        }
        None => {
            let whisker = |e: &Evaluation| Whisker {
                name: e.control.clone(),
                value: finite(e.loss),
                interval: e.loss_interval.filter(|i| i.iter().all(|x| x.is_finite())),
                said: loss(e),
                ink: ink(part(e)),
            };
            let whiskers: Vec<Whisker> = all.iter().map(whisker).collect();
            let ends = whiskers.iter().flat_map(|w| w.interval.map(|i| i[1]).into_iter().chain(w.value));
            let end = ends.fold(f64::MIN_POSITIVE, f64::max) * 1.05;
            let samples = in_lines(all[0].samples, "samples", all[0].clusters);
            (format!("Loss in nats per token, with 95 % intervals; {samples}"), whiskers, end)
        }
    };
    let parts: Vec<Part> = all.iter().map(part).collect();
    let rows = all.iter().map(|e| Row {
        name: e.control.clone(),
        trained: part(e) == Part::Trained,
        accuracy: e.accuracy.as_ref().map_or(NOTHING.into(), accuracy),
        loss: loss(e),
        bytes: bytes(e.message_bytes as f64),
        seconds: seconds(e.cost),
        positions: positions(e.cost),
    });
    let label = label(&caption, &whiskers);
    Ok(Results {
        heading: "What the final agent reads".into(),
        figure: Figure {
            chart: charts::whiskers(label, &whiskers, end, None)?,
            caption,
            key: key_of(&parts),
        },
        has_accuracy: all.iter().any(|e| e.accuracy.is_some()),
        has_loss: true,
        has_cost: all.iter().any(|e| e.cost.is_some()),
        rows: rows.collect(),
    })
}

fn seconds(cost: Option<Cost>) -> String {
    cost.and_then(|c| finite(c.seconds)).map_or(NOTHING.into(), plain)
}

fn positions(cost: Option<Cost>) -> String {
    cost.and_then(|c| finite(c.forward_positions)).map_or(NOTHING.into(), |n| plain(n.round()))
}

/// A chart of results in words.
fn label(caption: &str, rows: &[Whisker]) -> String {
    let rows: Vec<String> = rows.iter().map(|w| format!("{} {}", w.name, w.said)).collect();
    format!("{caption}: {}", rows.join("; "))
}
