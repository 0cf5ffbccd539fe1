//! Pages of 2 MiB for anonymous memory ("transparent huge pages").
//!
//! # When
//! A store to a place where nothing is yet brings in a large page if the 2 MiB around it lie in one private anonymous area that
//! may be written, hold nothing so far, and there is a block of free memory to spare; else small pages are brought in. Nothing is
//! moved to make such blocks, and small pages are not gathered later.
//!
//! # What it may cost
//! A large page takes memory that its program may never touch. So without `MADV_HUGEPAGE` they are taken only as long as a good part
//! of the memory is free ([`pressure::plenty_for_large`]), never for stacks; and when memory gets short, those that consist
//! of zeros for a good part are split, and the zeros given back: they are what the next fault there brings in.
//!
//! # Locks
//! As in [`super::address_space`]. 2 MiB are zeroed with none held, so two threads may do so for one place: the slower one
//! gives its block back.

use super::address_space::{AddressSpace, PAGE, Removed, State, entry_for};
use super::page_table::{EXAMINED, LARGE, LARGE_PAGE, PRESENT, frame_of};
use super::usercopy::USER_END;
use super::vma::{self, Backing, Large, Prot, Vma};
use super::{address_space, frame, phys, pressure};
use crate::arch::tlb;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU8, AtomicU64, Ordering};

/// Frames of a large page.
const FRAMES: usize = (LARGE / PAGE) as usize;
/// A large page with so many pages of zeros is split when memory is short.
const WORTH_SPLITTING: usize = 64;

/// Which areas may have large pages: what `/sys/kernel/mm/transparent_hugepage/enabled` says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// All that were not excluded.
    Always,
    /// Those of `MADV_HUGEPAGE`.
    Advised,
    /// None.
    Never,
}

/// The modes and what they are called.
const MODES: [(Mode, &str); 3] =
    [(Mode::Always, "always"), (Mode::Advised, "madvise"), (Mode::Never, "never")];

static MODE: AtomicU8 = AtomicU8::new(0);
static TAKEN: AtomicU64 = AtomicU64::new(0);
static WITHOUT_BLOCK: AtomicU64 = AtomicU64::new(0);
static GIVEN_BACK: AtomicU64 = AtomicU64::new(0);

fn mode() -> Mode {
    MODES[usize::from(MODE.load(Ordering::Relaxed))].0
}

