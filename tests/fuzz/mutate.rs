//! Damaged files: a valid one, changed in a few places in the ways that break parsers.

use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

const LONGEST: usize = 1 << 16;
const MOST_CHANGES: usize = 6;

const NUMBERS: [u64; 14] = [
    0,
    1,
    2,
    7,
    8,
    127,
    255,
    1 << 16,
    (1 << 31) - 1,
    1 << 31,
    u32::MAX as u64,
    1 << 40,
    i64::MAX as u64,
    u64::MAX,
];

const WORDS: [&str; 44] = [
    "{",
    "}",
    "[",
    "]",
    ",",
    ":",
    "\"",
    "\\",
    "\n",
    "null",
    "true",
    "false",
    "0",
    "-1",
    "1.5",
    "1e999",
    "nan",
    "inf",
    "18446744073709551615",
    "18446744073709551616",
    "9223372036854775808",
    "4294967296",
    "\"\"",
    "{}",
    "[]",
    "\\u0000",
    "\\ud800",
    "\u{feff}",
    "\u{1f600}",
    "=",
    "[[agents]]\n",
    "{{",
    "}}",
    "{%",
    "%}",
    "{{ question }}",
    "{% for i in range(9) %}",
    "(",
    ")",
    "*",
    "((a{99}){99}){99}",
    "(?i)",
    "\\p{L}",
    "\u{e9}",
];

/// Execution `execution`: one of `seeds` with some changes.
pub fn mutated(seeds: &[Vec<u8>], execution: u64) -> Vec<u8> {
    let mut rng = ChaCha8Rng::seed_from_u64(execution);
    let mut bytes = seeds.choose(&mut rng).expect("there are valid files").clone();
    for _ in 0..rng.random_range(1..=MOST_CHANGES) {
        change(&mut bytes, seeds, &mut rng);
        bytes.truncate(LONGEST);
    }
    bytes
}

fn change(bytes: &mut Vec<u8>, seeds: &[Vec<u8>], rng: &mut ChaCha8Rng) {
    let at = rng.random_range(0..=bytes.len());
    let end = (at + rng.random_range(1..=16)).min(bytes.len());
    match rng.random_range(0..10) {
        0 if at < bytes.len() => bytes[at] ^= 1 << rng.random_range(0..8),
        1 if at < bytes.len() => bytes[at] = rng.random(),
        2 => overwrite(bytes, at, *NUMBERS.choose(rng).expect("numbers"), if rng.random() { 4 } else { 8 }),
        3 => drop(bytes.drain(at..end)),
        4 => {
            let piece = bytes[at..end].repeat(rng.random_range(1..64));
            drop(bytes.splice(at..at, piece));
        }
        5 | 6 => drop(bytes.splice(at..at, WORDS.choose(rng).expect("words").bytes())),
        7 => {
            let word = WORDS.choose(rng).expect("words").repeat(rng.random_range(1..2000));
            drop(bytes.splice(at..at, word.bytes()));
        }
        8 => {
            let other = seeds.choose(rng).expect("there are valid files");
            let from = rng.random_range(0..=other.len());
            drop(bytes.splice(at.., other[from..].iter().copied()));
        }
        9 if rng.random() => bytes.truncate(at),
        _ => replace_number(bytes, at, rng),
    }
}

/// Writes the last `size` bytes' worth of `number`, little-endian, over what is at `at`.
fn overwrite(bytes: &mut [u8], at: usize, number: u64, size: usize) {
    for (byte, new) in bytes[at..].iter_mut().zip(&number.to_le_bytes()[..size]) {
        *byte = *new;
    }
}

/// Puts another number in place of the next one that is written out in digits.
fn replace_number(bytes: &mut Vec<u8>, at: usize, rng: &mut ChaCha8Rng) {
    let Some(from) = bytes[at..].iter().position(u8::is_ascii_digit).map(|i| at + i) else { return };
    let to = bytes[from..].iter().position(|b| !b.is_ascii_digit()).map_or(bytes.len(), |i| from + i);
    let number = NUMBERS.choose(rng).expect("numbers").to_string();
    drop(bytes.splice(from..to, number.bytes()));
}
