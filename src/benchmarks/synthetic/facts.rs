//! How many facts a holder has.

use std::fmt;
use std::str::FromStr;

use crate::error::{Error, Result};

/// How many facts a holder has: a number, or a range from which each problem draws.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Facts {
    /// Fewest.
    pub min: usize,
    /// Most.
    pub max: usize,
}

impl Facts {
    /// Always so many.
    pub fn exactly(n: usize) -> Self {
        Self { min: n, max: n }
    }
}

impl FromStr for Facts {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let wrong = || Error::invalid(format!("`{text}` is neither a number of facts nor a range like 2-8"));
        let number = |part: &str| part.trim().parse::<usize>().map_err(|_| wrong());
        let facts = match text.split_once('-') {
            Some((min, max)) => Self { min: number(min)?, max: number(max)? },
            None => Self::exactly(number(text)?),
        };
        if facts.min == 0 || facts.min > facts.max { Err(wrong()) } else { Ok(facts) }
    }
}

impl fmt::Display for Facts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.min == self.max {
            true => write!(f, "{}", self.min),
            false => write!(f, "{}-{}", self.min, self.max),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_or_a_range_is_read() {
        assert_eq!("3".parse::<Facts>().unwrap(), Facts::exactly(3));
        assert_eq!("2-8".parse::<Facts>().unwrap(), Facts { min: 2, max: 8 });
        for text in ["0", "x", "8-2", "-3", ""] {
            let error = text.parse::<Facts>().unwrap_err().to_string();
            assert_eq!(error, format!("`{text}` is neither a number of facts nor a range like 2-8"));
        }
    }
}
