//! `tarn ls`.

use super::view::{self, View, device_numbers, letter, mode_string, show_time};
use crate::cli::files::Ls;
use crate::location::Location;
use crate::output::show_name;
use crate::quantity::human;
use anyhow::{Context, Result};
use serde_json::{Value, json};
use std::io::{BufWriter, Write};
use std::process::ExitCode;
use zfs::zpl::{Attr, FileKind};

/// Lists each place.
pub(crate) fn run(options: &Ls) -> Result<ExitCode> {
    let mut out = BufWriter::new(std::io::stdout().lock());
    let mut lister = Lister { options, out: &mut out, json: Vec::new() };
    for place in &options.places {
        let location = Location::parse(place)?;
        let view = view::files(&location)?;
        // A link to a directory is shown as a link with -l, else its target is listed, as ls does.
        let found = view.resolve(location.path_or_root(), !options.long && !options.directory);
        let found = found.with_context(|| location.image.display().to_string())?;
        let path = location.path_or_root().to_vec();
        let heading = options.places.len() > 1 || options.recursive;
        if found.attr.kind() == FileKind::Directory && !options.directory {
            lister.directory(&view, found.attr.object, &path, heading)?;
        } else {
            lister.line(&view, &path, &path, &found.attr)?;
        }
    }
    let json = std::mem::take(&mut lister.json);
    if options.json {
        writeln!(out, "{:#}", Value::Array(json))?;
    }
    out.flush()?;
    Ok(ExitCode::SUCCESS)
}

struct Lister<'a> {
    options: &'a Ls,
    out: &'a mut dyn Write,
    json: Vec<Value>,
}

impl Lister<'_> {
    /// One directory and, with -R, those below it; a list of those to do, because depth is the image's choice.
    fn directory(&mut self, view: &View, object: u64, path: &[u8], heading: bool) -> Result<()> {
        let mut pending = vec![(object, path.to_vec())];
        let mut first = true;
        while let Some((object, path)) = pending.pop() {
            if heading && !self.options.json {
                writeln!(self.out, "{}{}:", if first { "" } else { "\n" }, show_name(&path))?;
            }
            first = false;
            let entries = view.entries(object).with_context(|| show_name(&path))?;
            let mut below = Vec::new();
            for entry in entries {
                if !self.options.all && entry.name.starts_with(b".") {
                    continue;
                }
                let full = join(&path, &entry.name);
                if self.options.long || self.options.json {
                    let attr = view.fs.getattr(entry.object).with_context(|| show_name(&full))?;
                    self.line(view, &entry.name, &full, &attr)?;
                } else {
                    self.name(entry.object, &entry.name)?;
                }
                if self.options.recursive && view.kind(&entry)? == FileKind::Directory {
                    below.push((entry.object, full));
                }
            }
            pending.extend(below.into_iter().rev());
        }
        Ok(())
    }

    fn name(&mut self, object: u64, name: &[u8]) -> Result<()> {
        if self.options.inode {
            write!(self.out, "{object:>8} ")?;
        }
        Ok(writeln!(self.out, "{}", show_name(name))?)
    }

    fn line(&mut self, view: &View, name: &[u8], path: &[u8], attr: &Attr) -> Result<()> {
        if self.options.json {
            self.json.push(describe(view, path, attr)?);
            return Ok(());
        }
        if !self.options.long {
            return self.name(attr.object, name);
        }
        let size = match attr.kind() {
            FileKind::CharDevice | FileKind::BlockDevice => {
                let (major, minor) = device_numbers(attr.rdev);
                format!("{major}, {minor}")
            }
            _ if self.options.human => human(attr.size),
            _ => attr.size.to_string(),
        };
        let time = show_time(attr.mtime.sec, attr.mtime.nsec, false);
        if self.options.inode {
            write!(self.out, "{:>8} ", attr.object)?;
        }
        let (mode, owner) = (mode_string(attr), format!("{:>5} {:>5}", attr.uid, attr.gid));
        write!(self.out, "{mode} {:>3} {owner} {size:>10} {time} {}", attr.nlink, show_name(name))?;
        if attr.kind() == FileKind::Symlink {
            write!(self.out, " -> {}", show_name(&view.fs.readlink(attr.object)?))?;
        }
        Ok(writeln!(self.out)?)
    }
}

/// A path's child.
pub(crate) fn join(path: &[u8], name: &[u8]) -> Vec<u8> {
    let mut full = path.to_vec();
    if !full.ends_with(b"/") {
        full.push(b'/');
    }
    full.extend_from_slice(name);
    full
}

/// Everything about a file, for programs.
pub(crate) fn describe(view: &View, path: &[u8], attr: &Attr) -> Result<Value> {
    let time = |t: zfs::zpl::Timespec| format!("{}.{:09}", t.sec, t.nsec);
    let mut value = json!({
        "path": show_name(path),
        "type": letter(attr.kind()).to_string(),
        "object": attr.object,
        "generation": attr.generation,
        "mode": format!("{:04o}", attr.mode & 0o7777),
        "uid": attr.uid,
        "gid": attr.gid,
        "nlink": attr.nlink,
        "size": attr.size,
        "blocks512": attr.blocks,
        "block_size": attr.block_size,
        "atime": time(attr.atime),
        "mtime": time(attr.mtime),
        "ctime": time(attr.ctime),
        "crtime": time(attr.crtime),
    });
    let kind = attr.kind();
    if kind == FileKind::Symlink {
        value["target"] = show_name(&view.fs.readlink(attr.object)?).into();
    }
    if matches!(kind, FileKind::CharDevice | FileKind::BlockDevice) {
        let (major, minor) = device_numbers(attr.rdev);
        value["rdev"] = json!([major, minor]);
    }
    Ok(value)
}
