//! The pool's history: a ring of packed lists in one object. Source: `module/zfs/spa_history.c`.
//!
//! The first record, how the pool was created, is kept for ever; the rest of the object is a ring. Offsets are logical: they only grow.
//! Each record is a little-endian length followed by a list in native encoding.

use super::directory;
use super::report::HistoryRecord;
use crate::dmu::{Allocate, Dnode, Objset, Tx};
use crate::error::{Error, Result};
use crate::ondisk::nvlist::NvList;
use crate::ondisk::object_type::ObjectType;
use crate::ondisk::read_u64;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec;
use alloc::vec::Vec;

const BLOCK_SIZE: u32 = 128 << 10;
/// No history grows beyond that, in bytes.
const SIZE_MAX: u64 = 1 << 30;

/// The header: the bonus buffer (`spa_history_phys_t`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Header {
    /// End of the records that are kept for ever.
    create_len: u64,
    /// Size of the object.
    max_off: u64,
    /// Logical offsets of the first record of the ring and of its end.
    bof: u64,
    eof: u64,
    lost: u64,
}

impl Header {
    fn parse(bonus: &[u8]) -> Result<Self> {
        let word = |i: usize| read_u64(bonus, 8 * i);
        let h = Header { create_len: word(0), max_off: word(1), bof: word(2), eof: word(3), lost: word(4) };
        let sane = h.create_len < h.max_off
            && h.max_off <= SIZE_MAX
            && h.bof <= h.eof
            && h.eof - h.bof <= h.max_off
            && h.create_len <= h.bof.max(h.create_len);
        if sane { Ok(h) } else { Err(Error::corrupt("history: impossible header", None)) }
    }

    fn emit(&self) -> Vec<u8> {
        [self.create_len, self.max_off, self.bof, self.eof, self.lost]
            .iter()
            .flat_map(|w| w.to_le_bytes())
            .collect()
    }

    /// Where a logical offset lies in the object (`spa_history_log_to_phys`).
    fn place(&self, logical: u64) -> u64 {
        let ring = (self.max_off - self.create_len).max(1);
        if logical < self.create_len { logical } else { (logical - self.create_len) % ring + self.create_len }
    }
}

/// Makes the history of a new pool of `size` bytes.
pub(crate) fn create(mos: &Arc<Objset>, tx: &Tx, size: u64) -> Result<()> {
    let max_off = (size / 1000).clamp(128 << 10, SIZE_MAX);
    let header = Header { create_len: 0, max_off, bof: 0, eof: 0, lost: 0 };
    let bonus = header.emit();
    let what = Allocate {
        bonus_type: ObjectType::SPA_HISTORY_OFFSETS,
        bonus_len: bonus.len() as u16,
        ..Allocate::plain(ObjectType::SPA_HISTORY, BLOCK_SIZE)
    };
    let dnode = mos.allocate(tx, &what)?;
    dnode.set_bonus(tx, ObjectType::SPA_HISTORY_OFFSETS, &bonus)?;
    directory::add(mos, tx, "history", dnode.object())
}

fn open(mos: &Arc<Objset>) -> Result<Option<(Arc<Dnode>, Header)>> {
    let Some(object) = directory::lookup(mos, "history")? else { return Ok(None) };
    let dnode = mos.hold(object)?;
    let header = Header::parse(&dnode.bonus())?;
    Ok(Some((dnode, header)))
}

/// Reads bytes of the ring.
fn read(dnode: &Dnode, header: &Header, logical: u64, out: &mut [u8]) -> Result<()> {
    let place = header.place(logical);
    let first = out.len().min((header.max_off - place) as usize);
    let (head, tail) = out.split_at_mut(first);
    dnode.read(place, head)?;
    if !tail.is_empty() {
        dnode.read(header.create_len, tail)?;
    }
    Ok(())
}

