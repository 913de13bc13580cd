//! Drawing tokens from logits: log-probabilities, biases, penalties and bans first, then the draw itself.

use super::NextModule;
use crate::{Address, DeviceBuffer, Error, Kernel, Plain, Shape, Stream, Unit};

/// How a row's token is drawn.
#[derive(Clone, Copy, Debug, PartialEq)]
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
    /// Divides positive logits and multiplies negative ones of tokens that were counted; 1 does nothing.
    pub repetition: f32,
    /// Subtracted once from logits of tokens of the output.
    pub presence: f32,
    /// Subtracted from them for each time.
    pub frequency: f32,
    /// Report log-probabilities of the token drawn and of so many others, at most [`LOGPROBS_MAX`]; -1 for none.
    pub logprobs: i32,
    /// Where the row's biases begin.
    pub bias_first: i32,
    /// How many it has.
    pub bias_count: i32,
    /// How many tokens after its biases are not drawn.
    pub ban_count: i32,
    /// Whose token.
    pub slot: i32,
}

// SAFETY: integers and floats without padding.
unsafe impl Plain for SampleRow {}

impl SampleRow {
    /// The most likely token, for a slot.
    pub fn greedy(slot: i32) -> Self {
        Self {
            seed: 0,
            position: 0,
            scale: 0.0,
            top_p: 1.0,
            min_p: 0.0,
            top_k: 0,
            repetition: 1.0,
            presence: 0.0,
            frequency: 0.0,
            logprobs: -1,
            bias_first: 0,
            bias_count: 0,
            ban_count: 0,
            slot,
        }
    }
}

/// A number that is added to a token's logit.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
#[repr(C)]
pub struct TokenBias {
    /// The token.
    pub token: i32,
    /// Added to its logit.
    pub bias: f32,
}

// SAFETY: an integer and a float.
unsafe impl Plain for TokenBias {}

/// Most alternatives whose log-probabilities are reported.
pub const LOGPROBS_MAX: usize = 20;

/// Log-probabilities of a row, of the logits before anything was changed.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
#[repr(C)]
pub struct Report {
    /// Of the token that was drawn.
    pub logprob: f32,
    /// The most likely tokens with theirs, as many as were asked for.
    pub top: [TokenLogprob; LOGPROBS_MAX],
}

// SAFETY: integers and floats without padding.
unsafe impl Plain for Report {}

/// A token and its log-probability.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
#[repr(C)]
pub struct TokenLogprob {
    /// The token.
    pub token: i32,
    /// Its log-probability.
    pub logprob: f32,
}

/// Rows whose tokens are drawn.
#[derive(Debug)]
pub struct Draw<'a> {
    /// `[rows][vocabulary]`; changed where a row has biases, penalties or bans.
    pub logits: &'a DeviceBuffer<f32>,
    /// How each row's is drawn.
    pub rows: &'a DeviceBuffer<SampleRow>,
    /// Whether any row has biases, penalties or bans, or wants a report.
    pub adjusts: bool,
    /// Biases of all rows; a row names a token once.
    pub biases: &'a DeviceBuffer<TokenBias>,
    /// `[slots][vocabulary]`: tokens as [`SampleKernels::count`] and this count them.
    pub counts: &'a DeviceBuffer<u32>,
    /// For each row, written where one is wanted.
    pub reports: &'a DeviceBuffer<Report>,
    /// For each row the token, or -1 where a logit is not a finite number.
    pub tokens: &'a DeviceBuffer<i32>,
    /// The same, by slot.
    pub last_tokens: &'a DeviceBuffer<i32>,
    /// Logits of a row.
    pub vocabulary: usize,
}

arguments!(SampleArguments {
    logits: Address,
    rows: Address,
    biases: Address,
    counts: Address,
    reports: Address,
    tokens: Address,
    last_tokens: Address,
    vocabulary: i32,
});
arguments!(CountArguments {
    tokens: Address,
    counts: Address,
    prompt_length: i32,
    length: i32,
    vocabulary: i32,
});

/// The kernels.
#[derive(Debug)]
pub struct SampleKernels {
    adjust: Kernel<SampleArguments>,
    draw: Kernel<SampleArguments>,
    count: Kernel<CountArguments>,
}

/// Threads of a block of these kernels.
const THREADS: u32 = 1024;

pub(super) fn units() -> Vec<Unit> {
    let unit = |name, source| Unit { name, source, macros: Vec::new() };
    vec![
        unit("adjust", include_str!("adjust.cu")),
        unit("draw", include_str!("draw.cu")),
        unit("count", include_str!("count.cu")),
    ]
}

impl SampleKernels {
    pub(super) fn new(next: &mut NextModule<'_>) -> Result<Self, Error> {
        Ok(Self {
            adjust: next()?.kernel("adjust", 0)?,
            draw: next()?.kernel("draw", 0)?,
            count: next()?.kernel("count_tokens", 0)?,
        })
    }

    /// Draws a token for each row, and counts it where the row has penalties.
    pub fn draw(&self, stream: &Stream, args: &Draw<'_>) -> Result<(), Error> {
        let (rows, vocabulary) = (args.rows.len(), args.vocabulary);
        assert!(args.logits.len() >= rows * vocabulary && vocabulary > 0, "logits");
        assert!(args.tokens.len() >= rows && args.reports.len() >= rows, "rows");
        assert_eq!(args.counts.len(), args.last_tokens.len() * vocabulary, "slots");
        let arguments = SampleArguments {
            logits: args.logits.address(),
            rows: args.rows.address(),
            biases: args.biases.address(),
            counts: args.counts.address(),
            reports: args.reports.address(),
            tokens: args.tokens.address(),
            last_tokens: args.last_tokens.address(),
            vocabulary: vocabulary as i32,
        };
        if args.adjusts {
            // SAFETY: the sizes were checked above.
            unsafe { self.adjust.launch(stream, Shape::row(rows, THREADS), arguments)? };
        }
        // SAFETY: the sizes were checked above.
        unsafe { self.draw.launch(stream, Shape::row(rows, THREADS), arguments) }
    }

    /// Counts the tokens of a request, of which the first `prompt_length` are its prompt, into `[vocabulary]` counts.
    pub fn count(
        &self,
        stream: &Stream,
        tokens: &DeviceBuffer<i32>,
        prompt_length: usize,
        counts: &DeviceBuffer<u32>,
    ) -> Result<(), Error> {
        let arguments = CountArguments {
            tokens: tokens.address(),
            counts: counts.address(),
            prompt_length: prompt_length as i32,
            length: tokens.len() as i32,
            vocabulary: counts.len() as i32,
        };
        // SAFETY: the lengths are those of the buffers.
        unsafe { self.count.launch(stream, Shape::row(1, THREADS), arguments) }
    }
}
