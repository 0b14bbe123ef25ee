//! Files apart from what they hold: written whole or not at all, read within bounds or at positions; fields of TOML and JSON whose errors name
//! file, line and field.

mod atomic;
mod bounded;
mod fields;
#[macro_use]
mod named_enum;
mod nearest;
pub(crate) mod null;
mod output;
mod positioned;
mod target;
mod toml;
mod unique_json;

pub use atomic::{end_process, recover, write_atomic};
pub(crate) use atomic::{remove_leftovers, write_folder_atomic, write_with};
pub use bounded::read_line;
pub(crate) use bounded::{MAX_LINE, MAX_LONG_TEXT, MAX_TEXT, open_file, read, read_text};
pub(crate) use fields::{Fields, is_unset};
pub use named_enum::NamedEnum;
pub(crate) use named_enum::{sentence, unknown_name};
pub(crate) use nearest::nearest;
pub use output::{append, check_output_file, jsonl, write_json, write_jsonl};
pub(crate) use output::{append_to, open_own};
pub(crate) use positioned::PositionedFile;
pub use target::{follow, from_root, is_stream, open_stream};
pub use toml::read_toml;
pub(crate) use toml::{explained, line_of, text_of, unknown};
pub(crate) use unique_json::UniqueJson;
