//! Sixteen values at a time, with the roundings of the meaning: the same bits.

use super::{Part, RopePairs};
use crate::{
    attention::{HEAD_DIM_MAX, KvElement, KvShape},
    lanes::{LANES, LaneKernel, Lanes},
    quantize::scale,
};

/// An element of the cache that lanes are stored as.
pub(super) trait LaneElement: KvElement {
    fn store<L: Lanes>(values: L, stored: &mut [Self; LANES]);
}

impl LaneElement for f32 {
    #[inline(always)]
    fn store<L: Lanes>(values: L, stored: &mut [Self; LANES]) {
        values.store(stored);
    }
}

/// The bits of a bfloat16.
impl LaneElement for u16 {
    #[inline(always)]
    fn store<L: Lanes>(values: L, stored: &mut [Self; LANES]) {
        values.store_bf16(stored);
    }
}

/// The bits of a signed byte.
impl LaneElement for u8 {
    #[inline(always)]
    fn store<L: Lanes>(values: L, stored: &mut [Self; LANES]) {
        let (groups, _) = stored.as_chunks_mut::<4>();
        for (group, four) in groups.iter_mut().zip(values.to_i8_groups()) {
            *group = four.to_le_bytes();
        }
    }
}

impl<E: LaneElement> LaneKernel for Part<'_, E> {
    #[inline(always)]
    fn run<L: Lanes>(self) {
        let KvShape { kv_heads, head_dim, .. } = self.shape;
        for row in self.rows.clone() {
            // SAFETY: a row of this part, once.
            let (turned, plain) = unsafe { self.row(row) };
            match self.style {
                RopePairs::Halves => turn_halves::<L>(turned, head_dim, self.angles(row)),
                RopePairs::Neighbours => turn_neighbours::<L>(turned, head_dim, self.angles(row)),
            }
            let keys = &turned[self.heads * head_dim..];
            for kv_head in 0..kv_heads {
                let (keys, _) = keys[kv_head * head_dim..][..head_dim].as_chunks::<LANES>();
                let (values, _) = plain[kv_head * head_dim..][..head_dim].as_chunks::<LANES>();
                let (mut key_factor, mut value_factor) = (1.0, 1.0);
                if E::IS_SCALED {
                    let (key_scale, value_scale);
                    (key_scale, key_factor) = scale(largest::<L>(keys));
                    (value_scale, value_factor) = scale(largest::<L>(values));
                    // SAFETY: a row of this part, and these elements have scales.
                    unsafe { self.store_scales(row, kv_head, [key_scale, value_scale]) };
                }
                let (key_factor, value_factor) = (L::splat(key_factor), L::splat(value_factor));
                for (index, key) in keys.iter().enumerate() {
                    let mut stored = [E::from_f32(0.0); LANES];
                    E::store(L::load(key).mul(key_factor), &mut stored);
                    // SAFETY: a row of this part.
                    unsafe { self.store_key(row, kv_head, index * LANES, &stored) };
                }
                for (index, value) in values.iter().enumerate() {
                    let mut stored = [E::from_f32(0.0); LANES];
                    E::store(L::load(value).mul(value_factor), &mut stored);
                    // SAFETY: a row of this part.
                    unsafe { self.store_value(row, kv_head, index * LANES, &stored) };
                }
            }
        }
    }
}

#[inline(always)]
fn largest<L: Lanes>(chunks: &[[f32; LANES]]) -> f32 {
    let mut largest = L::splat(0.0);
    for values in chunks {
        largest = largest.max(L::load(values).abs());
    }
    largest.largest()
}

#[inline(always)]
fn turn_halves<L: Lanes>(heads: &mut [f32], head_dim: usize, angles: (&[f32], &[f32])) {
    let (cosines, sines) = angles;
    let pairs = cosines.len();
    for head in heads.chunks_exact_mut(head_dim) {
        let (low, high) = head[..2 * pairs].split_at_mut(pairs);
        for first in (0..pairs).step_by(LANES) {
            let part = first..pairs.min(first + LANES);
            let (cosine, sine) =
                (L::load_some(&cosines[part.clone()]), L::load_some(&sines[part.clone()]));
            let (low, high) = (&mut low[part.clone()], &mut high[part]);
            let (a, b) = (L::load_some(low), L::load_some(high));
            a.mul(cosine).sub(b.mul(sine)).store_some(low);
            a.mul(sine).add(b.mul(cosine)).store_some(high);
        }
    }
}

/// Each value is turned by its own cosine and its neighbour's sine, which is negative for the first of a pair.
#[inline(always)]
fn turn_neighbours<L: Lanes>(heads: &mut [f32], head_dim: usize, angles: (&[f32], &[f32])) {
    let (mut cosines, mut sines) = ([0.0; HEAD_DIM_MAX], [0.0; HEAD_DIM_MAX]);
    let width = 2 * angles.0.len();
    let targets = cosines.as_chunks_mut::<2>().0.iter_mut().zip(sines.as_chunks_mut::<2>().0);
    for ((cosines, sines), (&cosine, &sine)) in targets.zip(angles.0.iter().zip(angles.1)) {
        (*cosines, *sines) = ([cosine; 2], [-sine, sine]);
    }
    for head in heads.chunks_exact_mut(head_dim) {
        for first in (0..width).step_by(LANES) {
            let part = first..width.min(first + LANES);
            let (cosine, sine) =
                (L::load_some(&cosines[part.clone()]), L::load_some(&sines[part.clone()]));
            let values = &mut head[part];
            let turned = L::load_some(values);
            turned.mul(cosine).add(turned.swap_neighbours().mul(sine)).store_some(values);
        }
    }
}
