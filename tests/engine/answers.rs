//! Answers: options by row, events, cancellation, messages through a file.

use diffmas::agents::ChannelKind;
use diffmas::engine::{
    AnswerEvent, AnswerOptions, AnswerRequest, AnswerRow, Cancel, Engine, EvaluateRequest, RowAnswer,
    TeamChoice, TraceFile,
};
use diffmas::evaluation::Control;
use diffmas::inference::{DecodeOptions, Sampling};

use super::shared::Place;
use super::{at_most, interrupted, open, question, questions, team, tokens};

/// A row for each of `options`, which all ask the same; draws are keyed by their place.
fn rows(engine: &Engine, options: impl IntoIterator<Item = AnswerOptions>) -> Vec<AnswerRow> {
    let sample = question(engine, "0 + 2?");
    let row = |(options, sample_id)| AnswerRow { sample: sample.clone(), upstream: None, sample_id, options };
    options.into_iter().zip(0..).map(row).collect()
}

/// One batch of rows.
fn batch(rows: Vec<AnswerRow>) -> AnswerRequest {
    AnswerRequest { batch_size: Some(rows.len()), rows, ..AnswerRequest::default() }
}

/// The answers of `rows` as one batch, which are those of each row alone.
#[track_caller]
fn together(engine: &Engine, rows: Vec<AnswerRow>) -> Vec<RowAnswer> {
    let together = engine.answer(batch(rows.clone())).unwrap().answers().unwrap();
    assert_eq!(together.len(), rows.len());
    for (row, got) in rows.into_iter().zip(&together) {
        let alone = engine.answer(batch(vec![row])).unwrap().answers().unwrap().remove(0);
        let said = |answer: &RowAnswer| (answer.token_ids.clone(), answer.text.clone(), answer.stopped);
        assert_eq!(said(&alone), said(got), "row {}", got.row);
        assert_eq!(
            (alone.received.positions, &alone.received.written),
            (got.received.positions, &got.received.written)
        );
    }
    together
}

fn random(seed: u64, temperature: f64) -> DecodeOptions {
    DecodeOptions {
        sampling: Sampling::Random { temperature, top_k: 0, top_p: 0.95, min_p: 0.0 },
        max_new_tokens: 9,
        seed,
        ..DecodeOptions::default()
    }
}

fn of(decode: DecodeOptions) -> AnswerOptions {
    AnswerOptions { decode, ..AnswerOptions::default() }
}

#[test]
fn rows_with_options_of_their_own_are_answered_as_if_each_were_alone() {
    let place = Place::new();
    let engine = open(&place);
    let greedy = at_most(30);
    let text = together(&engine, rows(&engine, [greedy.clone()]));
    let first = text[0].text.clone().unwrap();
    let third = text[0].token_ids[2];
    let stop = first.chars().next_back().expect("the tiny model says something").to_string();
    let all = [
        greedy.clone(),
        AnswerOptions { stop: vec![stop.clone()], ..greedy.clone() },
        of(random(1, 0.7)),
        of(random(1, 0.7)),
        of(random(2, 1.3)),
        of(DecodeOptions { repetition_penalty: 1.5, ..random(2, 1.0) }),
        AnswerOptions { control: Control::None, ..greedy.clone() },
        AnswerOptions { control: Control::Zero, ..greedy.clone() },
        at_most(0),
        of(DecodeOptions { stop_tokens: vec![third], ..greedy.decode }),
        AnswerOptions { control: Control::Random, ..of(random(3, 1.0)) },
        AnswerOptions { control: Control::Random, ..of(random(4, 1.0)) },
        at_most(2),
        AnswerOptions { control: Control::SelfRollout, ..greedy.clone() },
        AnswerOptions { control: Control::SelfRollout, ..at_most(2) },
    ];
    let together = together(&engine, rows(&engine, all));
    let said = |row: usize| together[row].text.clone().unwrap();
    assert_eq!(said(0), first);
    assert_eq!(Some(said(1).as_str()), first.split(&stop).next(), "a stop text of one row ends that row");
    assert_ne!(together[2].token_ids, together[3].token_ids, "draws are keyed by the sample's id");
    assert_ne!(together[0].token_ids, together[6].token_ids, "without a message the answer is another");
    assert_eq!((together[6].received.positions, together[8].token_ids.len()), (0, 0));
    let before: Vec<u32> = together[0].token_ids.iter().copied().take_while(|&id| id != third).collect();
    assert_eq!((&together[9].token_ids, together[9].stopped), (&before, true), "a stop token of one row");
    assert_eq!(together[12].token_ids, together[0].token_ids[..2]);
    assert_eq!(together[13].received.positions, together[0].received.positions);
    assert_ne!(together[13].token_ids, together[0].token_ids, "its own rollout is no message");
    assert!(together.iter().all(|answer| answer.batch_size == 15));
}

