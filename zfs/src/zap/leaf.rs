//! Leaves of fat ZAPs: a hash table with chains of 24-byte chunks in one block. Source: `zap_leaf.c`, `zap_leaf.h`.
//!
//! ```text
//!  0 type u64 (1<<63) · 16 prefix u64 · 24 magic u32 · 28 nfree u16 · 30 nentries u16 · 32 prefix_len u16 · 34 freelist u16 · 36 flags u8
//! 48 hash table: u16 × size/32 · then chunks of 24 bytes:
//!    entry: 0 type 252 · 1 value int size · 2 next u16 · 4 name chunk · 6 name ints · 8 value chunk · 10 value ints · 12 cd u32 · 16 hash u64
//!    array: 0 type 251 · 1 bytes[21], integers big-endian · 22 next u16          free: 0 type 253 · 22 next u16
//! ```
//! Every index from the block is checked, and every chain is followed at most as many steps as there are chunks.

use crate::zap::Value;
use crate::zap::cursor::{Position, Seen, Stored};
use crate::zap::key::Query;
use alloc::vec;
use alloc::vec::Vec;

pub(crate) const BLOCK_TYPE_LEAF: u64 = 1 << 63;
const MAGIC: u32 = 0x02AB_1EAF;
const CHUNK: usize = 24;
const ARRAY_BYTES: usize = 21;
const HASH_AT: usize = 48;
const CHAIN_END: u16 = 0xffff;
const ENTRY: u8 = 252;
const ARRAY: u8 = 251;
const FREE: u8 = 253;
const FLAG_CD_SORTED: u8 = 1;

const PREFIX: usize = 16;
const NFREE: usize = 28;
const NENTRIES: usize = 30;
const PREFIX_LEN: usize = 32;
const FREELIST: usize = 34;
const FLAGS: usize = 36;

/// What is wrong with a leaf.
pub(crate) type Broken = &'static str;
const BAD_CHUNK: Broken = "zap leaf: chunk number or type out of range";
const BAD_CHAIN: Broken = "zap leaf: endless chain";
const STRAY: Broken = "zap leaf: an entry in a chain that its hash does not belong to";
const NO_END: Broken = "zap leaf: a name without terminating zero";

/// A leaf's block; `B` is `&[u8]` or `&mut [u8]`.
pub(crate) struct Leaf<B> {
    block: B,
    hash_shift: u32,
    chunks: u16,
}

/// An entry's head.
#[derive(Debug, Clone, Copy)]
pub(crate) struct EntryHead {
    pub(crate) chunk: u16,
    int_size: u8,
    next: u16,
    name_chunk: u16,
    name_ints: u16,
    value_chunk: u16,
    value_ints: u16,
    pub(crate) cd: u32,
    pub(crate) hash: u64,
}

impl EntryHead {
    /// Its place in the order of entries.
    fn position(&self) -> Position {
        (self.hash, self.cd)
    }
}

/// Why a change of a leaf did not happen.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Refused {
    /// There is no room: split and try again.
    Full,
    /// It is larger than a leaf can hold.
    TooBig,
    Broken(Broken),
}

impl From<Broken> for Refused {
    fn from(rule: Broken) -> Self {
        Refused::Broken(rule)
    }
}

/// Integers are big-endian.
fn word(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0, |v, &b| v << 8 | u64::from(b))
}

fn chunks_for(bytes: usize) -> usize {
    bytes.div_ceil(ARRAY_BYTES)
}

impl<B: AsRef<[u8]>> Leaf<B> {
    /// A view of a leaf; its header is checked.
    pub(crate) fn new(block: B) -> Result<Self, Broken> {
        let size = block.as_ref().len();
        if !size.is_power_of_two() || !(512..=1 << 20).contains(&size) {
            return Err("zap leaf: block size out of range");
        }
        let hash_shift = size.trailing_zeros() - 5;
        let chunks = (size - 2 * (1 << hash_shift)) / CHUNK - 2;
        let leaf = Leaf { block, hash_shift, chunks: chunks.min(0xfff0) as u16 };
        if leaf.u64_at(0) != BLOCK_TYPE_LEAF || leaf.u64_at(24) as u32 != MAGIC {
            return Err("zap leaf: wrong type or magic");
        }
        let len = leaf.prefix_len();
        if len > 64 - hash_shift || leaf.prefix() >> len != 0 {
            return Err("zap leaf: prefix too long");
        }
        Ok(leaf)
    }

