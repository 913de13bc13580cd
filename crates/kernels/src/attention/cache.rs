//! The bytes of one layer's keys and values, in blocks of 16 positions.
//!
//! Within a block, keys are stored dimension by dimension, sixteen positions side by side, so that a vector of scores
//! comes from broadcasting query values, with no sum across lanes; values are stored position by position. Two
//! dimensions of the keys, or two positions of the values, make a line: sixteen elements of the one and of the other.
//! In a line of bfloat16 values the two alternate, which is how an instruction for pairs of them takes them.

use device::cpu::{AlignedBuffer, Plain};

use crate::lanes::{LANES, Lanes};

/// Positions in a block.
pub const BLOCK_TOKENS: usize = 16;
/// Elements of a line.
pub(crate) const LINE: usize = 2 * LANES;

/// How keys and values are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KvFormat {
    /// 32-bit floats: exact, for reference.
    F32,
    /// bfloat16: half the bytes, 8 bits of mantissa.
    Bf16,
    /// 8-bit integers, each head of each position with a scale of its own: its largest value is 127.
    Int8,
}

impl KvFormat {
    /// Bytes of one value, without its share of a scale.
    pub const fn bytes(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::Bf16 => 2,
            Self::Int8 => 1,
        }
    }
}

/// Shape of one layer's cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KvShape {
    /// Blocks in the pool.
    pub blocks: usize,
    /// Key-value heads.
    pub kv_heads: usize,
    /// Values in a head, a multiple of 16.
    pub head_dim: usize,
    /// How values are stored.
    pub format: KvFormat,
}

impl KvShape {
    /// Bytes of keys and values together.
    pub const fn bytes(&self) -> usize {
        2 * (self.elements() * self.format.bytes() + self.scales() * size_of::<f32>())
    }

    /// Scales of the keys, and as many of the values.
    const fn scales(&self) -> usize {
        match self.format {
            KvFormat::F32 | KvFormat::Bf16 => 0,
            KvFormat::Int8 => self.blocks * self.kv_heads * BLOCK_TOKENS,
        }
    }

    const fn elements(&self) -> usize {
        self.blocks * self.kv_heads * self.head_dim * BLOCK_TOKENS
    }
}

pub(crate) enum Bytes {
    F32(AlignedBuffer<f32>),
    Bf16(AlignedBuffer<u16>),
    Int8(AlignedBuffer<u8>),
}

impl Bytes {
    fn zeroed(shape: KvShape) -> Self {
        match shape.format {
            KvFormat::F32 => Self::F32(AlignedBuffer::zeroed(shape.elements())),
            KvFormat::Bf16 => Self::Bf16(AlignedBuffer::zeroed(shape.elements())),
            KvFormat::Int8 => Self::Int8(AlignedBuffer::zeroed(shape.elements())),
        }
    }
}

/// Keys and values of one layer.
pub struct KvLayer {
    shape: KvShape,
    pub(crate) keys: Bytes,
    pub(crate) values: Bytes,
    /// `[block][kv_head][position]`, where the format has scales.
    pub(crate) key_scales: AlignedBuffer<f32>,
    pub(crate) value_scales: AlignedBuffer<f32>,
}

impl KvLayer {
    /// A zeroed cache.
    ///
    /// # Panics
    /// If the head width is not a multiple of 16.
    pub fn new(shape: KvShape) -> Self {
        assert!(
            shape.head_dim.is_multiple_of(16),
            "head width {} is not whole lanes",
            shape.head_dim
        );
        Self {
            shape,
            keys: Bytes::zeroed(shape),
            values: Bytes::zeroed(shape),
            key_scales: AlignedBuffer::zeroed(shape.scales()),
            value_scales: AlignedBuffer::zeroed(shape.scales()),
        }
    }

    /// Its shape.
    pub fn shape(&self) -> KvShape {
        self.shape
    }

    /// Makes a block hold what a block of another cache holds.
    ///
    /// # Panics
    /// If one of them does not exist, or blocks are not alike.
    pub fn copy_block(&mut self, block: usize, from: &Self, from_block: usize) {
        let like = |shape: KvShape| KvShape { blocks: 1, ..shape };
        assert_eq!(like(self.shape), like(from.shape), "blocks are alike");
        let KvShape { kv_heads, head_dim, format, .. } = self.shape;
        let blocks = (block, from_block);
        let len = kv_heads * head_dim * BLOCK_TOKENS;
        for (to, from) in [(&mut self.keys, &from.keys), (&mut self.values, &from.values)] {
            match (to, from) {
                (Bytes::F32(to), Bytes::F32(from)) => copy(to, from, len, blocks),
                (Bytes::Bf16(to), Bytes::Bf16(from)) => copy(to, from, len, blocks),
                (Bytes::Int8(to), Bytes::Int8(from)) => copy(to, from, len, blocks),
                _ => unreachable!("the formats were compared"),
            }
        }
        if format == KvFormat::Int8 {
            let len = kv_heads * BLOCK_TOKENS;
            copy(&mut self.key_scales, &from.key_scales, len, blocks);
            copy(&mut self.value_scales, &from.value_scales, len, blocks);
        }
    }
}

/// Copies a block of so many elements to a place among others.
fn copy<T: Plain>(to: &mut [T], from: &[T], len: usize, (block, from_block): (usize, usize)) {
    to[block * len..][..len].copy_from_slice(&from[from_block * len..][..len]);
}

