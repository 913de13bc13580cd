//! The queue run forward: a scheduler in little, of which each step costs a fraction of a microsecond.
//!
//! What it leaves out: whose prompts have what in common, preemptions, guesses, and the exact number of blocks.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BinaryHeap, VecDeque},
    sync::Arc,
    time::Duration,
};

use queue::{ActivePolicy, Arrival, Place, Rank};

use super::{Decoding, Forecast, Group, Prompt, Starts, Waiting};
use crate::{
    outputs::Survival,
    pace::{Pace, StepPace},
    recent::Came,
};

/// Requests that are taken to wait behind all others, to see what each more of them waits.
const MORE: u64 = 16;
/// Most that come while the queue is run forward.
const CAME_MAX: usize = 16_384;
/// Steps after which it is enough, and the rest of the queue is taken to move as fast as it did.
const STEPS_MAX: u32 = 20_000;
/// Parts of answers that follow one another so that any few of them are spread evenly: multiples of the golden ratio.
const PART_STEP: f64 = 0.618_033_988_749_895;

/// A request that ends after a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Ending {
    step: u32,
    /// Tokens it will have.
    len: u32,
    /// Tokens that it has on average until then.
    mean_len: u32,
}

/// A prompt under way, of a request whose answer will have so many tokens.
#[derive(Debug)]
struct Begun {
    prompt: Prompt,
    answer: u32,
}

/// See the module.
pub(super) struct Run<'a> {
    known: &'a Forecast,
    pace: Pace,
    policy: ActivePolicy,
    survival: Survival,
    part: f64,
    /// Those who waited at the beginning and have not started.
    waiting: VecDeque<&'a Waiting>,
    /// Those who came since and have not started.
    newcomers: BTreeMap<Rank, Waiting>,
    /// How many came since.
    came: usize,
    /// Behind all that waited, and behind all like those that came lately, if they came now.
    last: Rank,
    /// In order of rank.
    prompts: Vec<Begun>,
    decoding: BinaryHeap<Reverse<Ending>>,
    /// Tokens of those that generate.
    context: u64,
    /// Blocks held on average until those end who hold them, by group, if nobody shared any.
    held: Vec<u64>,
    elapsed_s: f64,
    step: u32,
    started: u64,
    highest: Vec<(Rank, f64)>,
    /// Nobody comes any more.
    is_closed: bool,
}

impl<'a> Run<'a> {
    pub(super) fn new(known: &'a Forecast) -> Self {
        let mut run = Self {
            known,
            pace: known.pace.clone(),
            policy: known.policy.clone(),
            survival: known.outputs.survival(),
            part: 0.5,
            waiting: known.waiting.iter().collect(),
            newcomers: BTreeMap::new(),
            came: 0,
            last: Rank { place: Place::default(), arrival: 0 },
            prompts: Vec::with_capacity(known.prompts.len()),
            decoding: BinaryHeap::with_capacity(known.decoding.len()),
            context: 0,
            held: vec![0; known.groups.len()],
            elapsed_s: 0.0,
            step: 0,
            started: 0,
            highest: Vec::new(),
            is_closed: false,
        };
        for Decoding { len, generated, tokens_max } in &known.decoding {
            let rest = run.draw(*generated, *tokens_max);
            let mean_len = len + rest / 2;
            run.hold(mean_len);
            run.generate(*len, rest, mean_len);
        }
        for prompt in &known.prompts {
            let begun = run.begin(prompt.clone());
            run.prompts.push(begun);
        }
        run.place_last();
        run
    }

    /// Who starts when; nothing before steps have been measured.
    pub(super) fn starts(mut self) -> Option<Starts> {
        self.pace.begin_forecast()?;
        let last = self.last;
        while self.highest.last().is_none_or(|(rank, _)| *rank < last) {
            if self.step >= STEPS_MAX {
                return Some(self.cut_short());
            }
            self.step();
        }
        let (started, start_s) = (self.started, self.elapsed_s);
        // What follows tells only how much longer each more waits.
        let highest = std::mem::take(&mut self.highest);
        self.is_closed = true;
        self.waiting.clear();
        self.newcomers.clear();
        for more in 1..=MORE {
            let rank = Rank { arrival: last.arrival + more, ..last };
            self.newcomers.insert(rank, self.like(more as usize, rank));
        }
        while !self.newcomers.is_empty() && self.step < STEPS_MAX {
            self.step();
        }
        let more = (self.started - started).max(1);
        let each_s = (self.elapsed_s - start_s) / more as f64;
        Some(Starts { highest, each_s })
    }