    fn u16_at(&self, at: usize) -> u16 {
        let b = self.block.as_ref();
        u16::from_le_bytes([b[at], b[at + 1]])
    }

    fn u64_at(&self, at: usize) -> u64 {
        crate::ondisk::read_u64(self.block.as_ref(), at)
    }

    pub(crate) fn prefix_len(&self) -> u32 {
        u32::from(self.u16_at(PREFIX_LEN))
    }

    pub(crate) fn prefix(&self) -> u64 {
        self.u64_at(PREFIX)
    }

    /// The first hash behind this leaf; `None` if it is the last leaf.
    pub(crate) fn end_of_range(&self) -> Option<u64> {
        let len = self.prefix_len();
        if len == 0 {
            return None;
        }
        self.prefix().checked_add(1).and_then(|next| next.checked_mul(1u64.checked_shl(64 - len)?))
    }

    fn chunk_at(&self, chunk: u16) -> usize {
        HASH_AT + 2 * (1 << self.hash_shift) + usize::from(chunk) * CHUNK
    }

    /// The place of the hash table's entry for `hash`.
    fn bucket_at(&self, hash: u64) -> usize {
        HASH_AT + 2 * self.bucket(hash, self.prefix_len())
    }

    /// Which entry of the hash table that is, in a leaf whose prefix is `len` bits long.
    fn bucket(&self, hash: u64, len: u32) -> usize {
        let shift = 64 - self.hash_shift - len;
        ((hash >> shift) & ((1 << self.hash_shift) - 1)) as usize
    }

    /// The chunk of that number, if it is of that type.
    fn chunk(&self, chunk: u16, kind: u8) -> Result<&[u8; CHUNK], Broken> {
        if chunk >= self.chunks {
            return Err(BAD_CHUNK);
        }
        let bytes = self.block.as_ref().get(self.chunk_at(chunk)..).and_then(<[u8]>::first_chunk);
        bytes.filter(|b| b[0] == kind).ok_or(BAD_CHUNK)
    }

    fn entry(&self, chunk: u16) -> Result<EntryHead, Broken> {
        let b = self.chunk(chunk, ENTRY)?;
        let half = |at: usize| u16::from_le_bytes([b[at], b[at + 1]]);
        Ok(EntryHead {
            chunk,
            int_size: b[1],
            next: half(2),
            name_chunk: half(4),
            name_ints: half(6),
            value_chunk: half(8),
            value_ints: half(10),
            cd: u32::from_le_bytes([b[12], b[13], b[14], b[15]]),
            hash: u64::from_le_bytes([b[16], b[17], b[18], b[19], b[20], b[21], b[22], b[23]]),
        })
    }

    /// The bytes of an array, `len` of them, behind what is in `out`.
    fn array_into(&self, mut chunk: u16, len: usize, out: &mut Vec<u8>) -> Result<(), Broken> {
        if len > usize::from(self.chunks) * ARRAY_BYTES {
            return Err("zap leaf: array longer than the leaf");
        }
        let end = out.len() + len;
        out.reserve(len);
        while out.len() < end {
            let (bytes, next) = self.array_chunk(chunk)?;
            out.extend_from_slice(&bytes[..(end - out.len()).min(ARRAY_BYTES)]);
            chunk = next;
        }
        Ok(())
    }

    fn array(&self, chunk: u16, len: usize) -> Result<Vec<u8>, Broken> {
        let mut out = Vec::new();
        self.array_into(chunk, len, &mut out)?;
        Ok(out)
    }

    /// What one chunk of an array holds, and the number of the next.
    fn array_chunk(&self, chunk: u16) -> Result<(&[u8; ARRAY_BYTES], u16), Broken> {
        let [_, bytes @ .., a, b] = self.chunk(chunk, ARRAY)?;
        Ok((bytes, u16::from_le_bytes([*a, *b])))
    }

    /// The only integer of a value that has one, `size` bytes long: it lies in one chunk.
    fn only(&self, entry: &EntryHead, size: usize) -> Result<u64, Broken> {
        Ok(word(&self.array_chunk(entry.value_chunk)?.0[..size]))
    }

