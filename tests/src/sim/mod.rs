//! Power cuts by the thousand: a pool lives through random operations on [`platform::sim`]'s disks, which record every write; then
//! the disks are made as a cut at any moment would have left them, imported, and compared with what was promised until then.
//!
//! A run is drawn from its seed: operation `i` has a generator of its own, so that an operation can be left out without changing
//! what the others draw. That is how a failing case is made smaller ([`shrink`]).

mod devices;
mod judge;

pub use judge::{Mark, zdb};

use crate::layout::{Layout, features_of};
use crate::model::{Limits, Rng, env};
use crate::tool::Zdb;
use crate::world::{Promise, State, World};
use anyhow::{Context, Result, anyhow};
use platform::block::BlockDevice;
use platform::random::Seeded;
use platform::sim::{Cuts, Fate, Image, SimDisk, SimLog};
use std::collections::BTreeSet;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use zfs::spa::ScanControl;

/// Size of each disk in bytes.
const DISK_SIZE: u64 = 96 << 20;
/// Small files, so that a cut is checked in milliseconds.
const LIMITS: Limits = Limits { files: 40, length: 40_000, file_size: 150_000, long_names: false };
/// The pool's name.
const POOL: &str = "sim";
/// Operations before the record begins.
const WARM_UP: u64 = 25;

/// What a run is drawn from.
#[derive(Debug, Clone)]
pub struct Plan {
    /// The seed.
    pub seed: u64,
    /// How the disks are put together.
    pub layout: Layout,
    /// How many operations there are.
    pub operations: u64,
    /// Operations that are left out.
    pub skip: BTreeSet<u64>,
    /// The disks answer late and in another order.
    pub reorder: bool,
    /// There is an idle disk more, and now and then disks change places.
    pub swap: bool,
    /// Now and then the disks are told what is free on them.
    pub trim: bool,
}

impl Plan {
    /// A run with nothing left out.
    #[must_use]
    pub fn new(seed: u64, layout: Layout, operations: u64) -> Self {
        Plan {
            seed,
            layout,
            operations,
            skip: BTreeSet::new(),
            reorder: seed % 4 == 3,
            swap: seed % 3 == 2,
            trim: seed % 5 == 4,
        }
    }

    fn disks(&self) -> usize {
        self.layout.disks() + usize::from(self.swap)
    }

    fn rng(&self, operation: u64) -> Rng {
        Rng::new(self.seed.wrapping_mul(0x2545_f491_4f6c_dd1d) ^ operation)
    }
}

/// A run that has happened: every write of it, and what was promised when.
pub struct Run {
    plan: Plan,
    log: Arc<SimLog>,
    base: Vec<Image>,
    marks: Vec<Mark>,
}

/// A broken promise.
#[derive(Debug)]
pub struct Failure {
    /// The run.
    pub plan: Plan,
    /// After which event of its record the power went; `None`: the run itself failed.
    pub cut: Option<usize>,
    /// What the cut left of the writes that were not flushed.
    pub fates: Vec<Fate>,
    /// Disks that were lost besides.
    pub lost: BTreeSet<usize>,
    /// What was found.
    pub error: anyhow::Error,
    /// The operations before the cut, and where the writes went.
    pub story: Vec<String>,
}

fn devices(log: &Arc<SimLog>, images: &[Image]) -> Vec<Arc<SimDisk>> {
    images.iter().enumerate().map(|(i, image)| Arc::new(SimDisk::new(log, i, image.clone()))).collect()
}

fn handles(disks: &[Arc<SimDisk>], lost: &BTreeSet<usize>) -> Vec<Arc<dyn BlockDevice>> {
    let kept = disks.iter().enumerate().filter(|(i, _)| !lost.contains(i));
    kept.map(|(_, d)| Arc::<SimDisk>::clone(d) as Arc<dyn BlockDevice>).collect()
}

