//! `tarn tree`.

use super::view::{self, View};
use crate::cli::files::Tree;
use crate::location::Location;
use crate::output::show_name;
use anyhow::{Context, Result, bail};
use std::io::{BufWriter, Write};
use std::process::ExitCode;
use zfs::zpl::{DirEntry, FileKind};

/// Draws a directory.
pub(crate) fn run(options: &Tree) -> Result<ExitCode> {
    let location = Location::parse(&options.place)?;
    let view = view::files(&location)?;
    let found = view.resolve(location.path_or_root(), true);
    let found = found.with_context(|| location.image.display().to_string())?;
    if found.attr.kind() != FileKind::Directory {
        bail!("{location}: is not a directory");
    }
    let mut out = BufWriter::new(std::io::stdout().lock());
    writeln!(out, "{}", show_name(location.path_or_root()))?;
    let (directories, files) = draw(options, &view, found.attr.object, &mut out)?;
    let plural = |n: u64, one: &str, many: &str| format!("{n} {}", if n == 1 { one } else { many });
    write!(out, "\n{}", plural(directories, "directory", "directories"))?;
    if !options.directories {
        write!(out, ", {}", plural(files, "file", "files"))?;
    }
    writeln!(out)?;
    out.flush()?;
    Ok(ExitCode::SUCCESS)
}

/// A directory that is being drawn: what is left of it, and what its lines begin with.
struct Level {
    rest: std::vec::IntoIter<DirEntry>,
    prefix: String,
}

fn level(options: &Tree, view: &View, object: u64, prefix: String) -> Result<Level> {
    let mut entries = view.entries(object)?;
    entries.retain(|e| options.all || !e.name.starts_with(b"."));
    if options.directories {
        let mut kept = Vec::new();
        for entry in entries {
            if view.kind(&entry)? == FileKind::Directory {
                kept.push(entry);
            }
        }
        entries = kept;
    }
    Ok(Level { rest: entries.into_iter(), prefix })
}

/// Draws everything below; how many directories and other files there are.
fn draw(options: &Tree, view: &View, root: u64, out: &mut dyn Write) -> Result<(u64, u64)> {
    let (mut directories, mut files) = (0, 0);
    let mut levels = vec![level(options, view, root, String::new())?];
    while let Some(current) = levels.last_mut() {
        let Some(entry) = current.rest.next() else {
            levels.pop();
            continue;
        };
        let last = current.rest.len() == 0;
        let prefix = current.prefix.clone();
        write!(out, "{prefix}{}{}", if last { "└── " } else { "├── " }, show_name(&entry.name))?;
        let kind = view.kind(&entry)?;
        if kind == FileKind::Symlink {
            write!(out, " -> {}", show_name(&view.fs.readlink(entry.object)?))?;
        }
        writeln!(out)?;
        if kind == FileKind::Directory {
            directories += 1;
            if options.depth.is_none_or(|depth| levels.len() < depth) {
                let below = format!("{prefix}{}", if last { "    " } else { "│   " });
                levels.push(level(options, view, entry.object, below)?);
            }
        } else {
            files += 1;
        }
    }
    Ok((directories, files))
}
