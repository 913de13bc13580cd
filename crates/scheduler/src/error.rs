//! What can go wrong in the scheduler.

use types::{Fault, FaultKind, SlotId, StepId, TokenId};

use crate::Refusal;

/// What can go wrong in the scheduler.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The KV cache cannot be managed.
    #[error(transparent)]
    Kv(#[from] kv::Error),
    /// A limit is zero, so that nothing could ever run.
    #[error("{name} is 0, so that nothing could run")]
    Zero {
        /// Which one.
        name: &'static str,
    },
    /// Admission would leave more free than there is.
    #[error("kv_reserve_percent is {percent}, which is more than 100")]
    ReserveTooLarge {
        /// As set.
        percent: u32,
    },
    /// The request is wrong or can never fit.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// Too many requests wait.
    #[error(transparent)]
    QueueFull(#[from] queue::QueueFull),
    /// An outcome answers a step that is not under way.
    #[error("an outcome for {step} came while {} was under way", under_way.map_or("no step".to_owned(), |s| s.to_string()))]
    WrongStep {
        /// The step answered.
        step: StepId,
        /// The step that was to be answered.
        under_way: Option<StepId>,
    },
    /// The tokens drawn are not those that the plan asked for, in its order.
    #[error("{step} asked for a token of {wanted:?} and the outcome goes on with one of {got:?}")]
    WrongSample {
        /// Which step.
        step: StepId,
        /// The slot whose turn it was.
        wanted: Option<SlotId>,
        /// The slot that came.
        got: Option<SlotId>,
    },
    /// A token drawn is not in the vocabulary.
    #[error("{step} drew token {token} for {slot}, but ids end at {vocab_size}")]
    TokenOutOfVocabulary {
        /// Which step.
        step: StepId,
        /// Whose token.
        slot: SlotId,
        /// The token.
        token: TokenId,
        /// Number of tokens in the vocabulary.
        vocab_size: u32,
    },
    /// A slot failed that had no work in the step.
    #[error("{step} reports a failure of {slot}, which it did not ask for")]
    WrongFailure {
        /// Which step.
        step: StepId,
        /// Which slot.
        slot: SlotId,
    },
    /// Items were left out that do not give way, or some of those that do and not all.
    #[error("{step} left out {left_out} items, and {giving_way} give way")]
    WrongLeftOut {
        /// Which step.
        step: StepId,
        /// Items left out.
        left_out: usize,
        /// Items that may be left out.
        giving_way: usize,
    },
    /// The log-probabilities of a prompt are not as many as the positions computed.
    #[error(
        "{step} brought {got} log-probabilities of prompt tokens for {slot} instead of {wanted}"
    )]
    WrongPromptLogprobs {
        /// Which step.
        step: StepId,
        /// Which slot.
        slot: SlotId,
        /// As many as there should be.
        wanted: u32,
        /// As many as there are.
        got: usize,
    },
}

impl From<Error> for Fault {
    fn from(error: Error) -> Self {
        match error {
            Error::Refused(refusal) => refusal.into(),
            Error::QueueFull(full) => full.into(),
            Error::Zero { name } => Self::invalid(name, error.to_string()),
            Error::ReserveTooLarge { .. } => Self::invalid("kv_reserve_percent", error.to_string()),
            Error::Kv(_) => Self::new(FaultKind::Unavailable, error.to_string()),
            Error::WrongStep { .. }
            | Error::WrongSample { .. }
            | Error::TokenOutOfVocabulary { .. }
            | Error::WrongFailure { .. }
            | Error::WrongLeftOut { .. }
            | Error::WrongPromptLogprobs { .. } => Self::internal(error.to_string()),
        }
    }
}
