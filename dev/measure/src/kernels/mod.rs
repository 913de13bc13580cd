//! `cargo xtask bench kernels`: every kernel family at the shapes of real models.
//!
//! Weights and caches come from memory, as in a model: there are so many of each that by the time one comes round
//! again, no cache holds it. Bytes are those of weights, keys, values and activations, each counted once.

mod attention;
mod calls;
mod errors;
mod linear;
mod products;
mod rows;

use std::{sync::Arc, time::Duration};

use anyhow::Result;
use clap::ArgMatches;
use device::cpu::Cpu;

use crate::{
    arguments,
    machine::{affordable_bytes, last_level_cache_bytes},
    report::{Table, giga, percent, seconds},
    roofline::Roofline,
    timing::{Timing, time},
};

/// Time for one line.
const BUDGET: Duration = Duration::from_millis(200);
/// A line that would take longer than this for one call is left out.
const CALL_MAX_S: f64 = 5.0;
/// By how much what is gone through exceeds the last-level cache.
const CACHES: usize = 4;

/// Measures and prints.
struct Bench {
    cpu: Arc<Cpu>,
    roofline: Roofline,
    /// Words that a line must contain.
    filter: Vec<String>,
    table: Table,
    /// Bytes that no cache holds.
    cold_bytes: usize,
}

/// What a call does.
#[derive(Clone, Copy)]
struct Size {
    bytes: f64,
    /// Operations and the highest rate of them, where they are what may take the time.
    operations: Option<(f64, f64)>,
}

/// The command.
pub(crate) fn run(matches: &ArgMatches) -> Result<()> {
    let cpu = arguments::cpu(matches)?;
    let roofline = Roofline::measure(&cpu);
    roofline.print(&cpu);
    let filter = matches.get_one::<String>("filter").map_or("", String::as_str);
    let bench = Bench {
        cpu,
        roofline,
        filter: filter.split_whitespace().map(str::to_owned).collect(),
        cold_bytes: affordable_bytes(CACHES * last_level_cache_bytes()),
        table: Table::start(&[
            ("kernel", 44),
            ("best", 9),
            ("median", 9),
            ("GB/s", 7),
            ("of read", 7),
            ("GOP/s", 7),
            ("of peak", 7),
        ]),
    };
    linear::run(&bench)?;
    attention::run(&bench);
    rows::run(&bench);
    errors::run(&bench)?;
    bench.roofline.print_drift(&bench.cpu);
    Ok(())
}

impl Bench {
    /// Whether a line is asked for. A word that is a number is a whole word of the line.
    fn wants(&self, line: &str) -> bool {
        self.filter.iter().all(|wanted| match wanted.parse::<usize>() {
            Ok(_) => line.split(' ').any(|word| word == wanted),
            Err(_) => line.contains(wanted.as_str()),
        })
    }

    /// Measures a line and prints it.
    fn measure(&self, line: &str, size: Size, call: impl FnMut()) -> Timing {
        let timing = time(BUDGET, call);
        let rate = size.bytes / timing.best_s;
        let mut cells = vec![
            line.to_owned(),
            seconds(timing.best_s),
            seconds(timing.median_s),
            giga(rate),
            percent(rate, self.roofline.read_bytes_s),
        ];
        if let Some((operations, peak)) = size.operations {
            let rate = operations / timing.best_s;
            cells.extend([giga(rate), percent(rate, peak)]);
        }
        self.table.row(&cells);
        timing
    }

    /// How many things of this size no cache holds together.
    fn copies(&self, bytes: usize) -> usize {
        self.cold_bytes.div_ceil(bytes.max(1)).max(1)
    }
}
