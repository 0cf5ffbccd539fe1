//! Gang blocks: when there is no extent for a whole block, a header of up to three smaller ones, each of which may be
//! a gang itself. Source: `zio_write_gang_block` and its neighbours in `zio.c`.
//!
//! The address of a gang block counts the header and, summed up, everything below; its own extent is one sector.

use super::examine::lost;
use super::write::{Allocated, allocate_or_gang};
use super::{AllocateBlocks, Class, Verified, Zio};
use crate::checksum::Checksum;
use crate::checksum::embedded;
use crate::error::{Error, Result};
use crate::ondisk::blkptr::{Blkptr, DVAS_PER_BP, Dva};
use crate::ondisk::bookmark::Bookmark;
use crate::ondisk::gang::{self, GANG_HEADER_SIZE, GANG_MEMBERS};
use crate::vdev::queue::WriteExtent;
use alloc::vec::Vec;
use bytes::Bytes;

/// How deep gangs may nest: three to the power of that many members cover any block.
const MAX_DEPTH: usize = 12;

/// Whether the bytes are the gang header that the pointer means.
fn is_header(bp: &Blkptr, data: &[u8]) -> bool {
    embedded::check(&mut data.to_vec(), gang::verifier(bp))
}

impl Zio {
    /// The physical bytes of a gang block.
    pub(super) fn read_gang(&self, bp: &Blkptr, at: Bookmark) -> Result<Bytes> {
        let mut data = Vec::with_capacity(bp.psize() as usize);
        self.gather(bp, at, 0, &mut data)?;
        if data.len() as u64 != bp.psize() {
            return Err(Error::corrupt("gang block: members do not add up to its size", at));
        }
        Ok(Bytes::from(data))
    }

    fn gather(&self, bp: &Blkptr, at: Bookmark, depth: usize, data: &mut Vec<u8>) -> Result<()> {
        for member in self.gang_members(bp, at, depth)? {
            if member.is_gang() {
                self.gather(&member, at, depth + 1, data)?;
            } else {
                data.extend_from_slice(&self.read_uncached(&member, at)?);
            }
        }
        Ok(())
    }

    /// The members of a gang header, from whichever copy is good. Their sizes together are that of the block.
    fn gang_members(&self, bp: &Blkptr, at: Bookmark, depth: usize) -> Result<Vec<Blkptr>> {
        if depth >= MAX_DEPTH {
            return Err(Error::corrupt("gang block: nested too deep", at));
        }
        let mut examined = self.examine(bp, GANG_HEADER_SIZE as u64, &|data| is_header(bp, data));
        self.settle(&mut examined);
        let Some(header) = examined.data else { return Err(lost(examined.failure, at)) };
        let members = gang::members(&header);
        for member in &members {
            member.verify(Some(at))?;
            if member.is_embedded() || member.psize() >= bp.psize() {
                return Err(Error::corrupt("gang block: member as large as the block", at));
            }
        }
        if members.iter().map(Blkptr::psize).sum::<u64>() != bp.psize() {
            return Err(Error::corrupt("gang block: members do not add up to its size", at));
        }
        Ok(members)
    }

    pub(super) fn verify_gang(&self, bp: &Blkptr, at: Bookmark) -> Result<Verified> {
        self.each_of_gang(bp, at, &mut |zio, member| zio.verify(member, at))
    }

    /// The figures of a gang block's headers, and what `f` says of its members.
    pub(super) fn each_of_gang(
        &self,
        bp: &Blkptr,
        at: Bookmark,
        f: &mut dyn FnMut(&Zio, &Blkptr) -> Result<Verified>,
    ) -> Result<Verified> {
        self.each_of_gang_at(bp, at, 0, f)
    }

    fn each_of_gang_at(
        &self,
        bp: &Blkptr,
        at: Bookmark,
        depth: usize,
        f: &mut dyn FnMut(&Zio, &Blkptr) -> Result<Verified>,
    ) -> Result<Verified> {
        let mut total = self.examine(bp, GANG_HEADER_SIZE as u64, &|data| is_header(bp, data)).verified;
        // Reading the members mends the header.
        for member in self.gang_members(bp, at, depth)? {
            let verified = if member.is_gang() {
                self.each_of_gang_at(&member, at, depth + 1, f)?
            } else {
                f(self, &member)?
            };
            total.add(&verified);
        }
        Ok(total)
    }

