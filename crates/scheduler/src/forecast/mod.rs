//! How long a request that comes now will wait.
//!
//! The queue is run forward, step by step, as far as what is known goes: who waits and where, what runs and how far it
//! has got, how long steps take, how long answers are, how much of prompts is found in the cache, and that more will
//! come as they came lately, of whom some may pass. What comes of it is who starts when, and so when one would who
//! stands anywhere between. It is worked out once for all who ask about the same moment, by the first of them.

mod run;

use std::{
    sync::{Arc, OnceLock},
    time::Duration,
};

use kv::BlockPool;
use queue::{ActivePolicy, Arrival, Rank};
use types::{CacheGroup, Service};

use self::run::Run;
use crate::{
    Scheduler, Settings,
    outputs::{LENGTH_ASSUMED, OutputLengths},
    pace::Pace,
    recent::Recent,
    sequence::cost,
};

/// A forecast holds at least for so long, and for a part of the longest wait that it predicts: what changes meanwhile
/// is small beside that.
const AGE_MIN: Duration = Duration::from_millis(50);
const AGE_PARTS: u32 = 50;

/// A request that waits.
#[derive(Clone, Debug)]
struct Waiting {
    rank: Rank,
    tenant: Arc<str>,
    cost: u64,
    /// Tokens it has, and tokens it may still have.
    len: u32,
    left: u32,
}

/// A prompt under way.
#[derive(Clone, Debug)]
struct Prompt {
    rank: Rank,
    /// Positions computed.
    computed: u32,
    len: u32,
    left: u32,
}

/// A request that generates.
#[derive(Clone, Copy, Debug)]
struct Decoding {
    len: u32,
    generated: u32,
    tokens_max: u32,
}

impl Waiting {
    /// Its prompt, when it starts with so many positions from the cache.
    fn prompt(&self, computed: u32) -> Prompt {
        Prompt { rank: self.rank, computed, len: self.len, left: self.left }
    }
}

/// A cache group, and how many blocks are held there, as a part of what they would be if nobody shared any.
#[derive(Clone, Debug)]
struct Group {
    group: CacheGroup,
    held_part: f64,
}

impl Group {
    fn of(pool: &BlockPool, lengths: impl Iterator<Item = u32>) -> Self {
        let group = pool.group().clone();
        let alone: u32 = lengths.map(|len| group.blocks_of_one(len)).sum();
        let held = pool.total() - pool.free();
        let held_part = if alone > 0 { f64::from(held) / f64::from(alone) } else { 1.0 };
        Self { group, held_part: held_part.min(1.0) }
    }
}

/// What a scheduler knew at a moment of the waits to come. It can be asked while the scheduler goes on.
#[derive(Debug)]
pub struct Forecast {
    made: Duration,
    settings: Settings,
    groups: Vec<Group>,
    pace: Pace,
    policy: ActivePolicy,
    outputs: OutputLengths,
    recent: Recent,
    /// In order of rank.
    waiting: Vec<Waiting>,
    /// In order of rank.
    prompts: Vec<Prompt>,
    decoding: Vec<Decoding>,
    next_arrival: u64,
    /// The highest class among those that run.
    running_class_max: Option<i32>,
    starts: OnceLock<Option<Starts>>,
}

/// Who starts when.
#[derive(Debug)]
struct Starts {
    /// The highest rank that has started and the time of that start, in seconds; both grow. The last is that of one
    /// behind all others.
    highest: Vec<(Rank, f64)>,
    /// Seconds for each more that waits as well.
    each_s: f64,
}

impl Scheduler {
    /// What can be said at `now` of the waits to come.
    pub fn forecast(&self, now: Duration) -> Forecast {
        let (mut prompts, mut decoding) = (Vec::new(), Vec::with_capacity(self.slots.len()));
        for slot in self.slots.in_order() {
            let Some(running) = self.slots.get(slot) else { continue };
            let (sequence, len) = (&running.sequence, running.expected_len());
            let (generated, tokens_max) =
                (sequence.generated() + running.drawing, sequence.tokens_max);
            if running.remaining() > 1 {
                let (rank, computed) = (running.ticket.rank, running.planned);
                let left = tokens_max - generated;
                prompts.push(Prompt { rank, computed, len, left });
            } else {
                decoding.push(Decoding { len, generated, tokens_max });
            }
        }
        let lengths = self.slots.iter().map(|(_, running)| running.expected_len());
        let classes = self.slots.iter().map(|(_, running)| running.ticket.rank.place.class);
        let waiting = self.queue.iter().map(|(ticket, sequence)| Waiting {
            rank: ticket.rank,
            tenant: sequence.tenant.clone(),
            cost: sequence.cost,
            len: sequence.len(),
            left: sequence.tokens_max - sequence.generated(),
        });
        Forecast {
            made: now,
            settings: self.settings.clone(),
            groups: self.kv.pools().iter().map(|pool| Group::of(pool, lengths.clone())).collect(),
            pace: self.pace.clone(),
            policy: self.policy.clone(),
            outputs: self.outputs.clone(),
            recent: self.recent.clone(),
            waiting: waiting.collect(),
            prompts,
            decoding,
            next_arrival: self.queue.next_arrival(),
            running_class_max: classes.max(),
            starts: OnceLock::new(),
        }
    }
}

impl Forecast {
    /// What to say where nothing has been measured.
    pub const UNMEASURED_WAIT: Duration = Duration::from_secs(1);

    /// How long a request of so many tokens, that may generate `tokens_max`, will wait until it is first scheduled if
    /// it comes at `now`, together with `others` that came after the forecast was made. Nothing before steps have been
    /// measured.
    pub fn wait(
        &self,
        now: Duration,
        service: &Service,
        prompt_len: u32,
        tokens_max: u32,
        others: usize,
    ) -> Option<Duration> {
        let Starts { highest, each_s } = self.starts()?;
        let Service { priority, due, ref tenant, .. } = *service;
        let cost = cost(prompt_len, tokens_max.min(LENGTH_ASSUMED));
        let arrival = Arrival { now, priority, tenant: tenant.clone(), cost, due };
        let place = self.policy.place(&arrival);
        if self.policy.preempts_classes()
            && self.running_class_max.is_some_and(|class| place.class < class)
        {
            return Some(Duration::ZERO);
        }
        let rank = Rank { place, arrival: self.next_arrival };
        // It would have started in the place of the first behind it.
        let behind = highest.partition_point(|(started, _)| *started < rank);
        let start = highest.get(behind).or(highest.last());
        let start_s = start.map_or(0.0, |(_, start_s)| *start_s);
        Some(Duration::from_secs_f64(start_s + each_s * others as f64))
    }

    /// How many waited.
    pub fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// Whether to make a new one at `now`.
    pub fn is_old(&self, now: Duration) -> bool {
        let asked = self.starts.get().and_then(Option::as_ref);
        let longest_s = asked.and_then(|starts| starts.highest.last()).map_or(0.0, |last| last.1);
        let age_max = AGE_MIN + Duration::from_secs_f64(longest_s) / AGE_PARTS;
        now.saturating_sub(self.made) >= age_max || self.pace.begin_forecast().is_none()
    }

    fn starts(&self) -> Option<&Starts> {
        self.starts.get_or_init(|| Run::new(self).starts()).as_ref()
    }
}
