//! What a step takes on a device: a file for each.

use std::{ops::Range, time::Duration};

use scheduler::PolicyKind;
pub use scheduler::Settings;
use toml::{Table, Value};
use types::{CacheGroup, ExecutorInfo};

use crate::Random;

/// The files that are built in, by name.
const BUILT_IN: [(&str, &str); 2] =
    [("cpu", include_str!("../devices/cpu.toml")), ("h200", include_str!("../devices/h200.toml"))];

/// A device with a model, as far as the duration of its steps goes.
#[derive(Clone, Debug, PartialEq)]
pub struct Device {
    /// Its name.
    pub name: String,
    /// What it is.
    pub description: String,
    /// Where the numbers come from.
    pub fitted_to: String,
    /// Every step, in microseconds.
    pub step_us: f64,
    /// A position of a prompt.
    pub prompt_us: f64,
    /// A position for a next token.
    pub token_us: f64,
    /// Looking back at 1,000 positions, from a prompt.
    pub prompt_look_back_us: f64,
    /// The same, for a next token: each reads the keys and values for itself.
    pub token_look_back_us: f64,
    /// Copying a block to the host's memory or back.
    pub copy_us: f64,
    /// How long a step may take while tokens are waited for.
    pub token_latency_target: Duration,
    /// Most positions of a step.
    pub step_tokens_max: u32,
    /// Most positions of one prompt in a step.
    pub prefill_chunk_max: u32,
    /// Its limits.
    pub info: ExecutorInfo,
    /// What was measured of it.
    pub measured: Vec<Measurement>,
}

/// A measured time that the model is to come near to.
#[derive(Clone, Debug, PartialEq)]
pub struct Measurement {
    /// What it is.
    pub what: String,
    /// What was computed.
    pub load: Load,
    /// What it took, in milliseconds.
    pub took_ms: f64,
}

/// What is computed in a measurement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Load {
    /// A prompt of so many tokens, in chunks of so many.
    Prompt(u32, u32),
    /// A step of so many streams after so many tokens.
    Step(u32, u32),
}

/// Why a device's file cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// Not TOML.
    #[error("{0}")]
    Syntax(String),
    /// A value is not there or not what it should be.
    #[error("`{0}` is missing, or no {1}")]
    Field(&'static str, &'static str),
    /// A value is negative or not finite.
    #[error("`{0}` is {1}: times are not negative")]
    Negative(&'static str, String),
    /// There is no such key.
    #[error("`{0}` is nothing that a device has")]
    Unknown(String),
}

impl Device {
    /// A device that is built in.
    pub fn named(name: &str) -> Option<Self> {
        let (_, text) = BUILT_IN.iter().find(|(known, _)| *known == name)?;
        Some(Self::parse(text).expect("the files that are built in are sound"))
    }

