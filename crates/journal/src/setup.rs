//! What a journal begins with: everything that a scheduler is made of.

use std::{collections::BTreeMap, time::Duration};

use scheduler::{PolicyKind, Settings};
use types::{CacheContent, CacheGroup, ExecutorInfo};

use crate::encoding::{Input, Output, Read};

/// How tokens and names stand in a journal.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TokenRecord {
    /// As hashes under a key that nobody keeps; see the crate. Stop tokens stand as they are.
    #[default]
    Hashes,
    /// As they are: whoever has the journal and the model's vocabulary can read prompts and answers.
    Ids,
}

/// What a scheduler was made of.
#[derive(Clone, Debug, PartialEq)]
pub struct Setup {
    /// The version of the program that wrote the journal. Another one may decide differently.
    pub version: String,
    /// How tokens are written.
    pub tokens: TokenRecord,
    /// The executor's limits.
    pub info: ExecutorInfo,
    /// The scheduler's settings.
    pub settings: Settings,
}

impl Setup {
    pub(crate) fn encode(&self, out: &mut Output) {
        let Self { version, tokens, info, settings } = self;
        out.text(version);
        out.flag(*tokens == TokenRecord::Ids);
        let ExecutorInfo {
            cache_groups,
            step_tokens_max,
            slots_max,
            context_max,
            vocab_size,
            steps_in_flight_max,
            draft_tokens_max,
        } = info;
        out.list(cache_groups.iter(), |out, group| {
            out.number(group.blocks);
            out.number(group.block_tokens);
            out.number(group.blocks_kept);
            out.number(group.host_blocks);
            match group.content {
                CacheContent::Everything => out.number(0_u32),
                CacheContent::Window(positions) => {
                    out.number(1_u32);
                    out.number(positions);
                }
                CacheContent::State(apart) => {
                    out.number(2_u32);
                    out.number(apart);
                }
            }
        });
        for limit in [step_tokens_max, slots_max, context_max, vocab_size] {
            out.number(*limit);
        }
        out.number(*steps_in_flight_max);
        out.number(*draft_tokens_max);
        let Settings {
            step_tokens_max,
            prefill_chunk_max,
            running_max,
            waiting_max,
            kv_reserve_percent,
            kv_growth_percent,
            prefix_cache,
            policy,
            tenant_weights,
            token_latency_target,
            draft_tokens_max,
        } = settings;
        for limit in [step_tokens_max, prefill_chunk_max, running_max, waiting_max] {
            out.number(*limit);
        }
        out.number(*kv_reserve_percent);
        out.number(*kv_growth_percent);
        out.flag(*prefix_cache);
        let mut names = PolicyKind::NAMES.iter();
        out.text(names.find(|(_, kind)| kind == policy).expect("every policy has a name").0);
        out.list(tenant_weights.iter(), |out, (tenant, weight)| {
            out.text(tenant);
            out.number(*weight);
        });
        out.optional(*token_latency_target, Output::time);
        out.number(*draft_tokens_max);
    }

    pub(crate) fn decode(input: &mut Input<'_>) -> Read<Self> {
        let version = input.text()?;
        let tokens = if input.flag()? { TokenRecord::Ids } else { TokenRecord::Hashes };
        let group = |input: &mut Input<'_>| {
            Ok(CacheGroup {
                blocks: input.number()?,
                block_tokens: input.number()?,
                blocks_kept: input.number()?,
                host_blocks: input.number()?,
                content: match input.number()? {
                    0 => CacheContent::Everything,
                    1 => CacheContent::Window(input.number()?),
                    2 => CacheContent::State(input.number()?),
                    other => return Err(format!("there is no content {other} of cache groups")),
                },
            })
        };
        let info = ExecutorInfo {
            cache_groups: input.list(group)?,
            step_tokens_max: input.number()?,
            slots_max: input.number()?,
            context_max: input.number()?,
            vocab_size: input.number()?,
            steps_in_flight_max: input.number()?,
            draft_tokens_max: input.number()?,
        };
        let settings = Settings {
            step_tokens_max: input.number()?,
            prefill_chunk_max: input.number()?,
            running_max: input.number()?,
            waiting_max: input.number()?,
            kv_reserve_percent: input.number()?,
            kv_growth_percent: input.number()?,
            prefix_cache: input.flag()?,
            policy: policy(&input.text()?)?,
            tenant_weights: input
                .list(|input| Ok((input.text()?.into(), input.number()?)))?
                .into_iter()
                .collect::<BTreeMap<_, _>>(),
            token_latency_target: input.optional(|input| -> Read<Duration> { input.time() })?,
            draft_tokens_max: input.number()?,
        };
        Ok(Self { version, tokens, info, settings })
    }

    /// The limits that the recorded tokens keep to: hashes are larger than any token.
    pub(crate) fn info_of_record(&self) -> ExecutorInfo {
        let vocab_size = match self.tokens {
            TokenRecord::Hashes => u32::MAX,
            TokenRecord::Ids => self.info.vocab_size,
        };
        ExecutorInfo { vocab_size, ..self.info.clone() }
    }
}

fn policy(name: &str) -> Read<PolicyKind> {
    let mut names = PolicyKind::NAMES.into_iter();
    let found = names.find(|(known, _)| *known == name);
    found.map(|(_, policy)| policy).ok_or_else(|| format!("there is no policy `{name}`"))
}
