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
use tar::{EntryType, Header};

/// Longest extended header in bytes that is believed: names, targets and all extended attributes of one member.
const MAX_EXTENDED: u64 = 16 << 20;
/// Unit of the archive, in bytes.
const BLOCK: u64 = 512;

/// Indexes an archive.
pub fn open(path: &Path) -> Result<Tree> {
    let file = plain(File::open(path)?)?;
    let length = file.metadata()?.len();
    let mut index =
        Index { archive: &file, length, collector: Collector::new(), files: Vec::new(), notes: Vec::new() };
    index.all()?;
    let Index { collector, files, notes, .. } = index;
    let implied = Meta { mode: 0o755, ..Meta::default() };
    let entries = collector.finish(&implied)?;
    Ok(Tree { entries, content: Box::new(Members { file, files }), notes })
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
    length: u64,
    collector: Collector,
    files: Vec<Member>,
    notes: Vec<String>,
}

/// One member while it is read: its header, and what extended headers before it said.
struct Entry {
    header: Header,
    extended: Extended,
    /// Where its data begins in the archive, and how much there is.
    start: u64,
    stored: u64,
}

/// What extended headers say about the member that follows them.
#[derive(Default)]
struct Extended {
    /// pax records.
    records: Vec<(Vec<u8>, Vec<u8>)>,
    /// GNU's long name and link target.
    name: Option<Vec<u8>>,
    target: Option<Vec<u8>>,
}

impl Extended {
    fn get(&self, key: &str) -> Option<&[u8]> {
        // Of several records the last counts.
        self.records.iter().rev().find(|(k, _)| k == key.as_bytes()).map(|(_, value)| value.as_slice())
    }

    fn number(&self, key: &str) -> Result<Option<u64>> {
        let Some(value) = self.get(key) else { return Ok(None) };
        let number = std::str::from_utf8(value).ok().and_then(|t| t.parse::<u64>().ok());
        number.map(Some).with_context(|| format!("pax record {key} is no number"))
    }
}

/// `length key=value\n`, as often as fits. A value may hold anything, newlines too.
fn pax_records(mut data: &[u8]) -> Result<Vec<(Vec<u8>, Vec<u8>)>> {
    let mut records = Vec::new();
    while !data.is_empty() && data[0] != 0 {
        let damaged = || "a damaged pax header";
        let blank = data.iter().position(|b| *b == b' ').with_context(damaged)?;
        let length = std::str::from_utf8(&data[..blank]).ok().and_then(|t| t.parse::<usize>().ok());
        let length = length.filter(|l| (blank + 3..=data.len()).contains(l)).with_context(damaged)?;
        let record = data[blank + 1..length].strip_suffix(b"\n").with_context(damaged)?;
        let equals = record.iter().position(|b| *b == b'=').with_context(damaged)?;
        records.push((record[..equals].to_vec(), record[equals + 1..].to_vec()));
        data = &data[length..];
    }
    Ok(records)
}

