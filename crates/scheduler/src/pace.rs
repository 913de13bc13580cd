//! How long steps take, as measured, and how much a step may hold to end in time.
//!
//! A step is taken to last a while, plus a time for each position, plus a time for each earlier position that a
//! position looks back at, plus a time for each block that is copied to the host's memory or from there. The four are
//! fitted to the steps that were, the recent ones counting most, so that the model follows the device, its load and its
//! temperature: if steps take longer than expected, the next ones hold less.

use std::{ops::Range, time::Duration};

/// What the weight of a step is multiplied with when the next one ends: about the last two hundred count.
const WEIGHT_KEPT: f64 = 0.995;
/// Steps before the fit is believed.
const STEPS_MIN: u32 = 8;
/// Prompts get at least this many positions of a step, so that they advance whatever the target.
const PROMPT_POSITIONS_MIN: u32 = 16;
/// A step in which nobody waits for a next token may take this many times the target: new requests wait for it.
const QUIET_STEP_TARGETS: f64 = 4.0;

/// Blocks brought back from the host's memory in one step before it is known what a copy takes.
const COPIES_UNMEASURED_MAX: u32 = 256;

/// Parts that a step's duration is made of.
const PARTS: usize = 4;

/// What a step holds, as far as its duration depends on it: 1, positions, thousands of positions looked back at, blocks
/// copied.
type Load = [f64; PARTS];

/// A model of the durations of steps.
#[derive(Debug, Default)]
pub(crate) struct Pace {
    target_s: Option<f64>,
    /// Sums over steps of products of their loads, and of loads with durations.
    squares: [Load; PARTS],
    products: Load,
    steps: u32,
    /// Seconds for each part of a load.
    fit: Load,
}

impl Pace {
    pub(crate) fn new(target: Option<Duration>) -> Self {
        Self { target_s: target.map(|target| target.as_secs_f64()), ..Self::default() }
    }

    /// A step of these positions, in which so many blocks were copied, took so long.
    pub(crate) fn observe<'a>(
        &mut self,
        items: impl Iterator<Item = &'a Range<u32>>,
        copies: u32,
        took: Duration,
    ) {
        let whole = [1.0, 0.0, 0.0, f64::from(copies)];
        let load = items.fold(whole, |load, positions| sum(load, load_of(positions)));
        if (load[1] == 0.0 && copies == 0) || self.target_s.is_none() {
            return;
        }
        for (row, part) in self.squares.iter_mut().zip(load) {
            for (square, other) in row.iter_mut().zip(load) {
                *square = *square * WEIGHT_KEPT + part * other;
            }
        }
        for (product, part) in self.products.iter_mut().zip(load) {
            *product = *product * WEIGHT_KEPT + part * took.as_secs_f64();
        }
        self.steps += 1;
        self.fit = fit(&self.squares, &self.products);
    }

    /// A step to be filled.
    pub(crate) fn begin(&self) -> StepPace {
        let target_s = self.target_s.filter(|_| self.steps >= STEPS_MIN);
        StepPace {
            fit: self.fit,
            target_s,
            planned_s: self.fit[0],
            copies: 0,
            tokens: false,
            prompts: false,
        }
    }
}

/// How full a step is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct StepPace {
    fit: Load,
    target_s: Option<f64>,
    /// How long it takes as it is.
    planned_s: f64,
    /// Blocks copied in it.
    copies: u32,
    /// Somebody's next token is drawn in it.
    tokens: bool,
    /// A part of a prompt is in it.
    prompts: bool,
}

impl StepPace {
    /// The position for a next token, which is in the step whatever it costs, and those of guesses after it.
    pub(crate) fn add_token(&mut self, positions: Range<u32>) {
        self.tokens = true;
        self.planned_s += self.cost_s(&positions);
    }

