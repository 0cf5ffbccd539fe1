//! From an object's number back to its name. Source: `zfs_obj_to_path` (`module/os/linux/zfs/zfs_znode_os.c`).

use super::filesystem::Filesystem;
use super::types::MountOptions;
use crate::error::{Error, Result};
use crate::ondisk::sa::Zpl;
use crate::ondisk::znode::flags;
use crate::spa::{DamagedFile, Pool};
use alloc::collections::BTreeMap;
use alloc::sync::Arc;
use alloc::vec::Vec;

/// The deepest directory: no path of the format's is longer, and damaged parents may form a circle.
const MAX_DEPTH: usize = 4096;
/// Entries read at once.
const ENTRIES: usize = 1024;
/// What stands in a path for a hidden directory of extended attributes.
const XATTR_DIR: &[u8] = b"<xattrdir>";

impl Filesystem {
    /// The path of an object from the root on, `/` for the root itself. Of a file with several names one of those in
    /// the directory that it knows as its parent. [`Error::NotFound`] if it has none.
    pub fn path_of(&self, object: u64) -> Result<Vec<u8>> {
        let mut components: Vec<Vec<u8>> = Vec::new();
        let mut at = object;
        while at != self.root() {
            if components.len() > MAX_DEPTH {
                return Err(Error::corrupt("directory: its parents form a circle", None));
            }
            let znode = self.znode(at)?;
            if znode.is_unlinked() {
                return Err(Error::NotFound);
            }
            let parent = znode.word(Zpl::Parent);
            let is_xattr_dir = znode.is_dir() && znode.word(Zpl::Flags) & flags::XATTR != 0;
            components.push(if is_xattr_dir { XATTR_DIR.to_vec() } else { self.name_in(parent, at)? });
            at = parent;
        }
        let mut path = Vec::new();
        for component in components.iter().rev() {
            path.push(b'/');
            path.extend_from_slice(component);
        }
        if path.is_empty() {
            path.push(b'/');
        }
        Ok(path)
    }

    fn name_in(&self, dir: u64, object: u64) -> Result<Vec<u8>> {
        let mut cookie = 0;
        loop {
            let entries = self.readdir(dir, cookie, ENTRIES)?;
            let Some(last) = entries.last() else { return Err(Error::NotFound) };
            cookie = last.cookie;
            if let Some(entry) = entries.into_iter().find(|e| e.object == object) {
                return Ok(entry.name);
            }
        }
    }
}

/// Fills in the paths of damaged files, as far as they can be found.
pub fn name_damaged(pool: &Arc<Pool>, damaged: &mut [DamagedFile]) {
    let mut mounted: BTreeMap<u64, Option<Arc<Filesystem>>> = BTreeMap::new();
    for file in damaged.iter_mut().filter(|file| file.objset != 0 && file.object != 0) {
        let fs = mounted.entry(file.objset).or_insert_with(|| {
            let dataset = pool.dsl().lookup_object(file.objset).ok()?;
            let options = MountOptions { read_only: true, no_atime: true };
            Filesystem::mount(pool, dataset, options).ok()
        });
        file.path = fs.as_ref().and_then(|fs| fs.path_of(file.object).ok());
    }
    for fs in mounted.into_values().flatten() {
        // Nothing was changed, so nothing can be lost.
        let _ = fs.unmount();
    }
}
