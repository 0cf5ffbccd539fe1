//! Files without names: the delete queue, holds, and removal of the object. Source: `module/os/linux/zfs/zfs_dir.c`.
//!
//! # Invariants
//! - An object without links is in the delete queue, or freed in the transaction that took its last link.
//! - What is held has its znode in memory: whoever holds a file finds its attributes there.
//!
//! Lock order: a directory's entries, the holds, a znode's attributes or the delete queue.

use super::filesystem::{Filesystem, RESERVE_METADATA};
use super::znode::Znode;
use crate::dmu::Tx;
use crate::error::{Error, Result};
use crate::ondisk::sa::Zpl;
use crate::ondisk::znode::Dirent;
use crate::zap;
use alloc::sync::Arc;
use hashbrown::HashMap;
use platform::sync::MutexGuard;

/// That an object is held open.
pub(super) struct Hold {
    /// How often.
    count: u32,
    /// Keeps it in the cache of znodes.
    _znode: Arc<Znode>,
}

impl Hold {
    /// The first one.
    pub(super) fn first(znode: Arc<Znode>) -> Self {
        Hold { count: 1, _znode: znode }
    }
}

impl Filesystem {
    /// Keeps the object from vanishing when its last name goes: one call per open file.
    pub fn hold(&self, object: u64) -> Result<()> {
        let znode = self.znode(object)?;
        let mut holds = self.holds.lock();
        match holds.get_mut(&object) {
            Some(hold) => hold.count += 1,
            None if znode.is_unlinked() => return Err(Error::NotFound),
            None => {
                holds.insert(object, Hold::first(znode));
            }
        }
        Ok(())
    }

    /// Undoes one [`Filesystem::hold`]; the last one of a file without names removes it. (If that fails, the next mount
    /// does it.)
    pub fn release(&self, object: u64) {
        {
            let mut holds = self.holds.lock();
            match holds.get_mut(&object) {
                Some(hold) if hold.count > 1 => {
                    hold.count -= 1;
                    return;
                }
                Some(_) => {}
                None => return,
            }
            // The hold stays until the file is known to have names, or to be ours alone to remove.
            let unlinked = self.znode(object).is_ok_and(|z| z.is_unlinked());
            holds.remove(&object);
            if !unlinked || self.read_only() {
                return;
            }
        }
        let _ = self.remove_unlinked(object);
    }

    /// A file lost its last name, under this same lock of the holds.
    pub(super) fn unlinked(
        &self,
        tx: &Tx,
        znode: &Arc<Znode>,
        holds: MutexGuard<'_, HashMap<u64, Hold>>,
    ) -> Result<()> {
        if holds.contains_key(&znode.object()) {
            // Before the lock goes: the last hold takes out of the queue what must be in it.
            return self.enqueue(tx, znode.object());
        }
        // Nobody can hold it any more: it is seen to be unlinked.
        drop(holds);
        self.free_file(tx, znode)
    }

    fn queue(&self) -> Result<&Arc<crate::dmu::Dnode>> {
        self.delete_queue.as_ref().ok_or(Error::corrupt("master node: no delete queue", None))
    }

    /// Puts an object into the delete queue.
    pub(super) fn enqueue(&self, tx: &Tx, object: u64) -> Result<()> {
        zap::add_u64(self.queue()?, tx, zap::int_name(object).as_str(), object)
    }

    /// Takes an object out of the delete queue.
    pub(super) fn dequeue(&self, tx: &Tx, object: u64) -> Result<()> {
        zap::remove(self.queue()?, tx, zap::int_name(object).as_str())
    }

    /// Removes an object of the delete queue.
    fn remove_unlinked(&self, object: u64) -> Result<()> {
        let tx = self.os.begin_net_free(RESERVE_METADATA)?;
        match self.znode(object) {
            Ok(znode) => self.free_file(&tx, &znode)?,
            // Freed already, by a hand that did not get to the queue.
            Err(Error::NotFound) => {}
            Err(e) => return Err(e),
        }
        self.dequeue(&tx, object)
    }

    /// At mount: removes what the delete queue holds.
    pub(super) fn drain_delete_queue(&self) -> Result<()> {
        let Some(queue) = &self.delete_queue else { return Ok(()) };
        for entry in zap::entries(queue)? {
            let object = entry.value.first();
            if self.znode(object).is_ok_and(|znode| !znode.is_unlinked()) {
                // A txg that was closing has what the one behind it entered, and the power went between the two.
                let tx = self.os.begin_net_free(RESERVE_METADATA)?;
                self.dequeue(&tx, object)?;
            } else {
                self.remove_unlinked(object)?;
            }
        }
        Ok(())
    }

    /// Frees a file's object with all that belongs to it: extended attributes, an old-style ACL.
    fn free_file(&self, tx: &Tx, znode: &Arc<Znode>) -> Result<()> {
        let xattrs = znode.word(Zpl::Xattr);
        if xattrs != 0 {
            let dir = self.znode(xattrs)?;
            for entry in zap::entries(&dir.dnode)? {
                let child = Dirent::from_raw(entry.value.first()).object;
                // One that has another name (never so by Linux) stays.
                if let Ok(child) = self.znode(child)
                    && child.word(Zpl::Links) <= 1
                {
                    self.free_object(tx, &child)?;
                }
            }
            self.free_object(tx, &dir)?;
        }
        let acl = znode.with(|a| a.get(Zpl::ZnodeAcl).and_then(|v| v.first_chunk::<8>().copied()));
        let acl = acl.map_or(0, u64::from_le_bytes);
        if acl != 0 {
            match self.os.free(tx, acl) {
                Ok(()) | Err(Error::NotFound) => {}
                Err(e) => return Err(e),
            }
        }
        self.free_object(tx, znode)
    }

    fn free_object(&self, tx: &Tx, znode: &Arc<Znode>) -> Result<()> {
        znode.set_freed();
        self.znodes.remove(znode.object());
        self.os.free(tx, znode.object())
    }
}
