//! A file system in memory that the engine is compared with, and random operations on both.

use anyhow::{Result, bail, ensure};
use platform::Env;
use platform::block::BlockDevice;
use platform::clock::{FixedClock, Timespec};
use platform::random::{Random, Seeded};
use std::collections::BTreeMap;
use std::sync::Arc;
use zfs::spa::{CreateOptions, ImportOptions, Pool};
use zfs::zpl::{Durability, FileKind, Filesystem, MountOptions, New, RenameFlags, SetAttr, XattrMode};

/// Random numbers from a seed.
pub struct Rng(Seeded);

impl Rng {
    /// From a seed.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Rng(Seeded::new(seed))
    }

    /// The next number.
    pub fn number(&mut self) -> u64 {
        self.0.next_u64()
    }

    /// A number below `limit`.
    pub fn below(&mut self, limit: u64) -> u64 {
        self.number() % limit.max(1)
    }
}

/// `TARN_SEED`, which repeats a run, or a new seed; it is printed.
#[must_use]
pub fn seed() -> u64 {
    use std::time::{SystemTime, UNIX_EPOCH};
    let now =
        || SystemTime::now().duration_since(UNIX_EPOCH).map_or(1, |d| d.as_micros() as u64 & 0xffff_ffff);
    let seed = std::env::var("TARN_SEED").ok().and_then(|s| s.parse().ok()).unwrap_or_else(now);
    println!("TARN_SEED={seed}");
    seed
}

/// A time that is always the same: images are reproducible.
#[must_use]
pub fn env() -> Env {
    let now = Timespec { sec: 1_700_000_000, nsec: 5 };
    Env { clock: Arc::new(FixedClock(now)), random: Arc::new(Seeded::new(7)) }
}

/// A new pool whose root file system has these properties.
///
/// # Panics
/// If it cannot be made.
#[must_use]
pub fn create_pool(devices: Vec<Arc<dyn BlockDevice>>, name: &str, properties: &[(&str, &str)]) -> Arc<Pool> {
    let env = env();
    let now = env.clock.now();
    let init =
        Box::new(move |os: &Arc<zfs::dmu::Objset>, tx: &zfs::dmu::Tx| zfs::zpl::init(os, tx, &[], now));
    let mut options = CreateOptions::new(name, init);
    options.root_properties = properties.iter().map(|(k, v)| ((*k).into(), (*v).into())).collect();
    Pool::create(devices, env, options).expect("the pool can be made")
}

/// Imports for writing.
///
/// # Panics
/// If that fails.
#[must_use]
pub fn import_pool(devices: Vec<Arc<dyn BlockDevice>>) -> Arc<Pool> {
    Pool::import(devices, env(), ImportOptions { force: true, ..ImportOptions::default() })
        .expect("the pool can be imported")
}

/// Mounts the pool's root file system for writing.
///
/// # Panics
/// If that fails.
#[must_use]
pub fn mount_root(pool: &Arc<Pool>) -> Arc<Filesystem> {
    let root = pool.dsl().root().expect("a pool has a root file system");
    Filesystem::mount(pool, root, MountOptions { read_only: false, no_atime: true })
        .expect("it can be mounted")
}

/// A file of the model.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Node {
    /// Its mode, kind included.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Content; of a symbolic link, its target.
    pub content: Vec<u8>,
    /// Extended attributes.
    pub xattrs: BTreeMap<String, Vec<u8>>,
    /// Files with the same number are one file.
    pub identity: u64,
}

/// How large a model may get: a file system of random operations would grow without end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// From that many files on, more are removed than made.
    pub files: usize,
    /// Bytes that one operation writes at most.
    pub length: usize,
    /// From that size in bytes on, a file only shrinks.
    pub file_size: usize,
    /// Some names have more than 255 bytes.
    pub long_names: bool,
}

impl Default for Limits {
    fn default() -> Self {
        Limits { files: 300, length: 300_000, file_size: 2 << 20, long_names: false }
    }
}

/// All files by path; the root directory is not among them. Cloning is cheap: unchanged files are shared.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Model {
    files: BTreeMap<String, Arc<Node>>,
    next: u64,
    limits: Limits,
}

impl Model {
    /// An empty one.
    #[must_use]
    pub fn new(limits: Limits) -> Self {
        Model { limits, ..Model::default() }
    }

    /// All files by path.
    #[must_use]
    pub fn files(&self) -> &BTreeMap<String, Arc<Node>> {
        &self.files
    }

