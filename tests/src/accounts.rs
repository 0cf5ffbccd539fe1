//! Space by owner, counted from the files themselves, beside what a file system has recorded.

use anyhow::{Result, ensure};
use std::collections::BTreeMap;
use std::sync::Arc;
use zfs::dmu::{Accounted, Objset};
use zfs::ondisk::dnode::DNODE_SIZE;
use zfs::ondisk::znode::owner_of;
use zfs::zap;

/// Bytes, and objects under `obj-` keys, by the keys of the accounts.
pub type Account = BTreeMap<String, u64>;

/// What the file system has recorded.
pub fn recorded(os: &Arc<Objset>, what: Accounted) -> Result<Account> {
    let Some(account) = os.accounting(what) else { return Ok(Account::new()) };
    let entries = zap::entries(account)?;
    entries.iter().map(|e| Ok((String::from_utf8(e.name.clone())?, e.value.first()))).collect()
}

/// What its files amount to, as of the last sync. `objects`: they are counted, too.
pub fn counted(os: &Arc<Objset>, what: Accounted, objects: bool) -> Result<Account> {
    let mut account = Account::new();
    let mut object = 0;
    while let Some(next) = os.next_object(object, false)? {
        object = next;
        let dnode = os.hold(object)?;
        let info = dnode.info();
        let Some(owner) = owner_of(info.bonus_type, &dnode.bonus()) else { continue };
        let id = match what {
            Accounted::User => owner.uid,
            Accounted::Group => owner.gid,
            Accounted::Project => owner.project,
        };
        *account.entry(zfs::dmu::accounting_key(id, false)).or_default() += info.used + DNODE_SIZE as u64;
        if objects {
            *account.entry(zfs::dmu::accounting_key(id, true)).or_default() += 1;
        }
    }
    Ok(account)
}

/// Fails unless all accounts that the pool's features ask for are what the files amount to.
pub fn check(os: &Arc<Objset>) -> Result<()> {
    let Some(rules) = os.settings().accounting else { return Ok(()) };
    for what in [Accounted::User, Accounted::Group, Accounted::Project] {
        if what == Accounted::Project && !rules.projects {
            ensure!(recorded(os, what)?.is_empty(), "projects are counted without their feature");
            continue;
        }
        let (recorded, counted) = (recorded(os, what)?, counted(os, what, rules.objects)?);
        ensure!(recorded == counted, "{what:?}: recorded {recorded:x?}, counted {counted:x?}");
    }
    Ok(())
}
