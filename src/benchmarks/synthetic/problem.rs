//! Who knows what, and what is asked about it.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use super::{Fact, Question, Relation};
use crate::text::Sample;

/// Questions whose evidence is spread over the holders.
#[derive(Clone, Debug, PartialEq)]
pub struct Problem {
    /// The facts of each holder, in the order in which it reads them.
    pub evidence: Vec<Vec<Fact>>,
    /// What the solver is asked, each by itself; no two are the same.
    pub questions: Vec<Question>,
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

    /// What each holder would write who knew which facts matter, by role, at most `words` words of it: `ana lamp bob cup`.
    pub(crate) fn reports_by_role(&self, words: usize) -> BTreeMap<String, String> {
        let matters = |f: &&Fact| matches!(f.relation, Relation::Has | Relation::In);
        self.by_role(|facts| {
            let report = facts.iter().filter(matters).map(Fact::short).collect::<Vec<_>>().join(" ");
            report.split(' ').take(words).collect::<Vec<_>>().join(" ")
        })
    }

    fn by_role(&self, text: impl Fn(&[Fact]) -> String) -> BTreeMap<String, String> {
        self.evidence.iter().enumerate().map(|(i, facts)| (Self::holder(i), text(facts))).collect()
    }

    /// The fields of a data line: `evidence` by role, `difficulty`, and `question` and `answer`, or the list `questions` of several.
    pub fn fields(&self) -> Map<String, Value> {
        let asked = |q: &Question| Map::from_iter([named("question", &*q.text), named("answer", &*q.answer)]);
        self.fields_asking(asked)
    }

    /// [`Problem::fields`] without answers, for training without labels.
    pub fn fields_without_answers(&self) -> Map<String, Value> {
        self.fields_asking(|q| Map::from_iter([named("question", &*q.text)]))
    }

    fn fields_asking(&self, asked: impl Fn(&Question) -> Map<String, Value>) -> Map<String, Value> {
        let mut fields = match &self.questions[..] {
            [one] => asked(one),
            several => Map::from_iter([named("questions", several.iter().map(asked).collect::<Vec<_>>())]),
        };
        fields.extend([
            named("evidence", json!(self.evidence_by_role())),
            named("difficulty", self.difficulty),
        ]);
        fields
    }

    /// [`Problem::fields`] and `trajectories`: each holder's report, of at most `words` words.
    pub fn fields_with_trajectories(&self, words: usize) -> Map<String, Value> {
        let mut fields = self.fields();
        fields.insert("trajectories".into(), json!(self.reports_by_role(words)));
        fields
    }

    /// [`Problem::fields`] and `reports`: what each holder would write, as with trajectories, to be read.
    pub fn fields_with_reports(&self, words: usize) -> Map<String, Value> {
        let mut fields = self.fields();
        fields.insert("reports".into(), json!(self.reports_by_role(words)));
        fields
    }

    /// The problem with its first question, as line `line` of a data file gives it.
    pub fn sample(&self, line: usize) -> Sample {
        let first = Self { questions: self.questions[..1].to_vec(), ..self.clone() };
        let answer = Some(first.questions[0].answer.clone());
        Sample { line, fields: first.fields(), answer, ..Sample::default() }
    }
}

fn named(name: &str, value: impl Into<Value>) -> (String, Value) {
    (name.to_string(), value.into())
}
