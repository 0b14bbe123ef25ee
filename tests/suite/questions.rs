//! Lines of several questions: what upstream agents compute is computed once a line, and the loss and gradient are those of the same questions
//! as lines of their own.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};

use crate::batches::open_team;
use crate::bits::is_exact;
use crate::channels::{LATENT, Setting, with_open_gates};
use crate::common::*;
use diffmas::agents::{
    ChannelKind, FeedKind, Loss, LossTerm, Objective, PromptBuilder, SlotPlacement, TeamConfig, Text,
    Topology,
};
use diffmas::backbone::Parameters;
use diffmas::backends::{Job, ModelBackend};
use diffmas::communication::{Channel, ChannelPair, Message, ReceivedMessages, Rollout};
use diffmas::evaluation::{Control, evaluate};
use diffmas::inference::{DecodeOptions, Sampling, Writing};
use diffmas::text::TokenizedSample;
use diffmas::training::{CrossEntropy, Event, Recompute, StepMetrics, Teacher, TrainConfig, Trainer};

/// Three lines of three, one and two questions, of other lengths: upstream prompts and trajectories of a line's own sample, the final agent's
/// prompts and targets of all.
fn questions(samples: &[TokenizedSample]) -> Vec<TokenizedSample> {
    let last = samples[0].prompts.len() - 1;
    let question = |line: usize, question: usize| {
        let (own, asked) = (&samples[line % samples.len()], &samples[(line + question) % samples.len()]);
        let mut prompts = own.prompts.clone();
        prompts[last] = asked.prompts[last].clone();
        prompts[last][0] = 20 + (line + question) as u32;
        TokenizedSample {
            line: line + 1,
            question,
            prompts,
            target: asked.target.clone(),
            trajectories: own.trajectories.clone(),
            // What is content differs between lines; slots are spread over it.
            contents: own.prompts.iter().map(|ids| line..ids.len() - 1).collect(),
            ..TokenizedSample::default()
        }
    };
    let lines = [(0, 3), (1, 1), (2, 2)];
    lines.iter().flat_map(|&(line, n)| (1..=n).map(move |q| question(line, q))).collect()
}

/// The same questions as lines of their own, each with the trajectories of its line where it is the first.
fn apart(samples: &[TokenizedSample]) -> Vec<TokenizedSample> {
    let single = |(i, sample): (usize, &TokenizedSample)| TokenizedSample {
        line: i + 1,
        question: 1,
        trajectories: if sample.question == 1 { sample.trajectories.clone() } else { Vec::new() },
        ..sample.clone()
    };
    samples.iter().enumerate().map(single).collect()
}

/// How far a tensor's gradient may be off, relative to its norm.
const TENSOR: f64 = 1e-3;

struct SumOfQuestions;

impl Job for SumOfQuestions {
    type Output = ();

    fn run<B: ModelBackend>(self, device: B::Device) {
        for setting in Setting::all() {
            for feed in [FeedKind::Learned, FeedKind::Slots] {
                let what = format!("{} {feed}", setting.name());
                if setting.channel == ChannelKind::TEXT && feed == FeedKind::Slots {
                    continue;
                }
                let change = |c: &mut TeamConfig| {
                    (c.feed, c.slot_placement) = (feed, SlotPlacement::Spread);
                };
                let g = with_open_gates(setting.load_with::<B>(change, &device));
                let trainer = g.trainer(TrainConfig { trajectory_weight: 0.5, ..TrainConfig::default() });
                let samples = questions(&g.samples);
                let together = batch(&samples);
                assert_eq!((together.rows(), together.message_rows()), (6, 3));
                let got = trainer.gradients(std::slice::from_ref(&together));
                let want = trainer.gradients(&micro_batches(&apart(&samples), 1));
                close(got.loss, want.loss, want.loss, 1e-5, &what);
                close(got.trajectory_loss, want.trajectory_loss, want.loss, 1e-5, &what);
                same_gradients(&got.gradients, &want.gradients, TENSOR, &what);
                same_gradients(&want.gradients, &got.gradients, TENSOR, &what);
                assert!(got.positions < want.positions, "{what}: {} of {}", got.positions, want.positions);
            }
        }
    }
}

