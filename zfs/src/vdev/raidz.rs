//! How a block lies on raidz: a stripe of sectors that begins at its offset and goes round the children. Source: `vdev_raidz_map_alloc`
//! (`vdev_raidz.c`).

use alloc::vec::Vec;

/// Where on which child a column lies, and its size, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) child: usize,
    /// From the start of what the child can hold.
    pub(super) offset: u64,
    pub(super) size: u64,
}

/// In stripes of single parity, parity and first data column change places in every other stretch of that many bytes, so that not one
/// child has all the parity of small blocks.
const SWAP: u64 = 1 << 20;

/// The columns of a block of `psize` bytes at `offset`, parity first. `psize` is a multiple of the sector.
pub(super) fn columns(ashift: u8, children: usize, parity: usize, offset: u64, psize: u64) -> Vec<Place> {
    let (sector, width) = (offset >> ashift, children as u64);
    let (first, row) = (sector % width, sector / width);
    let sectors = psize >> ashift;
    let data = width - parity as u64;
    let (full, rest) = (sectors / data, sectors % data);
    let big = if rest == 0 { 0 } else { rest + parity as u64 };
    let count = if full == 0 { big } else { width };
    let mut places: Vec<Place> = (0..count)
        .map(|c| {
            let wraps = first + c >= width;
            let child = if wraps { first + c - width } else { first + c };
            let size = (full + u64::from(c < big)) << ashift;
            Place { child: child as usize, offset: (row + u64::from(wraps)) << ashift, size }
        })
        .collect();
    if parity == 1
        && offset & SWAP != 0
        && let [a, b, ..] = &mut places[..]
    {
        core::mem::swap(a, b);
    }
    places
}

/// The place on a child of a stretch of whole sectors of the vdev (`vdev_raidz_xlate`); of size 0 if it has no part of it.
pub(super) fn stretch(ashift: u8, children: usize, child: usize, offset: u64, len: u64) -> Place {
    let rows =
        |sector: u64| sector.checked_sub(child as u64 + 1).map_or(0, |before| before / children as u64 + 1);
    let (first, end) = (rows(offset >> ashift), rows((offset + len) >> ashift));
    Place { child, offset: first << ashift, size: (end - first) << ashift }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(child: usize, offset: u64, size: u64) -> Place {
        Place { child, offset, size }
    }

    #[test]
    fn a_stripe_goes_round() {
        // Five sectors on two data columns: the first has three of them.
        let found = columns(9, 3, 1, 512 * 4, 512 * 5);
        assert_eq!(found, [place(1, 512, 1536), place(2, 512, 1536), place(0, 1024, 1024)]);
        let small = columns(9, 5, 2, 512 * 3, 512);
        assert_eq!(small, [place(3, 0, 512), place(4, 0, 512), place(0, 512, 512)]);
    }

    #[test]
    fn a_stretch_has_its_rows_on_each_child() {
        // Sectors 4 to 10 on three children: 1 and 2 of row 1, all of row 2, and 0 and 1 of row 3.
        let of = |child| stretch(9, 3, child, 512 * 4, 512 * 7);
        assert_eq!([of(0), of(1), of(2)], [place(0, 1024, 1024), place(1, 512, 1536), place(2, 512, 1024)]);
        assert_eq!(stretch(9, 3, 2, 0, 1024).size, 0);
    }

    #[test]
    fn single_parity_changes_places() {
        let found = columns(12, 3, 1, 1 << 20, 8192);
        let (plain, swapped) = (columns(12, 3, 1, 0, 8192), found);
        assert_eq!((plain[0].child, plain[1].child), (0, 1));
        // Sector 256 is child 1 of row 85.
        assert_eq!((swapped[0].child, swapped[1].child, swapped[2].child), (2, 1, 0));
    }
}
