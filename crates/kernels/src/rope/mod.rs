//! Rotary position embedding (Su et al. 2021) of queries and keys, and the storing of keys and values into the cache.
//!
//! Pair `i` of a head is turned by `position × frequency[i]`. The two values of a pair lie half the rotated width
//! apart, or side by side, depending on how the model's weights were laid out.

#[cfg(test)]
mod cases;

use device::cpu::{Cpu, DisjointSlice, Plain, partition};

use crate::attention::{BLOCK_TOKENS, KvElement, KvLayer, KvShape};

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
    cpu.pool.run(&|worker| {
        for row in partition(positions.len(), cpu.pool.threads(), worker) {
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
    }
}

fn run<E: KvElement>(cpu: &Cpu, args: RopeStore<'_>)
where
    KvLayer: KvSlices<E>,
{
    let RopeStore { qkv, heads, angles, pairs, style, places, cache } = args;
    let KvShape { blocks, kv_heads, head_dim, .. } = cache.shape();
    let rows = places.len();
    let stride = (heads + 2 * kv_heads) * head_dim;
    assert!(2 * pairs <= head_dim, "rope_store: more pairs than a head has");
    assert!(qkv.len() >= rows * stride, "rope_store: rows too short");
    assert!(angles.len() >= rows * 2 * pairs, "rope_store: angles too short");
    assert!(
        places.iter().all(|&place| (place as usize) < blocks * BLOCK_TOKENS),
        "rope_store: place outside of the cache"
    );
    let qkv = DisjointSlice::new(qkv);
    let (keys, values) = cache.slices();
    let (keys, values) = (DisjointSlice::new(keys), DisjointSlice::new(values));
    cpu.pool.run(&|worker| {
        for row in partition(rows, cpu.pool.threads(), worker) {
            // SAFETY: workers have different rows.
            let row_values = unsafe { qkv.part(row * stride..(row + 1) * stride) };
            let (turned, plain) = row_values.split_at_mut((heads + kv_heads) * head_dim);
            let (cosines, sines) = angles[row * 2 * pairs..][..2 * pairs].split_at(pairs);
            for head in turned.chunks_exact_mut(head_dim) {
                turn(&mut head[..2 * pairs], cosines, sines, style);
            }
            let (block, offset) =
                (places[row] as usize / BLOCK_TOKENS, places[row] as usize % BLOCK_TOKENS);
            for kv_head in 0..kv_heads {
                let page = (block * kv_heads + kv_head) * head_dim * BLOCK_TOKENS;
                let key = &turned[(heads + kv_head) * head_dim..][..head_dim];
                for (dim, key) in key.iter().enumerate() {
                    let index = page + dim * BLOCK_TOKENS + offset;
                    // SAFETY: workers have different rows, and no two rows share a place.
                    let stored = unsafe { keys.part(index..index + 1) };
                    stored[0] = E::from_f32(*key);
                }
                let start = page + offset * head_dim;
                // SAFETY: as above.
                let stored = unsafe { values.part(start..start + head_dim) };
                let value = &plain[kv_head * head_dim..][..head_dim];
                for (stored, value) in stored.iter_mut().zip(value) {
                    *stored = E::from_f32(*value);
                }
            }
        }
    });
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

/// The cache as slices of its element type.
trait KvSlices<E: Plain> {
    fn slices(&mut self) -> (&mut [E], &mut [E]);
}

macro_rules! kv_slices {
    ($element:ty, $format:ident) => {
        impl KvSlices<$element> for KvLayer {
            fn slices(&mut self) -> (&mut [$element], &mut [$element]) {
                use crate::attention::Bytes::$format;
                match (&mut self.keys, &mut self.values) {
                    ($format(keys), $format(values)) => (keys, values),
                    _ => unreachable!("the caller matched the format"),
                }
            }
        }
    };
}
kv_slices!(f32, F32);
kv_slices!(u16, Bf16);