/// Turns a panic of the engine or of the model into an error.
fn guarded<T>(work: impl FnOnce() -> Result<T>) -> Result<T> {
    std::panic::catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        let text = text.or_else(|| panic.downcast_ref::<&str>().map(|s| (*s).to_owned()));
        Err(anyhow!("panic: {}", text.unwrap_or_default()))
    })
}

impl Run {
    /// Lives through the plan's operations.
    pub fn record(plan: &Plan) -> Result<Run> {
        let log = if plan.reorder { SimLog::reordering(plan.seed) } else { SimLog::new() };
        let images = vec![Image::new(DISK_SIZE); plan.disks()];
        let disks = devices(&log, &images);
        guarded(|| {
            let first = handles(&disks[..plan.layout.disks()], &BTreeSet::new());
            let pool = plan.layout.create_with(first, POOL, &features_of(plan.seed))?;
            let mut world = World::new(pool, LIMITS);
            for i in 0..WARM_UP {
                world.step(&mut plan.rng(u64::MAX - i)).with_context(|| format!("warm-up {i}"))?;
            }
            world.pool().sync()?;
            let base = disks.iter().map(|d| d.image()).collect();
            log.start();
            let first =
                Mark { at: 0, promise: Promise::Pool, state: world.state().clone(), story: String::new() };
            let mut marks = vec![first];
            for i in (0..plan.operations).filter(|i| !plan.skip.contains(i)) {
                let mut rng = plan.rng(i);
                let (promise, story) = if plan.swap && rng.below(8) == 0 {
                    let story = devices::step(world.pool(), &disks, &mut rng);
                    (Promise::Pool, story.with_context(|| format!("operation {i}"))?)
                } else if plan.trim && rng.below(5) == 0 {
                    let trimmed = world.pool().trim(&[], None, &mut |_| ScanControl::Continue);
                    let trimmed = trimmed.with_context(|| format!("operation {i}: trim"))?;
                    (Promise::Pool, format!("trim: {} bytes", trimmed.bytes))
                } else {
                    world.step(&mut rng).with_context(|| format!("operation {i}"))?
                };
                let story = format!("{i}: {story}");
                marks.push(Mark { at: log.now(), promise, state: world.state().clone(), story });
            }
            Ok(Run { plan: plan.clone(), log: Arc::clone(&log), base, marks })
        })
    }

    /// How many moments there are at which the power can go.
    #[must_use]
    pub fn moments(&self) -> usize {
        self.marks.last().map_or(0, |m| m.at)
    }

    /// Cuts the power `cuts` times, spread over the whole run (at every moment, if there are no more), and checks each.
    pub fn check(&self, cuts: usize, seed: u64) -> Result<usize, Box<Failure>> {
        let moments = self.moments();
        let mut rng = Rng::new(seed);
        let mut at: Vec<usize> = match cuts > moments {
            true => (0..cuts).map(|i| i % (moments + 1)).collect(),
            false => (0..cuts).map(|_| rng.below(moments as u64 + 1) as usize).collect(),
        };
        at.sort_unstable();
        let mut replay = Cuts::new(&self.log, self.base.clone());
        for (i, cut) in at.iter().enumerate() {
            replay.advance(*cut);
            let draw = rng.number();
            let fates = replay.draw(&Seeded::new(draw));
            let lost = self.lose(&mut rng);
            let failed = |error, fates: Vec<Fate>| Failure {
                plan: self.plan.clone(),
                cut: Some(*cut),
                story: self.story(*cut, &replay, &fates),
                fates,
                lost: lost.clone(),
                error,
            };
            if let Err(error) = self.check_one(*cut, &replay, &fates, &lost, draw ^ i as u64) {
                return Err(Box::new(failed(error, fates)));
            }
        }
        Ok(at.len())
    }

