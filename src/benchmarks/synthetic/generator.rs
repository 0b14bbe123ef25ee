//! Problems by family, one after another.

use std::fmt;
use std::str::FromStr;

use rand::Rng;
use rand::seq::{IndexedRandom, SliceRandom, index};

use super::{Fact, ITEMS, NAMES, PLACES, Problem, Relation, Split};
use crate::error::{Error, Result};
use crate::random::generator;

named_enum! {
    /// What makes a question need a message.
    Family, "family" {
        /// One of many facts, of one holder, is asked for.
        #[default]
        Relay = "relay",
        /// A fact on a person and a fact on the place where that person is, of two holders, make the answer.
        TwoHop = "two-hop",
        /// As `relay`, but three facts of four are of kinds that nobody is ever asked about.
        Distractor = "distractor",
    }
}

/// How many facts a holder has: a number, or a range from which each problem draws.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Facts {
    /// Fewest.
    pub min: usize,
    /// Most.
    pub max: usize,
}

impl Facts {
    /// Always so many.
    pub fn exactly(n: usize) -> Self {
        Self { min: n, max: n }
    }
}

impl FromStr for Facts {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let wrong = || Error::invalid(format!("`{text}` is neither a number of facts nor a range like 2-8"));
        let number = |part: &str| part.trim().parse::<usize>().map_err(|_| wrong());
        let facts = match text.split_once('-') {
            Some((min, max)) => Self { min: number(min)?, max: number(max)? },
            None => Self::exactly(number(text)?),
        };
        if facts.min == 0 || facts.min > facts.max { Err(wrong()) } else { Ok(facts) }
    }
}

impl fmt::Display for Facts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.min == self.max {
            true => write!(f, "{}", self.min),
            false => write!(f, "{}-{}", self.min, self.max),
        }
    }
}

/// Which problems to make.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TaskConfig {
    /// What makes a question need a message.
    pub family: Family,
    /// Agents that hold evidence.
    pub holders: usize,
    /// Facts of each holder.
    pub facts: Facts,
}

impl TaskConfig {
    /// Checks that the language has words for so many facts.
    ///
    /// # Errors
    /// Naming what there is too much or too little of.
    pub fn validate(&self) -> Result<()> {
        let (family, holders) = (self.family, self.holders);
        let least = if family == Family::TwoHop { 2 } else { 1 };
        if holders < least {
            return Err(Error::invalid(format!("{family} needs at least {least} holder(s), not {holders}")));
        }
        // Nobody is the subject of two facts that could be asked for.
        let (subjects, what, room) = match family {
            Family::Relay => (holders.saturating_mul(self.facts.max), "names", NAMES.len()),
            Family::TwoHop => {
                (holders.div_ceil(2).saturating_mul(self.facts.max), "names and places", NAMES.len())
            }
            Family::Distractor => (holders.saturating_mul(relevant(self.facts.max)), "names", NAMES.len()),
        };
        if subjects > room || self.facts.max > NAMES.len() {
            return Err(Error::invalid(format!(
                "{holders} holders with {} facts each need {} {what}, but the language has {room}; ask for fewer facts or holders",
                self.facts.max,
                subjects.max(self.facts.max)
            )));
        }
        Ok(())
    }

    /// Refuses more problems than fit into memory; `name` is the setting that asks for `count`.
    ///
    /// # Errors
    /// Naming the setting and the most there may be.
    pub fn check_count(name: &str, count: usize) -> Result<()> {
        const MOST: usize = 1 << 20;
        if count > MOST {
            return Err(Error::invalid(format!("{name} = {count} is too large: at most {MOST}")));
        }
        Ok(())
    }

