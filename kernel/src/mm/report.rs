//! What an address space consists of, for `/proc`, `mincore` and crash reports.

use super::address_space::{AddressSpace, PAGE};
use super::page_table::{LARGE_PAGE, SHARED};
use super::vma::{self, Backing, Large, Vma};
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt::Write;

/// The line of an area in `/proc/self/maps`.
fn line(start: u64, area: &Vma) -> String {
    let shared = matches!(area.backing, Backing::Shared(..));
    let flag = |bit, c| if area.prot.0 & bit != 0 { c } else { '-' };
    let (r, w, x) = (flag(1, 'r'), flag(2, 'w'), flag(4, 'x'));
    let s = if shared { 's' } else { 'p' };
    let (ino, name) = match area.backing.file() {
        Some(file) => (file.inode().ino(), String::from_utf8_lossy(&file.place.path()).into_owned()),
        None => (0, area.name.into()),
    };
    let offset = area.backing.offset();
    let dev = if ino == 0 { "00:00" } else { "00:01" };
    let line = alloc::format!("{start:08x}-{:08x} {r}{w}{x}{s} {offset:08x} {dev} {ino}", area.end);
    if name.is_empty() { alloc::format!("{line} \n") } else { alloc::format!("{line:<72} {name}\n") }
}

/// What of an area is there, in bytes.
#[derive(Default)]
struct Resident {
    /// Pages of its own.
    private: u64,
    /// Of them, in large pages.
    large: u64,
    /// Pages of files' caches, and shared ones.
    shared: u64,
}

impl AddressSpace {
    /// For each page of a range, 1 if it is present.
    pub fn present(&self, start: u64, end: u64) -> Vec<u8> {
        let mut present = alloc::vec![0; ((end - start) / PAGE) as usize];
        self.state.lock().table.visit(start, end, |virt, len, _| {
            let first = ((virt - start) / PAGE) as usize;
            present[first..first + (len / PAGE) as usize].fill(1);
        });
        present
    }

    /// Bytes mapped, and bytes present in private or shared pages.
    pub fn size(&self) -> (u64, u64) {
        let state = self.state.lock();
        let (mut mapped, mut present) = (0, 0);
        for (start, area) in &state.areas {
            mapped += area.end - start;
            state.table.visit(*start, area.end, |_, len, _| present += len);
        }
        (mapped, present)
    }

    /// `/proc/self/maps`.
    pub fn describe(&self) -> String {
        self.state.lock().areas.iter().map(|(start, area)| line(*start, area)).collect()
    }

    /// `/proc/self/smaps`, as far as Linux's lines have a meaning here: nothing is swapped, pages have no age.
    pub fn describe_pages(&self) -> String {
        let mut text = String::new();
        let state = self.state.lock();
        for (start, area) in &state.areas {
            let mut there = Resident::default();
            state.table.visit(*start, area.end, |_, len, entry| {
                if entry & SHARED != 0 {
                    there.shared += len;
                } else {
                    there.private += len;
                    there.large += if entry & LARGE_PAGE != 0 { len } else { 0 };
                }
            });
            text.push_str(&line(*start, area));
            let anonymous = if matches!(area.backing, Backing::Shared(..)) { 0 } else { there.private };
            for (name, bytes) in [
                ("Size", area.end - start),
                ("KernelPageSize", PAGE),
                ("MMUPageSize", PAGE),
                ("Rss", there.private + there.shared),
                ("Pss", there.private + there.shared),
                ("Shared_Clean", there.shared),
                ("Shared_Dirty", 0),
                ("Private_Clean", 0),
                ("Private_Dirty", there.private),
                ("Anonymous", anonymous),
                ("AnonHugePages", there.large),
                ("Swap", 0),
                ("Locked", 0),
            ] {
                // A String takes everything.
                let _ = writeln!(text, "{:<15} {:8} kB", alloc::format!("{name}:"), bytes / 1024);
            }
            let flag = |bit, name| if area.prot.0 & bit != 0 { name } else { "" };
            let advice = match area.large {
                Large::Unsaid => "",
                Large::Wanted => "hg ",
                Large::Never => "nh ",
            };
            let shared = if matches!(area.backing, Backing::Shared(..)) { "sh " } else { "" };
            let (r, w, x) = (flag(1, "rd "), flag(2, "wr "), flag(4, "ex "));
            let _ = writeln!(text, "THPeligible:    {}", u8::from(state.may_be_large(area)));
            let _ = writeln!(text, "VmFlags: {r}{w}{x}{shared}mr mw me {advice}");
        }
        text
    }

    /// The area that an address lies in: its start, and what it maps.
    pub fn locate(&self, address: u64) -> Option<(u64, String)> {
        let state = self.state.lock();
        let (start, area) = vma::find(&state.areas, address)?;
        let name = match area.backing.file() {
            Some(file) => String::from_utf8_lossy(&file.place.path()).into_owned(),
            None => area.name.into(),
        };
        Some((start - area.backing.offset().min(start), name))
    }
}