    /// The rest of the queue moves as fast as what was seen of it.
    fn cut_short(mut self) -> Starts {
        let each_s = self.elapsed_s / self.started.max(1) as f64;
        let rest = self.waiting.iter().map(|waiting| waiting.rank).chain([self.last]);
        for (ahead, rank) in rest.enumerate() {
            if self.highest.last().is_none_or(|(highest, _)| *highest < rank) {
                self.highest.push((rank, self.elapsed_s + each_s * ahead as f64));
            }
        }
        Starts { highest: self.highest, each_s }
    }

    /// Has one wait behind all others.
    fn place_last(&mut self) {
        let Forecast { recent, made, next_arrival, .. } = self.known;
        let place =
            |came: &Came| self.policy.place(&Arrival { now: *made, ..came.arrival.clone() });
        let places = recent.iter().map(place);
        let places = places.chain(self.waiting.back().map(|last| last.rank.place));
        self.last = Rank { place: places.max().unwrap_or_default(), arrival: *next_arrival };
        self.newcomers.insert(self.last, self.like(0, self.last));
    }

    /// One who is like one that came lately.
    fn like(&self, index: usize, rank: Rank) -> Waiting {
        match self.known.recent.like(index) {
            Some(Came { arrival, len, tokens_max }) => Waiting {
                rank,
                tenant: arrival.tenant.clone(),
                cost: arrival.cost,
                len: *len,
                left: *tokens_max,
            },
            None => Waiting { rank, tenant: Arc::default(), cost: 1, len: 1, left: 1 },
        }
    }

    /// Those come who would have come by now. Where nobody passes, they make no difference to those who wait.
    fn let_come(&mut self) {
        let Forecast { recent, made, next_arrival, .. } = self.known;
        while !self.is_closed
            && self.came < CAME_MAX
            && self.policy.lets_pass()
            && let Some(at_s) = recent.comes_s(self.came, *made)
            && at_s <= self.elapsed_s
            && let Some(came) = recent.like(self.came)
        {
            let now = *made + Duration::from_secs_f64(at_s);
            let arrival = Arrival { now, ..came.arrival.clone() };
            let place = self.policy.place(&arrival);
            self.policy.arrived(&arrival);
            // After the numbers of those who are taken to wait behind all others.
            let rank = Rank { place, arrival: next_arrival + MORE + 1 + self.came as u64 };
            self.newcomers.insert(rank, self.like(self.came, rank));
            self.came += 1;
        }
    }

    /// How long the rest of the next answer is: answers are as long as some part of all are.
    fn draw(&mut self, generated: u32, tokens_max: u32) -> u32 {
        self.part = (self.part + PART_STEP) % 1.0;
        self.survival.rest(generated, tokens_max, self.part)
    }

    /// The blocks of a request that has so many tokens on average.
    fn hold(&mut self, mean_len: u32) {
        for (held, group) in self.held.iter_mut().zip(&self.known.groups) {
            *held += u64::from(group.group.blocks_of_one(mean_len));
        }
    }

    fn let_go(&mut self, mean_len: u32) {
        for (held, group) in self.held.iter_mut().zip(&self.known.groups) {
            *held -= u64::from(group.group.blocks_of_one(mean_len));
        }
    }

    /// A prompt is under way.
    fn begin(&mut self, prompt: Prompt) -> Begun {
        let answer = self.draw(0, prompt.left);
        self.hold(prompt.len + answer / 2);
        Begun { prompt, answer }
    }

    /// A request generates from the next step on.
    fn generate(&mut self, len: u32, rest: u32, mean_len: u32) {
        let ending = Ending { step: self.step + rest, len: len + rest, mean_len };
        self.decoding.push(Reverse(ending));
        self.context += u64::from(len);
    }