#[test]
fn the_gradient_of_a_message_is_the_sum_over_its_questions_in_every_tensor() {
    on_backend(SumOfQuestions);
}

struct Oracle;

impl Job for Oracle {
    type Output = ();

    fn run<B: ModelBackend>(self, device: B::Device) {
        for setting in Setting::all() {
            let what = setting.name();
            let g = open_team::<B>(&setting, FeedKind::Identity, &device);
            let p = &g.parameters;
            let batch = &batch(&questions(&g.samples));
            let case = Case { model: &g.model, batch, through: &[true; 4], lambda: 0.5 };
            let got = case.recomputed(p);
            let (loss, want) = case.end_to_end(p);
            close(got.losses.iter().sum(), loss, loss, 1e-6, &what);
            same_gradients(&got.gradients, &want, 1e-4, &what);
            slope_of_every_tensor(|p| case.loss(p), p, &got.gradients, &what);
        }
    }
}

#[test]
fn recomputation_with_several_questions_equals_plain_autodiff_and_is_the_slope() {
    on_backend(Oracle);
}

struct Taught;

impl Job for Taught {
    type Output = ();

    /// Each question has a teacher's prompt of its own, and may lack the answer.
    fn run<B: ModelBackend>(self, device: B::Device) {
        let setting = Setting::new(ChannelKind::TRACE, Topology::Sequential);
        let g = open_team::<B>(&setting, FeedKind::Identity, &device);
        let mut samples = questions(&g.samples);
        for (sample, open) in samples.iter_mut().zip([false, true, false, true, true, false]) {
            sample.teacher = Some(sample.prompts.concat());
            sample.target = sample.target.take().filter(|_| !open);
        }
        let config = TrainConfig {
            teacher: Teacher::AllEvidence,
            teacher_tokens: 4,
            batch_size: 8,
            max_steps: Some(1),
            ..TrainConfig::default()
        };
        let update = |samples: &[TokenizedSample]| {
            let mut steps = Vec::new();
            let record = |_: &_, event: Event<'_>| {
                if let Event::Step { metrics, .. } = event {
                    steps.push(metrics.clone());
                }
                Ok(())
            };
            g.trainer(config.clone()).train(samples, None, || false, record).unwrap();
            steps.remove(0)
        };
        let (got, want) = (update(&samples), update(&apart(&samples)));
        let both = |of: fn(&StepMetrics) -> Option<f64>, what: &str| {
            let (got, want) = (of(&got).unwrap(), of(&want).unwrap());
            close(got, want, want, 1e-5, what);
        };
        both(|step| step.loss, "loss");
        both(|step| step.distillation_loss, "distillation loss");
        both(|step| step.grad_norm, "gradient");
    }
}

#[test]
fn a_teacher_answers_each_question_of_a_line() {
    on_backend(Taught);
}

/// The trace, which notes the rows of every rollout.
#[derive(Debug, Clone)]
struct Counting(Arc<Mutex<Vec<usize>>>);

impl<B: ModelBackend> Channel<B> for Counting {
    fn send(&self, _: &Parameters<B>, rollout: &Rollout<B>, _: &ReceivedMessages<B>) -> Message<B> {
        self.0.lock().unwrap().push(rollout.prompt.positions.batch);
        Message { sender: rollout.sender, segment: Some(rollout.segment()), vectors: None }
    }
}

/// Cross-entropy that notes the numbers of the questions that are answered, and how often.
#[derive(Debug, Clone)]
struct Answered(Arc<Mutex<Vec<Vec<u64>>>>);

impl<B: ModelBackend> Objective<B> for Answered {
    fn loss(&self, term: LossTerm<'_, B>) -> Loss<B> {
        assert_eq!(term.text, Text::Target);
        let numbers = &term.batch.numbers;
        assert_eq!(term.predictions.rows.iter().collect::<BTreeSet<_>>().len(), numbers.len());
        self.0.lock().unwrap().push(numbers.clone());
        CrossEntropy.loss(term)
    }
}

struct Rows;

impl Job for Rows {
    type Output = ();

