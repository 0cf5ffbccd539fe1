//! Progress bars: on a terminal, for what takes longer than a moment.

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::cell::Cell;
use std::time::Duration;

/// A bar, or nothing if nobody would see it.
pub(crate) struct Bar {
    bar: ProgressBar,
    done: Cell<u64>,
    bytes: Cell<u64>,
}

impl Bar {
    /// A bar over a known number of bytes.
    pub(crate) fn bytes_of(what: &'static str, total: u64, quiet: bool) -> Self {
        let template = "{msg} [{bar:32}] {bytes}/{total_bytes} {bytes_per_sec} {eta}";
        Self::with(ProgressBar::new(total), template, what, quiet)
    }

    /// A count without a known end.
    pub(crate) fn counting(what: &'static str, quiet: bool) -> Self {
        Self::with(ProgressBar::no_length(), "{spinner} {msg}: {human_pos} files, {per_sec}", what, quiet)
    }

    fn with(bar: ProgressBar, template: &str, what: &'static str, quiet: bool) -> Self {
        // Standard error, so that output can be redirected; nothing at all if that is no terminal.
        let target = if quiet { ProgressDrawTarget::hidden() } else { ProgressDrawTarget::stderr_with_hz(8) };
        bar.set_draw_target(target);
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style.progress_chars("=> "));
        }
        bar.set_message(what);
        if !bar.is_hidden() {
            bar.enable_steady_tick(Duration::from_millis(250));
        }
        Bar { bar, done: Cell::new(0), bytes: Cell::new(0) }
    }

    /// So much more is done. Told to the bar in lots, because it takes a lock.
    pub(crate) fn add(&self, count: u64) {
        self.done.set(self.done.get() + count);
        if self.done.get() >= 64 {
            self.bar.inc(self.done.take());
        }
    }

    /// So many bytes more, beside the count.
    pub(crate) fn bytes(&self, count: u64) {
        self.bytes.set(self.bytes.get() + count);
    }

    /// So much is done in all.
    pub(crate) fn set(&self, done: u64, total: u64) {
        self.bar.set_length(total);
        self.bar.set_position(done);
    }

    /// Takes the bar away.
    pub(crate) fn finish(&self) {
        self.bar.inc(self.done.take());
        self.bar.finish_and_clear();
    }
}
