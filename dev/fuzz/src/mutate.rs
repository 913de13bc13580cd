//! Inputs made from valid ones by small damage, the same for the same seed.

use crate::Target;

/// Inputs do not grow beyond this.
const INPUT_BYTES_MAX: usize = 1 << 16;
/// Most changes to one input.
const CHANGES_MAX: usize = 6;
/// Numbers at the edges of what integer types and limits can hold.
const BOUNDARIES: [u64; 16] = [
    0,
    1,
    2,
    0x7f,
    0xff,
    0x7fff,
    0xffff,
    0x1_0000,
    0x7fff_ffff,
    0xffff_ffff,
    0x1_0000_0000,
    1 << 40,
    1 << 61,
    i64::MAX as u64,
    u64::MAX - 31,
    u64::MAX,
];

/// A small generator of pseudo-random numbers (SplitMix64).
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    /// A generator with this seed.
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number below `bound`, which must not be zero.
    fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound as u64) as usize
    }

    fn pick<'a, T>(&mut self, items: &'a [T]) -> &'a T {
        &items[self.below(items.len())]
    }

    /// A range within `len` bytes, mostly short.
    fn range(&mut self, len: usize) -> std::ops::Range<usize> {
        let start = self.below(len + 1);
        let longest = if self.below(4) == 0 { len - start } else { (len - start).min(16) };
        start..start + self.below(longest + 1)
    }
}

/// The input that belongs to a seed.
pub fn input(target: &Target, corpus: &[Vec<u8>], seed: u64) -> Vec<u8> {
    let mut random = Random::new(seed);
    let mut input = random.pick(corpus).clone();
    // Mostly few, because one is often enough to end the parsing early.
    let changes_max = 1 + random.below(CHANGES_MAX);
    for _ in 0..=random.below(changes_max) {
        change(&mut input, target, corpus, &mut random);
        input.truncate(INPUT_BYTES_MAX);
    }
    input
}

fn change(input: &mut Vec<u8>, target: &Target, corpus: &[Vec<u8>], random: &mut Random) {
    let len = input.len();
    match random.below(10) {
        0 if len > 0 => input[random.below(len)] ^= 1 << random.below(8),
        1 if len > 0 => input[random.below(len)] = random.next() as u8,
        2 => input.truncate(random.below(len + 1)),
        3 => drop(input.drain(random.range(len))),
        4 => {
            let bytes: Vec<u8> = (0..random.below(16)).map(|_| random.next() as u8).collect();
            insert(input, &bytes, random);
        }
        5 => {
            let copied = input[random.range(len)].to_vec();
            insert(input, &copied, random);
        }
        6 => {
            // The beginning of this with the end of another.
            let other = random.pick(corpus);
            input.truncate(random.below(len + 1));
            input.extend_from_slice(&other[random.below(other.len() + 1)..]);
        }
        7 | 8 => {
            let value =
                if random.below(4) == 0 { random.next() } else { *random.pick(&BOUNDARIES) };
            let width = *random.pick(&[1, 2, 4, 8, 8]);
            overwrite(input, &value.to_le_bytes()[..width], random);
        }
        _ if !target.dictionary.is_empty() => {
            let word = random.pick(target.dictionary);
            if random.below(2) == 0 {
                insert(input, word, random);
            } else {
                overwrite(input, word, random);
            }
        }
        _ => {}
    }
}

fn insert(input: &mut Vec<u8>, bytes: &[u8], random: &mut Random) {
    let at = random.below(input.len() + 1);
    input.splice(at..at, bytes.iter().copied());
}

fn overwrite(input: &mut [u8], bytes: &[u8], random: &mut Random) {
    let at = random.below(input.len() + 1);
    for (place, byte) in input[at..].iter_mut().zip(bytes) {
        *place = *byte;
    }
}
