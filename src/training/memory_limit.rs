//! How much memory a run may take for what it keeps until gradients.

use std::fmt;
use std::str::FromStr;

use bytesize::ByteSize;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// A size in bytes, as files and the command line have it: `8GiB`, `500 MB`, `4096`. It is written as a whole number of the largest binary unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct MemorySize(pub u64);

impl MemorySize {
    /// A half of what is `free`, in whole MiB: what a run takes of itself.
    pub fn half_of(free: u64) -> Self {
        Self(free >> 21 << 20)
    }
}

impl FromStr for MemorySize {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let size = text.parse::<ByteSize>();
        size.map(|size| Self(size.as_u64())).map_err(|_| {
            Error::invalid(format!(
                "`{text}` is no size of memory; it is a number with a unit, for instance `8GiB` or `500MB`"
            ))
        })
    }
}

impl TryFrom<String> for MemorySize {
    type Error = Error;

    fn try_from(text: String) -> Result<Self> {
        text.parse()
    }
}

impl fmt::Display for MemorySize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let units = [(30, "GiB"), (20, "MiB"), (10, "KiB")];
        let whole = |(shift, _): &(u32, &str)| self.0 > 0 && self.0.trailing_zeros() >= *shift;
        match units.into_iter().find(whole) {
            Some((shift, unit)) => write!(f, "{}{unit}", self.0 >> shift),
            None => write!(f, "{}B", self.0),
        }
    }
}

impl From<MemorySize> for String {
    fn from(size: MemorySize) -> Self {
        size.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_and_written_exactly() {
        let cases =
            [("8GiB", 8 << 30, "8GiB"), ("0.5 GiB", 1 << 29, "512MiB"), ("500MB", 500_000_000, "500000000B")];
        for (text, bytes, written) in cases {
            let size: MemorySize = text.parse().unwrap();
            assert_eq!((size, size.to_string().as_str()), (MemorySize(bytes), written));
            assert_eq!(written.parse::<MemorySize>().unwrap(), size);
        }
        assert_eq!("4096".parse::<MemorySize>().unwrap().to_string(), "4KiB");
        assert_eq!(MemorySize::half_of((3 << 20) + 5).to_string(), "1MiB");
        assert_eq!("0".parse::<MemorySize>().unwrap().to_string(), "0B");
        for text in ["", "much", "-1GiB", "8 GuB", "nan"] {
            let error = text.parse::<MemorySize>().unwrap_err().to_string();
            assert!(error.starts_with(&format!("`{text}` is no size of memory")), "{error}");
        }
    }
}
