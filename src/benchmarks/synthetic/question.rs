//! What can be asked about facts.

use super::{Fact, Relation};

/// A question with its answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Question {
    /// What the solver is asked.
    pub text: String,
    /// What it should say, all words of it: an item, after the place that leads to it where there are two steps.
    pub answer: String,
}

impl Question {
    /// The question about `fact`, one of `facts`, and the facts that it rests on; `None` where nobody asks about facts of its kind or
    /// where the facts do not answer it.
    pub fn about<'a>(fact: &'a Fact, facts: &'a [Fact]) -> Option<(Self, Vec<&'a Fact>)> {
        let Fact { subject, relation, object } = fact;
        match relation {
            Relation::Has => {
                let (text, answer) = (format!("what has {subject}"), object.to_string());
                Some((Self { text, answer }, vec![fact]))
            }
            Relation::In => {
                let there = facts.iter().find(|f| f.subject == *object && f.relation == Relation::Has)?;
                let (text, answer) = (format!("what near {subject}"), format!("{object} {}", there.object));
                Some((Self { text, answer }, vec![fact, there]))
            }
            Relation::Sees | Relation::Likes => None,
        }
    }
}
