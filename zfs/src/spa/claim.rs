//! Intent logs at import: their blocks, written after the last txg, are marked as allocated before anything is given out. Source:
//! `spa_ld_claim_log_blocks` (`module/zfs/spa.c`), `zil_claim` (`module/zfs/zil.c`).

use super::core::{Core, NOWHERE};
use crate::dmu::{Objset, Tx};
use crate::dsl::Dataset;
use crate::error::{Error, Result};
use crate::ondisk::blkptr::Blkptr;
use crate::ondisk::bookmark::Bookmark;
use crate::ondisk::objset::{ObjsetPhys, ZIL_HEADER_SIZE};
use crate::ondisk::zil::Header as ZilHeader;
use crate::zil;
use alloc::sync::Arc;
use alloc::vec::Vec;

/// Roots of datasets that are read at once.
const BATCH: usize = 128;

impl Core {
    /// Claims the logs of all file systems and volumes. Of a pool that returned `to_checkpoint` the logs are forgotten, as what they held
    /// may be gone.
    pub(super) fn claim_logs(&self, to_checkpoint: bool) -> Result<()> {
        let spa = &self.spa;
        let heads = self.with_logs()?;
        if heads.is_empty() {
            return Ok(());
        }
        spa.txgs.request_sync();
        let Some(quiesced) = spa.txgs.quiesce() else { return Err(Error::Busy) };
        let tx = Tx::syncing(&spa.txgs, quiesced.txg);
        let synced = spa.state.lock().uberblock.txg;
        let mut claimed = 0u64;
        for objset in heads {
            if to_checkpoint && ZilHeader::from_bytes(&objset.zil_header()).claim_txg == 0 {
                objset.set_zil_header(&tx, [0; ZIL_HEADER_SIZE]);
                continue;
            }
            zil::claim(&objset, &tx, (synced, quiesced.txg), &mut |wanted| {
                match wanted {
                    zil::Claim::Block(bp) => {
                        for dva in bp.dvas() {
                            if !spa.space.claim(quiesced.txg, &dva)? {
                                return Err(Error::corrupt(
                                    "claim of a block that is allocated already",
                                    None,
                                ));
                            }
                            claimed += 1;
                        }
                    }
                    zil::Claim::References(_) if !spa.clones_blocks() => {
                        let what = "an intent log with clones in a pool without feature block_cloning";
                        return Err(Error::unsupported(what));
                    }
                    zil::Claim::References(bps) => {
                        for bp in bps {
                            if self.reclaim(quiesced.txg, bp)? {
                                claimed += 1;
                            } else {
                                spa.refer(&tx, core::slice::from_ref(bp));
                            }
                        }
                    }
                }
                Ok(())
            })?;
        }
        drop(tx);
        let dirty_objsets = spa.txgs.take_dirty(quiesced.txg);
        if dirty_objsets.is_empty() && claimed == 0 {
            spa.txgs.synced(quiesced.txg);
            return Ok(());
        }
        let quiesced = crate::dmu::Quiesced { dirty_objsets, ..quiesced };
        if self.sync_quiesced(&quiesced) { Ok(()) } else { Err(spa.txgs.failure().unwrap_or(Error::Busy)) }
    }

    /// A block that a record clones may be free by now: the record's own txg is on disk, and the block was freed since, but the log goes
    /// on. As what frees the log will free it for this record, it is the record's own then. True if it was free.
    fn reclaim(&self, txg: u64, bp: &Blkptr) -> Result<bool> {
        let mut was_free = false;
        for dva in self.spa.zio.extents(bp, NOWHERE)? {
            was_free |= self.spa.space.claim(txg, &dva)?;
        }
        Ok(was_free)
    }

    /// The file systems and volumes with a log. One whose root cannot be read has none that could be replayed, and is no reason to
    /// refuse all others.
    fn with_logs(&self) -> Result<Vec<Arc<Objset>>> {
        let datasets = self.dsl.datasets()?;
        let whole = |d: &&Arc<Dataset>| !d.root_bp().is_hole() && !d.is_inconsistent();
        let datasets: Vec<_> = datasets.iter().filter(whole).collect();
        let mut heads = Vec::new();
        for some in datasets.chunks(BATCH) {
            let roots: Vec<_> = some.iter().map(|d| (d.root_bp(), Bookmark::objset_root(d.object))).collect();
            for (dataset, root) in some.iter().zip(self.dsl.mos().zio().read_many(&roots)) {
                let has_log = |phys: ObjsetPhys| phys.zil_header.iter().any(|b| *b != 0);
                if root.and_then(|block| ObjsetPhys::parse(&block, None)).is_ok_and(has_log) {
                    heads.push(dataset.objset()?);
                }
            }
        }
        Ok(heads)
    }
}
