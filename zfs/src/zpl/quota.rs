//! Quotas of users, groups and projects: limits by id in ZAPs that the master node names, enforced against the accounts.
//! Source: `module/zfs/zfs_quota.c`.
//!
//! As accounts follow with the txg, a quota is exceeded by what is written in between; the next write is refused.

use super::filesystem::{Filesystem, MASTER_NODE};
use crate::dmu::{Accounted, Dnode, Objset, Tx, accounting_key};
use crate::error::{Error, Result};
use crate::ondisk::object_type::ObjectType;
use crate::ondisk::znode::FileOwner;
use crate::zap;
use alloc::collections::BTreeMap;
use alloc::sync::Arc;
use alloc::vec::Vec;

/// Names of entries that count objects instead of bytes (`DMU_OBJACCT_PREFIX`).
const OBJECTS_PREFIX: &str = "obj-";
const ALL: [Accounted; 3] = [Accounted::User, Accounted::Group, Accounted::Project];

/// The master node's name of the ZAP of limits (`zfs_userquota_prop_prefixes`).
fn master_name(what: Accounted, objects: bool) -> &'static str {
    match (what, objects) {
        (Accounted::User, false) => "userquota@",
        (Accounted::Group, false) => "groupquota@",
        (Accounted::Project, false) => "projectquota@",
        (Accounted::User, true) => "userobjquota@",
        (Accounted::Group, true) => "groupobjquota@",
        (Accounted::Project, true) => "projectobjquota@",
    }
}

fn limits(os: &Arc<Objset>, what: Accounted, objects: bool) -> Result<Option<Arc<Dnode>>> {
    match zap::lookup_u64(&os.hold(MASTER_NODE)?, master_name(what, objects)) {
        Ok(object) => os.hold(object).map(Some),
        Err(Error::NotFound) => Ok(None),
        Err(error) => Err(error),
    }
}

fn number(zap: &Arc<Dnode>, key: &str) -> Result<Option<u64>> {
    match zap::lookup_u64(zap, key) {
        Ok(number) => Ok(Some(number)),
        Err(Error::NotFound) => Ok(None),
        Err(error) => Err(error),
    }
}

/// The limit of an id in bytes, or with `objects` in number of objects; `None` if it has none (`userquota@…`, `userobjquota@…`).
pub fn quota(os: &Arc<Objset>, what: Accounted, objects: bool, id: u64) -> Result<Option<u64>> {
    let Some(limits) = limits(os, what, objects)? else { return Ok(None) };
    number(&limits, &accounting_key(id, false))
}

/// Space in bytes, or with `objects` the number of objects, of an id as of the last txg (`userused@…`, `userobjused@…`).
pub fn used(os: &Arc<Objset>, what: Accounted, objects: bool, id: u64) -> Result<u64> {
    let Some(account) = os.accounting(what) else { return Ok(0) };
    Ok(number(account, &accounting_key(id, objects))?.unwrap_or(0))
}

/// What one user, group or project has: space in bytes and objects, and the limits of both.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Account {
    /// Its id.
    pub id: u64,
    /// `None`: neither used nor limited.
    pub used: Option<u64>,
    /// 0: none.
    pub quota: Option<u64>,
    /// `None` as well where objects are not counted.
    pub objects: Option<u64>,
    /// 0: none.
    pub object_quota: Option<u64>,
}

/// Everybody who has space, objects or limits, by id, as of the last txg (`zfs_userspace_many`).
pub fn accounts(os: &Arc<Objset>, what: Accounted) -> Result<Vec<Account>> {
    let mut all: BTreeMap<u64, Account> = BTreeMap::new();
    let mut visit = |zap: &Arc<Dnode>, prefix: &str, set: &dyn Fn(&mut Account, u64)| -> Result<()> {
        for entry in zap::iterate(zap, zap::COOKIE_START) {
            let entry = entry?;
            let name = core::str::from_utf8(&entry.name).unwrap_or_default();
            // Names with another prefix are no numbers, or of the other kind.
            if let Some(id) = name.strip_prefix(prefix).and_then(|hex| u64::from_str_radix(hex, 16).ok()) {
                set(all.entry(id).or_insert(Account { id, ..Account::default() }), entry.value.first());
            }
        }
        Ok(())
    };
    if let Some(account) = os.accounting(what) {
        visit(account, "", &|a, bytes| a.used = Some(bytes))?;
        visit(account, OBJECTS_PREFIX, &|a, count| a.objects = Some(count))?;
    }
    if let Some(limits) = limits(os, what, false)? {
        visit(&limits, "", &|a, bytes| a.quota = Some(bytes))?;
    }
    if let Some(limits) = limits(os, what, true)? {
        visit(&limits, "", &|a, count| a.object_quota = Some(count))?;
    }
    Ok(all
        .into_values()
        .map(|a| Account {
            used: a.used.or(a.quota.map(|_| 0)),
            quota: a.quota.or(a.used.map(|_| 0)),
            objects: a.objects.or(a.object_quota.map(|_| 0)),
            object_quota: a.object_quota.or(a.objects.map(|_| 0)),
            ..a
        })
        .collect())
}

