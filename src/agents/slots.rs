//! Where the slots of `feed = "slots"` stand among the positions of a prompt: decided on the host, before any tensor.

use std::ops::Range;

use burn::prelude::*;
use diffmas_backends::KeyValueBlock;

use super::Embedded;
use crate::backbone::{KeyValues, Positions, select_rows};

named_enum! {
    /// Where slots stand in a prompt.
    SlotPlacement, "slot_placement" {
        /// After the whole prompt.
        #[default]
        End = "end",
        /// Slot `t` of `T` after content token `round(t·n/T)`, ties to even, of the `n` tokens of the last user turn; in pre-tokenised data,
        /// of the whole prompt. The prompt's last token stays last.
        Spread = "spread",
    }
}

/// Where `T` slots stand among the positions of each of `B` prompts, which are padded on the left to `n`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SlotPlaces {
    batch: usize,
    /// For each row, which of its `n + T` columns are the prompt's, `[B, n]`, and which the slots', `[B, T]`; both increase along a row.
    columns: [Vec<usize>; 2],
    /// Whether slots stand behind the prompt in every row.
    at_end: bool,
}

impl SlotPlaces {
    /// The places of `count` slots in prompts of which `valid`, `[B, n]` row-major, is real. `contents` holds the range of the content tokens
    /// among each row's own; where it holds none, the whole prompt is content.
    ///
    /// # Panics
    /// If a row has no token.
    pub fn new(
        placement: SlotPlacement,
        valid: &[bool],
        batch: usize,
        contents: &[Range<usize>],
        count: usize,
    ) -> Self {
        let n = valid.len() / batch;
        let mut columns = [Vec::with_capacity(batch * n), Vec::with_capacity(batch * count)];
        for (row, valid) in valid.chunks_exact(n).enumerate() {
            let tokens = valid.iter().filter(|&&v| v).count();
            assert!(tokens > 0, "a prompt is never empty");
            let content = contents.get(row).cloned().unwrap_or(0..tokens);
            let before = |t: usize| match placement {
                SlotPlacement::End => tokens,
                SlotPlacement::Spread => {
                    let share = (t * content.len()) as f64 / count as f64;
                    (content.start + share.round_ties_even() as usize).min(tokens - 1)
                }
            };
            let slots: Vec<usize> = (1..=count).map(|t| n - tokens + before(t) + t - 1).collect();
            columns[0].extend((0..n + count).filter(|column| slots.binary_search(column).is_err()));
            columns[1].extend(slots);
        }
        Self { batch, columns, at_end: placement == SlotPlacement::End }
    }

    /// Columns of prompt and slots.
    fn widths(&self) -> [usize; 2] {
        self.columns.each_ref().map(|columns| columns.len() / self.batch)
    }

    /// The positions of prompt and slots, counted on from `next` in the order in which they stand, as [`Positions::issue`] does; `valid` is the
    /// prompt's.
    pub fn issue(&self, valid: &[bool], next: &mut [u32]) -> [Positions; 2] {
        let [n, count] = self.widths();
        // Padding stays in front, whatever stands behind it.
        let all: Vec<bool> =
            valid.chunks_exact(n).flat_map(|row| row.iter().copied().chain(vec![true; count])).collect();
        let all = Positions::issue(&all, next);
        self.columns.each_ref().map(|columns| all.gathered(columns))
    }

    /// The input embeddings of `prompt` with those of the slots, `[T, D]`, in their places.
    pub(super) fn insert<B: Backend>(&self, prompt: Embedded<B>, slots: Tensor<B, 2>) -> Embedded<B> {
        let ([n, count], [_, d]) = (self.widths(), slots.dims());
        let slots = slots.unsqueeze_dim::<3>(0).expand([self.batch, count, d]);
        let valid = vec![true; self.batch * count];
        let x = slots.reshape([self.batch * count, d]);
        let all = prompt.beside(Embedded { x, batch: self.batch, valid });
        if self.at_end {
            return all;
        }
        let width = n + count;
        let mut from = vec![0; self.batch * width];
        for (columns, (own, first)) in self.columns.iter().zip([(n, 0), (count, n)]) {
            for (i, column) in columns.iter().enumerate() {
                from[i / own * width + column] = i / own * width + first + i % own;
            }
        }
        // Padding stays in front: which positions are real does not change.
        Embedded { x: select_rows(all.x, &from), ..all }
    }

    /// Hidden states `[B, n + T, D]` of prompt and slots, as those of the prompt and those of the slots.
    pub(super) fn split_hidden<B: Backend>(&self, hidden: &Tensor<B, 3>) -> [Tensor<B, 3>; 2] {
        self.split(&hidden.clone().unsqueeze_dim::<4>(1)).map(|part| part.squeeze_dim(1))
    }

