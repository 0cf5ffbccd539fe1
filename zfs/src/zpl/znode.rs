//! A file in memory: its dnode, its attributes and its locks; and the cache of them.
//!
//! # Invariants
//! - There is one [`Znode`] per object at a time, so that its locks mean something.
//! - Its attributes are on their way to disk before the call that changed them returns: a znode can be dropped any time.

use super::sa::{Attrs, SaTable};
use super::types::FileKind;
use crate::dmu::{Dnode, Objset, RangeLock, Tx};
use crate::error::Result;
use crate::ondisk::sa::Zpl;
use crate::ondisk::znode::{FileOwner, flags};
use alloc::sync::Arc;
use core::sync::atomic::{AtomicBool, Ordering};
use hashbrown::HashMap;
use platform::sync::{Mutex, RwLock};

/// A file.
pub(super) struct Znode {
    /// Its object.
    pub(super) dnode: Arc<Dnode>,
    /// Locks on its content.
    pub(super) ranges: RangeLock,
    /// Of a directory: its entries.
    pub(super) entries: RwLock<()>,
    /// Its extended attributes.
    pub(super) xattrs: RwLock<()>,
    attrs: Mutex<Attrs>,
    /// The object is gone; whoever still has a handle must not use it.
    freed: AtomicBool,
}

impl Znode {
    pub(super) fn new(dnode: Arc<Dnode>, attrs: Attrs) -> Arc<Self> {
        Arc::new(Znode {
            dnode,
            ranges: RangeLock::default(),
            entries: RwLock::new(()),
            xattrs: RwLock::new(()),
            attrs: Mutex::new(attrs),
            freed: AtomicBool::new(false),
        })
    }

    /// Object number.
    pub(super) fn object(&self) -> u64 {
        self.dnode.object()
    }

    /// Looks at the attributes.
    pub(super) fn with<T>(&self, look: impl FnOnce(&Attrs) -> T) -> T {
        look(&self.attrs.lock())
    }

    /// A word among the attributes; 0 if it is missing.
    pub(super) fn word(&self, attr: Zpl) -> u64 {
        self.with(|attrs| attrs.word(attr))
    }

    /// Length in bytes.
    pub(super) fn size(&self) -> u64 {
        self.word(Zpl::Size)
    }

    /// Who pays for it.
    pub(super) fn owner(&self) -> FileOwner {
        self.with(|a| FileOwner {
            uid: a.word(Zpl::Uid),
            gid: a.word(Zpl::Gid),
            project: if a.word(Zpl::Flags) & flags::PROJID != 0 { a.word(Zpl::Projid) } else { 0 },
        })
    }

    /// Of a directory: the project that what is made in it gets (`zfs_inherit_projid`).
    pub(super) fn inherited_project(&self) -> Option<u64> {
        (self.word(Zpl::Flags) & flags::PROJINHERIT != 0).then(|| self.owner().project)
    }

    /// What it is.
    pub(super) fn kind(&self) -> FileKind {
        FileKind::from_mode(self.word(Zpl::Mode) as u32).unwrap_or(FileKind::Regular)
    }

    /// Whether it is a directory.
    pub(super) fn is_dir(&self) -> bool {
        self.kind() == FileKind::Directory
    }

    /// Whether it has no name any more, or no object.
    pub(super) fn is_unlinked(&self) -> bool {
        self.is_freed() || self.word(Zpl::Links) == 0
    }

    /// Whether the object is gone.
    pub(super) fn is_freed(&self) -> bool {
        self.freed.load(Ordering::Acquire)
    }

    /// The object is being freed.
    pub(super) fn set_freed(&self) {
        self.freed.store(true, Ordering::Release);
    }

    /// Changes attributes and writes them to the object.
    pub(super) fn update(&self, table: &SaTable, tx: &Tx, change: impl FnOnce(&mut Attrs)) -> Result<()> {
        let mut attrs = self.attrs.lock();
        change(&mut attrs);
        attrs.store(table, &self.dnode, tx)
    }
}

/// How many znodes are kept that nobody uses.
const KEEP: usize = 4096;

#[derive(Default)]
struct Entries {
    znodes: HashMap<u64, Arc<Znode>>,
    /// Sweep when there are more than so many, and than twice [`KEEP`].
    sweep_above: usize,
    /// Changes when an entry goes: what was loaded before may be stale.
    epoch: u64,
}

/// The znodes of a file system.
#[derive(Default)]
pub(super) struct ZnodeCache {
    entries: Mutex<Entries>,
}

impl ZnodeCache {
    /// The znode of an object, loaded if need be. [`crate::Error::NotFound`] if there is no such object.
    pub(super) fn get(&self, os: &Arc<Objset>, table: &SaTable, object: u64) -> Result<Arc<Znode>> {
        loop {
            let epoch = {
                let entries = self.entries.lock();
                if let Some(znode) = entries.znodes.get(&object) {
                    return Ok(Arc::clone(znode));
                }
                entries.epoch
            };
            let dnode = os.hold(object)?;
            let attrs = Attrs::load(table, &dnode)?;
            let mut entries = self.entries.lock();
            if entries.epoch == epoch {
                let znode = entries.znodes.entry(object).or_insert_with(|| Znode::new(dnode, attrs));
                let znode = Arc::clone(znode);
                entries.trim();
                return Ok(znode);
            }
        }
    }

    /// Adds a new file's.
    pub(super) fn insert(&self, znode: &Arc<Znode>) {
        let mut entries = self.entries.lock();
        entries.znodes.insert(znode.object(), Arc::clone(znode));
        entries.trim();
    }

    /// Forgets an object that is being freed.
    pub(super) fn remove(&self, object: u64) {
        let mut entries = self.entries.lock();
        entries.znodes.remove(&object);
        entries.epoch += 1;
    }

    /// Forgets everything.
    pub(super) fn clear(&self) {
        let mut entries = self.entries.lock();
        entries.znodes.clear();
        entries.epoch += 1;
    }
}

impl Entries {
    fn trim(&mut self) {
        if self.znodes.len() <= self.sweep_above.max(2 * KEEP) {
            return;
        }
        let is_used = |znode: &Arc<Znode>| Arc::strong_count(znode) > 1;
        let used = self.znodes.values().filter(|znode| is_used(znode)).count();
        let mut excess = (self.znodes.len() - used).saturating_sub(KEEP);
        if excess > 0 {
            self.znodes.retain(|_, znode| {
                let keep = excess == 0 || is_used(znode);
                excess -= usize::from(!keep);
                keep
            });
            self.epoch += 1;
        }
        // As many again must come before the next sweep: each costs a look at all of them.
        self.sweep_above = 2 * self.znodes.len();
    }
}
