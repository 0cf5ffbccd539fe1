//! Unpacks a tar archive (ustar with pax and GNU long names) into a directory: the initrd.

use crate::errno::{Errno, Result};
use crate::path::{Place, Tree};
use crate::types::{FileType, New, SetAttr, Sync, Timespec, makedev};
use alloc::sync::Arc;
use alloc::vec::Vec;

const BLOCK: usize = 512;

struct Header<'a> {
    bytes: &'a [u8],
}

impl Header<'_> {
    fn text(&self, at: usize, len: usize) -> &[u8] {
        let field = &self.bytes[at..at + len];
        field.split(|b| *b == 0).next().unwrap_or_default()
    }

    fn number(&self, at: usize, len: usize) -> Result<u64> {
        let field = &self.bytes[at..at + len];
        if field[0] & 0x80 != 0 {
            // GNU: big-endian binary.
            return Ok(field[1..].iter().fold(u64::from(field[0] & 0x7f), |n, b| n << 8 | u64::from(*b)));
        }
        let digits = field.iter().filter(|b| !matches!(b, b' ' | 0));
        digits.clone().try_fold(0u64, |n, b| match b {
            b'0'..=b'7' => Ok(n << 3 | u64::from(b - b'0')),
            _ => Err(Errno::EINVAL),
        })
    }

    fn checksum_holds(&self) -> bool {
        let sum: u64 = self.bytes.iter().map(|b| u64::from(*b)).sum();
        let field: u64 = self.bytes[148..156].iter().map(|b| u64::from(*b)).sum();
        self.number(148, 8) == Ok(sum - field + 8 * u64::from(b' '))
    }

    fn name(&self) -> Vec<u8> {
        let (prefix, name) = (self.text(345, 155), self.text(0, 100));
        if &self.bytes[257..262] == b"ustar" && !prefix.is_empty() && self.bytes[263] != b' ' {
            [prefix, b"/", name].concat()
        } else {
            name.to_vec()
        }
    }
}

#[derive(Default)]
struct Long {
    name: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    size: Option<u64>,
}

/// Unpacks `archive` below the root of `tree`. [`Errno::EINVAL`] if it is not a tar archive or is cut off.
pub fn unpack(tree: &Tree, archive: &[u8]) -> Result<()> {
    let mut at = 0;
    let mut long = Long::default();
    while at + BLOCK <= archive.len() {
        let header = Header { bytes: &archive[at..at + BLOCK] };
        if header.bytes.iter().all(|b| *b == 0) {
            return Ok(());
        }
        if !header.checksum_holds() {
            return Err(Errno::EINVAL);
        }
        let kind = header.bytes[156];
        let size = match long.size {
            Some(size) if !matches!(kind, b'x' | b'g' | b'L' | b'K') => size,
            _ => header.number(124, 12)?,
        };
        let size = usize::try_from(size).map_err(|_| Errno::EINVAL)?;
        let start = at + BLOCK;
        let end = start.checked_add(size).filter(|e| *e <= archive.len()).ok_or(Errno::EINVAL)?;
        let content = &archive[start..end];
        match kind {
            b'L' => long.name = Some(trimmed(content)),
            b'K' => long.link = Some(trimmed(content)),
            b'x' => pax(content, &mut long)?,
            b'g' => {}
            _ => {
                let name = long.name.take().unwrap_or_else(|| header.name());
                let link = long.link.take().unwrap_or_else(|| header.text(157, 100).to_vec());
                member(tree, &header, kind, &name, link, content)?;
                long = Long::default();
            }
        }
        at = end.next_multiple_of(BLOCK);
    }
    Ok(())
}

fn trimmed(content: &[u8]) -> Vec<u8> {
    content.split(|b| *b == 0).next().unwrap_or_default().to_vec()
}

fn pax(mut content: &[u8], long: &mut Long) -> Result<()> {
    while let Some(space) = content.iter().position(|b| *b == b' ') {
        let digits = core::str::from_utf8(&content[..space]).map_err(|_| Errno::EINVAL)?;
        let len: usize = digits.parse().map_err(|_| Errno::EINVAL)?;
        let record = content.get(space + 1..len.saturating_sub(1)).ok_or(Errno::EINVAL)?;
        content = content.get(len..).ok_or(Errno::EINVAL)?;
        let Some(equals) = record.iter().position(|b| *b == b'=') else { return Err(Errno::EINVAL) };
        let value = &record[equals + 1..];
        match &record[..equals] {
            b"path" => long.name = Some(value.to_vec()),
            b"linkpath" => long.link = Some(value.to_vec()),
            b"size" => long.size = core::str::from_utf8(value).ok().and_then(|s| s.parse().ok()),
            _ => {}
        }
    }
    Ok(())
}

/// The directory for `path`, made where it is missing, and the last name.
fn parent(tree: &Tree, path: &[u8]) -> Result<(Arc<Place>, Vec<u8>)> {
    let mut names: Vec<&[u8]> = path.split(|b| *b == b'/').filter(|n| !matches!(*n, b"" | b".")).collect();
    if names.contains(&&b".."[..]) {
        return Err(Errno::EINVAL);
    }
    let last = names.pop().unwrap_or_default().to_vec();
    let mut at = tree.root();
    for name in names {
        at = match tree.resolve(&at, name, true) {
            Err(Errno::ENOENT) => {
                at.inode.create(name, &New::new(FileType::Directory, 0o755))?;
                tree.resolve(&at, name, true)?
            }
            found => found?,
        };
    }
    Ok((at, last))
}

