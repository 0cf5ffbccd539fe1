//! Blocks that get to their final place before their txg is synced, because the intent log refers to them there.
//! Source: `dmu_sync` (`dmu.c`), `dbuf_override_impl`.
//!
//! # Invariants
//! - A placed block is taken over by the sync of its txg only if it was not changed since: the buffer is the same.
//! - One that was changed, or is not needed any more, is freed in that txg: until it is synced the log may need it.

use crate::dmu::dirty::{Buf, Slot};
use crate::dmu::policy::{Kind, policy};
use crate::dmu::tx::slot_of;
use crate::dmu::{Dnode, Tx};
use crate::error::Result;
use crate::ondisk::blkptr::Blkptr;
use crate::zio::{AllocateBlocks, Write, WritePolicy};
use alloc::collections::BTreeMap;
use alloc::vec::Vec;
use bytes::Bytes;
use core::ops::RangeInclusive;

/// The blocks of one txg that were placed.
#[derive(Default)]
pub(crate) struct Placed {
    current: BTreeMap<u64, (Bytes, Blkptr)>,
    /// Of no use to the sync.
    unused: Vec<Blkptr>,
}

fn same(buf: Option<&Buf>, placed: &Bytes) -> bool {
    matches!(buf, Some(Buf::Shared(now)) if now.as_ptr() == placed.as_ptr() && now.len() == placed.len())
}

impl Placed {
    /// What the sync takes over, by block, and what it has to free.
    pub(crate) fn settle(self, blocks: &BTreeMap<u64, Buf>) -> (BTreeMap<u64, Blkptr>, Vec<Blkptr>) {
        let (mut taken, mut unused) = (BTreeMap::new(), self.unused);
        for (blkid, (bytes, bp)) in self.current {
            if same(blocks.get(&blkid), &bytes) {
                taken.insert(blkid, bp);
            } else {
                unused.push(bp);
            }
        }
        (taken, unused)
    }

    /// Where a block is, if it was placed and not changed since.
    fn valid(&self, blkid: u64, buf: &Buf) -> Option<Blkptr> {
        self.current.get(&blkid).filter(|(bytes, _)| same(Some(buf), bytes)).map(|(_, bp)| *bp)
    }

    /// A block that nothing will come to refer to.
    pub(crate) fn give_up(&mut self, bp: Blkptr) {
        self.unused.push(bp);
    }

    fn insert(&mut self, blkid: u64, bytes: Bytes, bp: Blkptr) {
        if let Some((_, old)) = self.current.insert(blkid, (bytes, bp)) {
            self.unused.push(old);
        }
    }
}

/// A block on its way.
enum Found {
    There(Blkptr),
    ToWrite(Bytes),
}

impl Dnode {
    /// Writes blocks, as `tx`'s txg has them so far, to their final places; their pointers. `None` if that txg did not change one
    /// of them. Not durable before [`crate::zio::Zio::flush`].
    pub fn place_blocks(
        &self,
        tx: &Tx,
        alloc: &dyn AllocateBlocks,
        ids: RangeInclusive<u64>,
    ) -> Result<Option<Vec<Blkptr>>> {
        let settings = self.objset().settings();
        let (found, kind) = {
            let mut state = self.state.lock();
            let kind = Kind {
                checksum: state.checksum,
                compress: state.compress,
                ..Kind::new(state.object_type, 0)
            };
            let Some(slot) = slot(&mut state.slots, tx) else { return Ok(None) };
            let mut found = Vec::new();
            for blkid in ids.clone() {
                let Some(buf) = slot.blocks.get_mut(&blkid) else { return Ok(None) };
                found.push(match slot.placed.valid(blkid, buf) {
                    Some(bp) => Found::There(bp),
                    None => Found::ToWrite(buf.share()),
                });
            }
            (found, kind)
        };
        // The log can neither say that a block is a hole nor hold one in its pointer.
        let policy = WritePolicy { may_embed: false, may_hole: false, ..policy(&settings, 1, kind, 1)? };
        let writes: Vec<Write> = ids
            .clone()
            .zip(&found)
            .filter_map(|(blkid, found)| match found {
                Found::There(_) => None,
                Found::ToWrite(data) => {
                    Some(Write { data: data.clone(), policy, at: self.bookmark(0, blkid), rewrite: None })
                }
            })
            .collect();
        let mut written =
            if writes.is_empty() { Vec::new() } else { self.core.zio.write(alloc, tx.txg(), writes)? }
                .into_iter();
        let mut state = self.state.lock();
        let slot = slot(&mut state.slots, tx);
        let mut placed = slot.map(|slot| &mut slot.placed);
        let mut bps = Vec::with_capacity(found.len());
        for (blkid, found) in ids.zip(found) {
            bps.push(match found {
                Found::There(bp) => bp,
                Found::ToWrite(bytes) => {
                    let Some(bp) = written.next() else { break };
                    if let Some(placed) = &mut placed {
                        placed.insert(blkid, bytes, bp);
                    }
                    bp
                }
            });
        }
        Ok(Some(bps))
    }
}

/// What `tx`'s txg, which cannot close meanwhile, has changed so far.
fn slot<'a>(slots: &'a mut [Option<alloc::boxed::Box<Slot>>], tx: &Tx) -> Option<&'a mut Slot> {
    slots[slot_of(tx.txg())].as_deref_mut().filter(|slot| slot.txg == tx.txg())
}
