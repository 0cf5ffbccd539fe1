//! Files inside an image: a dataset, mounted read-only, and paths in it.

use super::open::OpenPool;
use crate::location::Location;
use crate::output::show_name;
use anyhow::{Context, Result, bail, ensure};
use std::sync::Arc;
use zfs::Error;
use zfs::dsl::Dataset;
use zfs::ondisk::objset::ObjsetKind;
use zfs::spa::Pool;
use zfs::zpl::{Attr, DirEntry, FileKind, Filesystem, MountOptions};

/// How many symbolic links one path may lead through.
const MAX_LINKS: usize = 40;
/// Entries of a directory that are read at once.
const BATCH: usize = 1024;

/// A mounted dataset of an image.
pub(crate) struct View {
    /// The file system.
    pub(crate) fs: Arc<Filesystem>,
    /// Its dataset's or snapshot's name.
    pub(crate) dataset: String,
    pool: OpenPool,
}

/// What a location turned out to be.
pub(crate) enum Opened {
    /// A file system or a snapshot of one.
    Files(View),
    /// A volume or a snapshot of one.
    Volume(OpenPool, Arc<Dataset>),
}

/// A path's end.
#[derive(Debug, Clone)]
pub(crate) struct Found {
    /// Last component; empty for the root.
    pub(crate) name: Vec<u8>,
    /// What is there.
    pub(crate) attr: Attr,
}

/// The dataset that a path without one is in: the pool's `bootfs`, else its root file system.
pub(crate) fn default_dataset(pool: &Pool) -> Result<String> {
    match pool.get_property("bootfs") {
        Ok((name, _)) if !matches!(name.as_str(), "" | "-") => Ok(name),
        _ => Ok(pool.name()),
    }
}

/// A dataset by its name, with or without the pool's in front.
pub(crate) fn dataset(pool: &Pool, name: &str) -> Result<Arc<Dataset>> {
    let first = name.split(['/', '@']).next().unwrap_or_default();
    let full = if first == pool.name() { name.to_owned() } else { format!("{}/{name}", pool.name()) };
    match pool.dsl().lookup(&full) {
        Err(Error::NotFound) => bail!("no dataset or snapshot {name} in pool {}", pool.name()),
        other => other.with_context(|| full),
    }
}

/// Opens what a location names.
pub(crate) fn open(location: &Location) -> Result<Opened> {
    open_with(location, OpenPool::read(std::slice::from_ref(&location.image))?)
}

fn open_with(location: &Location, opened: OpenPool) -> Result<Opened> {
    let name = match &location.dataset {
        Some(name) => name.clone(),
        None => default_dataset(&opened.pool)?,
    };
    let context = || format!("{}", location.image.display());
    let dataset = dataset(&opened.pool, &name).with_context(context)?;
    readable(&dataset).with_context(context)?;
    if dataset.objset().with_context(context)?.kind() == ObjsetKind::Zvol {
        ensure!(location.path.is_none(), "{location}: {name} is a volume, which has no files");
        return Ok(Opened::Volume(opened, dataset));
    }
    Ok(Opened::Files(mount(opened, dataset)?))
}

fn mount(opened: OpenPool, dataset: Arc<Dataset>) -> Result<View> {
    let options = MountOptions { read_only: opened.pool.is_read_only(), no_atime: true };
    let name = dataset.name();
    let mounted = Filesystem::mount(&opened.pool, dataset, options);
    let fs = mounted.with_context(|| format!("{}: {name}", opened.name()))?;
    Ok(View { fs, dataset: name, pool: opened })
}

/// Opens a file system of a pool.
pub(crate) fn view(opened: OpenPool, name: &str) -> Result<View> {
    let dataset = dataset(&opened.pool, name).with_context(|| opened.name())?;
    readable(&dataset)?;
    ensure!(dataset.objset()?.kind() == ObjsetKind::Zfs, "{name}: a volume, which has no files");
    mount(opened, dataset)
}

/// Refuses what is encrypted and has no key, and tells of changes that only its log has.
fn readable(dataset: &Dataset) -> Result<()> {
    let Some(encryption) = dataset.encryption()? else { return Ok(()) };
    let (name, root) = (dataset.name(), encryption.root);
    ensure!(
        encryption.available,
        "{name}: encrypted, and its key is not loaded: give it as --key {root}=prompt or --key {root}=file:///PATH"
    );
    if dataset.is_snapshot() {
        return Ok(());
    }
    let objset = dataset.objset()?;
    let pending = zfs::zil::pending(&objset)?;
    if pending > 0 {
        eprintln!(
            "{name}: {pending} changes are only in its intent log, and are not seen here: OpenZFS replays them when it mounts it"
        );
    }
    Ok(())
}

