//! `disk-fixtures/`: pools that OpenZFS wrote, and the manifests that say what they hold.

use anyhow::{Context, Result};
use platform::mem::MemDisk;
use serde::Deserialize;
use sha2::{Digest, Sha256};
use std::fs::File;
use std::io::{BufReader, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use testkit::sums::hex;

/// Disks are compressed with windows of up to that many bytes, as a power of two.
const WINDOW_LOG: u32 = 28;

/// The repository's root folder.
#[must_use]
pub fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// The folder of one fixture.
#[must_use]
pub fn folder(name: &str) -> PathBuf {
    repository().join("disk-fixtures").join(name)
}

/// The names of all fixtures, sorted.
pub fn names() -> Result<Vec<String>> {
    let mut names: Vec<String> = std::fs::read_dir(repository().join("disk-fixtures"))?
        .filter_map(|e| e.ok())
        .filter(|e| e.path().is_dir())
        .map(|e| e.file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    Ok(names)
}

/// Disk `n` of a fixture, decompressed and compared with its recorded SHA-256.
pub fn image(name: &str, n: usize) -> Result<Vec<u8>> {
    let first = if n > 0 && difference(name, n).exists() { image(name, 0)? } else { Vec::new() };
    image_beside(name, n, &first)
}

/// What is not on a disk, the other side of a mirror, as it is on the first.
fn difference(name: &str, n: usize) -> PathBuf {
    folder(name).join(format!("disk{n}.from-disk0.zst"))
}

/// As [`image`], with the content of the first disk.
fn image_beside(name: &str, n: usize, first: &[u8]) -> Result<Vec<u8>> {
    let difference = difference(name, n);
    let data = if difference.exists() {
        decompress(&difference, first)?
    } else {
        decompress(&folder(name).join(format!("disk{n}.img.zst")), &[])?
    };
    let sums = std::fs::read_to_string(folder(name).join("images.sha256"))?;
    let want = sums.lines().find(|l| l.contains(&format!("disk{n}.img"))).context("no recorded checksum")?;
    anyhow::ensure!(
        want.starts_with(&hex(&Sha256::digest(&data))),
        "{name}: disk{n}.img differs from its checksum"
    );
    Ok(data)
}

/// The content of a file that was compressed alone, or as the difference to `from` (`zstd --patch-from`).
fn decompress(path: &Path, from: &[u8]) -> Result<Vec<u8>> {
    let file = BufReader::new(File::open(path).with_context(|| format!("{}", path.display()))?);
    let mut decoder = zstd::stream::read::Decoder::with_ref_prefix(file, from)?;
    decoder.window_log_max(WINDOW_LOG)?;
    let mut data = Vec::new();
    decoder.read_to_end(&mut data)?;
    Ok(data)
}

/// Disk `n` of a fixture as a disk in memory.
pub fn disk(name: &str, n: usize) -> Result<Arc<MemDisk>> {
    Ok(Arc::new(MemDisk::from_vec(image(name, n)?)))
}

/// All disks of a fixture, in memory.
pub fn disks(name: &str) -> Result<Vec<Arc<MemDisk>>> {
    let sums = std::fs::read_to_string(folder(name).join("images.sha256"))?;
    let first = image(name, 0)?;
    let others =
        (1..sums.lines().count()).map(|n| image_beside(name, n, &first)).collect::<Result<Vec<_>>>()?;
    Ok(std::iter::once(first).chain(others).map(MemDisk::from_vec).map(Arc::new).collect())
}

/// Writes disk `n` of a fixture to a file.
pub fn write_image(name: &str, n: usize, to: &Path) -> Result<()> {
    Ok(std::fs::write(to, image(name, n)?)?)
}

/// A file of a fixture whose name ends with `suffix` or `suffix.gz`, decompressed.
pub fn text(name: &str, suffix: &str) -> Result<String> {
    let gz = format!("{suffix}.gz");
    for entry in std::fs::read_dir(folder(name))? {
        let path = entry?.path();
        let file = path.to_string_lossy();
        if file.ends_with(suffix) {
            return Ok(std::fs::read_to_string(&path)?);
        }
        if file.ends_with(&gz) {
            let mut text = String::new();
            flate2::read::GzDecoder::new(BufReader::new(File::open(&path)?)).read_to_string(&mut text)?;
            return Ok(text);
        }
    }
    anyhow::bail!("fixture {name} has no *{suffix}")
}

/// One file of a manifest.
#[derive(Debug, Clone, Deserialize, Default)]
#[serde(default)]
pub struct Entry {
    /// Set on the line that opens a section: the dataset or snapshot.
    pub dataset: Option<String>,
    /// Absolute within the dataset; `/` is its root.
    pub path: String,
    /// `file`, `dir`, `symlink`, …
    #[serde(rename = "type")]
    pub kind: String,
    /// Permission bits in octal, `0755`.
    pub mode: String,
    /// Owner.
    pub uid: u64,
    /// Group.
    pub gid: u64,
    /// Number of links.
    pub nlink: u64,
    /// Object number.
    pub ino: u64,
    /// Size in bytes.
    pub size: u64,
    /// Modification time as `seconds.nanoseconds`, nine digits of the latter.
    pub mtime: String,
    /// Space in use, in units of 512 bytes.
    pub blocks512: Option<u64>,
    /// Major and minor number of a device file.
    pub rdev: Option<(u32, u32)>,
    /// The path in hexadecimal, where it is not UTF-8.
    pub path_hex: Option<String>,
    /// Another dataset was mounted here, and hid what is compared.
    pub mountpoint: bool,
    /// Target of a symbolic link.
    pub target: Option<String>,
    /// Content of a file.
    pub sha256: Option<String>,
    /// Content of a large file: see `disk-fixtures/README.md`.
    pub sparse_sha256: Option<String>,
    /// Extended attributes.
    pub xattrs: Vec<Xattr>,
}

/// One extended attribute of a manifest.
#[derive(Debug, Clone, Deserialize, Default)]
#[serde(default)]
pub struct Xattr {
    /// With its namespace: `user.x`.
    pub name: String,
    /// Length in bytes.
    pub size: u64,
    /// Short values.
    pub hex: Option<String>,
    /// Long values.
    pub sha256: Option<String>,
}

/// The manifest of a fixture: see [`sections`].
pub fn manifest(name: &str, suffix: &str) -> Result<Vec<(String, Vec<Entry>)>> {
    sections(&text(name, suffix)?).with_context(|| name.to_owned())
}

/// A manifest: its sections (dataset or snapshot name) with their entries.
pub fn sections(manifest: &str) -> Result<Vec<(String, Vec<Entry>)>> {
    let mut sections: Vec<(String, Vec<Entry>)> = Vec::new();
    for line in manifest.lines().filter(|l| !l.trim().is_empty()) {
        let entry: Entry = serde_json::from_str(line).with_context(|| line.to_owned())?;
        match (&entry.dataset, sections.last_mut()) {
            (Some(dataset), _) => sections.push((dataset.clone(), Vec::new())),
            // With snapdir=visible OpenZFS lists its control directory, which is no part of the tree.
            (None, Some(_)) if entry.path.starts_with("/.zfs") => {}
            (None, Some((_, entries))) => entries.push(entry),
            (None, None) => anyhow::bail!("an entry before the first section"),
        }
    }
    Ok(sections)
}