#[test]
fn messages_of_text_are_those_of_each_row_too() {
    let place = Place::new();
    let choice = TeamChoice { team: Some(team(ChannelKind::TEXT)), ..TeamChoice::default() };
    let engine = open(&place).with_team(choice).unwrap();
    let nothing = AnswerOptions { control: Control::None, ..at_most(6) };
    let all = [at_most(6), at_most(3), of(random(1, 1.0)), of(random(2, 1.0)), nothing];
    let answers = together(&engine, rows(&engine, all));
    let wrote = |row: usize| answers[row].received.written.first().map(|message| message.text.clone());
    assert_eq!(wrote(0), wrote(1), "how long an answer may be does not matter before it");
    assert!(wrote(0).is_some() && wrote(2) != wrote(3) && wrote(4).is_none());
}

#[test]
fn a_row_that_has_ended_is_told_while_the_others_go_on() {
    let place = Place::new();
    let engine = open(&place);
    let first = engine.answer(batch(rows(&engine, [at_most(40)]))).unwrap().answers().unwrap().remove(0);
    assert_eq!(first.token_ids.len(), 40, "the long row is long");
    let text = first.text.unwrap();
    let stop = text.chars().nth(5).unwrap().to_string();
    let none = AnswerOptions { control: Control::None, ..at_most(3) };
    let cut = AnswerOptions { stop: vec![stop.clone()], ..at_most(40) };
    let request = batch(rows(&engine, [at_most(40), at_most(2), none, cut, at_most(0)]));
    let events: Vec<AnswerEvent> = engine.answer(request).unwrap().collect();
    let at = |found: &dyn Fn(&AnswerEvent) -> bool| events.iter().rposition(found).unwrap();
    let finished = |row: usize| at(&|event| matches!(event, AnswerEvent::Finished(a) if a.row == row));
    let last_text = at(&|event| matches!(event, AnswerEvent::Text { row: 0, .. }));
    assert!(finished(4) < finished(1) && finished(1) < finished(2), "in the order in which they end");
    assert!((1..5).all(|row| finished(row) < last_text) && last_text < finished(0));
    let seconds = |row: usize| match &events[finished(row)] {
        AnswerEvent::Finished(answer) => answer.decode_seconds,
        _ => unreachable!("it is the row's answer"),
    };
    assert!(seconds(1) < seconds(0));
    assert_eq!(events.iter().filter(|event| matches!(event, AnswerEvent::RolledOut(_))).count(), 2);
}

