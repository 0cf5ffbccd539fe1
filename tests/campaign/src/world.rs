//! A pool of random operations as image files: for judges other than ours. An existing one is read, believed and changed further.

use super::Options;
use anyhow::{Context, Result};
use platform::block::BlockDevice;
use platform::host::FileDisk;
use std::path::PathBuf;
use std::sync::Arc;
use tests::layout::Layout;
use tests::model::{Limits, Rng, env};
use tests::world::World;
use zfs::spa::{ImportOptions, Pool};

const LIMITS: Limits = Limits { files: 150, length: 200_000, file_size: 1 << 20, long_names: false };
const POOL: &str = "world";

/// `world --dir DIR [--layout L] [--seed S] [--operations N] [--size BYTES] [--feature F]`: makes `disk0.img`, `disk1.img`, … in the folder, or goes
/// on with those that are there.
pub(super) fn run(mut options: Options) -> Result<()> {
    let folder = PathBuf::from(options.text("--dir").context("--dir DIR is missing")?);
    let layout = options.text("--layout").map_or(Ok(Layout::Single), |name| Layout::parse(&name))?;
    let seed = options.seed()?;
    let operations = options.number("--operations")?.unwrap_or(500);
    let size = options.number("--size")?.unwrap_or(256 << 20);
    let feature = options.text("--feature");
    options.end()?;
    println!("seed {seed}, layout {}", layout.name());
    std::fs::create_dir_all(&folder)?;
    let paths: Vec<PathBuf> = (0..layout.disks()).map(|i| folder.join(format!("disk{i}.img"))).collect();
    let exists = paths.iter().all(|p| p.exists());
    let disks = paths.iter().map(|path| -> Result<Arc<dyn BlockDevice>> {
        let disk = if exists { FileDisk::open(path, true) } else { FileDisk::create(path, size) };
        Ok(Arc::new(disk.with_context(|| path.display().to_string())?))
    });
    let disks = disks.collect::<Result<Vec<_>>>()?;
    let mut world = if exists {
        let options = ImportOptions { force: true, ..ImportOptions::default() };
        // Names of an earlier run must not come back.
        World::adopt(Pool::import(disks, env(), options)?, LIMITS, seed << 24)?
    } else {
        let features: Vec<&str> = feature.as_deref().into_iter().collect();
        World::new(layout.create_with(disks, POOL, &features)?, LIMITS)
    };
    let mut rng = Rng::new(seed);
    for i in 0..operations {
        world.step(&mut rng).with_context(|| format!("operation {i}"))?;
    }
    world.check()?;
    world.unmount_all()?;
    world.pool().export()?;
    for name in tests::world::names_of(world.state()) {
        println!("{name}");
    }
    Ok(())
}