/// Adds a record (`spa_history_log_sync`). Syncing context.
pub(crate) fn append(mos: &Arc<Objset>, tx: &Tx, record: &NvList) -> Result<()> {
    let Some((dnode, mut header)) = open(mos)? else { return Ok(()) };
    let packed = record.pack_native();
    let mut bytes = (packed.len() as u64).to_le_bytes().to_vec();
    bytes.extend_from_slice(&packed);
    let len = bytes.len() as u64;
    if len >= header.max_off - header.create_len {
        return Ok(());
    }
    while header.max_off - header.create_len - (header.eof - header.bof) <= len {
        let mut oldest = [0; 8];
        read(&dnode, &header, header.bof, &mut oldest)?;
        let next = u64::from_le_bytes(oldest).checked_add(header.bof + 8).filter(|next| *next <= header.eof);
        header.bof = next.ok_or(Error::corrupt("history: record longer than the history", None))?;
        header.lost += 1;
    }
    let place = header.place(header.eof);
    let first = bytes.len().min((header.max_off - place) as usize);
    dnode.write(tx, place, &bytes[..first])?;
    if first < bytes.len() {
        dnode.write(tx, header.create_len, &bytes[first..])?;
    }
    header.eof += len;
    if header.create_len == 0 && record.contains("history command") {
        // The first command is the pool's creation.
        header.create_len = header.eof;
        header.bof = header.eof;
    }
    dnode.set_bonus(tx, ObjectType::SPA_HISTORY_OFFSETS, &header.emit())
}

/// All records, oldest first. A broken record ends the list.
pub(crate) fn records(mos: &Arc<Objset>) -> Result<Vec<HistoryRecord>> {
    let mut all = Vec::new();
    let Some((dnode, header)) = open(mos)? else { return Ok(all) };
    for (mut at, end) in [(0, header.create_len), (header.bof.max(header.create_len), header.eof)] {
        while at + 8 <= end {
            let mut len = [0; 8];
            read(&dnode, &header, at, &mut len)?;
            let len = u64::from_le_bytes(len);
            if len == 0 || len > end - at - 8 {
                break;
            }
            let mut packed = vec![0; len as usize];
            read(&dnode, &header, at + 8, &mut packed)?;
            match NvList::unpack(&packed) {
                Ok(list) => all.push(show(list)),
                Err(_) => break,
            }
            at += 8 + len;
        }
    }
    Ok(all)
}

fn show(raw: NvList) -> HistoryRecord {
    let text = |name: &str| raw.get_str(name).map(String::from);
    let internal = text("internal_name").map(|event| {
        let txg = raw.get_u64("history txg").unwrap_or(0);
        let string = raw.get_str("history internal str").unwrap_or("");
        match (raw.get_str("dsname"), raw.get_u64("dsid")) {
            (Some(name), Some(id)) => alloc::format!("[txg:{txg}] {event} {name} ({id}) {string}"),
            _ => alloc::format!("[txg:{txg}] {event} {string}"),
        }
    });
    HistoryRecord {
        time: raw.get_u64("history time").unwrap_or(0),
        command: text("history command"),
        internal,
        host: text("history hostname"),
        raw,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ring_wraps_behind_the_first_record() {
        let header = Header { create_len: 100, max_off: 1100, bof: 2100, eof: 2500, lost: 0 };
        assert_eq!(Header::parse(&header.emit()), Ok(header));
        assert_eq!((header.place(50), header.place(100), header.place(1099)), (50, 100, 1099));
        assert_eq!((header.place(1100), header.place(2100)), (100, 100));
    }

    #[test]
    fn impossible_headers_are_refused() {
        let refused = Err(Error::corrupt("history: impossible header", None));
        assert_eq!(Header::parse(&[0; 40]), refused);
        let header = Header { create_len: 1, max_off: 10, bof: 9, eof: 8, lost: 0 };
        assert_eq!(Header::parse(&header.emit()), refused);
    }
}
