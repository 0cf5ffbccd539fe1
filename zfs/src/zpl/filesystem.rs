//! [`Filesystem`]: a mounted dataset; mounting, unmounting and what all operations share.

use super::quota::Quotas;
use super::sa::SaTable;
use super::tunables::Tunables;
use super::types::{MountOptions, StatFs};
use super::unlinked::Hold;
use super::znode::{Znode, ZnodeCache};
use crate::dmu::{Dnode, Objset, Tx};
use crate::dsl::{Dataset, Follow, Owned};
use crate::error::{Error, Result};
use crate::ondisk::objset::ObjsetKind;
use crate::ondisk::sa::Zpl;
use crate::ondisk::zil::Record;
use crate::spa::Pool;
use crate::zap::{self, Match, NORMALIZE_TO_UPPER};
use crate::zil::{InPlace, Log, Payload, ReadForLog, SyncMode, place_range};
use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use hashbrown::HashMap;
use platform::clock::Timespec;
use platform::sync::Mutex;

/// The master node's object number (`MASTER_NODE_OBJ`).
pub(super) const MASTER_NODE: u64 = 1;
/// Newest ZPL version: with system attributes.
pub(super) const ZPL_VERSION_SA: u64 = 5;
/// Space that a small change of metadata may dirty, in bytes.
pub(super) const RESERVE_METADATA: u64 = 64 << 10;

/// A mounted file system.
pub struct Filesystem {
    pub(super) pool: Arc<Pool>,
    pub(super) dataset: Arc<Dataset>,
    pub(super) os: Arc<Objset>,
    pub(super) sa: SaTable,
    pub(super) root: u64,
    /// The ZAP of objects without names.
    pub(super) delete_queue: Option<Arc<Dnode>>,
    /// How directories fold names (`zap_normflags`).
    pub(super) normalization: u64,
    /// Which names are the same.
    pub(super) match_names: Match,
    pub(super) utf8_only: bool,
    pub(super) dnode_slots: u8,
    pub(super) tunables: Tunables,
    pub(super) read_only: AtomicBool,
    pub(super) log: Option<Arc<Log>>,
    pub(super) znodes: ZnodeCache,
    /// The objects that are held open.
    pub(super) holds: Mutex<HashMap<u64, Hold>>,
    /// Serializes renames, so that the tree of directories stays one.
    pub(super) rename: Mutex<()>,
    /// From which txg on disk on extended attributes among the system attributes may be logged; 0: not known to be allowed.
    pub(super) sa_log_from: AtomicU64,
    /// Limits of users, groups and projects.
    pub(super) quotas: Mutex<Quotas>,
    owned: Mutex<Option<Owned>>,
}

/// A number from the master node; `None` if it is not there.
fn master_word(master: &Arc<Dnode>, name: &str) -> Result<Option<u64>> {
    match zap::lookup_u64(master, name) {
        Ok(word) => Ok(Some(word)),
        Err(Error::NotFound) => Ok(None),
        Err(e) => Err(e),
    }
}

