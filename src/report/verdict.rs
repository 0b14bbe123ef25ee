//! Does the message matter? One sentence.

use std::cmp::Ordering;

use crate::evaluation::{Comparison, Evaluation, Method, Paired, Part};

/// What a report says first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// One sentence with its numbers.
    pub sentence: String,
    /// Whether it is bad news: a control works as well as the real message, or training made the team worse.
    pub warning: bool,
}

/// What a score is a score of, and which method is better.
#[derive(Clone, Copy, PartialEq)]
enum Measure {
    /// Right answers, more is better.
    Accuracy,
    /// Mean NLL, less is better.
    Loss,
}

/// One method of answering.
struct Score<'a> {
    name: &'a str,
    value: f64,
    interval: Option<[f64; 2]>,
    /// Question by question against the real message.
    paired: Option<Paired>,
}

/// Evidence for one verdict: the same questions, answered with the real message and with controls in its place.
struct Evidence<'a> {
    measure: Measure,
    real: Score<'a>,
    controls: Vec<Score<'a>>,
    /// What was counted, as `600 questions`.
    of: String,
    /// Accuracy of the best constant answer, where it is known.
    guessing: Option<f64>,
}

impl Verdict {
    /// Whether the trained team of a comparison beats its controls; none where the comparison has no trained team.
    ///
    /// A control is as good as the real message where the 95 % interval of what the message gains question by question reaches no gain; where
    /// only sums are known, where their intervals touch.
    /// Leaving a single sender out (`drop:ROLE`) is no such control, since the others' messages are still there.
    pub fn of_comparison(comparison: &Comparison) -> Option<Self> {
        fn score(method: &Method) -> Score<'_> {
            let name = method.name.strip_prefix("control ").unwrap_or(&method.name);
            let interval = Some(method.accuracy.interval);
            Score { name, value: method.accuracy.accuracy, interval, paired: method.against_real }
        }
        let trained = comparison.rows.iter().find(|method| method.part == Part::Trained)?;
        let controls = comparison.rows.iter().filter(|method| method.part == Part::Control).map(score);
        let evidence = Evidence {
            measure: Measure::Accuracy,
            real: score(trained),
            controls: controls.filter(|s| !s.name.contains("drop:")).collect(),
            of: count(trained.accuracy.checked, "question"),
            guessing: Some(comparison.guessing),
        };
        Some(evidence.judge())
    }

    /// Whether the trace `real` beats the controls among scores of the same samples: by accuracy where all were checked, else by loss;
    /// none without a score. What counts as a control and as good is that of [`of_comparison`](Self::of_comparison).
    pub fn of_evaluations(all: &[Evaluation]) -> Option<Self> {
        let first = all.first()?;
        let measure =
            if all.iter().all(|e| e.accuracy.is_some()) { Measure::Accuracy } else { Measure::Loss };
        let score = |e| measure.score(e);
        let of = match first.accuracy.filter(|_| measure == Measure::Accuracy) {
            Some(a) => count(a.checked, "question"),
            None => count(first.samples, "sample"),
        };
        let Some(real) = all.iter().find(|e| e.control == "real") else {
            let scores: Vec<String> = all.iter().map(|e| measure.describe(&score(e))).collect();
            let sentence = format!(
                "{} on {of}; the real message was not scored, so this does not tell whether it matters.",
                scores.join(", ")
            );
            return Some(Self { sentence, warning: false });
        };
        let controls = all.iter().filter(|e| e.control != "real" && !e.control.starts_with("drop:"));
        let evidence = Evidence {
            measure,
            real: score(real),
            controls: controls.map(score).collect(),
            of,
            guessing: None,
        };
        Some(evidence.judge())
    }

    /// What training did to the loss, where nothing tells whether the message matters.
    pub(super) fn of_training(updates: usize, loss: [Option<f64>; 2], held_out: [Option<f64>; 2]) -> Self {
        let number = |x: Option<f64>| x.map_or("not finite".to_string(), |x| format!("{x:.4}"));
        let training = format!(
            "training loss {} in the first update and {} in the last",
            number(loss[0]),
            number(loss[1])
        );
        let updates = count(updates, "update");
        let (sentence, warning) = match held_out {
            [Some(before), Some(after)] => {
                let verb = if after < before { "fell" } else { "did not fall" };
                (
                    format!(
                        "The held-out loss {verb} in {updates}: {before:.4} before, {after:.4} after; {training}"
                    ),
                    after >= before,
                )
            }
            _ => (format!("After {updates}: {training}"), loss[1].is_none()),
        };
        Self { sentence: format!("{sentence}; no control was scored yet."), warning }
    }
}

