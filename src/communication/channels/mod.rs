//! The channels of the library. Adding one is a file here and a line in the list below.

mod hybrid;
mod overwrite;
mod text;
mod trace;
mod vectors;

pub use hybrid::HybridChannel;
pub use overwrite::{OverwriteChannel, OverwriteSettings, OverwriteUpdate};
pub use text::{NoChannel, TextSettings};
pub use trace::TraceChannel;
pub use vectors::VectorsChannel;

use diffmas_backends::ModelBackend;

use super::channel_type::{Build, ChannelKind, ChannelType, build};

macro_rules! channels_of_the_library {
    ($($constant:ident = $channel:ty),+ $(,)?) => {
        impl ChannelKind {
            $(
                #[doc = concat!("The kind of [`", stringify!($channel), "`].")]
                pub const $constant: Self = Self::of::<$channel>();
            )+

            /// The kinds of the library's channels.
            pub const LIBRARY: &'static [Self] = &[$(Self::$constant),+];

            /// How a channel of the library is made, on any backend.
            pub(super) fn library_build<B: ModelBackend>(self) -> Option<Build<B>> {
                $(if self.name() == <$channel>::NAME {
                    return Some(build::<$channel, B>);
                })+
                None
            }
        }
    };
}

channels_of_the_library! {
    TRACE = TraceChannel,
    VECTORS = VectorsChannel,
    HYBRID = HybridChannel,
    OVERWRITE = OverwriteChannel,
    TEXT = NoChannel,
}