#[test]
fn events_come_in_order_and_texts_add_up_to_the_answers() {
    let place = Place::new();
    let engine = open(&place);
    let request =
        AnswerRequest { batch_size: Some(2), ..AnswerRequest::new(questions(&engine, 5), at_most(7)) };
    let mut stream = engine.answer(request).unwrap();
    let (mut texts, mut running, mut finished) = (vec![String::new(); 5], Vec::new(), Vec::new());
    for event in &mut stream {
        match event {
            AnswerEvent::RolledOut(batch) => {
                assert!(running.is_empty(), "a batch begins when the one before it is done");
                assert!(batch.received.iter().all(|r| r.messages[0].sender == "planner" && r.positions > 3));
                running = batch.rows;
            }
            AnswerEvent::Text { row, text } => {
                assert!(running.contains(&row) && !text.is_empty());
                texts[row].push_str(&text);
            }
            AnswerEvent::Finished(answer) => {
                running.retain(|&row| row != answer.row);
                finished.push(answer);
            }
        }
    }
    stream.finish().unwrap();
    finished.sort_by_key(|answer: &RowAnswer| answer.row);
    assert_eq!(finished.iter().map(|a| a.row).collect::<Vec<_>>(), [0, 1, 2, 3, 4]);
    assert_eq!(finished.iter().map(|a| a.batch_size).collect::<Vec<_>>(), [2, 2, 2, 2, 1]);
    for (answer, text) in finished.iter().zip(texts) {
        assert_eq!(answer.text.as_deref(), Some(text.as_str()));
    }
}

#[test]
fn a_request_is_cancelled_and_the_one_behind_it_goes_on() {
    let place = Place::new();
    let engine = open(&place);
    let alone =
        engine.answer(AnswerRequest::new(questions(&engine, 2), at_most(5))).unwrap().answers().unwrap();
    let long = || {
        let mut request = AnswerRequest::new(questions(&engine, 400), at_most(40));
        request.rows.iter_mut().step_by(2).for_each(|row| row.options.decode.max_new_tokens = 3);
        AnswerRequest { batch_size: Some(2), ..request }
    };
    let cancel = Cancel::new();
    let mut first = engine.answer(AnswerRequest { cancel: cancel.clone(), ..long() }).unwrap();
    let queued = engine.answer(AnswerRequest::new(questions(&engine, 2), at_most(5))).unwrap();
    let never = engine.answer(AnswerRequest { cancel: cancel.clone(), ..long() }).unwrap();
    assert!(matches!(first.next(), Some(AnswerEvent::RolledOut(_))));
    let short = first.by_ref().find_map(|event| match event {
        AnswerEvent::Finished(answer) => Some(answer),
        _ => None,
    });
    assert_eq!(short.map(|answer| (answer.row, answer.token_ids.len())), Some((0, 3)));
    cancel.cancel();
    let rows = first.by_ref().filter(|event| matches!(event, AnswerEvent::Finished(_))).count();
    assert!(rows < 400, "{rows}");
    assert!(interrupted(first.finish()));
    assert_eq!(tokens(&queued.answers().unwrap()), tokens(&alone));
    assert!(interrupted(never.answers()), "a request that waits is cancelled, too");
    // Who no longer listens wants no more.
    drop(engine.answer(long()).unwrap());
    drop(engine.evaluate(EvaluateRequest::new(questions(&engine, 1))));
    let last = engine.answer(AnswerRequest::new(questions(&engine, 2), at_most(5))).unwrap();
    drop(engine);
    assert_eq!(tokens(&last.answers().unwrap()), tokens(&alone), "a stream outlives the handle");
}

#[test]
fn messages_go_through_a_file() {
    let place = Place::new();
    let engine = open(&place);
    let file = place.path("messages.safetensors");
    let ask = |engine: &Engine, trace| {
        let request = AnswerRequest { trace, ..AnswerRequest::new(questions(engine, 3), at_most(5)) };
        engine.answer(request)?.answers()
    };
    let direct = ask(&engine, None).unwrap();
    let saved = ask(&engine, Some(TraceFile::Save(file.clone()))).unwrap();
    let loaded = ask(&engine, Some(TraceFile::Load(file.clone()))).unwrap();
    assert!(tokens(&saved) == tokens(&direct) && tokens(&loaded) == tokens(&direct));
    let text = TeamChoice { team: Some(team(ChannelKind::TEXT)), ..TeamChoice::default() };
    let error = ask(&engine.with_team(text).unwrap(), Some(TraceFile::Load(file))).unwrap_err().to_string();
    assert!(error.contains("internal state"), "{error}");
}
