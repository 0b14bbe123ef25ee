//! Answers: a request of rows that each have their own options, and what is told of them as they come.

use std::ops::ControlFlow;
use std::path::PathBuf;
use std::time::Instant;

use diffmas_backends::ModelBackend;

use super::loaded::LoadedTeam;
use super::stream::{EventStream, Tell};
use super::worker::Request;
use super::{Cancel, Session, trace};
use crate::agents::{PaddedIds, TeamConfig, check_context};
use crate::communication::ReceivedMessages;
use crate::error::{Error, Result};
use crate::evaluation::Control;
use crate::inference::{DecodeOptions, Upstream, WrittenMessage, decode, roll_out_upstream};
use crate::text::{TextRows, TokenizedSample};

/// How one row is answered.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct AnswerOptions {
    /// How tokens are chosen. The model's own stop tokens end an answer beside those that stand here.
    pub decode: DecodeOptions,
    /// Texts and special tokens that an answer ends before.
    pub stop: Vec<String>,
    /// What the final agent reads.
    pub control: Control,
}

/// One question.
#[derive(Clone, Debug)]
pub struct AnswerRow {
    /// The prompts.
    pub sample: TokenizedSample,
    /// The sample whose upstream prompts run in place of its own, for controls that give a row another one's messages.
    pub upstream: Option<TokenizedSample>,
    /// Keys the row's draws, with the seed: a row with the same id and seed is answered alike in any request.
    pub sample_id: u64,
    /// How it is answered.
    pub options: AnswerOptions,
}

/// A trace file in place of messages that stay in memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TraceFile {
    /// What the upstream agents send is written, too.
    Save(PathBuf),
    /// The upstream agents do not run: their messages are read.
    Load(PathBuf),
}

/// Rows to be answered.
#[derive(Clone, Debug, Default)]
pub struct AnswerRequest {
    /// The questions; those of a batch that have equal options run together.
    pub rows: Vec<AnswerRow>,
    /// Rows that run together; the engine's own number where it is absent.
    pub batch_size: Option<usize>,
    /// Whether the answers say how much the final agent attended to each sender of vectors.
    pub sender_attention: bool,
    /// Messages out of a file or into one; all rows are then one batch, and have equal options.
    pub trace: Option<TraceFile>,
    /// Ends the answers where they are; the request then fails as interrupted.
    pub cancel: Cancel,
}

impl AnswerRequest {
    /// All `samples` with the same options; draws are keyed by their place in the list.
    pub fn new(samples: Vec<TokenizedSample>, options: AnswerOptions) -> Self {
        let others = options.control.senders(samples.len(), options.decode.seed);
        let upstream = |i: usize| others.as_ref().map(|others| samples[others[i]].clone());
        let upstream: Vec<_> = (0..samples.len()).map(upstream).collect();
        let row = |((sample, upstream), sample_id)| AnswerRow {
            sample,
            upstream,
            sample_id,
            options: options.clone(),
        };
        Self { rows: samples.into_iter().zip(upstream).zip(0..).map(row).collect(), ..Self::default() }
    }

    /// Refuses rows that cannot be answered.
    pub(super) fn check(&self, session: &Session) -> Result<()> {
        let room = session.model.config.max_position_embeddings;
        let rows = self.rows.len();
        for AnswerRow { sample, upstream, options, .. } in &self.rows {
            options.control.validate(&session.team, if upstream.is_some() { 2 } else { rows })?;
            check_context(&session.team, sample, options.decode.max_new_tokens, room)?;
            if options.stop.iter().any(String::is_empty) {
                return Err(Error::invalid("a stop text is empty"));
            }
            if !options.stop.is_empty() && session.model.tokenizer.is_none() {
                return Err(Error::invalid(
                    "stop texts need text, but the model has no tokenizer (no tokenizer.json)",
                ));
            }
        }
        let together = self.rows.windows(2).all(|pair| pair[0].options == pair[1].options);
        if self.trace.is_some() && (rows == 0 || !together || session.team.channel.kind.text) {
            return Err(Error::invalid(
                "a trace file holds the internal state of one batch of rows with equal options",
            ));
        }
        Ok(())
    }
}

/// What is told while rows are answered: of each batch its rollout, then texts and answers.
#[derive(Clone, Debug, PartialEq)]
pub enum AnswerEvent {
    /// The upstream agents of a batch are done.
    RolledOut(RolledOut),
    /// Text of a row that cannot change any more.
    Text {
        /// The row.
        row: usize,
        /// What it adds to the row's text.
        text: String,
    },
    /// The answer of a row.
    Finished(RowAnswer),
}

/// What the final agent receives, by row.
#[derive(Clone, Debug, PartialEq)]
pub struct RolledOut {
    /// The rows of the batch.
    pub rows: Vec<usize>,
    /// What the final agent receives, for each of them.
    pub received: Vec<Received>,
    /// Wall-clock seconds of the batch's upstream agents.
    pub seconds: f64,
}

