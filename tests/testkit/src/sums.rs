//! Sums of files, as the manifests of OpenZFS's guest have them (`tests/oracle/src/ztool.c`).

use anyhow::Result;
use rustix::fs::{SeekFrom, seek};
use sha2::{Digest, Sha256};
use std::fmt::Write;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

/// Size in bytes above which a manifest has a file's [`sparse_sha256`].
pub const SPARSE_LIMIT: u64 = 64 << 20;
/// What is left out if it is all zero, in bytes.
const PAGE: u64 = 4096;

/// Lower-case digits.
#[must_use]
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        // Writing to a String cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// Where a file has data, as the host's file system knows it: start and end in bytes.
fn data_ranges(file: &File) -> Result<Vec<(u64, u64)>> {
    let mut ranges = Vec::new();
    let mut at = 0;
    // ENXIO: no data after this offset.
    while let Ok(start) = seek(file, SeekFrom::Data(at)) {
        at = seek(file, SeekFrom::Hole(start))?;
        ranges.push((start, at));
    }
    Ok(ranges)
}

/// SHA-256 of a file's pages that are not all zero, each after its offset: the same for sparse and filled files. Reads only where
/// there is data, as the file may be 1 TiB of hole.
pub fn sparse_sha256(path: &Path) -> Result<String> {
    let file = File::open(path)?;
    let mut hash = Sha256::new();
    let mut page = [0; PAGE as usize];
    let mut next = 0;
    for (start, end) in data_ranges(&file)? {
        for offset in ((start / PAGE * PAGE).max(next)..end).step_by(PAGE as usize) {
            let len = file.read_at(&mut page, offset)?;
            if page[..len].iter().any(|&b| b != 0) {
                hash.update(offset.to_le_bytes());
                hash.update(&page[..len]);
            }
            next = offset + PAGE;
        }
    }
    Ok(hex(&hash.finalize()))
}
