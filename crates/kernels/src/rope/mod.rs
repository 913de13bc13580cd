//! Rotary position embedding (Su et al. 2021) of queries and keys, and the storing of keys and values into the cache.
//!
//! Pair `i` of a head is turned by `position × frequency[i]`. The two values of a pair lie half the rotated width
//! apart, or side by side, depending on how the model's weights were laid out.

mod lanes;
mod scalar;

#[cfg(test)]
mod cases;

use std::ops::Range;

use device::cpu::{Cpu, DisjointSlice, Plain, Rung};

use self::lanes::LaneElement;
use crate::{
    attention::{BLOCK_TOKENS, HEAD_DIM_MAX, KvElement, KvLayer, KvShape, LINE},
    lanes::launch,
};

/// Which values of a head form a pair.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RopePairs {
    /// `i` and `i + half`: the layout of Hugging Face checkpoints.
    Halves,
    /// `2 i` and `2 i + 1`: the layout of Meta's checkpoints and of GGUF files of the llama architecture.
    Neighbours,
}

/// Fills `[rows][2 × frequencies]`: for each row the cosines, then the sines, of its position times each frequency,
/// both times `magnitude`. Angles are computed in double precision, so that far positions keep their place.
///
/// # Panics
/// If the output is too short.
pub fn rope_angles(
    cpu: &Cpu,
    positions: &[u32],
    frequencies: &[f64],
    magnitude: f32,
    output: &mut [f32],
) {
    let pairs = frequencies.len();
    assert!(output.len() >= positions.len() * 2 * pairs, "rope_angles: output too short");
    let output = DisjointSlice::new(output);
    cpu.pool.spread(positions.len(), 1, 10 * pairs, &|rows| {
        for row in rows {
            // SAFETY: workers have different rows.
            let row_output = unsafe { output.part(row * 2 * pairs..(row + 1) * 2 * pairs) };
            let (cosines, sines) = row_output.split_at_mut(pairs);
            let targets = cosines.iter_mut().zip(sines).zip(frequencies);
            for ((cosine, sine), frequency) in targets {
                let (sin, cos) = (f64::from(positions[row]) * frequency).sin_cos();
                *cosine = cos as f32 * magnitude;
                *sine = sin as f32 * magnitude;
            }
        }
    });
}

/// Arguments of [`rope_store`].
pub struct RopeStore<'a> {
    /// `[rows][(heads + 2 × kv_heads) × head_dim]`: queries, keys, values. Queries are turned in place; keys too.
    pub qkv: &'a mut [f32],
    /// Query heads.
    pub heads: usize,
    /// From [`rope_angles`]; `[rows][2 × pairs]`.
    pub angles: &'a [f32],
    /// Pairs turned in each head; the rest of a head is left alone.
    pub pairs: usize,
    /// Which values form a pair.
    pub style: RopePairs,
    /// Where each row's key and value go: `block × 16 + offset`. No two rows share a place.
    pub places: &'a [u32],
    /// The layer's cache.
    pub cache: &'a mut KvLayer,
}

/// Turns queries and keys, and stores keys and values.
///
/// # Panics
/// If a buffer is too small, a place is outside of the cache, or heads are narrower than the pairs.
pub fn rope_store(cpu: &Cpu, args: RopeStore<'_>) {
    use crate::attention::KvFormat;
    let format = args.cache.shape().format;
    match format {
        KvFormat::F32 => run::<f32>(cpu, args),
        KvFormat::Bf16 => run::<u16>(cpu, args),
        KvFormat::Int8 => run::<u8>(cpu, args),
    }
}

fn run<E: LaneElement>(cpu: &Cpu, args: RopeStore<'_>)
where
    KvLayer: KvSlices<E>,
{
    let RopeStore { qkv, heads, angles, pairs, style, places, cache } = args;
    let shape = cache.shape();
    let KvShape { blocks, kv_heads, head_dim, .. } = shape;
    let rows = places.len();
    let stride = (heads + 2 * kv_heads) * head_dim;
    assert!(2 * pairs <= head_dim, "rope_store: more pairs than a head has");
    assert!(head_dim <= HEAD_DIM_MAX, "rope_store: head too wide");
    assert!(qkv.len() >= rows * stride, "rope_store: rows too short");
    assert!(angles.len() >= rows * 2 * pairs, "rope_store: angles too short");
    assert!(
        places.iter().all(|&place| (place as usize) < blocks * BLOCK_TOKENS),
        "rope_store: place outside of the cache"
    );
    let qkv = DisjointSlice::new(qkv);
    let ([keys, values], [key_scales, value_scales]) = cache.slices();
    let (keys, values) = (DisjointSlice::new(keys), DisjointSlice::new(values));
    let scales = [DisjointSlice::new(key_scales), DisjointSlice::new(value_scales)];
    cpu.pool.spread(rows, 1, stride / 4, &|rows| {
        let (qkv, keys, values, scales) = (&qkv, &keys, &values, &scales);
        let part =
            Part { qkv, heads, angles, pairs, style, places, shape, keys, values, scales, rows };
        match cpu.isa.rung() {
            Rung::Scalar => scalar::run(part),
            _ => launch(cpu.isa, part),
        }
    });
}

pub(crate) struct Part<'a, E> {
    qkv: &'a DisjointSlice<'a, f32>,
    heads: usize,
    angles: &'a [f32],
    pairs: usize,
    style: RopePairs,
    places: &'a [u32],
    shape: KvShape,
    keys: &'a DisjointSlice<'a, E>,
    values: &'a DisjointSlice<'a, E>,
    /// Of keys and of values.
    scales: &'a [DisjointSlice<'a, f32>; 2],
    rows: Range<usize>,
}

