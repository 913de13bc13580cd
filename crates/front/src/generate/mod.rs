//! From prompts in tokens to answers in text, the same for every protocol: several answers at once, decoded without
//! ever splitting a character, cut at stop strings.

mod choice;
mod group;

pub(crate) use choice::{Drawn, End, Matched, Piece, TextRules};
pub(crate) use group::{Group, Job};

/// The seed of the answer with this index: the first has the request's own seed, the others seeds that have nothing to
/// do with each other.
pub(crate) fn mix_seed(seed: u64, index: u32) -> u64 {
    if index == 0 {
        return seed;
    }
    // The output function of SplitMix64.
    let mut mixed = seed.wrapping_add(u64::from(index).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn seeds_differ_and_the_first_is_the_request_s() {
        assert_eq!(mix_seed(42, 0), 42);
        let seeds: BTreeSet<u64> = (0..128).map(|index| mix_seed(42, index)).collect();
        assert_eq!(seeds.len(), 128);
    }
}
