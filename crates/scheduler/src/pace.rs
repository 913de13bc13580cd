//! How long steps take, as measured, and how much a step may hold to end in time.
//!
//! A step is taken to last a while, plus a time for each position, plus a time for each earlier position that an item
//! reads, however many positions it has, plus a time for each that one of its positions looks back at, plus a time for
//! each block that is copied to the host's memory or from there. All are fitted to the steps that were, the recent ones
//! counting most, so that the model follows the device, its load and its temperature. It takes some dozens of steps to
//! follow; how much longer than expected the very last ones with prompts took is known at once, and the next ones hold
//! less.

use std::{ops::Range, time::Duration};

use serde::{Deserialize, Serialize};

/// What the weight of a step is multiplied with when the next one ends: about the last two hundred count.
const WEIGHT_KEPT: f64 = 0.995;
/// What one step with prompts weighs in how much longer they take than the fit says, and how much that is at most.
const RATIO_WEIGHT: f64 = 0.2;
const RATIO_MAX: f64 = 2.0;
/// Steps without prompts are taken to be shorter than those with by this factor at most.
const SHORTER_MAX: f64 = 10.0;
/// Steps before the fit is believed.
const STEPS_MIN: u32 = 8;
/// Prompts get at least this many positions of a step, so that they advance whatever the target.
const PROMPT_POSITIONS_MIN: u32 = 16;
/// A step in which nobody waits for a next token may take this many times the target: new requests wait for it.
const QUIET_STEP_TARGETS: f64 = 4.0;
/// A step need not be longer than this many times what it takes for itself, however often requests come: the device
/// would do little more in the same time.
const OWN_TIMES: f64 = 9.0;
/// The same where a prompt that goes on would be behind one that ends: a first token waits for the step. Where that
/// leaves no more than a few positions, it is left none.
const OWN_TIMES_BEHIND: f64 = 5.0;
/// What a gap between requests weighs against the mean of those before.
const GAP_WEIGHT: f64 = 0.2;
/// The longest gap that counts, and what is assumed before requests have come: for rarer ones steps need not be short.
const GAP_S_MAX: f64 = 4.0;

/// Blocks copied for prompts in one step before it is known what a copy takes.
const COPIES_UNMEASURED_MAX: u32 = 256;

/// Parts that a step's duration is made of.
const PARTS: usize = 5;

/// What a part is taken to cost is as near to nothing as the steps allow, as if so many for each real one had held one
/// of it and taken no time. It decides where nearly nothing in the steps does: where all are alike, their time is not
/// their own but that of their positions, for the next ones may hold fewer; where all look back a little, it is not
/// for looking back, for the next one may look back far.
const PENALTIES: Load = [1e-4, 0.0, 1e-3, 1e-3, 0.0];
/// Before it is measured how long steps take, every other one holds no more positions of prompts than these, so that
/// there is a difference to be seen.
const PROBE_POSITIONS_MAX: u32 = 64;
const PROBED_STEPS: u32 = 16;

/// What a step holds, as far as its duration depends on it: 1, positions, thousands of positions read by items,
/// thousands of positions looked back at by positions, blocks copied.
type Load = [f64; PARTS];

/// A model of the durations of steps.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Pace {
    target_s: Option<f64>,
    /// Seconds between requests that come, and when the last one came.
    gap_s: f64,
    arrived: Duration,
    /// Steps without prompts, and those with. Each are forgotten as others of their kind come: what a step takes for
    /// itself is seen in small ones, and there may be none for as long as a long prompt is computed.
    kinds: [Sums; 2],
    steps: u32,
    /// Seconds for each part of a load.
    fit: Load,
    /// How many times as long as the fit said the last steps with prompts took.
    ratio: f64,
    /// In the last step, prompts that go on gave way to those that ended.
    gave_way: bool,
}

/// Sums over steps of products of their loads, and of loads with durations.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
struct Sums {
    squares: [Load; PARTS],
    products: Load,
}

