//! The page's part on training: curves over updates.

use std::time::Duration;

use serde::Serialize;

use super::charts::{self, Ink, Line, MAX_LINES, plain};
use super::curves::{Curves, Points, thin};
use super::figure::{Figure, MAX_POINTS, entry};
use super::quantity;
use crate::error::Result;

/// How the team learned.
#[derive(Serialize)]
pub struct Training {
    summary: String,
    figures: Vec<Figure>,
}

/// Losses, norms of gradients, and the learning rate where it changes.
pub fn training(curves: &Curves) -> Result<Training> {
    let mut parts = vec![match curves.updates {
        1 => "1 update".to_string(),
        n => format!("{n} updates"),
    }];
    if curves.seconds >= 1.0 {
        let time = Duration::try_from_secs_f64(curves.seconds).unwrap_or(Duration::MAX);
        parts[0] += &format!(" in {}", quantity::duration(time));
    }
    if curves.skipped > 0 {
        parts.push(format!("{} skipped because loss or gradient was not finite", curves.skipped));
    }
    if !curves.phases.is_empty() {
        let phases: Vec<String> =
            curves.phases.iter().map(|(step, name)| format!("{name} from update {step}")).collect();
        parts.push(format!("phases, marked by dashed lines: {}", phases.join(", ")));
    }
    let right = Curve {
        name: "right answers to held-out questions".into(),
        points: &curves.held_out_right,
        ink: 0,
        marked: true,
    };
    let mut figures = Vec::new();
    figures.extend(figure(
        "Right answers to held-out questions in percent",
        &[right],
        curves,
        Scale::Linear,
    )?);
    let losses = [
        ("training", &curves.loss, 0, false),
        ("held out", &curves.held_out, 1, true),
        ("of it, trajectories", &curves.trajectory_loss, 3, false),
    ];
    let losses = losses.map(|(name, points, ink, marked)| Curve { name: name.into(), points, ink, marked });
    figures.extend(figure("Loss in nats per token", &losses, curves, Scale::Any)?);
    let whole = Curve {
        name: "whole gradient, before clipping".into(),
        points: &curves.grad_norm,
        ink: 4,
        marked: false,
    };
    let free = (0..MAX_LINES).filter(|ink| *ink != whole.ink);
    let by_sender = curves.trace_grad_norm.iter().zip(free).map(|((name, points), ink)| Curve {
        name: format!("at the message of {name}"),
        points,
        ink,
        marked: false,
    });
    let shown = by_sender.collect::<Vec<_>>();
    let caption = match curves.trace_grad_norm.len() {
        n if n > shown.len() => format!("Norms of gradients; the first {} of {n} senders", shown.len()),
        _ => "Norms of gradients".to_string(),
    };
    let norms: Vec<Curve<'_>> = std::iter::once(whole).chain(shown).collect();
    figures.extend(figure(&caption, &norms, curves, Scale::Logarithmic)?);
    if curves.learning_rate.iter().any(|p| p.1 != curves.learning_rate[0].1) {
        let rate =
            Curve { name: "learning rate".into(), points: &curves.learning_rate, ink: 5, marked: false };
        figures.extend(figure("Learning rate", &[rate], curves, Scale::Linear)?);
    }
    Ok(Training { summary: format!("{}.", parts.join("; ")), figures })
}

/// A curve with its name.
struct Curve<'a> {
    name: String,
    points: &'a Points,
    ink: usize,
    marked: bool,
}

#[derive(PartialEq)]
enum Scale {
    Linear,
    Logarithmic,
    /// Logarithmic where values are positive and far apart.
    Any,
}

/// Curves over updates; none where there is no point.
fn figure(what: &str, all: &[Curve<'_>], curves: &Curves, scale: Scale) -> Result<Option<Figure>> {
    let all: Vec<&Curve<'_>> = all.iter().filter(|c| !c.points.is_empty()).collect();
    if all.is_empty() {
        return Ok(None);
    }
    let thinned: Vec<(Points, usize)> = all.iter().map(|c| thin(c.points, MAX_POINTS)).collect();
    let values = || thinned.iter().flat_map(|(points, _)| points).map(|p| p.1);
    let (least, most) = values().fold((f64::INFINITY, 0.0), |(a, b): (f64, f64), y| (a.min(y), b.max(y)));
    let logarithmic = match scale {
        Scale::Linear => false,
        Scale::Logarithmic => most > 0.0,
        Scale::Any => least > 0.0 && most / least > 20.0,
    };
    let mut caption = format!("{what}, by update");
    if logarithmic {
        caption += "; logarithmic";
    }
    if let Some(each) = thinned.iter().map(|t| t.1).max().filter(|each| *each > 1) {
        caption += &format!("; lines are means of {each} updates");
    }
    let lines: Vec<Line<'_>> = all
        .iter()
        .zip(&thinned)
        .map(|(c, (points, _))| Line { points, ink: Ink::Series(c.ink), marked: c.marked })
        .collect();
    let ends = all.iter().filter_map(|c| {
        let (first, last) = (c.points.first()?, c.points.last()?);
        Some(format!("{} from {} to {}", c.name, plain(first.1), plain(last.1)))
    });
    let label = format!("{caption}: {}", ends.collect::<Vec<_>>().join("; "));
    let starts: Vec<f64> = curves.phases.iter().skip(1).map(|p| p.0).take(MAX_POINTS).collect();
    let key = all.iter().map(|c| entry(Ink::Series(c.ink), &c.name)).collect();
    Ok(Some(Figure { caption, chart: charts::lines(label, &lines, &starts, logarithmic)?, key }))
}
