//! From files to token ids: tokenizer, chat template, data lines.

mod added_tokens;
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
pub(crate) use data::around_question;
pub use data::{Answers, DataSource, Sample, SampleIds, read_samples};
pub(crate) use sample::lines_by;
pub use sample::{TokenizedSample, lines};
pub use stream::TextStream;
pub use tokenizer::Tokenizer;
