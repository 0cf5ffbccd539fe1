//! What properties say of a mounted file system; they take effect when they change. Source: `zfs_register_callbacks`
//! (`module/os/linux/zfs/zfs_vfsops.c`).

use super::types::MountOptions;
use crate::zil::LogPolicy;
use core::sync::atomic::{AtomicBool, AtomicU32, Ordering};

/// The present values. Each stands alone: no order between them is needed.
pub(super) struct Tunables {
    no_atime: bool,
    record_size: AtomicU32,
    sa_xattrs: AtomicBool,
    update_atime: AtomicBool,
    relatime: AtomicBool,
    posix_acls: AtomicBool,
    long_names: AtomicBool,
    /// What concerns the intent log.
    pub(super) log: LogPolicy,
    frozen: AtomicBool,
}

impl Tunables {
    /// The values at mount; see [`Tunables::apply`].
    pub(super) fn new(options: MountOptions, number: &dyn Fn(&str) -> Option<u64>) -> Self {
        let tunables = Tunables {
            no_atime: options.no_atime,
            record_size: AtomicU32::default(),
            sa_xattrs: AtomicBool::default(),
            update_atime: AtomicBool::default(),
            relatime: AtomicBool::default(),
            posix_acls: AtomicBool::default(),
            long_names: AtomicBool::default(),
            log: LogPolicy::default(),
            frozen: AtomicBool::default(),
        };
        tunables.apply(number);
        tunables
    }

    /// Takes over the properties' numbers; what is not known keeps its default.
    pub(super) fn apply(&self, number: &dyn Fn(&str) -> Option<u64>) {
        let get = |name, default| number(name).unwrap_or(default);
        let record_size = get("recordsize", 128 << 10).clamp(512, 16 << 20) as u32;
        self.record_size.store(record_size, Ordering::Relaxed);
        self.sa_xattrs.store(get("xattr", 1) == 2, Ordering::Relaxed);
        self.update_atime.store(!self.no_atime && get("atime", 1) != 0, Ordering::Relaxed);
        self.relatime.store(get("relatime", 0) != 0, Ordering::Relaxed);
        self.posix_acls.store(get("acltype", 0) == 1, Ordering::Relaxed);
        self.long_names.store(get("longname", 0) != 0, Ordering::Relaxed);
        self.log.apply(number);
        self.frozen.store(get("readonly", 0) != 0, Ordering::Release);
    }

    /// Largest block of new files, in bytes (`recordsize`).
    pub(super) fn record_size(&self) -> u32 {
        self.record_size.load(Ordering::Relaxed)
    }

    /// New extended attributes go among the system attributes (`xattr=sa`).
    pub(super) fn sa_xattrs(&self) -> bool {
        self.sa_xattrs.load(Ordering::Relaxed)
    }

    /// Reading is noted (`atime`).
    pub(super) fn update_atime(&self) -> bool {
        self.update_atime.load(Ordering::Relaxed)
    }

    /// But only once a day, or if the file changed since it was read last (`relatime`).
    pub(super) fn relatime(&self) -> bool {
        self.relatime.load(Ordering::Relaxed)
    }

    /// POSIX ACLs are in force (`acltype=posix`).
    pub(super) fn posix_acls(&self) -> bool {
        self.posix_acls.load(Ordering::Relaxed)
    }

    /// New names may have up to 1023 bytes (`longname`).
    pub(super) fn long_names(&self) -> bool {
        self.long_names.load(Ordering::Relaxed)
    }

    /// Nothing may be changed for now (`readonly`).
    pub(super) fn frozen(&self) -> bool {
        self.frozen.load(Ordering::Acquire)
    }
}
