//! The page's part on a latent message beside one of text: what is told at equal positions, and what it takes.

use diffmas_backends::human_bytes;
use serde::Serialize;

use super::charts::plain;
use crate::evaluation::{Comparison, Method, Part};

/// A latent message and one of text, measured four ways.
#[derive(Serialize)]
pub struct Equalities {
    /// The two methods.
    methods: [String; 2],
    rows: Vec<Row>,
}

/// One measure.
#[derive(Serialize)]
struct Row {
    what: String,
    /// Each method's value, and whether it is the better one.
    values: [(String, bool); 2],
}

/// The trained team beside the best of those that write text; none where either is lacking.
pub fn equalities(comparison: &Comparison) -> Option<Equalities> {
    const TEXT: &str = "text";
    let of = |part: Part, text: bool| {
        let rows = comparison.rows.iter().filter(move |m| m.part == part);
        let rows =
            rows.filter(move |m| m.channel.as_deref().is_some_and(|channel| (channel == TEXT) == text));
        rows.max_by(|a, b| a.accuracy.accuracy.total_cmp(&b.accuracy.accuracy))
    };
    let [latent, text] = [of(Part::Trained, false)?, of(Part::Baseline, true)?];
    let positions = latent.message_positions?;
    let row = |what: String, value: fn(&Method) -> f64, said: fn(f64) -> String, more_is_better: bool| {
        let [a, b] = [value(latent), value(text)];
        let better = |x: f64, y: f64| said(x) != said(y) && (x > y) == more_is_better;
        Row { what, values: [(said(a), better(a, b)), (said(b), better(b, a))] }
    };
    Some(Equalities {
        methods: [latent.name.clone(), text.name.clone()],
        rows: vec![
            row(
                format!("right answers, at most {} positions a message", plain(positions)),
                |m| m.accuracy.accuracy,
                |x| format!("{:.1}\u{a0}%", 100.0 * x),
                true,
            ),
            row("bytes of a message".into(), |m| m.message_bytes, |x| human_bytes(x.round() as u64), false),
            row(
                "positions computed per question".into(),
                |m| m.cost.forward_positions,
                |x| plain(x.round()),
                false,
            ),
            row("seconds per question".into(), |m| m.cost.seconds, plain, false),
        ],
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::evaluation::{Accuracy, Cost};

    #[test]
    fn each_measure_says_which_of_the_two_is_better() {
        let method =
            |name: &str, part, channel: Option<&str>, right: f64, bytes: f64, positions: f64| Method {
                name: name.into(),
                part,
                channel: channel.map(str::to_string),
                accuracy: Accuracy { accuracy: right, interval: [right; 2], checked: 640 },
                message_positions: Some(8.0),
                message_bytes: bytes,
                cost: Cost { seconds: 0.25, forward_positions: positions },
                against_real: None,
            };
        let mut comparison = Comparison {
            title: String::new(),
            guessing: 0.0,
            rows: vec![
                method("everything", Part::Bound, None, 1.0, 0.0, 4.0),
                method("text, prompted", Part::Baseline, Some("text"), 0.4, 30.0, 73.0),
                method("text, trained", Part::Baseline, Some("text"), 0.5, 32.0, 73.0),
                method("untrained", Part::Baseline, Some("trace"), 0.9, 16384.0, 57.0),
                method("slots, trained", Part::Trained, Some("trace"), 0.9375, 16384.0, 57.0),
            ],
        };
        let both = equalities(&comparison).unwrap();
        assert_eq!(both.methods, ["slots, trained", "text, trained"]);
        let said: Vec<[(&str, bool); 2]> =
            both.rows.iter().map(|r| [0, 1].map(|i| (r.values[i].0.as_str(), r.values[i].1))).collect();
        assert_eq!(said[0], [("93.8\u{a0}%", true), ("50.0\u{a0}%", false)]);
        assert_eq!(said[1], [("16.00 KiB", false), ("32 B", true)]);
        assert_eq!(said[2], [("57", true), ("73", false)]);
        assert_eq!(said[3], [("0.25", false), ("0.25", false)]);
        assert!(both.rows[0].what.contains("at most 8 positions"));
        comparison.rows.truncate(3);
        assert!(equalities(&comparison).is_none());
    }
}
