//! The fields that chat and legacy completions share: how to sample, when to stop, how to answer.
//!
//! Every field may be absent or null, which is the same. Fields that are not listed are ignored.

use std::collections::BTreeMap;

use serde::Deserialize;
use types::{SamplingParams, TokenId};

use super::values::{at_most, number, positive, whole};
use crate::{Error, caller::Wishes, state::SamplingDefaults};

/// Most alternatives that log-probabilities can be asked for.
pub(super) const TOP_LOGPROBS_MAX: u32 = 20;
const STOP_STRINGS_MAX: usize = 64;
const STOP_STRING_BYTES_MAX: usize = 1024;
const STOP_TOKEN_IDS_MAX: usize = 256;
const LOGIT_BIAS_MAX: usize = 1024;
const NAME_BYTES_MAX: usize = 512;

/// The shared fields, as sent.
///
/// A request's body is read twice, once for these and once for the fields of its own route: serde's `flatten` would
/// lose the path to a wrong field.
#[derive(Debug, Default, Deserialize)]
pub(super) struct Parameters {
    pub(super) model: Option<String>,

    temperature: Option<f64>,
    top_p: Option<f64>,
    top_k: Option<i64>,
    min_p: Option<f64>,
    typical_p: Option<f64>,
    repetition_penalty: Option<f64>,
    presence_penalty: Option<f64>,
    frequency_penalty: Option<f64>,
    logit_bias: Option<BTreeMap<String, f64>>,
    seed: Option<serde_json::Number>,

    max_tokens: Option<i64>,
    max_completion_tokens: Option<i64>,
    min_tokens: Option<i64>,
    stop: Option<OneOrMany>,
    stop_token_ids: Option<Vec<i64>>,
    ignore_eos: Option<bool>,
    include_stop_str_in_output: Option<bool>,
    skip_special_tokens: Option<bool>,

    n: Option<i64>,
    best_of: Option<i64>,
    prompt_logprobs: Option<i64>,
    stream: Option<bool>,
    stream_options: Option<StreamOptions>,
    return_token_ids: Option<bool>,
    priority: Option<i32>,
    user: Option<String>,
    cache_salt: Option<String>,
    first_token_due_ms: Option<i64>,
    explain: Option<bool>,
    response_format: Option<ResponseFormat>,
}

#[derive(Debug, Deserialize)]
#[serde(untagged, expecting = "expected a string or a list of strings")]
enum OneOrMany {
    One(String),
    Many(Vec<String>),
}

#[derive(Debug, Deserialize)]
struct StreamOptions {
    include_usage: Option<bool>,
    continuous_usage_stats: Option<bool>,
}

#[derive(Debug, Deserialize)]
struct ResponseFormat {
    #[serde(rename = "type")]
    kind: String,
}

/// The shared fields, checked. What depends on the model (limits, defaults, end tokens) is applied later.
#[derive(Debug)]
pub(super) struct Checked {
    pub(super) model: Option<String>,
    /// How many answers to one prompt.
    pub(super) n: u32,
    pub(super) stream: Option<Streaming>,
    pub(super) stop_strings: Vec<String>,
    pub(super) include_stop: bool,
    pub(super) skip_special_tokens: bool,
    pub(super) return_token_ids: bool,
    pub(super) prompt_logprobs: Option<u32>,
    pub(super) wishes: Wishes,
    /// Usage is to tell where the time went.
    pub(super) explain: bool,
    /// Tokens to generate, where the request says; 0 is for the route to judge.
    pub(super) tokens_max: Option<u32>,
    /// Which of its two names the request used.
    pub(super) tokens_max_field: &'static str,
    ignore_eos: bool,
    sampling: Sampling,
}

/// That the answer is to be streamed, and how.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Streaming {
    /// A last chunk tells what was used.
    pub(super) include_usage: bool,
    /// Every chunk tells what was used so far.
    pub(super) continuous_usage: bool,
}

#[derive(Debug)]
struct Sampling {
    temperature: Option<f32>,
    top_p: Option<f32>,
    top_k: Option<u32>,
    min_p: Option<f32>,
    typical_p: Option<f32>,
    repetition_penalty: Option<f32>,
    presence_penalty: f32,
    frequency_penalty: f32,
    logit_bias: Vec<(TokenId, f32)>,
    seed: Option<u64>,
    stop_token_ids: Vec<TokenId>,
    tokens_min: u32,
}

/// What a model contributes to the sampling parameters of a request.
pub(super) struct ModelSide<'a> {
    pub(super) defaults: &'a SamplingDefaults,
    pub(super) end_tokens: &'a [TokenId],
    pub(super) vocab_size: u32,
}

