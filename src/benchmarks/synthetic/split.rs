//! Which facts training data may state, and which questions test data asks.

/// What data is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Split {
    /// To learn from.
    Train,
    /// To measure on.
    Test,
}

named_enum! {
    /// Which pairs of subject and object training data never holds; each word goes with equally many others in what is held out, so that a
    /// subject says as little as can be of its object. No test question rests on a pair that training data has.
    HeldOut, "split" {
        /// Half of all pairs; test problems are made of these alone, so that the subject of a test fact never goes with any object that it
        /// had in training. The tiny model was trained without them, too.
        #[default]
        Half = "half",
        /// An eighth of all pairs, part of that half; test problems are made of all pairs, and ask about held-out ones.
        Eighth = "eighth",
    }
}

impl HeldOut {
    /// Whether training data never pairs the `subject`-th word of its list with the `object`-th of its own.
    fn holds_out(self, subject: usize, object: usize) -> bool {
        let of_32 = match self {
            Self::Half => 16,
            Self::Eighth => 4,
        };
        (subject * 7 + object * 3) % 32 < of_32
    }

    /// Whether facts of `split` may be made of this pair.
    pub(super) fn allows(self, split: Split, subject: usize, object: usize) -> bool {
        match (self, split) {
            (_, Split::Train) => !self.holds_out(subject, object),
            (Self::Half, Split::Test) => self.holds_out(subject, object),
            (Self::Eighth, Split::Test) => true,
        }
    }

    /// Whether questions of `split` may rest on this pair.
    pub(super) fn asks(self, split: Split, subject: usize, object: usize) -> bool {
        self.holds_out(subject, object) == (split == Split::Test)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_held_out_evenly_and_training_holds_none_of_what_is_asked() {
        for (held_out, n) in [(HeldOut::Half, 16), (HeldOut::Eighth, 4)] {
            for i in 0..32 {
                assert_eq!((0..32).filter(|&j| held_out.asks(Split::Test, i, j)).count(), n);
                assert_eq!((0..32).filter(|&j| held_out.asks(Split::Test, j, i)).count(), n);
                for j in 0..32 {
                    let [train, test] = [Split::Train, Split::Test].map(|s| held_out.asks(s, i, j));
                    assert!(train != test && held_out.allows(Split::Train, i, j) == train);
                    assert!(!test || held_out.allows(Split::Test, i, j));
                    // What the tiny model never read holds every pair that is asked.
                    assert!(!test || HeldOut::Half.asks(Split::Test, i, j));
                }
            }
        }
    }
}
