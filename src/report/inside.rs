//! The page's parts on what happened inside the team: attention, the logit lens, one example.

use std::collections::BTreeMap;

use diffmas_backends::human_bytes;
use serde::Serialize;

use super::charts::{self, percent};
use super::figure::{Figure, NOTHING, finite};
use crate::error::Result;
use crate::evaluation::{Attention, Inspection, LensToken};

/// Who attended to whom.
#[derive(Serialize)]
pub struct AttentionMaps {
    samples: usize,
    figures: Vec<Figure>,
}

/// The logit lens of one sender.
#[derive(Serialize)]
pub struct Lens {
    sender: String,
    /// How many tokens the longest position has.
    ranks: usize,
    /// Probability of the nearest token as a mean over positions, in percent.
    nearest: String,
    positions: Vec<Vec<Token>>,
}

/// A token of it.
#[derive(Serialize)]
struct Token {
    text: String,
    percent: String,
    /// Length of its bar, in percent.
    bar: String,
}

/// One question, from prompt to answer.
#[derive(Serialize)]
pub struct Example<'a> {
    line: usize,
    agents: Vec<Turn<'a>>,
    expected: Option<&'a str>,
    answered: &'a str,
    is_correct: Option<bool>,
}

/// What one agent found and passed on.
#[derive(Serialize)]
struct Turn<'a> {
    name: &'a str,
    prompt: &'a str,
    bytes: Option<String>,
    written: Option<&'a str>,
}

/// The mean over layers of all readers, then each reader by layer.
pub fn attention(inspection: &Inspection) -> Result<AttentionMaps> {
    let readers: Vec<String> = inspection.attention.iter().map(|a| a.reader.clone()).collect();
    // In the order of the agents; a name that is none of theirs comes last.
    let place = |name: &String| inspection.agents.iter().position(|a| a == name).unwrap_or(usize::MAX);
    let mut senders: Vec<String> = inspection.attention.iter().flat_map(|a| a.senders.clone()).collect();
    senders.sort_by_key(|name| (place(name), name.clone()));
    senders.dedup();
    let means: Vec<BTreeMap<&String, f64>> = inspection.attention.iter().map(mean_by_sender).collect();
    let cells: Vec<Vec<Option<f64>>> =
        means.iter().map(|mean| senders.iter().map(|sender| mean.get(sender).copied()).collect()).collect();
    let mut figures = vec![map(
        "All readers, mean over layers; percent of attention".into(),
        &readers,
        &senders,
        &cells,
        strongest(&cells),
    )?];
    let by_layer = |a: &Attention| -> Vec<Vec<Option<f64>>> {
        a.weights.iter().map(|row| row.iter().copied().map(finite).collect()).collect()
    };
    let full = inspection.attention.iter().map(|a| strongest(&by_layer(a))).fold(f64::MIN_POSITIVE, f64::max);
    for a in &inspection.attention {
        let layers: Vec<String> = a.layers.iter().map(|layer| format!("layer {layer}")).collect();
        let caption = format!("{}, by layer; percent of attention", a.reader);
        figures.push(map(caption, &layers, &a.senders, &by_layer(a), full)?);
    }
    Ok(AttentionMaps { samples: inspection.samples, figures })
}

fn mean_by_sender(a: &Attention) -> BTreeMap<&String, f64> {
    let mean = |j: usize| {
        let column: Vec<f64> = a.weights.iter().filter_map(|row| finite(*row.get(j)?)).collect();
        (!column.is_empty()).then(|| column.iter().sum::<f64>() / column.len() as f64)
    };
    a.senders.iter().enumerate().filter_map(|(j, sender)| Some((sender, mean(j)?))).collect()
}

fn strongest(cells: &[Vec<Option<f64>>]) -> f64 {
    cells.iter().flatten().flatten().copied().fold(f64::MIN_POSITIVE, f64::max)
}

fn map(
    caption: String,
    rows: &[String],
    columns: &[String],
    cells: &[Vec<Option<f64>>],
    full: f64,
) -> Result<Figure> {
    let told = rows.iter().zip(cells).map(|(row, cells)| {
        let cells =
            columns.iter().zip(cells).filter_map(|(column, x)| Some(format!("{column} {}", percent((*x)?))));
        format!("{row}: {}", cells.collect::<Vec<_>>().join(", "))
    });
    let label = format!("{caption}. {}", told.collect::<Vec<_>>().join("; "));
    Ok(Figure { chart: charts::heat(label, rows, columns, cells, full)?, caption, key: Vec::new() })
}

/// The logit lens of every sender.
pub fn lens(inspection: &Inspection) -> Vec<Lens> {
    let token = |t: &LensToken| {
        let share = finite(t.probability).map(|p| p.clamp(0.0, 1.0));
        Token {
            text: visible(&t.token),
            percent: share.map_or(NOTHING.into(), percent),
            bar: format!("{:.1}", 100.0 * share.unwrap_or(0.0)),
        }
    };
    let of = inspection.latents.iter().filter(|l| !l.positions.is_empty());
    let nearest = |positions: &[Vec<LensToken>]| {
        let all = positions.iter().filter_map(|tokens| finite(tokens.first()?.probability));
        let (sum, n) = all.fold((0.0, 0), |(sum, n), p| (sum + p, n + 1));
        if n == 0 { NOTHING.into() } else { percent(sum / f64::from(n)) }
    };
    of.map(|latents| Lens {
        sender: latents.sender.clone(),
        nearest: nearest(&latents.positions),
        ranks: latents.positions.iter().map(Vec::len).max().unwrap_or(0),
        positions: latents.positions.iter().map(|tokens| tokens.iter().map(token).collect()).collect(),
    })
    .collect()
}

/// A token with its white space.
fn visible(token: &str) -> String {
    token.replace(' ', "␣").replace('\n', "↵").replace('\t', "⇥")
}

/// The traced sample.
pub fn example(inspection: &Inspection) -> Example<'_> {
    let e = &inspection.example;
    let agents = inspection.agents.iter().enumerate().map(|(j, name)| Turn {
        name,
        prompt: e.prompts.get(j).map_or("", String::as_str),
        bytes: e.message_bytes.get(j).map(|n| human_bytes(*n as u64)),
        written: e.written.get(j).map(String::as_str),
    });
    Example {
        line: e.line,
        agents: agents.collect(),
        expected: e.expected.as_deref(),
        answered: &e.answered,
        is_correct: e.is_correct,
    }
}
