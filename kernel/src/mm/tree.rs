//! Four levels of page tables for the low half of an address space: pages of 4 KiB and of 2 MiB.
//!
//! # Entries
//! An entry that is not zero holds a frame; with [`LARGE_PAGE`] it stands a level higher and holds 512 frames in a row. Without
//! the present bit they are held but not accessible (`PROT_NONE`). Frames with the [`SHARED`] bit belong to somebody else; all
//! others belong to the entry. Large pages are never shared.
//!
//! # A large page can always be split
//! With each large page goes a table that is put aside, so that unmapping or protecting a part of it needs no memory.
//!
//! # A page's size changes in two steps
//! Processors may not hold translations of both sizes for one address: the entry is made not present and forgotten everywhere
//! before one of the other kind takes its place (Intel SDM vol. 3, 4.10.2.3 and 4.10.4).
//!
//! The tables themselves are reached through [`Memory`], so that this can be tested without a machine. The caller serialises
//! changes, and forgets translations that it took away or restricted.

/// The page is accessible.
pub const PRESENT: u64 = 1;
/// The page can be written.
pub const WRITABLE: u64 = 1 << 1;
/// A page of [`LARGE`] bytes: the processor's page-size bit of the second level.
pub const LARGE_PAGE: u64 = 1 << 7;
/// The frame belongs to somebody else (a bit that the processor ignores).
pub const SHARED: u64 = 1 << 9;
/// A large page that was looked through for zeros (another bit that the processor ignores).
pub const EXAMINED: u64 = 1 << 10;
/// No instruction fetches.
pub const NO_EXECUTE: u64 = 1 << 63;
/// The physical address in an entry.
pub const ADDRESS: u64 = 0x000f_ffff_ffff_f000;

/// Bytes of a page.
pub const PAGE: u64 = 4096;
/// Bytes of a large page.
pub const LARGE: u64 = 512 * PAGE;

/// The frame in an entry; of a large page the first one.
pub const fn frame_of(entry: u64) -> u64 {
    entry & ADDRESS
}

/// How many frames an entry holds.
pub const fn frames_in(entry: u64) -> u64 {
    match entry {
        0 => 0,
        _ if entry & LARGE_PAGE != 0 => LARGE / PAGE,
        _ => 1,
    }
}

/// Those of them that belong to the entry.
const fn owned(entry: u64) -> i64 {
    if entry & SHARED != 0 { 0 } else { frames_in(entry).cast_signed() }
}

/// No frame is left for a page or a table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OutOfFrames;

/// Where tables are: physical memory, whose words are entries.
pub trait Memory {
    /// The entry at a physical address.
    fn read(&self, at: u64) -> u64;
    /// Sets it.
    fn write(&mut self, at: u64, entry: u64);
    /// A table of zeros.
    fn new_table(&mut self) -> Result<u64, OutOfFrames>;
    /// Gives a table back that nothing leads to.
    fn free_table(&mut self, table: u64);
    /// Gives frames back that belonged to an entry.
    fn free_frames(&mut self, first: u64, count: u64);
    /// Makes all processors forget the translations of `start..end` under the top table `root`.
    fn forget(&mut self, root: u64, start: u64, end: u64);
    /// Entries own so many frames more, and so many of them are large pages.
    fn count(&mut self, frames: i64, large: i64);
}

/// A tree of page tables. The upper half of its top table is somebody else's.
#[derive(Debug)]
pub struct Tree<M: Memory> {
    /// Where the tables are.
    pub memory: M,
    root: u64,
    /// The tables that are put aside, one for each large page: each one's first word is the next one; 0 ends the list.
    aside: u64,
}

/// What is found for an address.
enum Found {
    /// No table: nothing in the whole aligned range of so many bytes around it.
    Nothing(u64),
    /// A large page: where its entry is, and the entry.
    Large(u64, u64),
    /// An entry of the lowest level, zero or not: where it is.
    Small(u64),
}

const fn slot(table: u64, virt: u64, level: u32) -> u64 {
    table + (virt >> (12 + 9 * (level - 1)) & 511) * 8
}

const fn table_end(virt: u64) -> u64 {
    (virt & !(LARGE - 1)) + LARGE
}

impl<M: Memory> Tree<M> {
    /// The tree under the top table `root`, whose lower half is empty.
    pub const fn new(memory: M, root: u64) -> Self {
        Tree { memory, root, aside: 0 }
    }

    /// Physical address of the top table.
    pub const fn root(&self) -> u64 {
        self.root
    }

    fn find(&self, virt: u64) -> Found {
        let mut table = self.root;
        for level in [4, 3, 2] {
            let slot = slot(table, virt, level);
            let entry = self.memory.read(slot);
            if entry == 0 {
                return Found::Nothing(1 << (12 + 9 * (level - 1)));
            }
            if level == 2 && entry & LARGE_PAGE != 0 {
                return Found::Large(slot, entry);
            }
            table = entry & ADDRESS;
        }
        Found::Small(slot(table, virt, 1))
    }

