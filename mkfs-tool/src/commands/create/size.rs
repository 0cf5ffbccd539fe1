//! How large an image should be if nobody says.

use crate::cli;
use crate::source::{Kind, Tree};

/// Room that every pool needs beside its files, in bytes: labels, space maps, reserved space.
const BASE: u64 = 128 << 20;
/// The size is a multiple of this, in bytes.
const UNIT: u64 = 64 << 20;

/// About twice what the files need, at least 512 MiB. The file is sparse, so generosity costs nothing; the same tree always
/// gets the same size.
pub(super) fn automatic(tree: &Tree, options: &cli::Create) -> u64 {
    let copies = options.properties.iter().find(|(name, _)| name == "copies");
    let copies = copies.and_then(|(_, value)| value.parse::<u64>().ok()).unwrap_or(1).clamp(1, 3);
    let ashift = options.pool_properties.iter().find(|(name, _)| name == "ashift");
    let sector = 1_u64 << ashift.and_then(|(_, value)| value.parse::<u32>().ok()).unwrap_or(12).clamp(9, 16);
    let mut need = 0_u64;
    for entry in &tree.entries {
        // A dnode and a directory entry, both in two copies.
        need = need.saturating_add(2048);
        if let Kind::File { size, allocated, .. } = entry.kind {
            let data = size.min(allocated.max(sector)).min(1 << 60).next_multiple_of(sector);
            need = need.saturating_add(data.saturating_mul(copies));
        }
        let attributes: usize =
            entry.meta.xattrs.iter().map(|(name, value)| name.len() + value.len() + 64).sum();
        need = need.saturating_add((attributes as u64).saturating_mul(2));
    }
    let images = options.images.len().max(1) as u64;
    let all = need.saturating_mul(2).saturating_add(BASE).div_ceil(images);
    all.clamp(512 << 20, 1 << 60).next_multiple_of(UNIT)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::{Entry, Meta};
    use clap::Parser;

    fn sized(files: &[(u64, u64)], args: &[&str]) -> u64 {
        let cli = cli::Cli::try_parse_from(["tarn", "create", "a.img"].iter().chain(args)).unwrap();
        let cli::Verb::Create(create) = cli.verb else { panic!("another verb") };
        let mut tree = crate::source::empty();
        for &(size, allocated) in files {
            let kind = Kind::File { size, allocated, token: 0 };
            tree.entries.push(Entry { parent: 0, name: b"f".to_vec(), kind, meta: Meta::default() });
        }
        automatic(&tree, &create)
    }

    #[test]
    fn it_grows_with_the_files() {
        assert_eq!(sized(&[], &[]), 512 << 20);
        let gigabyte = sized(&[(1 << 30, 1 << 30)], &[]);
        assert!((2 << 30..3 << 30).contains(&gigabyte), "{gigabyte}");
        assert!(sized(&[(1 << 30, 1 << 30)], &["-O", "copies=2"]) > 4 << 30);
        // Holes take no room.
        assert_eq!(sized(&[(1 << 40, 4096)], &[]), 512 << 20);
        assert!(sized(&[(u64::MAX, u64::MAX), (u64::MAX, u64::MAX)], &[]).is_multiple_of(UNIT));
    }
}
