//! `tarn zfs diff`: what differs between a snapshot and a later state, by path.
//!
//! The engine names the objects whose dnodes changed, found by the birth times of blocks; only these are looked at. Their paths are found
//! upwards, from each to its parent. What is told of each follows `zfs diff`, and so does the order: that of object numbers.

use super::select::dataset;
use crate::cli::zfs::Diff;
use crate::commands::open::OpenPool;
use anyhow::{Context, Result, bail, ensure};
use std::collections::HashMap;
use std::io::{BufWriter, Write};
use std::process::ExitCode;
use std::sync::Arc;
use zfs::Error;
use zfs::dsl::Dataset;
use zfs::zpl::{Attr, FileKind, Filesystem, MountOptions};

/// The deepest path that is followed; a longer one is a damaged image's.
const MAX_DEPTH: usize = 4096;
/// The flag of what belongs to extended attributes (`ZFS_XATTR`).
const FLAG_XATTR: u64 = zfs::ondisk::znode::flags::XATTR;

/// One of the two states.
struct Side {
    name: String,
    fs: Arc<Filesystem>,
    /// Of each directory that was asked for, the names of its objects: the first of each.
    names: HashMap<u64, HashMap<u64, Vec<u8>>>,
}

/// What a line says.
#[derive(Debug, Clone, PartialEq, Eq)]
enum What {
    Added,
    Removed,
    Modified,
    /// With the change of the number of links.
    Linked(i64),
    Renamed(Vec<u8>),
}

/// One line of the output.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Line {
    what: What,
    path: Vec<u8>,
    kind: FileKind,
    /// Change time, in seconds and nanoseconds since 1970.
    time: (i64, u32),
}

/// How lines are printed.
struct Printer<'a> {
    options: &'a Diff,
    /// Where the file system is mounted, without a slash at the end.
    mount_point: Vec<u8>,
    out: BufWriter<std::io::StdoutLock<'a>>,
    counts: [u64; 4],
}

/// Prints what differs.
pub(super) fn run(opened: &OpenPool, options: &Diff) -> Result<ExitCode> {
    let (from, to) = ends(opened, options)?;
    let mut sides = [Side::new(opened, &from)?, Side::new(opened, &to)?];
    let mut objects = Vec::new();
    let done = opened.pool.dsl().for_each_change(&from.name(), &to.name(), &mut |object, _| {
        objects.push(object);
        Ok(())
    });
    done.with_context(|| format!("{} and {}", from.name(), to.name()))?;
    let head = to.name();
    let mount_point = dataset(opened, head.split('@').next().unwrap_or_default())?.get("mountpoint")?.text;
    let mount_point = if mount_point.starts_with('/') { mount_point.trim_end_matches('/') } else { "" };
    let out = BufWriter::new(std::io::stdout().lock());
    let mut printer = Printer { options, mount_point: mount_point.as_bytes().to_vec(), out, counts: [0; 4] };
    for object in objects {
        for line in compare(&mut sides, object)? {
            printer.line(&line)?;
        }
    }
    printer.finish()
}

/// The two states that are meant: `fs@a` and `fs@b`, `@b`, `fs`, a clone, or nothing.
fn ends(opened: &OpenPool, options: &Diff) -> Result<(Arc<Dataset>, Arc<Dataset>)> {
    let head = |name: &str| name.split('@').next().unwrap_or_default().to_owned();
    // `zfs diff @a fs@b` is allowed, too.
    let from = match (&options.to, options.from.starts_with('@')) {
        (Some(to), true) => dataset(opened, &(head(to) + &options.from))?,
        _ => dataset(opened, &options.from)?,
    };
    ensure!(from.is_snapshot(), "{}: the first is a snapshot, DATASET@NAME", options.from);
    let to = match &options.to {
        Some(to) if to.starts_with('@') => dataset(opened, &(head(&options.from) + to))?,
        Some(to) => dataset(opened, to)?,
        None => dataset(opened, &head(&options.from))?,
    };
    if to.is_snapshot() && to.creation_txg() < from.creation_txg() {
        bail!("{}: is older than {}", to.name(), from.name());
    }
    Ok((from, to))
}

impl Side {
    fn new(opened: &OpenPool, dataset: &Arc<Dataset>) -> Result<Self> {
        let options = MountOptions { read_only: true, no_atime: true };
        let mounted = Filesystem::mount(&opened.pool, Arc::clone(dataset), options);
        let name = dataset.name();
        let fs = mounted.with_context(|| name.clone())?;
        Ok(Side { name, fs, names: HashMap::new() })
    }

    /// The attributes of an object; None if it is no file here.
    fn stat(&self, object: u64) -> Result<Option<Attr>> {
        match self.fs.getattr(object) {
            Ok(attr) => Ok(Some(attr)),
            Err(Error::NotFound) => Ok(None),
            Err(error) => Err(error).with_context(|| format!("{}: object {object}", self.name)),
        }
    }

    /// The names in a directory, by object.
    fn names_in(&mut self, directory: u64) -> Result<&HashMap<u64, Vec<u8>>> {
        if !self.names.contains_key(&directory) {
            let mut names = HashMap::new();
            let mut cookie = 0;
            loop {
                let batch = self.fs.readdir(directory, cookie, 1024).with_context(|| self.name.clone())?;
                let Some(last) = batch.last() else { break };
                ensure!(last.cookie != cookie, "{}: a directory that never ends", self.name);
                cookie = last.cookie;
                for entry in batch {
                    names.entry(entry.object).or_insert(entry.name);
                }
            }
            self.names.insert(directory, names);
        }
        Ok(&self.names[&directory])
    }