    /// Whether an array holds exactly `bytes`.
    fn array_is(&self, mut chunk: u16, bytes: &[u8]) -> Result<bool, Broken> {
        for part in bytes.chunks(ARRAY_BYTES) {
            let (bytes, next) = self.array_chunk(chunk)?;
            if !bytes.starts_with(part) {
                return Ok(false);
            }
            chunk = next;
        }
        Ok(true)
    }

    /// The stored name without terminating zero; words (of a u64-keyed ZAP) in big-endian order.
    pub(crate) fn name(&self, entry: &EntryHead, int_size: u8) -> Result<Vec<u8>, Broken> {
        let mut name = Vec::new();
        self.name_into(entry, int_size, &mut name)?;
        Ok(name)
    }

    /// The name in the place of what is in `out`.
    pub(crate) fn name_into(&self, entry: &EntryHead, int_size: u8, out: &mut Vec<u8>) -> Result<(), Broken> {
        out.clear();
        self.array_into(entry.name_chunk, usize::from(entry.name_ints) * usize::from(int_size), out)?;
        if int_size == 1 && out.pop() != Some(0) {
            return Err(NO_END);
        }
        Ok(())
    }

    /// As [`Leaf::name_into`], but a name that lies in one chunk is given where it lies.
    fn name_or_copy<'a>(
        &'a self,
        entry: &EntryHead,
        int_size: u8,
        copy: &'a mut Vec<u8>,
    ) -> Result<&'a [u8], Broken> {
        let len = usize::from(entry.name_ints);
        if int_size == 1 && (1..=ARRAY_BYTES).contains(&len) {
            return match &self.array_chunk(entry.name_chunk)?.0[..len] {
                [name @ .., 0] => Ok(name),
                _ => Err(NO_END),
            };
        }
        self.name_into(entry, int_size, copy)?;
        Ok(copy)
    }

    pub(crate) fn value(&self, entry: &EntryHead) -> Result<Value, Broken> {
        let size = usize::from(entry.int_size);
        if !matches!(size, 1 | 2 | 4 | 8) {
            return Err("zap leaf: integer size is not 1, 2, 4 or 8");
        }
        if entry.value_ints == 1 {
            return Ok(Value { int_size: entry.int_size, ints: vec![self.only(entry, size)?] });
        }
        let bytes = self.array(entry.value_chunk, usize::from(entry.value_ints) * size)?;
        let ints = bytes.chunks(size).map(word).collect();
        Ok(Value { int_size: entry.int_size, ints })
    }

    /// The value, without an allocation if it is what a directory's entry has.
    fn stored(&self, entry: &EntryHead) -> Result<Stored, Broken> {
        match (entry.int_size, entry.value_ints) {
            (8, 1) => {
                let [a, b, c, d, e, f, g, h, ..] = *self.array_chunk(entry.value_chunk)?.0;
                Ok(Stored::Word(u64::from_be_bytes([a, b, c, d, e, f, g, h])))
            }
            _ => self.value(entry).map(Stored::Value),
        }
    }

    pub(crate) fn lookup(&self, query: &Query) -> Result<Option<EntryHead>, Broken> {
        let mut chunk = self.u16_at(self.bucket_at(query.hash));
        for _ in 0..=self.chunks {
            if chunk == CHAIN_END {
                return Ok(None);
            }
            let entry = self.entry(chunk)?;
            if entry.hash == query.hash && self.is(&entry, query)? {
                return Ok(Some(entry));
            }
            chunk = entry.next;
        }
        Err(BAD_CHAIN)
    }

    fn is(&self, entry: &EntryHead, query: &Query) -> Result<bool, Broken> {
        if query.folds() {
            return Ok(query.matches(&self.name(entry, 1)?));
        }
        Ok(usize::from(entry.name_ints) == query.numints()
            && self.array_is(entry.name_chunk, &query.stored)?)
    }

    /// Gives the entries from a position on to `sink`, in order, until it answers false; whether it never did. Names are of integers
    /// of `int_size` bytes. No list of them is made: the hash table is in the order of hashes already.
    pub(crate) fn visit_from(
        &self,
        from: Position,
        int_size: u8,
        sink: &mut impl FnMut(Seen<'_>) -> bool,
    ) -> Result<bool, Broken> {
        let shift = 64 - self.hash_shift - self.prefix_len();
        // What the hashes of the first chain begin with. Those of the next begin with the next number, and so on.
        let base = self.prefix() << self.hash_shift;
        let first = (from.0 >> shift).saturating_sub(base);
        let table = &self.block.as_ref()[HASH_AT..HASH_AT + 2 * (1 << self.hash_shift)];
        let (mut chain, mut copy) = (Vec::new(), Vec::new());
        for (i, link) in table.as_chunks::<2>().0.iter().enumerate().skip(first as usize) {
            let head = u16::from_le_bytes(*link);
            if head == CHAIN_END {
                continue;
            }
            // Out of order, iteration could run in circles.
            let own = |entry: EntryHead| {
                if entry.hash >> shift == base | i as u64 { Ok(entry) } else { Err(STRAY) }
            };
            let mut entry = own(self.entry(head)?)?;
            // Most chains have one entry.
            while entry.next != CHAIN_END {
                if chain.len() == usize::from(self.chunks) {
                    return Err(BAD_CHAIN);
                }
                chain.push(entry);
                entry = own(self.entry(entry.next)?)?;
            }
            let mut give = |entry: &EntryHead| {
                let at = entry.position();
                if at < from {
                    return Ok(true);
                }
                let name = self.name_or_copy(entry, int_size, &mut copy)?;
                Ok(sink(Seen { name, value: self.stored(entry)?, at }))
            };
            if chain.is_empty() {
                if !give(&entry)? {
                    return Ok(false);
                }
                continue;
            }
            chain.push(entry);
            chain.sort_unstable_by_key(EntryHead::position);
            for entry in chain.drain(..) {
                if !give(&entry)? {
                    return Ok(false);
                }
            }
        }
        Ok(true)
    }

    /// All entries, in the order of their chunks.
    pub(crate) fn entries(&self) -> Vec<EntryHead> {
        (0..self.chunks).filter_map(|chunk| self.entry(chunk).ok()).collect()
    }
}

