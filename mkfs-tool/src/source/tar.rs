//! A tar archive as a source: ustar, pax and GNU, plain or compressed with gzip or zstd.
//!
//! The archive is indexed once; files are then read from it in any order. A compressed one is first unpacked into a
//! temporary file that has no name. Members that leave the root (`../x`) are refused; so is an absolute name, but
//! for a leading `/` or `./`, which is dropped as `tar` does it.

use super::{Collector, Content, Extent, Kind, Meta, Pending, Time, Tree};
use anyhow::{Context, Result, bail, ensure};
use std::fs::File;
use std::io::{BufReader, Read, Seek, SeekFrom};
use std::os::unix::fs::FileExt;
use std::path::Path;
use tar::{Archive, Entry, EntryType};

/// Longest name, link target or attribute list in bytes that is believed.
const MAX_HEADER: u64 = 1 << 20;

/// Indexes an archive.
pub fn open(path: &Path) -> Result<Tree> {
    let file = plain(File::open(path)?)?;
    let mut index =
        Index { archive: &file, collector: Collector::new(), files: Vec::new(), notes: Vec::new() };
    let mut archive = Archive::new(BufReader::with_capacity(1 << 16, &file));
    let mut members = 0_u64;
    for entry in archive.entries_with_seek()? {
        let mut entry = entry.context("not a tar archive, or a damaged one")?;
        let name = name(&mut entry)?;
        index
            .add(&mut entry, &name)
            .with_context(|| format!("member {}", crate::output::show_name(&name)))?;
        members += 1;
    }
    ensure!(members > 0, "the archive is empty, or no tar archive");
    let length = file.metadata()?.len();
    for member in &index.files {
        let end = member.parts.iter().map(|(extent, at)| at + (extent.end - extent.start)).max().unwrap_or(0);
        ensure!(end <= length, "the archive is truncated: member {} goes past its end", member.name);
    }
    let implied = Meta { mode: 0o755, ..Meta::default() };
    let Index { collector, files, notes, .. } = index;
    let entries = collector.finish(&implied)?;
    Ok(Tree { entries, content: Box::new(Members { file, files }), notes })
}

/// A member's name. A sparse file in a pax format has a made-up one in its header.
fn name<R: Read>(entry: &mut Entry<'_, R>) -> Result<Vec<u8>> {
    if let Some(records) = entry.pax_extensions()? {
        for record in records {
            let record = record.context("a damaged pax header")?;
            if record.key_bytes() == b"GNU.sparse.name" {
                return Ok(record.value_bytes().to_vec());
            }
        }
    }
    Ok(entry.path_bytes().into_owned())
}

/// The archive itself; unpacked if it is compressed.
fn plain(mut file: File) -> Result<File> {
    let mut magic = [0; 6];
    let len = file.read_at(&mut magic, 0)?;
    file.seek(SeekFrom::Start(0))?;
    match &magic[..len] {
        [0x1f, 0x8b, ..] => unpack(flate2::read::MultiGzDecoder::new(BufReader::new(file))),
        [0x28, 0xb5, 0x2f, 0xfd, ..] => {
            let decoder = ruzstd::decoding::StreamingDecoder::new(BufReader::new(file));
            unpack(decoder.map_err(|e| anyhow::anyhow!("zstd: {e}"))?)
        }
        [0xfd, b'7', b'z', b'X', b'Z', 0] => {
            bail!("compressed with xz, which is not supported: unpack it first")
        }
        [b'B', b'Z', b'h', ..] => bail!("compressed with bzip2, which is not supported: unpack it first"),
        _ => Ok(file),
    }
}

fn unpack(mut from: impl Read) -> Result<File> {
    let mut to = tempfile::tempfile().context("making a temporary file")?;
    std::io::copy(&mut from, &mut to).context("unpacking")?;
    to.seek(SeekFrom::Start(0))?;
    Ok(to)
}

