//! One answer: the engine's tokens, turned into text that is safe to send.
//!
//! Text is held back while it is half a character or may be the beginning of a stop string. Tokens are reported with
//! the next text that goes out, so that nothing is lost and nothing comes twice.

use std::{mem, sync::Arc};

use engine::{Generation, PendingReport};
use tokenizer::{IncrementalDecoder, StopMatcher, Tokenizer};
use types::{Fault, FinishReason, RequestEvent, TokenId, TokenLogprobs};

/// How an answer's tokens become text and what ends it. What the engine knows about ends it is told on its own.
#[derive(Clone, Debug)]
pub(crate) struct TextRules {
    pub(crate) stop_strings: Vec<String>,
    /// As given to the engine: the text of such a token is not part of the answer.
    pub(crate) stop_token_ids: Vec<TokenId>,
    /// What ended the answer is part of it.
    pub(crate) include_stop: bool,
    pub(crate) skip_special_tokens: bool,
    /// Stop strings do not count before this many tokens.
    pub(crate) tokens_min: u32,
    /// The prompt's log-probabilities are all that is wanted.
    pub(crate) prompt_only: bool,
}

/// A piece of an answer.
#[derive(Debug, Default)]
pub(crate) struct Piece {
    pub(crate) text: String,
    /// The tokens drawn since the last piece.
    pub(crate) tokens: Vec<Drawn>,
    /// Tokens of the prompt that were cached, told once, in the first piece.
    pub(crate) cached_tokens: u32,
    /// Comes once, in the first piece, if asked for.
    pub(crate) prompt_logprobs: Option<Vec<TokenLogprobs>>,
    /// Set in the last piece.
    pub(crate) end: Option<End>,
}

impl Piece {
    /// Adds the piece that comes after this one.
    pub(crate) fn append(&mut self, next: Self) {
        self.text.push_str(&next.text);
        self.tokens.extend(next.tokens);
        self.cached_tokens += next.cached_tokens;
        self.prompt_logprobs = self.prompt_logprobs.take().or(next.prompt_logprobs);
        self.end = next.end;
    }
}

/// A token of the answer.
#[derive(Debug)]
pub(crate) struct Drawn {
    pub(crate) token: TokenId,
    pub(crate) logprobs: Option<TokenLogprobs>,
    /// Characters of the answer before this token.
    pub(crate) offset: usize,
}

/// How an answer ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// At a stop string, a stop token or the model's own end.
    Stop(Matched),
    /// At the limit of tokens.
    Length,
}

/// What an answer stopped at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Matched {
    Text(String),
    Token(TokenId),
}

/// One answer under way.
pub(crate) struct Choice {
    generation: Generation,
    decoder: IncrementalDecoder,
    stops: StopMatcher,
    rules: Arc<TextRules>,
    tokens: Vec<Drawn>,
    cached_tokens: u32,
    tokens_drawn: u32,
    characters: usize,
}

impl Choice {
    pub(crate) fn new(
        generation: Generation,
        tokenizer: Arc<Tokenizer>,
        rules: Arc<TextRules>,
    ) -> Self {
        let stops = StopMatcher::new(rules.stop_strings.clone());
        Self {
            generation,
            decoder: IncrementalDecoder::continuing(tokenizer, rules.skip_special_tokens),
            stops: stops.include_stop(rules.include_stop),
            rules,
            tokens: Vec::new(),
            cached_tokens: 0,
            tokens_drawn: 0,
            characters: 0,
        }
    }

    /// The next piece. Not to be called again after a piece with an `end`; dropping the choice then ends the request in
    /// the engine, which may have gone on beyond a stop string.
    pub(crate) async fn next(&mut self) -> Result<Piece, Fault> {
        loop {
            let piece = match self.generation.next().await {
                Some(RequestEvent::Prefilled { cached_tokens }) => {
                    self.cached_tokens = cached_tokens;
                    None
                }
                Some(RequestEvent::PromptLogprobs(logprobs)) => {
                    let end = self.rules.prompt_only.then_some(End::Length);
                    let piece = self.piece(String::new(), end);
                    Some(Piece { prompt_logprobs: Some(logprobs), ..piece })
                }
                Some(RequestEvent::Token { token, logprobs }) => self.drawn(token, logprobs),
                Some(RequestEvent::Finished { reason, .. }) => Some(self.finished(reason)),
                Some(RequestEvent::Failed(fault)) => return Err(fault),
                None => return Err(Fault::internal("the engine ended an answer without a reason")),
            };
            if let Some(piece) = piece {
                return Ok(piece);
            }
        }
    }

    /// What the engine will say of this answer when it has ended.
    pub(crate) fn take_report(&mut self) -> Option<PendingReport> {
        self.generation.take_report()
    }

    /// All of the answer that is wanted is there.
    pub(crate) fn complete(self) {
        self.generation.complete();
    }

    fn drawn(&mut self, token: TokenId, logprobs: Option<TokenLogprobs>) -> Option<Piece> {
        if self.rules.prompt_only {
            return Some(self.piece(String::new(), Some(End::Length)));
        }
        self.tokens.push(Drawn { token, logprobs, offset: self.characters });
        self.tokens_drawn += 1;
        if self.rules.stop_token_ids.contains(&token) && !self.rules.include_stop {
            return None;
        }
        // Models often have more logits than their vocabulary has tokens; what is beyond it has no text.
        let text = self.decoder.push(token).unwrap_or_default();
        self.characters += text.chars().count();
        if text.is_empty() {
            return None;
        }
        if self.tokens_drawn <= self.rules.tokens_min {
            return Some(self.piece(text, None));
        }
        let progress = self.stops.push(&text);
        let end = progress.stopped.map(|index| self.stopped_at(index));
        let nothing = progress.text.is_empty() && end.is_none();
        (!nothing).then(|| self.piece(progress.text, end))
    }

    /// The engine is done; what was held back can go.
    fn finished(&mut self, reason: FinishReason) -> Piece {
        let rest = self.decoder.finish();
        let progress = self.stops.push(&rest);
        if let Some(index) = progress.stopped {
            let end = self.stopped_at(index);
            return self.piece(progress.text, Some(end));
        }
        let text = progress.text + &self.stops.finish();
        let end = match reason {
            FinishReason::StopToken(token) => End::Stop(Matched::Token(token)),
            FinishReason::Length => End::Length,
        };
        self.piece(text, Some(end))
    }

    fn stopped_at(&self, index: usize) -> End {
        let text = self.rules.stop_strings.get(index).cloned().unwrap_or_default();
        End::Stop(Matched::Text(text))
    }

    fn piece(&mut self, text: String, end: Option<End>) -> Piece {
        let cached_tokens = mem::take(&mut self.cached_tokens);
        Piece {
            text,
            tokens: mem::take(&mut self.tokens),
            cached_tokens,
            prompt_logprobs: None,
            end,
        }
    }
}
