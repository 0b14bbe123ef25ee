//! One question, and who knows what.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use super::{Fact, Relation};
use crate::text::Sample;

/// A question whose evidence is spread over the holders.
#[derive(Clone, Debug, PartialEq)]
pub struct Problem {
    /// The facts of each holder, in the order in which it reads them.
    pub evidence: Vec<Vec<Fact>>,
    /// What the solver is asked.
    pub question: String,
    /// What it should say, all words of it: an item, after the place that leads to it where there are two steps.
    pub answer: String,
    /// Facts of a holder by the most that a problem of its configuration has, from 0 to 1.
    pub difficulty: f64,
}

impl Problem {
    /// The name of a holder, from 0: `holder_1`, …
    pub fn holder(index: usize) -> String {
        format!("holder_{}", index + 1)
    }

    /// The facts of each holder as it reads them, by role: `has ana lamp . has bob cup .`
    pub(crate) fn evidence_by_role(&self) -> BTreeMap<String, String> {
        self.by_role(|facts| facts.iter().map(Fact::to_string).collect::<Vec<_>>().join(" "))
    }

    /// What each holder would write who knew which facts matter, by role: `ana lamp bob cup`.
    pub(crate) fn reports_by_role(&self) -> BTreeMap<String, String> {
        let matters = |f: &&Fact| matches!(f.relation, Relation::Has | Relation::In);
        self.by_role(|facts| facts.iter().filter(matters).map(Fact::short).collect::<Vec<_>>().join(" "))
    }

    fn by_role(&self, text: impl Fn(&[Fact]) -> String) -> BTreeMap<String, String> {
        self.evidence.iter().enumerate().map(|(i, facts)| (Self::holder(i), text(facts))).collect()
    }

    /// The fields of a data line: `question`, `answer`, `evidence` by role and `difficulty`.
    pub fn fields(&self) -> Map<String, Value> {
        let line = json!({
            "question": self.question,
            "answer": self.answer,
            "evidence": self.evidence_by_role(),
            "difficulty": self.difficulty,
        });
        match line {
            Value::Object(fields) => fields,
            _ => unreachable!("the macro makes an object"),
        }
    }

    /// [`Problem::fields`] and `trajectories`: each holder's report, of at most `words` words.
    pub fn fields_with_trajectories(&self, words: usize) -> Map<String, Value> {
        let cut = |text: String| text.split(' ').take(words).collect::<Vec<_>>().join(" ");
        let reports = self.reports_by_role().into_iter().map(|(role, text)| (role, Value::from(cut(text))));
        let mut fields = self.fields();
        fields.insert("trajectories".into(), reports.collect());
        fields
    }

    /// The problem as line `line` of a data file gives it.
    pub fn sample(&self, line: usize) -> Sample {
        Sample { line, fields: self.fields(), answer: Some(self.answer.clone()), ..Sample::default() }
    }
}
