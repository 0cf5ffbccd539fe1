//! Enabling `head_errlog` in a pool that has an error log. Source: `spa_upgrade_errlog`.

use super::super::core::Spa;
use super::super::directory;
use super::affected::pointer_in;
use super::{LAST, SCRUB};
use crate::dmu::Tx;
use crate::dsl::DslPool;
use crate::error::Result;
use crate::ondisk::bookmark::Bookmark;
use crate::zap::Value;
use crate::zio::Lost;
use alloc::collections::BTreeSet;

impl Spa {
    /// Lists by heads what was listed without; blocks that are no longer there are forgotten. Syncing context.
    pub(in crate::spa) fn upgrade_errors(&self, dsl: &DslPool, tx: &Tx) -> Result<()> {
        for name in [LAST, SCRUB] {
            let Some(old) = self.find_log(name)? else { continue };
            let blocks = self.logged_blocks(&[name])?;
            self.free_log(tx, &old)?;
            directory::update_value(&self.mos, tx, name, &Value::words(&[0]))?;
            let blocks: BTreeSet<Lost> = blocks.iter().filter_map(|lost| with_birth(dsl, &lost.at)).collect();
            self.list_errors(tx, name, &blocks)?;
        }
        Ok(())
    }
}

/// The block that is at a place now. `None` if there is none, or its dataset cannot be read: what is still lost shows in the next scrub.
fn with_birth(dsl: &DslPool, at: &Bookmark) -> Option<Lost> {
    if at.objset == 0 {
        return Some(Lost { at: *at, birth: 0 });
    }
    let bp = dsl.hold_dataset(at.objset).and_then(|dataset| pointer_in(&dataset, at)).ok()?;
    (!bp.is_hole()).then(|| Lost::new(&bp, *at))
}