/// Opens a location that must be in a file system.
pub(crate) fn files(location: &Location) -> Result<View> {
    in_files(location, open(location)?)
}

/// Opens what a location names, to change it. Its pool is to be closed.
pub(crate) fn open_to_write(location: &Location, force: bool) -> Result<Opened> {
    ensure!(
        !location.dataset.as_ref().is_some_and(|name| name.contains('@')),
        "{location}: a snapshot cannot be written to"
    );
    open_with(location, OpenPool::write(std::slice::from_ref(&location.image), force)?)
}

fn in_files(location: &Location, opened: Opened) -> Result<View> {
    match opened {
        Opened::Files(view) => Ok(view),
        Opened::Volume(_, dataset) => bail!("{location}: {} is a volume, which has no files", dataset.name()),
    }
}

impl View {
    /// The pool it is in.
    pub(crate) fn pool(&self) -> &Pool {
        &self.pool.pool
    }

    /// Makes durable what was changed, and closes the pool.
    pub(crate) fn close(self) -> Result<()> {
        self.fs.unmount()?;
        drop(self.fs);
        self.pool.close()
    }

    /// Follows a path. Symbolic links on the way are followed inside the image; the last one only if `follow`.
    pub(crate) fn resolve(&self, path: &[u8], follow: bool) -> Result<Found> {
        let shown = || format!("{}:{}", self.dataset, show_name(path));
        let mut pending: Vec<Vec<u8>> = split(path);
        pending.reverse();
        // The directories above, so that `..` needs no lookup.
        let mut above: Vec<u64> = Vec::new();
        let mut found =
            Found { name: Vec::new(), attr: self.fs.getattr(self.fs.root()).with_context(shown)? };
        let mut links = 0;
        while let Some(name) = pending.pop() {
            if name == b".." {
                let parent = above.pop().unwrap_or_else(|| self.fs.root());
                found = Found { name: Vec::new(), attr: self.fs.getattr(parent).with_context(shown)? };
                continue;
            }
            if found.attr.kind() != FileKind::Directory {
                return Err(Error::NotDirectory).with_context(shown);
            }
            let object = self.fs.lookup(found.attr.object, &name).with_context(shown)?;
            let attr = self.fs.getattr(object).with_context(shown)?;
            if attr.kind() == FileKind::Symlink && (follow || !pending.is_empty()) {
                links += 1;
                ensure!(links <= MAX_LINKS, "{}: too many symbolic links", shown());
                let target = self.fs.readlink(object).with_context(shown)?;
                if target.starts_with(b"/") {
                    above.clear();
                    found = Found {
                        name: Vec::new(),
                        attr: self.fs.getattr(self.fs.root()).with_context(shown)?,
                    };
                }
                pending.extend(split(&target).into_iter().rev());
                continue;
            }
            above.push(found.attr.object);
            found = Found { name, attr };
        }
        Ok(found)
    }

    /// All entries of a directory, sorted by name.
    pub(crate) fn entries(&self, directory: u64) -> Result<Vec<DirEntry>> {
        let mut entries = Vec::new();
        let mut cookie = 0;
        loop {
            let batch = self.fs.readdir(directory, cookie, BATCH)?;
            let Some(last) = batch.last() else { break };
            ensure!(last.cookie != cookie, "a directory that never ends");
            cookie = last.cookie;
            entries.extend(batch);
        }
        entries.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(entries)
    }

    /// What an entry is, asked of the file where the directory does not know.
    pub(crate) fn kind(&self, entry: &DirEntry) -> Result<FileKind> {
        match entry.kind {
            Some(kind) => Ok(kind),
            None => Ok(self.fs.getattr(entry.object)?.kind()),
        }
    }

    /// Calls `write` with the data of a file, by offset; holes are left out.
    pub(crate) fn read_data(
        &self,
        attr: &Attr,
        write: &mut dyn FnMut(u64, &[u8]) -> Result<()>,
    ) -> Result<()> {
        let mut buf = vec![0; 1 << 20];
        let mut at = 0;
        while at < attr.size {
            let Some(start) = self.fs.next_data(attr.object, at)? else { break };
            let end = self.fs.next_hole(attr.object, start)?.unwrap_or(attr.size).min(attr.size);
            ensure!(start >= at && end > start, "a file whose extents do not advance");
            at = start;
            while at < end {
                let want = usize::try_from(end - at).unwrap_or(usize::MAX).min(buf.len());
                let len = self.fs.read(attr.object, at, &mut buf[..want])?;
                ensure!(len > 0, "a file that ends before its length");
                write(at, &buf[..len])?;
                at += len as u64;
            }
        }
        Ok(())
    }
}

