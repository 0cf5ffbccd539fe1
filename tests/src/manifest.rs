//! A pool compared with a manifest: what OpenZFS read of every file, link, extended attribute and snapshot.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]
#![expect(clippy::missing_panics_doc, reason = "a difference is a panic that names it; nothing else is")]

use crate::fixtures::{Entry, Xattr};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::sync::Arc;
use testkit::sums::{SPARSE_LIMIT, hex};
use zfs::spa::Pool;
use zfs::zpl::{Attr, FileKind, Filesystem, MountOptions};

/// Mounts a dataset or snapshot for reading.
#[must_use]
pub fn mount(pool: &Arc<Pool>, dataset: &str) -> Arc<Filesystem> {
    let dataset = pool.dsl().lookup(dataset).unwrap();
    Filesystem::mount(pool, dataset, MountOptions { read_only: true, no_atime: true }).unwrap()
}

fn page_hash(
    size: u64,
    mut next_data: impl FnMut(u64) -> Option<u64>,
    mut read: impl FnMut(u64, &mut [u8]),
) -> String {
    let mut sum = Sha256::new();
    let mut at = 0;
    let mut page = vec![0; 4096];
    while let Some(data) = next_data(at) {
        let start = data & !4095;
        page.fill(0);
        let len = 4096.min(size - start) as usize;
        read(start, &mut page[..len]);
        if page.iter().any(|&b| b != 0) {
            sum.update(start.to_le_bytes());
            sum.update(&page);
        }
        at = start + 4096;
        if at >= size {
            break;
        }
    }
    hex(&sum.finalize())
}

/// SHA-256 of `size` bytes that `read` gives.
pub fn whole_hash(size: u64, mut read: impl FnMut(u64, &mut [u8])) -> String {
    let mut sum = Sha256::new();
    let mut buf = vec![0; 1 << 20];
    let mut at = 0;
    while at < size {
        let len = (size - at).min(buf.len() as u64) as usize;
        read(at, &mut buf[..len]);
        sum.update(&buf[..len]);
        at += len as u64;
    }
    hex(&sum.finalize())
}

fn kind_name(kind: FileKind) -> &'static str {
    match kind {
        FileKind::Fifo => "fifo",
        FileKind::CharDevice => "chr",
        FileKind::Directory => "dir",
        FileKind::BlockDevice => "blk",
        FileKind::Regular => "file",
        FileKind::Symlink => "symlink",
        FileKind::Socket => "socket",
    }
}

fn xattrs(fs: &Filesystem, object: u64) -> BTreeMap<String, Vec<u8>> {
    let names = fs.list_xattr(object).unwrap();
    names
        .into_iter()
        .map(|name| (String::from_utf8_lossy(&name).into_owned(), fs.get_xattr(object, &name).unwrap()))
        .collect()
}

fn check_xattrs(what: &str, found: &BTreeMap<String, Vec<u8>>, wanted: &[Xattr]) {
    let names: Vec<&String> = found.keys().collect();
    let mut expected: Vec<&String> = wanted.iter().map(|x| &x.name).collect();
    expected.sort();
    assert_eq!(names, expected, "{what}: extended attributes");
    for x in wanted {
        let value = &found[&x.name];
        assert_eq!(value.len() as u64, x.size, "{what}: {}", x.name);
        if let Some(bytes) = &x.hex {
            assert_eq!(&hex(value), bytes, "{what}: {}", x.name);
        }
        if let Some(sum) = &x.sha256 {
            assert_eq!(&hex(&Sha256::digest(value)), sum, "{what}: {}", x.name);
        }
    }
}

fn snapdir_visible(fs: &Filesystem) -> bool {
    fs.dataset().get_number("snapdir").unwrap_or(0) == 1
}

/// What is compared and what not.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// Modification times.
    pub mtimes: bool,
    /// Content, and the space that it takes.
    pub content: bool,
    /// Extended attributes.
    pub xattrs: bool,
    /// Sizes of directories.
    pub dir_sizes: bool,
}

/// Everything is compared.
pub const ALL: Options = Options { mtimes: true, content: true, xattrs: true, dir_sizes: true };