impl Pace {
    pub(crate) fn new(target: Option<Duration>) -> Self {
        Self {
            target_s: target.map(|target| target.as_secs_f64()),
            gap_s: GAP_S_MAX,
            arrived: Duration::ZERO,
            kinds: [Sums::default(); 2],
            steps: 0,
            fit: [0.0; PARTS],
            ratio: 1.0,
            gave_way: false,
        }
    }

    /// A request came.
    pub(crate) fn arrive(&mut self, now: Duration) {
        let gap_s = now.saturating_sub(self.arrived).as_secs_f64().min(GAP_S_MAX);
        self.gap_s += GAP_WEIGHT * (gap_s - self.gap_s);
        self.arrived = now;
    }

    /// A step of these positions, with prompts among them or not, in which so many blocks were copied, took so long.
    pub(crate) fn observe<'a>(
        &mut self,
        items: impl Iterator<Item = &'a Range<u32>>,
        has_prompts: bool,
        copies: u32,
        took: Duration,
    ) {
        let whole = [1.0, 0.0, 0.0, 0.0, f64::from(copies)];
        let load = items.fold(whole, |load, positions| sum(load, load_of(positions)));
        if load[1] == 0.0 && copies == 0 {
            return;
        }
        let said_s: f64 = self.fit.iter().zip(load).map(|(part_s, load)| part_s * load).sum();
        if has_prompts && self.steps >= STEPS_MIN && said_s > 0.0 {
            let ratio = (took.as_secs_f64() / said_s).clamp(RATIO_MAX.recip(), RATIO_MAX);
            self.ratio += RATIO_WEIGHT * (ratio - self.ratio);
        }
        self.kinds[usize::from(has_prompts)].add(load, took.as_secs_f64());
        self.steps += 1;
        let [tokens, prompts] = self.kinds;
        // Errors count as parts of a step's duration: what takes a tenth is to be met as well as what takes all.
        let shorter = (prompts.mean_s() / tokens.mean_s()).clamp(1.0, SHORTER_MAX);
        self.fit = fit(&tokens.times(shorter * shorter).with(&prompts));
    }

    /// A step to be filled.
    pub(crate) fn begin(&self) -> StepPace {
        // What is not aimed at any time takes all.
        let ratio = if self.target_s.is_some() { self.ratio } else { 0.0 };
        self.begin_with(self.fit.map(|part_s| ratio * part_s))
    }

    /// A step to be filled as others were, to see how long it takes; nothing, before it can be said.
    pub(crate) fn begin_forecast(&self) -> Option<StepPace> {
        let is_known = self.steps >= STEPS_MIN && self.fit.iter().any(|part_s| *part_s > 0.0);
        is_known.then(|| self.begin_with(self.fit))
    }

    fn begin_with(&self, fit: Load) -> StepPace {
        let own_s = fit[0];
        let is_probe = self.target_s.is_some() && self.steps < PROBED_STEPS && self.steps % 2 == 1;
        // Who comes waits for half of the step under way, and for the other prompts in its own: about a step. What
        // steps take for themselves keeps prompts waiting. Together that is least at this length.
        let least_waits_s = (own_s * self.gap_s).sqrt();
        StepPace {
            fit,
            target_s: self.target_s.filter(|_| self.steps >= STEPS_MIN),
            // Nothing found is rather nothing known: longer steps will tell.
            enough_s: if own_s > 0.0 {
                least_waits_s.max(OWN_TIMES * own_s)
            } else {
                f64::INFINITY
            },
            planned_s: own_s,
            copies: 0,
            tokens: false,
            prompts: false,
            // Never twice in a row, so that a long prompt gets its part however many short ones come.
            gives_way: !self.gave_way,
            first_tokens: false,
            probe_left: is_probe.then_some(PROBE_POSITIONS_MAX),
        }
    }

    /// A step was filled.
    pub(crate) fn end(&mut self, step: &StepPace) {
        self.gave_way = step.gives_way && step.first_tokens;
    }
}