impl Parameters {
    /// Checks every value on its own and against the others.
    pub(super) fn check(self, choices_max: u32) -> Result<Checked, Error> {
        let n = whole("n", self.n, 1, i64::from(choices_max))?.unwrap_or(1);
        if let Some(best_of) = self.best_of
            && best_of != i64::from(n)
        {
            return Err(Error::NotSupported {
                field: "best_of",
                message: format!("{best_of} differs from `n`, {n}; ask for as many as you want"),
            });
        }
        let stream = self.stream.unwrap_or(false);
        let streaming = match (stream, self.stream_options) {
            (true, Some(options)) => Some(Streaming {
                include_usage: options.include_usage.unwrap_or(false),
                continuous_usage: options.continuous_usage_stats.unwrap_or(false),
            }),
            (true, None) => Some(Streaming::default()),
            (false, Some(_)) => {
                return Err(Error::field("stream_options", "is only allowed with `stream`: true"));
            }
            (false, None) => None,
        };
        if let Some(format) = self.response_format
            && format.kind != "text"
        {
            return Err(Error::NotSupported {
                field: "response_format",
                message: format!("type `{}` is not supported yet; only `text` is", format.kind),
            });
        }
        let top_logprobs_max = i64::from(TOP_LOGPROBS_MAX);
        let prompt_logprobs = whole("prompt_logprobs", self.prompt_logprobs, 0, top_logprobs_max)?;
        if stream && prompt_logprobs.is_some() {
            return Err(Error::field("prompt_logprobs", "is not available with `stream`: true"));
        }
        let (tokens_max_field, tokens_max) = match self.max_completion_tokens {
            Some(tokens_max) => ("max_completion_tokens", Some(tokens_max)),
            None => ("max_tokens", self.max_tokens),
        };
        let tokens_max = whole(tokens_max_field, tokens_max, 0, i64::from(u32::MAX))?;
        let tokens_min = whole("min_tokens", self.min_tokens, 0, i64::from(u32::MAX))?.unwrap_or(0);
        Ok(Checked {
            model: self.model,
            n,
            stream: streaming,
            stop_strings: stop_strings(self.stop)?,
            include_stop: self.include_stop_str_in_output.unwrap_or(false),
            skip_special_tokens: self.skip_special_tokens.unwrap_or(true),
            return_token_ids: self.return_token_ids.unwrap_or(false),
            prompt_logprobs,
            wishes: Wishes {
                priority: self.priority.unwrap_or(0),
                first_token_due_ms: whole(
                    "first_token_due_ms",
                    self.first_token_due_ms,
                    1,
                    i64::from(u32::MAX),
                )?,
                user: short("user", self.user)?,
                cache_salt: short("cache_salt", self.cache_salt)?,
            },
            explain: self.explain.unwrap_or(false),
            tokens_max,
            tokens_max_field,
            ignore_eos: self.ignore_eos.unwrap_or(false),
            sampling: Sampling {
                temperature: number("temperature", self.temperature, 0.0, 100.0)?,
                top_p: number("top_p", self.top_p, 0.0, 1.0)?,
                // Both 0 and -1 are in use for "all".
                top_k: whole(
                    "top_k",
                    self.top_k.map(|k| if k == -1 { 0 } else { k }),
                    0,
                    i64::from(u32::MAX),
                )?,
                min_p: number("min_p", self.min_p, 0.0, 1.0)?,
                typical_p: positive("typical_p", self.typical_p, 1.0)?,
                repetition_penalty: positive("repetition_penalty", self.repetition_penalty, 100.0)?,
                presence_penalty: number("presence_penalty", self.presence_penalty, -2.0, 2.0)?
                    .unwrap_or(0.0),
                frequency_penalty: number("frequency_penalty", self.frequency_penalty, -2.0, 2.0)?
                    .unwrap_or(0.0),
                logit_bias: logit_bias(self.logit_bias)?,
                seed: seed(self.seed)?,
                stop_token_ids: stop_token_ids(self.stop_token_ids)?,
                tokens_min,
            },
        })
    }
}

