//! The words of the tasks and what can be said with them: `has ana lamp .`

use std::fmt;

/// People.
pub const NAMES: [&str; 32] = [
    "ana", "bob", "cleo", "dan", "eva", "finn", "gia", "hugo", "ida", "jon", "kira", "leo", "mia", "ned",
    "olga", "paul", "quin", "rosa", "sam", "tess", "uma", "vic", "wes", "xena", "yuri", "zoe", "abel",
    "beth", "carl", "dora", "emil", "faye",
];

/// Where people can be.
pub const PLACES: [&str; 32] = [
    "rome", "oslo", "lima", "cairo", "delhi", "paris", "kyoto", "quito", "accra", "berlin", "dakar", "hanoi",
    "lagos", "madrid", "nairobi", "porto", "riga", "seoul", "tunis", "vienna", "warsaw", "zagreb", "athens",
    "bogota", "dublin", "geneva", "havana", "london", "milan", "prague", "sofia", "turin",
];

/// What people and places can have: the answers.
pub const ITEMS: [&str; 32] = [
    "lamp", "cup", "key", "book", "drum", "rope", "coin", "ring", "boat", "kite", "harp", "sword", "clock",
    "chair", "spoon", "shoe", "mirror", "ladder", "basket", "candle", "violin", "hammer", "bottle", "carpet",
    "pencil", "ticket", "wallet", "camera", "needle", "pillow", "bucket", "whistle",
];

/// The other words of the language. Verbs come first, as in Welsh: a subject then stands right before what is said of it, which a small
/// transformer learns to look up soonest.
pub const WORDS: [&str; 8] = ["has", "in", "sees", "likes", "near", ".", "what", "report"];

/// What a fact says of its subject.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Relation {
    /// A person or place has an item.
    Has,
    /// A person is in a place.
    In,
    /// A person sees an item; nobody is ever asked about it.
    Sees,
    /// A person likes an item; nobody is ever asked about it.
    Likes,
}

impl fmt::Display for Relation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Has => "has",
            Self::In => "in",
            Self::Sees => "sees",
            Self::Likes => "likes",
        })
    }
}

/// One fact.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Fact {
    /// Whom it is about.
    pub subject: &'static str,
    /// What it says.
    pub relation: Relation,
    /// What it names.
    pub object: &'static str,
}

impl fmt::Display for Fact {
    /// The sentence, `has ana lamp .`
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} {} .", self.relation, self.subject, self.object)
    }
}

impl Fact {
    /// The fact in a report: without words that go without saying, `ana lamp`.
    pub fn short(&self) -> String {
        match self.relation {
            Relation::Has | Relation::In => format!("{} {}", self.subject, self.object),
            Relation::Sees | Relation::Likes => format!("{} {} {}", self.relation, self.subject, self.object),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn all_words_differ() {
        let all: Vec<&str> = [&NAMES[..], &PLACES, &ITEMS, &WORDS].concat();
        assert_eq!(all.iter().collect::<BTreeSet<_>>().len(), all.len());
    }
}
