//! Snapshots, as `.zfs/snapshot` shows them.

use super::filesystem::Filesystem;
use super::types::MountOptions;
use crate::error::{Error, Result};
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;

impl Filesystem {
    fn snapshot_name(&self, name: &str) -> Result<String> {
        if name.is_empty() || name.contains(['@', '/', '#']) {
            return Err(Error::Invalid("snapshot name"));
        }
        if self.dataset.is_snapshot() {
            return Err(Error::ReadOnly);
        }
        Ok(alloc::format!("{}@{name}", self.dataset.name()))
    }

    /// Names of the snapshots, oldest first: the content of `.zfs/snapshot`.
    pub fn snapshot_names(&self) -> Result<Vec<String>> {
        if self.dataset.is_snapshot() {
            return Ok(Vec::new());
        }
        let snapshots = self.dataset.snapshots()?;
        Ok(snapshots.iter().filter_map(|s| s.name().split_once('@').map(|(_, name)| name.into())).collect())
    }

    /// Takes a snapshot of this file system, with everything written so far.
    pub fn create_snapshot(&self, name: &str) -> Result<()> {
        self.check_writable()?;
        self.pool.dsl().create_snapshots(&[&self.snapshot_name(name)?])
    }

    /// Destroys a snapshot.
    pub fn destroy_snapshot(&self, name: &str) -> Result<()> {
        self.check_writable()?;
        self.pool.dsl().destroy(&self.snapshot_name(name)?, false, false)
    }

    /// Gives a snapshot another name.
    pub fn rename_snapshot(&self, from: &str, to: &str) -> Result<()> {
        self.check_writable()?;
        self.pool.dsl().rename(&self.snapshot_name(from)?, &self.snapshot_name(to)?, false)
    }

    /// Mounts a snapshot, read-only.
    pub fn mount_snapshot(&self, name: &str) -> Result<Arc<Filesystem>> {
        let snapshot = self.pool.dsl().lookup(&self.snapshot_name(name)?)?;
        Filesystem::mount(&self.pool, snapshot, MountOptions { read_only: true, no_atime: true })
    }
}
