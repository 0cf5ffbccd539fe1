//! The kernel's page tables and areas of memory, against models of them.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

extern crate alloc;

use mm::tree::{
    EXAMINED, LARGE, LARGE_PAGE, Memory, OutOfFrames, PAGE, PRESENT, SHARED, Tree, WRITABLE, frame_of,
    frames_in,
};
use mm::vma::{Areas, Backing, Large, Prot, Vma, find, find_free, is_free, merge, split};
use std::collections::{BTreeMap, BTreeSet};
use tests::model::Rng;

/// The kernel's own sources: the kernel itself is no library.
#[expect(dead_code, unreachable_pub, reason = "the kernel has a use for all of it")]
#[path = "../../kernel/src/mm"]
mod mm {
    pub mod tree;
    pub mod vma;
    /// What the kernel's areas share is of no matter here.
    pub mod file_pages {
        #[derive(Debug)]
        pub struct Pages;
    }
}

/// Tables in a map; frames are numbers that are given out once.
#[derive(Default)]
struct Fake {
    tables: BTreeMap<u64, Box<[u64; 512]>>,
    next: u64,
    /// So many tables more can be made.
    left: usize,
    freed: Vec<(u64, u64)>,
    frames: i64,
    large: i64,
    /// Translations that a processor may hold, by the page: they must be forgotten before a page's size changes.
    cached: BTreeMap<u64, u64>,
}

impl Memory for Fake {
    fn read(&self, at: u64) -> u64 {
        self.tables[&(at & !4095)][(at % 4096 / 8) as usize]
    }
    fn write(&mut self, at: u64, entry: u64) {
        self.tables.get_mut(&(at & !4095)).unwrap()[(at % 4096 / 8) as usize] = entry;
    }
    fn new_table(&mut self) -> Result<u64, OutOfFrames> {
        self.left = self.left.checked_sub(1).ok_or(OutOfFrames)?;
        self.next += PAGE;
        self.tables.insert(self.next, Box::new([0; 512]));
        Ok(self.next)
    }
    fn free_table(&mut self, table: u64) {
        self.tables.remove(&table).unwrap();
    }
    fn free_frames(&mut self, first: u64, count: u64) {
        self.freed.push((first, count));
    }
    fn forget(&mut self, _root: u64, start: u64, end: u64) {
        self.cached.retain(|page, _| !(start..end).contains(page));
    }
    fn count(&mut self, frames: i64, large: i64) {
        self.frames += frames;
        self.large += large;
    }
}

fn tree() -> Tree<Fake> {
    let mut memory = Fake { left: 10_000, next: 1 << 40, ..Fake::default() };
    let root = memory.new_table().unwrap();
    Tree::new(memory, root)
}

/// The pages that are there, each with its entry as [`Tree::get`] gives it.
type Model = BTreeMap<u64, u64>;

fn compare(tree: &Tree<Fake>, model: &Model, start: u64, end: u64) {
    let mut seen = Model::new();
    tree.visit(start, end, |virt, len, entry| {
        for page in (virt..virt + len).step_by(PAGE as usize) {
            assert_eq!(entry & LARGE_PAGE != 0, tree.leaf(page) & LARGE_PAGE != 0);
            seen.insert(page, tree.get(page));
        }
    });
    assert!(seen == *model, "the tables differ from the model");
    let memory = &tree.memory;
    let owned = model.values().filter(|entry| **entry & SHARED == 0).count();
    assert_eq!(memory.frames, owned as i64);
    let mut large = 0;
    tree.visit(start, end, |_, _, entry| large += i64::from(entry & LARGE_PAGE != 0));
    assert_eq!(memory.large, large);
}

