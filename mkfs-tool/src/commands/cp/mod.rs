//! `tarn cp`: out of an image, and into one.

mod into;

use super::extract::{Extractor, Wanted};
use super::view::{self, Opened};
use crate::cli::files::Cp;
use crate::image;
use crate::location::Location;
use crate::output::show_name;
use anyhow::{Context, Result, bail, ensure};
use std::fs::File;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use zfs::zpl::FileKind;
use zfs::zvol::Zvol;

/// Copies each place.
pub(crate) fn run(options: &Cp) -> Result<ExitCode> {
    let target = &options.target;
    // With a colon behind an image's name it is a place in that image.
    if let Ok(place) = Location::parse(target.as_os_str())
        && (place.dataset.is_some() || place.path.is_some())
    {
        return into::copy(options, &place);
    }
    ensure!(
        options.places.len() == 1 || target.is_dir(),
        "{}: several files can only be copied into a directory that exists",
        target.display()
    );
    let mut locations = Vec::new();
    for place in &options.places {
        let location = Location::parse(place)?;
        ensure!(
            location.path.is_some() || location.dataset.is_some(),
            "{}: name what to copy, as in {0}:/path",
            location.image.display()
        );
        locations.push(location);
    }
    for location in &locations {
        match view::open(location)? {
            Opened::Volume(_pool, dataset) => {
                let volume = Zvol::open(dataset.objset()?).with_context(|| location.to_string())?;
                let name = dataset.name();
                let name = name.rsplit('/').next().unwrap_or("volume").to_owned();
                copy_volume(&volume, &place_in(target, name.as_bytes()), options.force)
                    .with_context(|| location.to_string())?;
            }
            Opened::Files(view) => {
                let path = location.path_or_root();
                let found = view.resolve(path, !options.archive);
                let found = found.with_context(|| location.image.display().to_string())?;
                let whole = options.archive || options.recursive;
                let wanted =
                    Wanted { preserve: options.archive, replace: options.force, quiet: options.quiet };
                let mut extractor = Extractor::new(&view, wanted);
                if found.attr.kind() == FileKind::Directory {
                    if !whole {
                        bail!("{location}: is a directory: use -a or -r");
                    }
                    // The root has no name: what it holds goes into the target itself.
                    let to =
                        if found.name.is_empty() { target.clone() } else { place_in(target, &found.name) };
                    extractor.tree(found.attr.object, &to).with_context(|| location.to_string())?;
                } else {
                    let to = place_in(target, &found.name);
                    extractor.single(&found.attr, &to, whole).with_context(|| location.to_string())?;
                }
                extractor.finish();
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Into a directory under its own name, else as the target.
fn place_in(target: &Path, name: &[u8]) -> PathBuf {
    if target.is_dir() { target.join(std::ffi::OsStr::from_bytes(name)) } else { target.to_owned() }
}

fn copy_volume(volume: &Zvol, target: &Path, replace: bool) -> Result<()> {
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
