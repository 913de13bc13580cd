//! Quantized weights against quantized inputs: one body for all instruction sets, formats and numbers of rows.
//!
//! A tile is some rows against the 16 outputs of a panel. Few rows read the packed records themselves: what counts is
//! the memory they stream from. For many rows, a stretch of the panel is unpacked once into lines that need no more
//! than a load, and all rows walk over it while it lies in the first-level cache. Both add in the same order.

use std::ops::Range;

use super::{BLOCK, PANEL, PanelTarget, QuantizedLayout, Scales, Target, Zero, packed::LINE};
use crate::{
    lanes::{Dots, LANES, LaneKernel, Lanes},
    quantize::{GROUP, Q8Block, Q8Rows, QUAD, SUM_BLOCK, pair},
};

/// Blocks that are unpacked at once: at most 24 × 704 bytes, which leaves room for inputs in a first-level cache.
const STRETCH: usize = 24;
/// Rows for which sums are kept between stretches.
const ROWS_MAX: usize = 264;
/// How far ahead of its use a panel is fetched: some hundred nanoseconds of streaming.
const PREFETCH_BYTES: usize = 2048;

/// Most rows of a part: any number where all inputs are one stretch.
pub(super) const fn rows_max(columns: usize) -> usize {
    if columns <= STRETCH * BLOCK { usize::MAX } else { ROWS_MAX }
}

/// Sums of a row for the outputs of a panel.
type Sums = [f32; PANEL];

/// Some panels against some rows.
pub(super) struct Part<'a, P> {
    pub(super) layout: QuantizedLayout,
    pub(super) input: &'a Q8Rows,
    /// At most [`rows_max`], from a multiple of 4 on.
    pub(super) rows: Range<usize>,
    /// Panels with their numbers.
    pub(super) panels: P,
    pub(super) target: &'a Target<'a>,
}

impl<'a, P> LaneKernel for Part<'a, P>
where
    P: Iterator<Item = (usize, &'a [u8])>,
{
    #[inline(always)]
    fn run<L: Lanes + Dots>(self) {
        let QuantizedLayout { bits, scale_block, scales, zero } = self.layout;
        match (bits, scale_block, scales, zero) {
            (4, 32, Scales::Half, Zero::Point(_)) => self.all::<L, 4, 1, false, false>(),
            (4, 32, Scales::Half, Zero::Minimum) => self.all::<L, 4, 1, false, true>(),
            (4, 32, Scales::Nested, Zero::Minimum) => self.all::<L, 4, 1, true, true>(),
            (5, 32, Scales::Half, Zero::Point(_)) => self.all::<L, 5, 1, false, false>(),
            (5, 32, Scales::Half, Zero::Minimum) => self.all::<L, 5, 1, false, true>(),
            (5, 32, Scales::Nested, Zero::Minimum) => self.all::<L, 5, 1, true, true>(),
            (6, 16, Scales::Nested, Zero::Point(_)) => self.all::<L, 6, 2, true, false>(),
            (8, 32, Scales::Half, Zero::Point(_)) => self.all::<L, 8, 1, false, false>(),
            _ => unreachable!("no format has this layout: {:?}", self.layout),
        }
    }
}

impl<'a, P> Part<'a, P>
where
    P: Iterator<Item = (usize, &'a [u8])>,
{
    #[inline(always)]
    fn all<
        L: Lanes + Dots,
        const BITS: usize,
        const PARTS: usize,
        const NESTED: bool,
        const MINIMUM: bool,
    >(
        self,
    ) {
        let Self { layout, input, rows, panels, target } = self;
        let zero = layout.zero;
        let blocks = input.width() / BLOCK;
        if rows.len() < L::UNPACK_ROWS {
            for (number, panel) in panels {
                let packed = Packed::<BITS, PARTS, NESTED, MINIMUM> { panel };
                let target = target.panel(number);
                let place = Place { is_first: true, target: Some(&target) };
                let rows = (rows.clone(), zero);
                tiles::<L, _>(packed, (input, 0..blocks), rows, &mut [], place);
            }
            return;
        }
        let mut stretch = [Unpacked::EMPTY; STRETCH];
        let mut carried = [[0.0; PANEL]; ROWS_MAX];
        let length = blocks.div_ceil(blocks.div_ceil(STRETCH));
        for (number, panel) in panels {
            let packed = Packed::<BITS, PARTS, NESTED, MINIMUM> { panel };
            let target = target.panel(number);
            for start in (0..blocks).step_by(length) {
                let range = start..blocks.min(start + length);
                for (block, unpacked) in range.clone().zip(&mut stretch) {
                    unpacked.fill::<L, BITS, PARTS, NESTED, MINIMUM>(packed, block);
                }
                let source = Stretch::<BITS, PARTS, MINIMUM> { blocks: &stretch[..range.len()] };
                let is_last = range.end == blocks;
                let place = Place { is_first: start == 0, target: is_last.then_some(&target) };
                let rows = (rows.clone(), zero);
                tiles::<L, _>(source, (input, range), rows, &mut carried, place);
            }
        }
    }
}

/// Which blocks of a panel some are.
#[derive(Clone, Copy)]
struct Place<'a> {
    is_first: bool,
    /// Of the last ones, where the sums go.
    target: Option<&'a PanelTarget<'a>>,
}

/// Weights of a panel, block by block.
trait Weights<L: Dots>: Copy {
    type Block: Copy;
    const BITS: usize;
    const PARTS: usize;
    const MINIMUM: bool;

    fn block(self, index: usize) -> Self::Block;
    /// Four quanta of each output; where bytes are halved, the low or the high half of each.
    fn quanta(block: Self::Block, group: usize, half: usize) -> L::Quanta;
    fn scale(block: Self::Block, part: usize) -> L;
    fn minimum(block: Self::Block) -> L;
    /// All blocks in whatever way the instruction set has for this, if it has one, adding as the general way does.
    #[inline(always)]
    fn tile<const N: usize>(self, _: [&[Q8Block]; 3], _: Zero, _: &mut [Sums; N]) -> bool {
        false
    }
}

/// The half of 8-bit quanta that is asked for, where products with whole ones do not fit; else the quanta.
#[inline(always)]
fn halved<L: Dots>(bits: usize, quanta: L::Quanta, half: usize) -> L::Quanta {
    if bits == 8 && L::HALVES_BYTES { L::bits(quanta, 4 * half, 0, 0xf) } else { quanta }
}

/// Records as they were packed.
#[derive(Clone, Copy)]
struct Packed<'a, const BITS: usize, const PARTS: usize, const NESTED: bool, const MINIMUM: bool> {
    panel: &'a [u8],
}

