//! A request between steps: what survives a preemption, and what does not.

use std::{sync::Arc, time::Duration};

use kv::{BlockTables, PrefixKey};
use queue::Ticket;
use serde::{Deserialize, Serialize};
use types::{FinishReason, Request, SamplingParams, SlotAdmission, SlotId, TokenId, Usage};

use crate::{account::Account, drafter::Drafter, prompt_logprobs::PromptLogprobs};

/// What a request is, wherever it runs: from this it can always be computed again.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Sequence {
    /// The prompt, then what was generated.
    pub(crate) tokens: Vec<TokenId>,
    pub(crate) prompt_len: u32,
    pub(crate) tokens_max: u32,
    pub(crate) sampling: Arc<SamplingParams>,
    pub(crate) tenant: Arc<str>,
    /// What it was expected to cost when it came, as its policy was told.
    pub(crate) cost: u64,
    /// What its blocks are found by.
    pub(crate) key: PrefixKey,
    /// Tokens of the prompt that were cached when it first got a slot.
    pub(crate) cached_tokens: u32,
    pub(crate) prompt_logprobs: PromptLogprobs,
    /// When it was first given a slot.
    pub(crate) started: Option<Duration>,
    pub(crate) preemptions: u32,
    /// It was in a step that failed as a whole, and is under suspicion until it has passed this position again.
    pub(crate) probation: Option<u32>,
    /// Where its time went. In a box, because queues move what they hold.
    pub(crate) account: Box<Account>,
    /// Guesses its next tokens, from the first time on that there is something to guess.
    pub(crate) drafter: Option<Box<Drafter>>,
}

impl Sequence {
    pub(crate) fn new(
        request: Request,
        tokens_max: u32,
        cost: u64,
        key: PrefixKey,
        account: Account,
    ) -> Self {
        Self {
            prompt_len: request.prompt.len() as u32,
            tokens: request.prompt,
            tokens_max,
            tenant: request.service.tenant,
            cost,
            key,
            cached_tokens: 0,
            prompt_logprobs: PromptLogprobs::new(request.sampling.prompt_logprobs.is_some()),
            sampling: Arc::new(request.sampling),
            started: None,
            preemptions: 0,
            probation: None,
            account: Box::new(account),
            drafter: None,
        }
    }

    pub(crate) fn len(&self) -> u32 {
        self.tokens.len() as u32
    }

    pub(crate) fn generated(&self) -> u32 {
        self.len() - self.prompt_len
    }

    /// How many positions need not be computed if they are cached. The last one is, to draw what comes after it.
    pub(crate) fn skippable(&self) -> u32 {
        (self.len() - 1).min(self.prompt_logprobs.skippable())
    }

    /// What it has cost, as policies count it.
    pub(crate) fn real_cost(&self) -> u64 {
        cost(self.prompt_len - self.cached_tokens, self.generated())
    }

    /// Whether the token drawn last was the last one.
    pub(crate) fn finish_reason(&self) -> Option<FinishReason> {
        let token = *self.tokens.last()?;
        if self.sampling.stop_token_ids.contains(&token) {
            Some(FinishReason::StopToken(token))
        } else if self.generated() >= self.tokens_max {
            Some(FinishReason::Length)
        } else {
            None
        }
    }

    pub(crate) fn usage(&self, arrived: Duration) -> Usage {
        let queued = self.started.unwrap_or(arrived).saturating_sub(arrived);
        Usage {
            prompt_tokens: self.prompt_len,
            cached_tokens: self.cached_tokens,
            generated_tokens: self.generated(),
            preemptions: self.preemptions,
            queued_ms: queued.as_millis().try_into().unwrap_or(u64::MAX),
        }
    }
}

/// What a request costs, in tokens of a prompt. A token of an answer costs more: a step for itself.
pub(crate) fn cost(prompt_tokens: u32, generated_tokens: u32) -> u64 {
    u64::from(prompt_tokens) + 2 * u64::from(generated_tokens)
}

/// Positions of a prompt that steps keep for each that one leaves out: what is computed in vain is a quarter of the
/// work at most, however many come.
const KEPT_FOR_EACH_LEFT_OUT: i64 = 3;
/// So many parts in a row may be left out after nobody came for a while.
const LEFT_OUT_IN_A_ROW_MAX: i64 = 3;

/// A request with a slot.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Running {
    pub(crate) ticket: Ticket,
    pub(crate) sequence: Sequence,
    pub(crate) tables: BlockTables,
    /// Positions that steps have computed, or another request before this one.
    pub(crate) computed: u32,
    /// Positions that steps have computed or are computing: the next one is handed out from here.
    pub(crate) planned: u32,
    /// Tokens that steps under way are to draw. They are not in the sequence yet; the executor has them first.
    pub(crate) drawing: u32,
    /// Positions of a draft under way, beyond `planned`.
    pub(crate) drafted: u32,
    /// Up to here its positions are brought back from the host's memory, if they stay there; not beyond `planned` once
    /// anything is computed.
    pub(crate) on_host_end: u32,
    /// It has this slot for the first time.
    pub(crate) is_first: bool,
    /// Positions of its prompt that steps kept, as far as they count, less those to keep for what was left out.
    pub(crate) spare_positions: i64,
    /// The last step left out its next token.
    pub(crate) token_left_out: bool,
}

impl Running {
    /// Tokens, with those being drawn.
    pub(crate) fn expected_len(&self) -> u32 {
        self.sequence.len() + self.drawing
    }

    /// Positions to hand out before the next token can be drawn. None while the last token of all is being drawn: that
    /// it is the last by number is known in advance, and a stop token only when it is there.
    pub(crate) fn remaining(&self) -> u32 {
        if self.sequence.generated() + self.drawing >= self.sequence.tokens_max {
            return 0;
        }
        self.expected_len() - self.planned
    }

    /// A step computed a part of its prompt.
    pub(crate) fn keep_part(&mut self, positions: u32) {
        let positions = i64::from(positions);
        // The last one in a row needs none to spare.
        let spare_max = (LEFT_OUT_IN_A_ROW_MAX - 1) * KEPT_FOR_EACH_LEFT_OUT * positions;
        self.spare_positions = (self.spare_positions + positions).min(spare_max);
    }

    /// A step left out a part of its prompt.
    pub(crate) fn leave_out_part(&mut self, positions: u32) {
        self.spare_positions -= KEPT_FOR_EACH_LEFT_OUT * i64::from(positions);
    }

    /// Whether it may lose what a step computes of its prompt: not before it kept enough.
    pub(crate) fn can_give_way(&self) -> bool {
        self.spare_positions >= 0
            && self.sequence.probation.is_none()
            && self.sequence.sampling.prompt_logprobs.is_none()
    }

    /// Whether it may lose the end of its prompt, of so many positions: only if it kept enough for all of them, so that
    /// short prompts never do.
    pub(crate) fn can_end_give_way(&self, positions: u32) -> bool {
        let kept = KEPT_FOR_EACH_LEFT_OUT * i64::from(positions);
        self.can_give_way() && self.spare_positions >= kept
    }

    /// Whether a step may leave out its next token: not the first one, for which somebody waits as well, and none
    /// twice.
    pub(crate) fn can_token_wait(&self) -> bool {
        self.sequence.generated() > 0 && self.sequence.probation.is_none() && !self.token_left_out
    }

    pub(crate) fn admission(&self, slot: SlotId) -> SlotAdmission {
        SlotAdmission {
            slot,
            tokens: self.sequence.tokens.clone(),
            prompt_len: self.sequence.prompt_len,
            sampling: self.sequence.sampling.clone(),
        }
    }
}