    /// Problems of a split; each run of as many as there are items has every item as an answer once, in random order. The same seed
    /// gives the same problems, however many are asked for.
    ///
    /// # Panics
    /// If the configuration is not valid.
    pub fn problems(self, split: Split, seed: u64, count: usize) -> impl Iterator<Item = Problem> {
        let side = u64::from(split == Split::Test);
        let mut order: Vec<usize> = Vec::new();
        (0..count).map(move |i| {
            let (block, at) = (i / ITEMS.len(), i % ITEMS.len());
            if at == 0 {
                order = (0..ITEMS.len()).collect();
                order.shuffle(&mut generator(seed, (1 << 63) | (2 * block as u64 + side)));
            }
            self.problem(split, order[at], &mut generator(seed, 2 * i as u64 + side))
        })
    }

    /// A problem whose answer is `ITEMS[answer]`.
    fn problem(&self, split: Split, answer: usize, rng: &mut impl Rng) -> Problem {
        let facts = rng.random_range(self.facts.min..=self.facts.max);
        let difficulty = facts as f64 / self.facts.max as f64;
        match self.family {
            Family::Relay => {
                let (all, asked) = owners(self.holders * facts, split, answer, &NAMES, rng);
                let evidence = all.chunks(facts).map(<[Fact]>::to_vec).collect();
                asks_for_item(evidence, all[asked].subject, ITEMS[answer], difficulty)
            }
            Family::Distractor => {
                let few = relevant(facts);
                let (all, asked) = owners(self.holders * few, split, answer, &NAMES, rng);
                let evidence = all.chunks(few).map(|own| {
                    let mut own = own.to_vec();
                    own.extend((few..facts).map(|_| distraction(split, rng)));
                    own.shuffle(rng);
                    own
                });
                asks_for_item(evidence.collect(), all[asked].subject, ITEMS[answer], difficulty)
            }
            Family::TwoHop => {
                // Holders of facts on people come first; where their number is odd, they are one more.
                let on_people = self.holders.div_ceil(2);
                let on_places = self.holders - on_people;
                let n = on_people * facts;
                let (mut second, asked) = owners(n, split, answer, &PLACES, rng);
                let asked = second[asked];
                let places: Vec<usize> = second.iter().map(|f| position(&PLACES, f.subject)).collect();
                let people =
                    matched(&places, NAMES.len(), None, |place, name| split.allows(name, place), rng);
                let mut first: Vec<Fact> = second
                    .iter()
                    .zip(people)
                    .map(|(f, name)| Fact { subject: NAMES[name], relation: Relation::In, object: f.subject })
                    .collect();
                let name = first.iter().find(|f| f.object == asked.subject).expect("each place has a person");
                let question = format!("what near {}", name.subject);
                first.shuffle(rng);
                second.shuffle(rng);
                let mut evidence: Vec<Vec<Fact>> = first.chunks(facts).map(<[Fact]>::to_vec).collect();
                evidence.extend(second.chunks(n.div_ceil(on_places)).map(<[Fact]>::to_vec));
                let answer = format!("{} {}", asked.subject, asked.object);
                Problem { evidence, question, answer, difficulty }
            }
        }
    }
}

/// Facts of a holder that can be asked for, among distractions.
fn relevant(facts: usize) -> usize {
    (facts / 4).max(1)
}

fn asks_for_item(evidence: Vec<Vec<Fact>>, subject: &str, item: &str, difficulty: f64) -> Problem {
    Problem { evidence, question: format!("what has {subject}"), answer: item.to_string(), difficulty }
}

