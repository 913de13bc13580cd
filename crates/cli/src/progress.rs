//! What a person sees while something takes long: bars and lines on standard error.

use std::{io::Write, sync::Mutex, time::Duration};

use indicatif::{ProgressBar, ProgressStyle};

/// Shows downloads.
#[derive(Default)]
pub(crate) struct Download {
    bar: Mutex<Option<ProgressBar>>,
}

impl weights::resolve::Progress for Download {
    fn note(&self, message: &str) {
        note(message);
    }

    fn begin(&self, file: &str, bytes_total: Option<u64>) {
        self.end();
        let bar = bytes_total.map_or_else(ProgressBar::new_spinner, bytes_bar);
        bar.set_message(file.to_owned());
        bar.enable_steady_tick(Duration::from_millis(200));
        *self.slot() = Some(bar);
    }

    fn advance(&self, bytes: u64) {
        if let Some(bar) = &*self.slot() {
            bar.inc(bytes);
        }
    }

    fn end(&self) {
        if let Some(bar) = self.slot().take() {
            bar.finish_and_clear();
        }
    }
}

impl Download {
    fn slot(&self) -> std::sync::MutexGuard<'_, Option<ProgressBar>> {
        self.bar.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

/// A bar over bytes.
pub(crate) fn bytes_bar(bytes_total: u64) -> ProgressBar {
    let style = ProgressStyle::with_template(
        "{msg} [{bar:32}] {bytes}/{total_bytes} {bytes_per_sec} {eta}",
    )
    .expect("the template is well formed")
    .progress_chars("=> ");
    ProgressBar::new(bytes_total).with_style(style)
}

/// A line for a person.
pub(crate) fn note(message: &str) {
    // A broken standard error is no reason to stop.
    let _ = writeln!(std::io::stderr(), "{message}");
}