impl Leaf<&mut [u8]> {
    /// Makes an empty leaf of a block.
    pub(crate) fn init(block: &mut [u8], prefix: u64, prefix_len: u32, sorted: bool) {
        block.fill(0);
        block[..8].copy_from_slice(&BLOCK_TYPE_LEAF.to_le_bytes());
        block[24..28].copy_from_slice(&MAGIC.to_le_bytes());
        let mut leaf = Leaf::new(block).expect("the header was just written");
        let chunks = leaf.chunks;
        leaf.set_u64(PREFIX, prefix);
        leaf.set_u16(PREFIX_LEN, prefix_len as u16);
        leaf.set_u16(NFREE, chunks);
        leaf.block[FLAGS] = if sorted { FLAG_CD_SORTED } else { 0 };
        let table = HASH_AT..HASH_AT + 2 * (1 << leaf.hash_shift);
        leaf.block[table].fill(0xff);
        for chunk in 0..chunks {
            let at = leaf.chunk_at(chunk);
            leaf.block[at] = FREE;
            leaf.set_u16(at + 22, if chunk + 1 == chunks { CHAIN_END } else { chunk + 1 });
        }
    }

    fn set_u16(&mut self, at: usize, value: u16) {
        self.block[at..at + 2].copy_from_slice(&value.to_le_bytes());
    }

    fn set_u64(&mut self, at: usize, value: u64) {
        self.block[at..at + 8].copy_from_slice(&value.to_le_bytes());
    }

    fn nfree(&self) -> u16 {
        self.u16_at(NFREE)
    }

    fn take_chunk(&mut self) -> Result<u16, Broken> {
        let chunk = self.u16_at(FREELIST);
        if chunk >= self.chunks || self.block[self.chunk_at(chunk)] != FREE || self.nfree() == 0 {
            return Err("zap leaf: broken free list");
        }
        let next = self.u16_at(self.chunk_at(chunk) + 22);
        self.set_u16(FREELIST, next);
        self.set_u16(NFREE, self.nfree() - 1);
        Ok(chunk)
    }

    fn give_chunk(&mut self, chunk: u16) {
        let at = self.chunk_at(chunk);
        // Zeros help the block to compress.
        self.block[at..at + CHUNK].fill(0);
        self.block[at] = FREE;
        self.set_u16(at + 22, self.u16_at(FREELIST));
        self.set_u16(FREELIST, chunk);
        self.set_u16(NFREE, self.nfree().saturating_add(1));
    }

