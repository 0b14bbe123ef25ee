//! Problems by family, one after another.

use rand::Rng;
use rand::seq::{IndexedRandom, SliceRandom, index};

use super::matching::matched;
use super::{Evidence, Fact, Facts, HeldOut, ITEMS, NAMES, PLACES, Problem, Question, Relation, Split};
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

/// Which problems to make.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TaskConfig {
    /// What makes a question need a message.
    pub family: Family,
    /// Agents that hold evidence.
    pub holders: usize,
    /// Facts of each holder.
    pub facts: Facts,
    /// Whether every test problem, and every other training problem by chance, has the most facts.
    pub full_size: bool,
    /// What training data never pairs.
    pub held_out: HeldOut,
    /// In which form holders get their facts.
    pub evidence: Evidence,
    /// Most questions about a training problem; it has fewer where its facts answer fewer. Test problems have one.
    pub questions: usize,
}

impl Default for TaskConfig {
    fn default() -> Self {
        Self {
            family: Family::Relay,
            holders: 2,
            facts: Facts::exactly(4),
            full_size: false,
            held_out: HeldOut::Half,
            evidence: Evidence::Text,
            questions: 1,
        }
    }
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
        if self.evidence == Evidence::Image && self.facts.max > 1 {
            return Err(Error::invalid(format!(
                "an image has room for 1 fact, not {}; ask for one, and for more holders",
                self.facts.max
            )));
        }
        if self.questions == 0 {
            return Err(Error::invalid("a problem needs at least 1 question, not 0"));
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

    /// A problem whose first answer is `ITEMS[answer]`.
    fn problem(&self, split: Split, answer: usize, rng: &mut impl Rng) -> Problem {
        let Facts { min, max } = self.facts;
        let full = self.full_size && (split == Split::Test || rng.random());
        let facts = if full { max } else { rng.random_range(min..=max) };
        let (evidence, asked) = match self.family {
            Family::Relay => {
                let (all, asked) = self.owners(self.holders * facts, split, answer, &NAMES, rng);
                (all.chunks(facts).map(<[Fact]>::to_vec).collect(), asked)
            }
            Family::Distractor => {
                let few = relevant(facts);
                let (all, asked) = self.owners(self.holders * few, split, answer, &NAMES, rng);
                let evidence = all.chunks(few).map(|own| {
                    let mut own = own.to_vec();
                    own.extend((few..facts).map(|_| self.distraction(split, rng)));
                    own.shuffle(rng);
                    own
                });
                (evidence.collect(), asked)
            }
            Family::TwoHop => self.two_hops(facts, split, answer, rng),
        };
        let most = if split == Split::Test { 1 } else { self.questions };
        let questions = self.questions(&evidence.concat(), &asked, split, most, rng);
        Problem { evidence, questions, difficulty: facts as f64 / max as f64 }
    }

    /// The question about `asked`, one of `facts`, and then, in random order, others of its kind: at most `most` in all.
    fn questions(
        &self,
        facts: &[Fact],
        asked: &Fact,
        split: Split,
        most: usize,
        rng: &mut impl Rng,
    ) -> Vec<Question> {
        let may_be_asked = |fact: &&Fact| {
            fact.relation == asked.relation
                && fact.subject != asked.subject
                && Question::about(fact, facts).is_some_and(|(_, on)| on.iter().all(|f| self.asks(split, f)))
        };
        let others: Vec<&Fact> = facts.iter().filter(may_be_asked).collect();
        let others = others.choose_multiple(rng, most - 1).copied();
        let ask = |fact| Question::about(fact, facts).expect("its facts are there").0;
        std::iter::once(asked).chain(others).map(ask).collect()
    }

    fn asks(&self, split: Split, fact: &Fact) -> bool {
        let place = |words: &[&str], word: &str| words.iter().position(|w| *w == word);
        let [subject, object] = [(fact.subject, &NAMES), (fact.object, &ITEMS)]
            .map(|(word, words)| place(words, word).unwrap_or_else(|| position(&PLACES, word)));
        self.held_out.asks(split, subject, object)
    }

    /// Facts on people and facts on places, and that on the person who is asked for.
    fn two_hops(
        &self,
        facts: usize,
        split: Split,
        answer: usize,
        rng: &mut impl Rng,
    ) -> (Vec<Vec<Fact>>, Fact) {
        // Holders of facts on people come first; where their number is odd, they are one more.
        let on_people = self.holders.div_ceil(2);
        let on_places = self.holders - on_people;
        let n = on_people * facts;
        let (mut second, asked) = self.owners(n, split, answer, &PLACES, rng);
        let places: Vec<usize> = second.iter().map(|f| position(&PLACES, f.subject)).collect();
        let asked_place = position(&PLACES, asked.subject);
        let goes_together = |place: usize, name: usize| match place == asked_place {
            true => self.held_out.asks(split, name, place),
            false => self.held_out.allows(split, name, place),
        };
        let people = matched(&places, NAMES.len(), None, goes_together, rng);
        let mut first: Vec<Fact> = second
            .iter()
            .zip(people)
            .map(|(f, name)| Fact { subject: NAMES[name], relation: Relation::In, object: f.subject })
            .collect();
        let asked = *first.iter().find(|f| f.object == asked.subject).expect("each place has a person");
        first.shuffle(rng);
        second.shuffle(rng);
        let mut evidence: Vec<Vec<Fact>> = first.chunks(facts).map(<[Fact]>::to_vec).collect();
        evidence.extend(second.chunks(n.div_ceil(on_places)).map(<[Fact]>::to_vec));
        (evidence, asked)
    }

    /// `n` facts on who has what, all of other subjects and items, and the one among them, drawn evenly, that `answer` is in.
    fn owners(
        &self,
        n: usize,
        split: Split,
        answer: usize,
        subjects: &[&'static str; 32],
        rng: &mut impl Rng,
    ) -> (Vec<Fact>, Fact) {
        let owners: Vec<usize> =
            (0..subjects.len()).filter(|&s| self.held_out.asks(split, s, answer)).collect();
        let owner = *owners.choose(rng).expect("every item has owners");
        let asked = rng.random_range(0..n);
        let mut who: Vec<usize> = index::sample(rng, subjects.len() - 1, n - 1).into_iter().collect();
        who.iter_mut().for_each(|s| *s += usize::from(*s >= owner));
        who.insert(asked, owner);
        let allows = |s, item| self.held_out.allows(split, s, item);
        let items = matched(&who, ITEMS.len(), Some((asked, answer)), allows, rng);
        let fact = |(&s, item): (&usize, usize)| Fact {
            subject: subjects[s],
            relation: Relation::Has,
            object: ITEMS[item],
        };
        let all: Vec<Fact> = who.iter().zip(items).map(fact).collect();
        let asked = all[asked];
        (all, asked)
    }

    /// A fact that nobody asks about; its words are drawn from all, also those that matter elsewhere.
    fn distraction(&self, split: Split, rng: &mut impl Rng) -> Fact {
        let who = rng.random_range(0..NAMES.len());
        let items: Vec<usize> = (0..ITEMS.len()).filter(|&i| self.held_out.allows(split, who, i)).collect();
        let item = *items.choose(rng).expect("everybody can have something");
        let relation = if rng.random() { Relation::Sees } else { Relation::Likes };
        Fact { subject: NAMES[who], relation, object: ITEMS[item] }
    }
}

/// Facts of a holder that can be asked for, among distractions.
fn relevant(facts: usize) -> usize {
    (facts / 4).max(1)
}

fn position(words: &[&str], word: &str) -> usize {
    words.iter().position(|w| *w == word).expect("facts are made of the language's words")
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use super::*;

    fn configs() -> Vec<TaskConfig> {
        let one = |family, holders, facts| TaskConfig { family, holders, facts, ..TaskConfig::default() };
        let eighth = |family, facts| TaskConfig {
            full_size: true,
            held_out: HeldOut::Eighth,
            questions: 4,
            ..one(family, 2, Facts { min: 1, max: facts })
        };
        vec![
            one(Family::Relay, 2, Facts::exactly(4)),
            one(Family::Relay, 1, Facts::exactly(32)),
            one(Family::Relay, 2, Facts { min: 2, max: 16 }),
            one(Family::TwoHop, 2, Facts::exactly(4)),
            one(Family::TwoHop, 3, Facts::exactly(5)),
            one(Family::TwoHop, 2, Facts::exactly(32)),
            one(Family::Distractor, 2, Facts::exactly(8)),
            eighth(Family::Relay, 16),
            eighth(Family::TwoHop, 8),
            eighth(Family::Distractor, 8),
        ]
    }

    /// The answer that follows from all facts together, found by reading the sentences.
    fn solve(problem: &Problem, question: &str) -> String {
        let facts: Vec<Fact> = problem.evidence.concat();
        let of = |who: &str, relation| {
            let mut found = facts.iter().filter(|f| f.subject == who && f.relation == relation);
            let fact = found.next().expect("the evidence answers the question");
            assert!(found.next().is_none(), "two facts answer the same question: {problem:?}");
            fact.object
        };
        let words: Vec<&str> = question.split(' ').collect();
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
                    for question in &problem.questions {
                        assert_eq!(solve(&problem, &question.text), question.answer, "{config:?}");
                    }
                    assert_eq!(problem.evidence.len(), config.holders, "{config:?}");
                    for fact in problem.evidence.concat() {
                        let (subject, object) = pair(&fact);
                        assert!(config.held_out.allows(split, subject, object), "{fact} in {split:?}");
                    }
                }
            }
        }
    }

    /// The places of a fact's words in their lists.
    fn pair(fact: &Fact) -> (usize, usize) {
        let place = |words: &[&str], word| words.iter().position(|w| *w == word);
        let subject = place(&NAMES, fact.subject).or_else(|| place(&PLACES, fact.subject));
        let object = place(&ITEMS, fact.object).or_else(|| place(&PLACES, fact.object));
        (subject.unwrap(), object.unwrap())
    }

    #[test]
    fn an_eighth_is_in_no_training_problem_and_every_test_question_rests_on_it_alone() {
        for config in configs().into_iter().filter(|c| c.held_out == HeldOut::Eighth) {
            let held_out = |f: &Fact| HeldOut::Eighth.asks(Split::Test, pair(f).0, pair(f).1);
            let facts = |problem: &Problem| problem.evidence.concat();
            for problem in config.problems(Split::Train, 3, 200) {
                assert!(!facts(&problem).iter().any(held_out), "{problem:?}");
            }
            let mut others = 0;
            for problem in config.problems(Split::Test, 3, 200) {
                let all = facts(&problem);
                let [question] = &problem.questions[..] else { panic!("{problem:?}") };
                let about = |f: &&Fact| question.text.ends_with(&format!(" {}", f.subject));
                let asked =
                    all.iter().filter(|f| matches!(f.relation, Relation::Has | Relation::In)).find(about);
                let (_, on) = Question::about(asked.unwrap(), &all).unwrap();
                assert!(on.iter().all(|f| held_out(f)), "{problem:?}");
                assert_eq!(problem.difficulty, 1.0);
                others += all.iter().filter(|f| !held_out(f)).count();
            }
            assert!(others > 200);
        }
    }

    #[test]
    fn a_problem_has_several_questions_on_what_matters_and_often_all_its_facts() {
        let several = configs().into_iter().filter(|c| c.questions > 1);
        for config in several {
            let all: Vec<Problem> = config.problems(Split::Train, 5, 200).collect();
            for problem in &all {
                let texts: BTreeSet<&str> = problem.questions.iter().map(|q| q.text.as_str()).collect();
                assert_eq!(texts.len(), problem.questions.len(), "{problem:?}");
                let relation = if config.family == Family::TwoHop { Relation::In } else { Relation::Has };
                let asked = problem.evidence.concat().iter().filter(|f| f.relation == relation).count();
                assert_eq!(texts.len(), asked.min(4), "{problem:?}");
            }
            let full = all.iter().filter(|p| p.difficulty == 1.0).count();
            assert!((80..140).contains(&full), "{full}");
            // The evidence, and what is asked first, do not depend on how much is asked.
            let one = TaskConfig { questions: 1, ..config }.problems(Split::Train, 5, 200);
            for (one, all) in one.zip(&all) {
                assert_eq!((&one.evidence, &one.questions[..]), (&all.evidence, &all.questions[..1]));
            }
        }
    }

    #[test]
    fn answers_are_equiprobable_and_stand_anywhere() {
        for config in configs().into_iter().filter(|c| c.facts == Facts::exactly(4)) {
            let (mut answers, mut slots) = (BTreeMap::new(), BTreeMap::new());
            for problem in config.problems(Split::Test, 5, 640) {
                let item = problem.questions[0].answer.rsplit(' ').next().unwrap().to_string();
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
            TaskConfig { family, holders, facts: facts.parse().unwrap(), ..TaskConfig::default() }
                .validate()
                .unwrap_err()
                .to_string()
        };
        assert_eq!(
            error(Family::Relay, 4, "9"),
            "4 holders with 9 facts each need 36 names, but the language has 32; ask for fewer facts or holders"
        );
        assert!(error(Family::TwoHop, 2, "2-33").contains("need 33 names and places"));
        assert!(error(Family::Distractor, 1, "40").contains("need 40 names"));
        assert!(error(Family::TwoHop, 1, "4").contains("at least 2"));
    }
}
