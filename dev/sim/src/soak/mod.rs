//! Whether anything ever breaks: random requests, settings and accidents, against a model that checks every plan.
//!
//! What happens is a [`Script`], made from a seed. One that fails is made smaller, and its text can be kept as a test.

mod script;
mod shrink;

use std::{
    any::Any,
    cell::Cell,
    collections::{BTreeMap, BTreeSet, VecDeque},
    panic::{catch_unwind, set_hook, take_hook},
    sync::{Arc, Once},
    time::Duration,
};

use scheduler::{
    Scheduler,
    testing::{FakeModel, expected_output},
};
use types::{
    BlockId, CopyDirection, Fault, FinishReason, HostSlot, Request, RequestEvent, RequestId,
    SlotId, StateCopy, StepPlan, TokenId,
};

pub use script::{Action, Arrival, Script, Setup};
pub use shrink::shrink;

const VOCAB_SIZE: u32 = 50;
/// A step in which nothing is planned although somebody waits is odd; so many in a row are a standstill.
const EMPTY_STEPS_MAX: u32 = 100;

#[derive(Default)]
struct Stream {
    tokens: Vec<TokenId>,
    finished: Option<FinishReason>,
    failed: bool,
}

struct Soak {
    scheduler: Scheduler,
    model: FakeModel,
    under_way: VecDeque<StepPlan>,
    requests: BTreeMap<RequestId, Request>,
    streams: BTreeMap<RequestId, Stream>,
    aborted: BTreeSet<RequestId>,
    /// On whose behalf the blocks were written, by group.
    salts: BTreeMap<(u32, BlockId), Arc<str>>,
    /// The same of what is in the host's memory.
    host_salts: BTreeMap<(u32, HostSlot), Arc<str>>,
    /// Slots whose requests have had an item.
    begun: BTreeSet<SlotId>,
    now: Duration,
    /// How long it takes to copy a block. With some scripts as long as to compute it.
    copy_us: u64,
    steps: u64,
    empty_steps: u32,
    defect: Option<Defect>,
    chances: u64,
}

/// A defect planted between the scheduler and the model, to see that it is found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Defect {
    /// A block of a table is another one.
    WrongBlock,
    /// A slot that is to be released is not.
    LostRelease,
    /// A position is computed again instead of the next one.
    RepeatedPosition,
    /// A request does not hear of a token.
    LostToken,
    /// A request hears of a token twice.
    TokenTwice,
}

impl Defect {
    /// All of them.
    pub const ALL: [Self; 5] = [
        Self::WrongBlock,
        Self::LostRelease,
        Self::RepeatedPosition,
        Self::LostToken,
        Self::TokenTwice,
    ];
}

/// Runs a script. How many steps there were.
///
/// # Panics
/// When anything is not as it must be.
pub fn run(script: &Script, defect: Option<Defect>) -> u64 {
    let mut soak = Soak::new(script, defect);
    for action in &script.actions {
        soak.act(action);
    }
    soak.finish();
    soak.steps
}

/// Runs a script, quietly; what broke, if something did.
pub fn failure(script: &Script, defect: Option<Defect>) -> Option<String> {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let loud = take_hook();
        set_hook(Box::new(move |panic| {
            if !QUIET.get() {
                loud(panic);
            }
        }));
    });
    QUIET.set(true);
    let result = catch_unwind(|| run(script, defect));
    QUIET.set(false);
    result.err().map(|panic| message_of(panic.as_ref()))
}

thread_local! {
    /// Whether panics of this thread are expected and need not be printed.
    static QUIET: Cell<bool> = const { Cell::new(false) };
}

fn message_of(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_default()
}

impl Soak {
    fn new(script: &Script, defect: Option<Defect>) -> Self {
        let info = script.setup.info();
        let scheduler = Scheduler::new(&info, script.setup.settings());
        Self {
            scheduler: scheduler.expect("the settings allow something"),
            model: FakeModel::new(info),
            under_way: VecDeque::new(),
            requests: BTreeMap::new(),
            streams: BTreeMap::new(),
            aborted: BTreeSet::new(),
            salts: BTreeMap::new(),
            host_salts: BTreeMap::new(),
            begun: BTreeSet::new(),
            now: Duration::ZERO,
            copy_us: u64::from(script.setup.host) * 20,
            steps: 0,
            empty_steps: 0,
            defect,
            chances: 0,
        }
    }

