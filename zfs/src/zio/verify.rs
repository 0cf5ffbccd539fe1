//! Verification: every copy of a block, for scrubs and for `zpool scrub`-like checks of images.

use super::Zio;
use super::examine::{examine, judge_of};
use super::read::{Digester, WINDOW, admit};
use crate::checksum::{Checksum, Salted};
use crate::error::{Error, Result};
use crate::ondisk::blkptr::{Blkptr, Dva};
use crate::ondisk::bookmark::Bookmark;
use crate::vdev::survey::{self, BadCopy, Survey, Surveys};
use alloc::vec;
use alloc::vec::Vec;
use core::sync::atomic::Ordering;
use platform::parallel;

/// Outcome of looking at every copy of a block.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Verified {
    /// Bytes read from devices.
    pub bytes: u64,
    /// Copies that are as they should be.
    pub good: u32,
    /// Copies that could not be read or fail their checksum. On raidz each column counts by itself, parity included.
    pub bad: u32,
    /// Copies on devices that missed the block, and are not as they should be.
    pub stale: u32,
    /// Copies that were written anew.
    pub repaired: u32,
}

/// Whether physical data is what its block pointer says.
pub(super) fn is_good(salted: &Salted, function: Checksum, bp: &Blkptr, data: &[u8]) -> bool {
    if matches!(function.resolve(), Checksum::Off | Checksum::Noparity) {
        return true;
    }
    let mut actual = salted.checksum(function, data);
    let mut expected = bp.checksum();
    if bp.has_mac() {
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

/// A block at one of its addresses.
struct Copy {
    want: usize,
    bp: Blkptr,
    at: Bookmark,
    dva: Dva,
}

impl Zio {
    /// Reads and checks every copy of a block, also by its MAC if its key is loaded. `Err` if no copy is good.
    pub fn verify(&self, bp: &Blkptr, at: Bookmark) -> Result<Verified> {
        self.verify_many(&[(*bp, at)]).pop().unwrap_or(Err(Error::Checksum { at }))
    }

    /// [`Zio::verify`] of many blocks: large reads, several in flight, checksums on all processors. Blocks near each
    /// other on the device in one call are read fastest. The answers stand in the order of `wants`.
    pub fn verify_many(&self, wants: &[(Blkptr, Bookmark)]) -> Vec<Result<Verified>> {
        self.look_at_many(wants, false)
    }

    /// [`Zio::repair`] of many blocks, as fast as [`Zio::verify_many`].
    pub fn repair_many(&self, wants: &[(Blkptr, Bookmark)]) -> Vec<Result<Verified>> {
        let mut results = self.look_at_many(wants, true);
        for (result, (bp, at)) in results.iter_mut().zip(wants) {
            // What one of its addresses alone does not give, all of them together may.
            let whole = result.as_ref().is_ok_and(|v| v.bad + v.stale <= v.repaired);
            if !whole && !matches!(result, Err(Error::Unsupported { .. })) && !bp.is_gang() {
                let before = result.as_ref().map_or(0, |v| v.repaired);
                *result = self.repair(bp, *at).map(|v| Verified { repaired: v.repaired + before, ..v });
            }
        }
        results
    }

    fn look_at_many(&self, wants: &[(Blkptr, Bookmark)], mend: bool) -> Vec<Result<Verified>> {
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
                Ok(_) if bp.is_gang() && mend => results[want] = self.repair(bp, *at),
                Ok(_) if bp.is_gang() => results[want] = self.verify_gang(bp, *at),
                Ok(_) => self.list_copies(want, bp, *at, &mut copies),
            }
        }
        copies.sort_by_key(|c| (c.dva.vdev, c.dva.offset));
        self.verify_copies(copies, mend, &mut results);
        for (result, (bp, at)) in results.iter_mut().zip(wants) {
            let needs_one = !bp.is_hole() && !bp.is_embedded();
            if result.as_ref().is_ok_and(|v| needs_one && v.good == 0) {
                *result = Err(Error::Checksum { at: *at });
            }
        }
        results
    }

    fn list_copies(&self, want: usize, bp: &Blkptr, at: Bookmark, copies: &mut Vec<Copy>) {
        copies.extend(bp.dvas().map(|dva| Copy { want, bp: *bp, at, dva }));
    }

    fn verify_copies(&self, copies: Vec<Copy>, mend: bool, results: &mut [Result<Verified>]) {
        let vdevs = self.vdevs();
        let mut copies = copies.into_iter().peekable();
        let mut flying: Option<(Vec<Copy>, Surveys)> = None;
        loop {
            let mut window = Vec::new();
            let mut bytes = 0;
            while let Some(copy) = copies.next_if(|c| bytes == 0 || bytes + c.dva.asize <= WINDOW) {
                bytes += copy.dva.asize;
                window.push(copy);
            }
            let next = (!window.is_empty()).then(|| {
                let extent = |c: &Copy| (c.dva, c.bp.psize(), c.bp.physical_birth());
                let extents: Vec<_> = window.iter().map(extent).collect();
                (window, survey::start(&vdevs, &extents))
            });
            if let Some((window, surveys)) = core::mem::replace(&mut flying, next) {
                self.check_window(window, surveys.wait(), mend, results);
            }
            if flying.is_none() {
                return;
            }
        }
    }

    fn check_window(
        &self,
        window: Vec<Copy>,
        surveys: Vec<Result<Survey>>,
        mend: bool,
        results: &mut [Result<Verified>],
    ) {
        let mut jobs: Vec<Vec<(Copy, Result<Survey>)>> = Vec::new();
        let mut room = 0;
        for (copy, survey) in window.into_iter().zip(surveys) {
            let len = copy.bp.psize() as usize;
            match jobs.last_mut() {
                Some(job) if room >= len => job.push((copy, survey)),
                _ => {
                    jobs.push(vec![(copy, survey)]);
                    room = JOB;
                }
            }
            room = room.saturating_sub(len);
        }
        let digester = self.digester();
        let checked = parallel::map(jobs, move |job| {
            let check = |(copy, survey): (Copy, Result<Survey>)| (copy.want, check(&digester, &copy, survey));
            job.into_iter().map(check).collect::<Vec<_>>()
        });
        let (mut bad, mut of) = (Vec::new(), Vec::new());
        for (want, (found, wrong)) in checked.into_iter().flatten() {
            if let Ok(verified) = &mut results[want] {
                verified.add(&found);
            }
            of.resize(of.len() + wrong.len(), want);
            bad.extend(wrong);
        }
        if !mend || bad.is_empty() || self.read_only.load(Ordering::Acquire) {
            return;
        }
        survey::blame(&bad);
        for (written, want) in survey::repair(&bad).into_iter().zip(of) {
            if let Ok(verified) = &mut results[want] {
                verified.repaired += u32::from(written);
            }
        }
    }
}

/// What was found of a copy, and what of it can be mended.
fn check(digester: &Digester, copy: &Copy, survey: Result<Survey>) -> (Verified, Vec<BadCopy>) {
    match judge_of(&digester.salted, &copy.bp) {
        Ok(whole) => {
            let good = |data: &[u8]| whole(data) && digester.is_authentic(&copy.bp, data, copy.at);
            let unread = survey.is_err();
            let examined = examine([survey].into(), &good);
            let mut verified = examined.verified;
            verified.bad += u32::from(unread);
            (verified, examined.bad)
        }
        Err(_) => (Verified { bad: 1, ..Verified::default() }, Vec::new()),
    }
}

impl Verified {
    /// Adds another block's figures.
    pub(super) fn add(&mut self, other: &Verified) {
        self.bytes += other.bytes;
        self.good += other.good;
        self.bad += other.bad;
        self.stale += other.stale;
        self.repaired += other.repaired;
    }
}
