//! The meaning: one pair at a time.

use super::{Part, RopePairs};
use crate::{
    attention::{KvElement, KvShape},
    lanes::LANES,
    quantize::scale,
};

pub(super) fn run<E: KvElement>(part: Part<'_, E>) {
    let KvShape { kv_heads, head_dim, .. } = part.shape;
    for row in part.rows.clone() {
        // SAFETY: a row of this part, once.
        let (turned, plain) = unsafe { part.row(row) };
        let (cosines, sines) = part.angles(row);
        for head in turned.chunks_exact_mut(head_dim) {
            turn(&mut head[..2 * part.pairs], cosines, sines, part.style);
        }
        for kv_head in 0..kv_heads {
            let key = &turned[(part.heads + kv_head) * head_dim..][..head_dim];
            let value = &plain[kv_head * head_dim..][..head_dim];
            let (mut key_factor, mut value_factor) = (1.0, 1.0);
            if E::IS_SCALED {
                let (key_scale, value_scale);
                (key_scale, key_factor) = scale(largest(key));
                (value_scale, value_factor) = scale(largest(value));
                // SAFETY: a row of this part, and these elements have scales.
                unsafe { part.store_scales(row, kv_head, [key_scale, value_scale]) };
            }
            let stored: Vec<E> = key.iter().map(|&key| E::from_f32(key * key_factor)).collect();
            // SAFETY: a row of this part.
            unsafe { part.store_key(row, kv_head, 0, &stored) };
            for (index, value) in value.chunks(LANES).enumerate() {
                let stored = value.iter().map(|&value| E::from_f32(value * value_factor));
                let stored: Vec<E> = stored.collect();
                // SAFETY: a row of this part.
                unsafe { part.store_value(row, kv_head, index * LANES, &stored) };
            }
        }
    }
}

fn largest(values: &[f32]) -> f32 {
    values.iter().fold(0.0, |largest, value| largest.max(value.abs()))
}

fn turn(head: &mut [f32], cosines: &[f32], sines: &[f32], style: RopePairs) {
    match style {
        RopePairs::Halves => {
            let (low, high) = head.split_at_mut(cosines.len());
            let pairs = low.iter_mut().zip(high).zip(cosines.iter().zip(sines));
            for ((low, high), (cosine, sine)) in pairs {
                (*low, *high) = (*low * cosine - *high * sine, *low * sine + *high * cosine);
            }
        }
        RopePairs::Neighbours => {
            let (pairs, _) = head.as_chunks_mut::<2>();
            for ([low, high], (cosine, sine)) in pairs.iter_mut().zip(cosines.iter().zip(sines)) {
                (*low, *high) = (*low * cosine - *high * sine, *low * sine + *high * cosine);
            }
        }
    }
}