    /// Disks that are gone after a cut: seldom any, never more than the layout bears.
    fn lose(&self, rng: &mut Rng) -> BTreeSet<usize> {
        let (layout, mut lost) = (self.plan.layout, BTreeSet::new());
        if rng.below(4) == 0 {
            for _ in 0..layout.tolerance() {
                lost.insert(rng.below(self.plan.disks() as u64) as usize);
            }
        }
        lost
    }

    fn check_one(
        &self,
        cut: usize,
        replay: &Cuts<'_>,
        fates: &[Fate],
        lost: &BTreeSet<usize>,
        seed: u64,
    ) -> Result<()> {
        let images = replay.cut(fates);
        let judge = judge::Judge::new(&self.marks, cut);
        guarded(|| recover(&judge, images, lost, seed, 0))
    }

    fn story(&self, cut: usize, replay: &Cuts<'_>, fates: &[Fate]) -> Vec<String> {
        let mut story: Vec<String> = Vec::new();
        for mark in self.marks.iter().take_while(|m| m.at <= cut).skip(1) {
            story.push(format!("{} [{:?} at {}]", mark.story, mark.promise, mark.at));
        }
        if let Some(next) = self.marks.iter().find(|m| m.at > cut) {
            story.push(format!("{} [under way at the cut, would end at {}]", next.story, next.at));
        }
        for ((disk, offset, len), fate) in replay.list_unflushed().into_iter().zip(fates) {
            if *fate != Fate::Kept {
                story.push(format!("disk {disk} {offset:#x}+{len:#x}: {fate}"));
            }
        }
        story
    }

    /// Cuts once more, at a given moment and with given fates.
    pub fn check_again(&self, cut: usize, fates: &[Fate], lost: &BTreeSet<usize>) -> Result<()> {
        let mut replay = Cuts::new(&self.log, self.base.clone());
        replay.advance(cut);
        self.check_one(cut, &replay, fates, lost, 0)
    }
}

/// Imports what a cut left and judges it; now and then the power goes again while that happens, or the pool lives on.
fn recover(
    judge: &judge::Judge<'_>,
    images: Vec<Image>,
    lost: &BTreeSet<usize>,
    seed: u64,
    depth: u32,
) -> Result<()> {
    let mut rng = Rng::new(seed);
    let log = SimLog::new();
    let disks = devices(&log, &images);
    log.start();
    let pool = judge::import(handles(&disks, lost)).context("import after the cut")?;
    judge.check(&pool, lost.is_empty(), &mut rng)?;
    if depth < 2 && log.now() > 0 && rng.below(3) == 0 {
        let mut replay = Cuts::new(&log, images);
        replay.advance(rng.below(log.now() as u64 + 1) as usize);
        let again = replay.cut(&replay.draw(&Seeded::new(rng.number())));
        recover(judge, again, lost, rng.number(), depth + 1).context("cut again while it recovered")?;
    }
    if rng.below(4) == 0 {
        live_on(pool, &disks, lost, &mut rng).context("living on after the cut")?;
    }
    Ok(())
}

/// The pool goes on to work: operations, export, import.
fn live_on(
    pool: Arc<zfs::spa::Pool>,
    disks: &[Arc<SimDisk>],
    lost: &BTreeSet<usize>,
    rng: &mut Rng,
) -> Result<()> {
    let mut world = World::adopt(pool, LIMITS, 1 << 32)?;
    for i in 0..12 {
        world.step(rng).with_context(|| format!("step {i}"))?;
    }
    world.unmount_all()?;
    if rng.below(2) == 0 {
        devices::resilver(world.pool())?;
    }
    world.pool().export()?;
    let (state, next): (State, u64) = (world.state().clone(), world.next());
    drop(world);
    let pool = judge::import(handles(disks, lost)).context("import after export")?;
    let mut world = World::resume(pool, state, LIMITS, next);
    world.check()?;
    world.unmount_all()?;
    judge::verify(world.pool(), lost.is_empty())?;
    if lost.is_empty() && rng.below(20) == 0 {
        let zdb = Zdb::of(world.pool());
        world.pool().export()?;
        drop(world);
        let images: Vec<Image> = disks.iter().map(|d| d.image()).collect();
        judge::zdb(&images, POOL, zdb)?;
    }
    Ok(())
}