impl Checked {
    /// The sampling parameters, with the model's defaults where the request leaves them open, and `random_seed`
    /// where it names none. Log-probabilities are the route's business.
    pub(super) fn sampling(
        &self,
        model: &ModelSide<'_>,
        random_seed: u64,
    ) -> Result<SamplingParams, Error> {
        let sampling = &self.sampling;
        let defaults = model.defaults;
        let plain = SamplingParams::default();
        known_tokens("logit_bias", sampling.logit_bias.iter().map(|(id, _)| *id), model)?;
        known_tokens("stop_token_ids", sampling.stop_token_ids.iter().copied(), model)?;
        let mut stop_token_ids = sampling.stop_token_ids.clone();
        if !self.ignore_eos {
            stop_token_ids.extend_from_slice(model.end_tokens);
        }
        stop_token_ids.sort_unstable();
        stop_token_ids.dedup();
        Ok(SamplingParams {
            temperature: pick(sampling.temperature, defaults.temperature, plain.temperature),
            top_k: pick(sampling.top_k, defaults.top_k, plain.top_k),
            // Clients say 0 for "the most likely token only".
            top_p: pick(sampling.top_p, defaults.top_p, plain.top_p).max(f32::MIN_POSITIVE),
            min_p: pick(sampling.min_p, defaults.min_p, plain.min_p),
            typical_p: pick(sampling.typical_p, defaults.typical_p, plain.typical_p),
            repetition_penalty: pick(
                sampling.repetition_penalty,
                defaults.repetition_penalty,
                plain.repetition_penalty,
            ),
            presence_penalty: sampling.presence_penalty,
            frequency_penalty: sampling.frequency_penalty,
            logit_bias: sampling.logit_bias.clone(),
            seed: sampling.seed.unwrap_or(random_seed),
            stop_token_ids,
            tokens_min: sampling.tokens_min,
            logprobs: None,
            prompt_logprobs: None,
        })
    }

    /// The stop tokens that the request names, without the model's own end tokens.
    pub(super) fn stop_token_ids(&self) -> &[TokenId] {
        &self.sampling.stop_token_ids
    }
}

fn short(field: &'static str, text: Option<String>) -> Result<Option<String>, Error> {
    match text.as_ref().map(String::len) {
        Some(bytes) if bytes > NAME_BYTES_MAX => Err(Error::field(
            field,
            format!("is {bytes} bytes long; it must be at most {NAME_BYTES_MAX}"),
        )),
        _ => Ok(text),
    }
}

fn pick<T>(given: Option<T>, default: Option<T>, plain: T) -> T {
    given.or(default).unwrap_or(plain)
}

fn known_tokens(
    field: &str,
    mut ids: impl Iterator<Item = TokenId>,
    model: &ModelSide<'_>,
) -> Result<(), Error> {
    match ids.find(|id| *id >= model.vocab_size) {
        None => Ok(()),
        Some(id) => Err(Error::field(
            field,
            format!("token {id} does not exist; the vocabulary has {} tokens", model.vocab_size),
        )),
    }
}

fn seed(value: Option<serde_json::Number>) -> Result<Option<u64>, Error> {
    let Some(value) = value else { return Ok(None) };
    // A negative seed is as good as any other: its bits are taken as they are.
    match value.as_u64().or_else(|| value.as_i64().map(i64::cast_unsigned)) {
        Some(seed) => Ok(Some(seed)),
        None => Err(Error::field("seed", format!("{value} is not a 64-bit integer"))),
    }
}

fn stop_strings(stop: Option<OneOrMany>) -> Result<Vec<String>, Error> {
    let strings = match stop {
        None => Vec::new(),
        Some(OneOrMany::One(string)) => vec![string],
        Some(OneOrMany::Many(strings)) => strings,
    };
    at_most("stop", strings.len(), STOP_STRINGS_MAX)?;
    for (index, string) in strings.iter().enumerate() {
        if string.is_empty() || string.len() > STOP_STRING_BYTES_MAX {
            return Err(Error::field(
                format!("stop[{index}]"),
                format!(
                    "is {} bytes long; it must be from 1 to {STOP_STRING_BYTES_MAX}",
                    string.len()
                ),
            ));
        }
    }
    Ok(strings)
}

fn stop_token_ids(ids: Option<Vec<i64>>) -> Result<Vec<TokenId>, Error> {
    let ids = ids.unwrap_or_default();
    at_most("stop_token_ids", ids.len(), STOP_TOKEN_IDS_MAX)?;
    ids.into_iter()
        .enumerate()
        .map(|(index, id)| {
            TokenId::try_from(id).map_err(|_| {
                Error::field(format!("stop_token_ids[{index}]"), format!("{id} is not a token id"))
            })
        })
        .collect()
}

fn logit_bias(bias: Option<BTreeMap<String, f64>>) -> Result<Vec<(TokenId, f32)>, Error> {
    let bias = bias.unwrap_or_default();
    at_most("logit_bias", bias.len(), LOGIT_BIAS_MAX)?;
    bias.into_iter()
        .map(|(key, value)| {
            let id = key
                .parse::<TokenId>()
                .map_err(|_| Error::field("logit_bias", format!("`{key}` is not a token id")))?;
            let value = number(&format!("logit_bias.{key}"), Some(value), -100.0, 100.0)?;
            Ok((id, value.unwrap_or(0.0)))
        })
        .collect()
}
