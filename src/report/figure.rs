//! A chart on the page, with what it needs to be understood.

use serde::Serialize;

use super::charts::{Chart, Ink};

/// Points of a curve: more than a screen can show, few enough for a small page.
pub const MAX_POINTS: usize = 400;
/// What stands where there is no number.
pub const NOTHING: &str = "–";

/// A chart with what it needs to be understood.
#[derive(Serialize)]
pub struct Figure {
    /// What it shows, above it.
    pub caption: String,
    /// The drawing.
    pub chart: Chart,
    /// Colours and what they stand for.
    pub key: Vec<(String, String)>,
}

/// The number, where it is one.
pub fn finite(x: f64) -> Option<f64> {
    Some(x).filter(|x| x.is_finite())
}

/// A line of a chart's key.
pub fn entry(ink: Ink, name: &str) -> (String, String) {
    (ink.hex(), name.to_string())
}