    /// Numbers of new files come after those of `other`, too: they never mean two files.
    pub fn number_after(&mut self, other: &Model) {
        self.number_from(other.next);
    }

    /// Numbers of new files come after `number`.
    pub fn number_from(&mut self, number: u64) {
        self.next = self.next.max(number);
    }

    /// Numbers of new files come after all that are in use, as identities and at the end of names.
    pub fn number_on(&mut self) {
        let of_name = |path: &str| path.rsplit(|c: char| !c.is_ascii_digit()).next()?.parse().ok();
        let used = self.files.iter().map(|(path, node)| node.identity.max(of_name(path).unwrap_or(0)));
        self.number_from(used.max().unwrap_or(0));
    }

    /// From that size in bytes on, a file only shrinks.
    #[must_use]
    pub fn file_size(&self) -> usize {
        self.limits.file_size
    }

    /// Limits for what comes.
    pub fn set_limits(&mut self, limits: Limits) {
        self.limits = limits;
    }

    /// A regular file, picked at random.
    pub fn pick_file(&self, rng: &mut Rng) -> Option<String> {
        self.pick(rng, is_file)
    }

    fn length(&self, rng: &mut Rng) -> usize {
        let limit = [10, 600, 5000, 40_000, 300_000][rng.below(5) as usize];
        rng.below(limit.min(self.limits.length as u64)) as usize
    }

    fn pick(&self, rng: &mut Rng, want: impl Fn(&Node) -> bool) -> Option<String> {
        let found: Vec<&String> = self.files.iter().filter(|(_, n)| want(n)).map(|(p, _)| p).collect();
        if found.is_empty() { None } else { Some(found[rng.below(found.len() as u64) as usize].clone()) }
    }

    fn dir(&self, rng: &mut Rng) -> String {
        if rng.below(3) == 0 { String::new() } else { self.pick(rng, is_dir).unwrap_or_default() }
    }

    fn new_path(&mut self, rng: &mut Rng) -> String {
        self.next += 1;
        let name = match rng.below(6) {
            0 if self.limits.long_names && self.next.is_multiple_of(2) => {
                format!("{}{}", "longer-".repeat(120), self.next)
            }
            0 => format!("{}{}", "long-".repeat(40), self.next),
            1 => format!("ünï-{}", self.next),
            _ => format!("f{}", self.next),
        };
        format!("{}/{name}", self.dir(rng))
    }

    /// Changes all names of one file.
    pub(crate) fn change(&mut self, path: &str, change: impl Fn(&mut Node)) {
        let identity = self.files[path].identity;
        let names = self.files.values_mut().filter(|n| n.identity == identity);
        names.for_each(|n| change(Arc::make_mut(n)));
    }

    fn add(&mut self, path: &str, mode: u32, content: Vec<u8>) {
        self.next += 1;
        let node = Node { mode, content, identity: self.next, ..Node::default() };
        self.files.insert(path.into(), Arc::new(node));
    }

    /// Takes a file, and all below it if it is a directory; the rest of their paths.
    fn take_below(&mut self, top: &str) -> Vec<(String, Arc<Node>)> {
        let prefix = format!("{top}/");
        let below = |path: &String| path == top || path.starts_with(&prefix);
        let paths: Vec<String> = self.files.keys().filter(|p| below(p)).cloned().collect();
        let take = |path: String| self.files.remove(&path).map(|node| (path[top.len()..].to_owned(), node));
        paths.into_iter().filter_map(take).collect()
    }

    fn put_below(&mut self, top: &str, nodes: Vec<(String, Arc<Node>)>) {
        self.files.extend(nodes.into_iter().map(|(rest, node)| (format!("{top}{rest}"), node)));
    }

    fn children(&self, path: &str) -> usize {
        let prefix = format!("{path}/");
        self.files.keys().filter(|p| p.starts_with(&prefix)).count()
    }
}

fn kind(node: &Node) -> FileKind {
    FileKind::from_mode(node.mode).expect("the model's modes have a kind")
}

fn is_dir(node: &Node) -> bool {
    kind(node) == FileKind::Directory
}

fn is_file(node: &Node) -> bool {
    kind(node) == FileKind::Regular
}

fn split(path: &str) -> (&str, &str) {
    path.rsplit_once('/').expect("paths start with a slash")
}

/// The object of a path.
pub fn resolve(fs: &Filesystem, path: &str) -> zfs::Result<u64> {
    path.split('/').filter(|n| !n.is_empty()).try_fold(fs.root(), |dir, name| fs.lookup(dir, name.as_bytes()))
}

