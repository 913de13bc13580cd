//! Synthetic traces: chats, retrieval-augmented answers, agents.
//!
//! Lengths are log-normal, as those of public traces roughly are; sessions begin at random, and their turns follow one
//! another as people and programs come back. The numbers are plausible and not measured: who has a trace of their own
//! should use it.

use std::sync::Arc;

use crate::{Job, Random, trace::Prefix};

/// A kind of traffic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Traffic {
    /// Conversations of a few turns, short prompts, answers of some hundred tokens; people read and type in between.
    Chat,
    /// One question each behind one of a few system prompts and some thousand tokens of documents.
    Retrieval,
    /// Programs that call in a loop: a long context that grows with each result, short answers, little time between.
    Agents,
    /// Half of the sessions chats, a third retrieval, the others agents.
    Mixed,
}

impl Traffic {
    /// All of them, with their names.
    pub const NAMES: [(&'static str, Self); 4] = [
        ("chat", Self::Chat),
        ("rag", Self::Retrieval),
        ("agents", Self::Agents),
        ("mixed", Self::Mixed),
    ];

    /// The requests of sessions that begin within `duration_s` seconds, `sessions_s` a second, in order of arrival.
    pub fn jobs(self, duration_s: f64, sessions_s: f64, seed: u64) -> Vec<Job> {
        let mut random = Random::new(seed);
        let (mut jobs, mut at_s) = (Vec::new(), 0.0);
        for session in 0.. {
            at_s += random.gap_s(sessions_s);
            if at_s >= duration_s {
                break;
            }
            let kind = match (self, random.between(0, 5)) {
                (Self::Mixed, 0..=2) => Self::Chat,
                (Self::Mixed, 3..=4) => Self::Retrieval,
                (Self::Mixed, _) => Self::Agents,
                (kind, _) => kind,
            };
            // A few tenants make most of the traffic.
            let tenant = format!("tenant {}", random.spread(1, 20));
            let session = Session { id: session, at_s, tenant: tenant.into() };
            match kind {
                Self::Retrieval => jobs.push(session.retrieval(&mut random)),
                Self::Agents => session.agent(&mut random, &mut jobs),
                _ => session.chat(&mut random, &mut jobs),
            }
        }
        jobs.sort_by(|one, other| one.at_s.total_cmp(&other.at_s));
        jobs
    }
}

struct Session {
    id: u64,
    at_s: f64,
    tenant: Arc<str>,
}

/// Most tokens of a context that grows.
const CONTEXT_TOKENS_MAX: u32 = 60_000;

impl Session {
    fn job(&self, class: &str, at_s: f64, prompt_tokens: u32, output_tokens: u32) -> Job {
        let (class, tenant) = (class.into(), self.tenant.clone());
        Job { class, tenant, ..Job::new(at_s, prompt_tokens, output_tokens) }
    }

    fn chat(&self, random: &mut Random, jobs: &mut Vec<Job>) {
        let (mut context, mut at_s) = (random.log_normal(150.0, 1.0, 20, 4_000), self.at_s);
        loop {
            let output = random.log_normal(220.0, 0.8, 8, 2_000);
            let prefix = Some(Prefix { id: format!("chat {}", self.id).into(), tokens: None });
            jobs.push(Job { prefix, ..self.job("chat", at_s, context, output) });
            let is_over = random.chance(4);
            context += output + random.log_normal(50.0, 1.0, 5, 4_000);
            if is_over || context > CONTEXT_TOKENS_MAX {
                return;
            }
            at_s +=
                3.0 + f64::from(output) * 0.03 + f64::from(random.log_normal(20.0, 0.9, 1, 600));
        }
    }

    fn retrieval(&self, random: &mut Random) -> Job {
        let application = random.between(0, 4);
        let system = 400 + 150 * application;
        let documents = random.log_normal(3_000.0, 0.6, 500, 16_000);
        let output = random.log_normal(180.0, 0.6, 20, 1_000);
        let id = format!("application {application}").into();
        let prefix = Some(Prefix { id, tokens: Some(system) });
        Job { prefix, ..self.job("rag", self.at_s, system + documents, output) }
    }

    fn agent(&self, random: &mut Random, jobs: &mut Vec<Job>) {
        let (mut context, mut at_s) = (random.log_normal(4_000.0, 0.4, 1_000, 20_000), self.at_s);
        loop {
            let output = random.log_normal(120.0, 0.8, 15, 1_500);
            let prefix = Some(Prefix { id: format!("agent {}", self.id).into(), tokens: None });
            jobs.push(Job { prefix, ..self.job("agent", at_s, context, output) });
            let is_over = random.chance(12);
            context += output + random.log_normal(500.0, 1.1, 20, 12_000);
            if is_over || context > CONTEXT_TOKENS_MAX {
                return;
            }
            at_s += f64::from(output) * 0.03
                + f64::from(random.log_normal(1500.0, 1.0, 50, 60_000)) / 1e3;
        }
    }
}