    fn act(&mut self, action: &Action) {
        match action {
            Action::Submit(arrival) => self.submit(arrival.request()),
            Action::Abort(id) => self.abort(RequestId(*id)),
            Action::Lose => self.lose_executor(),
            Action::Step(noise_us) => self.step(*noise_us),
        }
    }

    fn submit(&mut self, request: Request) {
        let (room, now) = (self.scheduler.limits(), self.now);
        let tokens_max = room.check(&request.prompt, &request.sampling, request.tokens_max);
        if self.scheduler.submit(request.clone(), now).is_ok() {
            let tokens_max = tokens_max.expect("what can never fit is refused");
            self.streams.insert(request.id, Stream::default());
            self.requests.insert(request.id, Request { tokens_max, ..request });
        }
        self.scheduler.invariants();
    }

    fn abort(&mut self, id: RequestId) {
        let is_there = self.streams.get(&id).is_some_and(|stream| !stream.has_ended())
            && !self.aborted.contains(&id);
        assert_eq!(self.scheduler.abort(id, self.now), is_there, "{id} is given up");
        if is_there {
            self.aborted.insert(id);
        }
        self.scheduler.invariants();
    }

    fn lose_executor(&mut self) {
        self.under_way.clear();
        self.salts.clear();
        self.host_salts.clear();
        self.begun.clear();
        let fault = Fault::internal("lost twice");
        let events = self.scheduler.requeue_all(&fault, self.now);
        self.scheduler.invariants();
        self.take(events);
        self.model = FakeModel::new(self.model.info().clone());
    }

    fn step(&mut self, noise_us: u32) {
        while let Some(mut plan) = self.scheduler.plan(self.now) {
            self.scheduler.invariants();
            let budget = self.scheduler.settings().step_tokens_max as usize;
            assert!(plan.token_count() <= budget, "{plan}: more than the budget");
            self.check_salts(&plan);
            self.spoil(&mut plan);
            self.under_way.push_back(plan);
        }
        if let Some(plan) = self.under_way.pop_front() {
            self.empty_steps = 0;
            let (positions, copies) = (plan.token_count() as u64, plan.copies.len() as u64);
            let took_us = 2000 + 300 * positions + self.copy_us * copies + u64::from(noise_us);
            self.now += Duration::from_micros(took_us);
            // Somebody new comes, as far as the executor knows.
            if noise_us.is_multiple_of(3) {
                self.model.leave_out();
            }
            let outcome = self.model.run(&plan);
            let events = self.scheduler.commit(outcome, self.now).expect("the plan was answered");
            self.scheduler.invariants();
            self.take(events);
        } else {
            self.empty_steps += u32::from(!self.scheduler.is_idle());
            assert!(self.empty_steps < EMPTY_STEPS_MAX, "somebody waits for ever");
            self.now += Duration::from_millis(1);
        }
        self.steps += 1;
    }

    /// What a request finds in the cache was computed for its own salt.
    fn check_salts(&mut self, plan: &StepPlan) {
        for slot in &plan.release {
            self.begun.remove(slot);
        }
        for copy in &plan.copies {
            let (block, slot) = ((copy.group, copy.block), (copy.group, copy.slot));
            match copy.direction {
                CopyDirection::ToHost => {
                    let salt = self.salts.get(&block).expect("what is kept was written");
                    self.host_salts.insert(slot, salt.clone());
                }
                CopyDirection::ToDevice => {
                    let salt = self.host_salts.get(&slot);
                    let salt = salt.expect("what is brought back was kept");
                    self.salts.insert(block, salt.clone());
                }
            }
        }
        for StateCopy { group, from, to } in &plan.state_copies {
            let salt = self.salts.get(&(*group, *from)).expect("a checkpoint was written");
            self.salts.insert((*group, *to), salt.clone());
        }
        for item in &plan.items {
            let id = self.scheduler.request_in(item.slot).expect("an item has a request");
            let salt = &self.requests[&id].service.cache_salt;
            let is_first = self.begun.insert(item.slot);
            for (group, table) in item.block_tables.iter().enumerate() {
                let limits = &self.model.info().cache_groups[group];
                let group = group as u32;
                let found = if limits.is_state() {
                    item.positions.start.min(1) as usize
                } else {
                    (item.positions.start / limits.block_tokens) as usize
                };
                let held = |block: &&BlockId| is_first && **block != BlockId::GONE;
                for block in table[..found].iter().filter(held) {
                    let writer = self.salts.get(&(group, *block));
                    assert_eq!(writer, Some(salt), "{plan}: {id} has the block of another salt");
                }
                let written = if limits.is_state() { 0 } else { found };
                for block in &table[written..] {
                    self.salts.insert((group, *block), salt.clone());
                }
            }
        }
    }