    /// Keys and values of prompt and slots, as those of the prompt and those of the slots.
    pub(super) fn split_kv<B: Backend>(&self, kv: &KeyValues<B>) -> [KeyValues<B>; 2] {
        let mut parts = self.columns.each_ref().map(|columns| KeyValues {
            layers: Vec::with_capacity(kv.layers.len()),
            positions: kv.positions.gathered(columns),
        });
        for layer in &kv.layers {
            let (keys, values) = (self.split(&layer.key), self.split(&layer.value));
            for (part, (key, value)) in parts.iter_mut().zip(keys.into_iter().zip(values)) {
                part.layers.push(KeyValueBlock { key, value });
            }
        }
        parts
    }

    /// `[B, G, n + T, d]` → `[B, G, n, d]` and `[B, G, T, d]`.
    fn split<B: Backend>(&self, x: &Tensor<B, 4>) -> [Tensor<B, 4>; 2] {
        let [batch, heads, width, d] = x.dims();
        let [n, count] = self.widths();
        if self.at_end {
            return [x.clone().narrow(2, 0, n), x.clone().narrow(2, n, count)];
        }
        let flat = x.clone().reshape([batch * heads * width, d]);
        [(0, n), (1, count)].map(|(part, own)| {
            let of_row = |row: usize| &self.columns[part][row * own..(row + 1) * own];
            let from = (0..batch * heads).flat_map(|i| of_row(i / heads).iter().map(move |c| i * width + c));
            select_rows(flat.clone(), &from.collect::<Vec<_>>()).reshape([batch, heads, own, d])
        })
    }
}

#[cfg(all(test, feature = "flex"))]
mod tests {
    use diffmas_backends::Flex;

    use super::*;

    /// Prompts of 5 and 2 tokens, and two slots.
    const VALID: [bool; 10] = [true, true, true, true, true, false, false, false, true, true];

    fn columns(placement: SlotPlacement, contents: &[Range<usize>], count: usize) -> Vec<usize> {
        SlotPlaces::new(placement, &VALID, 2, contents, count).columns[1].clone()
    }

    #[test]
    fn slots_stand_at_the_end_or_in_even_shares_of_the_content_before_the_last_token() {
        assert_eq!(columns(SlotPlacement::End, &[], 2), [5, 6, 5, 6]);
        // Of 5 tokens: after 2.5, to even 2, and after 5, but before the last; of 2: after 1, and again 1.
        assert_eq!(columns(SlotPlacement::Spread, &[], 2), [2, 5, 4, 5]);
        // Content 1..4: after 1 + 1.5, to even 3, and after 4. Content 0..1: after 0.5, to even 0, and after 1.
        assert_eq!(columns(SlotPlacement::Spread, &[1..4, 0..1], 2), [3, 5, 3, 5]);
        assert_eq!(columns(SlotPlacement::Spread, &[0..0, 0..0], 1), [0, 3]);
    }

    #[test]
    fn what_is_inserted_comes_out_again_and_ids_run_through() {
        for placement in [SlotPlacement::End, SlotPlacement::Spread] {
            let places = SlotPlaces::new(placement, &VALID, 2, &[], 2);
            let device = Default::default();
            let x = Tensor::<Flex, 1>::from_floats(std::array::from_fn::<f32, 10, _>(|i| i as f32), &device);
            let prompt = Embedded { x: x.reshape([10, 1]), batch: 2, valid: VALID.to_vec() };
            let slots = Tensor::<Flex, 2>::from_floats([[100.0], [101.0]], &device);
            let all = places.insert(prompt, slots);
            assert_eq!(all.valid.iter().filter(|v| !**v).count(), 3);
            let numbers = |t: Tensor<Flex, 3>| t.into_data().to_vec::<f32>().unwrap();
            let [prompt, slots] = places.split_hidden(&all.x.clone().reshape([2, 7, 1]));
            assert_eq!(numbers(prompt), std::array::from_fn::<f32, 10, _>(|i| i as f32));
            assert_eq!(numbers(slots), [100.0, 101.0, 100.0, 101.0]);
            let mut next = [10, 20];
            let [prompt, slots] = places.issue(&VALID, &mut next);
            assert_eq!(next, [17, 24]);
            let own = |p: &Positions| {
                let real = p.ids.iter().zip(&p.valid).filter(|(_, valid)| **valid);
                real.map(|(id, _)| *id).collect::<Vec<_>>()
            };
            let (prompt, slots) = (own(&prompt), own(&slots));
            match placement {
                SlotPlacement::End => {
                    assert_eq!((prompt, slots), (vec![10, 11, 12, 13, 14, 20, 21], vec![15, 16, 22, 23]));
                }
                SlotPlacement::Spread => {
                    assert_eq!((prompt, slots), (vec![10, 11, 13, 14, 16, 20, 23], vec![12, 15, 21, 22]));
                }
            }
        }
    }
}
