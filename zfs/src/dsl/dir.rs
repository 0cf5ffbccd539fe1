//! Dirs: the tree of names and of space. Source: `dsl_dir_t` (`module/zfs/dsl_dir.c`).
//!
//! # Invariants
//! - `used_bytes` of a dir is the sum of its breakdown; what its parent is charged is the greater of that and the reservation.
//! - In memory and in the MOS are the same: every change is stored at once, by the sync thread alone.

use super::host::Slop;
use super::mos::Mos;
use crate::dmu::Tx;
use crate::error::Result;
use crate::ondisk::dsl::{DD_FLAG_USED_BREAKDOWN, DirPhys, Used};
use crate::ondisk::object_type::ObjectType;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::sync::Arc;
use platform::sync::Mutex;

/// A change of space.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Delta {
    pub(crate) used: i64,
    pub(crate) compressed: i64,
    pub(crate) uncompressed: i64,
}

impl Delta {
    pub(crate) fn plus(space: crate::ondisk::dsl::Space) -> Self {
        Delta {
            used: space.used as i64,
            compressed: space.compressed as i64,
            uncompressed: space.uncompressed as i64,
        }
    }

    pub(crate) fn minus(space: crate::ondisk::dsl::Space) -> Self {
        -Delta::plus(space)
    }

    pub(crate) fn used(used: i64) -> Self {
        Delta { used, ..Delta::default() }
    }
}

impl core::ops::Neg for Delta {
    type Output = Delta;
    fn neg(self) -> Delta {
        Delta { used: -self.used, compressed: -self.compressed, uncompressed: -self.uncompressed }
    }
}

impl core::ops::AddAssign for Delta {
    fn add_assign(&mut self, other: Delta) {
        self.used += other.used;
        self.compressed += other.compressed;
        self.uncompressed += other.uncompressed;
    }
}

/// What of a dir can change.
#[derive(Debug, Clone)]
pub(crate) struct DirState {
    pub(crate) phys: DirPhys,
    /// The last component of the name.
    pub(crate) name: String,
    pub(crate) parent: Option<Arc<Dir>>,
    /// When the origin was taken; 0 if this is no clone (of anything but `$ORIGIN`).
    pub(crate) origin_txg: u64,
}

/// A dir.
#[derive(Debug)]
pub(crate) struct Dir {
    pub(crate) object: u64,
    state: Mutex<DirState>,
}

impl Dir {
    pub(crate) fn new(object: u64, state: DirState) -> Arc<Self> {
        Arc::new(Dir { object, state: Mutex::new(state) })
    }

    /// A copy of the numbers.
    pub(crate) fn phys(&self) -> DirPhys {
        self.state.lock().phys.clone()
    }

    pub(crate) fn parent(&self) -> Option<Arc<Dir>> {
        self.state.lock().parent.clone()
    }

    pub(crate) fn origin_txg(&self) -> u64 {
        self.state.lock().origin_txg
    }

    pub(crate) fn last_name(&self) -> String {
        self.state.lock().name.clone()
    }

    /// The full name.
    pub(crate) fn name(&self) -> String {
        let (parent, name) = {
            let state = self.state.lock();
            (state.parent.clone(), state.name.clone())
        };
        match parent {
            Some(parent) => format!("{}/{name}", parent.name()),
            None => name,
        }
    }

    /// Changes the numbers and stores them.
    pub(crate) fn update<T>(&self, mos: &Mos, tx: &Tx, change: impl FnOnce(&mut DirPhys) -> T) -> Result<T> {
        let (out, bytes) = {
            let mut state = self.state.lock();
            let out = change(&mut state.phys);
            (out, state.phys.emit())
        };
        mos.os.hold(self.object)?.set_bonus(tx, ObjectType::DSL_DIR, &bytes)?;
        Ok(out)
    }

    /// Changes what is only in memory.
    pub(crate) fn with_state<T>(&self, change: impl FnOnce(&mut DirState) -> T) -> T {
        change(&mut self.state.lock())
    }

    /// `used` more bytes of this kind (`dsl_dir_diduse_space`).
    pub(crate) fn diduse(&self, mos: &Mos, tx: &Tx, kind: Used, delta: Delta) -> Result<()> {
        if delta == Delta::default() {
            return Ok(());
        }
        let charged = self.update(mos, tx, |phys| {
            if phys.flags & DD_FLAG_USED_BREAKDOWN != 0 {
                add(&mut phys.used_breakdown[kind as usize], delta.used);
            }
            add_delta(phys, delta)
        })?;
        self.charge_parent(mos, tx, charged, delta)
    }

