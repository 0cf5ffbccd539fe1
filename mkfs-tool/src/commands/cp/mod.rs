//! `tarn cp`: out of an image, and into one.

mod into;
mod volume;

use super::extract::{Extractor, Wanted};
use super::view::{self, Opened};
use crate::cli::files::Cp;
use crate::location::Location;
use anyhow::{Context, Result, bail, ensure};
use std::os::unix::ffi::OsStrExt;
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
                let source = Zvol::open(dataset.objset()?).with_context(|| location.to_string())?;
                let name = dataset.name();
                let name = name.rsplit('/').next().unwrap_or("volume").to_owned();
                volume::copy_out(&source, &place_in(target, name.as_bytes()), options.force)
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