/// `n` facts on who has what, all of other subjects and items, and the place among them, drawn evenly, of the one that `answer` is in.
fn owners(
    n: usize,
    split: Split,
    answer: usize,
    subjects: &[&'static str; 32],
    rng: &mut impl Rng,
) -> (Vec<Fact>, usize) {
    let owners: Vec<usize> = (0..subjects.len()).filter(|&s| split.allows(s, answer)).collect();
    let owner = *owners.choose(rng).expect("every item has owners");
    let asked = rng.random_range(0..n);
    let mut who: Vec<usize> = index::sample(rng, subjects.len() - 1, n - 1).into_iter().collect();
    who.iter_mut().for_each(|s| *s += usize::from(*s >= owner));
    who.insert(asked, owner);
    let items = matched(&who, ITEMS.len(), Some((asked, answer)), |s, item| split.allows(s, item), rng);
    let fact = |(&s, item): (&usize, usize)| Fact {
        subject: subjects[s],
        relation: Relation::Has,
        object: ITEMS[item],
    };
    (who.iter().zip(items).map(fact).collect(), asked)
}

/// A fact that nobody asks about; its words are drawn from all, also those that matter elsewhere.
fn distraction(split: Split, rng: &mut impl Rng) -> Fact {
    let who = rng.random_range(0..NAMES.len());
    let items: Vec<usize> = (0..ITEMS.len()).filter(|&i| split.allows(who, i)).collect();
    let item = *items.choose(rng).expect("everybody can have something");
    let relation = if rng.random() { Relation::Sees } else { Relation::Likes };
    Fact { subject: NAMES[who], relation, object: ITEMS[item] }
}

fn position(words: &[&str], word: &str) -> usize {
    words.iter().position(|w| *w == word).expect("facts are made of the language's words")
}

/// A random partner in `0..room` for each of `left`, no two the same, that `allows` pairs with it; `fixed` is the place of one of `left` and
/// its partner. Augmenting paths (Kuhn): in a language where every word goes with as many others, there always is a matching.
fn matched(
    left: &[usize],
    room: usize,
    fixed: Option<(usize, usize)>,
    allows: impl Fn(usize, usize) -> bool,
    rng: &mut impl Rng,
) -> Vec<usize> {
    let mut order: Vec<usize> = (0..room).collect();
    order.shuffle(rng);
    let mut of: Vec<Option<usize>> = vec![None; room];
    let free = |partner: usize| fixed.is_none_or(|(_, taken)| taken != partner);
    let choices: Vec<Vec<usize>> =
        left.iter().map(|&l| order.iter().copied().filter(|&p| free(p) && allows(l, p)).collect()).collect();
    for i in (0..left.len()).filter(|&i| fixed.is_none_or(|(at, _)| at != i)) {
        let found = augment(i, &choices, &mut of, &mut vec![false; room]);
        assert!(found, "words go with equally many others, so that there is a matching");
    }
    let mut partners = vec![0; left.len()];
    for (partner, l) in of.into_iter().enumerate().filter_map(|(p, l)| Some((p, l?))) {
        partners[l] = partner;
    }
    if let Some((at, partner)) = fixed {
        partners[at] = partner;
    }
    partners
}

/// Finds a partner for `i`, moving others to another one where that helps.
fn augment(i: usize, choices: &[Vec<usize>], of: &mut [Option<usize>], seen: &mut [bool]) -> bool {
    for &p in &choices[i] {
        if std::mem::replace(&mut seen[p], true) {
            continue;
        }
        if of[p].is_none_or(|other| augment(other, choices, of, seen)) {
            of[p] = Some(i);
            return true;
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use super::*;

    fn configs() -> Vec<TaskConfig> {
        let one = |family, holders, facts| TaskConfig { family, holders, facts };
        vec![
            one(Family::Relay, 2, Facts::exactly(4)),
            one(Family::Relay, 1, Facts::exactly(32)),
            one(Family::Relay, 2, Facts { min: 2, max: 16 }),
            one(Family::TwoHop, 2, Facts::exactly(4)),
            one(Family::TwoHop, 3, Facts::exactly(5)),
            one(Family::TwoHop, 2, Facts::exactly(32)),
            one(Family::Distractor, 2, Facts::exactly(8)),
        ]
    }

    /// The answer that follows from all facts together, found by reading the sentences.
    fn solve(problem: &Problem) -> String {
        let facts: Vec<Fact> = problem.evidence.concat();
        let of = |who: &str, relation| {
            let mut found = facts.iter().filter(|f| f.subject == who && f.relation == relation);
            let fact = found.next().expect("the evidence answers the question");
            assert!(found.next().is_none(), "two facts answer the same question: {problem:?}");
            fact.object
        };
        let words: Vec<&str> = problem.question.split(' ').collect();
        match words[1] {
            "has" => of(words[2], Relation::Has).to_string(),
            _ => {
                let place = of(words[2], Relation::In);
                format!("{place} {}", of(place, Relation::Has))
            }
        }
    }

    #[test]
    fn every_answer_follows_from_the_evidence_of_its_split() {
        for config in configs() {
            config.validate().unwrap();
            for split in [Split::Train, Split::Test] {
                for problem in config.problems(split, 3, 96) {
                    assert_eq!(solve(&problem), problem.answer, "{config:?}");
                    assert_eq!(problem.evidence.len(), config.holders, "{config:?}");
                    for fact in problem.evidence.concat() {
                        let place = |words: &[&str], word| words.iter().position(|w| *w == word);
                        let subject = place(&NAMES, fact.subject).or_else(|| place(&PLACES, fact.subject));
                        let object = place(&ITEMS, fact.object).or_else(|| place(&PLACES, fact.object));
                        assert!(split.allows(subject.unwrap(), object.unwrap()), "{fact} in {split:?}");
                    }
                }
            }
        }
    }

    #[test]
    fn answers_are_equiprobable_and_stand_anywhere() {
        for config in configs().into_iter().filter(|c| c.facts == Facts::exactly(4)) {
            let (mut answers, mut slots) = (BTreeMap::new(), BTreeMap::new());
            for problem in config.problems(Split::Test, 5, 640) {
                let item = problem.answer.rsplit(' ').next().unwrap().to_string();
                let at = problem.evidence.concat().iter().position(|f| f.object == item).unwrap();
                *answers.entry(item).or_insert(0) += 1;
                *slots.entry(at).or_insert(0usize) += 1;
                let lengths: BTreeSet<usize> =
                    problem.evidence.concat().iter().map(|f| f.to_string().split(' ').count()).collect();
                assert_eq!(lengths, BTreeSet::from([4]));
            }
            assert_eq!(answers.len(), 32);
            assert!(answers.values().all(|&n| n == 20), "{answers:?}");
            let expected = 640 / slots.len();
            assert!(
                slots.len() >= 4 && slots.values().all(|n| n.abs_diff(expected) < expected / 3),
                "{slots:?}"
            );
        }
    }

    #[test]
    fn the_same_seed_gives_the_same_problems_whatever_their_number() {
        let config = configs()[2];
        let some: Vec<Problem> = config.problems(Split::Train, 7, 10).collect();
        assert_eq!(some, config.problems(Split::Train, 7, 50).take(10).collect::<Vec<_>>());
        assert_ne!(some, config.problems(Split::Train, 8, 10).collect::<Vec<_>>());
    }

    #[test]
    fn more_facts_than_words_are_refused() {
        let error = |family, holders, facts: &str| {
            TaskConfig { family, holders, facts: facts.parse().unwrap() }.validate().unwrap_err().to_string()
        };
        assert_eq!(
            error(Family::Relay, 4, "9"),
            "4 holders with 9 facts each need 36 names, but the language has 32; ask for fewer facts or holders"
        );
        assert!(error(Family::TwoHop, 2, "2-33").contains("need 33 names and places"));
        assert!(error(Family::Distractor, 1, "40").contains("need 40 names"));
        assert!(error(Family::TwoHop, 1, "4").contains("at least 2"));
        for text in ["0", "x", "8-2", "-3", ""] {
            let error = text.parse::<Facts>().unwrap_err().to_string();
            assert_eq!(error, format!("`{text}` is neither a number of facts nor a range like 2-8"));
        }
    }
}
