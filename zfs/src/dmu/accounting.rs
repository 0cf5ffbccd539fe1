//! Space and objects by user, group and project: kept in three ZAPs per file system whose dnodes lie in the objset's root block.
//! Source: `dmu_objset_do_userquota_updates`, `dmu_objset_userquota_get_ids` (`module/zfs/dmu_objset.c`).
//!
//! A file that is synced is taken off its old owner and added to its new one, with what it occupies before and after. The
//! dnode's flags say whether it was ever counted, so that files from before accounting come in one by one.

use crate::dmu::dnode::Owner;
use crate::dmu::objset::{Core, new_dnode};
use crate::dmu::sync::Sync;
use crate::dmu::syncnode::SyncNode;
use crate::dmu::{Allocate, Dnode, Objset, Tx};
use crate::error::Result;
use crate::ondisk::dnode::{DNODE_SIZE, DnodePhys, FLAG_USEROBJUSED_ACCOUNTED, FLAG_USERUSED_ACCOUNTED};
use crate::ondisk::object_type::ObjectType;
use crate::ondisk::objset::{
    FLAG_PROJECTQUOTA_COMPLETE, FLAG_USERACCOUNTING_COMPLETE, FLAG_USEROBJACCOUNTING_COMPLETE, ObjsetKind,
};
use crate::ondisk::znode::{FileOwner, owner_of};
use crate::zap;
use alloc::collections::BTreeMap;
use alloc::format;
use alloc::string::String;
use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;

/// What a file system accounts for besides the space of users and groups.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Accounting {
    /// Objects, too (feature `userobj_accounting`).
    pub objects: bool,
    /// Projects, too (feature `project_quota`).
    pub projects: bool,
}

/// By what is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Accounted {
    /// By user id (`DMU_USERUSED_OBJECT`).
    User,
    /// By group id (`DMU_GROUPUSED_OBJECT`).
    Group,
    /// By project id (`DMU_PROJECTUSED_OBJECT`).
    Project,
}

/// All of them, in the order of their dnodes in the root block.
const ALL: [Accounted; 3] = [Accounted::User, Accounted::Group, Accounted::Project];

/// Names of entries that count objects instead of bytes (`DMU_OBJACCT_PREFIX`).
const OBJECTS_PREFIX: &str = "obj-";

impl Accounted {
    /// The number that its object has in bookmarks.
    fn object(self) -> u64 {
        u64::MAX - self as u64
    }

    fn id_in(self, owner: &FileOwner) -> u64 {
        match self {
            Accounted::User => owner.uid,
            Accounted::Group => owner.gid,
            Accounted::Project => owner.project,
        }
    }
}

/// The key of an id's entry: its space, or the number of its objects.
#[must_use]
pub fn key_of(id: u64, objects: bool) -> String {
    if objects { format!("{OBJECTS_PREFIX}{id:x}") } else { format!("{id:x}") }
}

/// The accounts of an objset, of the dnodes that its root block has.
pub(crate) fn dnodes(objset: &Weak<Objset>, core: &Arc<Core>, dnodes: Vec<DnodePhys>) -> Vec<Arc<Dnode>> {
    let make = |(phys, what): (DnodePhys, Accounted)| {
        let owner = Owner::Meta(Weak::clone(objset));
        Arc::new(Dnode::new(owner, Arc::clone(core), what.object(), phys))
    };
    dnodes.into_iter().zip(ALL).map(make).collect()
}

/// A file as it is accounted for.
struct Counted {
    owner: FileOwner,
    used: u64,
    flags: u8,
}

/// Changes by account and key.
#[derive(Default)]
struct Deltas(BTreeMap<(Accounted, u64, bool), i64>);

impl Deltas {
    fn count(&mut self, what: &Counted, accounting: Accounting, sign: i64) {
        for account in ALL {
            if account == Accounted::Project && !accounting.projects {
                continue;
            }
            let id = account.id_in(&what.owner);
            if what.flags & FLAG_USERUSED_ACCOUNTED != 0 {
                let bytes = (what.used + DNODE_SIZE as u64).cast_signed();
                *self.0.entry((account, id, false)).or_default() += sign * bytes;
            }
            if what.flags & FLAG_USEROBJUSED_ACCOUNTED != 0 {
                *self.0.entry((account, id, true)).or_default() += sign;
            }
        }
    }
}

