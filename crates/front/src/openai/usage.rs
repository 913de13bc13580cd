//! How many tokens a request used, as answers tell it.

use serde::Serialize;

/// The `usage` object.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub(super) struct Usage {
    prompt_tokens: usize,
    completion_tokens: usize,
    total_tokens: usize,
}

impl Usage {
    /// Nothing generated yet. A prompt counts once, however many answers it gets.
    pub(super) fn of_prompts(prompt_tokens: usize) -> Self {
        Self { prompt_tokens, completion_tokens: 0, total_tokens: prompt_tokens }
    }

    pub(super) fn add_completion(&mut self, tokens: usize) {
        self.completion_tokens += tokens;
        self.total_tokens += tokens;
    }
}