/// A record and the header before it.
#[derive(Clone, Copy)]
struct Record<'a> {
    header: &'a [u8],
    bytes: &'a [u8],
}

impl<'a, const BITS: usize, const PARTS: usize, const NESTED: bool, const MINIMUM: bool>
    Packed<'a, BITS, PARTS, NESTED, MINIMUM>
{
    /// The layout up to its zero point, known to the compiler.
    const LAYOUT: QuantizedLayout = QuantizedLayout {
        bits: BITS,
        scale_block: BLOCK / PARTS,
        scales: if NESTED { Scales::Nested } else { Scales::Half },
        zero: if MINIMUM { Zero::Minimum } else { Zero::Point(0) },
    };

    /// Group `group` of the quanta, all bits of each in a byte.
    #[inline(always)]
    fn whole_quanta<L: Lanes + Dots>(record: Record<'a>, group: usize) -> L::Quanta {
        let lines = record.bytes.as_chunks::<LINE>().0;
        if BITS == 8 {
            return L::load_quanta(&lines[group]);
        }
        let low = L::bits(L::load_quanta(&lines[group % 4]), group / 4 * 4, 0, 0xf);
        match BITS {
            5 => L::or(low, L::bits(L::load_quanta(&lines[4]), (4 + group) % 8, 4, 0x10)),
            6 => {
                let line = L::load_quanta(&lines[4 + group / 4]);
                L::or(low, L::bits(line, group % 4 * 2, 4, 0x30))
            }
            _ => low,
        }
    }

    #[inline(always)]
    fn number<L: Lanes>(record: Record<'a>, index: usize, outer: usize) -> L {
        let numbers = &record.bytes[Self::LAYOUT.lines() * LINE..];
        if NESTED {
            let inner = L::load_i8(&numbers.as_chunks::<PANEL>().0[index]);
            inner.mul(L::load_f16_bytes(&record.header.as_chunks().0[outer]))
        } else {
            L::load_f16_bytes(&numbers.as_chunks().0[index])
        }
    }
}

impl<'a, L, const BITS: usize, const PARTS: usize, const NESTED: bool, const MINIMUM: bool>
    Weights<L> for Packed<'a, BITS, PARTS, NESTED, MINIMUM>