    /// The names of those that are built in.
    pub fn names() -> impl Iterator<Item = &'static str> {
        BUILT_IN.iter().map(|(name, _)| *name)
    }

    /// Reads a device's file.
    pub fn parse(text: &str) -> Result<Self, Error> {
        let table: Table =
            text.parse().map_err(|e: toml::de::Error| Error::Syntax(e.to_string()))?;
        if let Some(key) = table.keys().find(|key| !KEYS.contains(&key.as_str())) {
            return Err(Error::Unknown(key.clone()));
        }
        let target_ms = count(&table, "token_latency_target_ms")?;
        let measured = table.get("measured").and_then(Value::as_array);
        Ok(Self {
            name: text_of(&table, "name")?,
            description: text_of(&table, "description")?,
            fitted_to: text_of(&table, "fitted_to")?,
            step_us: time(&table, "step_us")?,
            prompt_us: time(&table, "prompt_us")?,
            token_us: time(&table, "token_us")?,
            prompt_look_back_us: time(&table, "prompt_look_back_us")?,
            token_look_back_us: time(&table, "token_look_back_us")?,
            copy_us: if table.contains_key("copy_us") { time(&table, "copy_us")? } else { 0.0 },
            token_latency_target: Duration::from_millis(target_ms.into()),
            step_tokens_max: count(&table, "step_tokens_max")?,
            prefill_chunk_max: count(&table, "prefill_chunk_max")?,
            info: ExecutorInfo {
                cache_groups: vec![CacheGroup::new(
                    count(&table, "blocks")?,
                    count(&table, "block_tokens")?,
                )],
                step_tokens_max: count(&table, "step_tokens_max")?,
                slots_max: count(&table, "running_max")?,
                context_max: count(&table, "context_max")?,
                vocab_size: 50_000,
                steps_in_flight_max: count(&table, "steps_in_flight_max")?,
                draft_tokens_max: 0,
            },
            measured: measured
                .into_iter()
                .flatten()
                .map(|value| value.as_table().ok_or(Error::Field("measured", "list of tables")))
                .map(|table| measurement(table?))
                .collect::<Result<_, _>>()?,
        })
    }

    /// The same device, with room for so many blocks' contents in the host's memory.
    #[must_use]
    pub fn with_host_blocks(mut self, host_blocks: u32) -> Self {
        self.info.cache_groups[0].host_blocks = host_blocks;
        self
    }

    /// The settings that the server would have by default.
    pub fn settings(&self) -> Settings {
        let target = self.token_latency_target;
        Settings {
            step_tokens_max: self.step_tokens_max,
            prefill_chunk_max: self.prefill_chunk_max,
            running_max: self.info.slots_max,
            token_latency_target: (!target.is_zero()).then_some(target),
            ..Settings::default()
        }
    }

    /// What a step of these positions takes, in microseconds: one position each for next tokens, more for prompts.
    pub fn step_us<'a>(&self, items: impl Iterator<Item = &'a Range<u32>>) -> f64 {
        let item_us = |positions: &Range<u32>| {
            let (start, end) = (f64::from(positions.start), f64::from(positions.end));
            let looked_back = (end * end - start * start) / 2e3;
            if positions.len() == 1 {
                self.token_us + looked_back * self.token_look_back_us
            } else {
                self.prompt_us * (end - start) + looked_back * self.prompt_look_back_us
            }
        };
        self.step_us + items.map(item_us).sum::<f64>()
    }

    /// The same with a few percent more or less, as steps have.
    pub(crate) fn step<'a>(
        &self,
        items: impl Iterator<Item = &'a Range<u32>>,
        copies: usize,
        random: &mut Random,
    ) -> Duration {
        let noise = 0.96 + 0.08 * random.unit();
        let copying_us = self.copy_us * copies as f64;
        Duration::from_secs_f64((self.step_us(items) + copying_us) * noise / 1e6)
    }

    /// What a measured load takes according to the model, in milliseconds.
    pub fn modelled_ms(&self, load: Load) -> f64 {
        let us = match load {
            Load::Prompt(tokens, chunk) => {
                let starts = (0..tokens).step_by(chunk as usize);
                let chunks = starts.map(|start| start..(start + chunk).min(tokens));
                chunks.map(|positions| self.step_us(std::iter::once(&positions))).sum()
            }
            Load::Step(streams, after) => {
                let item = after..after + 1;
                self.step_us(std::iter::repeat_n(&item, streams as usize))
            }
        };
        us / 1e3
    }
}

const KEYS: [&str; 18] = [
    "name",
    "description",
    "fitted_to",
    "step_us",
    "prompt_us",
    "token_us",
    "prompt_look_back_us",
    "token_look_back_us",
    "copy_us",
    "token_latency_target_ms",
    "step_tokens_max",
    "prefill_chunk_max",
    "running_max",
    "blocks",
    "block_tokens",
    "context_max",
    "steps_in_flight_max",
    "measured",
];

fn text_of(table: &Table, key: &'static str) -> Result<String, Error> {
    let text = table.get(key).and_then(Value::as_str);
    text.map(str::to_owned).ok_or(Error::Field(key, "text"))
}

fn time(table: &Table, key: &'static str) -> Result<f64, Error> {
    let value = table.get(key).and_then(|value| {
        value.as_float().or_else(|| value.as_integer().map(|whole| whole as f64))
    });
    let time = value.ok_or(Error::Field(key, "number"))?;
    if time.is_finite() && time >= 0.0 {
        Ok(time)
    } else {
        Err(Error::Negative(key, time.to_string()))
    }
}

fn count(table: &Table, key: &'static str) -> Result<u32, Error> {
    let count = table.get(key).and_then(Value::as_integer);
    count.and_then(|count| count.try_into().ok()).ok_or(Error::Field(key, "whole number"))
}

fn measurement(table: &Table) -> Result<Measurement, Error> {
    let load = if table.contains_key("prompt") {
        let tokens = count(table, "prompt")?;
        let chunk = if table.contains_key("chunk") { count(table, "chunk")? } else { 512 };
        Load::Prompt(tokens, chunk.max(1))
    } else {
        Load::Step(count(table, "streams")?, count(table, "after")?)
    };
    Ok(Measurement { what: text_of(table, "what")?, load, took_ms: time(table, "ms")? })
}

/// What is compared: each policy with these settings, and plain first-come, a model of the usual default, which fills
/// every step and admits as long as there are blocks.
pub fn contenders(settings: &Settings) -> Vec<(&'static str, Settings)> {
    let plain = Settings {
        policy: PolicyKind::FirstCome,
        token_latency_target: None,
        kv_growth_percent: 0,
        kv_reserve_percent: 0,
        ..settings.clone()
    };
    let ours =
        PolicyKind::NAMES.map(|(name, policy)| (name, Settings { policy, ..settings.clone() }));
    std::iter::once(("plain first-come", plain)).chain(ours).collect()
}
