//! Whole pools of OpenZFS, damaged on the medium ([`damaged`]) or behind the checksums ([`tampered`]).
//!
//! The input says which fixture it is (first byte) and, in words of eight bytes, where it is damaged.

use super::mutate;
use crate::fixtures;
use crate::model::{Rng, env};
use anyhow::{Context, Result, bail, ensure};
use bytes::Bytes;
use platform::block::BlockDevice;
use platform::sim::{Image, SimDisk, SimLog};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};
use zfs::dmu::{Traverse, Visit, traverse};
use zfs::ondisk::blkptr::{Blkptr, LABEL_START_SIZE};
use zfs::ondisk::bookmark::Bookmark;
use zfs::spa::{ImportOptions, Pool, Tamper};
use zfs::zpl::{Durability, FileKind, Filesystem, MountOptions, New};

/// Fixtures, and how many of their disks, any of them, each can lose.
const FIXTURES: [(&str, usize); 9] = [
    ("h-snaps", 0),
    ("b-nofeat", 0),
    ("a-default", 0),
    ("e-mirror", 1),
    ("f-raidz1-3", 1),
    ("g-raidz2-5", 2),
    ("g-raidz3-6", 3),
    ("p-draid1", 1),
    ("p-draid2s", 2),
];
/// Of these, that many have one disk.
const SINGLE: u8 = 3;
/// Places that one word of the input damages where what is damaged can be spared.
const SPARED_PLACES: usize = 32;
/// Entries of all directories that are looked at: damaged directories may contain themselves.
const ENTRIES_MAX: usize = 3000;
/// Bytes of a file that are read.
const READ_MAX: u64 = 1 << 20;
/// The ends of a disk where its labels are, in bytes.
const LABELS: u64 = 512 << 10;

/// A fixture as it should be.
struct Base {
    images: Vec<Image>,
    /// How many of the disks can be lost.
    tolerance: usize,
    txg: u64,
    /// What lies on the disks: disk, offset, length.
    extents: Vec<(usize, u64, u64)>,
    /// What can be read: hashes by name.
    content: BTreeMap<String, [u8; 32]>,
}

#[derive(Default)]
struct Extents(Vec<(u64, u64)>);

impl Traverse for Extents {
    fn block(&mut self, bp: &Blkptr, _: &Bookmark) -> zfs::Result<Visit> {
        self.0.extend(bp.dvas().map(|dva| (dva.offset + LABEL_START_SIZE, dva.asize.max(512))));
        Ok(Visit::Continue)
    }

    fn unreadable(&mut self, _: &Blkptr, _: &Bookmark, _: zfs::Error) -> zfs::Result<()> {
        Ok(())
    }
}

fn open(images: Vec<Image>, options: ImportOptions) -> zfs::Result<Arc<Pool>> {
    let log = SimLog::new();
    let disk = |(n, image)| Arc::new(SimDisk::new(&log, n, image)) as Arc<dyn BlockDevice>;
    Pool::import(images.into_iter().enumerate().map(disk).collect(), env(), options)
}

fn load(name: &str, tolerance: usize) -> Result<Base> {
    let mut images = Vec::new();
    let mut written = Vec::new();
    for (disk, content) in fixtures::disks(name)?.into_iter().enumerate() {
        let bytes = content.contents();
        let mut image = Image::new(bytes.len() as u64);
        for (i, chunk) in bytes.chunks(4096).enumerate().filter(|(_, c)| c.iter().any(|b| *b != 0)) {
            image.write((i * 4096) as u64, chunk);
            written.push((disk, (i * 4096) as u64, chunk.len() as u64));
        }
        images.push(image);
    }
    let pool = open(images.clone(), ImportOptions::read_only())?;
    let mut content = BTreeMap::new();
    walk(&pool, usize::MAX, &mut |name, hash| {
        content.insert(name, hash);
    });
    // With one disk, places are known exactly; with more, only where something was written.
    let extents = if images.len() > 1 { written } else { blocks(&pool)? };
    Ok(Base { images, tolerance, txg: pool.last_synced_txg(), extents, content })
}

fn blocks(pool: &Pool) -> Result<Vec<(usize, u64, u64)>> {
    let mut extents = Extents::default();
    traverse(pool.zio(), 0, &pool.mos().root(), 0, &mut extents)?;
    pool.dsl().visit_objsets(&mut |objset, root, _| traverse(pool.zio(), objset, root, 0, &mut extents))?;
    Ok(extents.0.into_iter().map(|(offset, len)| (0, offset, len)).collect())
}

