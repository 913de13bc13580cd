//! A replay as a picture: lanes of requests, positions of each step, blocks in use, over one axis of time.

use std::{
    fmt::{self, Write},
    ops::Range,
    time::Duration,
};

use crate::replay::{Ending, Life, Phase, Replay, Step};

const WIDTH: f64 = 1600.0;
const LEFT: f64 = 90.0;
const LANE: f64 = 9.0;
const CHART: f64 = 120.0;
const GAP: f64 = 40.0;
/// More lanes are not drawn; their number is said.
const LANES_MAX: usize = 400;
/// Steps that are narrower than a column of this width are put together.
const COLUMNS: usize = 750;

/// The picture of a stretch of time as an SVG document; of all without one.
pub fn timeline(replay: &Replay, stretch: Option<Range<Duration>>) -> String {
    let mut out = String::new();
    // Writing to a string does not fail.
    let _infallible = Picture::new(replay, stretch).draw(&mut out);
    out
}

struct Picture<'a> {
    replay: &'a Replay,
    steps: Vec<&'a Step>,
    from_s: f64,
    to_s: f64,
}

impl<'a> Picture<'a> {
    fn new(replay: &'a Replay, stretch: Option<Range<Duration>>) -> Self {
        let all = || {
            let arrivals =
                replay.requests.values().filter_map(|life| Some(life.spans.first()?.from));
            let steps = replay.steps.iter().flat_map(|step| step.ended.or(Some(step.planned)));
            let ends = replay.requests.values().filter_map(|life| Some(life.ended?.0));
            let times = arrivals.chain(steps).chain(ends);
            let (least, most) = times.fold((Duration::MAX, Duration::ZERO), |(least, most), at| {
                (least.min(at), most.max(at))
            });
            least.min(most)..most
        };
        let stretch = stretch.unwrap_or_else(all);
        let is_in = |step: &&Step| {
            step.planned < stretch.end && step.ended.unwrap_or(step.planned) >= stretch.start
        };
        let (from_s, to_s) = (stretch.start.as_secs_f64(), stretch.end.as_secs_f64());
        let steps = replay.steps.iter().filter(is_in).collect();
        Self { replay, steps, from_s, to_s: to_s.max(from_s + 1e-6) }
    }

    fn x(&self, at: Duration) -> f64 {
        let part = (at.as_secs_f64() - self.from_s) / (self.to_s - self.from_s);
        LEFT + part.clamp(0.0, 1.0) * (WIDTH - LEFT - 20.0)
    }