/// All modes, that which holds in brackets.
pub fn modes() -> [(&'static str, bool); 3] {
    MODES.map(|(mode, name)| (name, mode == self::mode()))
}

/// Sets the mode by its name. Whether there is one.
pub fn set_mode(name: &str) -> bool {
    let index = MODES.iter().position(|(_, known)| *known == name);
    if let Some(index) = index {
        MODE.store(index as u8, Ordering::Relaxed);
    }
    index.is_some()
}

/// Large pages that faults brought in, faults that found no free block for one, and large pages that were split because memory was
/// short: `thp_fault_alloc`, `thp_fault_fallback`, `thp_underused_split_page` of `/proc/vmstat`.
pub fn counts() -> [u64; 3] {
    [&TAKEN, &WITHOUT_BLOCK, &GIVEN_BACK].map(|count| count.load(Ordering::Relaxed))
}

/// A block for a large page, zeroed.
fn zeroed_block() -> Option<u64> {
    let block = frame::alloc_contiguous(FRAMES, FRAMES)?;
    // SAFETY: ours, and in the direct map.
    unsafe { phys::to_virt(block).write_bytes(0, LARGE as usize) };
    Some(block)
}

fn is_zero(frame: u64) -> bool {
    let words = phys::to_virt(frame).cast::<u64>();
    // SAFETY: a frame of a page that nobody can reach while it is looked at.
    (0..PAGE as usize / 8).all(|i| unsafe { words.add(i).read() } == 0)
}

impl State {
    /// Whether an area's pages may be large ones, memory permitting.
    pub(super) fn may_be_large(&self, area: &Vma) -> bool {
        let allowed = match (mode(), area.large) {
            (Mode::Never, _) | (_, Large::Never) => false,
            (_, Large::Wanted) => true,
            (mode, Large::Unsaid) => mode == Mode::Always,
        };
        allowed && !self.only_small && matches!(area.backing, Backing::Anonymous) && area.prot.write()
    }

    /// The large page that could be brought in around `address`, and its rights.
    pub(super) fn room_for_large(&self, address: u64) -> Option<(u64, Prot)> {
        let base = address & !(LARGE - 1);
        let (start, area) = vma::find(&self.areas, address)?;
        let fits = start <= base
            && base + LARGE <= area.end
            && self.may_be_large(area)
            && pressure::plenty_for_large(area.large == Large::Wanted)
            && self.table.is_vacant(base);
        fits.then_some((base, area.prot))
    }

    /// Splits the hidden large page at `base` and takes its pages of zeros.
    fn take_zeros(&mut self, base: u64, shown: u64, zeros: &[bool; FRAMES]) -> Removed {
        let mut removed = Removed::default();
        self.table.split_at(base);
        self.table.change(base, base + LARGE, |virt, entry| {
            if zeros[((virt - base) / PAGE) as usize] {
                removed.add_frames(entry);
                0
            } else {
                entry | shown
            }
        });
        removed
    }
}

impl AddressSpace {
    /// Brings a large page in around `address`. `false`: there is no block for one, or no room any more.
    pub(super) fn fill_large(&self, address: u64) -> bool {
        let Some(block) = zeroed_block() else {
            WITHOUT_BLOCK.fetch_add(1, Ordering::Relaxed);
            return false;
        };
        let mut state = self.state.lock();
        if let Some((base, prot)) = state.room_for_large(address)
            && state.table.set_large(base, entry_for(block, prot, false, true)).is_ok()
        {
            TAKEN.fetch_add(1, Ordering::Relaxed);
            return true;
        }
        drop(state);
        frame::free_contiguous(block, FRAMES);
        false
    }

    /// Whether large pages are off for the whole address space (`PR_SET_THP_DISABLE`).
    pub fn has_only_small(&self) -> bool {
        self.state.lock().only_small
    }

    /// Sets that. What is large already stays.
    pub fn set_only_small(&self, only: bool) {
        self.state.lock().only_small = only;
    }

    /// `MADV_HUGEPAGE`, `MADV_NOHUGEPAGE` for all areas in a range.
    pub fn advise(&self, start: u64, end: u64, large: Large) {
        let mut guard = self.state.lock();
        let state = &mut *guard;
        vma::split(&mut state.areas, start);
        vma::split(&mut state.areas, end);
        let keys: Vec<u64> = state.areas.range(start..end).map(|(key, _)| *key).collect();
        for key in keys {
            if let Some(area) = state.areas.get_mut(&key) {
                area.large = large;
            }
            vma::merge(&mut state.areas, key);
        }
    }

    /// Gives back what of its large pages is zeros.
    fn give_back_zeros(&self) {
        let mut candidates = Vec::new();
        self.state.lock().table.visit(0, USER_END, |virt, _, entry| {
            if entry & (LARGE_PAGE | EXAMINED) == LARGE_PAGE {
                candidates.push(virt);
            }
        });
        for base in candidates {
            let mut state = self.state.lock();
            let entry = state.table.leaf(base);
            if entry & (LARGE_PAGE | EXAMINED) != LARGE_PAGE {
                continue;
            }
            // Hidden, so that nobody stores to what is looked at: whoever tries waits for the lock, and then finds it again.
            let shown = entry & PRESENT;
            state.table.change(base, base + LARGE, |_, entry| entry & !PRESENT);
            tlb::shootdown(self.root(), base, base + LARGE);
            let first = frame_of(entry);
            let zeros: [bool; FRAMES] = core::array::from_fn(|i| is_zero(first + i as u64 * PAGE));
            if zeros.iter().filter(|zero| **zero).count() < WORTH_SPLITTING {
                state.table.change(base, base + LARGE, |_, entry| entry | shown | EXAMINED);
                continue;
            }
            let removed = state.take_zeros(base, shown, &zeros);
            drop(state);
            GIVEN_BACK.fetch_add(1, Ordering::Relaxed);
            self.finish(removed, base, base + LARGE);
        }
    }
}

/// Gives back what of all large pages is zeros. With no lock held.
pub fn give_back_zeros() {
    address_space::all().iter().for_each(|space| space.give_back_zeros());
}