/// One regular file: where its parts lie in the archive. Between parts are holes.
struct Member {
    name: String,
    /// Range in the file, offset in the archive.
    parts: Vec<(Extent, u64)>,
}

struct Members {
    file: File,
    files: Vec<Member>,
}

struct Index<'a> {
    archive: &'a File,
    collector: Collector,
    files: Vec<Member>,
    notes: Vec<String>,
}

/// The components of a member's name.
fn components(name: &[u8]) -> Result<Vec<&[u8]>> {
    let parts: Vec<&[u8]> = name.split(|b| *b == b'/').filter(|c| !c.is_empty() && *c != b".").collect();
    ensure!(!parts.contains(&&b".."[..]), "the name leaves the root file system (..)");
    Ok(parts)
}

impl Index<'_> {
    fn add<R: Read>(&mut self, entry: &mut Entry<'_, R>, name: &[u8]) -> Result<()> {
        let kind = entry.header().entry_type();
        let path = components(name)?;
        if matches!(kind, EntryType::XGlobalHeader) {
            return Ok(());
        }
        let meta = meta(entry)?;
        let pending = match kind {
            EntryType::Directory => Pending::Kind(Kind::Directory),
            EntryType::Regular | EntryType::Continuous | EntryType::GNUSparse => self.file(entry, name)?,
            EntryType::Symlink => Pending::Kind(Kind::Symlink(target(entry)?)),
            EntryType::Link => {
                let target = target(entry)?;
                let found = self.collector.find(components(&target)?);
                let shown = || crate::output::show_name(&target);
                Pending::Link(
                    found.with_context(|| format!("a hard link to {}, which is not there", shown()))?,
                )
            }
            EntryType::Char => Pending::Kind(Kind::CharDevice(device(entry, true)?, device(entry, false)?)),
            EntryType::Block => Pending::Kind(Kind::BlockDevice(device(entry, true)?, device(entry, false)?)),
            EntryType::Fifo => Pending::Kind(Kind::Fifo),
            other => {
                let name = crate::output::show_name(name);
                self.notes
                    .push(format!("{name}: a member of type {:?} is not copied", other.as_byte() as char));
                return Ok(());
            }
        };
        let node = self.collector.node(path)?;
        if let Pending::Link(target) = pending {
            ensure!(target != node, "a hard link to itself");
        }
        self.collector.set(node, pending, meta)
    }

    fn file<R: Read>(&mut self, entry: &mut Entry<'_, R>, name: &[u8]) -> Result<Pending> {
        let start = entry.raw_file_position();
        let (size, parts) = match pax_sparse(entry)? {
            Some(PaxSparse::Unsupported) => bail!("a sparse member in a pax format that is not supported"),
            Some(PaxSparse::Map(size)) => pax_map(entry, size, start)?,
            None if entry.header().entry_type() == EntryType::GNUSparse => {
                gnu_map(entry, self.archive, start)?
            }
            None => (entry.size(), vec![(0..entry.size(), start)]),
        };
        let allocated = parts.iter().map(|(extent, _)| extent.end - extent.start).sum();
        self.files.push(Member { name: crate::output::show_name(name), parts });
        Ok(Pending::Kind(Kind::File { size, allocated, token: (self.files.len() - 1) as u64 }))
    }
}

fn target<R: Read>(entry: &Entry<'_, R>) -> Result<Vec<u8>> {
    let target = entry.link_name_bytes().context("a link without a target")?;
    ensure!(!target.is_empty() && !target.contains(&0), "a link with an empty or broken target");
    Ok(target.into_owned())
}

fn device<R: Read>(entry: &Entry<'_, R>, major: bool) -> Result<u32> {
    let number = if major { entry.header().device_major()? } else { entry.header().device_minor()? };
    number.context("a device without numbers")
}