    fn run<B: ModelBackend>(self, device: B::Device) {
        let g = open_team::<B>(
            &Setting::new(ChannelKind::TRACE, Topology::Sequential),
            FeedKind::Identity,
            &device,
        );
        let samples: Vec<TokenizedSample> = (0..128)
            .map(|i| TokenizedSample { line: i / 4 + 1, question: i % 4 + 1, ..g.samples[i / 4 % 3].clone() })
            .collect();
        // Forward, and again for its gradient where nothing is kept.
        for (recompute, passes) in [(Recompute::Always, 2), (Recompute::Prompts, 1), (Recompute::Never, 1)] {
            let (sent, answered) = (Arc::default(), Arc::default());
            let mut model = g.model.clone();
            model.channel = ChannelPair::new(Counting(Arc::clone(&sent)));
            let config = TrainConfig {
                batch_size: 16,
                gradient_accumulation_steps: 2,
                max_steps: Some(1),
                recompute,
                ..TrainConfig::default()
            };
            let trainer = Trainer::new(config, model, g.parameters.clone()).unwrap();
            let mut trainer = trainer.with_objective(Answered(Arc::clone(&answered)));
            trainer.train(&samples, None, || false, |_, _| Ok(())).unwrap();
            // Of 32 lines of four questions, in micro-batches of 16: each of three agents.
            assert_eq!(*sent.lock().unwrap(), vec![16; 2 * 3 * passes], "{recompute}");
            let answered = answered.lock().unwrap();
            assert_eq!(answered.concat(), (0..128).collect::<Vec<u64>>(), "{recompute}");
            assert_eq!(answered.len(), 2, "{recompute}");
        }
    }
}

#[test]
fn an_update_on_lines_of_four_questions_runs_upstream_agents_once_a_line() {
    on_backend(Rows);
}

struct Draws;

impl Job for Draws {
    type Output = ();

    /// What dropout hides of a message is hidden from all its questions, in any micro-batch.
    fn run<B: ModelBackend>(self, device: B::Device) {
        for channel in LATENT {
            let g = open_team::<B>(&Setting::new(channel, Topology::Sequential), FeedKind::Identity, &device);
            let config = TrainConfig { sender_dropout: 0.4, position_dropout: 0.3, ..TrainConfig::default() };
            let trainer = g.trainer(config);
            let samples = questions(&g.samples);
            let whole = vec![batch(&samples)];
            let numbered = |from: usize, to: usize| {
                batch(&samples[from..to]).numbered((from as u64..to as u64).collect())
            };
            let cut = vec![numbered(4, 6), numbered(0, 4)];
            let (want, got) = (trainer.gradients(&whole), trainer.gradients(&cut));
            assert!(want.dropped[0] + want.dropped[1] > 0, "{channel}");
            assert_eq!((got.dropped, got.positions), (want.dropped, want.positions), "{channel}");
            close(got.loss, want.loss, want.loss, 1e-5, &channel.to_string());
            same_gradients(&got.gradients, &want.gradients, TENSOR, &channel.to_string());
        }
    }
}

#[test]
fn what_is_hidden_of_a_message_does_not_depend_on_its_micro_batch() {
    on_backend(Draws);
}

struct Scores;

impl Job for Scores {
    type Output = ();

