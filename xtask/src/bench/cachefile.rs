//! A pool as `zdb` wants it where it does not import: in use, and named in a cachefile.

use anyhow::{Context, Result};
use platform::Env;
use platform::block::BlockDevice;
use platform::host::{FileDisk, OsRandom, SystemClock};
use std::path::Path;
use std::sync::Arc;
use zfs::ondisk::nvlist::NvList;
use zfs::spa::{ImportOptions, Pool};
use zfs::vdev::label;

/// Takes the pool on `image`, of one disk, into use without ever letting go of it, and writes a cachefile with it.
pub(super) fn cachefile(image: &Path, cache: &Path) -> Result<()> {
    let disk: Arc<dyn BlockDevice> = Arc::new(FileDisk::open(image, true)?);
    let env = Env { clock: Arc::new(SystemClock), random: Arc::new(OsRandom::open()?) };
    let pool = Pool::import(vec![Arc::clone(&disk)], env, ImportOptions::default())?;
    // The labels say so with the first change.
    pool.set_property("comment", "in use")?;
    pool.sync()?;
    let label = label::read(&*disk)?;
    std::mem::forget(pool);
    let config = &label.config;
    let mut top = config.nvlist("vdev_tree")?.clone();
    top.insert("path", image.canonicalize()?.to_str().context("the image's path is not UTF-8")?);
    let (guid, name) = (config.u64("pool_guid")?, config.str("name")?);
    let tree =
        NvList::new().with("type", "root").with("id", 0u64).with("guid", guid).with("children", vec![top]);
    let mut entry = config.clone();
    entry.insert("vdev_tree", tree);
    std::fs::write(cache, NvList::new().with(name, entry).pack_xdr()).context("the cachefile")
}