/// How full a step is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct StepPace {
    fit: Load,
    target_s: Option<f64>,
    /// How long it has to be, at most, so that the device is used well and who comes does not wait for long.
    enough_s: f64,
    /// How long it takes as it is.
    planned_s: f64,
    /// Blocks copied in it.
    copies: u32,
    /// Somebody's next token is drawn in it.
    tokens: bool,
    /// A part of a prompt is in it.
    prompts: bool,
    /// Prompts that go on after it may give way to those that end in it.
    gives_way: bool,
    /// A prompt ends in it.
    first_tokens: bool,
    /// How many more positions of prompts it may hold, if it is to be small.
    probe_left: Option<u32>,
}

impl StepPace {
    /// The position for a next token, which is in the step whatever it costs, and those of guesses after it.
    pub(crate) fn add_token(&mut self, positions: Range<u32>) {
        self.tokens = true;
        self.planned_s += self.cost_s(&positions);
    }

    /// So many such positions at once, which look back at so many positions together.
    pub(crate) fn add_tokens(&mut self, count: u32, looked_back: u64) {
        let [_, each_s, read_s, looked_back_s, _] = self.fit;
        self.tokens |= count > 0;
        let looking_back_s = (read_s + looked_back_s) * looked_back as f64 / 1e3;
        self.planned_s += each_s * f64::from(count) + looking_back_s;
    }

    /// How long it takes as it is, in seconds.
    pub(crate) fn planned_s(&self) -> f64 {
        self.planned_s
    }

    /// Whether to add a position that saves its request a step like this with some probability, and that all of so
    /// many requests wait for. Before steps have been measured, yes.
    pub(crate) fn is_worth(&self, probability: f64, requests: usize) -> bool {
        let [_, each_s, ..] = self.fit;
        probability * self.planned_s >= each_s * requests as f64
    }

    /// Whether a part of a prompt is in it.
    pub(crate) fn has_prompts(&self) -> bool {
        self.prompts
    }

    /// Whether to copy so many blocks back from the host's memory rather than to compute the positions in them again.
    /// Before it is measured what that takes, yes; and so without a target, as nothing is measured then.
    pub(crate) fn is_sooner(&self, blocks: u32, positions: &Range<u32>) -> bool {
        self.copy_s() * f64::from(blocks) <= self.cost_s(positions)
    }

    /// So many blocks are copied in the step, in all.
    pub(crate) fn set_copies(&mut self, copies: u32) {
        self.planned_s += self.copy_s() * f64::from(copies - self.copies);
        self.copies = copies;
    }

    /// How many more blocks the step can copy for a prompt in time: at least one, so that it advances.
    pub(crate) fn copy_room(&self) -> u32 {
        let mut step = *self;
        step.begin_prompts();
        let blocks = step.target_s.map(|target_s| (target_s - step.planned_s) / self.copy_s());
        let blocks = blocks.map_or(u32::MAX, |blocks| (blocks as u32).max(1));
        if self.copy_s() > 0.0 {
            blocks
        } else {
            COPIES_UNMEASURED_MAX.saturating_sub(self.copies).max(1)
        }
    }

    /// Positions of a prompt, which are all that is left of it or not.
    pub(crate) fn add_prompt(&mut self, positions: &Range<u32>, is_rest: bool) {
        self.begin_prompts();
        self.planned_s += self.cost_s(positions);
        self.first_tokens |= is_rest;
        self.probe_left = self.probe_left.map(|left| left.saturating_sub(positions.len() as u32));
    }

    fn begin_prompts(&mut self) {
        if !self.prompts {
            self.prompts = true;
            // Next tokens alone may take half of the target or more; prompts then get as much time again.
            let least_s = 2.0 * (self.planned_s - self.copy_s() * f64::from(self.copies));
            let stretch = if self.tokens { 1.0 } else { QUIET_STEP_TARGETS };
            self.target_s =
                self.target_s.map(|target_s| (stretch * target_s).min(self.enough_s).max(least_s));
        }
    }