    /// Where the entry for `virt` at `level` is, with the tables above it.
    fn reach(&mut self, virt: u64, level: u32) -> Result<u64, OutOfFrames> {
        let mut table = self.root;
        for above in (level + 1..=4).rev() {
            let slot = slot(table, virt, above);
            let mut entry = self.memory.read(slot);
            if entry == 0 {
                entry = self.memory.new_table()? | PRESENT | WRITABLE;
                self.memory.write(slot, entry);
            } else if above == 2 && entry & LARGE_PAGE != 0 {
                entry = self.split(slot, entry, virt & !(LARGE - 1));
            }
            table = entry & ADDRESS;
        }
        Ok(slot(table, virt, level))
    }

    /// The entry that maps `virt`, a large page's as it stands; 0 if there is none.
    pub fn leaf(&self, virt: u64) -> u64 {
        match self.find(virt) {
            Found::Nothing(_) => 0,
            Found::Large(_, entry) => entry,
            Found::Small(slot) => self.memory.read(slot),
        }
    }

    /// The entry of the page at `virt`, as if there were none but small ones; 0 if there is none.
    pub fn get(&self, virt: u64) -> u64 {
        match self.find(virt) {
            Found::Large(_, entry) => (entry & !(LARGE_PAGE | EXAMINED)) + virt % LARGE / PAGE * PAGE,
            Found::Small(slot) => self.memory.read(slot),
            Found::Nothing(_) => 0,
        }
    }

    /// Sets the entry of one page, making tables on the way.
    pub fn set(&mut self, virt: u64, entry: u64) -> Result<(), OutOfFrames> {
        let slot = self.reach(virt, 1)?;
        let old = self.memory.read(slot);
        self.memory.write(slot, entry);
        let frames = owned(entry) - owned(old);
        if frames != 0 {
            self.memory.count(frames, 0);
        }
        Ok(())
    }

    /// Whether none of the pages that a large page at `base` would consist of has an entry.
    pub fn is_vacant(&self, base: u64) -> bool {
        match self.find(base) {
            Found::Nothing(_) => true,
            Found::Large(..) => false,
            Found::Small(first) => (0..512).all(|i| self.memory.read(first + i * 8) == 0),
        }
    }

    /// Makes a large page at `base`, which is vacant, out of 512 frames: `entry` holds the first one.
    pub fn set_large(&mut self, base: u64, entry: u64) -> Result<(), OutOfFrames> {
        let slot = self.reach(base, 2)?;
        let table = match self.vacate(slot, base) {
            0 => self.memory.new_table()?,
            table => table,
        };
        self.put_aside(table);
        self.memory.write(slot, entry | LARGE_PAGE);
        self.memory.count(owned(entry | LARGE_PAGE), 1);
        Ok(())
    }

    /// Takes the empty table, if there is one, out of an entry of the second level, so that a large page may take its place.
    fn vacate(&mut self, slot: u64, base: u64) -> u64 {
        let table = self.memory.read(slot) & ADDRESS;
        if table != 0 {
            self.memory.write(slot, 0);
            self.memory.forget(self.root, base, base + LARGE);
        }
        table
    }

    fn put_aside(&mut self, table: u64) {
        self.memory.write(table, self.aside);
        self.aside = table;
    }

    fn take_aside(&mut self) -> u64 {
        let table = self.aside;
        debug_assert!(table != 0, "a large page without a table put aside");
        self.aside = self.memory.read(table);
        table
    }

    /// Replaces a large page by small ones; the entry that leads to their table.
    fn split(&mut self, slot: u64, entry: u64, base: u64) -> u64 {
        let table = self.take_aside();
        if entry & PRESENT != 0 {
            self.memory.write(slot, entry & !PRESENT);
            self.memory.forget(self.root, base, base + LARGE);
        }
        let first = entry & !(LARGE_PAGE | EXAMINED);
        for i in 0..512 {
            self.memory.write(table + i * 8, first + i * PAGE);
        }
        let entry = table | PRESENT | WRITABLE;
        self.memory.write(slot, entry);
        self.memory.count(0, -1);
        entry
    }

    /// Replaces the large page at `base`, if there is one, by small ones.
    pub fn split_at(&mut self, base: u64) {
        if let Found::Large(slot, entry) = self.find(base) {
            self.split(slot, entry, base & !(LARGE - 1));
        }
    }

