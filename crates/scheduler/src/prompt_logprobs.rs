//! Log-probabilities of a prompt, gathered over the steps that compute it.

use std::mem;

use serde::{Deserialize, Serialize};
use types::TokenLogprobs;

/// Log-probabilities of the prompt tokens after the first. They go out whole, once; a request that is computed again
/// before that keeps what it has.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) enum PromptLogprobs {
    /// Not asked for, or out already.
    Done,
    /// Those of tokens 1, 2, ... so far.
    Gathering(Vec<TokenLogprobs>),
}

impl PromptLogprobs {
    pub(crate) fn new(asked_for: bool) -> Self {
        if asked_for { Self::Gathering(Vec::new()) } else { Self::Done }
    }

    /// Positions that need not be computed again for them.
    pub(crate) fn skippable(&self) -> u32 {
        match self {
            Self::Done => u32::MAX,
            Self::Gathering(gathered) => gathered.len() as u32,
        }
    }

    /// Takes those that came with the positions from `start` on, so from token `start + 1` on.
    pub(crate) fn add(&mut self, start: u32, new: Vec<TokenLogprobs>) {
        let Self::Gathering(gathered) = self else { return };
        let known = gathered.len().checked_sub(start as usize).expect("positions leave no gap");
        gathered.extend(new.into_iter().skip(known));
    }

    /// All of them, the first time that they are complete.
    pub(crate) fn take_whole(&mut self, prompt_len: u32) -> Option<Vec<TokenLogprobs>> {
        match self {
            Self::Gathering(gathered) if gathered.len() + 1 == prompt_len as usize => {
                let whole = mem::take(gathered);
                *self = Self::Done;
                Some(whole)
            }
            _ => None,
        }
    }
}