fn check_entry(fs: &Filesystem, what: &str, attr: &Attr, wanted: &Entry, o: Options) {
    let object = attr.object;
    let kind = attr.kind();
    assert_eq!(kind_name(kind), wanted.kind, "{what}: kind");
    assert_eq!(format!("{:04o}", attr.mode & 0o7777), wanted.mode, "{what}: mode");
    assert_eq!((u64::from(attr.uid), u64::from(attr.gid)), (wanted.uid, wanted.gid), "{what}: owner");
    // Where `.zfs` is visible, Linux counts it among the root's links; and it gives the root of a snapshot a number of its own.
    let visible = u64::from(object == fs.root() && snapdir_visible(fs));
    assert_eq!(attr.nlink + visible, wanted.nlink, "{what}: links");
    assert!(object == wanted.ino || object == fs.root() && wanted.ino >> 47 != 0, "{what}: object");
    if o.dir_sizes || kind != FileKind::Directory {
        assert_eq!(attr.size, wanted.size, "{what}: size");
    }
    if o.mtimes {
        assert_eq!(format!("{}.{:09}", attr.mtime.sec, attr.mtime.nsec), wanted.mtime, "{what}: mtime");
    }
    if let (Some(blocks), true) = (wanted.blocks512, o.content) {
        assert_eq!(attr.blocks, blocks, "{what}: blocks");
    }
    if let Some((major, minor)) = wanted.rdev {
        let found = ((attr.rdev >> 8 & 0xfff) as u32, (attr.rdev & 0xff | attr.rdev >> 12 & 0xf_ff00) as u32);
        assert_eq!(found, (major, minor), "{what}: device");
    }
    if let Some(target) = &wanted.target {
        assert_eq!(String::from_utf8_lossy(&fs.readlink(object).unwrap()), *target, "{what}: target");
    }
    let read = |at: u64, buf: &mut [u8]| {
        let got = fs.read(object, at, buf).unwrap_or_else(|e| panic!("{what} at {at}: {e}"));
        assert_eq!(got, buf.len(), "{what}: short read at {at}");
    };
    if let (Some(sum), true) = (&wanted.sha256, o.content) {
        assert_eq!(&whole_hash(attr.size, read), sum, "{what}: content");
    }
    if let (Some(sum), true) = (&wanted.sparse_sha256, o.content) {
        assert!(attr.size > SPARSE_LIMIT);
        let found = page_hash(attr.size, |at| fs.next_data(object, at).unwrap(), read);
        assert_eq!(&found, sum, "{what}: content");
    }
    if o.xattrs {
        check_xattrs(what, &xattrs(fs, object), &wanted.xattrs);
    }
}

/// Checks a dataset against its section of a manifest; gives the number of entries.
pub fn check_section(
    fs: &Filesystem,
    dataset: &str,
    entries: &[Entry],
    o: impl Fn(&Entry) -> Options,
) -> usize {
    let wanted: BTreeMap<Vec<u8>, &Entry> = entries.iter().map(|e| (path_of(e), e)).collect();
    let mut todo = vec![(b"/".to_vec(), fs.root())];
    let mut met = 0;
    while let Some((path, object)) = todo.pop() {
        let what = format!("{dataset}:{}", String::from_utf8_lossy(&path));
        let attr = fs.getattr(object).unwrap();
        let Some(entry) = wanted.get(&path) else {
            // A mount point of a child, which the manifest shows in that child's section.
            assert!(attr.kind() == FileKind::Directory && attr.size == 2, "{what}: not in the manifest");
            continue;
        };
        met += 1;
        if entry.mountpoint {
            // The manifest shows the root of the dataset that was mounted there.
            continue;
        }
        check_entry(fs, &what, &attr, entry, o(entry));
        if attr.kind() != FileKind::Directory {
            continue;
        }
        let mut cookie = 0;
        let mut seen = 0;
        loop {
            let batch = fs.readdir(object, cookie, 100).unwrap();
            let Some(last) = batch.last() else { break };
            cookie = last.cookie;
            seen += batch.len() as u64;
            for e in batch {
                assert_eq!(fs.lookup(object, &e.name).unwrap(), e.object, "{what}: {:?}", e.name);
                let child = [if path == b"/" { b"" } else { &path[..] }, b"/", &e.name[..]].concat();
                todo.push((child, e.object));
            }
        }
        assert_eq!(seen + 2, attr.size, "{what}: number of entries");
    }
    assert_eq!(met, wanted.len(), "{dataset}: entries");
    met
}

fn path_of(entry: &Entry) -> Vec<u8> {
    match &entry.path_hex {
        Some(text) => {
            (0..text.len() / 2).map(|i| u8::from_str_radix(&text[2 * i..2 * i + 2], 16).unwrap()).collect()
        }
        None => entry.path.clone().into_bytes(),
    }
}

/// Checks a pool against all sections of a manifest; gives the number of entries.
pub fn check_sections(pool: &Arc<Pool>, sections: &[(String, Vec<Entry>)], o: Options) -> usize {
    assert!(!sections.is_empty());
    let mut entries = 0;
    for (dataset, wanted) in sections {
        let fs = mount(pool, dataset);
        entries += check_section(&fs, dataset, wanted, |_| o);
        fs.unmount().unwrap();
    }
    println!("{}: {} datasets, {entries} entries", pool.name(), sections.len());
    entries
}