/// Mode, owner and times from the header, refined by pax records.
fn meta<R: Read>(entry: &mut Entry<'_, R>) -> Result<Meta> {
    let header = entry.header();
    let id = |id: u64| u32::try_from(id).context("an owner's number above 2^32");
    let mtime = Time { sec: i64::try_from(header.mtime()?).context("a time out of range")?, nsec: 0 };
    let mut meta = Meta {
        mode: header.mode()? & 0o7777,
        uid: id(header.uid()?)?,
        gid: id(header.gid()?)?,
        atime: mtime,
        mtime,
        xattrs: Vec::new(),
    };
    let mut atime = None;
    if let Some(records) = entry.pax_extensions()? {
        for record in records {
            let record = record.context("a damaged pax header")?;
            let (key, value) = (record.key_bytes(), record.value_bytes());
            let text = || std::str::from_utf8(value).context("a pax record that is not UTF-8");
            match key {
                b"mtime" => meta.mtime = time(text()?)?,
                b"atime" => atime = Some(time(text()?)?),
                b"uid" => meta.uid = text()?.parse().context("pax uid")?,
                b"gid" => meta.gid = text()?.parse().context("pax gid")?,
                _ => {
                    if let Some(name) = key.strip_prefix(b"SCHILY.xattr.") {
                        meta.xattrs.push((name.to_vec(), value.to_vec()));
                    }
                }
            }
        }
    }
    meta.atime = atime.unwrap_or(meta.mtime);
    meta.xattrs.sort();
    meta.xattrs.dedup_by(|a, b| a.0 == b.0);
    Ok(meta)
}

/// `seconds[.fraction]`, as pax writes times.
fn time(text: &str) -> Result<Time> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let negative = whole.starts_with('-');
    let sec: i64 = whole.parse().with_context(|| format!("{text:?} is no time"))?;
    let digits: String = fraction.chars().chain("000000000".chars()).take(9).collect();
    let nsec: u32 = digits.parse().with_context(|| format!("{text:?} is no time"))?;
    Ok(match (negative, nsec) {
        (true, 1..) => {
            Time { sec: sec.checked_sub(1).context("a time out of range")?, nsec: 1_000_000_000 - nsec }
        }
        _ => Time { sec, nsec },
    })
}

enum PaxSparse {
    /// Format 1.0, and the file's real size.
    Map(u64),
    Unsupported,
}

/// Whether pax records say that the member is a GNU sparse file (formats 0.0, 0.1 and 1.0).
fn pax_sparse<R: Read>(entry: &mut Entry<'_, R>) -> Result<Option<PaxSparse>> {
    let Some(records) = entry.pax_extensions()? else { return Ok(None) };
    let (mut version, mut size, mut old) = ((None, None), None, false);
    for record in records {
        let record = record.context("a damaged pax header")?;
        let value = record.value_bytes();
        let number = || std::str::from_utf8(value).ok().and_then(|t| t.parse::<u64>().ok());
        match record.key_bytes() {
            b"GNU.sparse.major" => version.0 = number(),
            b"GNU.sparse.minor" => version.1 = number(),
            b"GNU.sparse.realsize" => size = number(),
            b"GNU.sparse.numblocks" | b"GNU.sparse.map" => old = true,
            _ => {}
        }
    }
    Ok(match (version, size) {
        ((Some(1), Some(0)), Some(size)) => Some(PaxSparse::Map(size)),
        _ if old || version.0.is_some() => Some(PaxSparse::Unsupported),
        _ => None,
    })
}

/// One range of a sparse file's map.
fn part(parts: &mut Vec<(Extent, u64)>, offset: u64, len: u64, size: u64, at: &mut u64) -> Result<()> {
    let end = offset
        .checked_add(len)
        .filter(|end| *end <= size)
        .context("a sparse map goes past the file's end")?;
    let last = parts.last().map_or(0, |(extent, _)| extent.end);
    ensure!(offset >= last, "a sparse map is not sorted");
    if len > 0 {
        parts.push((offset..end, *at));
        *at = at.checked_add(len).context("a sparse map is too long")?;
    }
    Ok(())
}

