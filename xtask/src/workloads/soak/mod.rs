//! `soak`: redis-server and mariadbd side by side, each in its guest, under a steady load whose every answer is checked. In rounds: after
//! each the clients leave, and what the kernels then hold is compared with what they held before.
//!
//! The load is bounded by the clients' pace, so that two guests without hardware acceleration have time to rest: a lost wake-up shows as an
//! answer that never comes, and not as one of many that are late.

mod counters;
mod load;

use super::guest::{Guest, Image};
use super::{MARIADB, Options, REDIS, Row, mariadb, redis};
use anyhow::{Context, Result, bail, ensure};
use counters::{Sample, judge, samples};
use load::{Beat, Client, Mariadb, PATIENCE, Redis, verify, work};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// What both need of Debian.
pub(super) const PACKAGES: &[(&str, &str)] = &[REDIS[0], MARIADB[0], MARIADB[1]];
/// Clients, and the time between two requests of one of them.
const REDIS_CLIENTS: (u64, Duration) = (4, Duration::from_millis(25));
const MARIADB_CLIENTS: (u64, Duration) = (3, Duration::from_millis(150));
/// A round to settle, one to compare with, and one that is compared.
const ROUNDS_MIN: u32 = 3;
/// The load of a round lasts a part of the whole, within these bounds.
const ROUND_SHARE: u32 = 6;
const ROUND: (Duration, Duration) = (Duration::from_secs(8), Duration::from_secs(60));
/// After the load the last transaction group is written and the servers' housekeeping is done; then a guest is watched for so long.
/// Milliseconds of its clock.
const SETTLING_MS: u64 = 7000;
const WATCHING_MS: u64 = 4000;
/// How long a server may take to end.
const ENDING: Duration = Duration::from_secs(120);

/// What the guests run with. The cache is so small that it is full early, as what belongs to its blocks grows with it.
const LIMITS: &[&str] = &["--stats", "2", "--arc-max", "8M"];

/// A server in its guest.
struct Member {
    name: &'static str,
    image: Image,
    guest: Option<Guest>,
    boot: fn(&Image) -> Result<Guest>,
    /// What the server says last.
    farewell: &'static str,
    clients: Vec<Box<dyn Client>>,
    pace: Duration,
    requests: u64,
    /// What its kernel held at rest, after each round.
    rests: Vec<Vec<Sample>>,
}

impl Member {
    fn guest(&self) -> Result<&Guest> {
        self.guest.as_ref().with_context(|| format!("{} has no guest", self.name))
    }

    /// SIGTERM; the server says goodbye, the guest ends successfully, the pool is whole.
    fn end(&mut self) -> Result<()> {
        let guest = self.guest.take().with_context(|| format!("{} has no guest", self.name))?;
        let said = guest.terminate(ENDING)?;
        ensure!(said.contains(self.farewell), "{} did not end in order:\n{said}", self.name);
        self.image.zdb()
    }

    /// The guest's clock when it last said what its kernel holds, in milliseconds.
    fn clock(&self) -> Result<u64> {
        Ok(samples(&self.guest()?.console()).next_back().map_or(0, |sample| sample.at()))
    }

    /// Waits until the kernel has been at rest, which it is from `from` on by the guest's clock, and notes what it holds then.
    fn rest(&mut self, from: u64) -> Result<()> {
        let start = Instant::now();
        while self.clock()? < from + WATCHING_MS {
            let silent = || {
                format!(
                    "{}'s kernel says nothing any more:\n{}",
                    self.name,
                    self.guest.as_ref().map_or(String::new(), Guest::console)
                )
            };
            ensure!(start.elapsed() < PATIENCE, silent());
            std::thread::sleep(Duration::from_millis(500));
        }
        let console = self.guest()?.console();
        self.rests.push(samples(&console).filter(|sample| sample.at() >= from).collect());
        Ok(())
    }

    fn row(&self) -> Row {
        let held = |rest: &Vec<Sample>| rest.iter().map(Sample::held).min().unwrap_or(0);
        let count = self.rests.len();
        let (third, last) = (self.rests.get(count / 3).map_or(0, held), self.rests.last().map_or(0, held));
        Row::new(
            format!("{}: {} requests, {count} rounds", self.name, self.requests),
            format!("{third} KiB, then {last} KiB"),
        )
    }
}

