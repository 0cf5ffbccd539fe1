//! Trees on the host: making one with everything a file system can hold, and comparing two.

use anyhow::{Context, Result, ensure};
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use testkit::sums::sparse_sha256;

/// What is compared of one entry.
#[derive(Debug, PartialEq, Eq)]
pub struct Node {
    /// Type and permission bits, as in `stat(2)`.
    pub mode: u32,
    /// Owner and group.
    pub owner: (u32, u32),
    /// Number of links; of directories not compared, as file systems count differently.
    pub nlink: u64,
    /// Size of a file in bytes.
    pub size: u64,
    /// Seconds and nanoseconds.
    pub mtime: (i64, i64),
    /// Device number.
    pub rdev: u64,
    /// Target of a symbolic link.
    pub target: Option<PathBuf>,
    /// SHA-256 of the content, or, of a hard link, the first path of the same file.
    pub content: String,
    /// Extended attributes.
    pub xattrs: BTreeMap<String, Vec<u8>>,
}

/// Everything below `root`, by relative path.
pub fn walk(root: &Path) -> Result<BTreeMap<PathBuf, Node>> {
    let mut nodes = BTreeMap::new();
    let mut seen = BTreeMap::new();
    let mut folders = vec![root.to_path_buf()];
    let mut paths = vec![root.to_path_buf()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder)? {
            let entry = entry?;
            if entry.file_type()?.is_dir() {
                folders.push(entry.path());
            }
            paths.push(entry.path());
        }
    }
    paths.sort();
    for path in paths {
        let relative = path.strip_prefix(root)?.to_path_buf();
        let node = node(&path, &relative, &mut seen).with_context(|| path.display().to_string())?;
        nodes.insert(relative, node);
    }
    Ok(nodes)
}

fn node(path: &Path, relative: &Path, seen: &mut BTreeMap<u64, PathBuf>) -> Result<Node> {
    let meta = fs::symlink_metadata(path)?;
    let kind = meta.file_type();
    let content = match seen.get(&meta.ino()) {
        Some(first) => format!("hard link to {}", first.display()),
        None if kind.is_file() => sparse_sha256(path)?,
        None => String::new(),
    };
    if !kind.is_dir() {
        seen.entry(meta.ino()).or_insert_with(|| relative.to_path_buf());
    }
    let mut xattrs = BTreeMap::new();
    if kind.is_file() || kind.is_dir() {
        for name in xattr::list(path)? {
            let value = xattr::get(path, &name)?.unwrap_or_default();
            xattrs.insert(name.to_string_lossy().into_owned(), value);
        }
    }
    Ok(Node {
        mode: meta.mode(),
        owner: (meta.uid(), meta.gid()),
        nlink: if kind.is_dir() { 0 } else { meta.nlink() },
        size: if kind.is_file() { meta.len() } else { 0 },
        mtime: (meta.mtime(), meta.mtime_nsec()),
        rdev: if kind.is_block_device() || kind.is_char_device() { meta.rdev() } else { 0 },
        target: if kind.is_symlink() { Some(fs::read_link(path)?) } else { None },
        content,
        xattrs,
    })
}

/// Both trees are equal; the first few differences otherwise.
pub fn ensure_equal(want: &Path, found: &Path) -> Result<()> {
    let (want, found) = (walk(want)?, walk(found)?);
    let mut differences = Vec::new();
    for (path, node) in &want {
        match found.get(path) {
            Some(other) if other == node => {}
            other => {
                differences.push(format!("{}:\n   wanted {node:?}\n   found  {other:?}", path.display()))
            }
        }
    }
    differences.extend(
        found.keys().filter(|p| !want.contains_key(*p)).map(|p| format!("{}: not wanted", p.display())),
    );
    differences.truncate(5);
    ensure!(differences.is_empty(), "the trees differ:\n{}", differences.join("\n"));
    Ok(())
}

/// Deterministic bytes that do not compress.
#[must_use]
pub fn noise(seed: u64, len: usize) -> Vec<u8> {
    use platform::random::{Random, Seeded};
    let mut bytes = vec![0; len];
    Seeded::new(seed).fill(&mut bytes);
    bytes
}

