//! The most likely tokens of a vocabulary.

use device::cpu::Isa;
use kernels::vocabulary::{COLLECT_BLOCK, Collect, collect};
use types::TokenId;

/// A token with its logit.
pub(super) type Candidate = (f32, TokenId);

/// The `count` most likely tokens in no order; of equal ones, those with lower ids.
pub(super) fn most_likely(isa: Isa, logits: &[f32], count: usize) -> Vec<Candidate> {
    let count = count.min(logits.len());
    if count == 0 {
        return Vec::new();
    }
    // Once some are found, those that come later must be above the last that is kept: soon few are.
    let limit = 2 * count + COLLECT_BLOCK;
    let mut found = Vec::with_capacity(limit + COLLECT_BLOCK);
    let (mut start, mut floor) = (0, f32::NEG_INFINITY);
    while start < logits.len() {
        start = collect(isa, Collect { row: logits, start, floor, limit, found: &mut found });
        if found.len() > count {
            let (_, last, _) = found.select_nth_unstable_by_key(count - 1, by_likelihood);
            floor = last.0.next_up();
            found.truncate(count);
        }
    }
    found
}

/// Key of an order in which the most likely come first, and equal ones by their ids.
pub(super) fn by_likelihood(&(logit, token): &Candidate) -> (u32, TokenId) {
    (!ordered(logit), token)
}

/// An integer that orders as the value does, which is not NaN; both zeros are one.
pub(super) fn ordered(value: f32) -> u32 {
    let bits = (value + 0.0).to_bits();
    // The bits of a negative value order the other way round.
    let flipped = bits.cast_signed() >> 31;
    bits ^ (flipped.cast_unsigned() | 1 << 31)
}
