//! The bytes of one layer's keys and values, in blocks of 16 positions.
//!
//! Within a block, keys are stored dimension by dimension, sixteen positions side by side, so that a vector of scores
//! comes from broadcasting one query value at a time, with no sum across lanes; values are stored position by position.

use device::cpu::{AlignedBuffer, Plain};

use crate::lanes::Lanes;

/// Positions in a block.
pub const BLOCK_TOKENS: usize = 16;

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
}

/// An element of the cache.
pub(crate) trait KvElement: Plain {
    /// Whether elements are to be multiplied with their position's scale.
    const IS_SCALED: bool = false;

    /// The nearest element, ties to even.
    fn from_f32(value: f32) -> Self;
    fn to_f32(self) -> f32;
    /// Reads elements into lanes in an order of its own; `ordered` puts them right.
    fn load<L: Lanes>(values: &[Self; BLOCK_TOKENS]) -> L;

    #[inline(always)]
    fn ordered<L: Lanes>(lanes: L) -> L {
        lanes
    }
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
    fn load<L: Lanes>(values: &[Self; BLOCK_TOKENS]) -> L {
        L::load(values)
    }
}

/// The bits of a bfloat16.
impl KvElement for u16 {
    #[inline(always)]
    fn from_f32(value: f32) -> Self {
        half::bf16::from_f32(value).to_bits()
    }

    #[inline(always)]
    fn to_f32(self) -> f32 {
        half::bf16::from_bits(self).to_f32()
    }

    #[inline(always)]
    fn load<L: Lanes>(values: &[Self; BLOCK_TOKENS]) -> L {
        L::load_bf16_shuffled(values)
    }

    #[inline(always)]
    fn ordered<L: Lanes>(lanes: L) -> L {
        lanes.ordered()
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
    fn load<L: Lanes>(values: &[Self; BLOCK_TOKENS]) -> L {
        L::load_i8(values)
    }
}
