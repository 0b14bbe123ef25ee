//! From files to token ids: tokenizer, chat template, data lines, prompts.

pub mod chat;
pub mod data;
mod gguf_tokenizer;
mod jinja;
pub mod prompts;
mod python_json;
mod stream;
#[cfg(test)]
mod template_fixtures;
pub mod tokenizer;
mod words;

pub use chat::{ChatMessage, ChatTemplate, Thinking};
pub use data::{Answers, Sample, SampleIds, read_jsonl};
pub use prompts::{PromptBuilder, TokenizedSample};
pub use stream::{TextRows, TextStream};
pub use tokenizer::Tokenizer;
