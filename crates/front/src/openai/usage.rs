//! How many tokens a request used, as answers tell it.

use std::sync::Arc;

use engine::RequestReport;
use serde::Serialize;

use crate::explain::Account;

/// The `usage` object.
#[derive(Debug, Default, Serialize)]
pub(super) struct Usage {
    prompt_tokens: usize,
    completion_tokens: usize,
    total_tokens: usize,
    prompt_tokens_details: PromptTokensDetails,
    #[serde(skip_serializing_if = "Option::is_none")]
    brigade: Option<Brigade>,
}

/// What only Brigade tells.
#[derive(Debug, Serialize)]
struct Brigade {
    /// Where the time of each answer went.
    choices: Vec<Account>,
}

#[derive(Clone, Copy, Debug, Default, Serialize)]
struct PromptTokensDetails {
    /// From the beginnings of the prompts: these were not computed again.
    cached_tokens: usize,
}

impl Usage {
    /// Nothing generated yet. A prompt counts once, however many answers it gets.
    pub(super) fn of_prompts(prompt_tokens: usize) -> Self {
        Self { prompt_tokens, total_tokens: prompt_tokens, ..Self::default() }
    }

    /// Adds where the time went.
    pub(super) fn explain(&mut self, reports: &[Arc<RequestReport>]) {
        let choices = reports.iter().map(|report| Account::for_client(report)).collect();
        self.brigade = Some(Brigade { choices });
    }

    pub(super) fn add_cached(&mut self, tokens: u32) {
        self.prompt_tokens_details.cached_tokens += tokens as usize;
    }

    pub(super) fn add_completion(&mut self, tokens: usize) {
        self.completion_tokens += tokens;
        self.total_tokens += tokens;
    }
}