    /// How many positions from `start` on the step can still take in time, at most `count`, of `rest` that are left of
    /// the prompt.
    pub(crate) fn room(&self, start: u32, count: u32, rest: u32) -> u32 {
        let mut step = *self;
        step.begin_prompts();
        let count = self.probe_left.map_or(count, |left| left.min(count));
        let Some(target_s) = step.target_s else { return count };
        let least = if self.prompts { 0 } else { PROMPT_POSITIONS_MIN.min(count) };
        let room = step.room_within(target_s, start, count).max(least);
        if room < rest && self.gives_way && self.first_tokens {
            let room = step.room_within(target_s.min(OWN_TIMES_BEHIND * self.fit[0]), start, room);
            // All that is before them is looked up for a few positions as for many.
            if room < PROMPT_POSITIONS_MIN.min(count) { 0 } else { room }
        } else {
            room
        }
    }

    fn room_within(&self, target_s: f64, start: u32, count: u32) -> u32 {
        let fits = |count: u32| self.planned_s + self.cost_s(&(start..start + count)) <= target_s;
        let (mut low, mut high) = (0, count);
        while low < high {
            let middle = low + (high - low).div_ceil(2);
            if fits(middle) {
                low = middle;
            } else {
                high = middle - 1;
            }
        }
        low
    }

    fn cost_s(&self, positions: &Range<u32>) -> f64 {
        self.fit.iter().zip(load_of(positions)).map(|(part_s, load)| part_s * load).sum()
    }

    fn copy_s(&self) -> f64 {
        self.fit[PARTS - 1]
    }
}

/// The load of one item, without the step's own part.
fn load_of(positions: &Range<u32>) -> Load {
    let (start, end) = (f64::from(positions.start), f64::from(positions.end));
    [0.0, end - start, end / 1e3, (end * end - start * start) / 2e3, 0.0]
}

fn sum(one: Load, other: Load) -> Load {
    std::array::from_fn(|part| one[part] + other[part])
}

impl Sums {
    fn add(&mut self, load: Load, took_s: f64) {
        for (row, part) in self.squares.iter_mut().zip(load) {
            for (square, other) in row.iter_mut().zip(load) {
                *square = *square * WEIGHT_KEPT + part * other;
            }
        }
        for (product, part) in self.products.iter_mut().zip(load) {
            *product = *product * WEIGHT_KEPT + part * took_s;
        }
    }

    /// How long a step took, on average; before there was one, as long as any.
    fn mean_s(&self) -> f64 {
        if self.products[0] > 0.0 { self.products[0] / self.squares[0][0] } else { 1.0 }
    }

    /// The same, each step as often.
    fn times(&self, weight: f64) -> Self {
        let times = |load: Load| load.map(|part| weight * part);
        Self { squares: self.squares.map(times), products: times(self.products) }
    }

    fn with(&self, other: &Self) -> Self {
        let row = |index: usize| sum(self.squares[index], other.squares[index]);
        Self { squares: std::array::from_fn(row), products: sum(self.products, other.products) }
    }
}

/// The least squares fit in which no part takes less than no time.
fn fit(sums: &Sums) -> Load {
    let Sums { squares, products } = sums;
    let mut best = [0.0; PARTS];
    let mut best_error = f64::INFINITY;
    // Every part may be left out: with four there are few ways, and each is a small system. One that never was is.
    let seen = (0..PARTS).filter(|part| squares[*part][*part] > 0.0);
    let seen = seen.fold(0, |parts, part| parts | 1 << part);
    for parts in (1..1 << PARTS).filter(|parts| parts & !seen == 0) {
        let fit = solve(squares, products, |part| parts & (1 << part) != 0);
        if fit.iter().any(|seconds| !seconds.is_finite() || *seconds < 0.0) {
            continue;
        }
        // The sum of squared errors, less what all fits have in common.
        let penalties =
            fit.iter().zip(PENALTIES).map(|(part_s, penalty)| penalty * part_s * part_s);
        let mut error = squares[0][0] * penalties.sum::<f64>();
        for (row, (product, seconds)) in squares.iter().zip(products.iter().zip(fit)) {
            let predicted: f64 = row.iter().zip(fit).map(|(square, part)| square * part).sum();
            error += seconds * (predicted - 2.0 * product);
        }
        if error < best_error {
            (best, best_error) = (fit, error);
        }
    }
    best
}