    /// The path of an object from the file system's root (`zfs_obj_to_path`); None if no name leads to it, as to the file system's own objects.
    fn path(&mut self, object: u64, attr: &Attr) -> Result<Option<Vec<u8>>> {
        if attr.nlink == 0 {
            return Ok(Some(b"(on_delete_queue)".to_vec()));
        }
        let mut path: Vec<u8> = Vec::new();
        let (mut at, mut attr) = (object, attr.clone());
        for _ in 0..MAX_DEPTH {
            if at == self.fs.root() {
                return Ok(Some(if path.is_empty() { b"/".to_vec() } else { path }));
            }
            let parent = self.fs.parent_of(at).with_context(|| self.name.clone())?;
            let Some(above) = self.stat(parent)? else { return Ok(None) };
            let name = if attr.flags & FLAG_XATTR != 0 && attr.kind() == FileKind::Directory {
                b"<xattrdir>".to_vec()
            } else if above.kind() != FileKind::Directory {
                return Ok(None);
            } else {
                match self.names_in(parent)?.get(&at) {
                    Some(name) => name.clone(),
                    None => return Ok(None),
                }
            };
            path = [b"/", name.as_slice(), &path].concat();
            (at, attr) = (parent, above);
        }
        bail!("{}: object {object} lies in no directory that leads to the root", self.name)
    }
}

/// What is to be said of one object that changed.
fn compare([old, new]: &mut [Side; 2], object: u64) -> Result<Vec<Line>> {
    let (before, after) = (old.stat(object)?, new.stat(object)?);
    let line = |what, path, attr: &Attr| Line {
        what,
        path,
        kind: attr.kind(),
        time: (attr.ctime.sec, attr.ctime.nsec),
    };
    let mut lines = Vec::new();
    if let (Some(a), Some(b)) = (&before, &after)
        && a.generation == b.generation
        && a.kind() == b.kind()
    {
        if (a.ctime.sec, a.ctime.nsec) == (b.ctime.sec, b.ctime.nsec) {
            // Reading a file is no change, nor is where its blocks are.
            return Ok(lines);
        }
        let (Some(from), Some(to)) = (old.path(object, a)?, new.path(object, b)?) else { return Ok(lines) };
        let counted = a.kind() != FileKind::Directory && a.nlink != 0 && b.nlink != 0;
        let links = if counted { b.nlink.wrapping_sub(a.nlink) as i64 } else { 0 };
        lines.push(match links {
            0 if from == to => line(What::Modified, to, b),
            0 => line(What::Renamed(to), from, b),
            _ => line(What::Linked(links), if links > 0 { from } else { to }, b),
        });
        return Ok(lines);
    }
    // Only on one side, or another file under a number that is used again. What lay on the delete queue was gone already.
    if let Some(attr) = before.filter(|attr| after.is_some() || attr.nlink != 0)
        && let Some(path) = old.path(object, &attr)?
    {
        lines.push(line(What::Removed, path, &attr));
    }
    if let Some(attr) = after
        && let Some(path) = new.path(object, &attr)?
    {
        lines.push(line(What::Added, path, &attr));
    }
    Ok(lines)
}

impl Printer<'_> {
    fn line(&mut self, line: &Line) -> Result<()> {
        let (index, letter) = match line.what {
            What::Added => (0, '+'),
            What::Removed => (1, '-'),
            What::Modified | What::Linked(_) => (2, 'M'),
            What::Renamed(_) => (3, 'R'),
        };
        self.counts[index] += 1;
        if self.options.count {
            return Ok(());
        }
        if self.options.time {
            write!(self.out, "{:10}.{:09}\t", line.time.0, line.time.1)?;
        }
        write!(self.out, "{letter}\t")?;
        if self.options.classify {
            write!(self.out, "{}\t", classify(line.kind))?;
        }
        self.path(&line.path)?;
        match &line.what {
            What::Renamed(to) => {
                write!(self.out, "{}", if self.options.script { "\t" } else { " -> " })?;
                self.path(to)?;
            }
            What::Linked(links) => write!(self.out, "\t({links:+})")?,
            _ => {}
        }
        Ok(writeln!(self.out)?)
    }

    fn path(&mut self, path: &[u8]) -> Result<()> {
        let whole = [self.mount_point.as_slice(), path].concat();
        let shown = if self.options.raw_names { whole } else { escape(&whole) };
        Ok(self.out.write_all(&shown)?)
    }

    fn finish(mut self) -> Result<ExitCode> {
        if self.options.count {
            let [added, removed, modified, renamed] = self.counts;
            writeln!(self.out, "{added} added, {removed} removed, {modified} modified, {renamed} renamed")?;
        }
        self.out.flush()?;
        Ok(ExitCode::SUCCESS)
    }
}

/// A name as `zfs diff` prints it: all but visible ASCII as a backslash and four octal digits.
fn escape(name: &[u8]) -> Vec<u8> {
    let mut shown = Vec::with_capacity(name.len());
    for &byte in name {
        if byte.is_ascii_graphic() && byte != b'\\' {
            shown.push(byte);
        } else {
            shown.extend(format!("\\{byte:04o}").bytes());
        }
    }
    shown
}

/// The letter of `zfs diff -F`.
fn classify(kind: FileKind) -> char {
    match kind {
        FileKind::Regular => 'F',
        FileKind::Directory => '/',
        FileKind::Symlink => '@',
        FileKind::Fifo => '|',
        FileKind::Socket => '=',
        FileKind::CharDevice => 'C',
        FileKind::BlockDevice => 'B',
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_escaped_as_zfs_does() {
        assert_eq!(escape(b"/a b\\c\xc3\xbc\n~"), b"/a\\0040b\\0134c\\0303\\0274\\0012~");
    }
}