fn member(tree: &Tree, h: &Header<'_>, kind: u8, name: &[u8], link: Vec<u8>, content: &[u8]) -> Result<()> {
    let (dir, last) = parent(tree, name)?;
    let file_type = match kind {
        b'0' | 0 | b'7' | b'1' => FileType::Regular,
        b'2' => FileType::Symlink,
        b'3' => FileType::CharDevice,
        b'4' => FileType::BlockDevice,
        b'5' => FileType::Directory,
        b'6' => FileType::Fifo,
        _ => return Ok(()),
    };
    if kind == b'1' {
        let target = tree.resolve(&tree.root(), &link, false)?;
        return dir.inode.link(&last, &target.inode);
    }
    let mut new = New::new(file_type, h.number(100, 8)? as u32);
    new.uid = h.number(108, 8)? as u32;
    new.gid = h.number(116, 8)? as u32;
    new.rdev = makedev(h.number(329, 8)? as u32, h.number(337, 8)? as u32);
    new.target = if file_type == FileType::Symlink { link } else { Vec::new() };
    let inode = if last.is_empty() {
        Arc::clone(&dir.inode)
    } else {
        match dir.inode.create(&last, &new) {
            Err(Errno::EEXIST) if file_type == FileType::Directory => dir.inode.lookup(&last)?,
            made => made?,
        }
    };
    if file_type == FileType::Regular && !content.is_empty() {
        inode.write_at(0, content, Sync::No)?;
    }
    let time = Some(Timespec { sec: h.number(136, 12)? as i64, nsec: 0 });
    let mode = (file_type != FileType::Symlink).then_some(new.mode);
    let times = SetAttr { mode, atime: time, mtime: time, ..SetAttr::default() };
    inode.set_attr(&SetAttr { uid: Some(new.uid), gid: Some(new.gid), ..times })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::inode::FileSystem;
    use crate::tmpfs::Tmpfs;
    use platform::clock::FixedClock;

    fn entry(out: &mut Vec<u8>, kind: u8, name: &[u8], link: &[u8], content: &[u8]) {
        let mut h = [0u8; BLOCK];
        h[..name.len()].copy_from_slice(name);
        h[100..107].copy_from_slice(b"0000640");
        h[124..135].copy_from_slice(alloc::format!("{:011o}", content.len()).as_bytes());
        h[136..147].copy_from_slice(b"00000000017");
        h[156] = kind;
        h[157..157 + link.len()].copy_from_slice(link);
        h[257..263].copy_from_slice(b"ustar\0");
        h[148..156].fill(b' ');
        let sum: u64 = h.iter().map(|b| u64::from(*b)).sum();
        h[148..155].copy_from_slice(alloc::format!("{sum:06o}\0").as_bytes());
        out.extend_from_slice(&h);
        out.extend_from_slice(content);
        out.resize(out.len().next_multiple_of(BLOCK), 0);
    }

    fn tree() -> Tree {
        Tree::new(
            Tmpfs::new("tmpfs", 1, 1 << 20, Arc::new(FixedClock(Timespec::default()))) as Arc<dyn FileSystem>
        )
    }

    #[test]
    fn unpacks_files_links_and_long_names() {
        let mut tar = Vec::new();
        entry(&mut tar, b'5', b"./", b"", b"");
        entry(&mut tar, b'0', b"usr/bin/a", b"", b"content");
        entry(&mut tar, b'2', b"bin", b"usr/bin", b"");
        entry(&mut tar, b'1', b"usr/b", b"usr/bin/a", b"");
        let long = "d/".repeat(60) + "end";
        let record = alloc::format!("path={long}\n");
        let len = record.len() + 1 + 3;
        entry(&mut tar, b'x', b"pax", b"", alloc::format!("{len} {record}").as_bytes());
        entry(&mut tar, b'0', b"short", b"", b"x");
        tar.extend_from_slice(&[0; 1024]);
        let t = tree();
        unpack(&t, &tar).unwrap();
        let a = t.resolve(&t.root(), b"/bin/a", true).unwrap().inode.clone();
        let stat = a.stat().unwrap();
        assert_eq!((stat.size, stat.nlink, stat.mode, stat.mtime.sec), (7, 2, 0o100_640, 15));
        assert!(t.resolve(&t.root(), long.as_bytes(), true).is_ok());
    }

    #[test]
    fn refuses_damage_and_escapes() {
        let mut tar = Vec::new();
        entry(&mut tar, b'0', b"a", b"", b"content");
        tar[3] ^= 1;
        assert_eq!(unpack(&tree(), &tar), Err(Errno::EINVAL));
        let mut tar = Vec::new();
        entry(&mut tar, b'0', b"../a", b"", b"content");
        assert_eq!(unpack(&tree(), &tar), Err(Errno::EINVAL));
        assert_eq!(unpack(&tree(), &tar[..600]), Err(Errno::EINVAL));
    }
}
