//! By how much the real message is better than what stands in its place.

use serde::{Deserialize, Serialize};

use super::{Accuracy, Control, Paired};

/// How much better the real message is than one control, question by question.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Gain {
    /// Nats a target token: loss with the control minus loss with the real message.
    #[serde(deserialize_with = "crate::files::null::number")]
    pub loss: f64,
    /// Its 95 % interval ([`Paired::loss_interval`](super::Paired::loss_interval)).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub loss_interval: Option<[f64; 2]>,
    /// Accuracy with the real message minus accuracy with the control, where answers were checked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub accuracy: Option<f64>,
    /// Its 95 % interval: of the `m` of `n` questions that one of the two alone has right, the real message has a share between `a` and `b`
    /// ([`Paired::share_interval`](super::Paired::share_interval)), and the gain is between `m/n·(2a − 1)` and `m/n·(2b − 1)`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub accuracy_interval: Option<[f64; 2]>,
}

impl Gain {
    /// The gain over a control that was compared with the real message; `None` where it was not.
    fn over(paired: Option<Paired>, accuracy: Option<Accuracy>) -> Option<Self> {
        let paired = paired?;
        let checked = accuracy.map(|accuracy| accuracy.checked as f64);
        let share = |count: f64| checked.map(|n| count / n);
        let accuracy = paired.only_right.and_then(|[real, control]| share(real as f64 - control as f64));
        let interval =
            paired.only_right.zip(paired.share_interval).and_then(|([real, control], interval)| {
                let alone = share((real + control) as f64)?;
                Some(interval.map(|bound| alone * (2.0 * bound - 1.0)))
            });
        Some(Self {
            loss: paired.loss_difference,
            loss_interval: paired.loss_interval,
            accuracy,
            accuracy_interval: interval,
        })
    }
}

/// What the real message is better by, each where its control was scored on the same questions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Gains {
    /// Over another question's message (`shuffled`): what is in it of this question.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pairing_gain: Option<Gain>,
    /// Over the final agent's own rollout (`self`) of the same size: what was communicated, the computation set aside.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub communication_gain: Option<Gain>,
    /// Over nothing (`none`): all that the message brings.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub own_gain: Option<Gain>,
}

impl Gains {
    /// The gains over the controls among `scored`: each with how it compares with the real message, and its accuracy.
    pub fn new<'a>(scored: impl Iterator<Item = (&'a Control, Option<Paired>, Option<Accuracy>)>) -> Self {
        let mut gains = Self::default();
        for (control, paired, accuracy) in scored {
            let gain = match control {
                Control::Shuffled => &mut gains.pairing_gain,
                Control::SelfRollout => &mut gains.communication_gain,
                Control::None => &mut gains.own_gain,
                _ => continue,
            };
            *gain = Gain::over(paired, accuracy);
        }
        gains
    }

    /// Each gain that there is, with its name and the control that it is over.
    pub fn named(&self) -> impl Iterator<Item = (&'static str, Control, Gain)> {
        let all = [
            ("pairing gain", Control::Shuffled, self.pairing_gain),
            ("communication gain", Control::SelfRollout, self.communication_gain),
            ("own gain", Control::None, self.own_gain),
        ];
        all.into_iter().filter_map(|(name, control, gain)| Some((name, control, gain?)))
    }
}

#[cfg(test)]
mod tests {
    use super::super::SampleScore;
    use super::*;

    #[test]
    fn gains_are_differences_of_what_was_scored_on_the_same_questions() {
        let score = |line: usize, loss: f64, right: bool| SampleScore {
            line,
            question_index: 1,
            loss,
            target_tokens: 2,
            trace_positions: 0,
            is_correct: Some(right),
            text: None,
        };
        // Real has the first 14 right, the control the first 5 and the last one: nine against one.
        let real: Vec<_> = (0..20).map(|i| score(i, 1.0, i < 14)).collect();
        let control: Vec<_> =
            (0..20).map(|i| score(i, 1.5 + 0.1 * (i % 2) as f64, i < 5 || i == 19)).collect();
        let paired = Paired::new(&real, &control);
        let accuracy = Some(Accuracy { accuracy: 0.3, interval: [0.0, 1.0], checked: 20 });
        let scored =
            [(Control::SelfRollout, Some(paired)), (Control::None, None), (Control::Zero, Some(paired))];
        let gains = Gains::new(scored.iter().map(|(control, paired)| (control, *paired, accuracy)));
        let gain = gains.communication_gain.unwrap();
        assert!((gain.loss - 0.55).abs() < 1e-12 && gain.loss_interval == paired.loss_interval);
        assert!((gain.accuracy.unwrap() - (0.7 - 0.3)).abs() < 1e-12);
        // scipy.stats.binomtest(9, 10).proportion_ci() = (0.554984, 0.997471)
        let [low, high] = gain.accuracy_interval.unwrap();
        assert!((low - 0.054_984).abs() < 1e-5 && (high - 0.497_471).abs() < 1e-5, "{low} {high}");
        assert_eq!((gains.pairing_gain, gains.own_gain), (None, None));
        let written = serde_json::to_value(gains).unwrap();
        assert!(written.get("pairing_gain").is_none() && written["communication_gain"]["accuracy"].is_f64());
        assert_eq!(serde_json::from_value::<Gains>(written).unwrap(), gains);
    }
}
