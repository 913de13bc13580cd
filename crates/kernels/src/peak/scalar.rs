//! Plain code, as fast as the compiler makes it for any CPU of this kind.

use std::hint::black_box;

/// The operations done.
pub(super) fn f32(rounds: u64) -> u64 {
    /// What twelve registers of four hold, which any CPU of this kind has.
    const SUMS: usize = 48;
    // Sums go towards 1 and stay ordinary numbers.
    let (factor, addend) = black_box((0.75_f32, 0.25_f32));
    let mut sums = [0.0_f32; SUMS];
    for _ in 0..rounds {
        for sum in &mut sums {
            *sum = *sum * factor + addend;
        }
    }
    black_box(sums);
    rounds * 2 * SUMS as u64
}

/// The operations done: dot products of vectors in the first-level cache.
pub(super) fn int8(rounds: u64) -> u64 {
    const WIDTH: usize = 1024;
    let (inputs, weights) = ([3_i8; WIDTH], [5_u8; WIDTH]);
    let mut total = 0_i32;
    for _ in 0..rounds {
        // They may have changed, as far as the compiler knows, so that each round is computed.
        let (inputs, weights) = (black_box(&inputs), black_box(&weights));
        let products = inputs.iter().zip(weights).map(|(a, b)| i32::from(*a) * i32::from(*b));
        total = total.wrapping_add(products.sum::<i32>());
    }
    black_box(total);
    rounds * 2 * WIDTH as u64
}
