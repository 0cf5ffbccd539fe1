//! From a running machine to the application and back: mounts the root, runs the commands, lets go of the disks.
//!
//! # Options of the kernel command line
//! - `root=zfs:POOL/DATASET`, `root=initrd`; without it the pool's `bootfs`, or the initrd where there is no disk;
//! - `-- PROGRAM ARGUMENT…` overrides the root dataset's `tarn:cmd`; `tarn:env` and `tarn:cwd` give the environment and
//!   the working directory.

use super::commands::{self, Setting};
use super::console::Terminal;
use super::info::Source;
use super::sys;
use crate::mm::{frame, phys, pressure};
use crate::{boot, env, log, println};
use alloc::boxed::Box;
use alloc::string::{String, ToString};
use alloc::sync::Arc;
use alloc::vec::Vec;
use vfs::Errno;
use vfs::devfs::{self, Builtin};
use vfs::inode::FileSystem;
use vfs::ops::Vfs;
use vfs::path::Tree;
use vfs::procfs::Procfs;
use vfs::sysfs::Sysfs;
use vfs::tmpfs::Tmpfs;
use vfs::types::{FileType, New};
use vfs::zfs::ZfsRoot;
use zfs::spa::{ImportOptions, Pool};

/// Numbers of the file systems (`st_dev`).
const DEV_ROOT: u64 = 1;
const DEV_DEV: u64 = 5;
const DEV_PROC: u64 = 6;
const DEV_RUN: u64 = 7;
const DEV_SYS: u64 = 9;

/// Exit status when the root cannot be mounted or there is nothing to run.
const CANNOT_START: u8 = 124;
/// Exit status when the pool could not be exported cleanly.
const CANNOT_STOP: u8 = 123;

/// What the root says about how to run its application.
#[derive(Default)]
struct RootHints {
    command: Option<String>,
    env: Option<String>,
    cwd: Option<String>,
}

/// Runs the machine; its exit status.
pub fn run() -> u8 {
    let (root, hints) = match mount_root() {
        Ok(found) => found,
        Err(message) => {
            println!("{message}");
            return CANNOT_START;
        }
    };
    if let Err(error) = build_tree(root) {
        println!("cannot set up the file tree: {error}");
        return CANNOT_START;
    }
    crate::network::prepare_files();
    super::counters::start();
    let Some(words) = boot::info().cmdline().arguments().or_else(|| hints.command.as_deref().map(words))
    else {
        println!("nothing to run: give a command after `--`, or set the root dataset's property tarn:cmd");
        return stop(CANNOT_START);
    };
    let setting =
        Setting { env: environment(&hints), cwd: hints.cwd.unwrap_or_else(|| "/".into()).into_bytes() };
    let status = commands::run(&words, &setting);
    stop(status)
}

/// Makes everything durable and lets go of the disks.
fn stop(status: u8) -> u8 {
    match super::vfs().tree.unmount_all() {
        Ok(()) => status,
        Err(error) => {
            println!("the root could not be unmounted cleanly: {error}");
            if status == 0 { CANNOT_STOP } else { status }
        }
    }
}

fn environment(hints: &RootHints) -> Vec<Vec<u8>> {
    let mut env: Vec<String> = [
        "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "HOME=/root",
        "TERM=linux",
        "USER=root",
        "LOGNAME=root",
    ]
    .map(String::from)
    .into();
    let given = hints.env.iter().flat_map(|e| words(e));
    let given = given.chain(boot::info().cmdline().get_all("tarn.env").map(crate::cmdline::percent_decode));
    for new in given {
        let Some((name, _)) = new.split_once('=') else { continue };
        env.retain(|old| old.split('=').next() != Some(name));
        env.push(new);
    }
    env.into_iter().map(String::into_bytes).collect()
}

/// Splits a command as a shell does: blanks, quotes, backslashes. `;` and `&&` stand alone.
fn words(text: &str) -> Vec<String> {
    let mut out = Vec::new();
    let mut word: Option<String> = None;
    let mut quote = None;
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        match (quote, c) {
            (Some(q), _) if c == q => quote = None,
            (Some('"') | None, '\\') => word.get_or_insert_default().extend(chars.next()),
            (Some(_), _) => word.get_or_insert_default().push(c),
            (None, '\'' | '"') => {
                quote = Some(c);
                word.get_or_insert_default();
            }
            (None, ';') => {
                out.extend(word.take());
                out.push(";".into());
            }
            (None, '&') if chars.peek() == Some(&'&') => {
                chars.next();
                out.extend(word.take());
                out.push("&&".into());
            }
            (None, _) if c.is_whitespace() => out.extend(word.take()),
            (None, _) => word.get_or_insert_default().push(c),
        }
    }
    out.extend(word);
    out
}

fn mount_root() -> Result<(Arc<dyn FileSystem>, RootHints), String> {
    let wanted = boot::info().cmdline().get("root").unwrap_or("");
    let disks = crate::drivers::block_devices();
    let initrd = boot::info().initrd.is_some();
    if wanted == "initrd" || wanted.is_empty() && disks.is_empty() && initrd {
        return Ok((unpack_initrd()?, RootHints::default()));
    }
    if !(wanted.is_empty() || wanted.starts_with("zfs:")) {
        return Err(alloc::format!(
            "root={wanted} is not understood: say root=zfs:POOL/DATASET or root=initrd"
        ));
    }
    if disks.is_empty() {
        return Err("no root: no disk was found and no initrd was given".to_string());
    }
    mount_pool(wanted.strip_prefix("zfs:"))
}