/// Fills `root` with one of everything. Owners, devices and `trusted.*` attributes need root and are left out without it.
pub fn build_zoo(root: &Path) -> Result<()> {
    let is_root = fs::metadata("/proc/self")?.uid() == 0;
    fs::create_dir_all(root.join("dir/deeper/deepest"))?;
    fs::write(root.join("empty"), "")?;
    for size in [
        1usize,
        111,
        112,
        113,
        511,
        512,
        513,
        4095,
        4096,
        4097,
        131_071,
        131_072,
        131_073,
        1 << 20,
        5_000_001,
    ] {
        fs::write(root.join(format!("noise-{size}")), noise(size as u64, size))?;
        fs::write(
            root.join(format!("text-{size}")),
            "all work and no play ".repeat(size / 21 + 1).as_bytes().get(..size).unwrap_or(b""),
        )?;
    }
    fs::write(root.join("zeros"), vec![0; 300_000])?;
    fs::write(root.join("name-".to_owned() + &"x".repeat(250)), "a name of 255 bytes")?;
    fs::write(root.join("ünïcødé 名前"), "not only ASCII")?;
    let sparse = File::create(root.join("sparse"))?;
    for offset in [0u64, 200 << 20, (1 << 30) + 12_345] {
        sparse.write_all_at(&noise(offset, 10_000), offset)?;
    }
    sparse.set_len(1200 << 20)?;
    File::create(root.join("hole-only"))?.set_len(1 << 40)?;
    for len in [1usize, 59, 60, 100, 150, 1000, 4000] {
        let target: String = "abcdefghi/".repeat(400).chars().take(len).collect();
        symlink(target.trim_end_matches('/'), root.join(format!("link-{len}")))?;
    }
    fs::write(root.join("hard-1"), "linked thrice")?;
    fs::hard_link(root.join("hard-1"), root.join("hard-2"))?;
    fs::hard_link(root.join("hard-1"), root.join("dir/deeper/hard-3"))?;
    for mode in [0o000u32, 0o400, 0o755, 0o1777, 0o2755, 0o4755, 0o6711] {
        let path = root.join(format!("mode-{mode:04o}"));
        fs::write(&path, "mode")?;
        fs::set_permissions(&path, fs::Permissions::from_mode(mode))?;
    }
    fs::set_permissions(root.join("dir"), fs::Permissions::from_mode(0o1777))?;
    run(Command::new("mkfifo").arg(root.join("fifo")))?;
    if is_root {
        run(Command::new("mknod").arg(root.join("null")).args(["c", "1", "3"]))?;
        run(Command::new("mknod").arg(root.join("disk")).args(["b", "259", "70000"]))?;
        for (name, owner) in [("noise-1", (1000, 1001)), ("text-513", (65534, 65534)), ("link-60", (7, 8))] {
            std::os::unix::fs::lchown(root.join(name), Some(owner.0), Some(owner.1))?;
        }
    }
    attributes(root, is_root)?;
    for (name, seconds) in
        [("noise-512", "1"), ("noise-513", "4102444800.123456789"), ("dir/deeper/deepest", "1234567890.5")]
    {
        run(Command::new("touch").arg("-h").arg("-d").arg(format!("@{seconds}")).arg(root.join(name)))?;
    }
    Ok(())
}

fn attributes(root: &Path, is_root: bool) -> Result<()> {
    // Not every file system below the tests has them (tmpfs before Linux 6.6); then there is nothing to keep.
    if xattr::set(root.join("text-111"), "user.small", b"value").is_err() {
        return Ok(());
    }
    xattr::set(root.join("text-111"), "user.empty", b"")?;
    xattr::set(root.join("text-112"), "user.binary", &noise(1, 300))?;
    for i in 0..20 {
        xattr::set(root.join("text-113"), format!("user.many-{i}"), &noise(i, 40))?;
    }
    xattr::set(root.join("dir"), "user.on-a-directory", b"yes")?;
    if is_root {
        xattr::set(root.join("text-511"), "trusted.secret", b"t")?;
        xattr::set(root.join("text-511"), "security.custom", b"s")?;
    }
    Ok(())
}

/// A directory of `count` small files, some with long names.
pub fn build_large_directory(folder: &Path, count: u32) -> Result<()> {
    fs::create_dir_all(folder)?;
    for i in 0..count {
        let name = if i % 1000 == 0 { format!("{i:0>255}") } else { format!("entry-{i}") };
        fs::write(folder.join(name), i.to_string())?;
    }
    Ok(())
}

fn run(command: &mut Command) -> Result<()> {
    ensure!(command.status()?.success(), "{command:?} failed");
    Ok(())
}
