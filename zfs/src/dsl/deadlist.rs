//! Deadlists: blocks that the previous snapshot has and this dataset has given up. Source: `dsl_deadlist_t` (`module/zfs/dsl_deadlist.c`).
//!
//! A ZAP whose keys are txgs (hexadecimal), one for each earlier snapshot of the dataset, and whose values are bpobjs: under key T are the blocks born
//! after T and not after the next key. So what a destroyed snapshot alone kept is found without looking at single blocks. Before SPA version 26 a
//! deadlist was one bpobj.
//!
//! # Invariants
//! - The header's space is the sum over the bpobjs.
//! - Keys of a head are those of all its snapshots' `prev_snap_txg`, the origin's ancestors included.

use super::bpobj::{Bpobj, space_of};
use super::mos::Mos;
use crate::dmu::Tx;
use crate::error::{Error, Result};
use crate::ondisk::blkptr::Blkptr;
use crate::ondisk::dsl::{DEADLIST_PHYS_SIZE, DeadlistPhys, Space};
use crate::ondisk::object_type::ObjectType;
use crate::zap;
use alloc::collections::BTreeMap;
use alloc::vec::Vec;
use core::cell::OnceCell;

/// An open deadlist. Its keys are read when first needed: who only asks for its space does not pay for them.
pub(crate) struct Deadlist<'a> {
    mos: &'a Mos,
    object: u64,
    phys: DeadlistPhys,
    /// One bpobj, as before SPA version 26.
    old: bool,
    /// Key → bpobj.
    tree: OnceCell<BTreeMap<u64, u64>>,
}

impl<'a> Deadlist<'a> {
    /// A new, empty deadlist; its object number (`dsl_deadlist_alloc`).
    pub(crate) fn allocate(mos: &Mos, tx: &Tx) -> Result<u64> {
        let o = zap::CreateOptions {
            bonus_type: ObjectType::DEADLIST_HDR,
            bonus_len: DEADLIST_PHYS_SIZE as u16,
            ..zap::CreateOptions::default()
        };
        let dnode = zap::create(&mos.os, tx, ObjectType::DEADLIST, &o)?;
        dnode.set_bonus(tx, ObjectType::DEADLIST_HDR, &DeadlistPhys::default().emit())?;
        Ok(dnode.object())
    }

    /// Opens it.
    pub(crate) fn open(mos: &'a Mos, object: u64) -> Result<Self> {
        let dnode = mos.os.hold(object)?;
        let tree = OnceCell::new();
        if dnode.info().object_type == ObjectType::BPOBJ {
            let space = Bpobj::open(&mos.os, &mos.host, object)?.space();
            return Ok(Deadlist { mos, object, phys: DeadlistPhys { space }, old: true, tree });
        }
        let phys = DeadlistPhys::parse(&dnode.bonus())?;
        Ok(Deadlist { mos, object, phys, old: false, tree })
    }

    /// Whether it is of the format before SPA version 26, without keys.
    pub(crate) fn is_old(&self) -> bool {
        self.old
    }

    fn tree(&self) -> Result<&BTreeMap<u64, u64>> {
        if self.old {
            return Err(Error::Invalid("writing deadlists of the format before version 26"));
        }
        if let Some(tree) = self.tree.get() {
            return Ok(tree);
        }
        let mut tree = BTreeMap::new();
        for (name, value) in self.mos.zap_entries(self.object)? {
            let key = u64::from_str_radix(&name, 16)
                .map_err(|_| Error::corrupt("deadlist: a key is not a number", None))?;
            tree.insert(key, value);
        }
        Ok(self.tree.get_or_init(|| tree))
    }

    fn tree_mut(&mut self) -> Result<&mut BTreeMap<u64, u64>> {
        self.tree()?;
        self.tree.get_mut().ok_or(Error::Invalid("the deadlist's keys are not read"))
    }

    fn store(&self, tx: &Tx) -> Result<()> {
        self.mos.os.hold(self.object)?.set_bonus(tx, ObjectType::DEADLIST_HDR, &self.phys.emit())
    }

    fn set_key(&mut self, tx: &Tx, key: u64, object: u64) -> Result<()> {
        self.mos.zap_set(tx, self.object, &zap::int_name(key), object)?;
        self.tree_mut()?.insert(key, object);
        Ok(())
    }

    /// Space in all.
    pub(crate) fn space(&self) -> Space {
        self.phys.space
    }