    /// Calls `change` with every entry in `start..end` that is not zero and stores what it answers, of the same size. Large pages
    /// that lie there only in part are split. Skips what has no tables, so that a reservation of terabytes costs nothing.
    pub fn change(&mut self, start: u64, end: u64, mut change: impl FnMut(u64, u64) -> u64) {
        let (mut virt, mut frames, mut large) = (start, 0, 0);
        while virt < end {
            match self.find(virt) {
                Found::Nothing(span) => virt = (virt & !(span - 1)) + span,
                Found::Large(slot, entry) => {
                    let base = virt & !(LARGE - 1);
                    if virt > base || end < base + LARGE {
                        self.split(slot, entry, base);
                        continue;
                    }
                    let new = change(virt, entry);
                    debug_assert!(new == 0 || new & LARGE_PAGE != 0, "a large page stays large");
                    self.memory.write(slot, new);
                    frames += owned(new) - owned(entry);
                    if new == 0 {
                        large -= 1;
                        let table = self.take_aside();
                        self.memory.free_table(table);
                    }
                    virt = base + LARGE;
                }
                Found::Small(mut slot) => {
                    let stop = end.min(table_end(virt));
                    while virt < stop {
                        let entry = self.memory.read(slot);
                        if entry != 0 {
                            let new = change(virt, entry);
                            self.memory.write(slot, new);
                            frames += owned(new) - owned(entry);
                        }
                        slot += 8;
                        virt += PAGE;
                    }
                }
            }
        }
        if frames != 0 || large != 0 {
            self.memory.count(frames, large);
        }
    }

    /// Calls `visit` with every entry in `start..end` that is not zero: where, how many bytes of it lie there, the entry.
    pub fn visit(&self, start: u64, end: u64, mut visit: impl FnMut(u64, u64, u64)) {
        let mut virt = start;
        while virt < end {
            match self.find(virt) {
                Found::Nothing(span) => virt = (virt & !(span - 1)) + span,
                Found::Large(_, entry) => {
                    let stop = end.min(table_end(virt));
                    visit(virt, stop - virt, entry);
                    virt = stop;
                }
                Found::Small(mut slot) => {
                    let stop = end.min(table_end(virt));
                    while virt < stop {
                        let entry = self.memory.read(slot);
                        if entry != 0 {
                            visit(virt, PAGE, entry);
                        }
                        slot += 8;
                        virt += PAGE;
                    }
                }
            }
        }
    }

    /// Moves the entries of `from..from + len` to `to`, where there are none; large pages stay whole where both addresses let
    /// them. Without memory for tables everything stays where it is.
    pub fn transfer(&mut self, from: u64, to: u64, len: u64) -> Result<(), OutOfFrames> {
        let (end, alike) = (from + len, (from ^ to).is_multiple_of(LARGE));
        let mut virt = from;
        while virt < end {
            match self.find(virt) {
                Found::Nothing(span) => virt = (virt & !(span - 1)) + span,
                Found::Large(slot, entry) => {
                    let base = virt & !(LARGE - 1);
                    if !alike || virt > base || end < base + LARGE {
                        self.split(slot, entry, base);
                        continue;
                    }
                    self.reach(to + (virt - from), 2)?;
                    virt = base + LARGE;
                }
                Found::Small(_) => {
                    // What lies in one table here may belong into two there.
                    let stop = end.min(table_end(virt));
                    self.reach(to + (virt - from), 1)?;
                    self.reach(to + (stop - PAGE - from), 1)?;
                    virt = stop;
                }
            }
        }
        virt = from;
        while virt < end {
            match self.find(virt) {
                Found::Nothing(span) => virt = (virt & !(span - 1)) + span,
                Found::Large(old, entry) => {
                    let target = to + (virt - from);
                    self.memory.write(old, 0);
                    let new = self.reach(target, 2)?;
                    match self.vacate(new, target) {
                        0 => {}
                        table => self.memory.free_table(table),
                    }
                    self.memory.write(new, entry);
                    virt += LARGE;
                }
                Found::Small(old) => {
                    let entry = self.memory.read(old);
                    if entry != 0 {
                        let new = self.reach(to + (virt - from), 1)?;
                        self.memory.write(old, 0);
                        self.memory.write(new, entry);
                    }
                    virt += PAGE;
                }
            }
        }
        Ok(())
    }

    fn free_tables(&mut self, table: u64, level: u32) {
        for index in 0..512 {
            let entry = self.memory.read(table + index * 8);
            if entry == 0 {
                continue;
            }
            let is_leaf = level == 1 || level == 2 && entry & LARGE_PAGE != 0;
            if !is_leaf {
                self.free_tables(entry & ADDRESS, level - 1);
            } else if entry & SHARED == 0 {
                self.memory.count(-owned(entry), -i64::from(entry & LARGE_PAGE != 0));
                self.memory.free_frames(frame_of(entry), frames_in(entry));
            }
        }
        self.memory.free_table(table);
    }

    /// Empties the lower half of the top table, and gives back the tables and all frames that entries own.
    pub fn clear(&mut self) {
        let top: [u64; 256] = core::array::from_fn(|index| {
            let slot = self.root + index as u64 * 8;
            let entry = self.memory.read(slot);
            self.memory.write(slot, 0);
            entry
        });
        self.memory.forget(self.root, 0, 1 << 47);
        for entry in top.into_iter().filter(|entry| *entry != 0) {
            self.free_tables(entry & ADDRESS, 3);
        }
        while self.aside != 0 {
            let table = self.take_aside();
            self.memory.free_table(table);
        }
    }
}