/// What the final agent receives for one row.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Received {
    /// Messages of internal state, in reading order.
    pub messages: Vec<MessageSize>,
    /// Positions and vectors of all of them, padding not counted.
    pub positions: usize,
    /// Their bytes.
    pub bytes: usize,
    /// Messages of text.
    pub written: Vec<Written>,
}

/// How large a message of internal state is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MessageSize {
    /// Name of the agent that sent it.
    pub sender: String,
    /// Positions of its keys and values, those of the prompt and all, padding of the batch included.
    pub segment: Option<[usize; 2]>,
    /// How many vectors it has, and of what width.
    pub vectors: Option<[usize; 2]>,
    /// Its bytes, padding not counted.
    pub bytes: usize,
}

/// A message of text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Written {
    /// Name of the agent that wrote it.
    pub sender: String,
    /// The text; empty where the model has no tokenizer.
    pub text: String,
}

/// The answer of a row.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RowAnswer {
    /// The row, by its place in the request.
    pub row: usize,
    /// The tokens, without the one that ended them.
    pub token_ids: Vec<u32>,
    /// Whether it ended by a stop token, a stop text or a cancellation rather than by `max_new_tokens`.
    pub stopped: bool,
    /// The text, without the stop text that ended it; none where the model has no tokenizer.
    pub text: Option<String>,
    /// What the final agent received.
    pub received: Received,
    /// How much the final agent attended to each sender of vectors, as a mean over layers and prompt positions, where that was asked for.
    pub sender_attention: Vec<(String, f64)>,
    /// Rows that ran together.
    pub batch_size: usize,
    /// Wall-clock seconds of the batch's upstream agents.
    pub rollout_seconds: f64,
    /// Wall-clock seconds from there to the answer.
    pub decode_seconds: f64,
}

/// The events of a request for answers.
pub type AnswerStream = EventStream<AnswerEvent, ()>;

impl AnswerStream {
    /// The answers in the order of the rows.
    ///
    /// # Errors
    /// As [`EventStream::finish`].
    pub fn answers(self) -> Result<Vec<RowAnswer>> {
        let mut answers = Vec::new();
        self.for_each_event(|event| {
            if let AnswerEvent::Finished(answer) = event {
                answers.push(answer);
            }
            Ok(())
        })?;
        answers.sort_by_key(|answer| answer.row);
        Ok(answers)
    }
}

impl Request for AnswerRequest {
    type Event = AnswerEvent;
    type Output = ();

    fn serve<B: ModelBackend>(self, team: &mut LoadedTeam<B>, tell: &Tell<AnswerEvent, ()>) -> Result<()> {
        let size = self.batch_size.unwrap_or(team.session.config.batch_size()).max(1);
        let size = if self.trace.is_some() { self.rows.len() } else { size };
        let rows: Vec<usize> = (0..self.rows.len()).collect();
        for batch in rows.chunks(size) {
            for rows in self.groups(batch) {
                tell.check()?;
                Group { request: &self, rows }.answer(team, tell)?;
            }
        }
        Ok(())
    }
}

impl AnswerRequest {
    /// The rows of a batch that run together: those with equal options, stop texts apart.
    fn groups(&self, batch: &[usize]) -> Vec<Vec<usize>> {
        let key = |row: usize| (&self.rows[row].options.decode, &self.rows[row].options.control);
        let mut groups: Vec<Vec<usize>> = Vec::new();
        for &row in batch {
            match groups.iter_mut().find(|group| key(group[0]) == key(row)) {
                Some(group) => group.push(row),
                None => groups.push(vec![row]),
            }
        }
        groups
    }
}

/// Rows that run as one batch.
struct Group<'a> {
    request: &'a AnswerRequest,
    rows: Vec<usize>,
}