fn parent_of(fs: &Filesystem, path: &str) -> u64 {
    resolve(fs, split(path).0).expect("the parent exists")
}

fn bytes(rng: &mut Rng, len: usize) -> Vec<u8> {
    match rng.below(3) {
        // Compresses to nothing, compresses well, does not compress.
        0 => vec![rng.number() as u8; len],
        1 => (0..len).map(|i| (i / 100) as u8).collect(),
        _ => (0..len).map(|_| rng.number() as u8).collect(),
    }
}

/// Does one random operation on both.
///
/// # Panics
/// If the file system fails where the model does not.
pub fn step(fs: &Filesystem, model: &mut Model, rng: &mut Rng) {
    if model.files.len() > model.limits.files && rng.below(3) == 0 {
        return remove(fs, model, rng);
    }
    match rng.below(20) {
        0..=3 => create(fs, model, rng),
        4..=9 => content(fs, model, rng),
        10 | 11 => remove(fs, model, rng),
        12 if rng.below(3) == 0 => exchange(fs, model, rng),
        12 | 13 => rename(fs, model, rng),
        14 => link(fs, model, rng),
        15 | 16 => xattr(fs, model, rng),
        17 => attributes(fs, model, rng),
        _ => content(fs, model, rng),
    }
}

fn create(fs: &Filesystem, model: &mut Model, rng: &mut Rng) {
    let path = model.new_path(rng);
    let parent = parent_of(fs, &path);
    let file_kind = match rng.below(8) {
        0 | 1 => FileKind::Directory,
        2 => FileKind::Symlink,
        3 => FileKind::Fifo,
        _ => FileKind::Regular,
    };
    let mut new = New::new(file_kind, rng.below(0o10000) as u32);
    if file_kind == FileKind::Symlink {
        let limit = if rng.below(2) == 0 { 30 } else { 3000 };
        let len = 1 + rng.below(limit) as usize;
        new.target = vec![b't'; len];
    }
    fs.create(parent, split(&path).1.as_bytes(), &new).expect("create");
    model.add(&path, file_kind.mode_bits() | new.mode, new.target);
}

fn content(fs: &Filesystem, model: &mut Model, rng: &mut Rng) {
    let Some(path) = model.pick(rng, is_file) else { return };
    let object = resolve(fs, &path).expect("the file exists");
    let size = model.files[&path].content.len();
    let choice = if size > model.limits.file_size { 0 } else { rng.below(8) };
    match choice {
        0 => {
            let shrink = size > model.limits.file_size || rng.below(2) == 0;
            let to = if shrink { rng.below(size as u64 + 1) as usize } else { size + model.length(rng) };
            fs.truncate(object, to as u64).expect("truncate");
            model.change(&path, |n| n.content.resize(to, 0));
        }
        1 => {
            let at = rng.below(size as u64 + 1) as usize;
            let len = model.length(rng);
            fs.punch_hole(object, at as u64, len as u64).expect("punch");
            model.change(&path, |n| n.content[at..size.min(at + len)].fill(0));
        }
        2 | 3 => {
            let len = model.length(rng);
            let data = bytes(rng, len);
            let at = fs.append(object, &data, Durability::Later).expect("append");
            assert_eq!(at as usize, size, "{path}: offset of an append");
            model.change(&path, |n| n.content.extend_from_slice(&data));
        }
        _ => {
            let at =
                rng.below(size as u64 + 1) as usize + if rng.below(6) == 0 { model.length(rng) } else { 0 };
            let len = model.length(rng);
            let data = bytes(rng, len);
            fs.write(object, at as u64, &data, Durability::Later).expect("write");
            model.change(&path, |n| {
                if !data.is_empty() {
                    n.content.resize(n.content.len().max(at + data.len()), 0);
                    n.content[at..at + data.len()].copy_from_slice(&data);
                }
            });
        }
    }
}

/// Overwrites or appends to a file so that it is on disk when the call returns (`O_SYNC`).
///
/// # Panics
/// If the file system fails.
pub fn write_through(fs: &Filesystem, model: &mut Model, path: &str, rng: &mut Rng) {
    let object = resolve(fs, path).expect("the file exists");
    let len = 1 + model.length(rng);
    let data = bytes(rng, len);
    let at = rng.below(model.files[path].content.len() as u64 + 1) as usize;
    fs.write(object, at as u64, &data, Durability::Now).expect("write");
    model.change(path, |n| {
        n.content.resize(n.content.len().max(at + data.len()), 0);
        n.content[at..at + data.len()].copy_from_slice(&data);
    });
}

