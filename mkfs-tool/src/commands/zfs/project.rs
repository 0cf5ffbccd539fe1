//! `tarn zfs project`: project ids of files and directories, and whether what is made in a directory gets its. Source:
//! `cmd/zfs/zfs_project.c`, zfs-project(8).

use crate::cli::zfs::Project;
use crate::commands::open::OpenPool;
use crate::commands::view::{View, view};
use crate::output::show_name;
use anyhow::{Context, Result, ensure};
use std::io::Write;
use std::path::PathBuf;
use zfs::ondisk::znode::flags;
use zfs::zpl::{Attr, FileKind, SetAttr};

/// What is done with each file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Work {
    List,
    Clear,
    /// Tell those that do not have the id, or do not hand it on.
    Check(Option<u64>),
    Set(Option<u64>),
}

impl Work {
    fn of(options: &Project) -> Result<Work> {
        ensure!(!options.null || options.check, "-0 is for -c");
        ensure!(!options.keep || options.clear, "-k is for -C");
        ensure!(!(options.clear && options.id.is_some()), "-C clears: it takes no id");
        ensure!(!options.inherit || !(options.check || options.clear), "-s sets: not with -c or -C");
        let work = match (options.check, options.clear) {
            (true, _) => Work::Check(options.id),
            (_, true) => Work::Clear,
            _ if options.id.is_some() || options.inherit => Work::Set(options.id),
            _ => Work::List,
        };
        let sets = matches!(work, Work::Set(_) | Work::Clear);
        ensure!(!(options.directory_only && sets), "-d is for what only looks");
        ensure!(!(options.directory_only && options.recursive), "-d and -r exclude each other");
        Ok(work)
    }

    fn changes(self) -> bool {
        matches!(self, Work::Set(_) | Work::Clear)
    }
}

/// `zfs project`.
pub(super) fn run(disks: &[PathBuf], force: bool, options: &Project) -> Result<()> {
    let work = Work::of(options)?;
    for target in &options.targets {
        let (dataset, path) =
            target.split_once(':').with_context(|| format!("{target}: name a file as DATASET:/PATH"))?;
        ensure!(!work.changes() || !dataset.contains('@'), "{target}: a snapshot cannot be changed");
        let opened = if work.changes() { OpenPool::write(disks, force)? } else { OpenPool::read(disks)? };
        let view = view(opened, dataset)?;
        let done = project(&view, path.trim_end_matches('/'), work, options);
        if work.changes() {
            view.close()?;
        }
        done.with_context(|| target.clone())?;
    }
    Ok(())
}

fn project(view: &View, path: &str, work: Work, options: &Project) -> Result<()> {
    let top = view.resolve(path.as_bytes(), true)?.attr;
    let is_dir = top.kind() == FileKind::Directory;
    ensure!(is_dir || top.kind() == FileKind::Regular, "only files and directories have projects");
    ensure!(is_dir || !(options.directory_only || options.recursive), "-d and -r are for directories");
    // What is asked for, or what the target has.
    let work = match work {
        Work::Check(id) => Work::Check(Some(id.unwrap_or(top.project))),
        Work::Set(id) => Work::Set(Some(id.unwrap_or(top.project))),
        other => other,
    };
    one(view, path, &top, work, options)?;
    let looks = matches!(work, Work::List | Work::Check(_));
    if !is_dir || options.directory_only || !(options.recursive || looks) {
        return Ok(());
    }
    let mut pending = vec![(path.to_owned(), top.object)];
    while let Some((path, directory)) = pending.pop() {
        for entry in view.entries(directory)? {
            let path = format!("{path}/{}", show_name(&entry.name));
            let attr = view.fs.getattr(entry.object)?;
            if !matches!(attr.kind(), FileKind::Directory | FileKind::Regular) {
                continue;
            }
            one(view, &path, &attr, work, options)?;
            if options.recursive && attr.kind() == FileKind::Directory {
                pending.push((path, entry.object));
            }
        }
    }
    Ok(())
}

fn one(view: &View, path: &str, attr: &Attr, work: Work, options: &Project) -> Result<()> {
    let mut out = std::io::stdout().lock();
    let path = if path.is_empty() { "/" } else { path };
    let inherits = attr.flags & flags::PROJINHERIT != 0;
    let settable = attr.flags & flags::SETTABLE;
    let change = |project: Option<u64>, inherit: bool| -> Result<()> {
        let flags = if inherit { settable | flags::PROJINHERIT } else { settable & !flags::PROJINHERIT };
        let set = SetAttr {
            project: project.filter(|id| *id != attr.project),
            flags: (flags != settable).then_some(flags),
            ..SetAttr::default()
        };
        if set != SetAttr::default() {
            view.fs.setattr(attr.object, &set).with_context(|| path.to_owned())?;
        }
        Ok(())
    };
    match work {
        Work::List => writeln!(out, "{:5} {} {path}", attr.project, if inherits { 'P' } else { '-' })?,
        Work::Check(id) => {
            let id = id.unwrap_or(attr.project);
            if options.null && (attr.project != id || !inherits) {
                write!(out, "{path}\0")?;
            } else if !options.null {
                if attr.project != id {
                    writeln!(out, "{path} - project ID is not set properly ({}/{id})", attr.project)?;
                }
                if !inherits {
                    writeln!(out, "{path} - project inherit flag is not set")?;
                }
            }
        }
        Work::Clear => change((!options.keep).then_some(0), false)?,
        Work::Set(id) => change(id, inherits || options.inherit)?,
    }
    Ok(())
}
