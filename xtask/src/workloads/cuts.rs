//! Clients that write until the power goes, and count what they were promised.

use super::guest::Guest;
use anyhow::{Context, Result};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// How many writes each of some clients was promised to find again: those numbered from 0 up to that.
pub(super) struct Promises(Vec<AtomicU64>);

impl Promises {
    /// `workers` clients without a promise.
    pub(super) fn new(workers: u64) -> Self {
        Promises((0..workers).map(|_| AtomicU64::new(0)).collect())
    }

    /// Each client's number and its promises.
    pub(super) fn each(&self) -> impl Iterator<Item = (u64, &AtomicU64)> {
        (0..).zip(&self.0)
    }

    /// All promises.
    pub(super) fn total(&self) -> u64 {
        self.0.iter().map(|n| n.load(Ordering::SeqCst)).sum()
    }

    /// Cuts the power `moment` after the clients have begun. `write` goes on from the promises that its worker has, counts
    /// those that it gets, and comes back when the connection breaks.
    pub(super) fn cut(
        &self,
        guest: Guest,
        moment: Duration,
        write: impl Fn(SocketAddr, u64, &AtomicU64) -> Result<()> + Sync,
    ) -> Result<()> {
        std::thread::scope(|scope| {
            let address = guest.address;
            let write = &write;
            let workers: Vec<_> =
                self.each().map(|(n, promised)| scope.spawn(move || write(address, n, promised))).collect();
            std::thread::sleep(moment);
            guest.cut()?;
            workers.into_iter().try_for_each(|worker| worker.join().ok().context("a client's thread")?)
        })
    }
}
