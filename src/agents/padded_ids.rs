//! Rows of token ids of different length as one rectangle, with what is real marked.

use crate::rectangle::{Padding, Rectangle, padded, real};

/// Token ids of `B` rows padded to one length.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PaddedIds {
    /// Rows `B`.
    pub batch: usize,
    /// Ids per row, padding included.
    pub len: usize,
    /// `[B, len]`, row-major; 0 at padding.
    pub ids: Vec<u32>,
    /// `[B, len]`, false at padding.
    pub valid: Vec<bool>,
}

impl PaddedIds {
    /// Pads on the left, so that the last position of every row is real.
    pub fn left(rows: &[&[u32]]) -> Self {
        Self::pad(rows, Padding::Left)
    }

    /// Pads on the right.
    pub fn right(rows: &[&[u32]]) -> Self {
        Self::pad(rows, Padding::Right)
    }

    fn pad(rows: &[&[u32]], padding: Padding) -> Self {
        Self {
            batch: rows.len(),
            len: rows.iter().map(|row| row.len()).max().unwrap_or(0),
            ids: padded(rows, 0, padding),
            valid: real(rows.iter().map(|row| row.len()), padding),
        }
    }

    /// `cells` of this rectangle's size.
    fn cells<'a, T>(&self, cells: &'a [T]) -> Rectangle<'a, T> {
        Rectangle { batch: self.batch, len: self.len, cells }
    }

    /// The first `len` columns.
    pub(crate) fn truncated(&self, len: usize) -> Self {
        Self {
            batch: self.batch,
            len,
            ids: self.cells(&self.ids).columns(0, len),
            valid: self.cells(&self.valid).columns(0, len),
        }
    }

    /// How many ids are real.
    pub fn count(&self) -> usize {
        self.valid.iter().filter(|&&v| v).count()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prompts_pad_left_and_targets_right() {
        let l = PaddedIds::left(&[&[5], &[6, 7]]);
        assert_eq!((l.ids, l.valid), (vec![0, 5, 6, 7], vec![false, true, true, true]));
        let r = PaddedIds::right(&[&[5], &[6, 7]]);
        assert_eq!((r.ids.clone(), r.count()), (vec![5, 0, 6, 7], 3));
        assert_eq!(r.truncated(1).ids, [5, 6]);
    }
}