impl Objset {
    /// The ZAP of an account, with entries as [`key_of`] names them; `None` if nothing was ever counted.
    #[must_use]
    pub fn accounting(&self, what: Accounted) -> Option<&Arc<Dnode>> {
        self.accounts.get(what as usize).filter(|dnode| dnode.object_type() != ObjectType::NONE)
    }

    /// What is accounted for: nothing unless this is a file system whose root block has room for it.
    pub(crate) fn accounting_rules(&self) -> Option<Accounting> {
        let asked = self.settings().accounting.filter(|_| self.kind() == ObjsetKind::Zfs)?;
        match self.accounts.len() {
            0 => None,
            2 => Some(Accounting { projects: false, ..asked }),
            _ => Some(asked),
        }
    }
}

impl Accounting {
    /// Flags that a dnode gets when it is counted.
    pub(crate) fn dnode_flags(self) -> u8 {
        FLAG_USERUSED_ACCOUNTED | if self.objects { FLAG_USEROBJUSED_ACCOUNTED } else { 0 }
    }

    /// Flags of an objset in which everything is counted from its first file on.
    pub(crate) fn objset_flags(self) -> u64 {
        FLAG_USERACCOUNTING_COMPLETE
            | if self.objects { FLAG_USEROBJACCOUNTING_COMPLETE } else { 0 }
            | if self.projects { FLAG_PROJECTQUOTA_COMPLETE } else { 0 }
    }
}

impl Sync<'_> {
    /// Enters what the written dnodes changed into the accounts; answers the accounts that are to be written now.
    pub(crate) fn account(&self, nodes: &[SyncNode]) -> Result<Vec<SyncNode>> {
        let Some(accounting) = self.accounting else { return Ok(Vec::new()) };
        let mut deltas = Deltas::default();
        for node in nodes {
            let old = node.dnode.state.lock().phys.clone();
            if old.flags & (FLAG_USERUSED_ACCOUNTED | FLAG_USEROBJUSED_ACCOUNTED) != 0
                && let Some(old) = self.counted(node, &old)?
            {
                deltas.count(&old, accounting, -1);
            }
            if !node.free
                && let Some(new) = self.counted(node, &node.phys)?
            {
                deltas.count(&new, accounting, 1);
            }
        }
        self.enter(&deltas)
    }

    /// The state of a dnode that counts: its owner, if it has one, its space, and in which accounts it is.
    fn counted(&self, node: &SyncNode, phys: &DnodePhys) -> Result<Option<Counted>> {
        let owner = match &phys.spill {
            // Attributes that found no room in the bonus at all.
            Some(spill) if phys.bonus.is_empty() && phys.bonus_type == ObjectType::SA => {
                let attributes = self.objset.core.zio.read(spill, node.dnode.bookmark(0, u64::MAX))?;
                owner_of(phys.bonus_type, &attributes)
            }
            _ => owner_of(phys.bonus_type, &phys.bonus),
        };
        Ok(owner.map(|owner| Counted { owner, used: phys.used_bytes(), flags: phys.flags }))
    }

    fn enter(&self, deltas: &Deltas) -> Result<Vec<SyncNode>> {
        let tx = Tx::syncing(&self.objset.core.txgs, self.ctx.txg);
        let mut changed: BTreeMap<Accounted, Arc<Dnode>> = BTreeMap::new();
        for (&(account, id, objects), &delta) in deltas.0.iter().filter(|(_, delta)| **delta != 0) {
            let Some(dnode) = self.objset.accounts.get(account as usize) else { continue };
            if dnode.object_type() == ObjectType::NONE {
                dnode.revive(new_dnode(&Allocate::plain(ObjectType::USERGROUP_USED, 512))?);
                zap::format(dnode, &tx, &zap::CreateOptions::default())?;
            }
            zap::increment(dnode, &tx, key_of(id, objects).as_str(), delta)?;
            changed.entry(account).or_insert_with(|| Arc::clone(dnode));
        }
        changed.into_values().map(|dnode| SyncNode::prepare(self, dnode)).collect()
    }
}
