//! Packed tiles, read back as the head of `quantized.cuh` says.

use super::*;

const fn layout(bits: usize, scale_block: usize, scales: Scales, zero: Zero) -> QuantizedLayout {
    QuantizedLayout { bits, scale_block, scales, zero }
}

const LAYOUTS: [QuantizedLayout; 8] = [
    layout(4, 32, Scales::Half, Zero::Point(8)),
    layout(4, 32, Scales::Half, Zero::Minimum),
    layout(5, 32, Scales::Half, Zero::Point(16)),
    layout(5, 32, Scales::Half, Zero::Minimum),
    layout(8, 32, Scales::Half, Zero::Point(128)),
    layout(4, 32, Scales::Nested, Zero::Minimum),
    layout(5, 32, Scales::Nested, Zero::Minimum),
    layout(6, 16, Scales::Nested, Zero::Point(32)),
];

/// A number that depends on all of its arguments.
fn mixed(numbers: [usize; 3]) -> usize {
    numbers.iter().fold(17, |sum, &number| (sum ^ number).wrapping_mul(0x9e37_79b9) >> 3)
}

fn block(layout: QuantizedLayout, row: usize, block: usize) -> UnpackedBlock {
    let mut made = UnpackedBlock::default();
    for (index, quantum) in made.quanta.iter_mut().enumerate() {
        *quantum = (mixed([row, block, index]) % (1 << layout.bits)) as u8;
    }
    let number = |index: usize| (mixed([row, block, 100 + index]) % 120) as f32 - 60.0;
    (made.scales, made.minimum) = ([number(0), number(1)], number(2));
    // The same for all blocks that share it.
    made.outer_scale = (mixed([row, block / 8, 200]) % 50) as f32 / 8.0;
    made.outer_minimum = (mixed([row, block / 8, 201]) % 50) as f32 / 8.0;
    made
}

fn half_at(bytes: &[u8], place: usize) -> f32 {
    f16::from_le_bytes([bytes[place], bytes[place + 1]]).to_f32()
}

fn word_at(bytes: &[u8], word: usize) -> u32 {
    u32::from_le_bytes(bytes[4 * word..][..4].try_into().unwrap_or_default())
}

/// Quantum, scale and minimum of one weight, out of a packed tile.
fn read(
    layout: QuantizedLayout,
    (records, outers): (&[u8], &[u8]),
    (row, column): (usize, usize),
) -> (u8, f32, f32) {
    let has_minimum = layout.zero == Zero::Minimum;
    let is_nested = layout.scales == Scales::Nested;
    let (step, part, within) = (column / 64, column % 64 / 32, column % 32);
    let (half, group) = (row / 8, row % 8);
    let (t, value) = match layout.scale_block {
        32 => (within / 8, within % 8),
        _ => (within % 16 / 4, within / 16 * 4 + within % 4),
    };
    let (lane, word, pair, upper) = (4 * group + t, 2 * half + part, value / 2, value % 2 * 16);
    let quanta_bytes = if layout.bits == 8 { 1024 } else { 512 };
    let high_bytes = [0, 128, 256, 0, 0][layout.bits - 4];
    let numbers = 32 / layout.scale_block + usize::from(has_minimum);
    let number_bytes = if is_nested { 1 } else { 2 };
    let record_bytes = quanta_bytes + high_bytes + 32 * numbers * number_bytes;
    let record = &records[step * record_bytes..][..record_bytes];
    let high = &record[quanta_bytes..];
    let quantum = match layout.bits {
        8 => {
            let bytes = word_at(record, pair / 2 * 128 + 4 * lane + word);
            (bytes >> (pair % 2 * 8 + upper)) as u8 ^ 0x80
        }
        bits => {
            let low = word_at(record, 4 * lane + word) >> (4 * pair + upper) & 15;
            let more = match bits {
                5 => word_at(high, lane) >> (4 * word + pair + upper) & 1,
                6 => word_at(high, 2 * lane + half) >> (2 * (4 * part + pair) + upper) & 3,
                _ => 0,
            };
            (low | more << 4) as u8
        }
    };
    let first = (group * 4 + word) * numbers;
    let number = |index: usize| {
        let place = quanta_bytes + high_bytes + (first + index) * number_bytes;
        match is_nested {
            true => f32::from(record[place].cast_signed()),
            false => half_at(record, place),
        }
    };
    let outer_numbers = 1 + usize::from(has_minimum);
    let outer = |index: usize| match is_nested {
        true => {
            let first = step / 4 * 32 * outer_numbers;
            half_at(outers, first + 2 * ((2 * group + half) * outer_numbers + index))
        }
        false => 1.0,
    };
    let scale = number(within / layout.scale_block) * outer(0);
    let minimum = if has_minimum { number(numbers - 1) * outer(1) } else { 0.0 };
    (quantum, scale, minimum)
}

#[test]
fn every_weight_is_where_the_kernels_look_for_it() {
    for layout in LAYOUTS {
        for (rows, columns) in [(16, 512), (11, 256), (3, 768)] {
            let (record_bytes, outer_bytes) = tile_bytes(layout, columns);
            let mut tile = (vec![0xaa; record_bytes], vec![0xaa; outer_bytes]);
            pack_tile(layout, [rows, columns], (&mut tile.0, &mut tile.1), |row, index, target| {
                *target = block(layout, row, index);
            });
            let is_nested = layout.scales == Scales::Nested;
            for (row, column) in (0..16).flat_map(|row| (0..columns).map(move |c| (row, c))) {
                let got = read(layout, (&tile.0, &tile.1), (row, column));
                let want = block(layout, row, column / 32);
                let outer = |number: f32| if is_nested { number } else { 1.0 };
                let scale = want.scales[column % 32 / layout.scale_block] * outer(want.outer_scale);
                let minimum = match layout.zero {
                    Zero::Minimum => want.minimum * outer(want.outer_minimum),
                    Zero::Point(_) => 0.0,
                };
                if row < rows {
                    let want = (want.quanta[column % 32], scale, minimum);
                    assert_eq!(got, want, "{layout:?}, row {row}, column {column}");
                } else {
                    assert_eq!((got.1, got.2), (0.0, 0.0), "rows that are not there are 0");
                }
            }
        }
    }
}

#[test]
fn columns_that_end_within_a_record_are_zero() {
    let layout = LAYOUTS[1];
    let (record_bytes, _) = tile_bytes(layout, 96);
    let mut records = vec![0xaa; record_bytes];
    pack_tile(layout, [16, 96], (&mut records, &mut []), |row, index, target| {
        *target = block(layout, row, index);
    });
    for column in 96..128 {
        let (_, scale, minimum) = read(layout, (&records, &[]), (5, column));
        assert_eq!((scale, minimum), (0.0, 0.0));
    }
}

#[test]
fn a_weight_takes_the_bytes_of_its_format() {
    let bits = [4.5, 5.0, 5.5, 6.0, 8.5, 4.625, 5.625, 6.5625];
    for (layout, bits) in LAYOUTS.into_iter().zip(bits) {
        let (records, outers) = tile_bytes(layout, 4096);
        assert_eq!((records + outers) as f64 * 8.0 / (16.0 * 4096.0), bits, "{layout:?}");
    }
}