/// An element of the cache.
pub(crate) trait KvElement: Plain {
    /// Whether elements are to be multiplied with their position's scale.
    const IS_SCALED: bool = false;
    /// Whether the two rows of a line alternate, instead of following each other.
    const ALTERNATES: bool = false;
    /// From an element of a row to the next.
    const STEP: usize = if Self::ALTERNATES { 2 } else { 1 };

    /// The nearest element, ties to even.
    fn from_f32(value: f32) -> Self;
    fn to_f32(self) -> f32;
    /// Reads the rows of a line.
    fn load<L: Lanes>(line: &[Self; LINE]) -> [L; 2];

    /// Where in a line an element of a row is.
    #[inline(always)]
    fn place(row: usize, lane: usize) -> usize {
        if Self::ALTERNATES { 2 * lane + row } else { row * LANES + lane }
    }

    /// Where in a block of keys of a head a dimension of a position is. The next dimension but one is a line further.
    #[inline(always)]
    fn key_place(position: usize, dim: usize) -> usize {
        dim / 2 * LINE + Self::place(dim % 2, position)
    }

    /// Where in a block of values of a head a dimension of a position is. Up to the next multiple of 16, the next is
    /// [`Self::STEP`] further.
    #[inline(always)]
    fn value_place(head_dim: usize, position: usize, dim: usize) -> usize {
        let line = position / 2 * (head_dim / LANES) + dim / LANES;
        line * LINE + Self::place(position % 2, dim % LANES)
    }
}

/// The rows of a line in which they follow each other.
#[inline(always)]
fn rows<E>(line: &[E; LINE]) -> [&[E; LANES]; 2] {
    let (rows, _) = line.as_chunks();
    [&rows[0], &rows[1]]
}

impl KvElement for f32 {
    #[inline(always)]
    fn from_f32(value: f32) -> Self {
        value
    }

    #[inline(always)]
    fn to_f32(self) -> f32 {
        self
    }

    #[inline(always)]
    fn load<L: Lanes>(line: &[Self; LINE]) -> [L; 2] {
        let [first, second] = rows(line);
        [L::load(first), L::load(second)]
    }
}

/// The bits of a bfloat16.
impl KvElement for u16 {
    const ALTERNATES: bool = true;

    #[inline(always)]
    fn from_f32(value: f32) -> Self {
        half::bf16::from_f32(value).to_bits()
    }

    #[inline(always)]
    fn to_f32(self) -> f32 {
        half::bf16::from_bits(self).to_f32()
    }

    #[inline(always)]
    fn load<L: Lanes>(line: &[Self; LINE]) -> [L; 2] {
        L::load_bf16_pairs(line)
    }
}

/// The bits of a signed byte.
impl KvElement for u8 {
    const IS_SCALED: bool = true;

    #[inline(always)]
    fn from_f32(value: f32) -> Self {
        (value.round_ties_even() as i8).cast_unsigned()
    }

    #[inline(always)]
    fn to_f32(self) -> f32 {
        f32::from(self.cast_signed())
    }

    #[inline(always)]
    fn load<L: Lanes>(line: &[Self; LINE]) -> [L; 2] {
        let [first, second] = rows(line);
        [L::load_i8(first), L::load_i8(second)]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_is_copied_whole_and_no_other_is_touched() {
        for format in [KvFormat::F32, KvFormat::Bf16, KvFormat::Int8] {
            let shape = |blocks| KvShape { blocks, kv_heads: 2, head_dim: 16, format };
            let (mut from, mut to) = (KvLayer::new(shape(3)), KvLayer::new(shape(4)));
            let bits = |layer: &KvLayer| -> [Vec<u32>; 4] {
                let of = |bytes: &Bytes| match bytes {
                    Bytes::F32(values) => values.iter().map(|value| value.to_bits()).collect(),
                    Bytes::Bf16(values) => values.iter().map(|value| u32::from(*value)).collect(),
                    Bytes::Int8(values) => values.iter().map(|value| u32::from(*value)).collect(),
                };
                let scales = |scales: &[f32]| scales.iter().map(|scale| scale.to_bits()).collect();
                let [keys, values] = [&layer.keys, &layer.values].map(of);
                [keys, values, scales(&layer.key_scales), scales(&layer.value_scales)]
            };
            for (index, bytes) in [&mut from.keys, &mut from.values].into_iter().enumerate() {
                let value = |place: usize| (1 + index + 5 * place) % 251;
                let places = 0..shape(3).elements();
                match bytes {
                    Bytes::F32(to) => places.for_each(|at| to[at] = value(at) as f32),
                    Bytes::Bf16(to) => places.for_each(|at| to[at] = value(at) as u16),
                    Bytes::Int8(to) => places.for_each(|at| to[at] = value(at) as u8),
                }
            }
            let scales = [&mut from.key_scales, &mut from.value_scales];
            for (index, scales) in scales.into_iter().enumerate() {
                scales
                    .iter_mut()
                    .zip(1..)
                    .for_each(|(scale, at)| *scale = (at + 100 * index) as f32);
            }
            to.copy_block(3, &from, 1);
            for (got, source) in bits(&to).iter().zip(bits(&from)) {
                let block = source.len() / 3;
                assert_eq!(got[3 * block..], source[block..2 * block], "{format:?}");
                assert!(got[..3 * block].iter().all(|bits| *bits == 0), "{format:?}");
            }
        }
    }
}
