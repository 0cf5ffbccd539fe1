//! [`Filesystem`]: the public face of a mounted dataset.

use super::types::{Attr, DirEntry, Durability, MountOptions, New, RenameFlags, SetAttr, StatFs, XattrMode};
use crate::dmu::{Objset, Tx};
use crate::dsl::Dataset;
use crate::error::Result;
use crate::spa::Pool;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;

/// Makes an empty objset a file system: master node, attribute registry, delete queue and a root directory with mode
/// 0755 (`zfs_create_fs`). `properties`: those that are fixed at creation (`normalization`, `utf8only`,
/// `casesensitivity`), by name and number; others are ignored. `now` is the time of the root directory.
pub fn init(
    os: &Arc<Objset>,
    tx: &Tx,
    properties: &[(&str, u64)],
    now: platform::clock::Timespec,
) -> Result<()> {
    let _ = (os, tx, properties, now);
    todo!()
}

/// A mounted file system.
pub struct Filesystem {}

#[expect(unused_variables, reason = "interface first")]
impl Filesystem {
    /// Mounts. Writable: replays the intent log and removes what the delete queue holds.
    pub fn mount(pool: &Arc<Pool>, dataset: Arc<Dataset>, options: MountOptions) -> Result<Arc<Filesystem>> {
        todo!()
    }
    /// Commits everything and closes the intent log. Calls that change something fail from now on.
    pub fn unmount(&self) -> Result<()> {
        todo!()
    }
    /// Whether nothing can be changed.
    pub fn read_only(&self) -> bool {
        todo!()
    }
    /// The dataset.
    pub fn dataset(&self) -> &Arc<Dataset> {
        todo!()
    }
    /// The root directory.
    pub fn root(&self) -> u64 {
        todo!()
    }
    /// The object that `name` leads to in directory `dir`. `.` and `..` work; `..` of the root is the root.
    pub fn lookup(&self, dir: u64, name: &[u8]) -> Result<u64> {
        todo!()
    }
    /// A file's attributes.
    pub fn getattr(&self, object: u64) -> Result<Attr> {
        todo!()
    }
    /// Changes attributes; gives the new ones.
    pub fn setattr(&self, object: u64, set: &SetAttr) -> Result<Attr> {
        todo!()
    }
    /// Reads from byte `offset`; how many bytes, fewer than asked for only at the end of the file.
    pub fn read(&self, object: u64, offset: u64, buf: &mut [u8]) -> Result<usize> {
        todo!()
    }
    /// Writes at byte `offset`; all or nothing.
    pub fn write(&self, object: u64, offset: u64, data: &[u8], durability: Durability) -> Result<()> {
        todo!()
    }
    /// Writes at the end of the file, wherever that is by then; gives the offset of the first byte.
    pub fn append(&self, object: u64, data: &[u8], durability: Durability) -> Result<u64> {
        todo!()
    }
    /// Sets a regular file's length, in bytes.
    pub fn truncate(&self, object: u64, size: u64) -> Result<()> {
        todo!()
    }
    /// Creates `name` in `dir`; gives its object number. [`crate::Error::Exists`] if it is there.
    pub fn create(&self, dir: u64, name: &[u8], new: &New) -> Result<u64> {
        todo!()
    }
    /// A file with no name yet (`O_TMPFILE`); it goes with its last [`Filesystem::release`] unless it is linked.
    pub fn create_tmpfile(&self, dir: u64, new: &New) -> Result<u64> {
        todo!()
    }
    /// One more name for a file that is no directory.
    pub fn link(&self, dir: u64, name: &[u8], object: u64) -> Result<()> {
        todo!()
    }
    /// Removes the name of a file that is no directory.
    pub fn unlink(&self, dir: u64, name: &[u8]) -> Result<()> {
        todo!()
    }
    /// Removes an empty directory.
    pub fn rmdir(&self, dir: u64, name: &[u8]) -> Result<()> {
        todo!()
    }
    /// Moves a name, replacing the target as POSIX says.
    pub fn rename(
        &self,
        from_dir: u64,
        from: &[u8],
        to_dir: u64,
        to: &[u8],
        flags: RenameFlags,
    ) -> Result<()> {
        todo!()
    }
    /// A symbolic link's target.
    pub fn readlink(&self, object: u64) -> Result<Vec<u8>> {
        todo!()
    }
    /// Up to `max` entries of a directory after `cookie` (0: from the start), without `.` and `..`; empty at the end.
    pub fn readdir(&self, dir: u64, cookie: u64, max: usize) -> Result<Vec<DirEntry>> {
        todo!()
    }
    /// The directory that holds a directory; the root's is itself.
    pub fn parent(&self, dir: u64) -> Result<u64> {
        todo!()
    }
    /// An extended attribute's value, by its full name (`user.x`). [`crate::Error::NotFound`] if there is none.
    pub fn get_xattr(&self, object: u64, name: &[u8]) -> Result<Vec<u8>> {
        todo!()
    }
    /// Sets an extended attribute.
    pub fn set_xattr(&self, object: u64, name: &[u8], value: &[u8], mode: XattrMode) -> Result<()> {
        todo!()
    }
    /// The full names of all extended attributes, sorted.
    pub fn list_xattr(&self, object: u64) -> Result<Vec<Vec<u8>>> {
        todo!()
    }
    /// Removes an extended attribute.
    pub fn remove_xattr(&self, object: u64, name: &[u8]) -> Result<()> {
        todo!()
    }
    /// Makes `len` bytes from `offset` read as zeros and gives back their space. The length stays.
    pub fn punch_hole(&self, object: u64, offset: u64, len: u64) -> Result<()> {
        todo!()
    }
    /// The first byte at or after `from` that may hold data (`SEEK_DATA`); `None` if there is none.
    pub fn next_data(&self, object: u64, from: u64) -> Result<Option<u64>> {
        todo!()
    }
    /// The first byte at or after `from` that is in a hole (`SEEK_HOLE`), at most the length; `None` if `from` is at or
    /// past the end.
    pub fn next_hole(&self, object: u64, from: u64) -> Result<Option<u64>> {
        todo!()
    }
    /// Makes everything done to the file durable, through the intent log.
    pub fn fsync(&self, object: u64) -> Result<()> {
        todo!()
    }
    /// Makes everything done to this file system durable (`syncfs`).
    pub fn sync(&self) -> Result<()> {
        todo!()
    }
    /// The file system's figures.
    pub fn statfs(&self) -> Result<StatFs> {
        todo!()
    }
    /// Keeps the object from vanishing when its last name goes: one call per open file.
    pub fn hold(&self, object: u64) -> Result<()> {
        todo!()
    }
    /// Undoes one [`Filesystem::hold`]; the last one of a file without names removes it.
    pub fn release(&self, object: u64) {
        todo!()
    }
    /// Names of the snapshots, oldest first: the content of `.zfs/snapshot`.
    pub fn snapshot_names(&self) -> Result<Vec<String>> {
        todo!()
    }
    /// Takes a snapshot of this file system, with everything written so far.
    pub fn create_snapshot(&self, name: &str) -> Result<()> {
        todo!()
    }
    /// Destroys a snapshot.
    pub fn destroy_snapshot(&self, name: &str) -> Result<()> {
        todo!()
    }
    /// Mounts a snapshot, read-only.
    pub fn mount_snapshot(&self, name: &str) -> Result<Arc<Filesystem>> {
        todo!()
    }
}