    /// Space of what was born after `min_txg` and at or before `max_txg`, both keys or past the last (`dsl_deadlist_space_range`).
    pub(crate) fn space_range(&self, min_txg: u64, max_txg: u64) -> Result<Space> {
        let mut space = Space::default();
        if self.old {
            return Bpobj::open(&self.mos.os, &self.mos.host, self.object)?.space_range(min_txg, max_txg);
        }
        if min_txg < max_txg {
            let empty = self.mos.empty_bpobj();
            for (_, &object) in self.tree()?.range(min_txg..max_txg).filter(|(_, o)| **o != empty) {
                space += Bpobj::open(&self.mos.os, &self.mos.host, object)?.space();
            }
        }
        Ok(space)
    }

    /// Adds blocks (`dsl_deadlist_insert`).
    pub(crate) fn insert(&mut self, tx: &Tx, bps: &[Blkptr]) -> Result<()> {
        let mut groups: BTreeMap<u64, Vec<Blkptr>> = BTreeMap::new();
        let first = self.tree()?.first_key_value().map(|(key, _)| *key);
        for bp in bps {
            // The greatest key below the birth: a key's blocks are born after it. A birth below all keys is damage; OpenZFS puts it first.
            let key = self.tree()?.range(..bp.birth()).next_back().map(|(key, _)| *key).or(first);
            let key = key.ok_or(Error::corrupt("deadlist: it has no keys", None))?;
            groups.entry(key).or_default().push(*bp);
            self.phys.space += space_of(&*self.mos.host, bp);
        }
        for (key, bps) in groups {
            let mut object = self.tree()?[&key];
            if object == self.mos.empty_bpobj() {
                object = Bpobj::allocate(&self.mos.os, tx)?;
                self.set_key(tx, key, object)?;
                self.mos.release_empty_bpobjs(tx, 1)?;
            }
            Bpobj::open(&self.mos.os, &self.mos.host, object)?.enqueue(tx, &bps)?;
        }
        self.store(tx)
    }

    /// Adds a key greater than all others (`dsl_deadlist_add_key`).
    pub(crate) fn add_key(&mut self, tx: &Tx, key: u64) -> Result<()> {
        let object = self.mos.acquire_empty_bpobjs(tx, 1)?.first().copied();
        let object = object.ok_or(Error::corrupt("deadlist: no empty bpobj", None))?;
        self.set_key(tx, key, object)
    }

    /// Puts a whole bpobj under a key.
    fn enqueue_subobj(&mut self, tx: &Tx, key: u64, object: u64) -> Result<()> {
        let empty = self.mos.empty_bpobj();
        let at = self.tree()?[&key];
        if object == empty {
            self.mos.release_empty_bpobjs(tx, 1)
        } else if at == empty {
            self.set_key(tx, key, object)?;
            self.mos.release_empty_bpobjs(tx, 1)
        } else {
            Bpobj::open(&self.mos.os, &self.mos.host, at)?.enqueue_subobj(tx, object)
        }
    }

    /// Removes a key; its blocks go to the key before (`dsl_deadlist_remove_key`).
    pub(crate) fn remove_key(&mut self, tx: &Tx, key: u64) -> Result<()> {
        if self.is_old() {
            return Ok(());
        }
        let object =
            *self.tree()?.get(&key).ok_or(Error::corrupt("deadlist: a snapshot's key is missing", None))?;
        let before = self.tree()?.range(..key).next_back().map(|(key, _)| *key);
        let before = before.ok_or(Error::corrupt("deadlist: no key before the one to remove", None))?;
        self.enqueue_subobj(tx, before, object)?;
        self.mos.zap_remove(tx, self.object, &zap::int_name(key))?;
        self.tree_mut()?.remove(&key);
        Ok(())
    }

    /// A new deadlist with the same keys up to `max_txg` and no blocks (`dsl_deadlist_clone`). `snapshots` are the `prev_snap_txg`
    /// of all snapshots, for a deadlist in the old format that has no keys.
    pub(crate) fn clone_keys(&self, tx: &Tx, max_txg: u64, snapshots: &[u64]) -> Result<u64> {
        let object = Deadlist::allocate(self.mos, tx)?;
        let keys: Vec<u64> = if self.old {
            snapshots.to_vec()
        } else {
            self.tree()?.keys().copied().take_while(|key| *key < max_txg).collect()
        };
        for (key, bpobj) in keys.iter().zip(self.mos.acquire_empty_bpobjs(tx, keys.len())?) {
            self.mos.zap_add(tx, object, &zap::int_name(*key), bpobj)?;
        }
        Ok(object)
    }