fn base(which: u8) -> Result<&'static Base> {
    static BASES: [OnceLock<Base>; FIXTURES.len()] = [const { OnceLock::new() }; FIXTURES.len()];
    let i = usize::from(which) % FIXTURES.len();
    if let Some(base) = BASES[i].get() {
        return Ok(base);
    }
    let (name, tolerance) = FIXTURES[i];
    let loaded = load(name, tolerance)?;
    Ok(BASES[i].get_or_init(|| loaded))
}

/// Hears of everything in a pool that can be read, by name, and its hash.
fn walk(pool: &Arc<Pool>, entries_max: usize, hear: &mut dyn FnMut(String, [u8; 32])) {
    let mut left = entries_max;
    let _ = (pool.history(), pool.properties(), pool.errors(), pool.space(), pool.features());
    for dataset in pool.dsl().datasets().unwrap_or_default() {
        let _ =
            (dataset.properties(), dataset.bookmarks(), dataset.stats(), dataset.origin(), dataset.clones());
        let snapshots = dataset.snapshots().unwrap_or_default();
        for snapshot in &snapshots {
            let _ = (snapshot.holds(), snapshot.stats());
        }
        for dataset in core::iter::once(&dataset).chain(&snapshots) {
            let name = dataset.name();
            let options = MountOptions { read_only: true, no_atime: true };
            if let Ok(fs) = Filesystem::mount(pool, Arc::clone(dataset), options) {
                walk_files(&fs, &name, &mut left, hear);
            }
        }
    }
}

fn walk_files(fs: &Filesystem, name: &str, left: &mut usize, hear: &mut dyn FnMut(String, [u8; 32])) {
    let mut todo = vec![(format!("{name}:"), fs.root())];
    while let Some((path, dir)) = todo.pop() {
        let mut cookie = 0;
        while let Ok(entries) = fs.readdir(dir, cookie, 64) {
            let Some(last) = entries.last() else { break };
            // A damaged directory may answer with the same cookie for ever.
            if last.cookie <= cookie {
                break;
            }
            cookie = last.cookie;
            for entry in entries {
                if *left == 0 {
                    return;
                }
                *left -= 1;
                let path = format!("{path}/{}", String::from_utf8_lossy(&entry.name));
                if let Some(hash) = read_file(fs, entry.object) {
                    hear(path.clone(), hash);
                }
                if entry.kind == Some(FileKind::Directory) {
                    todo.push((path, entry.object));
                }
            }
        }
    }
}

/// Hash of a file's beginning and attributes; `None` if any of it cannot be read.
fn read_file(fs: &Filesystem, object: u64) -> Option<[u8; 32]> {
    let attr = fs.getattr(object).ok()?;
    let mut hash = Sha256::new();
    hash.update(format!("{} {} {} {}", attr.mode, attr.uid, attr.size, attr.nlink));
    match attr.kind() {
        FileKind::Regular => {
            let mut content = vec![0; attr.size.min(READ_MAX) as usize];
            let read = fs.read(object, 0, &mut content).ok()?;
            hash.update(&content[..read]);
            let _ = (fs.next_data(object, 0), fs.next_hole(object, 0));
        }
        FileKind::Symlink => hash.update(fs.readlink(object).ok()?),
        FileKind::Directory => _ = fs.parent(object),
        _ => {}
    }
    for name in fs.list_xattr(object).ok()? {
        hash.update(&name);
        hash.update(fs.get_xattr(object, &name).ok()?);
    }
    Some(hash.finalize().into())
}

/// Damages one of these disks in a place that `rng` draws.
fn damage(base: &Base, images: &mut [Image], disks: &[usize], rng: &mut Rng) {
    let disk = disks[rng.below(disks.len() as u64) as usize];
    let size = images[disk].size();
    let (start, len) = match rng.below(8) {
        0 => (0, LABELS),
        1 => (size - LABELS, LABELS),
        _ => loop {
            let (of, start, len) = base.extents[rng.below(base.extents.len() as u64) as usize];
            if of == disk {
                break (start, len);
            }
        },
    };
    let at = start + rng.below(len);
    let mut bytes = vec![0; if rng.below(4) == 0 { 512.min(len as usize) } else { 1 }];
    images[disk].read(at, &mut bytes);
    match bytes.len() {
        1 => bytes[0] ^= 1 << rng.below(8),
        _ => bytes.iter_mut().for_each(|b| *b = rng.number() as u8),
    }
    images[disk].write(at, &bytes);
}

