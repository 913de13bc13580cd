//! Log-probabilities in the three shapes that clients know.

use serde::Serialize;
use serde_json::{Map, Value, json};
use tokenizer::Tokenizer;
use types::{TokenId, TokenLogprobs};

use crate::generate::Drawn;

/// The chat shape: one entry a token of the answer.
#[derive(Debug, Serialize)]
pub(super) struct ChatLogprobs {
    content: Vec<ChatToken>,
    refusal: Option<()>,
}

#[derive(Debug, Serialize)]
struct ChatToken {
    #[serde(flatten)]
    token: Alternative,
    top_logprobs: Vec<Alternative>,
}

#[derive(Debug, Serialize)]
struct Alternative {
    token: String,
    logprob: f32,
    /// A token may be part of a character; joined, the bytes are whole again.
    bytes: Vec<u8>,
}

/// The chat shape of these tokens, if they carry log-probabilities.
pub(super) fn chat(tokenizer: &Tokenizer, tokens: &[Drawn]) -> Option<ChatLogprobs> {
    let alternative = |(token, logprob): (TokenId, f32)| {
        let bytes = tokenizer.token_bytes(token);
        Alternative { token: String::from_utf8_lossy(&bytes).into_owned(), logprob, bytes }
    };
    let content: Vec<ChatToken> = tokens
        .iter()
        .filter_map(|drawn| drawn.logprobs.as_ref())
        .map(|logprobs| ChatToken {
            token: alternative((logprobs.token, logprobs.logprob)),
            top_logprobs: logprobs.top.iter().copied().map(alternative).collect(),
        })
        .collect();
    (!content.is_empty()).then_some(ChatLogprobs { content, refusal: None })
}

/// The shape of legacy completions: parallel lists.
#[derive(Debug, Default, Serialize)]
pub(super) struct CompletionLogprobs {
    /// Characters of the answer's text before the token.
    text_offset: Vec<usize>,
    token_logprobs: Vec<Option<f32>>,
    tokens: Vec<String>,
    top_logprobs: Vec<Option<Map<String, Value>>>,
}

impl CompletionLogprobs {
    /// A token that nothing comes before has no probability.
    pub(super) fn push_first(&mut self, tokenizer: &Tokenizer, token: TokenId) {
        self.text_offset.push(0);
        self.token_logprobs.push(None);
        self.tokens.push(label(tokenizer, token));
        self.top_logprobs.push(None);
    }

    pub(super) fn push(&mut self, tokenizer: &Tokenizer, logprobs: &TokenLogprobs, offset: usize) {
        self.text_offset.push(offset);
        self.token_logprobs.push(Some(logprobs.logprob));
        self.tokens.push(label(tokenizer, logprobs.token));
        let top = logprobs.top.iter().copied();
        // The token itself is always told, also where it is not among the most likely.
        let all = top.chain([(logprobs.token, logprobs.logprob)]);
        let named = all.map(|(token, logprob)| (label(tokenizer, token), json!(logprob)));
        self.top_logprobs.push(Some(named.collect()));
    }

    pub(super) fn is_empty(&self) -> bool {
        self.tokens.is_empty()
    }
}

/// A token's text; where it is not text, its bytes, so that no two tokens have one name.
fn label(tokenizer: &Tokenizer, token: TokenId) -> String {
    String::from_utf8(tokenizer.token_bytes(token)).unwrap_or_else(|error| {
        let bytes = error.as_bytes().iter().map(|byte| format!("\\x{byte:02x}"));
        format!("bytes:{}", bytes.collect::<String>())
    })
}

/// vLLM's shape of a prompt's log-probabilities: for each token but the first, a map from token ids.
pub(super) fn prompt(tokenizer: &Tokenizer, logprobs: &[TokenLogprobs]) -> Vec<Value> {
    let of_token = |logprobs: &TokenLogprobs| {
        let ranked = logprobs.top.iter().enumerate();
        let mut all: Map<String, Value> = ranked
            .map(|(index, (token, logprob))| {
                (token.to_string(), entry(tokenizer, *token, *logprob, Some(index + 1)))
            })
            .collect();
        all.entry(logprobs.token.to_string())
            .or_insert_with(|| entry(tokenizer, logprobs.token, logprobs.logprob, None));
        Value::Object(all)
    };
    [Value::Null].into_iter().chain(logprobs.iter().map(of_token)).collect()
}

fn entry(tokenizer: &Tokenizer, token: TokenId, logprob: f32, rank: Option<usize>) -> Value {
    json!({"logprob": logprob, "rank": rank, "decoded_token": tokenizer.token_text(token)})
}