impl Measure {
    /// What it says of a score; the loss where accuracy was not checked.
    fn score(self, e: &Evaluation) -> Score<'_> {
        let (value, interval) = match (self, e.accuracy) {
            (Self::Accuracy, Some(a)) => (a.accuracy, Some(a.interval)),
            _ => (e.loss, e.loss_interval),
        };
        Score { name: &e.control, value, interval, paired: e.against_real }
    }

    /// A score as text, with its interval.
    fn numbers(self, score: &Score<'_>) -> String {
        let (factor, digits, unit) = match self {
            Self::Accuracy => (100.0, 1, " %"),
            Self::Loss => (1.0, 4, ""),
        };
        let number =
            |x: f64| if x.is_finite() { format!("{:.digits$}", factor * x) } else { "not finite".into() };
        let interval = score.interval.map(|i| i.map(number));
        let interval = interval.map_or(String::new(), |[low, high]| format!(" [{low}, {high}]"));
        format!("{}{unit}{interval}", number(score.value))
    }

    /// A score as text, with what it is a score of.
    fn describe(self, score: &Score<'_>) -> String {
        let loss = if self == Self::Loss { "loss " } else { "" };
        format!("{} {loss}{}", score.name, self.numbers(score))
    }

    /// Whether `a` is better than `b`; nothing that is not a number is.
    fn better(self, a: f64, b: f64) -> bool {
        if self == Self::Accuracy { a > b } else { a < b }
    }

    /// The ends of an interval, the worse one first.
    fn ends(self, [low, high]: [f64; 2]) -> [f64; 2] {
        if self == Self::Accuracy { [low, high] } else { [high, low] }
    }

    /// Whether the real message is better than a control ([`Ordering::Greater`]), worse, or neither: question by question where the
    /// control was so compared, else by intervals that do not touch; none where there is no interval.
    fn against(self, real: &Score<'_>, control: &Score<'_>) -> Option<Ordering> {
        // An interval of the real message's advantage, and the value that means none.
        let pairs = control.paired.and_then(|p| match self {
            Self::Accuracy => Some((p.share_interval?, 0.5)),
            Self::Loss => Some((p.loss_interval?, 0.0)),
        });
        if let Some(([low, high], none)) = pairs {
            return Some(if low > none {
                Ordering::Greater
            } else if high < none {
                Ordering::Less
            } else {
                Ordering::Equal
            });
        }
        let clearly = |a: [f64; 2], b: [f64; 2]| self.better(self.ends(a)[0], self.ends(b)[1]);
        let (real, control) = (real.interval?, control.interval?);
        Some(clearly(real, control).cmp(&clearly(control, real)))
    }
}

impl Evidence<'_> {
    fn judge(mut self) -> Verdict {
        let measure = self.measure;
        // The best one first.
        let better = |a: &Score<'_>, b: &Score<'_>| measure.better(a.value, b.value);
        self.controls.sort_by(|a, b| better(b, a).cmp(&better(a, b)));
        let Self { real, of, .. } = &self;
        let said = |sentence: String, warning| Verdict { sentence, warning };
        if self.controls.is_empty() {
            let real = measure.describe(real);
            let why = "no control was scored, so this does not tell whether the message matters";
            return said(format!("{real} on {of}; {why}."), false);
        }
        let wins: Option<Vec<Ordering>> = self.controls.iter().map(|c| measure.against(real, c)).collect();
        let Some(wins) = wins else {
            return said(
                format!("{of} cannot tell whether the message matters: a score has no interval."),
                true,
            );
        };
        let wins = wins.into_iter().all(Ordering::is_gt);
        let against = measure.numbers(real);
        if wins {
            let best = &self.controls[0];
            let (loss, bound) = match measure {
                Measure::Accuracy => ("", "at most"),
                Measure::Loss => ("loss ", "at least"),
            };
            let guessing =
                self.guessing.map_or(String::new(), |g| format!("; guessing gives {:.1} %", 100.0 * g));
            let pairs = match best.paired.and_then(|p| p.only_right) {
                Some([message, control]) if measure == Measure::Accuracy => {
                    format!(
                        "; question by question, only the message is right {message} times, only the control {control}"
                    )
                }
                _ => String::new(),
            };
            let (name, best) = (best.name, measure.numbers(best));
            return said(
                format!(
                    "The message matters: {loss}{against} on {of} with the real message, {bound} {best} with a \
                     control ({name}){pairs}{guessing}."
                ),
                false,
            );
        }
        let all = |value: f64| {
            measure == Measure::Accuracy
                && self.controls.iter().chain([real]).all(|score| score.value == value)
        };
        let same = if all(0.0) {
            Some(
                "no answer is right, with the real message or with a control, so that there is nothing to lose",
            )
        } else if all(1.0) {
            Some(
                "every answer is right, with the real message or with a control, so that no message is needed",
            )
        } else {
            None
        };
        if let Some(why) = same {
            return said(format!("{of} cannot tell whether the message matters: {why}."), true);
        }
        let as_good: Vec<&Score<'_>> =
            self.controls.iter().filter(|c| measure.against(real, c) != Some(Ordering::Greater)).collect();
        let (who, verb) = if as_good.len() == 1 { ("A control", "works") } else { ("Controls", "work") };
        let clearly = as_good.iter().all(|c| measure.against(real, c) == Some(Ordering::Less));
        let how = if clearly { "better than" } else { "as well as" };
        let names: Vec<String> = as_good.iter().map(|c| measure.describe(c)).collect();
        said(
            format!(
                "{who} {verb} {how} the real message: {} against {against} on {of}; this team does not communicate.",
                names.join(", ")
            ),
            true,
        )
    }
}

