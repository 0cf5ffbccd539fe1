//! `tarn stat`.

use super::ls::describe;
use super::view::{self, View, device_numbers, kind_name, mode_string, show_time};
use crate::cli::files::Stat;
use crate::location::Location;
use crate::output::show_name;
use anyhow::{Context, Result};
use serde_json::{Value, json};
use std::io::{BufWriter, Write};
use std::process::ExitCode;
use zfs::zpl::{Attr, FileKind};

/// Shows each file.
pub(crate) fn run(options: &Stat) -> Result<ExitCode> {
    let mut out = BufWriter::new(std::io::stdout().lock());
    let mut json = Vec::new();
    for place in &options.places {
        let location = Location::parse(place)?;
        let view = view::files(&location)?;
        let path = location.path_or_root();
        let found = view.resolve(path, false).with_context(|| location.image.display().to_string())?;
        if options.json {
            let mut value = describe(&view, path, &found.attr)?;
            let attributes = attributes(&view, &found.attr)?.into_iter().map(
                |(name, value)| json!({ "name": show_name(&name), "size": value.len(), "hex": hex(&value) }),
            );
            value["xattrs"] = attributes.collect();
            json.push(value);
        } else {
            show(&view, path, &found.attr, &mut out)?;
        }
    }
    if options.json {
        writeln!(out, "{:#}", Value::Array(json))?;
    }
    out.flush()?;
    Ok(ExitCode::SUCCESS)
}

fn attributes(view: &View, attr: &Attr) -> Result<Vec<(Vec<u8>, Vec<u8>)>> {
    let names = view.fs.list_xattr(attr.object)?;
    names.into_iter().map(|name| Ok((name.clone(), view.fs.get_xattr(attr.object, &name)?))).collect()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

fn show(view: &View, path: &[u8], attr: &Attr, out: &mut dyn Write) -> Result<()> {
    write!(out, "    File: {}", show_name(path))?;
    if attr.kind() == FileKind::Symlink {
        write!(out, " -> {}", show_name(&view.fs.readlink(attr.object)?))?;
    }
    writeln!(out)?;
    writeln!(out, " Dataset: {}", view.dataset)?;
    let (size, blocks, block) = (attr.size, attr.blocks, attr.block_size);
    writeln!(
        out,
        "    Size: {size:<14} Blocks: {blocks:<10} IO Block: {block:<8} {}",
        kind_name(attr.kind())
    )?;
    write!(out, "  Object: {:<14} Links: {}", attr.object, attr.nlink)?;
    if matches!(attr.kind(), FileKind::CharDevice | FileKind::BlockDevice) {
        let (major, minor) = device_numbers(attr.rdev);
        write!(out, "     Device type: {major},{minor}")?;
    }
    writeln!(out)?;
    let mode = attr.mode & 0o7777;
    writeln!(out, "  Access: ({mode:04o}/{})  Uid: {}   Gid: {}", mode_string(attr), attr.uid, attr.gid)?;
    for (name, time) in
        [("Access", attr.atime), ("Modify", attr.mtime), ("Change", attr.ctime), ("Birth", attr.crtime)]
    {
        writeln!(out, "{name:>8}: {}", show_time(time.sec, time.nsec, true))?;
    }
    for (name, value) in attributes(view, attr)? {
        let shown: Vec<u8> = value.iter().copied().take(64).collect();
        let more = if value.len() > shown.len() { "…" } else { "" };
        writeln!(out, "   Xattr: {} ({} bytes) {}{more}", show_name(&name), value.len(), show_name(&shown))?;
    }
    Ok(())
}
