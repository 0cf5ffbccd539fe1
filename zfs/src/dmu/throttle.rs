//! Slowing writers down before dirty data is at its limit, and what is known of the last txgs.
//! Source: `dmu_tx_delay` (`dmu_tx.c`), `dsl_pool_need_dirty_delay` (`dsl_pool.c`), `spa_txg_history` (`spa_stats.c`).
//!
//! From [`DELAY_MIN_PERCENT`] of the limit on each transaction is delayed, by more the nearer the limit is; delayed ones follow one
//! another, so that many writers are slowed down together. At the limit they wait until blocks were written, not for
//! the end of the txg.

use alloc::collections::VecDeque;
use alloc::vec::Vec;
use platform::thread::scheduler;

/// The limit of all dirty data is that many times the size at which a txg closes.
pub const DIRTY_TXGS: u64 = 3;
/// No delay below this share of the limit (`zfs_delay_min_dirty_percent`).
const DELAY_MIN_PERCENT: u64 = 60;
/// Delay in the middle between there and the limit, in nanoseconds (`zfs_delay_scale`).
const DELAY_SCALE: u64 = 500_000;
/// The longest delay (`zfs_delay_max_ns`).
const DELAY_MAX: u64 = 100_000_000;
/// So many txgs are remembered (`zfs_txg_history`).
const HISTORY: usize = 100;

/// How transactions fared. Source: `dmu_tx_stats_t`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct TxStats {
    /// Transactions that got a txg.
    pub assigned: u64,
    /// How many were delayed on the way (`dmu_tx_dirty_delay`).
    pub delayed: u64,
    /// How often one waited for blocks to be written (`dmu_tx_dirty_over_max`).
    pub dirty_over_max: u64,
}

/// A txg that was synced. Times are on the scheduler's clock, in nanoseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TxgRecord {
    /// Its number.
    pub txg: u64,
    /// When it was opened.
    pub birth_ns: u64,
    /// Bytes that were dirty in it.
    pub dirty: u64,
    /// How long it was open, …
    pub open_ns: u64,
    /// … waited for its transactions to end and for the sync thread, …
    pub wait_ns: u64,
    /// … and was written.
    pub sync_ns: u64,
}

/// When what became of a txg; 0 before.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct TxgTimes {
    pub(super) opened: u64,
    pub(super) closed: u64,
    pub(super) taken: u64,
}

#[derive(Default)]
pub(super) struct History(VecDeque<TxgRecord>);

impl History {
    pub(super) fn push(&mut self, txg: u64, dirty: u64, times: TxgTimes, now: u64) {
        if self.0.len() >= HISTORY {
            self.0.pop_front();
        }
        self.0.push_back(TxgRecord {
            txg,
            birth_ns: times.opened,
            dirty,
            open_ns: times.closed.saturating_sub(times.opened),
            wait_ns: times.taken.saturating_sub(times.closed),
            sync_ns: now.saturating_sub(times.taken),
        });
    }

    pub(super) fn records(&self) -> Vec<TxgRecord> {
        self.0.iter().copied().collect()
    }
}

#[derive(Default)]
pub(super) struct Throttle {
    pub(super) stats: TxStats,
    /// When the last delayed transaction may go on.
    last: u64,
}

impl Throttle {
    /// Until when a transaction has to sleep, at that much dirty data.
    pub(super) fn delay(&mut self, dirty: u64, max: u64, now: u64) -> Option<u64> {
        let min = max / 100 * DELAY_MIN_PERCENT;
        if dirty <= min || dirty >= max {
            return None;
        }
        let scaled = u128::from(DELAY_SCALE) * u128::from(dirty - min) / u128::from(max - dirty);
        let delay = u64::try_from(scaled).unwrap_or(DELAY_MAX).min(DELAY_MAX);
        self.last = self.last.max(now).saturating_add(delay).min(now.saturating_add(DELAY_MAX));
        self.stats.delayed += 1;
        Some(self.last)
    }
}

/// Sleeps until the scheduler's clock shows `until`.
pub(super) fn sleep_until(until: u64) {
    loop {
        let now = scheduler().monotonic_ns();
        if now >= until {
            return;
        }
        scheduler().park_timeout(until - now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_delay_grows_towards_the_limit() {
        let mut throttle = Throttle::default();
        let mut at = |dirty| {
            throttle.last = 0;
            throttle.delay(dirty, 1000, 7).map(|until| until - 7)
        };
        assert_eq!((at(600), at(1000)), (None, None));
        assert_eq!((at(800), at(950)), (Some(DELAY_SCALE), Some(DELAY_SCALE * 7)));
        assert_eq!(at(999), Some(DELAY_SCALE * 399).map(|d| d.min(DELAY_MAX)));
    }

    #[test]
    fn delayed_transactions_follow_one_another() {
        let mut throttle = Throttle::default();
        let first = throttle.delay(800, 1000, 0).unwrap();
        assert_eq!(throttle.delay(800, 1000, 10), Some(2 * first));
        (0..1000).for_each(|_| assert!(throttle.delay(800, 1000, 20).unwrap() <= 20 + DELAY_MAX));
    }
}