fn remove(fs: &Filesystem, model: &mut Model, rng: &mut Rng) {
    let Some(path) = model.pick(rng, |_| true) else { return };
    let parent = parent_of(fs, &path);
    let name = split(&path).1.as_bytes();
    if is_dir(&model.files[&path]) {
        let removed = fs.rmdir(parent, name);
        if model.children(&path) > 0 {
            assert_eq!(removed, Err(zfs::Error::NotEmpty), "{path}");
            return;
        }
        removed.expect("rmdir");
    } else {
        // Some are open while they are removed, and stay readable.
        let object = resolve(fs, &path).expect("the file exists");
        let held = rng.below(2) == 0;
        if held {
            fs.hold(object).expect("hold");
        }
        fs.unlink(parent, name).expect("unlink");
        if held {
            let size = fs.getattr(object).expect("an open file stays").size;
            assert_eq!(size as usize, model.files[&path].content.len());
            fs.release(object);
        }
    }
    model.files.remove(&path);
}

fn rename(fs: &Filesystem, model: &mut Model, rng: &mut Rng) {
    let Some(from) = model.pick(rng, |_| true) else { return };
    let to = if rng.below(3) == 0 { model.pick(rng, |_| true) } else { None };
    let to = to.unwrap_or_else(|| model.new_path(rng));
    if to == from || to.starts_with(&format!("{from}/")) || from.starts_with(&format!("{to}/")) {
        return;
    }
    let (source, target) = (model.files[&from].clone(), model.files.get(&to).cloned());
    let whiteout = rng.below(5) == 0;
    let renamed = fs.rename(
        parent_of(fs, &from),
        split(&from).1.as_bytes(),
        parent_of(fs, &to),
        split(&to).1.as_bytes(),
        if whiteout { RenameFlags::WHITEOUT } else { RenameFlags::empty() },
    );
    if let Some(target) = target {
        let refused = match (is_dir(&source), is_dir(&target)) {
            (true, false) => Some(zfs::Error::NotDirectory),
            (false, true) => Some(zfs::Error::IsDirectory),
            (true, true) if model.children(&to) > 0 => Some(zfs::Error::NotEmpty),
            _ => None,
        };
        if let Some(refused) = refused {
            assert_eq!(renamed, Err(refused), "{from} -> {to}");
            return;
        }
        if target.identity == source.identity {
            return renamed.expect("renaming a file to itself");
        }
        model.files.remove(&to);
    }
    renamed.expect("rename");
    let moved = model.take_below(&from);
    model.put_below(&to, moved);
    if whiteout {
        model.add(&from, FileKind::CharDevice.mode_bits(), Vec::new());
    }
}

fn exchange(fs: &Filesystem, model: &mut Model, rng: &mut Rng) {
    let (Some(a), Some(b)) = (model.pick(rng, |_| true), model.pick(rng, |_| true)) else { return };
    if a == b || a.starts_with(&format!("{b}/")) || b.starts_with(&format!("{a}/")) {
        return;
    }
    let (of_a, of_b) = (parent_of(fs, &a), parent_of(fs, &b));
    fs.rename(of_a, split(&a).1.as_bytes(), of_b, split(&b).1.as_bytes(), RenameFlags::EXCHANGE)
        .expect("exchange");
    let (from_a, from_b) = (model.take_below(&a), model.take_below(&b));
    model.put_below(&b, from_a);
    model.put_below(&a, from_b);
}

fn link(fs: &Filesystem, model: &mut Model, rng: &mut Rng) {
    let Some(path) = model.pick(rng, |n| !is_dir(n)) else { return };
    let to = model.new_path(rng);
    let object = resolve(fs, &path).expect("the file exists");
    fs.link(parent_of(fs, &to), split(&to).1.as_bytes(), object).expect("link");
    let node = model.files[&path].clone();
    model.files.insert(to, node);
}

fn xattr(fs: &Filesystem, model: &mut Model, rng: &mut Rng) {
    let Some(path) = model.pick(rng, |n| is_file(n) || is_dir(n)) else { return };
    let object = resolve(fs, &path).expect("the file exists");
    let name = format!("user.x{}", rng.below(5));
    if rng.below(4) == 0 {
        let removed = fs.remove_xattr(object, name.as_bytes());
        let there = model.files[&path].xattrs.contains_key(&name);
        assert_eq!(removed, if there { Ok(()) } else { Err(zfs::Error::NotFound) }, "{path}: {name}");
        model.change(&path, |n| {
            n.xattrs.remove(&name);
        });
        return;
    }
    let limit = [20, 300, 5000, 60_000][rng.below(4) as usize];
    let len = rng.below(limit) as usize;
    let value = bytes(rng, len);
    fs.set_xattr(object, name.as_bytes(), &value, XattrMode::Any).expect("set_xattr");
    model.change(&path, |n| {
        n.xattrs.insert(name.clone(), value.clone());
    });
}

