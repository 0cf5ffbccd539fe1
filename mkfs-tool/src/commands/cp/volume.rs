//! Volumes: out of an image as a file, and a file into one.

use crate::commands::open::OpenPool;
use crate::image;
use crate::location::Location;
use crate::output::show_name;
use anyhow::{Context, Result, bail, ensure};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;
use zfs::dsl::Dataset;
use zfs::zpl::Durability;
use zfs::zvol::{OpenZvol, Zvol};

/// Bytes that are read at once.
const CHUNK: usize = 1 << 20;

/// Writes a file over the start of a volume. What lies behind the file's end stays.
pub(super) fn copy_into(
    source: &Path,
    place: &Location,
    opened: OpenPool,
    dataset: Arc<Dataset>,
) -> Result<()> {
    let name = dataset.name();
    let written = (|| {
        let volume = OpenZvol::open(&opened.pool, dataset)?;
        let written = fill(&volume, source);
        volume.close()?;
        written?;
        Ok::<(), anyhow::Error>(opened.pool.log_history(&format!("tarn cp {name}"))?)
    })();
    // Also after an error: what was written until then is a state like any other.
    let closed = opened.close();
    written.with_context(|| place.to_string())?;
    closed
}

fn fill(volume: &OpenZvol, source: &Path) -> Result<()> {
    let shown = || source.display().to_string();
    let file = File::open(source).with_context(shown)?;
    let mut buf = vec![0; CHUNK];
    let mut at = 0;
    loop {
        let len = read_full(&file, at, &mut buf).with_context(shown)?;
        if len == 0 {
            return Ok(());
        }
        let fits = at + len as u64 <= volume.size();
        ensure!(fits, "{}: is larger than the volume, which has {} bytes", shown(), volume.size());
        if buf[..len].iter().all(|b| *b == 0) {
            volume.discard(at, len as u64)?;
        } else {
            volume.write(at, &buf[..len], Durability::Later)?;
        }
        at += len as u64;
    }
}

/// Reads until the buffer is full or the file ends.
fn read_full(file: &File, at: u64, buf: &mut [u8]) -> std::io::Result<usize> {
    let mut done = 0;
    while done < buf.len() {
        match file.read_at(&mut buf[done..], at + done as u64)? {
            0 => break,
            n => done += n,
        }
    }
    Ok(done)
}

/// Writes a volume to a new file.
pub(super) fn copy_out(volume: &Zvol, target: &Path, replace: bool) -> Result<()> {
    let shown = || target.display().to_string();
    // It may be smaller than a pool's least disk, so it is made by hand; like an image it has no name until it is whole.
    if !replace && target.symlink_metadata().is_ok() {
        bail!("{} exists: choose another name, or replace it with --force", show_name(shown().as_bytes()));
    }
    let folder = image::folder(target);
    let temporary = tempfile::Builder::new().prefix(".tarn-").suffix(".partial").tempfile_in(folder);
    let temporary = temporary.with_context(shown)?;
    let file: &File = temporary.as_file();
    file.set_len(volume.size()).with_context(shown)?;
    let mut buf = vec![0; 1 << 20];
    let mut at = 0;
    while at < volume.size() {
        let Some(start) = volume.next_data(at)? else { break };
        ensure!(start >= at, "a volume whose extents do not advance");
        let len = volume.read(start, &mut buf)?;
        if len == 0 {
            break;
        }
        // What is zero stays a hole.
        for (n, block) in buf[..len].chunks(4096).enumerate() {
            if block.iter().any(|b| *b != 0) {
                file.write_all_at(block, start + n as u64 * 4096).with_context(shown)?;
            }
        }
        at = start + len as u64;
    }
    if replace {
        temporary.persist(target).with_context(shown)?;
    } else {
        temporary.persist_noclobber(target).with_context(shown)?;
    }
    Ok(())
}
