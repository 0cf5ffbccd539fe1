//! Which datasets have a block that the log lists under one head. Source: `find_top_affected_fs`, `check_filesystem`.
//!
//! A block that is in a dataset at its place with its birth was never written anew there, and so it is in every snapshot in between.

use crate::dsl::{Dataset, DslPool};
use crate::error::{Error, Result};
use crate::ondisk::blkptr::Blkptr;
use crate::ondisk::bookmark::Bookmark;
use crate::zio::Lost;
use alloc::collections::BTreeSet;
use alloc::sync::Arc;
use alloc::vec::Vec;

/// The pointer that a dataset has at that place; a hole if there is none.
pub(super) fn pointer_in(dataset: &Dataset, at: &Bookmark) -> Result<Blkptr> {
    if at.level == Bookmark::LEVEL_OBJSET {
        return Ok(dataset.root_bp());
    }
    let level = u8::try_from(at.level).map_err(|_| Error::Invalid("no level of a tree"))?;
    let objset = dataset.objset()?;
    let dnode = match at.object {
        0 => Arc::clone(objset.meta_dnode()),
        object => match objset.hold(object) {
            Err(Error::NotFound) => return Ok(Blkptr::HOLE),
            dnode => dnode?,
        },
    };
    match (level, at.blkid) {
        (0, u64::MAX) => Ok(dnode.spill_pointer()),
        (level, blkid) => dnode.block_pointer(level, blkid),
    }
}

/// Whether a dataset has the block.
fn has(dataset: &Dataset, lost: &Lost) -> Result<bool> {
    let bp = pointer_in(dataset, &lost.at)?;
    // Of a cloned block some versions of OpenZFS note the logical, others the physical birth.
    Ok(!bp.is_hole() && (bp.birth() == lost.birth || bp.physical_birth() == lost.birth))
}

/// All datasets with a block: object numbers of heads and snapshots. Whoever calls has the names locked. Where it cannot be told, it
/// is the head under which the block is listed.
pub(super) fn datasets_with(dsl: &DslPool, lost: &Lost) -> BTreeSet<u64> {
    let head = lost.at.objset;
    // Of the MOS there are no snapshots, and without its birth a block cannot be told from others.
    if head == 0 || lost.birth == 0 {
        return [head].into();
    }
    collect(dsl, lost).unwrap_or_else(|_| [head].into())
}

fn collect(dsl: &DslPool, lost: &Lost) -> Result<BTreeSet<u64>> {
    let mut found = BTreeSet::new();
    let mut heads: Vec<Arc<Dataset>> = [oldest_head(dsl, lost)?].into();
    let mut seen = BTreeSet::new();
    while let Some(head) = heads.pop() {
        if !seen.insert(head.object()) {
            return Err(Error::corrupt("dsl_dataset: a clone is its own origin", None));
        }
        let in_head = has(&head, lost)?;
        if in_head {
            found.insert(head.object());
        }
        let dir = head.phys().dir_obj;
        let mut at = dsl.previous(&head.phys())?;
        while let Some(snapshot) = at.filter(|s| s.creation_txg() >= lost.birth && s.phys().dir_obj == dir) {
            if in_head || has(&snapshot, lost)? {
                found.insert(snapshot.object());
                for clone in dsl.branches(&snapshot)? {
                    heads.push(dsl.head_of(&clone.dir())?);
                }
            }
            at = dsl.previous(&snapshot.phys())?;
        }
    }
    Ok(found)
}

/// The head of the oldest snapshot that can have the block: it may be older than the clone under which it is listed.
fn oldest_head(dsl: &DslPool, lost: &Lost) -> Result<Arc<Dataset>> {
    let mut at = dsl.hold_dataset(lost.at.objset)?;
    while let Some(snapshot) = dsl.previous(&at.phys())?.filter(|s| s.creation_txg() >= lost.birth) {
        at = snapshot;
    }
    dsl.head_of(&at.dir())
}