    /// Does to a plan what the defect planted does.
    fn spoil(&mut self, plan: &mut StepPlan) {
        self.chances += 1;
        let strikes = self.chances.is_multiple_of(10);
        let Some(defect) = self.defect.filter(|_| strikes) else { return };
        match (defect, plan.items.first_mut()) {
            (Defect::LostRelease, _) => drop(plan.release.pop()),
            (Defect::WrongBlock, Some(item)) => {
                let block = &mut item.block_tables[0][0];
                block.0 = block.0.wrapping_add(1) % self.model.info().cache_groups[0].blocks;
            }
            (Defect::RepeatedPosition, Some(item)) if item.positions.start > 0 => {
                item.positions.start -= 1;
            }
            _ => {}
        }
    }

    fn take(&mut self, mut events: Vec<(RequestId, RequestEvent)>) {
        let token =
            events.iter().position(|(_, event)| matches!(event, RequestEvent::Token { .. }));
        match (self.defect, token.filter(|_| self.steps.is_multiple_of(10))) {
            (Some(Defect::LostToken), Some(place)) => drop(events.remove(place)),
            (Some(Defect::TokenTwice), Some(place)) => {
                let again = events[place].clone();
                events.insert(place, again);
            }
            _ => {}
        }
        for (id, event) in events {
            let stream = self.streams.get_mut(&id).expect("events are for requests that came");
            assert!(
                !stream.has_ended() && !self.aborted.contains(&id),
                "{id} goes on after its end: {event:?}"
            );
            match event {
                RequestEvent::Token { token, .. } => stream.tokens.push(token),
                RequestEvent::Finished { reason, .. } => stream.finished = Some(reason),
                RequestEvent::Failed(_) => stream.failed = true,
                RequestEvent::Prefilled { .. } | RequestEvent::PromptLogprobs(_) => {}
            }
        }
    }

    /// Everything comes to its end, exactly once, with its own tokens, and nothing is left.
    fn finish(&mut self) {
        let last = self.steps;
        // Nobody comes any more. One position a step, each request computed again for each other: more is never needed.
        let steps_max = 1000 * (self.scheduler.waiting() + self.scheduler.running() + 1) as u64;
        while !self.scheduler.is_idle() || !self.under_way.is_empty() {
            self.step(0);
            assert!(self.steps < last + steps_max, "somebody waits for ever");
        }
        assert_eq!(self.scheduler.kv_blocks().0, 0, "blocks are lost");
        assert_eq!(self.model.slots_used(), 0, "slots are lost");
        for (id, request) in &self.requests {
            let Request { prompt, sampling, tokens_max, .. } = request;
            let stream = &self.streams[id];
            let (expected, reason) = expected_output(prompt, sampling, *tokens_max, VOCAB_SIZE);
            assert!(expected.starts_with(&stream.tokens), "{id} has other tokens");
            if !self.aborted.contains(id) && !stream.failed {
                assert_eq!(stream.finished, Some(reason), "{id}");
                assert_eq!(stream.tokens, expected, "{id}");
            }
        }
    }
}

impl Stream {
    fn has_ended(&self) -> bool {
        self.finished.is_some() || self.failed
    }
}