    fn run<B: ModelBackend>(self, device: B::Device) {
        for channel in LATENT {
            let g = open_team::<B>(&Setting::new(channel, Topology::Sequential), FeedKind::Identity, &device);
            let team = g.model.bind(&g.parameters);
            let samples = questions(&g.samples);
            // A control that gives a line another one's message gives it to all its questions: that of the same questions with that
            // line's upstream prompts.
            let donors = Control::Shuffled.senders(3, 3).unwrap();
            let first = [0, 3, 4];
            let given = |(i, own): (usize, &TokenizedSample)| {
                let mut prompts = samples[first[donors[own.line - 1]]].prompts.clone();
                prompts[3] = own.prompts[3].clone();
                TokenizedSample { line: i + 1, question: 1, prompts, ..own.clone() }
            };
            let swapped: Vec<TokenizedSample> = samples.iter().enumerate().map(given).collect();
            for (control, singles) in [
                (Control::Real, apart(&samples)),
                (Control::None, apart(&samples)),
                (Control::Zero, apart(&samples)),
                (Control::Drop("refiner".into()), apart(&samples)),
                (Control::SelfRollout, apart(&samples)),
                (Control::Shuffled, swapped),
            ] {
                let alike = if control == Control::Shuffled { &Control::Real } else { &control };
                let want = losses(&team, &singles, 1, alike);
                for size in [1, 2, 8] {
                    let got = losses(&team, &samples, size, &control);
                    for (i, (got, want)) in got.iter().zip(&want).enumerate() {
                        let what = format!("{channel}, {control}, {size} lines a batch, question {i}");
                        let tolerance = if is_exact::<B>(&device) { 0.0 } else { 1e-5 };
                        close(*got, *want, *want, tolerance, &what);
                    }
                }
            }
            let random = |size| losses(&team, &samples, size, &Control::Random);
            let (one, all) = (random(1), random(8));
            one.iter().zip(&all).for_each(|(a, b)| close(*a, *b, *b, 1e-5, &format!("{channel}, random")));
            let scored = evaluate(&team, &samples, &scoring(2, &Control::Real, 3), |scores| {
                assert!(scores.iter().all(|s| s.question_index >= 1));
                Ok(())
            });
            let scored = scored.unwrap();
            assert_eq!((scored.samples, scored.clusters), (6, Some(3)));
            let single =
                evaluate(&team, &apart(&samples), &scoring(2, &Control::Real, 3), |_| Ok(())).unwrap();
            assert_eq!((single.clusters, single.loss_interval.is_some()), (None, true));
            assert!(team_refuses_to_shuffle_one_line(&team, &samples[..3]));
        }
    }
}

fn team_refuses_to_shuffle_one_line<B: ModelBackend>(
    team: &diffmas::agents::Team<B>,
    line: &[TokenizedSample],
) -> bool {
    let scored = evaluate(team, line, &scoring(2, &Control::Shuffled, 3), |_| Ok(()));
    scored.unwrap_err().to_string().starts_with("shuffled needs at least two")
}

#[test]
fn questions_are_scored_as_lines_of_their_own_and_controls_exchange_whole_lines() {
    on_backend(Scores);
}

struct Written;

impl Job for Written {
    type Output = ();

    fn run<B: ModelBackend>(self, device: B::Device) {
        let mut setting = Setting::new(ChannelKind::TEXT, Topology::Sequential);
        setting.trajectories = true;
        let g = setting.load_with::<B>(|c| c.message_tokens = 4, &device);
        let team = g.model.bind(&g.parameters);
        let samples = questions(&g.samples);
        let prompts = Arc::new(PromptBuilder::new(&g.model.layout.config.agents, None).unwrap());
        let sampling = Sampling::Random { temperature: 0.9, top_k: 0, top_p: 1.0, min_p: 0.0 };
        let options = DecodeOptions { sampling, seed: 5, ..DecodeOptions::default() };
        let writing = Writing::new(&g.model.layout.config, prompts, options).unwrap();
        for writing in [writing.clone(), writing.teacher_forced()] {
            let ids: Vec<u64> = (0..6).collect();
            let (asked, written) = writing.write(&team, &samples, &ids).unwrap();
            assert_eq!(written.len(), 3, "once a line");
            let (single, each) = writing.write(&team, &apart(&samples), &[0, 0, 0, 3, 4, 4]).unwrap();
            for (i, line) in [0, 0, 0, 1, 2, 2].into_iter().enumerate() {
                // The first question alone keeps trajectories when each is a line of its own.
                if samples[i].question == 1 {
                    assert_eq!(written[line], each[i]);
                    assert_eq!(asked[i].prompts, single[i].prompts);
                }
                let before: Vec<u32> = written[line].iter().flat_map(|w| w.token_ids.clone()).collect();
                assert_eq!(
                    asked[i].prompts[3],
                    [before, samples[i].prompts[3].clone()].concat(),
                    "question {i}"
                );
                assert_eq!(asked[i].prompts[..3], asked[[0, 3, 4][line]].prompts[..3]);
            }
        }
    }
}

#[test]
fn a_message_of_text_is_written_once_a_line_and_stands_in_the_prompt_of_each_question() {
    on_backend(Written);
}
