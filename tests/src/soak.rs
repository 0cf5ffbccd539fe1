//! Random operations on a whole pool against its model, with exports and imports between: for minutes, or for days.

use crate::layout::{Layout, features_of};
use crate::model::{Limits, Rng, env};
use crate::tool::Zdb;
use crate::world::World;
use anyhow::{Context, Result, ensure};
use platform::block::BlockDevice;
use platform::sim::{Image, SimDisk, SimLog};
use std::sync::Arc;
use zfs::spa::{ImportOptions, Pool};

/// Size of each disk in bytes.
const DISK_SIZE: u64 = 384 << 20;
/// Operations between two exports of a campaign.
pub const ROUND: u64 = 200;
/// Rounds between two judgements of zdb.
const ZDB_ROUNDS: u64 = 4;
const LIMITS: Limits = Limits { files: 120, length: 200_000, file_size: 1 << 20, long_names: false };

/// A pool that lives long.
pub struct Soak {
    layout: Layout,
    seed: u64,
    disks: Vec<Arc<SimDisk>>,
    world: Option<World>,
    round: u64,
}

impl Soak {
    /// A new one.
    pub fn new(layout: Layout, seed: u64) -> Result<Soak> {
        let log = SimLog::new();
        let disks: Vec<Arc<SimDisk>> =
            (0..layout.disks()).map(|i| Arc::new(SimDisk::new(&log, i, Image::new(DISK_SIZE)))).collect();
        let mut soak = Soak { layout, seed, disks, world: None, round: 0 };
        soak.world =
            Some(World::new(layout.create_with(soak.devices(), "soak", &features_of(seed))?, LIMITS));
        Ok(soak)
    }

    fn devices(&self) -> Vec<Arc<dyn BlockDevice>> {
        self.disks.iter().map(|d| Arc::<SimDisk>::clone(d) as Arc<dyn BlockDevice>).collect()
    }

    /// One round: so many operations, comparison, export, import, comparison. Now and then, the first time among them, zdb judges.
    pub fn round(&mut self, operations: u64) -> Result<()> {
        let about = format!("seed {}, layout {}, round {}", self.seed, self.layout.name(), self.round);
        let mut world = self.world.take().context("a round failed before")?;
        let mut rng = Rng::new(self.seed ^ (self.round + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
        for i in 0..operations {
            world.step(&mut rng).with_context(|| format!("{about}, operation {i}"))?;
        }
        world.check().with_context(|| about.clone())?;
        world.unmount_all()?;
        let zdb = Zdb::of(world.pool());
        world.pool().export()?;
        let (state, next) = (world.state().clone(), world.next());
        drop(world);
        if self.round.is_multiple_of(ZDB_ROUNDS) {
            let images: Vec<Image> = self.disks.iter().map(|d| d.image()).collect();
            crate::sim::zdb(&images, "soak", zdb).with_context(|| about.clone())?;
        }
        let options = ImportOptions { force: true, ..ImportOptions::default() };
        let pool = Pool::import(self.devices(), env(), options).with_context(|| about.clone())?;
        let mut world = World::resume(pool, state, LIMITS, next);
        world.check().with_context(|| format!("{about}, after import"))?;
        let report = world.pool().verify(&mut |_| ())?;
        ensure!(report.is_clean(), "{about}: {report:?}");
        self.world = Some(world);
        self.round += 1;
        Ok(())
    }
}