    /// Every extent that a block occupies, headers and members of gang blocks each by itself: what to free, claim or
    /// count. Reads gang headers; nothing is read of other blocks.
    pub fn extents(&self, bp: &Blkptr, at: Bookmark) -> Result<Vec<Dva>> {
        let mut extents = Vec::new();
        self.collect_extents(bp, at, 0, &mut extents)?;
        Ok(extents)
    }

    fn collect_extents(&self, bp: &Blkptr, at: Bookmark, depth: usize, out: &mut Vec<Dva>) -> Result<()> {
        let vdevs = self.vdevs();
        for dva in bp.dvas() {
            let asize = if dva.gang {
                vdevs.top(dva.vdev)?.psize_to_asize(GANG_HEADER_SIZE as u64)
            } else {
                dva.asize
            };
            out.push(Dva { asize, gang: false, ..dva });
        }
        if bp.is_gang() {
            for member in self.gang_members(bp, at, depth)? {
                self.collect_extents(&member, at, depth + 1, out)?;
            }
        }
        Ok(())
    }

    /// Allocates `data` (a block's physical bytes) in pieces. `bp` has everything but its addresses; it gets those of
    /// the header. Extents go to `done` as they are allocated, writes to `writes`.
    pub(super) fn allocate_gang(
        &self,
        alloc: &dyn AllocateBlocks,
        txg: u64,
        bp: &mut Blkptr,
        data: &Bytes,
        copies: usize,
        out: &mut Allocated,
    ) -> Result<()> {
        let sector = self.vdevs().max_sector();
        const HEADER: u64 = GANG_HEADER_SIZE as u64;
        if (data.len() as u64) <= sector {
            return Err(Error::NoSpace);
        }
        // One copy more than of the data: a lost header loses the whole block.
        let headers = (copies + 1).min(DVAS_PER_BP);
        let addresses = match alloc.allocate(txg, HEADER, headers, Class::Normal) {
            Err(Error::NoSpace) => alloc.allocate(txg, HEADER, copies, Class::Normal)?,
            other => other?,
        };
        out.extents.extend(&addresses);
        let mut totals: Vec<u64> = addresses.iter().map(|dva| dva.asize).collect();

        let mut members = Vec::with_capacity(GANG_MEMBERS);
        let mut rest = data.clone();
        for left in (1..=GANG_MEMBERS).rev() {
            if rest.is_empty() {
                break;
            }
            let share = (rest.len() as u64).div_ceil(left as u64).next_multiple_of(sector);
            let piece = rest.split_to(rest.len().min(share as usize));
            let member = self.allocate_member(alloc, txg, bp, piece, copies, out)?;
            for (total, dva) in totals.iter_mut().zip(member.dvas()) {
                *total += dva.asize;
            }
            members.push(member);
        }
        for (i, (dva, asize)) in addresses.iter().zip(totals).enumerate() {
            bp.set_dva(i, Dva { asize, gang: true, ..*dva });
        }
        let mut header = gang::emit(&members);
        embedded::seal(&mut header, gang::verifier(bp));
        let header = Bytes::from(header);
        out.writes.extend(addresses.iter().map(|dva| WriteExtent { dva: *dva, data: header.clone() }));
        Ok(())
    }

    fn allocate_member(
        &self,
        alloc: &dyn AllocateBlocks,
        txg: u64,
        block: &Blkptr,
        piece: Bytes,
        copies: usize,
        out: &mut Allocated,
    ) -> Result<Blkptr> {
        const COMPRESS_OFF: u8 = 2;
        let function = Checksum::from_raw(block.checksum_type())?;
        let mut member = Blkptr::HOLE;
        let len = piece.len() as u64;
        member.set_sizes(len, len);
        member.set_compress(COMPRESS_OFF);
        member.set_checksum_type(block.checksum_type());
        member.set_little_endian();
        member.set_birth(txg);
        member.set_checksum(self.salted().checksum(function, &piece));
        allocate_or_gang(self, alloc, txg, &mut member, &piece, copies, Class::Normal, out)?;
        Ok(member)
    }
}
