//! The areas of an address space: ranges of pages with one kind of content and one set of rights.

use super::file_pages::Pages;
use alloc::collections::BTreeMap;
use alloc::sync::Arc;
use vfs::file::File;

/// Rights of a page, as `PROT_*`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Prot(pub u32);

impl Prot {
    /// `PROT_READ`.
    pub const READ: u32 = 1;
    /// `PROT_WRITE`.
    pub const WRITE: u32 = 2;
    /// `PROT_EXEC`.
    pub const EXEC: u32 = 4;

    /// Anything at all.
    pub const fn any(self) -> bool {
        self.0 & 7 != 0
    }
    /// Writing.
    pub const fn write(self) -> bool {
        self.0 & Self::WRITE != 0
    }
    /// Executing.
    pub const fn exec(self) -> bool {
        self.0 & Self::EXEC != 0
    }
}

/// What fills the pages of an area.
#[derive(Clone)]
pub enum Backing {
    /// Zeros.
    Anonymous,
    /// A private copy of a file's content from this offset on.
    File(Arc<File>, u64),
    /// Shared pages from this offset on; the file is kept for its name and rights.
    Shared(Arc<Pages>, u64, Option<Arc<File>>),
}

impl Backing {
    /// The same content, `by` bytes further on.
    pub fn advanced(&self, by: u64) -> Backing {
        match self {
            Backing::Anonymous => Backing::Anonymous,
            Backing::File(file, offset) => Backing::File(Arc::clone(file), offset + by),
            Backing::Shared(pages, offset, file) => {
                Backing::Shared(Arc::clone(pages), offset + by, file.clone())
            }
        }
    }

    /// Whether `next` goes on where `len` bytes of this end.
    fn is_continued_by(&self, len: u64, next: &Backing) -> bool {
        match (self, next) {
            (Backing::Anonymous, Backing::Anonymous) => true,
            (Backing::File(file, at), Backing::File(other, then)) => {
                Arc::ptr_eq(file, other) && at + len == *then
            }
            (Backing::Shared(pages, at, file), Backing::Shared(other, then, others)) => {
                let (file, others) = (file.as_ref().map(Arc::as_ptr), others.as_ref().map(Arc::as_ptr));
                Arc::ptr_eq(pages, other) && at + len == *then && file == others
            }
            _ => false,
        }
    }

    /// The file, if there is one.
    pub fn file(&self) -> Option<&Arc<File>> {
        match self {
            Backing::File(file, _) | Backing::Shared(_, _, Some(file)) => Some(file),
            _ => None,
        }
    }

    /// Offset of the first page in the file or object.
    pub fn offset(&self) -> u64 {
        match self {
            Backing::Anonymous => 0,
            Backing::File(_, offset) | Backing::Shared(_, offset, _) => *offset,
        }
    }
}

/// Whether an area's memory may come in pages of 2 MiB.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Large {
    /// As the system is set.
    #[default]
    Unsaid,
    /// `MADV_HUGEPAGE`.
    Wanted,
    /// `MADV_NOHUGEPAGE`, and stacks: they are touched at one end only.
    Never,
}

/// An area; its start is its key.
#[derive(Clone)]
pub struct Vma {
    /// First address behind it.
    pub end: u64,
    /// Rights.
    pub prot: Prot,
    /// Content.
    pub backing: Backing,
    /// What `/proc/self/maps` calls it if it has no file.
    pub name: &'static str,
    /// The size of its pages.
    pub large: Large,
    /// Changes whenever the area is made or split, so that a fault notices that it came too late.
    pub stamp: u64,
}

/// The areas by their start; they do not overlap.
pub type Areas = BTreeMap<u64, Vma>;

/// The area that `address` lies in.
pub fn find(areas: &Areas, address: u64) -> Option<(u64, &Vma)> {
    let (start, vma) = areas.range(..=address).next_back()?;
    (address < vma.end).then_some((*start, vma))
}

/// Splits areas so that none crosses `at`.
pub fn split(areas: &mut Areas, at: u64) {
    let Some((start, vma)) = find(areas, at) else { return };
    if start == at {
        return;
    }
    let upper = Vma { backing: vma.backing.advanced(at - start), ..vma.clone() };
    if let Some(lower) = areas.get_mut(&start) {
        lower.end = at;
    }
    areas.insert(at, upper);
}

/// Joins the area at `start` with its like below and above.
pub fn merge(areas: &mut Areas, start: u64) {
    let alike = |from: u64, a: &Vma, b: &Vma| {
        a.prot == b.prot
            && a.name == b.name
            && a.large == b.large
            && a.backing.is_continued_by(a.end - from, &b.backing)
    };
    let Some(vma) = areas.get(&start) else { return };
    if let Some(above) = areas.get(&vma.end)
        && alike(start, vma, above)
    {
        let (from, end) = (vma.end, above.end);
        areas.remove(&from);
        if let Some(vma) = areas.get_mut(&start) {
            vma.end = end;
        }
    }
    let Some(vma) = areas.get(&start) else { return };
    let end = vma.end;
    if let Some((below, lower)) = areas.range(..start).next_back()
        && lower.end == start
        && alike(*below, lower, vma)
    {
        let below = *below;
        areas.remove(&start);
        if let Some(lower) = areas.get_mut(&below) {
            lower.end = end;
        }
    }
}

/// Whether nothing lies in `start..end`.
pub fn is_free(areas: &Areas, start: u64, end: u64) -> bool {
    areas.range(..end).next_back().is_none_or(|(_, vma)| vma.end <= start)
}

/// The highest free range of `len` bytes in `low..high` that begins `past` bytes behind a multiple of `align` (a power of two).
pub fn find_free(areas: &Areas, low: u64, high: u64, len: u64, align: u64, past: u64) -> Option<u64> {
    // The highest such start of a range that ends at `top` at most.
    let fit = |top: u64| {
        let start = top.checked_sub(len)?;
        start.checked_sub(start.wrapping_sub(past) & (align - 1))
    };
    let mut top = high;
    for (start, vma) in areas.range(..high).rev() {
        if fit(top)? >= vma.end {
            break;
        }
        top = top.min(*start);
    }
    fit(top).filter(|at| *at >= low)
}