/// `1 question`, `2 questions`.
fn count(n: usize, what: &str) -> String {
    format!("{n} {what}{}", if n == 1 { "" } else { "s" })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::evaluation::{Accuracy, Cost, Gains};

    fn accuracy(value: f64, half: f64) -> Accuracy {
        Accuracy { accuracy: value, interval: [value - half, value + half], checked: 600 }
    }

    fn comparison(rows: &[(&str, Part, f64)]) -> Comparison {
        let method = |&(name, part, value): &(&str, Part, f64)| Method {
            name: name.into(),
            part,
            accuracy: accuracy(value, 0.04),
            message_bytes: 0.0,
            cost: Cost { seconds: 0.0, forward_positions: 0.0 },
            against_real: None,
        };
        Comparison { title: String::new(), guessing: 0.25, rows: rows.iter().map(method).collect() }
    }

    fn evaluation(control: &str, loss: f64, accuracy: Option<Accuracy>) -> Evaluation {
        let loss_interval = Some([loss - 0.1, loss + 0.1]);
        Evaluation {
            control: control.into(),
            loss,
            loss_interval,
            perplexity: loss.exp(),
            accuracy,
            clusters: None,
            samples: 9,
            target_tokens: 9,
            message_bytes: 1,
            cost: None,
            against_real: None,
            gains: Gains::default(),
        }
    }

    #[track_caller]
    fn is(verdict: Option<Verdict>, warning: bool, sentence: &str) {
        assert_eq!(verdict, Some(Verdict { sentence: sentence.into(), warning }));
    }

    #[test]
    fn a_control_whose_interval_touches_that_of_the_message_is_named_first() {
        let rows = [
            ("solver alone", Part::Bound, 0.9),
            ("trained trace", Part::Trained, 0.62),
            ("control none", Part::Control, 0.25),
            ("control shuffled", Part::Control, 0.61),
        ];
        is(
            Verdict::of_comparison(&comparison(&rows)),
            true,
            "A control works as well as the real message: shuffled 61.0 % [57.0, 65.0] against 62.0 % [58.0, 66.0] on 600 questions; \
             this team does not communicate.",
        );
        let rows = [
            ("trained", Part::Trained, 0.5),
            ("control zero", Part::Control, 0.7),
            ("control none", Part::Control, 0.8),
        ];
        is(
            Verdict::of_comparison(&comparison(&rows)),
            true,
            "Controls work better than the real message: none 80.0 % [76.0, 84.0], zero 70.0 % [66.0, 74.0] against 50.0 % [46.0, 54.0] \
             on 600 questions; this team does not communicate.",
        );
    }

    #[test]
    fn a_message_that_beats_every_control_matters_whatever_leaving_one_sender_out_does() {
        let rows = [
            ("trained trace", Part::Trained, 0.97),
            ("control none", Part::Control, 0.24),
            ("control shuffled", Part::Control, 0.26),
            ("control drop:holder_a", Part::Control, 0.97),
            ("text, trained", Part::Baseline, 0.97),
        ];
        is(
            Verdict::of_comparison(&comparison(&rows)),
            false,
            "The message matters: 97.0 % [93.0, 101.0] on 600 questions with the real message, at most 26.0 % [22.0, 30.0] \
             with a control (shuffled); guessing gives 25.0 %.",
        );
        assert_eq!(Verdict::of_comparison(&comparison(&rows[3..])), None);
        let alone = Verdict::of_comparison(&comparison(&rows[..1])).unwrap();
        assert!(alone.sentence.contains("no control was scored") && !alone.warning, "{alone:?}");
    }

    #[test]
    fn scores_are_judged_by_accuracy_where_all_were_checked_and_by_loss_elsewhere() {
        let all = [
            evaluation("none", 3.0, Some(accuracy(0.2, 0.05))),
            evaluation("real", 1.0, Some(accuracy(0.22, 0.05))),
            evaluation("drop:critic", 1.0, None),
        ];
        let by_accuracy = Verdict::of_evaluations(&all[..2]).unwrap();
        assert!(by_accuracy.warning && by_accuracy.sentence.contains("none 20.0 %"), "{by_accuracy:?}");
        is(
            Verdict::of_evaluations(&all),
            false,
            "The message matters: loss 1.0000 [0.9000, 1.1000] on 9 samples with the real message, at least 3.0000 \
             [2.9000, 3.1000] with a control (none).",
        );
        let near = [evaluation("real", 1.0, None), evaluation("shuffled", 1.15, None)];
        is(
            Verdict::of_evaluations(&near),
            true,
            "A control works as well as the real message: shuffled loss 1.1500 [1.0500, 1.2500] against 1.0000 [0.9000, 1.1000] on 9 \
             samples; this team does not communicate.",
        );
    }

    #[test]
    fn the_same_questions_are_compared_in_pairs() {
        let paired = |share: [f64; 2]| Paired {
            loss_difference: 0.2,
            loss_interval: Some([0.1, 0.3]),
            only_right: Some([40, 12]),
            share_interval: Some(share),
        };
        // The intervals of the sums touch; those of the pairs say more.
        let mut all = comparison(&[("trained", Part::Trained, 0.62), ("control none", Part::Control, 0.58)]);
        all.rows[1].against_real = Some(paired([0.63, 0.87]));
        let sure = Verdict::of_comparison(&all).unwrap();
        assert!(!sure.warning && sure.sentence.contains("only the message is right 40 times"), "{sure:?}");
        all.rows[1].against_real = Some(paired([0.45, 0.7]));
        assert!(Verdict::of_comparison(&all).unwrap().sentence.contains("as well as"));
        let mut losses = [evaluation("real", 1.0, None), evaluation("none", 1.1, None)];
        losses[1].against_real = Some(paired([0.5, 0.5]));
        assert!(!Verdict::of_evaluations(&losses).unwrap().warning);
    }

    #[test]
    fn what_cannot_be_told_is_not_told() {
        assert_eq!(Verdict::of_evaluations(&[]), None);
        let said = |all: &[Evaluation]| Verdict::of_evaluations(all).unwrap();
        let [real, none] = ["real", "none"].map(|trace| evaluation(trace, 1.0, None));
        assert!(said(std::slice::from_ref(&real)).sentence.contains("no control was scored"));
        assert!(said(std::slice::from_ref(&none)).sentence.contains("the real message was not scored"));
        let one = Evaluation { loss_interval: None, samples: 1, ..real.clone() };
        let unsure = said(&[one, none.clone()]);
        assert!(unsure.warning && unsure.sentence.starts_with("1 sample cannot tell"), "{unsure:?}");
        // Where every method does the same, none of them shows what the message does.
        let same = |value: f64| {
            let rows = [("trained", Part::Trained, value), ("control none", Part::Control, value)];
            Verdict::of_comparison(&comparison(&rows)).unwrap()
        };
        let (nothing, everything) = (same(0.0), same(1.0));
        assert!(nothing.warning && nothing.sentence.starts_with("600 questions cannot tell"), "{nothing:?}");
        assert!(nothing.sentence.contains("no answer is right"), "{nothing:?}");
        assert!(
            everything.warning && everything.sentence.contains("every answer is right"),
            "{everything:?}"
        );
        assert!(same(0.5).sentence.contains("does not communicate"));
        // A loss that is not a number beats nothing.
        let broken = said(&[evaluation("real", f64::NAN, None), none]);
        assert!(broken.warning && broken.sentence.contains("not finite"), "{broken:?}");
    }

    #[test]
    fn training_is_summed_up_by_its_losses() {
        let loss = [Some(2.5), Some(0.5)];
        let fell = Verdict::of_training(200, loss, [Some(2.0), Some(0.25)]);
        assert!(fell.sentence.starts_with(
            "The held-out loss fell in 200 updates: 2.0000 before, 0.2500 after; training loss 2.5000"
        ));
        assert!(!fell.warning && Verdict::of_training(200, loss, [Some(2.0), Some(2.5)]).warning);
        let plain = Verdict::of_training(1, loss, [None, Some(0.25)]);
        assert!(plain.sentence.starts_with("After 1 update: training loss") && !plain.warning, "{plain:?}");
        assert!(Verdict::of_training(9, [Some(2.5), None], [None; 2]).warning);
    }
}