    /// `used` more bytes, of which `to_new` are of kind `new`, the rest of kind `old` (`dsl_dir_diduse_transfer_space`).
    pub(crate) fn diduse_transfer(
        &self,
        mos: &Mos,
        tx: &Tx,
        delta: Delta,
        to_new: i64,
        (old, new): (Used, Used),
    ) -> Result<()> {
        let mut dir: Option<Arc<Dir>> = None;
        let (mut delta, mut to_new, mut old, mut new) = (delta, to_new, old, new);
        loop {
            let this = dir.as_deref().unwrap_or(self);
            let charged = this.update(mos, tx, |phys| {
                if phys.flags & DD_FLAG_USED_BREAKDOWN != 0 {
                    add(&mut phys.used_breakdown[old as usize], delta.used - to_new);
                    add(&mut phys.used_breakdown[new as usize], to_new);
                }
                add_delta(phys, delta)
            })?;
            // The parent is charged what is above the reservation; of that the whole use counts as the children's.
            (to_new, old, new) = (delta.used, Used::ChildReservation, Used::Child);
            delta.used = charged;
            let Some(parent) = this.parent() else { return Ok(()) };
            dir = Some(parent);
        }
    }

    fn charge_parent(&self, mos: &Mos, tx: &Tx, charged: i64, delta: Delta) -> Result<()> {
        match self.parent() {
            Some(parent) => parent.diduse_transfer(
                mos,
                tx,
                Delta { used: charged, ..delta },
                delta.used,
                (Used::ChildReservation, Used::Child),
            ),
            None => Ok(()),
        }
    }

    /// Moves `amount` from one kind to another (`dsl_dir_transfer_space`).
    pub(crate) fn transfer(&self, mos: &Mos, tx: &Tx, amount: i64, from: Used, to: Used) -> Result<()> {
        if amount == 0 || self.phys().flags & DD_FLAG_USED_BREAKDOWN == 0 {
            return Ok(());
        }
        self.update(mos, tx, |phys| {
            add(&mut phys.used_breakdown[from as usize], -amount);
            add(&mut phys.used_breakdown[to as usize], amount);
        })
    }

    /// Changes the reservation and what the parent is charged for it (`dsl_dir_set_reservation_sync_impl`).
    pub(crate) fn set_reservation(&self, mos: &Mos, tx: &Tx, value: u64) -> Result<()> {
        let delta = self.update(mos, tx, |phys| {
            let before = phys.used_bytes.max(phys.reserved);
            phys.reserved = value;
            phys.used_bytes.max(value).wrapping_sub(before) as i64
        })?;
        match self.parent() {
            Some(parent) => parent.diduse(mos, tx, Used::ChildReservation, Delta::used(delta)),
            None => Ok(()),
        }
    }

    /// What this dir may still use, in bytes (`dsl_dir_space_available`).
    pub(crate) fn available(&self, mos: &Mos) -> u64 {
        let phys = self.phys();
        let parent = self.parent();
        let mut from_parent = parent.as_ref().map_or(u64::MAX, |p| p.available(mos));
        let mut quota = if phys.quota == 0 { u64::MAX } else { phys.quota };
        if parent.is_none() {
            quota = quota.min(mos.host.adjusted_size(Slop::Normal));
        }
        if from_parent != u64::MAX {
            from_parent = from_parent.saturating_add(phys.reserved.saturating_sub(phys.used_bytes));
        }
        from_parent.min(quota.saturating_sub(phys.used_bytes))
    }

    /// Whether the nearest limit is a quota: for the right error.
    pub(crate) fn limited_by_quota(&self, bytes: u64) -> bool {
        let phys = self.phys();
        phys.quota != 0 && phys.used_bytes.saturating_add(bytes) > phys.quota
            || self.parent().is_some_and(|p| p.limited_by_quota(bytes))
    }
}

fn add(value: &mut u64, delta: i64) {
    *value = value.wrapping_add_signed(delta);
}

/// Adds to the totals; answers by how much the parent's charge changes.
fn add_delta(phys: &mut DirPhys, delta: Delta) -> i64 {
    let before = phys.used_bytes.max(phys.reserved);
    add(&mut phys.used_bytes, delta.used);
    add(&mut phys.compressed_bytes, delta.compressed);
    add(&mut phys.uncompressed_bytes, delta.uncompressed);
    phys.used_bytes.max(phys.reserved).wrapping_sub(before) as i64
}

/// Splits `pool/a/b` at the last slash.
pub(crate) fn split_last(name: &str) -> Option<(String, String)> {
    name.rsplit_once('/').map(|(parent, last)| (parent.to_string(), last.to_string()))
}
