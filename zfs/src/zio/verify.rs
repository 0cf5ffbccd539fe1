//! Verification: every copy of a block, for scrubs and for `zpool scrub`-like checks of images.

use super::Zio;
use super::read::{WINDOW, admit};
use crate::checksum::{Checksum, Salted};
use crate::error::{Error, Result};
use crate::ondisk::blkptr::Blkptr;
use crate::ondisk::bookmark::Bookmark;
use crate::vdev::queue::{self, ReadExtent};
use alloc::vec;
use alloc::vec::Vec;
use bytes::Bytes;
use platform::parallel;

/// Outcome of looking at every copy of a block.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Verified {
    /// Bytes read from devices.
    pub bytes: u64,
    /// Copies that are as they should be.
    pub good: u32,
    /// Copies that could not be read or fail their checksum.
    pub bad: u32,
}

/// `DMU_OT_OBJSET`, whose checksum is whole even if it is authenticated.
const OBJSET: u8 = 11;

/// Whether physical data is what its block pointer says.
pub(super) fn is_good(salted: &Salted, function: Checksum, bp: &Blkptr, data: &[u8]) -> bool {
    if matches!(function.resolve(), Checksum::Off | Checksum::Noparity) {
        return true;
    }
    let mut actual = salted.checksum(function, data);
    let mut expected = bp.checksum();
    if bp.uses_crypt() && bp.object_type() != OBJSET {
        // Half of the field is a MAC. Weak sums are folded, so that no bits are lost.
        if !function.is_strong() {
            actual[0] ^= actual[2];
            actual[1] ^= actual[3];
        }
        actual[2..].fill(0);
        expected[2..].fill(0);
    }
    actual == expected
}

/// Bytes that one job checks: enough to be worth handing over, little enough to spread well.
const JOB: usize = 1 << 20;

struct Copy {
    want: usize,
    bp: Blkptr,
    extent: ReadExtent,
}

impl Zio {
    /// Reads and checks every copy of a block. `Err` if no copy is good.
    pub fn verify(&self, bp: &Blkptr, at: Bookmark) -> Result<Verified> {
        self.verify_many(&[(*bp, at)]).pop().unwrap_or(Err(Error::Checksum { at }))
    }

    /// [`Zio::verify`] of many blocks: large reads, several in flight, checksums on all processors. Blocks near each
    /// other on the device in one call are read fastest. The answers stand in the order of `wants`.
    pub fn verify_many(&self, wants: &[(Blkptr, Bookmark)]) -> Vec<Result<Verified>> {
        let mut results: Vec<Result<Verified>> = vec![Ok(Verified::default()); wants.len()];
        let mut copies = Vec::new();
        for (want, (bp, at)) in wants.iter().enumerate() {
            let admitted = admit(bp, *at).and_then(|()| Checksum::from_raw(bp.checksum_type()));
            if bp.is_hole() || bp.is_embedded() {
                results[want] = admit(bp, *at).map(|()| Verified::default());
                continue;
            }
            match admitted {
                Err(e) => results[want] = Err(e),
                Ok(_) if bp.is_gang() => results[want] = self.verify_gang(bp, *at),
                Ok(_) => self.list_copies(want, bp, &mut copies),
            }
        }
        copies.sort_by_key(|c| (c.extent.dva.vdev, c.extent.side, c.extent.dva.offset));
        self.verify_copies(copies, &mut results);
        for (result, (bp, at)) in results.iter_mut().zip(wants) {
            let needs_one = !bp.is_hole() && !bp.is_embedded();
            if result.as_ref().is_ok_and(|v| needs_one && v.good == 0) {
                *result = Err(Error::Checksum { at: *at });
            }
        }
        results
    }

    fn list_copies(&self, want: usize, bp: &Blkptr, copies: &mut Vec<Copy>) {
        for dva in bp.dvas() {
            let sides = self.vdevs.top(dva.vdev).map_or(1, |top| top.sides().len().max(1));
            for side in 0..sides {
                copies.push(Copy { want, bp: *bp, extent: ReadExtent { dva, len: bp.psize(), side } });
            }
        }
    }

    fn verify_copies(&self, copies: Vec<Copy>, results: &mut [Result<Verified>]) {
        let mut copies = copies.into_iter().peekable();
        let mut flying: Option<(Vec<Copy>, queue::Reads)> = None;
        loop {
            let mut window = Vec::new();
            let mut bytes = 0;
            while let Some(copy) = copies.next_if(|c| bytes == 0 || bytes + c.extent.len <= WINDOW) {
                bytes += copy.extent.len;
                window.push(copy);
            }
            let next = (!window.is_empty()).then(|| {
                let extents: Vec<_> = window.iter().map(|c| c.extent).collect();
                (window, queue::start_reads(&self.vdevs, &extents))
            });
            if let Some((window, reads)) = core::mem::replace(&mut flying, next) {
                self.check_window(window, reads.wait(), results);
            }
            if flying.is_none() {
                return;
            }
        }
    }

    fn check_window(&self, window: Vec<Copy>, raw: Vec<queue::Read>, results: &mut [Result<Verified>]) {
        let mut jobs: Vec<Vec<(Copy, queue::Read)>> = Vec::new();
        let mut room = 0;
        for (copy, raw) in window.into_iter().zip(raw) {
            let len = copy.extent.len as usize;
            match jobs.last_mut() {
                Some(job) if room >= len => job.push((copy, raw)),
                _ => {
                    jobs.push(vec![(copy, raw)]);
                    room = JOB;
                }
            }
            room = room.saturating_sub(len);
        }
        let salted = self.salted();
        let checked = parallel::map(jobs, move |job| {
            let check =
                |(copy, raw): (Copy, queue::Read)| (copy.want, copy.extent.len, good(&salted, &copy.bp, raw));
            job.into_iter().map(check).collect::<Vec<_>>()
        });
        for (want, len, good) in checked.into_iter().flatten() {
            if let Ok(verified) = &mut results[want] {
                verified.bytes += len;
                verified.good += u32::from(good);
                verified.bad += u32::from(!good);
            }
        }
    }
}

fn good(salted: &Salted, bp: &Blkptr, raw: Result<Bytes>) -> bool {
    let function = Checksum::from_raw(bp.checksum_type());
    raw.is_ok_and(|data| function.is_ok_and(|f| is_good(salted, f, bp, &data)))
}
