//! What the tiny model reads while it is trained: words that are said again, and facts with questions about them.

use diffmas::benchmarks::synthetic::{
    Fact, Facts, Family, ITEMS, NAMES, PLACES, Problem, Question, Split, TaskConfig,
};
use rand::Rng;
use rand::seq::{IndexedRandom, SliceRandom};
use rand_chacha::ChaCha8Rng;

/// Questions of a document.
const QUESTIONS: usize = 8;

/// How much it counts to predict words that only the next sentence could tell.
const UNPREDICTABLE: f32 = 0.1;

/// Words and how much it counts to predict each of them; 0 where the reader, not the model, speaks.
#[derive(Default)]
pub struct Document {
    pub words: Vec<String>,
    pub weights: Vec<f32>,
}

impl Document {
    fn push(&mut self, text: &str, weight: f32) {
        for word in text.split(' ') {
            self.words.push(word.to_string());
            self.weights.push(weight);
        }
    }

    /// Some words of any kind, then the same words again. A model that has learned this looks up what came after a word; facts are
    /// learned in a fraction of the time after it.
    fn repetition(rng: &mut impl Rng) -> Self {
        let all: Vec<&str> = [NAMES, PLACES, ITEMS].concat();
        let n = rng.random_range(4..=12);
        let text = all.choose_multiple(rng, n).copied().collect::<Vec<_>>().join(" ");
        let mut document = Self::default();
        document.push(&format!("<user> {text} report"), 0.0);
        document.push(&format!("{text} <end>"), 1.0);
        document
    }

    /// The facts of `problem`, in sentences, in a report, or both, and questions about them.
    fn facts(problem: &Problem, rng: &mut impl Rng) -> Self {
        let mut facts: Vec<Fact> = problem.evidence.concat();
        if rng.random() {
            facts.shuffle(rng);
        }
        let join = |parts: Vec<String>| parts.join(" ");
        let sentences = join(facts.iter().map(Fact::to_string).collect());
        let report = join(facts.iter().map(Fact::short).collect());
        let mut document = Self::default();
        document.push("<user>", 0.0);
        match rng.random_range(0..5) {
            0 => {
                document.push(&sentences, UNPREDICTABLE);
                document.push("report", 0.0);
                document.push(&format!("{report} <end>"), 1.0);
                document.push("<user>", 0.0);
            }
            1 => document.push(&report, UNPREDICTABLE),
            _ => document.push(&sentences, UNPREDICTABLE),
        }
        let mut questions: Vec<Question> =
            facts.iter().filter_map(|fact| Some(Question::about(fact, &facts)?.0)).collect();
        questions.shuffle(rng);
        for (i, Question { text, answer }) in questions.iter().take(QUESTIONS).enumerate() {
            if i > 0 {
                document.push("<user>", 0.0);
            }
            document.push(text, 0.0);
            document.push(&format!("{answer} <end>"), 1.0);
        }
        document
    }
}

/// An endless supply of documents that get longer.
pub struct Documents {
    rng: ChaCha8Rng,
    families: Vec<Box<dyn Iterator<Item = Problem>>>,
    /// Share of documents that only repeat words.
    repetitions: f64,
}

impl Documents {
    /// The documents of a stage, with at most `longest` facts on people or places.
    pub fn new(rng: ChaCha8Rng, seed: u64, longest: usize, repetitions: f64) -> Self {
        let family = |family, holders, max| -> Box<dyn Iterator<Item = Problem>> {
            let config =
                TaskConfig { family, holders, facts: Facts { min: 1, max }, ..TaskConfig::default() };
            Box::new(config.problems(Split::Train, seed, usize::MAX))
        };
        let families = vec![
            family(Family::Relay, 1, 2 * longest),
            family(Family::TwoHop, 2, longest),
            family(Family::Distractor, 2, longest + 2),
        ];
        Self { rng, families, repetitions }
    }

    /// The generator, for the next stage.
    pub fn into_rng(self) -> ChaCha8Rng {
        self.rng
    }
}

impl Iterator for Documents {
    type Item = Document;

    fn next(&mut self) -> Option<Document> {
        if self.rng.random_bool(self.repetitions) {
            return Some(Document::repetition(&mut self.rng));
        }
        let family = *[0, 0, 1, 1, 2].choose(&mut self.rng).expect("there are families");
        let problem = self.families[family].next()?;
        Some(Document::facts(&problem, &mut self.rng))
    }
}