/// The components of a path, without empty ones and dots.
fn split(path: &[u8]) -> Vec<Vec<u8>> {
    path.split(|b| *b == b'/').filter(|c| !c.is_empty() && *c != b".").map(<[u8]>::to_vec).collect()
}

/// The letter of a file's kind, as `ls -l` has it.
pub(crate) fn letter(kind: FileKind) -> char {
    match kind {
        FileKind::Fifo => 'p',
        FileKind::CharDevice => 'c',
        FileKind::Directory => 'd',
        FileKind::BlockDevice => 'b',
        FileKind::Regular => '-',
        FileKind::Symlink => 'l',
        FileKind::Socket => 's',
    }
}

/// A file's kind in words.
pub(crate) fn kind_name(kind: FileKind) -> &'static str {
    match kind {
        FileKind::Fifo => "fifo",
        FileKind::CharDevice => "character device",
        FileKind::Directory => "directory",
        FileKind::BlockDevice => "block device",
        FileKind::Regular => "regular file",
        FileKind::Symlink => "symbolic link",
        FileKind::Socket => "socket",
    }
}

/// `drwxr-xr-x`.
pub(crate) fn mode_string(attr: &Attr) -> String {
    let mode = attr.mode;
    let mut text = String::from(letter(attr.kind()));
    for (shift, special, set) in [(6, 0o4000, 's'), (3, 0o2000, 's'), (0, 0o1000, 't')] {
        let bits = mode >> shift;
        text.push(if bits & 4 != 0 { 'r' } else { '-' });
        text.push(if bits & 2 != 0 { 'w' } else { '-' });
        text.push(match (bits & 1 != 0, mode & special != 0) {
            (true, true) => set,
            (false, true) => set.to_ascii_uppercase(),
            (true, false) => 'x',
            (false, false) => '-',
        });
    }
    text
}

/// Major and minor of a device number in Linux's 64-bit encoding.
pub(crate) fn device_numbers(rdev: u64) -> (u64, u64) {
    let major = (rdev >> 8 & 0xfff) | (rdev >> 32 & !0xfff);
    let minor = (rdev & 0xff) | (rdev >> 12 & !0xff);
    (major & 0xffff_ffff, minor & 0xffff_ffff)
}

/// Linux's 64-bit encoding of a device number (`makedev`).
pub(crate) fn make_device(major: u32, minor: u32) -> u64 {
    let (major, minor) = (u64::from(major), u64::from(minor));
    (major & 0xffff_f000) << 32 | (major & 0xfff) << 8 | (minor & 0xffff_ff00) << 12 | (minor & 0xff)
}

/// A time in UTC: `2026-11-22 18:40:01.000000000`, or its seconds if they are beyond any calendar.
pub(crate) fn show_time(sec: i64, nsec: u32, digits: bool) -> String {
    match jiff::Timestamp::from_second(sec) {
        Ok(time) if digits => format!("{}.{nsec:09} +0000", time.strftime("%Y-%m-%d %H:%M:%S")),
        Ok(time) => time.strftime("%Y-%m-%d %H:%M").to_string(),
        Err(_) => format!("{sec}.{nsec:09}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn device_numbers_come_back() {
        for (major, minor) in [(0, 0), (8, 1), (0xfff, 0xff), (0x1000, 0x100), (0xabcd_1234, 0xfedc_ba98)] {
            let (a, b) = device_numbers(make_device(major, minor));
            assert_eq!((a, b), (u64::from(major), u64::from(minor)));
        }
        assert_eq!(make_device(8, 1), 0x801);
    }

    #[test]
    fn times_are_shown_in_utc() {
        assert_eq!(show_time(0, 5, true), "1970-01-01 00:00:00.000000005 +0000");
        assert_eq!(show_time(1_700_000_000, 0, false), "2023-11-14 22:13");
        assert!(show_time(i64::MAX, 0, false).starts_with("9223372036854775807"));
    }

    #[test]
    fn paths_are_split() {
        assert_eq!(split(b"//a/./b/../c/"), [&b"a"[..], b"b", b"..", b"c"]);
        assert!(split(b"/").is_empty());
    }
}
