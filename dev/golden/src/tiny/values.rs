//! Weights as a function of a tensor's name and an element's index; `values` in `reference/make.py` is the same.

/// The output function of SplitMix64.
fn mix(mut state: u64) -> u64 {
    state = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    state = (state ^ (state >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    state ^ (state >> 31)
}

/// Random numbers that belong to a name.
pub(super) fn stream(name: &str) -> impl Iterator<Item = u64> {
    // FNV-1a.
    let key = name.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |key, byte| {
        (key ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    (1_u64..).map(move |index| mix(key.wrapping_add(index.wrapping_mul(0x9e37_79b9_7f4a_7c15))))
}

/// The elements of a tensor. Eight bits of significand hold each, so that every float format holds them exactly.
pub(super) fn values(name: &str, count: usize) -> Vec<f32> {
    let element = if name.ends_with("norm.weight") {
        |mixed: u64| 1.0 + ((mixed >> 58) as f32 - 32.0) / 128.0
    } else {
        |mixed: u64| ((mixed >> 56) as f32 - 128.0) / 512.0
    };
    stream(name).take(count).map(element).collect()
}