where
    L: Lanes + Dots,
{
    type Block = Record<'a>;
    const BITS: usize = BITS;
    const PARTS: usize = PARTS;
    const MINIMUM: bool = MINIMUM;

    #[inline(always)]
    fn block(self, index: usize) -> Record<'a> {
        let (header, record) = Self::LAYOUT.places(index);
        let record = Record {
            header: &self.panel[header..][..Self::LAYOUT.header_bytes()],
            bytes: &self.panel[record..][..Self::LAYOUT.record_bytes()],
        };
        for line in 0..Self::LAYOUT.record_bytes().div_ceil(LINE) {
            L::prefetch(record.bytes.as_ptr().wrapping_add(PREFETCH_BYTES + line * LINE));
        }
        record
    }

    #[inline(always)]
    fn quanta(record: Record<'a>, group: usize, half: usize) -> L::Quanta {
        halved::<L>(BITS, Self::whole_quanta::<L>(record, group), half)
    }

    #[inline(always)]
    fn scale(record: Record<'a>, part: usize) -> L {
        Self::number(record, part, 0)
    }

    #[inline(always)]
    fn minimum(record: Record<'a>) -> L {
        Self::number(record, PARTS, 1)
    }
}

/// A block of a panel with nothing left to do but to load it.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
pub(crate) struct Unpacked {
    /// A group each.
    lines: [[u8; LINE]; 8],
    /// The second is used where 16 inputs share one.
    scales: [[f32; PANEL]; 2],
    /// Used where the format has them.
    minimum: [f32; PANEL],
}

impl Unpacked {
    const EMPTY: Self =
        Self { lines: [[0; LINE]; 8], scales: [[0.0; PANEL]; 2], minimum: [0.0; PANEL] };

    #[inline(always)]
    fn fill<
        L: Lanes + Dots,
        const BITS: usize,
        const PARTS: usize,
        const NESTED: bool,
        const MINIMUM: bool,
    >(
        &mut self,
        packed: Packed<'_, BITS, PARTS, NESTED, MINIMUM>,
        index: usize,
    ) {
        let record = Weights::<L>::block(packed, index);
        for (group, line) in self.lines.iter_mut().enumerate() {
            let quanta = Packed::<BITS, PARTS, NESTED, MINIMUM>::whole_quanta::<L>(record, group);
            L::store_quanta(quanta, line);
        }
        for (part, scales) in self.scales[..PARTS].iter_mut().enumerate() {
            Packed::<BITS, PARTS, NESTED, MINIMUM>::number::<L>(record, part, 0).store(scales);
        }
        if MINIMUM {
            Packed::<BITS, PARTS, NESTED, MINIMUM>::number::<L>(record, PARTS, 1)
                .store(&mut self.minimum);
        }
    }
}

/// Unpacked blocks that follow each other.
#[derive(Clone, Copy)]
struct Stretch<'a, const BITS: usize, const PARTS: usize, const MINIMUM: bool> {
    blocks: &'a [Unpacked],
}

impl<'a, L, const BITS: usize, const PARTS: usize, const MINIMUM: bool> Weights<L>
    for Stretch<'a, BITS, PARTS, MINIMUM>
where
    L: Lanes + Dots,
{
    type Block = &'a Unpacked;
    const BITS: usize = BITS;
    const PARTS: usize = PARTS;
    const MINIMUM: bool = MINIMUM;

    #[inline(always)]
    fn block(self, index: usize) -> Self::Block {
        &self.blocks[index]
    }

    #[inline(always)]
    fn quanta(block: Self::Block, group: usize, half: usize) -> L::Quanta {
        halved::<L>(BITS, L::load_quanta(&block.lines[group]), half)
    }

    #[inline(always)]
    fn scale(block: Self::Block, part: usize) -> L {
        L::load(&block.scales[part])
    }

    #[inline(always)]
    fn minimum(block: Self::Block) -> L {
        L::load(&block.minimum)
    }

    #[inline(always)]
    fn tile<const N: usize>(
        self,
        quads: [&[Q8Block]; 3],
        zero: Zero,
        sums: &mut [Sums; N],
    ) -> bool {
        PARTS == 1 && L::tile(self.blocks, quads, zero, sums)
    }
}

/// Rows against consecutive blocks of weights, as many together as registers hold. Sums are carried from the blocks
/// before these to the ones after.
#[inline(always)]
fn tiles<L: Lanes + Dots, W: Weights<L>>(
    weights: W,
    (input, blocks): (&Q8Rows, Range<usize>),
    (rows, zero): (Range<usize>, Zero),
    carried: &mut [Sums],
    place: Place<'_>,
) {
    let mut row = rows.start;
    macro_rules! some {
        ($n:literal) => {{
            let mut sums = [[0.0; PANEL]; $n];
            if !place.is_first {
                sums.copy_from_slice(&carried[row - rows.start..][..$n]);
            }
            // Quads beyond the last row are not read; the first stands in for them.
            let quad = |index| {
                let quad = if index * QUAD < $n { row / QUAD + index } else { row / QUAD };
                &input.quad(quad)[blocks.clone()]
            };
            let quads = [quad(0), quad(1), quad(2)];
            if !weights.tile::<$n>(quads, zero, &mut sums) {
                tile::<L, W, $n>(weights, quads, &mut sums, zero);
            }
            if let Some(target) = place.target {
                for (row, sums) in (row..).zip(&sums) {
                    target.write(row, L::load(sums));
                }
            } else {
                carried[row - rows.start..][..$n].copy_from_slice(&sums);
            }
            row += $n;
        }};
    }
    if L::ROWS == 12 {
        while rows.end - row >= 12 {
            some!(12);
        }
        if rows.end - row >= 8 {
            some!(8);
        }
    }
    while rows.end - row >= 4 {
        some!(4);
    }
    match rows.end - row {
        3 => some!(3),
        2 => some!(2),
        1 => some!(1),
        _ => {}
    }
    debug_assert!(row == rows.end);
}