#[test]
fn random_changes_are_those_of_the_model() {
    const START: u64 = 7 << 39;
    const PAGES: u64 = 6 * 512;
    const END: u64 = START + PAGES * PAGE;
    for seed in 0..20 {
        let mut rng = Rng::new(seed);
        let (mut tree, mut model) = (tree(), Model::new());
        let mut next_frame = LARGE;
        for _ in 0..300 {
            let from = START + rng.below(PAGES) * PAGE;
            let long = rng.below(3) == 0;
            let len = (1 + rng.below(if long { PAGES } else { 40 })) * PAGE;
            let to = (from + len).min(END);
            match rng.below(8) {
                0 | 1 => {
                    let base = from & !(LARGE - 1);
                    let vacant = model.range(base..base + LARGE).next().is_none();
                    assert_eq!(tree.is_vacant(base), vacant);
                    if vacant {
                        let first = next_frame.next_multiple_of(LARGE);
                        next_frame = first + LARGE;
                        let entry = first | PRESENT | WRITABLE;
                        tree.set_large(base, entry).unwrap();
                        model.extend((0..512).map(|i| (base + i * PAGE, entry + i * PAGE)));
                    }
                }
                2 => {
                    let shared = rng.below(2) * SHARED;
                    for page in (from..to.min(from + 20 * PAGE)).step_by(PAGE as usize) {
                        if model.contains_key(&page) {
                            continue;
                        }
                        next_frame += PAGE;
                        tree.set(page, next_frame | PRESENT | shared).unwrap();
                        model.insert(page, next_frame | PRESENT | shared);
                    }
                }
                3 => {
                    // Rights.
                    let bits = rng.below(4);
                    tree.change(from, to, |_, entry| {
                        let examined = if entry & LARGE_PAGE != 0 { EXAMINED } else { 0 };
                        entry & !3 | bits | examined
                    });
                    model.range_mut(from..to).for_each(|(_, entry)| *entry = *entry & !3 | bits);
                }
                4 | 5 => {
                    let mut gone = BTreeSet::new();
                    tree.change(from, to, |_, entry| {
                        gone.extend((0..frames_in(entry)).map(|i| frame_of(entry) + i * PAGE));
                        0
                    });
                    let pages: Vec<u64> = model.range(from..to).map(|(page, _)| *page).collect();
                    let wanted = pages.iter().map(|page| frame_of(model.remove(page).unwrap())).collect();
                    assert_eq!(gone, wanted);
                }
                6 => {
                    tree.split_at(from & !(LARGE - 1));
                    assert_eq!(tree.leaf(from) & (LARGE_PAGE | EXAMINED), 0);
                }
                _ => {
                    // Somewhere else and back, with large pages whole or not; with too little memory it stays.
                    let len = to - from;
                    let away = (9 << 39) + from % LARGE + rng.below(2) * PAGE * rng.below(512);
                    let left = std::mem::replace(&mut tree.memory.left, rng.below(6) as usize);
                    let moved = tree.transfer(from, away, len);
                    tree.memory.left = left;
                    if moved.is_ok() {
                        assert!((from..to).step_by(PAGE as usize).all(|page| tree.get(page) == 0));
                        for (page, entry) in model.range(from..to) {
                            assert_eq!(tree.get(page - from + away), *entry);
                        }
                        tree.transfer(away, from, len).unwrap();
                    }
                }
            }
            compare(&tree, &model, START, END);
        }
        tree.clear();
        let memory = &tree.memory;
        assert_eq!((memory.frames, memory.large, memory.tables.len()), (0, 0, 1), "seed {seed}");
        let freed = memory.freed.iter().flat_map(|(first, count)| (0..*count).map(move |i| first + i * PAGE));
        let freed: Vec<u64> = freed.collect();
        let mut wanted: Vec<u64> =
            model.values().filter(|entry| **entry & SHARED == 0).map(|entry| frame_of(*entry)).collect();
        wanted.sort_unstable();
        let mut sorted = freed.clone();
        sorted.sort_unstable();
        assert_eq!(sorted, wanted, "seed {seed}");
    }
}

#[test]
fn a_large_page_is_split_without_memory_and_after_it_was_forgotten() {
    let mut tree = tree();
    let entry = (16 * LARGE) | PRESENT | WRITABLE;
    tree.set_large(LARGE, entry | EXAMINED).unwrap();
    assert_eq!(tree.get(LARGE + 5 * PAGE), entry + 5 * PAGE);
    tree.memory.left = 0;
    tree.memory.cached.insert(LARGE, entry);
    tree.change(LARGE + PAGE, LARGE + 2 * PAGE, |_, _| 0);
    assert!(tree.memory.cached.is_empty(), "the large page may still be known to a processor");
    assert_eq!(tree.leaf(LARGE), entry);
    assert_eq!(tree.leaf(LARGE + PAGE), 0);
    assert_eq!(tree.leaf(LARGE + 511 * PAGE), entry + 511 * PAGE);
    // Its table becomes the one that is put aside when it is empty and a large page comes back.
    tree.change(LARGE, 2 * LARGE, |_, _| 0);
    tree.memory.cached.insert(LARGE, entry);
    tree.set_large(LARGE, entry).unwrap();
    assert!(tree.memory.cached.is_empty(), "small pages may still be known to a processor");
    assert_eq!(tree.leaf(2 * LARGE - PAGE), entry | LARGE_PAGE);
}

