//! The rotation against its formula, and the cache against what was stored.

use super::*;
use crate::{
    attention::{Bytes, KvFormat},
    testing::{Values, assert_close, cpus},
};

#[test]
fn turns_by_position_times_frequency_and_stores() {
    let (heads, kv_heads, head_dim, pairs) = (2, 1, 16, 6);
    let frequencies: Vec<f64> = (0..pairs).map(|pair| 0.3_f64.powi(pair as i32)).collect();
    let positions = [0_u32, 5, 100_000];
    let places = [16 + 3, 0, 2 * 16 + 15];
    let stride = (heads + 2 * kv_heads) * head_dim;
    let before = Values::new(4).floats(positions.len() * stride);
    for cpu in cpus() {
        let mut angles = vec![0.0; positions.len() * 2 * pairs];
        rope_angles(&cpu, &positions, &frequencies, 1.0, &mut angles);
        for style in [RopePairs::Halves, RopePairs::Neighbours] {
            let mut qkv = before.clone();
            let mut cache =
                KvLayer::new(KvShape { blocks: 3, kv_heads, head_dim, format: KvFormat::F32 });
            rope_store(
                &cpu,
                RopeStore {
                    qkv: &mut qkv,
                    heads,
                    angles: &angles,
                    pairs,
                    style,
                    places: &places,
                    cache: &mut cache,
                },
            );
            let (Bytes::F32(keys), Bytes::F32(values)) = (&cache.keys, &cache.values) else {
                panic!("stored as asked");
            };
            for (row, &position) in positions.iter().enumerate() {
                let mut want = before[row * stride..][..stride].to_vec();
                for head in want.chunks_exact_mut(head_dim).take(heads + kv_heads) {
                    for (pair, frequency) in frequencies.iter().enumerate() {
                        let (low, high) = match style {
                            RopePairs::Halves => (pair, pair + pairs),
                            RopePairs::Neighbours => (2 * pair, 2 * pair + 1),
                        };
                        let (sin, cos) = (f64::from(position) * frequency).sin_cos();
                        let (a, b) = (f64::from(head[low]), f64::from(head[high]));
                        head[low] = (a * cos - b * sin) as f32;
                        head[high] = (a * sin + b * cos) as f32;
                    }
                }
                assert_close(&qkv[row * stride..][..stride], &want, 1e-6, "rope");
                let (block, offset) = (places[row] as usize / 16, places[row] as usize % 16);
                for dim in 0..head_dim {
                    let key = keys[(block * head_dim + dim) * 16 + offset];
                    assert_eq!(key, qkv[row * stride + heads * head_dim + dim]);
                    let value = values[(block * 16 + offset) * head_dim + dim];
                    assert_eq!(value, before[row * stride + (heads + kv_heads) * head_dim + dim]);
                }
            }
        }
    }
}

/// Whole lanes and parts of them, one head or several, more rows than workers.
#[test]
fn rungs_agree_exactly() {
    for (heads, kv_heads, head_dim, pairs) in
        [(2, 1, 16, 6), (9, 3, 64, 32), (4, 2, 32, 5), (3, 3, 128, 20), (2, 1, 256, 128)]
    {
        let mut values = Values::new(8);
        let rows = 5;
        let places = [3, 17, 16, 47, 0];
        let stride = (heads + 2 * kv_heads) * head_dim;
        let before = values.floats(rows * stride);
        let angles = values.floats(rows * 2 * pairs);
        for style in [RopePairs::Halves, RopePairs::Neighbours] {
            for format in [KvFormat::F32, KvFormat::Bf16] {
                let results = cpus().into_iter().map(|cpu| {
                    let mut qkv = before.clone();
                    let mut cache = KvLayer::new(KvShape { blocks: 3, kv_heads, head_dim, format });
                    let args = RopeStore {
                        qkv: &mut qkv,
                        heads,
                        angles: &angles,
                        pairs,
                        style,
                        places: &places,
                        cache: &mut cache,
                    };
                    rope_store(&cpu, args);
                    (cpu.isa, bits(&qkv), [bytes(&cache.keys), bytes(&cache.values)])
                });
                let results: Vec<_> = results.collect();
                let (_, want_qkv, want_cache) = &results[0];
                for (isa, qkv, cache) in &results[1..] {
                    assert!(qkv == want_qkv, "{isa:?}: {style:?} of {pairs} pairs");
                    assert!(cache == want_cache, "{isa:?}: {format:?}");
                }
            }
        }
    }
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|value| value.to_bits()).collect()
}

fn bytes(bytes: &Bytes) -> Vec<u32> {
    match bytes {
        Bytes::F32(values) => bits(values),
        Bytes::Bf16(values) => values.iter().map(|&value| u32::from(value)).collect(),
    }
}
