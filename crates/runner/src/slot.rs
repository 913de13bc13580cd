//! What the runner knows of a request while it has a slot.

use std::{collections::HashMap, sync::Arc};

use types::{SamplingParams, SlotAdmission, TokenId};

/// A request's tokens and parameters.
pub(crate) struct Slot {
    /// Prompt, then output.
    pub(crate) tokens: Vec<TokenId>,
    pub(crate) prompt_len: usize,
    pub(crate) sampling: Arc<SamplingParams>,
    /// Kept only where a penalty asks for it.
    pub(crate) occurrences: Option<HashMap<TokenId, Occurrences>>,
}

/// How often a token has been seen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Occurrences {
    /// In prompt and output.
    pub(crate) all: u32,
    /// In the output.
    pub(crate) output: u32,
}

impl Slot {
    pub(crate) fn new(admission: SlotAdmission) -> Self {
        let SlotAdmission { tokens, prompt_len, sampling, .. } = admission;
        let penalised = sampling.repetition_penalty != 1.0
            || sampling.presence_penalty != 0.0
            || sampling.frequency_penalty != 0.0;
        let mut slot = Self {
            tokens: Vec::with_capacity(tokens.len() + 1),
            prompt_len: prompt_len as usize,
            sampling,
            occurrences: penalised.then(HashMap::new),
        };
        for token in tokens {
            slot.push(token);
        }
        slot
    }

    /// Appends a token.
    pub(crate) fn push(&mut self, token: TokenId) {
        let is_output = self.tokens.len() >= self.prompt_len;
        if let Some(occurrences) = &mut self.occurrences {
            let seen = occurrences.entry(token).or_default();
            seen.all += 1;
            seen.output += u32::from(is_output);
        }
        self.tokens.push(token);
    }

    /// Tokens generated so far.
    pub(crate) fn generated(&self) -> usize {
        self.tokens.len() - self.prompt_len
    }
}
