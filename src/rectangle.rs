//! Row-major rectangles: what belongs to the positions of several rows, padded to one length, cut and put together.

/// Cells `[batch, len]`, row-major. Both sizes are named, since there may be no columns.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rectangle<'a, T> {
    /// Rows.
    pub batch: usize,
    /// Columns.
    pub len: usize,
    /// The cells.
    pub cells: &'a [T],
}

/// Where rows that are shorter than others are padded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Padding {
    /// So that last cells stand under each other.
    Left,
    /// So that first cells do.
    Right,
}

impl<'a, T: Copy> Rectangle<'a, T> {
    /// The rows, one after another.
    pub fn rows(self) -> impl Iterator<Item = &'a [T]> {
        (0..self.batch).map(move |b| &self.cells[b * self.len..][..self.len])
    }

    /// The cells of the columns `from..to`.
    pub fn columns(self, from: usize, to: usize) -> Vec<T> {
        self.rows().flat_map(|row| &row[from..to]).copied().collect()
    }

    /// The cells of several rectangles of `batch` rows side by side.
    ///
    /// # Panics
    /// If one has another number of rows.
    pub fn beside(parts: &[Self], batch: usize) -> Vec<T> {
        assert!(parts.iter().all(|p| p.batch == batch), "rectangles of different batches");
        let mut rows: Vec<_> = parts.iter().map(|p| p.rows()).collect();
        let mut cells = Vec::with_capacity(parts.iter().map(|p| p.cells.len()).sum());
        for _ in 0..batch {
            rows.iter_mut().for_each(|rows| cells.extend_from_slice(rows.next().expect("`batch` rows")));
        }
        cells
    }

    /// The cells of several rectangles one under the other, padded on the left to the widest.
    pub fn under(parts: &[Self], fill: T) -> Vec<T> {
        padded(&parts.iter().flat_map(|p| p.rows()).collect::<Vec<_>>(), fill, Padding::Left)
    }
}

/// The cells of `rows` as one rectangle as wide as the longest of them.
pub(crate) fn padded<T: Copy>(rows: &[&[T]], fill: T, padding: Padding) -> Vec<T> {
    let len = rows.iter().map(|row| row.len()).max().unwrap_or(0);
    let mut cells = Vec::with_capacity(rows.len() * len);
    for row in rows {
        let before = if padding == Padding::Left { len - row.len() } else { 0 };
        cells.resize(cells.len() + before, fill);
        cells.extend_from_slice(row);
        cells.resize(cells.len() + len - row.len() - before, fill);
    }
    cells
}

/// Which cells of rows of these lengths are real once they are padded.
pub(crate) fn real(lengths: impl Iterator<Item = usize>, padding: Padding) -> Vec<bool> {
    let rows: Vec<Vec<bool>> = lengths.map(|n| vec![true; n]).collect();
    padded(&rows.iter().map(Vec::as_slice).collect::<Vec<_>>(), false, padding)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(batch: usize, len: usize, cells: &[u8]) -> Rectangle<'_, u8> {
        Rectangle { batch, len, cells }
    }

    #[test]
    fn rows_are_padded_on_the_side_that_is_asked_for() {
        let rows: [&[u8]; 3] = [&[1], &[2, 3], &[]];
        assert_eq!(padded(&rows, 0, Padding::Left), [0, 1, 2, 3, 0, 0]);
        assert_eq!(padded(&rows, 9, Padding::Right), [1, 9, 2, 3, 9, 9]);
        assert!(padded::<u8>(&[], 0, Padding::Left).is_empty());
        assert_eq!(real([1, 2, 0].into_iter(), Padding::Right), [true, false, true, true, false, false]);
    }

    #[test]
    fn columns_that_are_cut_and_put_beside_each_other_are_the_whole() {
        let all = of(2, 3, &[1, 2, 3, 4, 5, 6]);
        let (left, right) = (all.columns(0, 1), all.columns(1, 3));
        assert_eq!((left.as_slice(), right.as_slice()), (&[1, 4][..], &[2, 3, 5, 6][..]));
        let parts = [of(2, 1, &left), of(2, 0, &[]), of(2, 2, &right)];
        assert_eq!(Rectangle::beside(&parts, 2), all.cells);
        assert!(Rectangle::<u8>::beside(&[], 2).is_empty());
    }

    #[test]
    fn rectangles_under_each_other_end_in_one_column() {
        assert_eq!(Rectangle::under(&[of(1, 1, &[1]), of(2, 2, &[2, 3, 4, 5])], 0), [0, 1, 2, 3, 4, 5]);
        assert_eq!(Rectangle::under(&[of(2, 0, &[]), of(1, 1, &[7])], 0), [0, 0, 7]);
    }
}
