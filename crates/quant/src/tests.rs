//! The two readings of each format (weights one by one, and packed for the kernels) agree on any bytes, and the
//! readings agree with blocks worked out by hand.

use device::cpu::ThreadPool;

use super::*;

/// Reproducible bytes; the halves that are scales stay finite because their top exponent bit is cleared.
fn random_bytes(data_type: DataType, blocks: usize) -> Vec<u8> {
    let mut state = 0x2545_f491_u32;
    let mut bytes: Vec<u8> = (0..blocks * data_type.block_bytes())
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 17;
            state ^= state << 5;
            (state >> 9) as u8
        })
        .collect();
    let halves: &[usize] = match data_type {
        DataType::Q6_K => &[208],
        DataType::Q4_0 | DataType::Q5_0 | DataType::Q8_0 | DataType::F16 | DataType::BF16 => &[0],
        DataType::F32 => &[2],
        _ => &[0, 2],
    };
    for block in bytes.chunks_exact_mut(data_type.block_bytes()) {
        for half in halves {
            block[half + 1] &= 0xbf;
        }
    }
    bytes
}

#[test]
fn packed_weights_are_the_defined_ones() {
    let pool = ThreadPool::new(2);
    for data_type in DataType::ALL {
        let (rows, columns) = (19, 512);
        let blocks = rows * columns / data_type.block_elements();
        let bytes = random_bytes(data_type, blocks);
        let mut want = vec![0.0; rows * columns];
        dequantise(data_type, &bytes, &mut want);
        let packed = pack(&pool, data_type, [rows, columns], &bytes).unwrap();
        let floats = pack_as_f32(&pool, data_type, [rows, columns], &bytes).unwrap();
        let mut got = vec![0.0; columns];
        for (row, want) in want.chunks_exact(columns).enumerate() {
            floats.dequantise_row(row, &mut got);
            assert_eq!(got, want, "{data_type} as floats, row {row}");
            packed.dequantise_row(row, &mut got);
            for (got, want) in got.iter().zip(want) {
                // The same few products and sums in another order: a rounding error of the largest term.
                assert!(
                    (got - want).abs() <= want.abs() * 1e-5 + 1e-4,
                    "{data_type}, row {row}: {got}, expected {want}"
                );
            }
        }
    }
}

fn check(data_type: DataType, block: &[u8], want: &[(usize, f32)]) {
    let mut weights = vec![0.0; data_type.block_elements()];
    dequantise(data_type, block, &mut weights);
    for &(index, want) in want {
        assert_eq!(weights[index], want, "{data_type}, weight {index}");
    }
}

fn block(parts: &[&[u8]]) -> Vec<u8> {
    parts.concat()
}

#[test]
fn blocks_worked_out_by_hand() {
    let half = |value: f32| f16::from_f32(value).to_le_bytes();
    let mut nibbles = [0_u8; 16];
    nibbles[0] = 0x5f;
    nibbles[15] = 0xa1;
    let four = [(0, 0xf), (16, 5), (15, 1), (31, 0xa), (1, 0)];
    let map = |function: &dyn Fn(usize, i32) -> f32| -> Vec<(usize, f32)> {
        four.iter().map(|&(index, quantum)| (index, function(index, quantum))).collect()
    };
    let bytes = block(&[&half(0.5), &nibbles]);
    check(DataType::Q4_0, &bytes, &map(&|_, q| 0.5 * (q - 8) as f32));
    let bytes = block(&[&half(0.5), &half(-3.0), &nibbles]);
    check(DataType::Q4_1, &bytes, &map(&|_, q| 0.5 * q as f32 - 3.0));
    // Fifth bits for weights 0 and 31.
    let fifths = 0x8000_0001_u32.to_le_bytes();
    let fifth = |index: usize| if index == 0 || index == 31 { 16 } else { 0 };
    let bytes = block(&[&half(0.5), &fifths, &nibbles]);
    check(DataType::Q5_0, &bytes, &map(&|index, q| 0.5 * (q + fifth(index) - 16) as f32));
    let bytes = block(&[&half(0.5), &half(-3.0), &fifths, &nibbles]);
    check(DataType::Q5_1, &bytes, &map(&|index, q| 0.5 * (q + fifth(index)) as f32 - 3.0));
    let mut integers = [0_u8; 32];
    integers[3] = 0x80;
    integers[4] = 0x7f;
    let bytes = block(&[&half(0.25), &integers]);
    check(DataType::Q8_0, &bytes, &[(3, -32.0), (4, 31.75), (5, 0.0)]);

    // Sub-block 0 has scale 3 and minimum 5; sub-block 5 has scale 0b10_0111 and minimum 0b01_1000.
    let mut scales = [0_u8; 12];
    (scales[0], scales[4]) = (3, 5);
    scales[9] = 0x87;
    scales[1] |= 0b1000_0000;
    scales[5] |= 0b0100_0000;
    let mut quanta = [0_u8; 128];
    quanta[0] = 0x09;
    quanta[2 * 32 + 7] = 0xb0;
    let bytes = block(&[&half(0.5), &half(0.25), &scales, &quanta]);
    let far = 5 * 32 + 7;
    check(
        DataType::Q4_K,
        &bytes,
        &[(0, 0.5 * 3.0 * 9.0 - 0.25 * 5.0), (far, 0.5 * 39.0 * 11.0 - 0.25 * 24.0)],
    );
    let mut fifths = [0_u8; 32];
    fifths[7] = 1 << 5;
    let bytes = block(&[&half(0.5), &half(0.25), &scales, &fifths, &quanta]);
    check(
        DataType::Q5_K,
        &bytes,
        &[(0, 0.5 * 3.0 * 9.0 - 0.25 * 5.0), (far, 0.5 * 39.0 * 27.0 - 0.25 * 24.0)],
    );
    // Weight 128 + 64 + 32 + 1 = 225: second half, quarter 3: high halves of bytes 32.. of its low bits, top two
    // high bits.
    let mut low = [0_u8; 128];
    low[64 + 32 + 1] = 0x70;
    let mut high = [0_u8; 64];
    high[32 + 1] = 0b1000_0000;
    let mut scales = [1_u8; 16];
    scales[225 / 16] = (-4_i8).cast_unsigned();
    let bytes = block(&[&low, &high, &scales, &half(0.5)]);
    check(DataType::Q6_K, &bytes, &[(225, 0.5 * -4.0 * (39.0 - 32.0)), (0, -16.0)]);
}

#[test]
fn a_matrix_of_another_size_is_refused() {
    let pool = ThreadPool::new(1);
    for (shape, bytes) in [([2, 32], 35), ([2, 33], 36), ([usize::MAX, 32], 36)] {
        let error = pack(&pool, DataType::Q4_0, shape, &vec![0; bytes]).err().unwrap();
        assert!(error.to_string().contains("Q4_0"), "{error}");
    }
}
