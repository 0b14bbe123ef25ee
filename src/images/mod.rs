//! Images as senders see them: read and checked, brought to the form that an encoder takes, and the frozen encoders.
//!
//! Reading images and running encoders is the Cargo feature `vision`; without it, teams with such senders are refused.

#[cfg(not(feature = "vision"))]
mod absent;
mod encoder;
mod image;
mod kind;
#[cfg(feature = "vision")]
mod open;
#[cfg(feature = "vision")]
mod read;

#[cfg(not(feature = "vision"))]
pub(crate) use absent::{check_built, drawn_line};
#[cfg(not(feature = "vision"))]
pub use absent::{open_encoder, read_image};
#[cfg(feature = "vision")]
pub(crate) use diffmas_encoders::drawn_line;
pub use encoder::{Encoders, ImageEncoder};
pub(crate) use image::encode;
pub use image::{Image, Images};
pub use kind::{ENCODERS, EncoderKind, encoder_kind};
#[cfg(feature = "vision")]
pub(crate) use open::check_built;
#[cfg(feature = "vision")]
pub use open::open_encoder;
#[cfg(feature = "vision")]
pub use read::read_image;
