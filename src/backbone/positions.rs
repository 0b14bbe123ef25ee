//! Where the positions of a batch stand, and which of them are real.

use std::borrow::Cow;

use crate::rectangle::Rectangle;

/// Where the `n` positions of each of `B` rows stand; known on the host before any tensor is computed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Positions {
    /// Rows `B`.
    pub batch: usize,
    /// Positions `n` per row, padding included.
    pub len: usize,
    /// Position ids `[B, n]`, row-major; padding repeats a neighbour's and is never read.
    pub ids: Vec<u32>,
    /// `[B, n]`, false at padding.
    pub valid: Vec<bool>,
}

impl Positions {
    /// No positions, for `batch` rows.
    pub fn empty(batch: usize) -> Self {
        Self { batch, ..Self::default() }
    }

    /// Positions of tokens with the given validity `[B, n]`, counted on from `next[b]`, which moves on by the number of valid ones.
    ///
    /// # Panics
    /// If `valid` is not `[next.len(), n]`.
    pub fn issue(valid: &[bool], next: &mut [u32]) -> Self {
        let batch = next.len();
        let len = valid.len() / batch;
        assert_eq!(valid.len(), batch * len, "validity is [batch, len]");
        let mut ids = Vec::with_capacity(valid.len());
        for (row, next) in valid.chunks_exact(len.max(1)).zip(next) {
            for &v in row {
                ids.push(*next);
                *next += u32::from(v);
            }
        }
        Self { batch, len, ids, valid: valid.to_vec() }
    }

    /// `cells` of these positions.
    fn cells<'a, T>(&self, cells: &'a [T]) -> Rectangle<'a, T> {
        Rectangle { batch: self.batch, len: self.len, cells }
    }

    /// The positions `from..to` of every row.
    pub fn slice(&self, from: usize, to: usize) -> Self {
        Self {
            batch: self.batch,
            len: to - from,
            ids: self.cells(&self.ids).columns(from, to),
            valid: self.cells(&self.valid).columns(from, to),
        }
    }

    /// The columns of each row with these indices, `[B, m]` row-major.
    pub(crate) fn gathered(&self, columns: &[usize]) -> Self {
        let len = columns.len() / self.batch;
        let from: Vec<usize> =
            columns.iter().enumerate().map(|(i, column)| i / len * self.len + column).collect();
        Self {
            batch: self.batch,
            len,
            ids: from.iter().map(|&i| self.ids[i]).collect(),
            valid: from.iter().map(|&i| self.valid[i]).collect(),
        }
    }

    /// Several lists of positions of the same rows, one after another.
    ///
    /// # Panics
    /// If the numbers of rows differ.
    pub fn cat(parts: &[&Positions], batch: usize) -> Self {
        let ids: Vec<_> = parts.iter().map(|p| p.cells(&p.ids)).collect();
        let valid: Vec<_> = parts.iter().map(|p| p.cells(&p.valid)).collect();
        Self {
            batch,
            len: parts.iter().map(|p| p.len).sum(),
            ids: Rectangle::beside(&ids, batch),
            valid: Rectangle::beside(&valid, batch),
        }
    }

    /// Several lists of positions as one batch, one under the other, left-padded to the longest.
    pub fn stack(parts: &[&Positions]) -> Self {
        let ids: Vec<_> = parts.iter().map(|p| p.cells(&p.ids)).collect();
        let valid: Vec<_> = parts.iter().map(|p| p.cells(&p.valid)).collect();
        Self {
            batch: parts.iter().map(|p| p.batch).sum(),
            len: parts.iter().map(|p| p.len).max().unwrap_or(0),
            ids: Rectangle::under(&ids, 0),
            valid: Rectangle::under(&valid, false),
        }
    }

    /// The rows `from..from + count`.
    pub fn rows(&self, from: usize, count: usize) -> Self {
        let range = from * self.len..(from + count) * self.len;
        Self {
            batch: count,
            len: self.len,
            ids: self.ids[range.clone()].to_vec(),
            valid: self.valid[range].to_vec(),
        }
    }

    /// These positions for each of `batch` rows, which may share those of one row.
    pub(super) fn of_rows(&self, batch: usize) -> Cow<'_, Self> {
        if self.batch == batch { Cow::Borrowed(self) } else { Cow::Owned(self.select(&vec![0; batch])) }
    }

    /// The rows with these indices, in this order.
    pub fn select(&self, rows: &[usize]) -> Self {
        let ids = rows.iter().flat_map(|&b| &self.ids[b * self.len..][..self.len]).copied().collect();
        let valid = rows.iter().flat_map(|&b| &self.valid[b * self.len..][..self.len]).copied().collect();
        Self { batch: rows.len(), len: self.len, ids, valid }
    }

    /// The same positions with `offsets[b]` added to the ids of row `b`.
    pub fn shifted(mut self, offsets: &[u32]) -> Self {
        for (row, offset) in self.ids.chunks_exact_mut(self.len.max(1)).zip(offsets) {
            row.iter_mut().for_each(|id| *id += offset);
        }
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn padding_does_not_use_up_position_ids() {
        let mut next = [3, 0];
        let p = Positions::issue(&[false, true, true, true, true, true], &mut next);
        assert_eq!(p.ids, [3, 3, 4, 0, 1, 2]);
        assert_eq!(next, [5, 3]);
    }

    #[test]
    fn slices_and_joins_keep_rows_apart() {
        let p = Positions::issue(&[true; 6], &mut [0, 10]);
        let joined = Positions::cat(&[&p.slice(0, 1), &p.slice(1, 3)], 2);
        assert_eq!(joined, p);
        assert_eq!(p.slice(1, 2).ids, [1, 11]);
    }
}
