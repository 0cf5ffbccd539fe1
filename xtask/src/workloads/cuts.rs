//! Power cuts: clients write until the power goes, and count what they were promised; after the next boot it must be there.

use super::guest::{Guest, Image, Numbers};
use super::{Options, Row};
use anyhow::{Context, Result, ensure};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Clients that write at a time.
const WORKERS: u64 = 4;

/// Writes as client so-and-so (the first number) what is numbered from the second on, each after the answer to the one before, and calls
/// back with the next number after each promise, until the connection breaks.
type Write<'a> = dyn Fn(SocketAddr, u64, u64, &dyn Fn(u64)) -> Result<()> + Sync + 'a;

/// A server that promises durability.
pub(super) struct Server<'a> {
    /// Its image.
    pub(super) image: &'a Image,
    /// What a client is promised, in the plural.
    pub(super) promises: &'static str,
    /// The power goes so long after the clients have begun: at least, and at most so much more.
    pub(super) moment: (Duration, Duration),
    /// Boots it and waits for its first answer.
    pub(super) boot: &'a dyn Fn(&Image) -> Result<Guest>,
    /// Before anything is written.
    pub(super) prepare: &'a dyn Fn(&Guest) -> Result<()>,
    /// What a client does.
    pub(super) write: &'a Write<'a>,
    /// How many writes of a client are there, none missing between others: at least as many as it was promised, the second number.
    pub(super) surviving: &'a dyn Fn(&Guest, u64, u64) -> Result<u64>,
    /// The engine's own checks.
    pub(super) check: &'a dyn Fn(&Guest) -> Result<()>,
    /// Ends it.
    pub(super) end: &'a dyn Fn(Guest) -> Result<()>,
}

impl Server<'_> {
    /// Cuts the power as often as `options` say; afterwards, each time, every promise is held, the engine's own checks pass, and the pool
    /// is whole.
    pub(super) fn cut(&self, options: &Options) -> Result<Vec<Row>> {
        let promised: Vec<AtomicU64> = (0..WORKERS).map(|_| AtomicU64::new(0)).collect();
        let total = || promised.iter().map(|n| n.load(Ordering::SeqCst)).sum::<u64>();
        let mut numbers = Numbers(options.seed);
        for cut in 0..=options.cuts {
            let guest = (self.boot)(self.image)?;
            if cut == 0 {
                (self.prepare)(&guest)?;
            }
            self.judge(&guest, &promised)
                .with_context(|| format!("after cut {cut} (seed {})", options.seed))?;
            if cut == options.cuts {
                (self.end)(guest)?;
                self.image.zdb()?;
                break;
            }
            let (least, more) = self.moment;
            let moment = least + Duration::from_micros(numbers.next() % more.as_micros() as u64);
            self.cut_after(guest, moment, &promised)?;
            self.image.zdb()?;
            println!("cut {} after {} ms: {} {} so far", cut + 1, moment.as_millis(), total(), self.promises);
        }
        ensure!(total() > 0, "nothing was promised before a cut");
        Ok(vec![Row::new(
            format!("{} cuts, acknowledged {}, all there", options.cuts, self.promises),
            total().to_string(),
        )])
    }

    fn judge(&self, guest: &Guest, promised: &[AtomicU64]) -> Result<()> {
        (self.check)(guest)?;
        for (worker, promised) in (0..).zip(promised) {
            let least = promised.load(Ordering::SeqCst);
            let there = (self.surviving)(guest, worker, least)?;
            // The one whose answer was on its way may be there, too.
            ensure!(
                (least..=least + 1).contains(&there),
                "client {worker} was promised {least} {}, {there} are there",
                self.promises
            );
            promised.store(there, Ordering::SeqCst);
        }
        Ok(())
    }

    /// Cuts the power `moment` after the clients have begun.
    fn cut_after(&self, guest: Guest, moment: Duration, promised: &[AtomicU64]) -> Result<()> {
        let (address, write) = (guest.address, self.write);
        std::thread::scope(|scope| {
            let clients: Vec<_> = (0..)
                .zip(promised)
                .map(|(n, promised)| {
                    scope.spawn(move || {
                        let note = |next| promised.store(next, Ordering::SeqCst);
                        write(address, n, promised.load(Ordering::SeqCst), &note)
                    })
                })
                .collect();
            std::thread::sleep(moment);
            guest.cut()?;
            clients.into_iter().try_for_each(|client| client.join().ok().context("a client's thread")?)
        })
    }
}