/// Sets the limit of an id, or removes it (`zfs_set_userquota`). What is mounted obeys it from its next mount on, unless it is set
/// by [`Filesystem::set_quota`].
pub fn set_quota(
    os: &Arc<Objset>,
    tx: &Tx,
    what: Accounted,
    objects: bool,
    id: u64,
    limit: Option<u64>,
) -> Result<()> {
    let key = accounting_key(id, false);
    let limits = match (limits(os, what, objects)?, limit) {
        (Some(limits), _) => limits,
        (None, None) => return Ok(()),
        (None, Some(_)) => {
            let made = zap::create(os, tx, ObjectType::USERGROUP_QUOTA, &zap::CreateOptions::default())?;
            zap::add_u64(&os.hold(MASTER_NODE)?, tx, master_name(what, objects), made.object())?;
            made
        }
    };
    match limit {
        Some(limit) => zap::update_u64(&limits, tx, key.as_str(), limit),
        None => match zap::remove(&limits, tx, key.as_str()) {
            Err(Error::NotFound) => Ok(()),
            done => done,
        },
    }
}

/// The limits that a mounted file system has.
#[derive(Default)]
pub(super) struct Quotas(Vec<(Accounted, bool, Arc<Dnode>)>);

impl Quotas {
    pub(super) fn load(os: &Arc<Objset>) -> Result<Self> {
        let mut found = Vec::new();
        for what in ALL {
            for objects in [false, true] {
                found.extend(limits(os, what, objects)?.map(|zap| (what, objects, zap)));
            }
        }
        Ok(Quotas(found))
    }
}

impl Filesystem {
    /// [`set_quota`] of a mounted file system.
    pub fn set_quota(&self, what: Accounted, objects: bool, id: u64, limit: Option<u64>) -> Result<()> {
        self.check_writable()?;
        let tx = self.os.begin_net_free(super::filesystem::RESERVE_METADATA)?;
        set_quota(&self.os, &tx, what, objects, id, limit)?;
        *self.quotas.lock() = Quotas::load(&self.os)?;
        Ok(())
    }

    /// Refuses to give its owner more: space (`zfs_id_overblockquota`), and with `objects` another object (`zfs_id_overobjquota`).
    pub(super) fn check_quota(&self, owner: &FileOwner, objects: bool) -> Result<()> {
        self.check_quota_of(owner, objects, &ALL)
    }

    /// [`Filesystem::check_quota`] of some of them alone.
    pub(super) fn check_quota_of(&self, owner: &FileOwner, objects: bool, whose: &[Accounted]) -> Result<()> {
        let quotas = self.quotas.lock();
        if quotas.0.is_empty() || self.is_replaying() {
            return Ok(());
        }
        let limits: Vec<_> =
            quotas.0.iter().filter(|(w, o, _)| (objects || !o) && whose.contains(w)).cloned().collect();
        drop(quotas);
        for (what, of_objects, limits) in limits {
            let id = match what {
                Accounted::User => owner.uid,
                Accounted::Group => owner.gid,
                Accounted::Project if owner.project == 0 => continue,
                Accounted::Project => owner.project,
            };
            if let Some(limit) = number(&limits, &accounting_key(id, false))?
                && used(&self.os, what, of_objects, id)? >= limit
            {
                return Err(Error::QuotaExceeded);
            }
        }
        Ok(())
    }
}