    fn create_array(&mut self, bytes: &[u8]) -> Result<u16, Broken> {
        let mut head = CHAIN_END;
        let mut link = None;
        for part in bytes.chunks(ARRAY_BYTES) {
            let chunk = self.take_chunk()?;
            let at = self.chunk_at(chunk);
            self.block[at..at + CHUNK].fill(0);
            self.block[at] = ARRAY;
            self.block[at + 1..at + 1 + part.len()].copy_from_slice(part);
            self.set_u16(at + 22, CHAIN_END);
            match link.replace(at + 22) {
                None => head = chunk,
                Some(before) => self.set_u16(before, chunk),
            }
        }
        Ok(head)
    }

    fn free_array(&mut self, mut chunk: u16) -> Result<(), Broken> {
        let mut list = Vec::new();
        while chunk != CHAIN_END {
            let at = self.chunk_at(chunk);
            if chunk >= self.chunks || self.block[at] != ARRAY || list.len() > usize::from(self.chunks) {
                return Err(BAD_CHUNK);
            }
            list.push(chunk);
            chunk = self.u16_at(at + 22);
        }
        // In reverse, so that the free list has them in their old order.
        list.into_iter().rev().for_each(|chunk| self.give_chunk(chunk));
        Ok(())
    }

    /// Adds an entry that is not there yet. `cd`: its collision differentiator, `None` for the lowest unused.
    pub(crate) fn create(&mut self, query: &Query, cd: Option<u32>, value: &Value) -> Result<(), Refused> {
        let bytes = value_bytes(value);
        let needed = 1 + chunks_for(query.stored.len()) + chunks_for(bytes.len());
        if needed > usize::from(self.chunks) {
            return Err(Refused::TooBig);
        }
        if needed > usize::from(self.nfree()) {
            return Err(Refused::Full);
        }
        let cd = match cd {
            Some(cd) => cd,
            None => self.unused_cd(query.hash)?,
        };
        let chunk = self.take_chunk()?;
        let at = self.chunk_at(chunk);
        self.block[at] = ENTRY;
        let name_chunk = self.create_array(&query.stored)?;
        let value_chunk = self.create_array(&bytes)?;
        self.block[at + 1] = value.int_size;
        self.set_u16(at + 4, name_chunk);
        self.set_u16(at + 6, query.numints() as u16);
        self.set_u16(at + 8, value_chunk);
        self.set_u16(at + 10, value.ints.len() as u16);
        self.block[at + 12..at + 16].copy_from_slice(&cd.to_le_bytes());
        self.set_u64(at + 16, query.hash);
        self.link(chunk)?;
        self.set_u16(NENTRIES, self.u16_at(NENTRIES).saturating_add(1));
        Ok(())
    }

    fn unused_cd(&self, hash: u64) -> Result<u32, Broken> {
        let mut taken = Vec::new();
        let mut chunk = self.u16_at(self.bucket_at(hash));
        for _ in 0..=self.chunks {
            if chunk == CHAIN_END {
                return Ok((0..).find(|cd| !taken.contains(cd)).unwrap_or(0));
            }
            let entry = self.entry(chunk)?;
            if entry.hash == hash {
                taken.push(entry.cd);
            }
            chunk = entry.next;
        }
        Err(BAD_CHAIN)
    }

    /// Links an entry into its chain, which is kept in the order of cds.
    fn link(&mut self, chunk: u16) -> Result<(), Broken> {
        let new = self.entry(chunk)?;
        let mut at = self.bucket_at(new.hash);
        for _ in 0..=self.chunks {
            let next = self.u16_at(at);
            if next == CHAIN_END || self.entry(next)?.cd > new.cd {
                self.set_u16(self.chunk_at(chunk) + 2, next);
                self.set_u16(at, chunk);
                return Ok(());
            }
            at = self.chunk_at(next) + 2;
        }
        Err(BAD_CHAIN)
    }

