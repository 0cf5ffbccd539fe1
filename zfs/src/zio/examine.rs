//! Everything that there is of a block: which copies are good, which are not, and mending those. Source: `zio_vdev_io_assess`,
//! `vdev_mirror_io_done`, `vdev_raidz_io_done`.

use super::verify::{Verified, is_good};
use super::{Zio, read};
use crate::checksum::{Checksum, Salted};
use crate::error::{Error, Result};
use crate::ondisk::blkptr::Blkptr;
use crate::ondisk::bookmark::Bookmark;
use crate::vdev::survey::{self, BadCopy, Survey};
use alloc::vec::Vec;
use bytes::Bytes;
use core::sync::atomic::Ordering;

/// What was found of a block.
pub(super) struct Examined {
    /// Its physical bytes, if any copy gives them.
    pub(super) data: Option<Bytes>,
    /// Figures.
    pub(super) verified: Verified,
    /// What can be mended.
    pub(super) bad: Vec<BadCopy>,
    /// Surveys that gave nothing good.
    pub(super) hopeless: Vec<Survey>,
    /// Why there is no data: the last device error, if there was one.
    pub(super) failure: Option<Error>,
}

/// Judges the surveys of a block's copies.
pub(super) fn examine(surveys: Vec<Result<Survey>>, good: &dyn Fn(&[u8]) -> bool) -> Examined {
    let (mut data, mut failure) = (None, None);
    let mut solved = Vec::new();
    for survey in surveys {
        match survey {
            Ok(survey) => {
                let own = survey.solve(good);
                data = data.or(own.clone());
                solved.push((survey, own.is_some()));
            }
            Err(error) => failure = Some(error),
        }
    }
    let mut examined =
        Examined { data, verified: Verified::default(), bad: Vec::new(), hopeless: Vec::new(), failure };
    for (survey, good) in solved {
        let (count, bytes) = survey.size();
        examined.verified.bytes += bytes;
        let Some(data) = &examined.data else {
            examined.failure = examined.failure.or(survey.failure());
            examined.verified.bad += count.max(1);
            examined.hopeless.push(survey);
            continue;
        };
        let bad = survey.judge(data);
        let wrong = bad.iter().filter(|copy| copy.counts).count() as u32;
        examined.verified.stale += bad.len() as u32 - wrong;
        examined.verified.bad += if good { wrong } else { wrong.max(1) };
        examined.verified.good += count.saturating_sub(wrong);
        examined.bad.extend(bad);
    }
    examined
}

/// What tells whether physical bytes are a block's.
pub(super) fn judge_of<'a>(salted: &'a Salted, bp: &'a Blkptr) -> Result<impl Fn(&[u8]) -> bool + use<'a>> {
    let function = Checksum::from_raw(bp.checksum_type())?;
    Ok(move |data: &[u8]| is_good(salted, function, bp, data))
}

impl Zio {
    /// Reads all that there is of a block, and judges it by `good`. `len` bytes are read at each of its addresses.
    pub(super) fn examine(&self, bp: &Blkptr, len: u64, good: &dyn Fn(&[u8]) -> bool) -> Examined {
        let extents: Vec<_> = bp.dvas().map(|dva| (dva, len, bp.physical_birth())).collect();
        examine(survey::start(&self.vdevs(), &extents).wait(), good)
    }

    /// Charges leaves with what they gave wrong and, if the pool is written to, mends it.
    pub(super) fn settle(&self, examined: &mut Examined) {
        survey::blame(&examined.bad);
        examined.hopeless.iter().for_each(Survey::blame_all);
        if !self.read_only.load(Ordering::Acquire) && !examined.bad.is_empty() {
            let written = survey::repair(&examined.bad);
            examined.verified.repaired = written.iter().filter(|written| **written).count() as u32;
        }
    }

    /// Reads every copy of a block and writes what is right over each that is not, parity included; a leaf that missed the
    /// block's txg gets it, too. Nothing is written if the pool is read-only. [`Error::Checksum`] (or the devices' error) if
    /// no copy is good.
    pub fn repair(&self, bp: &Blkptr, at: Bookmark) -> Result<Verified> {
        read::admit(bp, at)?;
        if bp.is_hole() || bp.is_embedded() {
            return Ok(Verified::default());
        }
        if bp.is_gang() {
            return self.each_of_gang(bp, at, &mut |zio, member| zio.repair(member, at));
        }
        let salted = self.salted();
        let good = judge_of(&salted, bp)?;
        let mut examined = self.examine(bp, bp.psize(), &good);
        self.settle(&mut examined);
        match examined.data {
            Some(_) => Ok(examined.verified),
            None => Err(lost(examined.failure, at)),
        }
    }
}

/// The error for a block of which nothing is good.
pub(super) fn lost(failure: Option<Error>, at: Bookmark) -> Error {
    match failure {
        Some(Error::Io { cause, .. }) => Error::Io { cause, at: Some(at) },
        Some(other @ (Error::Corrupt { .. } | Error::Unsupported { .. })) => other,
        _ => Error::Checksum { at },
    }
}
