//! Easy samples first: an update draws only those that the learner is competent for.

use std::fmt;
use std::ops::Range;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::text::{TokenizedSample, lines};

/// What makes a sample difficult.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Curriculum {
    /// All samples from the start.
    #[default]
    None,
    /// The rank of its target's length.
    Length,
    /// A number in `[0, 1]` in one of its fields.
    Field(String),
}

impl FromStr for Curriculum {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        match text {
            "none" => Ok(Self::None),
            "length" => Ok(Self::Length),
            _ => match text.strip_prefix("field:") {
                Some(name) if !name.is_empty() => Ok(Self::Field(name.into())),
                _ => Err(Error::invalid(format!(
                    "unknown curriculum `{text}`; it is `none`, `length` or `field:NAME`"
                ))),
            },
        }
    }
}

impl TryFrom<String> for Curriculum {
    type Error = Error;

    fn try_from(text: String) -> Result<Self> {
        text.parse()
    }
}

impl fmt::Display for Curriculum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => f.write_str("none"),
            Self::Length => f.write_str("length"),
            Self::Field(name) => write!(f, "field:{name}"),
        }
    }
}

impl From<Curriculum> for String {
    fn from(value: Curriculum) -> Self {
        value.to_string()
    }
}

impl Curriculum {
    /// The difficulty of each line, in `[0, 1]`, which is that of its hardest question; none without a curriculum.
    ///
    /// # Errors
    /// Names the line that lacks the field, or whose field is no number from 0 to 1.
    pub(crate) fn difficulties(&self, samples: &[TokenizedSample]) -> Result<Option<Vec<f64>>> {
        let lines = lines(samples);
        match self {
            Self::None => Ok(None),
            Self::Length => {
                if let Some(s) = samples.iter().find(|s| s.target.is_none()) {
                    return Err(Error::invalid(format!(
                        "line {}: curriculum = \"{self}\": there is no answer whose length could be ranked",
                        s.line
                    )));
                }
                let length = |s: &TokenizedSample| s.target.as_ref().map_or(0, Vec::len);
                let longest = |i: &usize| samples[lines[*i].clone()].iter().map(length).max();
                let mut order: Vec<usize> = (0..lines.len()).collect();
                order.sort_by_key(longest);
                let mut ranks = vec![0.0; lines.len()];
                for (rank, &i) in order.iter().enumerate() {
                    ranks[i] = rank as f64 / (lines.len().max(2) - 1) as f64;
                }
                Ok(Some(ranks))
            }
            Self::Field(name) => {
                let one = |s: &TokenizedSample| {
                    let wrong = |what: String| {
                        Error::invalid(format!("line {}: curriculum = \"{self}\": {what}", s.line))
                    };
                    let value = s.source.as_ref().and_then(|source| source.fields.get(name));
                    let value = value.ok_or_else(|| wrong(format!("the field `{name}` is missing")))?;
                    match value.as_f64() {
                        Some(x) if (0.0..=1.0).contains(&x) => Ok(x),
                        _ => Err(wrong(format!(
                            "the field `{name}` must be a number from 0 to 1, not {value}"
                        ))),
                    }
                };
                let each: Vec<f64> = samples.iter().map(one).collect::<Result<_>>()?;
                let hardest = |line: Range<usize>| each[line].iter().copied().fold(0.0, f64::max);
                Ok(Some(lines.into_iter().map(hardest).collect()))
            }
        }
    }
}

/// `min(1, sqrt(s·(1 − c₀²)/S + c₀²))`: how difficult a sample of update `s` (from 0) may be, of `S` updates until all are
/// (Platanios et al., arXiv 1903.09848).
pub fn competence(step: usize, total: usize, initial: f64) -> f64 {
    let square = initial * initial;
    (step as f64 * (1.0 - square) / total.max(1) as f64 + square).sqrt().min(1.0)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::text::Sample;

    #[test]
    fn competence_grows_from_its_start_to_one() {
        assert_eq!((competence(0, 10, 0.1), competence(10, 10, 0.1)), (0.1, 1.0));
        assert_eq!(competence(25, 10, 0.1), 1.0);
        assert!((competence(5, 10, 0.0) - 0.5f64.sqrt()).abs() < 1e-12);
    }

    #[test]
    fn length_ranks_targets() {
        let sample = |n: usize| TokenizedSample { target: Some(vec![1; n]), ..TokenizedSample::default() };
        let samples = [sample(3), sample(1), sample(2)];
        assert_eq!(Curriculum::Length.difficulties(&samples).unwrap().unwrap(), [1.0, 0.0, 0.5]);
        let error = Curriculum::Field("level".into()).difficulties(&samples).unwrap_err().to_string();
        assert_eq!(error, "line 0: curriculum = \"field:level\": the field `level` is missing");
    }

    #[test]
    fn a_line_is_as_hard_as_its_hardest_question() {
        let sample = |line, question, n: usize| {
            let fields = serde_json::json!({"level": n as f64 / 4.0}).as_object().unwrap().clone();
            let source = Some(Arc::new(Sample { fields, ..Sample::default() }));
            TokenizedSample { line, question, target: Some(vec![1; n]), source, ..TokenizedSample::default() }
        };
        let samples = [sample(1, 1, 2), sample(2, 1, 1), sample(2, 2, 4), sample(2, 3, 1), sample(3, 1, 3)];
        let of = |curriculum: Curriculum| curriculum.difficulties(&samples).unwrap().unwrap();
        assert_eq!(of(Curriculum::Length), [0.0, 1.0, 0.5]);
        assert_eq!(of(Curriculum::Field("level".into())), [0.5, 1.0, 0.75]);
    }
}
