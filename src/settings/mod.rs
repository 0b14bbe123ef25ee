//! Settings: from files and flags to the structs that the code uses, and compared one by one.
//!
//! Each place that settings come from is a [`Layer`], a table under the names of the structs' fields. Layers are laid over each other,
//! and [`Merged::get`] makes of the result each struct that has a part in it; what no layer says has the struct's own default.

mod compare;
mod file;
mod layer;
mod schema;

pub use compare::{Difference, Settings};
pub use file::{FileLayers, read_file};
pub use layer::{Conflict, Layer, Merged, Rivals, lay_over};
pub use schema::{Schema, Section};