/// Makes a failing case smaller: fewer operations, fewer lost writes; as long as it still fails, and at most `attempts` runs.
#[must_use]
pub fn shrink(failure: Failure, attempts: usize) -> Failure {
    let mut best = failure;
    let mut left = attempts;
    let mut chunk = (best.plan.operations / 2).max(1);
    while chunk > 0 && left > 0 {
        let mut from = 0;
        while from < best.plan.operations && left > 0 {
            let mut plan = best.plan.clone();
            let before = plan.skip.len();
            plan.skip.extend(from..(from + chunk).min(plan.operations));
            from += chunk;
            if plan.skip.len() == before {
                continue;
            }
            left -= 1;
            if let Some(smaller) = attempt(&plan, best.cut.is_some()) {
                best = smaller;
            }
        }
        chunk /= 2;
    }
    simplify(best)
}

fn attempt(plan: &Plan, cuts: bool) -> Option<Failure> {
    const CUTS: usize = 300;
    match Run::record(plan) {
        Ok(run) if cuts => run.check(CUTS, plan.seed).err().map(|f| *f),
        Ok(_) => None,
        Err(error) if !cuts => Some(Failure::of_run(plan, error)),
        Err(_) => None,
    }
}

/// Fewer writes lost or torn.
fn simplify(mut failure: Failure) -> Failure {
    let (Some(cut), Ok(run)) = (failure.cut, Run::record(&failure.plan)) else { return failure };
    for i in 0..failure.fates.len() {
        for simpler in [Fate::Kept, Fate::Lost] {
            let mut fates = failure.fates.clone();
            if fates[i] == simpler || (simpler == Fate::Lost && fates[i] == Fate::Kept) {
                continue;
            }
            fates[i] = simpler;
            if let Err(error) = run.check_again(cut, &fates, &failure.lost) {
                (failure.fates, failure.error) = (fates, error);
                break;
            }
        }
    }
    let mut replay = Cuts::new(&run.log, run.base.clone());
    replay.advance(cut);
    failure.story = run.story(cut, &replay, &failure.fates);
    failure
}

impl Failure {
    /// The run itself failed.
    #[must_use]
    pub fn of_run(plan: &Plan, error: anyhow::Error) -> Failure {
        Failure {
            plan: plan.clone(),
            cut: None,
            fates: Vec::new(),
            lost: BTreeSet::new(),
            error,
            story: Vec::new(),
        }
    }
}

impl core::fmt::Display for Failure {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        let plan = &self.plan;
        writeln!(
            f,
            "seed {}, layout {}, {} operations without {:?}, reordering {}, swapping {}: cut {:?}, lost disks {:?}: {:#}",
            plan.seed,
            plan.layout.name(),
            plan.operations,
            plan.skip,
            plan.reorder,
            plan.swap,
            self.cut,
            self.lost,
            self.error
        )?;
        self.story.iter().try_for_each(|line| writeln!(f, "  {line}"))
    }
}

/// Runs until `cuts` power cuts were checked; each run has a seed of its own. Answers how many runs and cuts there were.
pub fn campaign(
    layout: Layout,
    cuts: usize,
    seed: u64,
    per_run: usize,
    operations: u64,
) -> Result<(usize, usize), Box<Failure>> {
    let (mut runs, mut done) = (0, 0);
    while done < cuts {
        let plan = Plan::new(seed + runs as u64, layout, operations);
        let run = Run::record(&plan).map_err(|e| Box::new(Failure::of_run(&plan, e)))?;
        done += run.check(per_run.min(cuts - done), plan.seed)?;
        runs += 1;
    }
    Ok((runs, done))
}

/// A clock and randomness that are the same every time.
pub(crate) fn fixed_env() -> platform::Env {
    env()
}
