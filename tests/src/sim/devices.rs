//! Devices that change places between the other operations: an idle disk takes the place of one of the pool's, which is idle then.

use anyhow::{Context, Result};
use platform::block::BlockDevice;
use platform::sim::SimDisk;
use std::sync::Arc;
use zfs::spa::{NewDevice, Pool, Replacement, ScanControl};

use crate::model::Rng;

/// What labels say where disk `n` is: as new pools number their disks.
fn path(n: usize) -> String {
    format!("/dev/vd{}", char::from(b'a' + u8::try_from(n % 26).unwrap_or(0)))
}

/// The leaves of the pool with the numbers of their disks.
fn leaves(pool: &Pool, disks: usize) -> Vec<(usize, u64)> {
    let vdevs = pool.zio().vdevs();
    let number = |path: Option<&str>| (0..disks).find(|n| Some(self::path(*n).as_str()) == path);
    vdevs.leaves().iter().filter_map(|leaf| Some((number(leaf.path.as_deref())?, leaf.guid))).collect()
}

/// One step: a replacement begins, or what devices lack is brought to them; what was done.
pub(super) fn step(pool: &Arc<Pool>, disks: &[Arc<SimDisk>], rng: &mut Rng) -> Result<String> {
    if pool.needs_resilver() {
        resilver(pool)?;
        return Ok("resilver".into());
    }
    let leaves = leaves(pool, disks.len());
    let idle = (0..disks.len()).find(|n| leaves.iter().all(|(own, _)| own != n));
    let Some(idle) = idle else { return Ok("no idle disk".into()) };
    let (old, guid) = leaves[rng.below(leaves.len() as u64) as usize];
    let device = Arc::<SimDisk>::clone(&disks[idle]) as Arc<dyn BlockDevice>;
    let new = NewDevice { device, path: Some(path(idle)) };
    pool.replace(guid, Replacement::Device(new)).with_context(|| format!("replace disk {old} by {idle}"))?;
    Ok(format!("replace disk {old} by {idle}"))
}

/// Brings devices what they lack.
pub(super) fn resilver(pool: &Arc<Pool>) -> Result<()> {
    let report = pool.resilver(&mut |_| ScanControl::Continue).context("resilver")?;
    if let Some(report) = report {
        anyhow::ensure!(report.status.errors == 0 && report.problems.is_empty(), "resilver: {report:?}");
    }
    Ok(())
}