    /// Whether there are a slot and blocks for one more, and for all to grow as admission reckons. Alone, each fits.
    fn has_room(&self, waiting: &Waiting) -> bool {
        let running = self.decoding.len() + self.prompts.len();
        if running == 0 {
            return true;
        }
        let Forecast { settings, outputs, groups, .. } = self.known;
        let growth_part = f64::from(settings.kv_growth_percent) / 100.0;
        let growth = growth_part * f64::from(outputs.expected_rest(0, waiting.left));
        let has_blocks = |(known, held): (&Group, &u64)| {
            let Group { group, held_part } = known;
            let held = held + u64::from(group.blocks_of_one(waiting.len));
            let growth = if group.keeps_everything() {
                (running + 1) as f64 * growth / f64::from(group.block_tokens)
            } else {
                0.0
            };
            let used = held as f64 * held_part + growth;
            let kept_part = f64::from(settings.kv_reserve_percent) / 100.0;
            used <= f64::from(group.blocks) * (1.0 - kept_part)
        };
        running < settings.running_max as usize && groups.iter().zip(&self.held).all(has_blocks)
    }

    /// Those end that have all their tokens.
    fn end(&mut self) {
        while let Some(Reverse(ending)) = self.decoding.peek().copied()
            && ending.step < self.step
        {
            self.decoding.pop();
            self.context = self.context.saturating_sub(u64::from(ending.len));
            self.let_go(ending.mean_len);
        }
    }

    fn step(&mut self) {
        self.step += 1;
        self.end();
        self.let_come();
        let Some(mut pace) = self.pace.begin_forecast() else { return };
        let decoding = self.decoding.len() as u32;
        pace.add_tokens(decoding, self.context);
        self.context += u64::from(decoding);
        let mut left = self.known.settings.step_tokens_max.saturating_sub(decoding);
        let mut is_open = true;
        let mut at = 0;
        while left > 0 {
            let under_way = self.prompts.get(at).map(|begun| begun.prompt.rank);
            let first = self.first().filter(|_| is_open);
            if let Some(first) = first.filter(|first| under_way.is_none_or(|it| first.rank < it)) {
                let prompt = first.prompt(self.known.recent.cached_of(first.len));
                is_open = self.has_room(first) && self.chunk(&pace, &prompt, left) > 0;
                if !is_open {
                    continue;
                }
                self.start();
                let begun = self.begin(prompt);
                self.prompts.insert(at, begun);
            }
            let Some(Begun { prompt, .. }) = self.prompts.get(at) else { break };
            let count = self.chunk(&pace, prompt, left);
            if count == 0 {
                break;
            }
            left -= count;
            let Begun { prompt, .. } = &mut self.prompts[at];
            let positions = prompt.computed..prompt.computed + count;
            prompt.computed = positions.end;
            pace.add_prompt(&positions, positions.end == prompt.len);
            if positions.end < prompt.len {
                at += 1;
                continue;
            }
            let Begun { prompt, answer } = self.prompts.remove(at);
            // The first token is drawn in this step.
            self.generate(prompt.len + 1, answer - 1, prompt.len + answer / 2);
        }
        self.pace.end(&pace);
        self.elapsed_s += pace.planned_s();
    }

    /// Whose turn it is.
    fn first(&self) -> Option<&Waiting> {
        let newcomer = self.newcomers.first_key_value().map(|(_, newcomer)| newcomer);
        let waiting = self.waiting.front().copied();
        newcomer.into_iter().chain(waiting).min_by_key(|first| first.rank)
    }

    /// Whoever's turn it is starts.
    fn start(&mut self) {
        let newcomer = self.newcomers.first_key_value().map(|(rank, _)| *rank);
        let is_newcomer = newcomer
            .is_some_and(|rank| self.waiting.front().is_none_or(|waiting| rank < waiting.rank));
        let newcomer = if is_newcomer { self.newcomers.pop_first() } else { None };
        let newcomer = newcomer.map(|(_, newcomer)| newcomer);
        let waiting = if is_newcomer { None } else { self.waiting.pop_front() };
        let Some(first) = newcomer.as_ref().or(waiting) else { return };
        let Waiting { rank, ref tenant, cost, .. } = *first;
        self.policy.started(rank.place, tenant, cost);
        self.started += 1;
        if self.highest.last().is_none_or(|(highest, _)| *highest < rank) {
            self.highest.push((rank, self.elapsed_s));
        }
    }

    /// How many positions of a prompt the step still takes.
    fn chunk(&self, pace: &StepPace, prompt: &Prompt, left: u32) -> u32 {
        let rest = prompt.len - prompt.computed;
        let count = rest.min(self.known.settings.prefill_chunk_max).min(left);
        pace.room(prompt.computed, count, rest)
    }
}