fn attributes(fs: &Filesystem, model: &mut Model, rng: &mut Rng) {
    let Some(path) = model.pick(rng, |_| true) else { return };
    let object = resolve(fs, &path).expect("the file exists");
    let (mode, uid) = (rng.below(0o10000) as u32, rng.below(100_000) as u32);
    fs.setattr(object, &SetAttr { mode: Some(mode), uid: Some(uid), ..SetAttr::default() }).expect("setattr");
    model.change(&path, |n| {
        n.mode = n.mode & !0o7777 | mode;
        n.uid = uid;
    });
}

/// The whole file system as a model; identities are object numbers.
pub fn read_all(fs: &Filesystem) -> Result<Model> {
    let mut model = Model::default();
    let mut todo = vec![(String::new(), fs.root())];
    while let Some((path, dir)) = todo.pop() {
        let mut cookie = 0;
        let mut subdirs = 0;
        let mut entries = 0;
        loop {
            let batch = fs.readdir(dir, cookie, 64)?;
            let Some(last) = batch.last() else { break };
            cookie = last.cookie;
            for e in batch {
                let child = format!("{path}/{}", String::from_utf8_lossy(&e.name));
                let attr = fs.getattr(e.object)?;
                ensure!(Some(attr.kind()) == e.kind, "{child}: kind in the directory");
                let content = match attr.kind() {
                    FileKind::Regular => {
                        let mut content = vec![0; attr.size as usize];
                        ensure!(fs.read(e.object, 0, &mut content)? == content.len(), "{child}: short");
                        content
                    }
                    FileKind::Symlink => fs.readlink(e.object)?,
                    _ => Vec::new(),
                };
                let mut xattrs = BTreeMap::new();
                for name in fs.list_xattr(e.object)? {
                    let value = fs.get_xattr(e.object, &name)?;
                    xattrs.insert(String::from_utf8_lossy(&name).into_owned(), value);
                }
                if attr.kind() == FileKind::Directory {
                    ensure!(fs.parent(e.object)? == dir, "{child}: parent");
                    subdirs += 1;
                    todo.push((child.clone(), e.object));
                }
                entries += 1;
                let node = Node { mode: attr.mode, uid: attr.uid, content, xattrs, identity: e.object };
                model.files.insert(child, Arc::new(node));
            }
        }
        let attr = fs.getattr(dir)?;
        ensure!(
            (attr.size, attr.nlink) == (entries + 2, subdirs + 2),
            "{path}: size and links of a directory"
        );
    }
    Ok(model)
}

/// Compares the file system with the model: an error says what differs first.
pub fn compare(fs: &Filesystem, model: &Model) -> Result<()> {
    let found = read_all(fs)?;
    for path in found.files.keys() {
        ensure!(model.files.contains_key(path), "{path}: not in the model");
    }
    let mut objects: BTreeMap<u64, u64> = BTreeMap::new();
    let mut links: BTreeMap<u64, u64> = BTreeMap::new();
    model.files.values().for_each(|n| *links.entry(n.identity).or_default() += 1);
    for (path, want) in &model.files {
        let Some(node) = found.files.get(path) else { bail!("{path}: missing") };
        ensure!(
            (node.mode, node.uid) == (want.mode, want.uid),
            "{path}: mode {:o}, not {:o}",
            node.mode,
            want.mode
        );
        if node.content != want.content {
            let at = node.content.iter().zip(&want.content).position(|(a, b)| a != b);
            bail!(
                "{path}: {} bytes, not {}; first difference at {at:?}",
                node.content.len(),
                want.content.len()
            );
        }
        ensure!(node.xattrs.keys().eq(want.xattrs.keys()), "{path}: names of extended attributes");
        ensure!(node.xattrs == want.xattrs, "{path}: extended attributes");
        let object = *objects.entry(want.identity).or_insert(node.identity);
        ensure!(object == node.identity, "{path}: hard link");
        if !is_dir(want) {
            ensure!(fs.getattr(node.identity)?.nlink == links[&want.identity], "{path}: number of links");
        }
    }
    Ok(())
}