/// Share of the memory that the cache may have if `tarn.arc_max` does not say; it gives back what is needed elsewhere.
const ARC_SHARE: u64 = 2;
/// So many bytes of memory let one name be kept.
const NAME_SHARE: u64 = 32 << 10;
/// Share of the memory that changes may take before they are written, and its bounds in bytes.
const DIRTY_SHARE: u64 = 12;
const DIRTY_BOUNDS: (u64, u64) = (1 << 20, 256 << 20);
/// A transaction group is written after this time at the latest.
const TXG_TIMEOUT_NS: u64 = 5_000_000_000;

fn mount_pool(dataset: Option<&str>) -> Result<(Arc<dyn FileSystem>, RootHints), String> {
    let cmdline = boot::info().cmdline();
    let memory = frame::total() * phys::FRAME_SIZE;
    let arc_max = cmdline.size("tarn.arc_max").unwrap_or(memory / ARC_SHARE) as usize;
    let options = ImportOptions {
        arc_max,
        dirty_max: (memory / DIRTY_SHARE).clamp(DIRTY_BOUNDS.0, DIRTY_BOUNDS.1),
        txg_timeout_ns: Some(TXG_TIMEOUT_NS),
        // After a power cut the pool still names its last user: that was this very machine.
        force: true,
        host_name: super::info::HOSTNAME.into(),
        guard_devices: true,
        ..ImportOptions::default()
    };
    let start = crate::time::monotonic_ns();
    let pool = Pool::import(crate::drivers::block_devices(), env(), options)
        .map_err(|e| alloc::format!("the pool cannot be imported: {e}"))?;
    let took = (crate::time::monotonic_ns() - start) / 1000;
    log!(Info, "pool {} imported in {}.{:03} ms", pool.name(), took / 1000, took % 1000);
    super::kstat::set_pool(&pool);
    let zio = Arc::clone(pool.zio());
    let name = match dataset {
        Some(name) => String::from(name),
        None => bootfs(&pool)?,
    };
    let root = ZfsRoot::mount(pool, &name).map_err(|e| alloc::format!("{name} cannot be mounted: {e}"))?;
    root.set_name_limit((memory / NAME_SHARE) as usize);
    let names = Arc::clone(&root);
    pressure::start(pressure::Holders {
        cache: Box::new(move |bytes| zio.shrink_cache(bytes)),
        names: Box::new(move || names.forget_names()),
    });
    let property = |name: &str| root.property(name).filter(|text| !text.is_empty());
    let hints =
        RootHints { command: property("tarn:cmd"), env: property("tarn:env"), cwd: property("tarn:cwd") };
    log!(Info, "{name} is the root, after {} ms", crate::time::monotonic_ns() / 1_000_000);
    Ok((root, hints))
}

fn bootfs(pool: &Pool) -> Result<String, String> {
    match pool.get_property("bootfs") {
        Ok((name, _)) if !name.is_empty() && name != "-" => Ok(name),
        Ok(_) => {
            Err(alloc::format!("pool {} has no bootfs property: give root=zfs:POOL/DATASET", pool.name()))
        }
        Err(e) => Err(alloc::format!("pool {}: bootfs cannot be read: {e}", pool.name())),
    }
}

fn unpack_initrd() -> Result<Arc<dyn FileSystem>, String> {
    let Some(range) = boot::info().initrd.clone() else {
        return Err("root=initrd, but the loader gave none".into());
    };
    let limit = frame::total() * phys::FRAME_SIZE / 2;
    let fs = Tmpfs::new("tmpfs", DEV_ROOT, limit, env().clock);
    let len = (range.end - range.start) as usize;
    // SAFETY: the loader put it there, and the frame allocator leaves it alone.
    let archive = unsafe { core::slice::from_raw_parts(phys::to_virt(range.start), len) };
    let tree = Tree::new(Arc::clone(&fs) as Arc<dyn FileSystem>);
    vfs::tar::unpack(&tree, archive).map_err(|e| alloc::format!("the initrd cannot be unpacked: {e}"))?;
    Ok(fs)
}

fn build_tree(root: Arc<dyn FileSystem>) -> Result<(), Errno> {
    let tree = Tree::new(root);
    let clock = env().clock;
    let mount = |path: &str, fs: Arc<dyn FileSystem>| -> Result<(), Errno> {
        let at = tree.root();
        if let Err(Errno::ENOENT) = tree.resolve(&at, path.as_bytes(), true) {
            let made = at.inode.create(&path.as_bytes()[1..], &New::new(FileType::Directory, 0o755));
            if let Err(error) = made {
                log!(Error, "{path} does not exist and cannot be made: {error}");
                return Ok(());
            }
        }
        tree.mount(path.as_bytes(), fs)
    };
    mount("/dev", devfs::new(DEV_DEV, Arc::clone(&clock))?)?;
    mount("/proc", Procfs::new(DEV_PROC, Arc::new(Source)))?;
    mount("/sys", Sysfs::new(DEV_SYS, Arc::new(sys::Source)))?;
    let quarter = frame::total() * phys::FRAME_SIZE / 4;
    mount("/run", Tmpfs::new("tmpfs", DEV_RUN, quarter, clock))?;
    let devices = Builtin::new(env().random, Some(Terminal::get()));
    super::set_vfs(Vfs::new(tree, Arc::new(devices)))
}