    fn draw(&self, out: &mut String) -> fmt::Result {
        let is_in = |life: &Life| {
            let end_s = life.ended.map_or(f64::INFINITY, |(at, _)| at.as_secs_f64());
            life.arrived.as_secs_f64() <= self.to_s && end_s >= self.from_s
        };
        let lives: Vec<_> = self.replay.requests.iter().filter(|(_, life)| is_in(life)).collect();
        let lanes = lives.len().min(LANES_MAX);
        let lanes_top = 2.0 * (CHART + GAP) + GAP;
        let height = lanes_top + lanes as f64 * LANE + GAP;
        writeln!(
            out,
            r#"<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height:.0}" font-family="sans-serif" font-size="11">"#
        )?;
        writeln!(out, r##"<rect width="100%" height="100%" fill="#ffffff"/>"##)?;
        self.axis(out, height)?;
        self.positions(out, GAP)?;
        self.blocks(out, 2.0 * GAP + CHART)?;
        label(
            out,
            4.0,
            lanes_top - 6.0,
            "requests: grey waits, blue prompt, green tokens, red fails, hollow aborted",
        )?;
        for (lane, (id, life)) in lives.iter().take(lanes).enumerate() {
            let top = lanes_top + lane as f64 * LANE;
            if lanes <= 80 || lane % 10 == 0 {
                label(out, 4.0, top + LANE - 1.5, &id.to_string())?;
            }
            self.lane(out, life, top)?;
        }
        if lives.len() > lanes {
            let more = format!("and {} requests more", lives.len() - lanes);
            label(out, LEFT, height - 10.0, &more)?;
        }
        if let Some(divergence) = &self.replay.divergence {
            let text = format!("differs from what was recorded at record {}", divergence.record);
            label(out, WIDTH - 400.0, 14.0, &text)?;
        }
        writeln!(out, "</svg>")
    }

    fn axis(&self, out: &mut String, height: f64) -> fmt::Result {
        for tick in 0..=10 {
            let at_s = self.from_s + (self.to_s - self.from_s) * f64::from(tick) / 10.0;
            let x = self.x(Duration::from_secs_f64(at_s));
            writeln!(
                out,
                r##"<line x1="{x:.1}" x2="{x:.1}" y1="20" y2="{height:.0}" stroke="#e4e4e4"/>"##
            )?;
            label(out, x - 14.0, 14.0, &format!("{at_s:.3} s"))?;
        }
        Ok(())
    }

    /// Positions of each step, those of prompts on top of those of answers. Where steps are too narrow to be seen, the
    /// largest of a column.
    fn positions(&self, out: &mut String, top: f64) -> fmt::Result {
        let columns = self.columns(|step| f64::from(step.prompt_positions + step.token_positions));
        let tokens = self.columns(|step| f64::from(step.token_positions));
        let most = columns.iter().map(|column| column.2).fold(1.0, f64::max);
        label(
            out,
            4.0,
            top - 6.0,
            &format!("positions of a step, at most {most:.0}: blue prompts, green tokens"),
        )?;
        for (bars, colour) in [(columns, PROMPT), (tokens, TOKENS)] {
            for (x, width, value) in bars {
                let high = CHART * value / most;
                bar(out, x, top + CHART - high, width, high, colour)?;
            }
        }
        Ok(())
    }

    fn blocks(&self, out: &mut String, top: f64) -> fmt::Result {
        let groups = self.replay.setup.info.cache_groups.iter();
        let total: u64 = groups.map(|group| u64::from(group.blocks)).sum();
        label(out, 4.0, top - 6.0, &format!("KV blocks in use, of {total}"))?;
        for (x, width, used) in self.columns(|step| step.blocks_used as f64) {
            let high = CHART * used / total.max(1) as f64;
            bar(out, x, top + CHART - high, width, high, "#8e6bbf")?;
        }
        writeln!(
            out,
            r##"<rect x="{LEFT}" y="{top}" width="{:.0}" height="{CHART}" fill="none" stroke="#c0c0c0"/>"##,
            WIDTH - LEFT - 20.0
        )
    }

    /// For each column that has steps: where it begins, how wide it is, and the largest value in it.
    fn columns(&self, value: impl Fn(&Step) -> f64) -> Vec<(f64, f64, f64)> {
        let least = (WIDTH - LEFT - 20.0) / COLUMNS as f64;
        let mut columns: Vec<(f64, f64, f64)> = Vec::new();
        for step in &self.steps {
            let begin = self.x(step.planned);
            let width = self.x(step.ended.unwrap_or(step.planned)) - begin;
            match columns.last_mut() {
                Some((x, whole, most)) if begin < *x + least => {
                    *most = most.max(value(step));
                    *whole = whole.max((begin + width - *x).min(least));
                }
                _ => columns.push((begin, width.max(0.5), value(step))),
            }
        }
        columns
    }

    fn lane(&self, out: &mut String, life: &Life, top: f64) -> fmt::Result {
        let end = life.ended.map_or(Duration::from_secs_f64(self.to_s), |(at, _)| at);
        for (index, span) in life.spans.iter().enumerate() {
            let until = life.spans.get(index + 1).map_or(end, |next| next.from);
            let (x, right) = (self.x(span.from), self.x(until));
            let is_seen =
                until.as_secs_f64() >= self.from_s && span.from.as_secs_f64() <= self.to_s;
            if !is_seen || right - x < 0.05 {
                continue;
            }
            let colour = match span.phase {
                Phase::Waits => "#cfcfcf",
                Phase::Prompt => PROMPT,
                Phase::Tokens => TOKENS,
            };
            bar(out, x, top, right - x, LANE - 2.0, colour)?;
        }
        let colour = match life.ended {
            Some((_, Ending::Failed)) => "#d03030",
            Some((_, Ending::Aborted)) => "#ffffff",
            _ => return Ok(()),
        };
        let x = self.x(end);
        writeln!(
            out,
            r##"<rect x="{x:.1}" y="{top:.1}" width="4" height="{:.1}" fill="{colour}" stroke="#606060"/>"##,
            LANE - 2.0
        )
    }
}

const PROMPT: &str = "#4a7fc1";
const TOKENS: &str = "#58a55c";

fn bar(out: &mut String, x: f64, y: f64, width: f64, height: f64, colour: &str) -> fmt::Result {
    writeln!(
        out,
        r#"<rect x="{x:.1}" y="{y:.1}" width="{width:.2}" height="{height:.2}" fill="{colour}"/>"#
    )
}

fn label(out: &mut String, x: f64, y: f64, text: &str) -> fmt::Result {
    writeln!(out, r##"<text x="{x:.1}" y="{y:.1}" fill="#303030">{text}</text>"##)
}