impl Group<'_> {
    fn answer<B: ModelBackend>(
        &self,
        loaded: &mut LoadedTeam<B>,
        tell: &Tell<AnswerEvent, ()>,
    ) -> Result<()> {
        let session = loaded.session.clone();
        let team = loaded.team();
        let config = &team.layout.config;
        let row = |&i: &usize| &self.request.rows[i];
        let ids: Vec<u64> = self.rows.iter().map(|i| row(i).sample_id).collect();
        let AnswerOptions { decode: options, control, .. } = &row(&self.rows[0]).options;
        let options = session.with_stop_tokens(options.clone());

        let clock = Instant::now();
        let own: Vec<TokenizedSample> = self.rows.iter().map(|i| row(i).sample.clone()).collect();
        let theirs =
            self.rows.iter().map(|i| row(i).upstream.clone().unwrap_or_else(|| row(i).sample.clone()));
        let writing = session.writing(options.clone()).filter(|_| *control != Control::None);
        let upstream = match &self.request.trace {
            Some(file) => {
                let run = || roll_out_upstream(team, &own, writing.as_ref(), &ids, |_, _| ());
                trace::through_file(file, &session, team, &own, options.max_new_tokens, run)?
            }
            None => {
                let theirs: Vec<TokenizedSample> = theirs.collect();
                let other = self.rows.iter().any(|i| row(i).upstream.is_some());
                let upstream = roll_out_upstream(team, &theirs, writing.as_ref(), &ids, |_, _| ())?;
                if other { Upstream { samples: own, ..upstream } } else { upstream }
            }
        };
        let written = upstream.written.iter().map(|row| written(&session, config, row));
        let written: Vec<Vec<Written>> = written.collect::<Result<_>>()?;
        let received = control.apply(upstream.received, config, options.seed, &ids);
        let rollout_seconds = clock.elapsed().as_secs_f64();
        let sizes = |i: usize| Received {
            written: written.get(i).cloned().unwrap_or_default(),
            ..Received::of(&received, config, i)
        };
        let sizes: Vec<Received> = (0..self.rows.len()).map(sizes).collect();
        let (rows, all) = (self.rows.clone(), sizes.clone());
        tell.event(AnswerEvent::RolledOut(RolledOut { rows, received: all, seconds: rollout_seconds }));

        let clock = Instant::now();
        let last = config.agents.len() - 1;
        let prompts: Vec<&[u32]> = upstream.samples.iter().map(|s| s.prompts[last].as_slice()).collect();
        let prompt = PaddedIds::left(&prompts).into();
        let stops = self.rows.iter().map(|i| &row(i).options.stop);
        let mut texts = session.model.tokenizer.as_deref().map(|t| TextRows::new(t, stops));
        let text = |i: usize, text: &str| {
            if !text.is_empty() {
                tell.event(AnswerEvent::Text { row: self.rows[i], text: text.to_string() });
            }
        };
        let mut cut = false;
        let on_token = |i: usize, token: u32| {
            cut |= tell.is_cancelled();
            match &mut texts {
                _ if cut => ControlFlow::Break(()),
                Some(texts) => texts.push(i, token, |more| text(i, more)),
                None => ControlFlow::Continue(()),
            }
        };
        let answers = decode(team.answering(), &prompt, &team.read(&received), &options, &ids, on_token)
            .map_err(|e| e.of_agent(config.final_name()))?;
        let mut texts = texts.map(|texts| texts.finish(text)).transpose()?.map(Vec::into_iter);
        let decode_seconds = clock.elapsed().as_secs_f64();
        let attention =
            self.request.sender_attention.then(|| team.sender_attention(&prompt, &received)).flatten();
        for (i, (answer, received)) in answers.into_iter().zip(sizes).enumerate() {
            let sender_attention = attention.iter().flat_map(|attention| {
                let names = attention.senders.iter().map(|&s| config.agents[s].name.clone());
                names.zip(attention.of_row(i)).collect::<Vec<_>>()
            });
            tell.event(AnswerEvent::Finished(RowAnswer {
                row: self.rows[i],
                token_ids: answer.token_ids,
                stopped: answer.stopped,
                text: texts.as_mut().and_then(Iterator::next),
                received,
                sender_attention: sender_attention.collect(),
                batch_size: self.rows.len(),
                rollout_seconds,
                decode_seconds,
            }));
        }
        if cut { Err(Error::Interrupted("cancelled".into())) } else { Ok(()) }
    }
}

impl Received {
    /// The sizes of what is received by row `row` of a batch.
    fn of<B: ModelBackend>(received: &ReceivedMessages<B>, team: &TeamConfig, row: usize) -> Self {
        let sizes = received.messages.iter().map(|message| MessageSize {
            sender: team.agents[message.sender].name.clone(),
            segment: message.segment.as_ref().map(|s| [s.prompt_len, s.kv.len()]),
            vectors: message.vectors.as_ref().map(|v| {
                let [_, count, width] = v.values.dims();
                [count, width]
            }),
            bytes: message.bytes(row),
        });
        let messages = sizes.collect();
        let (positions, bytes) = (received.positions(row), received.bytes(row));
        Self { messages, positions, bytes, written: Vec::new() }
    }
}

/// The messages of text for one row.
fn written(session: &Session, team: &TeamConfig, all: &[WrittenMessage]) -> Result<Vec<Written>> {
    let tokenizer = session.model.tokenizer.as_deref();
    let one = |message: &WrittenMessage| {
        let text = tokenizer.map_or(Ok(String::new()), |t| t.decode(&message.token_ids))?;
        Ok(Written { sender: team.agents[message.sender].name.clone(), text: text.trim().to_string() })
    };
    all.iter().map(one).collect()
}