    /// Whether to add a position that saves its request a step like this with some probability, and that all of so
    /// many requests wait for. Before steps have been measured, yes.
    pub(crate) fn is_worth(&self, probability: f64, requests: usize) -> bool {
        let [_, each_s, ..] = self.fit;
        probability * self.planned_s >= each_s * requests as f64
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

    /// How many more blocks the step can bring back for a prompt in time: at least one, so that it advances.
    pub(crate) fn copy_room(&self) -> u32 {
        let mut step = *self;
        step.begin_prompts();
        let blocks = step.target_s.map(|target_s| (target_s - step.planned_s) / self.copy_s());
        let blocks = blocks.map_or(u32::MAX, |blocks| (blocks as u32).max(1));
        if self.copy_s() > 0.0 { blocks } else { COPIES_UNMEASURED_MAX }
    }

    /// Positions of a prompt.
    pub(crate) fn add_prompt(&mut self, positions: &Range<u32>) {
        self.begin_prompts();
        self.planned_s += self.cost_s(positions);
    }

    fn begin_prompts(&mut self) {
        if !self.prompts {
            self.prompts = true;
            // Next tokens alone may take half of the target or more; prompts then get as much time again.
            let least_s = 2.0 * (self.planned_s - self.copy_s() * f64::from(self.copies));
            let stretch = if self.tokens { 1.0 } else { QUIET_STEP_TARGETS };
            self.target_s = self.target_s.map(|target_s| (stretch * target_s).max(least_s));
        }
    }

    /// How many positions from `start` on the step can still take in time, at most `count`.
    pub(crate) fn room(&self, start: u32, count: u32) -> u32 {
        let mut step = *self;
        step.begin_prompts();
        let Some(target_s) = step.target_s else { return count };
        let fits = |count: u32| step.planned_s + self.cost_s(&(start..start + count)) <= target_s;
        let least = if self.prompts { 0 } else { PROMPT_POSITIONS_MIN.min(count) };
        let (mut low, mut high) = (least, count);
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
        let [_, each, looked_back, _] = self.fit;
        let [_, positions, attended, _] = load_of(positions);
        each * positions + looked_back * attended
    }

    fn copy_s(&self) -> f64 {
        self.fit[PARTS - 1]
    }
}

/// The load of one item, without the step's own part.
fn load_of(positions: &Range<u32>) -> Load {
    let (start, end) = (f64::from(positions.start), f64::from(positions.end));
    [0.0, end - start, (end * end - start * start) / 2e3, 0.0]
}

fn sum(one: Load, other: Load) -> Load {
    std::array::from_fn(|part| one[part] + other[part])
}

/// The least squares fit in which no part takes less than no time.
fn fit(squares: &[Load; PARTS], products: &Load) -> Load {
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
        let mut error = 0.0;
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

    /// A device with a fixed time a step, a time a position and a time for looking back.
    fn took(items: &[Range<u32>]) -> Duration {
        let load = items.iter().fold([1.0, 0.0, 0.0, 0.0], |load, item| sum(load, load_of(item)));
        Duration::from_secs_f64(0.02 * load[0] + 0.001 * load[1] + 0.0005 * load[2])
    }

    /// Steps like those below of a device that takes so long to copy a block.
    fn measured_with_copies(copy_us: u64) -> Pace {
        let mut pace = Pace::new(Some(Duration::from_millis(100)));
        for step in 0..50_u32 {
            let items = [step * 37 % 900..step * 37 % 900 + step % 60 + 1, 100..101];
            let copies = step * 7 % 11;
            let copying = Duration::from_micros(copy_us) * copies;
            pace.observe(items.iter(), copies, took(&items) + copying);
        }
        pace
    }

    fn measured(target_ms: u64) -> Pace {
        let mut pace = Pace::new(Some(Duration::from_millis(target_ms)));
        for step in 0..50_u32 {
            let prompt = step * 37 % 900..step * 37 % 900 + step % 60 + 1;
            let items = [prompt, 100..101, 500 + step..501 + step];
            pace.observe(items.iter(), 0, took(&items));
        }
        pace
    }

    #[test]
    fn the_model_finds_what_the_device_does() {
        let fit = measured(100).fit;
        for (found, real) in fit.iter().zip([0.02, 0.001, 0.0005]) {
            assert!((found / real - 1.0).abs() < 0.01, "{fit:?}");
        }
        assert_eq!(fit[3], 0.0, "nothing was copied");
        let fit = measured_with_copies(400).fit;
        for (found, real) in fit.iter().zip([0.02, 0.001, 0.0005, 0.0004]) {
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
        let room = step.room(1000, 500);
        let mut items = tokens;
        items.push(1000..1000 + room);
        let duration_ms = took(&items).as_millis();
        assert!((95..=101).contains(&duration_ms), "{room} positions take {duration_ms} ms");
        step.add_prompt(&(1000..1000 + room));
        assert!(step.room(0, 500) <= 2, "it is full");
        assert_eq!(pace.begin().room(0, 5), 5, "no more than wanted");
    }

    #[test]
    fn prompts_advance_even_where_tokens_alone_take_longer() {
        let mut step = measured(10).begin();
        step.add_token(100..101);
        assert!(step.room(0, 500) >= PROMPT_POSITIONS_MIN);
        // As long again as the tokens take, about 21 ms.
        assert!(step.room(0, 500) <= 22);
    }

    #[test]
    fn a_step_without_tokens_may_take_longer() {
        let step = measured(100).begin();
        let prompt = 0..step.room(0, 5000);
        let duration_ms = took(std::slice::from_ref(&prompt)).as_millis();
        assert!((380..=401).contains(&duration_ms), "{duration_ms}");
    }

    #[test]
    fn before_anything_is_measured_and_without_a_target_a_step_takes_all() {
        assert_eq!(Pace::new(Some(Duration::from_millis(1))).begin().room(0, 500), 500);
        let mut pace = Pace::new(None);
        for _ in 0..50 {
            pace.observe(std::iter::once(&(0..100)), 0, Duration::from_secs(1));
        }
        assert_eq!(pace.begin().room(0, 500), 500);
    }

    #[test]
    fn steps_that_are_all_alike_are_no_trouble() {
        let mut pace = Pace::new(Some(Duration::from_millis(100)));
        for _ in 0..50 {
            let items = [100..101, 100..101];
            pace.observe(items.iter(), 0, took(&items));
        }
        let mut step = pace.begin();
        step.add_token(100..101);
        assert!(step.room(0, 500) >= PROMPT_POSITIONS_MIN);
    }
}
