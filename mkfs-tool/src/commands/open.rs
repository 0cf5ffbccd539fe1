//! Opening the pool on some images.

use crate::image::{Access, Images};
use anyhow::{Context, Result, bail, ensure};
use platform::Env;
use platform::clock::{Clock, FixedClock, Timespec};
use platform::host::{OsRandom, SystemClock};
use platform::random::{Random, Seeded};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use zfs::ondisk::nvlist::NvList;
use zfs::spa::{ImportOptions, Pool};
use zfs::vdev::partition;

/// Bytes that the cache may hold. The tool runs on a machine, not in a small guest.
pub(crate) const ARC_MAX: usize = 256 << 20;
/// Labels and boot area of a disk, in bytes (`VDEV_LABEL_START_SIZE`, `VDEV_LABEL_END_SIZE`).
const VDEV_OVERHEAD: u64 = (4 << 20) + (512 << 10);
/// Bytes of dirty data per transaction group.
pub(crate) const DIRTY_MAX: u64 = 128 << 20;

/// An open pool and the images below it.
pub(crate) struct OpenPool {
    pub(crate) pool: Arc<Pool>,
    images: Images,
}

impl OpenPool {
    /// Opens for looking. Nothing is written, whatever state the pool is in.
    pub(crate) fn read(disks: &[PathBuf]) -> Result<Self> {
        let options = ImportOptions { arc_max: ARC_MAX, ..ImportOptions::read_only() };
        Self::with(disks, Access::Read, options)?.with_keys()
    }

    /// Opens for changing.
    pub(crate) fn write(disks: &[PathBuf], force: bool) -> Result<Self> {
        // What refuses a pool is found while its images can only be read.
        let probe = Self::with(
            disks,
            Access::Read,
            ImportOptions { arc_max: 16 << 20, ..ImportOptions::read_only() },
        )?;
        drop(probe);
        let options =
            ImportOptions { force, arc_max: ARC_MAX, dirty_max: DIRTY_MAX, ..ImportOptions::default() };
        Self::with(disks, Access::Write, options)?.with_keys()
    }

    /// Loads the keys that were given.
    fn with_keys(self) -> Result<Self> {
        super::keys::load(&self.pool).with_context(|| self.name())?;
        Ok(self)
    }

    /// Opens with these options. `disks` name one pool.
    pub(crate) fn with(disks: &[PathBuf], access: Access, options: ImportOptions) -> Result<Self> {
        let images = Images::open(disks, access)?;
        one_pool(&images)?;
        let env = environment(None)?;
        let imported = Pool::import(images.devices.clone(), env, options);
        let pool =
            imported.with_context(|| images.name()).map_err(|e| match e.downcast_ref::<zfs::Error>() {
                Some(zfs::Error::InUse { host }) => anyhow::anyhow!(
                    "{}: last used by host {host} and not exported; if that host is off, use --force-import",
                    images.name()
                ),
                _ => e,
            })?;
        Ok(OpenPool { pool, images })
    }

    /// How the images are called in messages.
    pub(crate) fn name(&self) -> String {
        self.images.name()
    }

    /// Refuses a pool name on the command line that is not this pool's.
    pub(crate) fn expect_name(&self, name: Option<&str>) -> Result<()> {
        match name {
            Some(name) if name != self.pool.name() => {
                bail!("{}: holds pool {}, not {name}", self.name(), self.pool.name())
            }
            _ => Ok(()),
        }
    }

    /// Makes everything durable and closes a pool that was opened for writing.
    pub(crate) fn close(self) -> Result<()> {
        self.pool.export().with_context(|| self.images.name())
    }
}

/// Refuses an image that has no label of a pool, or that has lost its end.
pub(crate) fn check_labels(image: &Path) -> Result<()> {
    one_pool(&Images::open(std::slice::from_ref(&image.to_owned()), Access::Read)?)
}

/// All images must belong to one pool; two that do not would be taken for a pool with a missing disk.
fn one_pool(images: &Images) -> Result<()> {
    let mut pools: BTreeMap<u64, String> = BTreeMap::new();
    for (path, device) in images.paths.iter().zip(&images.devices) {
        let (label, device) = partition::find(device).with_context(|| path.display().to_string())?;
        let Some(guid) = label.config.get_u64("pool_guid") else { continue };
        not_truncated(&label.config, device.info().size).with_context(|| path.display().to_string())?;
        let name = label.config.get_str("name").unwrap_or("?");
        pools.entry(guid).or_insert_with(|| format!("{} (pool {name})", path.display()));
    }
    ensure!(
        pools.len() <= 1,
        "images of different pools: {}",
        pools.into_values().collect::<Vec<_>>().join(", ")
    );
    Ok(())
}

/// A file that is shorter than its label says has lost its end. Only of disks and mirrors is the label's size a leaf's.
fn not_truncated(config: &NvList, size: u64) -> Result<()> {
    let Some(vdev) = config.get_nvlist("vdev_tree") else { return Ok(()) };
    let plain = matches!(vdev.get_str("type"), Some("disk" | "file" | "mirror"));
    if let (true, Some(asize)) = (plain, vdev.get_u64("asize")) {
        // Four labels and the boot area beside the allocatable space.
        let least = asize.saturating_add(VDEV_OVERHEAD);
        ensure!(
            size >= least,
            "truncated: {size} bytes, and its label says that there were at least {least}"
        );
    }
    Ok(())
}

/// Clock and randomness: the machine's, unless `SOURCE_DATE_EPOCH` and a seed say otherwise.
pub(crate) fn environment(seed: Option<u64>) -> Result<Env> {
    let clock: Arc<dyn Clock> = match source_date_epoch()? {
        Some(sec) => Arc::new(FixedClock(Timespec { sec, nsec: 0 })),
        None => Arc::new(SystemClock),
    };
    let random: Arc<dyn Random> = match seed {
        Some(seed) => Arc::new(Seeded::new(seed)),
        None => Arc::new(OsRandom::open().context("the system's randomness")?),
    };
    Ok(Env { clock, random })
}

fn source_date_epoch() -> Result<Option<i64>> {
    let Some(text) = std::env::var_os("SOURCE_DATE_EPOCH").filter(|t| !t.is_empty()) else { return Ok(None) };
    let text = text.to_string_lossy();
    let seconds = text.parse::<u32>().ok().map(i64::from);
    seconds.map(Some).with_context(|| format!("SOURCE_DATE_EPOCH={text}: not a number of seconds since 1970"))
}
