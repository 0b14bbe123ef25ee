//! Frozen matrices in the memory of a device.

use std::ops::Range;

use burn::prelude::*;
use burn::tensor::{Bytes, DType, TensorData};

use crate::{FrozenMatrix, ProductDtype, StoredMatrix, composed};

/// A frozen matrix `[out, in]`, in as few pieces of whole rows as the device can bind.
#[derive(Clone, Debug)]
pub struct DeviceMatrix<B: Backend> {
    /// One at least, the rows of each after those of the one before.
    pieces: Vec<Tensor<B, 2>>,
    /// What products of many rows with it are computed in.
    pub(super) products: ProductDtype,
}

impl<B: Backend> DeviceMatrix<B> {
    /// Moves `matrix` to `device`, in pieces of at most `most` bytes or one row.
    pub(super) fn new(matrix: StoredMatrix, dtype: DType, most: u64, device: &B::Device) -> Self {
        let [out, columns] = matrix.shape();
        let bytes = matrix.into_bytes();
        let row = columns * dtype.size();
        let rows = usize::try_from(most).unwrap_or(usize::MAX).checked_div(row).unwrap_or(out).clamp(1, out);
        // Memory of just its size: a page of what comes and goes is up to ten times as large.
        let held = |bytes: Bytes, rows: usize| {
            let data = TensorData::from_bytes(bytes, [rows, columns], dtype);
            B::memory_persistent_allocations(device, data, |data| Tensor::from_data(data, (device, dtype)))
        };
        let pieces = match rows == out {
            true => vec![held(bytes, out)],
            false => bytes
                .chunks(rows * row)
                .map(|piece| held(Bytes::from_bytes_vec(piece.to_vec()), piece.len() / row))
                .collect(),
        };
        Self { pieces, products: ProductDtype::F32 }
    }

    /// The matrix, whose products with many rows are computed in `products`.
    pub(super) fn multiplied_in(self, products: ProductDtype) -> Self {
        Self { products, ..self }
    }

    /// The matrix where it is in one piece.
    pub(super) fn whole(&self) -> Option<&Tensor<B, 2>> {
        match &self.pieces[..] {
            [whole] => Some(whole),
            _ => None,
        }
    }

    /// Its pieces, each with the number of its first row.
    pub(super) fn pieces(&self) -> impl Iterator<Item = (usize, Self)> {
        let products = self.products;
        self.placed().map(move |(from, piece)| (from, Self { pieces: vec![piece.clone()], products }))
    }

    /// The tensors of its pieces, each with the number of its first row.
    fn placed(&self) -> impl Iterator<Item = (usize, &Tensor<B, 2>)> {
        self.pieces.iter().scan(0, |next, piece| {
            let from = *next;
            *next += piece.dims()[0];
            Some((from, piece))
        })
    }

    /// The rows `ids`, in at least f32; see [`crate::ModelBackend::embed`].
    pub(super) fn embed(&self, ids: &[u32], device: &B::Device) -> Tensor<B, 2> {
        let mut found = Vec::new();
        // Where among what was found the row of each id is.
        let mut places = vec![0_i64; ids.len()];
        let mut next = 0;
        for (from, piece) in self.placed() {
            let inside = |id: u32| (id as usize).checked_sub(from).filter(|row| *row < piece.dims()[0]);
            let rows = ids.iter().zip(&mut places).filter_map(|(&id, place)| Some((inside(id)?, place)));
            let rows: Vec<u32> = rows
                .map(|(row, place)| {
                    *place = next;
                    next += 1;
                    row as u32
                })
                .collect();
            if !rows.is_empty() {
                found.push(composed::embed(piece, &rows));
            }
        }
        let places = Tensor::<B, 1, Int>::from_data(TensorData::new(places, [ids.len()]), device);
        Tensor::cat(found, 0).select(0, places)
    }
}

impl<B: Backend> FrozenMatrix for DeviceMatrix<B> {
    fn shape(&self) -> [usize; 2] {
        [self.pieces.iter().map(|piece| piece.dims()[0]).sum(), self.pieces[0].dims()[1]]
    }

    fn held_bytes(&self) -> usize {
        self.pieces.iter().map(FrozenMatrix::held_bytes).sum()
    }

    fn rows(&self, rows: Range<usize>) -> Vec<f32> {
        let read = self.placed().flat_map(|(from, piece)| {
            let own = from..from + piece.dims()[0];
            let (start, end) = (rows.start.max(own.start), rows.end.min(own.end));
            if start < end { piece.rows(start - from..end - from) } else { Vec::new() }
        });
        read.collect()
    }
}
