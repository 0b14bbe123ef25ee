//! From files to token ids: tokenizer, chat template, data lines.

mod chat;
mod data;
mod gguf_tokenizer;
pub(crate) mod jinja;
mod python_json;
mod sample;
mod stream;
#[cfg(test)]
mod template_fixtures;
pub(crate) mod tokenizer;
mod words;

pub use chat::{ChatMessage, ChatTemplate, Thinking};
pub use data::{Answers, Sample, SampleIds, read_jsonl};
pub use sample::TokenizedSample;
pub use stream::{TextRows, TextStream};
pub use tokenizer::Tokenizer;