impl Filesystem {
    /// Mounts. Writable: replays the intent log and removes what the delete queue holds.
    ///
    /// File systems below ZPL version 5 can only be mounted for reading.
    pub fn mount(pool: &Arc<Pool>, dataset: Arc<Dataset>, options: MountOptions) -> Result<Arc<Filesystem>> {
        if dataset.is_inconsistent() {
            return Err(Error::Invalid("it was received, or destroyed, in part only"));
        }
        let read_only = options.read_only
            || pool.is_read_only()
            || dataset.is_snapshot()
            || dataset.get_number("readonly").unwrap_or(0) != 0;
        if !read_only && dataset.root_bp().uses_crypt() {
            return Err(Error::unsupported("writing to an encrypted dataset: mount it read-only"));
        }
        let owned = if read_only { dataset.long_hold() } else { dataset.own()? };
        let os = dataset.objset()?;
        if os.kind() != ObjsetKind::Zfs {
            return Err(Error::Invalid("not a file system"));
        }
        let master = os.hold(MASTER_NODE)?;
        let version = master_word(&master, "VERSION")?.unwrap_or(0);
        if version == 0 || version > ZPL_VERSION_SA {
            return Err(Error::unsupported(alloc::format!("file system version {version}")));
        }
        if version < ZPL_VERSION_SA && !read_only {
            return Err(Error::unsupported(alloc::format!("writing to file system version {version}")));
        }
        let sa = SaTable::load(&os, master_word(&master, "SA_ATTRS")?.unwrap_or(0))?;
        let case = master_word(&master, "casesensitivity")?.unwrap_or(0);
        let normalization = master_word(&master, "normalization")?.unwrap_or(0);
        let root =
            master_word(&master, "ROOT")?.ok_or(Error::corrupt("master node: no root directory", None))?;
        let delete_queue = match master_word(&master, "DELETE_QUEUE")? {
            Some(object) if !read_only => Some(os.hold(object)?),
            _ => None,
        };
        let log = if read_only { None } else { Some(Log::open(Arc::clone(&os), Arc::<Pool>::clone(pool))) };
        let quotas = if read_only { Quotas::default() } else { Quotas::load(&os)? };
        let fs = Arc::new(Filesystem {
            pool: Arc::clone(pool),
            os,
            sa,
            root,
            delete_queue,
            normalization: normalization | if case == 0 { 0 } else { NORMALIZE_TO_UPPER },
            // With `mixed`, only callers who ask for it (none here) get names with case folded.
            match_names: if case == 2 { Match::CaseKept } else { Match::Folded },
            utf8_only: master_word(&master, "utf8only")?.unwrap_or(0) != 0,
            dnode_slots: 1,
            tunables: Tunables::new(options, &|name| dataset.get_number(name).ok()),
            read_only: AtomicBool::new(read_only),
            log,
            znodes: ZnodeCache::default(),
            holds: Mutex::new(HashMap::new()),
            rename: Mutex::new(()),
            sa_log_from: AtomicU64::new(u64::from(dataset.logs_sa_xattrs())),
            quotas: Mutex::new(quotas),
            owned: Mutex::new(Some(owned)),
            dataset,
        });
        if let Some(log) = &fs.log {
            let opened = fs.open_log(log);
            if opened.is_err() {
                // A log that was not emptied stays for the next mount.
                fs.os.set_sync_hook(None);
                fs.read_only.store(true, Ordering::Release);
            }
            opened?;
        }
        let follower: Weak<Filesystem> = Arc::downgrade(&fs);
        fs.dataset.follow(follower);
        Ok(fs)
    }

    /// Replays what an earlier life left, then removes files without names.
    fn open_log(self: &Arc<Self>, log: &Arc<Log>) -> Result<()> {
        log.recover(&mut |record| self.apply(record))?;
        let reader: Weak<Filesystem> = Arc::downgrade(self);
        log.set_reader(reader);
        self.drain_delete_queue()
    }

    /// Commits everything and closes the intent log. Calls that change something fail from now on.
    pub fn unmount(&self) -> Result<()> {
        let was_read_only = self.read_only.swap(true, Ordering::AcqRel);
        let closed = match &self.log {
            Some(log) if !was_read_only => log.close(),
            _ => Ok(()),
        };
        self.znodes.clear();
        *self.owned.lock() = None;
        closed
    }

    /// Whether nothing can be changed: it was mounted so, or the property `readonly` was set since.
    #[must_use]
    pub fn read_only(&self) -> bool {
        self.closed() || self.tunables.frozen()
    }

    /// Whether there is no intent log: mounted for reading, or unmounted.
    fn closed(&self) -> bool {
        self.read_only.load(Ordering::Acquire)
    }

    /// The dataset.
    #[must_use]
    pub fn dataset(&self) -> &Arc<Dataset> {
        &self.dataset
    }

    /// The root directory.
    #[must_use]
    pub fn root(&self) -> u64 {
        self.root
    }

    /// The file system's figures.
    pub fn statfs(&self) -> Result<StatFs> {
        let (used, available) = self.dataset.space()?;
        let objects = self.os.object_count();
        let free = available >> 9;
        Ok(StatFs {
            fragment_size: 512,
            block_size: self.tunables.record_size(),
            blocks: (used >> 9) + free,
            blocks_free: free,
            blocks_available: free,
            files: objects + free,
            files_free: free,
            fsid: self.dataset.fsid_guid(),
            name_max: self.name_max() as u32,
        })
    }

