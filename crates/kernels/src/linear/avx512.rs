//! Twelve rows against unpacked blocks of a panel, in assembly: the sums of all rows stay in registers, and nothing but
//! the instructions that compute is issued. What a compiler makes of the general body moves sums to memory and back.

use std::arch::asm;

use super::{Zero, quantized::Unpacked};
use crate::{
    linear::PANEL,
    quantize::{Q8Block, pair},
};

/// Rows of a tile.
pub(crate) const ROWS: usize = 12;

/// Something for each row: the numbers of its dot and its sum, where the blocks of its quad are, which of them it is.
macro_rules! each_row {
    ($make:ident $(, $argument:literal)*) => {
        concat!(
            $make!("0", "12", "{first}", "0" $(, $argument)*),
            $make!("1", "13", "{first}", "1" $(, $argument)*),
            $make!("2", "14", "{first}", "2" $(, $argument)*),
            $make!("3", "15", "{first}", "3" $(, $argument)*),
            $make!("4", "16", "{second}", "0" $(, $argument)*),
            $make!("5", "17", "{second}", "1" $(, $argument)*),
            $make!("6", "18", "{second}", "2" $(, $argument)*),
            $make!("7", "19", "{second}", "3" $(, $argument)*),
            $make!("8", "20", "{third}", "0" $(, $argument)*),
            $make!("9", "21", "{third}", "1" $(, $argument)*),
            $make!("10", "22", "{third}", "2" $(, $argument)*),
            $make!("11", "23", "{third}", "3" $(, $argument)*),
        )
    };
}

macro_rules! load_sum {
    ($dot:literal, $sum:literal, $quad:literal, $row:literal) => {
        concat!("vmovups zmm", $sum, ", [{sums} + 64*", $dot, "]\n")
    };
}

macro_rules! store_sum {
    ($dot:literal, $sum:literal, $quad:literal, $row:literal) => {
        concat!("vmovups [{sums} + 64*", $dot, "], zmm", $sum, "\n")
    };
}

macro_rules! clear {
    ($dot:literal, $sum:literal, $quad:literal, $row:literal) => {
        concat!("vpxord zmm", $dot, ", zmm", $dot, ", zmm", $dot, "\n")
    };
}

/// The products with a group of weights.
macro_rules! dot {
    ($dot:literal, $sum:literal, $quad:literal, $row:literal, $group:literal) => {
        concat!(
            "vpdpbusd zmm",
            $dot,
            ", zmm24, dword ptr [",
            $quad,
            " + 32*",
            $row,
            " + 4*",
            $group,
            "]{{1to16}}\n"
        )
    };
}

macro_rules! group {
    ($group:literal) => {
        concat!("vmovdqu64 zmm24, [{weights} + 64*", $group, "]\n", each_row!(dot, $group))
    };
}

/// The zero point, in `zmm26`, times the sums of the inputs.
macro_rules! point {
    ($dot:literal, $sum:literal, $quad:literal, $row:literal) => {
        concat!(
            "vpdpwssd zmm",
            $dot,
            ", zmm26, dword ptr [",
            $quad,
            " + 160 + 4*",
            $row,
            "]{{1to16}}\n"
        )
    };
}

macro_rules! scale {
    ($dot:literal, $sum:literal, $quad:literal, $row:literal) => {
        concat!(
            "vcvtdq2ps zmm",
            $dot,
            ", zmm",
            $dot,
            "\n",
            "vmulps zmm25, zmm24, dword ptr [",
            $quad,
            " + 128 + 4*",
            $row,
            "]{{1to16}}\n",
            "vfmadd231ps zmm",
            $sum,
            ", zmm",
            $dot,
            ", zmm25\n"
        )
    };
}

macro_rules! minimum {
    ($dot:literal, $sum:literal, $quad:literal, $row:literal) => {
        concat!(
            "vfmadd231ps zmm",
            $sum,
            ", zmm24, dword ptr [",
            $quad,
            " + 144 + 4*",
            $row,
            "]{{1to16}}\n"
        )
    };
}

/// The loop over blocks, with what the zero of the weights takes after the products and after the scales.
macro_rules! blocks {
    ($point:expr, $minimum:expr, $weights:ident, $quads:ident, $sums:ident, $points:expr) => {
        asm!(
            "vpbroadcastd zmm26, {points:e}",
            each_row!(load_sum),
            "2:",
            each_row!(clear),
            group!("0"),
            group!("1"),
            group!("2"),
            group!("3"),
            group!("4"),
            group!("5"),
            group!("6"),
            group!("7"),
            $point,
            "vmovups zmm24, [{weights} + 512]",
            each_row!(scale),
            $minimum,
            "add {weights}, 704",
            "add {first}, 176",
            "add {second}, 176",
            "add {third}, 176",
            "dec {count}",
            "jnz 2b",
            each_row!(store_sum),
            weights = inout(reg) $weights.as_ptr() => _,
            first = inout(reg) $quads[0].as_ptr() => _,
            second = inout(reg) $quads[1].as_ptr() => _,
            third = inout(reg) $quads[2].as_ptr() => _,
            count = inout(reg) $weights.len() => _,
            sums = in(reg) $sums.as_mut_ptr(),
            points = in(reg) $points,
            out("zmm0") _, out("zmm1") _, out("zmm2") _, out("zmm3") _, out("zmm4") _,
            out("zmm5") _, out("zmm6") _, out("zmm7") _, out("zmm8") _, out("zmm9") _,
            out("zmm10") _, out("zmm11") _, out("zmm12") _, out("zmm13") _, out("zmm14") _,
            out("zmm15") _, out("zmm16") _, out("zmm17") _, out("zmm18") _, out("zmm19") _,
            out("zmm20") _, out("zmm21") _, out("zmm22") _, out("zmm23") _, out("zmm24") _,
            out("zmm25") _, out("zmm26") _,
            options(nostack),
        )
    };
}

/// Adds the products of the weights with three quads of rows to their sums.
///
/// # Panics
/// If a quad has not as many blocks as there are of weights.
///
/// # Safety
/// The CPU must have AVX-512 F and VNNI.
#[target_feature(enable = "avx512f,avx512vnni")]
pub(crate) unsafe fn tile(
    weights: &[Unpacked],
    quads: [&[Q8Block]; 3],
    zero: Zero,
    sums: &mut [[f32; PANEL]; ROWS],
) {
    assert!(quads.iter().all(|quad| quad.len() == weights.len()), "tile: blocks without weights");
    if weights.is_empty() {
        return;
    }
    match zero {
        Zero::Point(point) => {
            let points = pair([-i16::from(point); 2]);
            // SAFETY: reads as many blocks as there are, of the sizes asserted below, and writes the twelve sums.
            unsafe { blocks!(each_row!(point), "", weights, quads, sums, points) };
        }
        Zero::Minimum => {
            // SAFETY: as above.
            unsafe {
                blocks!(
                    "",
                    concat!("vmovups zmm24, [{weights} + 640]\n", each_row!(minimum)),
                    weights,
                    quads,
                    sums,
                    0_i32
                );
            };
        }
    }
}

const _: () = assert!(size_of::<Unpacked>() == 704 && size_of::<Q8Block>() == 176);