/// Format 1.0: decimal numbers, one per line, at the start of the member's data, padded to 512 bytes.
fn pax_map<R: Read>(entry: &mut Entry<'_, R>, size: u64, start: u64) -> Result<(u64, Vec<(Extent, u64)>)> {
    let stored = entry.size();
    let mut used = 0_u64;
    let mut line = |entry: &mut Entry<'_, R>| -> Result<u64> {
        let mut number = 0_u64;
        let mut byte = [0];
        loop {
            ensure!(used < stored.min(MAX_HEADER * 64), "a sparse map without an end");
            entry.read_exact(&mut byte)?;
            used += 1;
            match byte[0] {
                b'\n' => return Ok(number),
                digit @ b'0'..=b'9' => {
                    let next = number.checked_mul(10).and_then(|n| n.checked_add(u64::from(digit - b'0')));
                    number = next.context("a number in a sparse map is too large")?;
                }
                _ => bail!("a sparse map holds something that is no number"),
            }
        }
    };
    let count = line(entry)?;
    let mut pairs = Vec::new();
    for _ in 0..count {
        pairs.push((line(entry)?, line(entry)?));
    }
    let mut at = start + used.next_multiple_of(512);
    let mut parts = Vec::new();
    for (offset, len) in pairs {
        part(&mut parts, offset, len, size, &mut at)?;
    }
    Ok((size, parts))
}

/// The old GNU format: the map begins in the header and goes on in blocks after it.
fn gnu_map<R: Read>(entry: &Entry<'_, R>, archive: &File, start: u64) -> Result<(u64, Vec<(Extent, u64)>)> {
    let gnu = entry.header().as_gnu().context("a sparse member without a GNU header")?;
    let size = gnu.real_size()?;
    let mut map: Vec<(u64, u64)> = Vec::new();
    let mut collect = |blocks: &[tar::GnuSparseHeader]| -> Result<()> {
        for block in blocks.iter().filter(|b| !b.is_empty()) {
            map.push((block.offset()?, block.length()?));
        }
        Ok(())
    };
    collect(&gnu.sparse)?;
    let (mut at, mut more) = (start, gnu.is_extended());
    while more {
        let mut block = tar::GnuExtSparseHeader::new();
        archive.read_exact_at(block.as_mut_bytes(), at).context("a sparse map is cut off")?;
        at += 512;
        collect(&block.sparse)?;
        more = block.is_extended();
    }
    let mut parts = Vec::new();
    for (offset, len) in map {
        part(&mut parts, offset, len, size, &mut at)?;
    }
    Ok((size, parts))
}

impl Content for Members {
    fn read_at(&self, token: u64, offset: u64, buf: &mut [u8]) -> Result<()> {
        let member = self.files.get(token as usize).context("no member with that token")?;
        buf.fill(0);
        let want = offset..offset + buf.len() as u64;
        for (extent, at) in &member.parts {
            let (from, to) = (want.start.max(extent.start), want.end.min(extent.end));
            if from < to {
                let into = &mut buf[(from - offset) as usize..(to - offset) as usize];
                self.file
                    .read_exact_at(into, at + (from - extent.start))
                    .with_context(|| member.name.clone())?;
            }
        }
        Ok(())
    }

    fn extents(&self, token: u64, range: Extent) -> Result<Vec<Extent>> {
        let member = self.files.get(token as usize).context("no member with that token")?;
        let clip = |e: &Extent| e.start.max(range.start)..e.end.min(range.end);
        Ok(member.parts.iter().map(|(e, _)| clip(e)).filter(|e| e.start < e.end).collect())
    }

    fn name(&self, token: u64) -> String {
        self.files.get(token as usize).map_or_else(String::new, |m| m.name.clone())
    }
}

#[cfg(test)]
mod tests;
