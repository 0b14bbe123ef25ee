//! From files to token ids: tokenizer, chat template, data lines, prompts; and TOML with helpful errors.

pub mod chat;
pub mod data;
mod gguf_tokenizer;
pub mod prompts;
mod python_json;
pub mod tokenizer;
pub mod toml_file;
mod unique_json;

pub use chat::{ChatMessage, ChatTemplate};
pub use data::{Answers, Sample, SampleIds, read_jsonl};
pub use prompts::{PromptBuilder, TokenizedSample};
pub use tokenizer::Tokenizer;
pub use toml_file::{nearest, read_toml};