    /// Replaces an entry's value.
    pub(crate) fn update(&mut self, entry: &EntryHead, value: &Value) -> Result<(), Refused> {
        let bytes = value_bytes(value);
        let old = chunks_for(usize::from(entry.value_ints) * usize::from(entry.int_size));
        let new = chunks_for(bytes.len());
        if new > usize::from(self.nfree()) + old {
            return Err(Refused::Full);
        }
        self.free_array(entry.value_chunk)?;
        let value_chunk = self.create_array(&bytes)?;
        let at = self.chunk_at(entry.chunk);
        self.block[at + 1] = value.int_size;
        self.set_u16(at + 8, value_chunk);
        self.set_u16(at + 10, value.ints.len() as u16);
        Ok(())
    }

    pub(crate) fn remove(&mut self, entry: &EntryHead) -> Result<(), Broken> {
        let mut at = self.bucket_at(entry.hash);
        let mut steps = 0;
        while self.u16_at(at) != entry.chunk {
            let next = self.entry(self.u16_at(at))?;
            at = self.chunk_at(next.chunk) + 2;
            steps += 1;
            if steps > self.chunks {
                return Err(BAD_CHAIN);
            }
        }
        self.set_u16(at, entry.next);
        self.free_array(entry.value_chunk)?;
        self.free_array(entry.name_chunk)?;
        self.give_chunk(entry.chunk);
        self.set_u16(NENTRIES, self.u16_at(NENTRIES).saturating_sub(1));
        Ok(())
    }

    /// Moves the upper half of the hash range to a new leaf, which is returned. `name_int_size` as the keys have it.
    pub(crate) fn split(&mut self, sorted: bool) -> Result<Vec<u8>, Broken> {
        let len = self.prefix_len() + 1;
        if len > 64 - self.hash_shift {
            return Err("zap leaf: cannot be split further");
        }
        let prefix = self.prefix() << 1;
        let old = self.block.to_vec();
        let old = Leaf::new(&old[..])?;
        // Both halves are built anew, which also leaves them without fragmentation; aside, so that a damaged leaf stays as it is.
        let [mut lower, mut upper] = [(); 2].map(|()| vec![0; old.block.len()]);
        Leaf::init(&mut lower, prefix, len, sorted);
        Leaf::init(&mut upper, prefix | 1, len, sorted);
        let mut lower_leaf = Leaf::new(&mut lower[..])?;
        let mut upper_leaf = Leaf::new(&mut upper[..])?;
        let bit = 1u64 << (64 - len);
        for entry in old.entries() {
            let half = if entry.hash & bit != 0 { &mut upper_leaf } else { &mut lower_leaf };
            half.adopt(&old, &entry)?;
        }
        self.block.copy_from_slice(&lower);
        Ok(upper)
    }

    /// Copies an entry from another leaf.
    fn adopt(&mut self, from: &Leaf<&[u8]>, entry: &EntryHead) -> Result<(), Broken> {
        let chunk = self.take_chunk()?;
        let (at, source) = (self.chunk_at(chunk), from.chunk_at(entry.chunk));
        self.block[at..at + CHUNK].copy_from_slice(&from.block[source..source + CHUNK]);
        let name_chunk = self.copy_array(from, entry.name_chunk)?;
        let value_chunk = self.copy_array(from, entry.value_chunk)?;
        self.set_u16(at + 4, name_chunk);
        self.set_u16(at + 8, value_chunk);
        self.link(chunk)?;
        self.set_u16(NENTRIES, self.u16_at(NENTRIES).saturating_add(1));
        Ok(())
    }

    fn copy_array(&mut self, from: &Leaf<&[u8]>, mut chunk: u16) -> Result<u16, Broken> {
        let mut bytes = Vec::new();
        while chunk != CHAIN_END {
            let at = from.chunk_at(chunk);
            if chunk >= from.chunks || from.block[at] != ARRAY || bytes.len() > from.block.len() {
                return Err(BAD_CHUNK);
            }
            bytes.extend_from_slice(&from.block[at + 1..at + 1 + ARRAY_BYTES]);
            chunk = from.u16_at(at + 22);
        }
        self.create_array(&bytes)
    }
}

/// A value as its array holds it: big-endian integers.
fn value_bytes(value: &Value) -> Vec<u8> {
    let size = usize::from(value.int_size);
    let mut out = Vec::with_capacity(value.ints.len() * size);
    for int in &value.ints {
        out.extend_from_slice(&int.to_be_bytes()[8 - size..]);
    }
    out
}