    /// Makes everything done to the file durable, through the intent log.
    pub fn fsync(&self, object: u64) -> Result<()> {
        match &self.log {
            Some(log) if !self.closed() && self.tunables.log.sync_mode() != SyncMode::Disabled => {
                log.commit(Some(object))
            }
            _ => Ok(()),
        }
    }

    /// Makes everything done to this file system durable (`syncfs`).
    pub fn sync(&self) -> Result<()> {
        match &self.log {
            Some(log) if !self.closed() && self.tunables.log.sync_mode() != SyncMode::Disabled => {
                log.commit(None)
            }
            _ => Ok(()),
        }
    }

    /// The file of that object number.
    pub(super) fn znode(&self, object: u64) -> Result<Arc<Znode>> {
        self.znodes.get(&self.os, &self.sa, object)
    }

    /// The directory of that object number.
    pub(super) fn directory(&self, object: u64) -> Result<Arc<Znode>> {
        let znode = self.znode(object)?;
        if znode.is_dir() { Ok(znode) } else { Err(Error::NotDirectory) }
    }

    pub(super) fn check_writable(&self) -> Result<()> {
        if self.read_only() { Err(Error::ReadOnly) } else { Ok(()) }
    }

    pub(super) fn now(&self) -> Timespec {
        self.pool.env().clock.now()
    }

    pub(super) fn is_replaying(&self) -> bool {
        self.log.as_ref().is_some_and(|log| log.is_replaying())
    }

    /// Notes a change of names.
    pub(super) fn note(&self, tx: &Tx, record: &Record) {
        if let Some(log) = &self.log {
            log.assign(tx, None, Payload::Record(record.emit()));
        }
    }

    /// Notes a change of the content or attributes of one file.
    pub(super) fn note_object(&self, tx: &Tx, object: u64, payload: Payload) {
        if let Some(log) = &self.log {
            log.assign(tx, Some(object), payload);
        }
    }

    /// At the end of a call: with `sync=always` everything is durable before it returns.
    pub(super) fn settle(&self, object: u64, now: bool) -> Result<()> {
        match (&self.log, self.tunables.log.sync_mode()) {
            (Some(log), SyncMode::Always) if !log.is_replaying() => log.commit(Some(object)),
            (Some(log), SyncMode::Standard) if now && !log.is_replaying() => log.commit(Some(object)),
            _ => Ok(()),
        }
    }
}

impl Follow for Filesystem {
    fn properties_changed(&self, number: &dyn Fn(&str) -> Option<u64>) {
        self.tunables.apply(number);
    }
}

impl Filesystem {
    /// The file that a logged write is about; `None` if it is gone.
    fn for_log(&self, object: u64, generation: u64) -> Result<Option<Arc<Znode>>> {
        match self.znode(object) {
            Ok(znode) if !znode.is_unlinked() && znode.word(Zpl::Gen) == generation => Ok(Some(znode)),
            Ok(_) | Err(Error::NotFound) => Ok(None),
            Err(e) => Err(e),
        }
    }
}

impl ReadForLog for Filesystem {
    fn place_for_log(
        &self,
        object: u64,
        generation: u64,
        offset: u64,
        len: u64,
    ) -> Result<Option<Vec<InPlace>>> {
        // Without a key its blocks cannot be written; with one the sync must choose how.
        if !self.tunables.log.in_place(len, || self.pool.has_log_device()) || self.os.root().uses_crypt() {
            return Ok(None);
        }
        let Some(znode) = self.for_log(object, generation)? else { return Ok(Some(Vec::new())) };
        let end = offset.saturating_add(len);
        let _range = znode.ranges.shared(offset, end);
        let end = end.min(znode.size());
        if offset >= end {
            return Ok(Some(Vec::new()));
        }
        let tx = self.os.begin_net_free(0)?;
        place_range(&znode.dnode, &tx, self.pool.alloc(), offset..end)
    }

    fn read_for_log(&self, object: u64, generation: u64, offset: u64, len: usize) -> Result<Option<Vec<u8>>> {
        let Some(znode) = self.for_log(object, generation)? else { return Ok(None) };
        let mut data = alloc::vec![0; len];
        let got = self.read_znode(&znode, offset, &mut data)?;
        data.truncate(got);
        Ok(Some(data))
    }
}