fn members(options: &Options) -> Result<Vec<Member>> {
    // The second one is prepared in a guest, alone on the first link.
    let (redis_image, mariadb_image) =
        (redis::image("soak-redis")?, mariadb::image("soak-mariadb")?.on_link(1));
    let member =
        |name, image, boot: fn(&Image) -> Result<Guest>, farewell, clients, pace| -> Result<Member> {
            let guest = Some(boot(&image)?);
            Ok(Member { name, image, guest, boot, farewell, clients, pace, requests: 0, rests: Vec::new() })
        };
    let clients =
        (0..REDIS_CLIENTS.0).map(|n| Box::new(Redis::new(n, options.seed)) as Box<dyn Client>).collect();
    let boot = |image: &Image| Ok(redis::boot_with(image, LIMITS, "everysec")?.0);
    let redis = member("redis", redis_image, boot, "bye bye", clients, REDIS_CLIENTS.1)?;
    let clients =
        (0..MARIADB_CLIENTS.0).map(|n| Box::new(Mariadb::new(n, options.seed)) as Box<dyn Client>).collect();
    let boot = |image: &Image| Ok(mariadb::boot_with(image, LIMITS)?.0);
    let mariadb = member("mariadb", mariadb_image, boot, "Shutdown complete", clients, MARIADB_CLIENTS.1)?;
    mariadb::sql(mariadb.guest()?.address, load::TABLE)?;
    Ok(vec![redis, mariadb])
}

/// All clients at work until `until`. An answer that does not come ends it.
fn load_all(members: &mut [Member], until: Instant) -> Result<()> {
    let answered = std::thread::scope(|scope| -> Result<Vec<(&str, u64)>> {
        let (mut guests, mut threads) = (Vec::new(), Vec::new());
        for Member { name, guest, clients, pace, .. } in members.iter_mut() {
            let guest = guest.as_mut().context("a member without a guest")?;
            let (address, pace) = (guest.address, *pace);
            for client in clients {
                let beat = Arc::new(Beat::default());
                let noted = Arc::clone(&beat);
                let thread = scope.spawn(move || work(client.as_mut(), address, (pace, until), &noted));
                threads.push((*name, beat, thread));
            }
            guests.push(guest);
        }
        let mut overdue = None;
        while overdue.is_none() && !threads.iter().all(|(.., thread)| thread.is_finished()) {
            overdue = threads.iter().find(|(_, beat, _)| beat.is_overdue()).map(|(name, ..)| *name);
            std::thread::sleep(Duration::from_millis(50));
        }
        if overdue.is_some() {
            // The clients find their connections broken then.
            guests.into_iter().try_for_each(Guest::stop)?;
        }
        let mut answered = Vec::new();
        for (name, beat, thread) in threads {
            let ended = thread.join().ok().context("a client's thread")?;
            answered.push((name, beat.requests()));
            if overdue.is_none() {
                ended.with_context(|| name.to_owned())?;
            }
        }
        match overdue {
            Some(name) => bail!("{name} has not answered for {} s", PATIENCE.as_secs()),
            None => Ok(answered),
        }
    })?;
    for member in members {
        member.requests +=
            answered.iter().filter(|(name, _)| *name == member.name).map(|(_, n)| n).sum::<u64>();
    }
    Ok(())
}

/// The whole of it.
pub(super) fn run(options: &Options) -> Result<Vec<Row>> {
    let whole = Duration::from_secs(options.minutes * 60);
    let round = (whole / ROUND_SHARE).clamp(ROUND.0, ROUND.1);
    let mut members = members(options)?;
    let start = Instant::now();
    // At least a round to settle, one to compare with, and one to be compared.
    for number in 1.. {
        load_all(&mut members, Instant::now() + round)
            .with_context(|| format!("round {number} (seed {})", options.seed))?;
        let ends = members.iter().map(Member::clock).collect::<Result<Vec<u64>>>()?;
        members.iter_mut().zip(ends).try_for_each(|(member, end)| member.rest(end + SETTLING_MS))?;
        let seconds = start.elapsed().as_secs();
        for Member { name, requests, rests, .. } in &members {
            let shown =
                rests.last().and_then(|rest| rest.last()).map(ToString::to_string).unwrap_or_default();
            println!("{seconds} s, round {number}: {name}: {requests} requests; {shown}");
        }
        if number >= ROUNDS_MIN && start.elapsed() >= whole {
            break;
        }
    }
    for member in &members {
        judge(&member.rests).with_context(|| format!("{} (seed {})", member.name, options.seed))?;
    }
    members.iter_mut().try_for_each(Member::end)?;
    // The next boot finds everything as the clients left it.
    for member in &mut members {
        let guest = (member.boot)(&member.image)?;
        member.clients.iter_mut().try_for_each(|client| verify(client.as_mut(), guest.address))?;
        member.guest = Some(guest);
        member.end()?;
    }
    Ok(members.iter().map(Member::row).collect())
}
