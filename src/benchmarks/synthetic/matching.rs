//! Random partners for words.

use rand::Rng;
use rand::seq::SliceRandom;

/// A random partner in `0..room` for each of `left`, no two the same, that `allows` pairs with it; `fixed` is the place of one of `left` and
/// its partner. Augmenting paths (Kuhn): in a language where every word goes with as many others, there always is a matching.
pub(super) fn matched(
    left: &[usize],
    room: usize,
    fixed: Option<(usize, usize)>,
    allows: impl Fn(usize, usize) -> bool,
    rng: &mut impl Rng,
) -> Vec<usize> {
    let mut order: Vec<usize> = (0..room).collect();
    order.shuffle(rng);
    let mut of: Vec<Option<usize>> = vec![None; room];
    let free = |partner: usize| fixed.is_none_or(|(_, taken)| taken != partner);
    let choices: Vec<Vec<usize>> =
        left.iter().map(|&l| order.iter().copied().filter(|&p| free(p) && allows(l, p)).collect()).collect();
    for i in (0..left.len()).filter(|&i| fixed.is_none_or(|(at, _)| at != i)) {
        let found = augment(i, &choices, &mut of, &mut vec![false; room]);
        assert!(found, "words go with equally many others, so that there is a matching");
    }
    let mut partners = vec![0; left.len()];
    for (partner, l) in of.into_iter().enumerate().filter_map(|(p, l)| Some((p, l?))) {
        partners[l] = partner;
    }
    if let Some((at, partner)) = fixed {
        partners[at] = partner;
    }
    partners
}

/// Finds a partner for `i`, moving others to another one where that helps.
fn augment(i: usize, choices: &[Vec<usize>], of: &mut [Option<usize>], seen: &mut [bool]) -> bool {
    for &p in &choices[i] {
        if std::mem::replace(&mut seen[p], true) {
            continue;
        }
        if of[p].is_none_or(|other| augment(other, choices, of, seen)) {
            of[p] = Some(i);
            return true;
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::generator;

    #[test]
    fn everybody_gets_a_partner_of_its_own_that_is_allowed() {
        let allows = |a: usize, b: usize| !(a + b).is_multiple_of(3);
        for seed in 0..20 {
            let left = [4, 0, 7, 2, 5, 8];
            let partners = matched(&left, 9, Some((2, 3)), allows, &mut generator(seed, 0));
            let mut all = partners.clone();
            all.sort_unstable();
            all.dedup();
            assert_eq!((all.len(), partners[2]), (left.len(), 3));
            assert!(left.iter().zip(&partners).enumerate().all(|(i, (&l, &p))| i == 2 || allows(l, p)));
        }
    }
}