fn area(end: u64, prot: u32, large: Large) -> Vma {
    Vma { end, prot: Prot(prot), backing: Backing::Anonymous, name: "", large, stamp: 0 }
}

#[test]
fn areas_of_one_kind_are_one() {
    let mut areas = Areas::new();
    areas.insert(4 * PAGE, area(12 * PAGE, 3, Large::Unsaid));
    split(&mut areas, 6 * PAGE);
    split(&mut areas, 8 * PAGE);
    split(&mut areas, 8 * PAGE);
    assert_eq!(areas.keys().copied().collect::<Vec<_>>(), [4 * PAGE, 6 * PAGE, 8 * PAGE]);
    areas.get_mut(&(6 * PAGE)).unwrap().large = Large::Wanted;
    merge(&mut areas, 6 * PAGE);
    assert_eq!(areas.len(), 3, "areas with other pages are others");
    areas.get_mut(&(6 * PAGE)).unwrap().large = Large::Unsaid;
    merge(&mut areas, 6 * PAGE);
    assert_eq!(areas.iter().map(|(start, a)| (*start, a.end)).collect::<Vec<_>>(), [(4 * PAGE, 12 * PAGE)]);
    assert!(find(&areas, 12 * PAGE).is_none() && find(&areas, 12 * PAGE - 1).is_some());
    assert!(is_free(&areas, 12 * PAGE, 13 * PAGE) && !is_free(&areas, 11 * PAGE, 13 * PAGE));
}

#[test]
fn free_ranges_begin_where_they_should() {
    let mut areas = Areas::new();
    let high = 64 * LARGE - PAGE;
    assert_eq!(find_free(&areas, PAGE, high, PAGE, PAGE, 0), Some(high - PAGE));
    assert_eq!(find_free(&areas, PAGE, high, LARGE, LARGE, 0), Some(62 * LARGE));
    assert_eq!(find_free(&areas, PAGE, high, LARGE, LARGE, 3 * PAGE), Some(62 * LARGE + 3 * PAGE));
    // A gap that is long enough, but not where it would have to begin.
    areas.insert(62 * LARGE - PAGE, area(high, 3, Large::Unsaid));
    areas.insert(60 * LARGE + PAGE, area(61 * LARGE, 3, Large::Unsaid));
    assert_eq!(find_free(&areas, PAGE, high, LARGE - PAGE, PAGE, 0), Some(61 * LARGE));
    assert_eq!(find_free(&areas, PAGE, high, LARGE - PAGE, LARGE, PAGE), Some(59 * LARGE + PAGE));
    assert_eq!(find_free(&areas, PAGE, high, LARGE, LARGE, 0), Some(59 * LARGE));
    areas.clear();
    areas.insert(4 * LARGE, area(64 * LARGE, 3, Large::Unsaid));
    assert_eq!(find_free(&areas, LARGE, high, 3 * LARGE, LARGE, 0), Some(LARGE));
    assert_eq!(find_free(&areas, LARGE, high, 3 * LARGE, LARGE, PAGE), None);
    assert_eq!(find_free(&areas, LARGE, high, u64::MAX / 2, LARGE, 0), None);
    // Random sets: what is found is free, and nothing higher would do.
    for seed in 0..200 {
        let mut rng = Rng::new(seed);
        let mut areas = Areas::new();
        for _ in 0..rng.below(6) {
            let (start, len) = (1 + rng.below(60), 1 + rng.below(9));
            if is_free(&areas, start * PAGE, (start + len) * PAGE) {
                areas.insert(start * PAGE, area((start + len) * PAGE, 3, Large::Unsaid));
            }
        }
        let (len, align) = (1 + rng.below(9), 1 << rng.below(4));
        let past = rng.below(align);
        let right = |at: &u64| at % align == past && is_free(&areas, at * PAGE, (at + len) * PAGE);
        let wanted = (2..=64 - len).rev().find(right).map(|at| at * PAGE);
        let found = find_free(&areas, 2 * PAGE, 64 * PAGE, len * PAGE, align * PAGE, past * PAGE);
        assert_eq!(found, wanted, "seed {seed}");
    }
}
