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
            for format in [KvFormat::F32, KvFormat::Bf16, KvFormat::Int8] {
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
                    let stored = [bytes(&cache.keys), bytes(&cache.values)];
                    let scales = [bits(&cache.key_scales), bits(&cache.value_scales)];
                    (cpu.isa, bits(&qkv), (stored, scales))
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
        Bytes::Int8(values) => values.iter().map(|&value| u32::from(value)).collect(),
    }
}

/// Every head of every position comes back to within half a step of its own scale.
#[test]
fn int8_keys_and_values_are_integers_of_their_scales() {
    let (kv_heads, head_dim, pairs) = (2, 32, 16);
    let stride = 3 * kv_heads * head_dim;
    let places = [5, 16, 47];
    for cpu in cpus() {
        let mut qkv = Values::new(3).floats(places.len() * stride);
        // A head of nothing but zeros, and one much larger than the others.
        qkv[2 * kv_heads * head_dim..][..head_dim].fill(0.0);
        qkv[stride + 2 * kv_heads * head_dim..][..head_dim].iter_mut().for_each(|v| *v *= 1000.0);
        let shape = KvShape { blocks: 3, kv_heads, head_dim, format: KvFormat::Int8 };
        let mut cache = KvLayer::new(shape);
        let angles = [vec![1.0; pairs], vec![0.0; pairs]].concat().repeat(places.len());
        let args = RopeStore {
            qkv: &mut qkv,
            heads: kv_heads,
            angles: &angles,
            pairs,
            style: RopePairs::Halves,
            places: &places,
            cache: &mut cache,
        };
        rope_store(&cpu, args);
        let (Bytes::Int8(keys), Bytes::Int8(values)) = (&cache.keys, &cache.values) else {
            panic!("stored as asked");
        };
        for (row, place) in places.map(|place| place as usize).into_iter().enumerate() {
            for head in 0..kv_heads {
                let (block, offset) = (place / 16 * kv_heads + head, place % 16);
                let scales = (
                    cache.key_scales[block * 16 + offset],
                    cache.value_scales[block * 16 + offset],
                );
                for dim in 0..head_dim {
                    let want =
                        |kind: usize| qkv[row * stride + (kind * kv_heads + head) * head_dim + dim];
                    let page = block * head_dim * 16;
                    let key = keys[page + u8::key_place(offset, dim)].to_f32();
                    let value = values[page + u8::value_place(head_dim, offset, dim)].to_f32();
                    assert!((key * scales.0 - want(1)).abs() <= scales.0 * 0.5001);
                    assert!((value * scales.1 - want(2)).abs() <= scales.1 * 0.5001);
                }
            }
        }
    }
}