/// Solves the normal equations of some parts; the others take no time.
fn solve(squares: &[Load; PARTS], products: &Load, has: impl Fn(usize) -> bool) -> Load {
    let mut rows = [[0.0; PARTS + 1]; PARTS];
    for (index, row) in rows.iter_mut().enumerate() {
        if !has(index) {
            row[index] = 1.0;
            continue;
        }
        for other in (0..PARTS).filter(|other| has(*other)) {
            row[other] = squares[index][other];
        }
        // A little more than nothing, so that parts that always come together can be told apart somehow.
        row[index] *= 1.0 + 1e-9;
        row[index] += PENALTIES[index] * squares[0][0];
        row[PARTS] = products[index];
    }
    for pivot in 0..PARTS {
        for below in pivot + 1..PARTS {
            let factor = rows[below][pivot] / rows[pivot][pivot];
            let above = rows[pivot];
            for (value, above) in rows[below].iter_mut().zip(above) {
                *value -= factor * above;
            }
        }
    }
    let mut fit = [0.0; PARTS];
    for index in (0..PARTS).rev() {
        let known: f64 = (index + 1..PARTS).map(|other| rows[index][other] * fit[other]).sum();
        fit[index] = (rows[index][PARTS] - known) / rows[index][index];
    }
    fit
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A device with a fixed time a step, a time a position and two for looking back.
    fn took(items: &[Range<u32>]) -> Duration {
        let load = items.iter().fold([0.0; PARTS], |load, item| sum(load, load_of(item)));
        let looking_back_s = 0.002 * load[2] + 0.0005 * load[3];
        Duration::from_secs_f64(0.02 + 0.001 * load[1] + looking_back_s)
    }

    /// Steps like those below of a device that takes so long to copy a block.
    fn measured_with_copies(copy_us: u64) -> Pace {
        let mut pace = Pace::new(Some(Duration::from_millis(100)));
        for step in 0..50_u32 {
            let one = step * 61 % 700;
            let items = [step * 37 % 900..step * 37 % 900 + step % 60 + 1, one..one + 1];
            let copies = step * 7 % 11;
            let copying = Duration::from_micros(copy_us) * copies;
            pace.observe(items.iter(), true, copies, took(&items) + copying);
        }
        pace
    }

    fn measured(target_ms: u64) -> Pace {
        let mut pace = Pace::new(Some(Duration::from_millis(target_ms)));
        for step in 0..50_u32 {
            let prompt = step * 37 % 900..step * 37 % 900 + step % 60 + 1;
            let (one, other) = (step * 61 % 700, step * 29 % 300);
            let items = [prompt, one..one + 1, other..other + 1];
            pace.observe(items.iter(), true, 0, took(&items));
        }
        pace
    }

    #[test]
    fn the_model_finds_what_the_device_does() {
        let fit = measured(100).fit;
        for (found, real) in fit.iter().zip([0.02, 0.001, 0.002, 0.0005]) {
            assert!((found / real - 1.0).abs() < 0.01, "{fit:?}");
        }
        assert_eq!(fit[4], 0.0, "nothing was copied");
        let fit = measured_with_copies(400).fit;
        for (found, real) in fit.iter().zip([0.02, 0.001, 0.002, 0.0005, 0.0004]) {
            assert!((found / real - 1.0).abs() < 0.01, "{fit:?}");
        }
    }

    #[test]
    fn what_is_sooner_is_done_and_no_more_than_there_is_time_for() {
        // Computing the 16 positions of a block takes 16 ms, and what is far behind takes longer.
        let cheap = measured_with_copies(1000).begin();
        assert!(cheap.is_sooner(10, &(0..160)));
        let dear = measured_with_copies(20_000).begin();
        assert!(!dear.is_sooner(10, &(0..160)));
        assert!(dear.is_sooner(10, &(2000..2160)), "10 blocks take 200 ms, and the positions 326");
        assert!(measured(100).begin().is_sooner(10, &(0..160)), "not measured yet");
        assert_eq!(measured(100).begin().copy_room(), COPIES_UNMEASURED_MAX);
        let mut step = cheap;
        step.add_token(0..1);
        let room = step.copy_room();
        assert!((75..=79).contains(&room), "100 ms less 21: {room}");
        step.set_copies(room - 10);
        assert!((9..=11).contains(&step.copy_room()));
        step.set_copies(2 * room);
        assert_eq!(step.copy_room(), 1, "there is always one");
    }

    #[test]
    fn a_step_is_filled_up_to_the_target() {
        let pace = measured(100);
        let mut step = pace.begin();
        let tokens: Vec<Range<u32>> = (0..10).map(|index| index * 50..index * 50 + 1).collect();
        tokens.iter().for_each(|position| step.add_token(position.clone()));
        let room = step.room(1000, 500, 500);
        let mut items = tokens;
        items.push(1000..1000 + room);
        let duration_ms = took(&items).as_millis();
        assert!((95..=101).contains(&duration_ms), "{room} positions take {duration_ms} ms");
        step.add_prompt(&(1000..1000 + room), false);
        assert!(step.room(0, 500, 500) <= 2, "it is full");
        assert_eq!(pace.begin().room(0, 5, 5), 5, "no more than wanted");
    }

    #[test]
    fn prompts_advance_even_where_tokens_alone_take_longer() {
        let mut step = measured(10).begin();
        step.add_token(100..101);
        assert!(step.room(0, 500, 500) >= PROMPT_POSITIONS_MIN);
        // As long again as the tokens take, about 21 ms.
        assert!(step.room(0, 500, 500) <= 22);
    }

    /// How long a step takes, in milliseconds, that is filled with a prompt alone.
    fn filled_ms(pace: &Pace) -> u128 {
        let prompt = 0..pace.begin().room(0, 5000, 5000);
        took(std::slice::from_ref(&prompt)).as_millis()
    }

    #[test]
    fn steps_hold_less_at_once_when_they_take_longer_than_said() {
        let mut pace = measured(100);
        let room = |pace: &Pace| {
            let mut step = pace.begin();
            step.add_token(100..101);
            step.room(0, 500, 500)
        };
        let before = room(&pace);
        for _ in 0..8 {
            let chunk = 0..before;
            pace.observe(std::iter::once(&chunk), true, 0, took(std::slice::from_ref(&chunk)) * 2);
        }
        let after = room(&pace);
        // Of the 100 ms, 80 were for positions, and now a fifth of what is left after twice 20.
        assert!((before * 2 / 10..before * 5 / 10).contains(&after), "{before} and then {after}");
    }

    #[test]
    fn a_step_without_tokens_may_take_longer() {
        let duration_ms = filled_ms(&measured(50));
        assert!((190..=201).contains(&duration_ms), "{duration_ms}");
    }

    #[test]
    fn the_more_requests_come_the_shorter_a_step_but_never_mostly_its_own_part() {
        let mut pace = measured(1000);
        let rare_ms = filled_ms(&pace);
        // The root of 20 ms and 4 s.
        assert!((275..=284).contains(&rare_ms), "{rare_ms}");
        let arrivals = |pace: &mut Pace, gap_ms: u64| {
            let first_ms = pace.arrived.as_millis() as u64;
            (1..=50).for_each(|n| pace.arrive(Duration::from_millis(first_ms + n * gap_ms)));
        };
        arrivals(&mut pace, 2000);
        let often_ms = filled_ms(&pace);
        assert!((195..=201).contains(&often_ms), "{often_ms}");
        arrivals(&mut pace, 10);
        let all_the_time_ms = filled_ms(&pace);
        assert!((175..=181).contains(&all_the_time_ms), "{all_the_time_ms}");
    }

    #[test]
    fn a_step_that_seems_to_take_nothing_for_itself_is_filled_up_to_the_target() {
        let mut pace = Pace::new(Some(Duration::from_millis(50)));
        for step in 1..50_u32 {
            let chunk = 0..step;
            // Small ones are as good as free.
            let took = Duration::from_millis(step.saturating_sub(5).into());
            pace.observe(std::iter::once(&chunk), true, 0, took);
        }
        assert!(pace.fit[0] == 0.0, "{:?}", pace.fit);
        assert!(pace.begin().room(0, 500, 500) > 5 * PROMPT_POSITIONS_MIN);
    }

    #[test]
    fn a_prompt_that_goes_on_gives_way_to_one_that_ends_but_not_twice_in_a_row() {
        let mut pace = measured(1000);
        let behind_ms = |pace: &mut Pace| {
            let mut step = pace.begin();
            step.add_prompt(&(0..10), true);
            let room = step.room(1000, 500, 5000);
            assert_eq!(step.room(1000, 100, 100), 100, "one that ends as well");
            pace.end(&step);
            took(&[0..10, 1000..1000 + room]).as_millis()
        };
        let first_ms = behind_ms(&mut pace);
        assert!((95..=101).contains(&first_ms), "{first_ms}");
        let second_ms = behind_ms(&mut pace);
        assert!((275..=284).contains(&second_ms), "{second_ms}");
        let third_ms = behind_ms(&mut pace);
        assert_eq!(third_ms, first_ms);
    }

    #[test]
    fn behind_a_prompt_that_ends_there_is_room_for_more_than_a_few_positions_or_for_none() {
        let room = |ending: u32| {
            let mut step = measured(1000).begin();
            step.add_prompt(&(0..ending), true);
            step.room(1000, 500, 5000)
        };
        // Five times 20 ms in all, 1.5 ms for each position after a thousand others, and 2 ms for these.
        assert_eq!(room(52), PROMPT_POSITIONS_MIN);
        assert_eq!(room(55), 0, "there would be time for fourteen");
    }

    #[test]
    fn what_a_step_takes_for_itself_is_not_forgotten_while_a_long_prompt_is_computed() {
        let mut pace = measured(100);
        for step in 0..50_u32 {
            let token = 100 + step..101 + step;
            pace.observe(std::iter::once(&token), false, 0, took(std::slice::from_ref(&token)));
        }
        // Chunks all of one size say nothing of it, and if they take longer than they should, much that is wrong.
        for chunk in 0..5000_u32 {
            let chunk = chunk * 16..chunk * 16 + 16;
            let took = took(std::slice::from_ref(&chunk)).mul_f64(1.2);
            pace.observe(std::iter::once(&chunk), true, 0, took);
        }
        assert!((0.01..0.03).contains(&pace.fit[0]), "{:?}", pace.fit);
    }

    #[test]
    fn before_anything_is_measured_and_without_a_target_a_step_takes_all() {
        assert_eq!(Pace::new(Some(Duration::from_millis(1))).begin().room(0, 500, 500), 500);
        let mut pace = Pace::new(None);
        for _ in 0..50 {
            pace.observe(std::iter::once(&(0..100)), true, 0, Duration::from_secs(1));
        }
        assert_eq!(pace.begin().room(0, 500, 500), 500);
    }

    #[test]
    fn steps_that_are_all_alike_are_no_trouble() {
        let mut pace = Pace::new(Some(Duration::from_millis(100)));
        for _ in 0..50 {
            let items = [100..101, 100..101];
            pace.observe(items.iter(), false, 0, took(&items));
        }
        let mut step = pace.begin();
        step.add_token(100..101);
        assert!(step.room(0, 500, 500) >= PROMPT_POSITIONS_MIN);
    }
}