impl Index<'_> {
    fn all(&mut self) -> Result<()> {
        let (mut at, mut members, mut extended) = (0, 0_u64, Extended::default());
        while let Some(header) = self.header(at)? {
            let kind = header.entry_type();
            let mut stored = header.entry_size().context("a damaged header: its size")?;
            if !matches!(kind, EntryType::XHeader | EntryType::XGlobalHeader) {
                stored = extended.number("size")?.unwrap_or(stored);
            }
            if kind == EntryType::Link {
                // Links have no data, whatever their size says.
                stored = 0;
            }
            let mut start = at + BLOCK;
            match kind {
                EntryType::XHeader => extended.records.append(&mut pax_records(&self.data(start, stored)?)?),
                EntryType::GNULongName => extended.name = Some(text(self.data(start, stored)?)),
                EntryType::GNULongLink => extended.target = Some(text(self.data(start, stored)?)),
                EntryType::XGlobalHeader => {}
                _ => {
                    let mut entry = Entry { header, extended: std::mem::take(&mut extended), start, stored };
                    let name = entry.name();
                    self.add(&mut entry, &name)
                        .with_context(|| format!("member {}", crate::output::show_name(&name)))?;
                    start = entry.start;
                    members += 1;
                }
            }
            let padded = stored.checked_next_multiple_of(BLOCK).context("a member of absurd size")?;
            at = start.checked_add(padded).context("a member of absurd size")?;
        }
        ensure!(members > 0, "the archive is empty, or no tar archive");
        Ok(())
    }

    /// The header at an offset; None at the end of the archive.
    fn header(&self, at: u64) -> Result<Option<Header>> {
        if at >= self.length {
            return Ok(None);
        }
        let mut header = Header::new_old();
        let read = self.archive.read_exact_at(header.as_mut_bytes(), at);
        read.context("the archive is truncated: its last header is cut off")?;
        let bytes = header.as_bytes();
        if bytes.iter().all(|b| *b == 0) {
            return Ok(None);
        }
        let sum: u32 = bytes
            .iter()
            .enumerate()
            .map(|(i, b)| if (148..156).contains(&i) { 32 } else { u32::from(*b) })
            .sum();
        ensure!(
            header.cksum().ok() == Some(sum),
            "not a tar archive, or a damaged one (a header's checksum is wrong)"
        );
        Ok(Some(header))
    }

    /// The data of an extended header.
    fn data(&self, start: u64, len: u64) -> Result<Vec<u8>> {
        ensure!(len <= MAX_EXTENDED, "an extended header of {len} bytes");
        let mut data = vec![0; usize::try_from(len).unwrap_or(0)];
        self.archive
            .read_exact_at(&mut data, start)
            .context("the archive is truncated: a header is cut off")?;
        Ok(data)
    }

    fn add(&mut self, entry: &mut Entry, name: &[u8]) -> Result<()> {
        let kind = entry.header.entry_type();
        let path = components(name)?;
        let meta = entry.meta()?;
        let pending = match kind {
            EntryType::Directory => Pending::Kind(Kind::Directory),
            // Before POSIX a directory was a file whose name ends with a slash.
            EntryType::Regular if name.ends_with(b"/") => Pending::Kind(Kind::Directory),
            EntryType::Regular | EntryType::Continuous | EntryType::GNUSparse => self.file(entry, name)?,
            EntryType::Symlink => Pending::Kind(Kind::Symlink(entry.target()?)),
            EntryType::Link => {
                let target = entry.target()?;
                let found = self.collector.find(components(&target)?);
                let shown = || crate::output::show_name(&target);
                Pending::Link(
                    found.with_context(|| format!("a hard link to {}, which is not there", shown()))?,
                )
            }
            EntryType::Char => Pending::Kind(Kind::CharDevice(entry.device(true)?, entry.device(false)?)),
            EntryType::Block => Pending::Kind(Kind::BlockDevice(entry.device(true)?, entry.device(false)?)),
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

    fn file(&mut self, entry: &mut Entry, name: &[u8]) -> Result<Pending> {
        let end = entry.start.checked_add(entry.stored).context("a member of absurd size")?;
        let (size, parts) = if let Some(size) = entry.pax_sparse()? {
            pax_map(self.archive, entry, size)?
        } else if entry.header.entry_type() == EntryType::GNUSparse {
            gnu_map(self.archive, entry)?
        } else {
            (entry.stored, vec![(0..entry.stored, entry.start)])
        };
        let last = parts.iter().map(|(extent, at)| at + (extent.end - extent.start)).max().unwrap_or(end);
        ensure!(last.max(end) <= self.length, "the archive is truncated: it ends inside this member");
        let allocated = parts.iter().map(|(extent, _)| extent.end - extent.start).sum();
        self.files.push(Member { name: crate::output::show_name(name), parts });
        Ok(Pending::Kind(Kind::File { size, allocated, token: (self.files.len() - 1) as u64 }))
    }
}

/// Up to the first zero byte.
fn text(mut data: Vec<u8>) -> Vec<u8> {
    data.truncate(data.iter().position(|b| *b == 0).unwrap_or(data.len()));
    data
}

/// The components of a member's name.
fn components(name: &[u8]) -> Result<Vec<&[u8]>> {
    let parts: Vec<&[u8]> = name.split(|b| *b == b'/').filter(|c| !c.is_empty() && *c != b".").collect();
    ensure!(!parts.contains(&&b".."[..]), "the name leaves the root file system (..)");
    Ok(parts)
}

impl Entry {
    /// A sparse file in a pax format has a made-up name in its header.
    fn name(&self) -> Vec<u8> {
        let records = self.extended.get("GNU.sparse.name").or(self.extended.get("path"));
        let name = records.map(<[u8]>::to_vec).or_else(|| self.extended.name.clone());
        name.unwrap_or_else(|| self.header.path_bytes().into_owned())
    }

    fn target(&self) -> Result<Vec<u8>> {
        let long = self.extended.get("linkpath").map(<[u8]>::to_vec).or_else(|| self.extended.target.clone());
        let target = long.or_else(|| self.header.link_name_bytes().map(std::borrow::Cow::into_owned));
        let target = target.context("a link without a target")?;
        ensure!(!target.is_empty() && !target.contains(&0), "a link with an empty or broken target");
        Ok(target)
    }

    fn device(&self, major: bool) -> Result<u32> {
        let number = if major { self.header.device_major()? } else { self.header.device_minor()? };
        number.context("a device without numbers")
    }

    /// Mode, owner and times from the header, refined by pax records.
    fn meta(&self) -> Result<Meta> {
        let (header, extended) = (&self.header, &self.extended);
        let id = |key: &str, short: std::io::Result<u64>| -> Result<u32> {
            let id = match extended.number(key)? {
                Some(id) => id,
                None => short?,
            };
            u32::try_from(id).context("an owner's number above 2^32")
        };
        let at = |key: &str| -> Result<Option<Time>> {
            let Some(value) = extended.get(key) else { return Ok(None) };
            time(std::str::from_utf8(value).with_context(|| format!("pax record {key} is no time"))?)
                .map(Some)
        };
        let mtime = match at("mtime")? {
            Some(time) => time,
            None => Time { sec: i64::try_from(header.mtime()?).context("a time out of range")?, nsec: 0 },
        };
        let mut xattrs = Vec::new();
        for (key, value) in extended.records.iter().rev() {
            if let Some(name) = key.strip_prefix(b"SCHILY.xattr.") {
                xattrs.push((name.to_vec(), value.clone()));
            }
        }
        // Stable: of several records of one name, the last in the archive stays.
        xattrs.sort_by(|a, b| a.0.cmp(&b.0));
        xattrs.dedup_by(|a, b| a.0 == b.0);
        Ok(Meta {
            mode: header.mode()? & 0o7777,
            uid: id("uid", header.uid())?,
            gid: id("gid", header.gid())?,
            atime: at("atime")?.unwrap_or(mtime),
            mtime,
            xattrs,
        })
    }

    /// The real size of a GNU sparse file in pax format 1.0; None of an ordinary file.
    fn pax_sparse(&self) -> Result<Option<u64>> {
        let version = (self.extended.number("GNU.sparse.major")?, self.extended.number("GNU.sparse.minor")?);
        let old = self.extended.get("GNU.sparse.numblocks").or(self.extended.get("GNU.sparse.map"));
        match version {
            (Some(1), Some(0)) => {
                let size = self.extended.number("GNU.sparse.realsize")?;
                size.map(Some).context("a sparse member without its size")
            }
            (None, None) if old.is_none() => Ok(None),
            _ => bail!("a sparse member in an old pax format: pack with --sparse-version=1.0"),
        }
    }
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

/// Format 1.0: decimal numbers, one per line, at the start of the member's data, padded to whole blocks.
fn pax_map(archive: &File, entry: &Entry, size: u64) -> Result<(u64, Vec<(Extent, u64)>)> {
    let mut map = Vec::new();
    let (mut numbers, mut current, mut used) = (Vec::new(), 0_u64, 0_u64);
    let mut wanted = 1_u64;
    while (numbers.len() as u64) < wanted {
        ensure!(used < entry.stored.min(MAX_EXTENDED), "a sparse map without an end");
        map.resize(BLOCK as usize, 0);
        archive.read_exact_at(&mut map, entry.start + used).context("a sparse map is cut off")?;
        used += BLOCK;
        for byte in &map {
            match byte {
                b'\n' if (numbers.len() as u64) < wanted => {
                    numbers.push(std::mem::take(&mut current));
                    if numbers.len() == 1 {
                        wanted = numbers[0]
                            .checked_mul(2)
                            .and_then(|n| n.checked_add(1))
                            .context("a sparse map is too long")?;
                    }
                }
                digit @ b'0'..=b'9' if (numbers.len() as u64) < wanted => {
                    let next = current.checked_mul(10).and_then(|n| n.checked_add(u64::from(digit - b'0')));
                    current = next.context("a number in a sparse map is too large")?;
                }
                _ if numbers.len() as u64 >= wanted => break,
                _ => bail!("a sparse map holds something that is no number"),
            }
        }
    }
    let (mut at, mut parts) = (entry.start + used, Vec::new());
    for pair in numbers[1..].chunks_exact(2) {
        part(&mut parts, pair[0], pair[1], size, &mut at)?;
    }
    Ok((size, parts))
}

/// The old GNU format: the map begins in the header and goes on in blocks after it, behind which the data begins.
fn gnu_map(archive: &File, entry: &mut Entry) -> Result<(u64, Vec<(Extent, u64)>)> {
    let gnu = entry.header.as_gnu().context("a sparse member without a GNU header")?;
    let size = gnu.real_size()?;
    let mut map: Vec<(u64, u64)> = Vec::new();
    let mut collect = |blocks: &[tar::GnuSparseHeader]| -> Result<()> {
        for block in blocks.iter().filter(|b| !b.is_empty()) {
            map.push((block.offset()?, block.length()?));
        }
        Ok(())
    };
    collect(&gnu.sparse)?;
    let (mut at, mut more) = (entry.start, gnu.is_extended());
    while more {
        let mut block = tar::GnuExtSparseHeader::new();
        archive.read_exact_at(block.as_mut_bytes(), at).context("a sparse map is cut off")?;
        at += BLOCK;
        collect(&block.sparse)?;
        more = block.is_extended();
    }
    entry.start = at;
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
