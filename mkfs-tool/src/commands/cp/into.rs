//! Files of this machine into an image.

use crate::cli::files::Cp;
use crate::commands::fill::{self, How, Into};
use crate::commands::open::environment;
use crate::commands::view::{self, Opened, View};
use crate::location::Location;
use crate::source::{check_name, dir};
use anyhow::{Context, Result, bail, ensure};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use zfs::Error;
use zfs::zpl::FileKind;

/// What is copied, and its name there.
type Item = (PathBuf, Vec<u8>);

/// Copies files and trees to a place in an image.
pub(super) fn copy(options: &Cp, place: &Location) -> Result<ExitCode> {
    let sources: Vec<&Path> = options.places.iter().map(Path::new).collect();
    for source in &sources {
        let metadata =
            if options.archive { std::fs::symlink_metadata(source) } else { std::fs::metadata(source) };
        let metadata =
            metadata.with_context(|| format!("{}: no such file on this machine", source.display()))?;
        ensure!(
            !metadata.is_dir() || options.archive || options.recursive,
            "{}: is a directory: use -a or -r",
            source.display()
        );
    }
    let view = match view::open_to_write(place, options.force_import)? {
        Opened::Files(view) => view,
        Opened::Volume(pool, dataset) => {
            let [source] = sources[..] else {
                bail!("{place}: one file at a time can be copied into a volume")
            };
            super::volume::copy_into(source, place, pool, dataset)?;
            return Ok(ExitCode::SUCCESS);
        }
    };
    let copied = within(options, place, &sources, &view);
    // Also after an error: what was copied until then is a state like any other.
    let closed = view.close();
    copied?;
    closed?;
    Ok(ExitCode::SUCCESS)
}

fn within(options: &Cp, place: &Location, sources: &[&Path], view: &View) -> Result<()> {
    let (directory, mut items) = items(place, sources, view)?;
    if !options.archive && !options.recursive {
        // A link stands for its file, as with cp; the copy is called as the link is.
        for (path, _) in &mut items {
            *path = std::fs::canonicalize(&*path).with_context(|| path.display().to_string())?;
        }
    }
    let tree = Arc::new(dir::open_all(&items)?);
    for note in &tree.notes {
        eprintln!("tarn: note: {note}");
    }
    let how = How {
        verb: "copying",
        quiet: options.quiet,
        preserve: options.archive,
        all_root: false,
        into: Into::Directory { object: directory, replace: options.force },
    };
    fill::fill(&view.fs, &tree, how, &environment(None)?).with_context(|| place.to_string())?;
    view.pool().log_history(&format!(
        "tarn cp {}{}",
        view.dataset,
        String::from_utf8_lossy(place.path_or_root())
    ))?;
    Ok(())
}

/// The directory that gets the copies, and what is copied under which name.
fn items(place: &Location, sources: &[&Path], view: &View) -> Result<(u64, Vec<Item>)> {
    let path = place.path_or_root();
    match view.resolve(path, true) {
        Ok(found) if found.attr.kind() == FileKind::Directory => {
            let mut items = Vec::new();
            for source in sources {
                items.extend(named(source)?);
            }
            return Ok((found.attr.object, items));
        }
        Ok(_) => {}
        Err(e) if matches!(e.downcast_ref::<Error>(), Some(Error::NotFound)) => {}
        Err(e) => return Err(e),
    }
    // A name of its own, in a directory that exists.
    ensure!(!path.ends_with(b"/"), "{place}: no such directory");
    let [source] = sources else {
        bail!("{place}: several files can only be copied into a directory that exists")
    };
    let cut = path.iter().rposition(|b| *b == b'/').unwrap_or(0);
    let name = path[cut + 1..].to_vec();
    check_name(&name).with_context(|| place.to_string())?;
    let parent = view.resolve(&path[..cut], true)?;
    ensure!(parent.attr.kind() == FileKind::Directory, "{place}: its folder is no directory");
    Ok((parent.attr.object, vec![(source.to_path_buf(), name)]))
}

/// A source under its own name; of `folder/.` everything in it.
fn named(source: &Path) -> Result<Vec<Item>> {
    let text = source.as_os_str().as_bytes();
    let content = text == b"." || text.ends_with(b"/.");
    let name = if content { None } else { source.file_name().map(OsStr::as_bytes) };
    if let Some(name) = name {
        return Ok(vec![(source.to_owned(), name.to_vec())]);
    }
    let mut items = Vec::new();
    for entry in std::fs::read_dir(source).with_context(|| source.display().to_string())? {
        let entry = entry.with_context(|| source.display().to_string())?;
        items.push((entry.path(), entry.file_name().as_bytes().to_vec()));
    }
    items.sort();
    Ok(items)
}