/// A damaged medium: an error or the right data, never wrong data. Where only as many disks are damaged, or missing, as the layout can
/// spare, the right data.
pub(super) fn damaged(input: &[u8]) -> Result<()> {
    let base = base(input.first().copied().unwrap_or(0))?;
    let words = input.as_chunks::<8>().0;
    let mut draw = Rng::new(words.iter().fold(1, |s, w| s ^ u64::from_le_bytes(*w)));
    let mut disks: Vec<usize> = (0..base.images.len()).collect();
    let spared = base.tolerance > 0 && draw.below(2) == 0;
    if spared {
        while disks.len() > base.tolerance {
            disks.swap_remove(draw.below(disks.len() as u64) as usize);
        }
    }
    let mut images = base.images.clone();
    for word in words {
        let mut rng = Rng::new(u64::from_le_bytes(*word));
        for _ in 0..if spared { SPARED_PLACES } else { 1 } {
            damage(base, &mut images, &disks, &mut rng);
        }
    }
    if spared && draw.below(3) == 0 {
        images.remove(disks[0]);
    }
    let pool = match open(images, ImportOptions::read_only()) {
        Ok(pool) => pool,
        Err(error) if spared => {
            bail!("what {disks:?} hold can be spared, and the pool is not imported: {error}")
        }
        Err(_) => return Ok(()),
    };
    // With a damaged uberblock the pool is that of an older txg, which may be anything.
    let same = pool.last_synced_txg() == base.txg;
    ensure!(same || !spared, "what {disks:?} hold can be spared, and the pool is that of an older txg");
    let (mut wrong, mut right) = (None, 0);
    walk(&pool, if spared { usize::MAX } else { ENTRIES_MAX }, &mut |name, hash| {
        if same && base.content.get(&name) != Some(&hash) {
            wrong.get_or_insert(name);
        }
        right += 1;
    });
    ensure!(wrong.is_none(), "wrong data without an error: {wrong:?}");
    let all = base.content.len();
    ensure!(
        !spared || right == all,
        "what {disks:?} hold can be spared, and of {all} files {right} are read"
    );
    let report = pool.verify(&mut |_| ());
    if input.len() < 8 {
        let report = report.context("an undamaged pool")?;
        ensure!(report.is_clean(), "an undamaged pool: {report:?}");
    }
    Ok(())
}

/// Blocks that are damaged behind their checksum: what the parsers must bear. Nothing can be said about the data.
pub(super) fn tampered(input: &[u8]) -> Result<()> {
    let base = base(input.first().copied().unwrap_or(0) % SINGLE)?;
    let seed = input.iter().fold(0u64, |s, b| s.wrapping_mul(0x100_0000_01b3) ^ u64::from(*b));
    let read_only = seed % 4 != 0;
    // One block in so many: with too many the root alone would be looked at.
    let rarity = [3, 10, 40, 150][(seed >> 8) as usize % 4];
    let tamper = Tamper::new(move |bp: &Blkptr, data: Bytes| {
        let mut rng =
            Rng::new(bp.words().iter().fold(seed, |s, w| (s ^ w).wrapping_mul(0x9e37_79b9_7f4a_7c15)));
        if rng.below(rarity) != 0 {
            return data;
        }
        let (mut bytes, len) = (data.to_vec(), data.len());
        mutate(&mut bytes, &data, &mut rng);
        bytes.resize(len, 0);
        Bytes::from(bytes)
    });
    let options = ImportOptions { read_only, force: true, tamper: Some(tamper), ..ImportOptions::default() };
    let Ok(pool) = open(base.images.clone(), options) else { return Ok(()) };
    walk(&pool, ENTRIES_MAX, &mut |_, _| ());
    let _ = pool.verify(&mut |_| ());
    if !read_only {
        change(&pool);
    }
    Ok(())
}

/// Changes a pool as far as it lets itself be changed.
fn change(pool: &Arc<Pool>) {
    let Ok(root) = pool.dsl().root() else { return };
    let name = root.name();
    if let Ok(fs) = Filesystem::mount(pool, root, MountOptions::default()) {
        if let Ok(object) = fs.create(fs.root(), b"new", &New::new(FileKind::Regular, 0o644)) {
            let _ = fs.write(object, 0, &[7; 100_000], Durability::Now);
        }
        let _ = (fs.unlink(fs.root(), b"new"), fs.unmount());
    }
    let _ = pool.dsl().create_snapshots(&[&format!("{name}@new")]);
    let _ = pool.dsl().destroy(&format!("{name}@new"), false, false);
    let _ = pool.export();
}