impl<E: KvElement> Part<'_, E> {
    /// A row's queries and keys, which are turned, and its values, which are not.
    ///
    /// # Safety
    /// The row is one of this part's, and not in use already.
    #[expect(clippy::mut_from_ref, reason = "rows are parts of a slice that workers share")]
    unsafe fn row(&self, row: usize) -> (&mut [f32], &[f32]) {
        let KvShape { kv_heads, head_dim, .. } = self.shape;
        let stride = (self.heads + 2 * kv_heads) * head_dim;
        // SAFETY: workers have different rows.
        let values = unsafe { self.qkv.part(row * stride..(row + 1) * stride) };
        let (turned, plain) = values.split_at_mut((self.heads + kv_heads) * head_dim);
        (turned, plain)
    }

    /// Cosines and sines of a row.
    fn angles(&self, row: usize) -> (&[f32], &[f32]) {
        self.angles[row * 2 * self.pairs..][..2 * self.pairs].split_at(self.pairs)
    }

    /// Stores some dimensions of a row's key, from an even one on.
    ///
    /// # Safety
    /// The row is one of this part's.
    #[inline(always)]
    unsafe fn store_key(&self, row: usize, kv_head: usize, first_dim: usize, key: &[E]) {
        let (page, position) = self.place(row, kv_head);
        // Dimensions of the one and of the other row of lines.
        for (dim, key) in (first_dim..).zip([key, &key[1..]]) {
            let start = page + E::key_place(position, dim);
            // SAFETY: workers have different rows, and no two rows share a place.
            let stored = unsafe { self.keys.spaced(start, LINE, key.len().div_ceil(2)) };
            stored.zip(key.iter().step_by(2)).for_each(|(stored, &key)| *stored = key);
        }
    }

    /// Stores up to sixteen dimensions of a row's value, from a multiple of sixteen on.
    ///
    /// # Safety
    /// The row is one of this part's.
    #[inline(always)]
    unsafe fn store_value(&self, row: usize, kv_head: usize, first_dim: usize, value: &[E]) {
        let (page, position) = self.place(row, kv_head);
        let start = page + E::value_place(self.shape.head_dim, position, first_dim);
        // SAFETY: workers have different rows, and no two rows share a place.
        let stored = unsafe { self.values.spaced(start, E::STEP, value.len()) };
        stored.zip(value).for_each(|(stored, &value)| *stored = value);
    }

    /// Stores the scales of a row's key and value.
    ///
    /// # Safety
    /// The row is one of this part's, and the cache has scales.
    unsafe fn store_scales(&self, row: usize, kv_head: usize, values: [f32; 2]) {
        let (page, offset) = self.place(row, kv_head);
        let index = page / self.shape.head_dim + offset;
        for (scales, value) in self.scales.iter().zip(values) {
            // SAFETY: workers have different rows, and no two rows share a place.
            unsafe { scales.part(index..index + 1)[0] = value };
        }
    }

    /// Where the block of a row's place begins in the cache, for a head, and which of the block's positions it is.
    fn place(&self, row: usize, kv_head: usize) -> (usize, usize) {
        let KvShape { kv_heads, head_dim, .. } = self.shape;
        let place = self.places[row] as usize;
        let block = place / BLOCK_TOKENS;
        ((block * kv_heads + kv_head) * head_dim * BLOCK_TOKENS, place % BLOCK_TOKENS)
    }
}

/// The cache as slices of its element type.
trait KvSlices<E: Plain> {
    /// Keys and values, and the scales of both.
    fn slices(&mut self) -> ([&mut [E]; 2], [&mut [f32]; 2]);
}

macro_rules! kv_slices {
    ($element:ty, $format:ident) => {
        impl KvSlices<$element> for KvLayer {
            fn slices(&mut self) -> ([&mut [$element]; 2], [&mut [f32]; 2]) {
                use crate::attention::Bytes::$format;
                let elements: [&mut [$element]; 2] = match (&mut self.keys, &mut self.values) {
                    ($format(keys), $format(values)) => [keys, values],
                    _ => unreachable!("the caller matched the format"),
                };
                (elements, [&mut self.key_scales, &mut self.value_scales])
            }
        }
    };
}
kv_slices!(f32, F32);
kv_slices!(u16, Bf16);
kv_slices!(u8, Int8);
