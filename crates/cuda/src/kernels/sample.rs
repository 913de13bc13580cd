//! Drawing tokens from logits.

use super::NextModule;
use crate::{Address, DeviceBuffer, Error, Kernel, Plain, Shape, Stream, Unit};

/// How a row's token is drawn.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
#[repr(C)]
pub struct SampleRow {
    /// Key of the generator.
    pub seed: u64,
    /// Its counter: the position of the token.
    pub position: u64,
    /// 1 / temperature; 0 draws the most likely token.
    pub scale: f32,
    /// Keep the most likely tokens up to this mass; 1 keeps all.
    pub top_p: f32,
    /// Keep tokens at least this much as likely as the most likely one; 0 keeps all.
    pub min_p: f32,
    /// Keep so many tokens; 0 keeps all.
    pub top_k: i32,
    /// Whose token.
    pub slot: i32,
    /// Makes the size a multiple of 8.
    pub unused: i32,
}

// SAFETY: integers and floats without padding.
unsafe impl Plain for SampleRow {}

arguments!(SampleArguments {
    logits: Address,
    rows: Address,
    tokens: Address,
    last_tokens: Address,
    vocabulary: i32,
});

/// The kernel.
#[derive(Debug)]
pub struct SampleKernel(Kernel<SampleArguments>);

pub(super) fn unit() -> Unit {
    Unit { name: "sample", source: include_str!("sample.cu"), macros: Vec::new() }
}

impl SampleKernel {
    pub(super) fn new(next: &mut NextModule<'_>) -> Result<Self, Error> {
        Ok(Self(next()?.kernel("sample", 0)?))
    }

    /// Draws a token for each of `rows` from `logits`, `[rows][vocabulary]`. The token, or -1 where a logit is not a
    /// finite number, goes to `tokens` by row and to `last_tokens` by slot.
    pub fn draw(
        &self,
        stream: &Stream,
        logits: &DeviceBuffer<f32>,
        rows: &DeviceBuffer<SampleRow>,
        [tokens, last_tokens]: [&DeviceBuffer<i32>; 2],
        vocabulary: usize,
    ) -> Result<(), Error> {
        assert!(logits.len() >= rows.len() * vocabulary && vocabulary > 0, "logits");
        assert!(tokens.len() >= rows.len(), "tokens");
        let arguments = SampleArguments {
            logits: logits.address(),
            rows: rows.address(),
            tokens: tokens.address(),
            last_tokens: last_tokens.address(),
            vocabulary: vocabulary as i32,
        };
        // SAFETY: the sizes were checked above.
        unsafe { self.0.launch(stream, Shape::row(rows.len(), 1024), arguments) }
    }
}