    /// Moves everything born after `min_txg` to `target` (`dsl_deadlist_move_bpobj`).
    pub(crate) fn move_to(&mut self, tx: &Tx, min_txg: u64, target: &mut Bpobj) -> Result<()> {
        let keys: Vec<u64> = self.tree()?.range(min_txg..).map(|(key, _)| *key).collect();
        for key in keys {
            let object = self.tree()?[&key];
            self.mos.zap_remove(tx, self.object, &zap::int_name(key))?;
            self.tree_mut()?.remove(&key);
            if object == self.mos.empty_bpobj() {
                self.mos.release_empty_bpobjs(tx, 1)?;
            } else {
                self.phys.space -= Bpobj::open(&self.mos.os, &self.mos.host, object)?.space();
                target.enqueue_subobj(tx, object)?;
            }
        }
        self.store(tx)
    }

    /// Takes over all blocks of another deadlist, which is left empty of bpobjs (`dsl_deadlist_merge`).
    pub(crate) fn merge(&mut self, tx: &Tx, other: u64) -> Result<()> {
        let mut other = Deadlist::open(self.mos, other)?;
        if !other.old {
            for (key, object) in core::mem::take(other.tree_mut()?) {
                self.insert_bpobj(tx, key, object)?;
                self.mos.zap_remove(tx, other.object, &zap::int_name(key))?;
            }
            other.phys = DeadlistPhys::default();
            return other.store(tx);
        }
        let mut bps = Vec::new();
        Bpobj::open(&self.mos.os, &self.mos.host, other.object)?.for_each(&mut |bp| {
            bps.push(*bp);
            Ok(())
        })?;
        self.insert(tx, &bps)
    }

    /// Puts a bpobj of blocks born after `key` under the greatest key not above it.
    fn insert_bpobj(&mut self, tx: &Tx, key: u64, object: u64) -> Result<()> {
        let at = self.tree()?.range(..=key).next_back().map(|(key, _)| *key);
        let at = at.ok_or(Error::corrupt("deadlist: it has no key for a merged list", None))?;
        if object != self.mos.empty_bpobj() {
            self.phys.space += Bpobj::open(&self.mos.os, &self.mos.host, object)?.space();
        }
        self.enqueue_subobj(tx, at, object)?;
        self.store(tx)
    }

    /// The bpobjs, by key.
    pub(crate) fn lists(&self) -> Result<impl Iterator<Item = (u64, u64)> + '_> {
        Ok(self.tree()?.iter().map(|(key, object)| (*key, *object)))
    }

    /// Removes a key and its bpobj; the blocks on it are not touched (`dsl_deadlist_remove_entry`).
    pub(crate) fn remove_list(&mut self, tx: &Tx, key: u64) -> Result<()> {
        let object = self.tree_mut()?.remove(&key).ok_or(Error::NotFound)?;
        self.mos.zap_remove(tx, self.object, &zap::int_name(key))?;
        if object == self.mos.empty_bpobj() {
            self.mos.release_empty_bpobjs(tx, 1)?;
        } else {
            self.phys.space -= Bpobj::open(&self.mos.os, &self.mos.host, object)?.space();
            Bpobj::destroy(&self.mos.os, &self.mos.host, tx, object)?;
        }
        self.store(tx)
    }

    /// Frees a deadlist and its bpobjs; the blocks on it are not touched (`dsl_deadlist_free`).
    pub(crate) fn destroy(mos: &Mos, tx: &Tx, object: u64) -> Result<()> {
        let list = Deadlist::open(mos, object)?;
        if list.old {
            return Bpobj::destroy(&mos.os, &mos.host, tx, object);
        }
        let empty = mos.empty_bpobj();
        let bpobjs = list.tree()?.values();
        mos.release_empty_bpobjs(tx, bpobjs.clone().filter(|bpobj| **bpobj == empty).count())?;
        for &bpobj in bpobjs {
            if bpobj != empty {
                Bpobj::destroy(&mos.os, &mos.host, tx, bpobj)?;
            }
        }
        mos.os.free(tx, object)
    }
}
