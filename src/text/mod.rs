//! From files to token ids: tokenizer, chat template, data lines.

mod added_tokens;
mod chat;
mod data;
mod forms;
mod gguf_tokenizer;
pub(crate) mod jinja;
mod python_json;
mod questions;
mod sample;
mod stream;
#[cfg(test)]
mod template_fixtures;
pub(crate) mod tokenizer;
mod words;

pub use chat::{ChatMessage, ChatTemplate, Thinking};
pub use data::read_jsonl;
pub use forms::{Answers, Sample, SampleIds};
pub(crate) use sample::lines_by;
pub use sample::{TokenizedSample, lines};
pub use stream::TextStream;
pub use tokenizer::Tokenizer;