#[inline(always)]
fn tile<L: Lanes + Dots, W: Weights<L>, const N: usize>(
    weights: W,
    quads: [&[Q8Block]; 3],
    sums: &mut [Sums; N],
    zero: Zero,
) {
    // Loops instead of `array::map` and `from_fn`: those are not always inlined, and then vectors go through memory.
    let mut totals = [L::splat(0.0); N];
    for (total, sums) in totals.iter_mut().zip(&*sums) {
        *total = L::load(sums);
    }
    let [first, second, third] = quads;
    for (index, ((first, second), third)) in first.iter().zip(second).zip(third).enumerate() {
        let block = weights.block(index);
        let inputs = [first, second, third];
        add_part::<L, W, N>(block, inputs, 0, zero, &mut totals);
        if W::PARTS == 2 {
            add_part::<L, W, N>(block, inputs, 1, zero, &mut totals);
        }
        if W::MINIMUM {
            let minimum = W::minimum(block);
            for (row, total) in totals.iter_mut().enumerate() {
                let sum = L::splat(inputs[row / QUAD].scaled_sums[row % QUAD]);
                *total = minimum.fma(sum, *total);
            }
        }
    }
    for (sums, total) in sums.iter_mut().zip(totals) {
        total.store(sums);
    }
}

/// Adds the products of a scale block.
#[inline(always)]
fn add_part<L: Lanes + Dots, W: Weights<L>, const N: usize>(
    block: W::Block,
    inputs: [&Q8Block; 3],
    part: usize,
    zero: Zero,
    totals: &mut [L; N],
) {
    let groups = BLOCK / GROUP / W::PARTS;
    let together = L::narrow_groups(W::BITS).min(groups);
    let mut dots = [L::wide(0); N];
    if let Zero::Point(point) = zero
        && !W::MINIMUM
    {
        // The halves of the block whose sums count.
        let counts = |half: usize| W::PARTS == 1 || part == half;
        let points = pair([0, 1].map(|half| if counts(half) { -i16::from(point) } else { 0 }));
        for (row, dots) in dots.iter_mut().enumerate() {
            *dots = L::pairs(points, inputs[row / QUAD].sums[row % QUAD]);
        }
    }
    let halves = if W::BITS == 8 && L::HALVES_BYTES { 2 } else { 1 };
    for half in 0..halves {
        let mut narrow = [L::narrow(dots[0]); N];
        for (narrow, dots) in narrow.iter_mut().zip(dots) {
            *narrow = L::narrow(dots);
        }
        // A loop that the compiler cannot but unroll: where a group lies must be known to it.
        macro_rules! group {
            ($($index:literal)*) => {$(
                if $index < groups {
                    let group = part * groups + $index;
                    let quanta = W::quanta(block, group, half);
                    for (row, narrow) in narrow.iter_mut().enumerate() {
                        let four = inputs[row / QUAD].values[row % QUAD][group];
                        *narrow = L::add_products(*narrow, quanta, four);
                    }
                    if ($index + 1) % together == 0 {
                        for (dots, narrow) in dots.iter_mut().zip(&mut narrow) {
                            *dots = L::add_narrow(*dots, *narrow, 4 * half);
                            *narrow = L::narrow(*dots);
                        }
                    }
                }
            )*};
        }
        group!(0 1 2 3 4 5 6 7);
    }
    let scale = W::scale(block, part);
    for (row, (total, dots)) in totals.iter_mut().zip(dots).enumerate() {
        let factor = scale.mul(L::splat(inputs[row / QUAD].scales[row % QUAD]));
        *total = L::to_floats(dots).fma(factor, *total);
    }
}

/// Halves of a block share a sum of inputs because some formats change scale there.
const _: () = assert!(BLOCK == 2 * SUM_BLOCK && PANEL == LANES && ROWS_MAX.is_multiple_of(QUAD));
