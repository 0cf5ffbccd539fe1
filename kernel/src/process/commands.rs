//! Runs the machine's commands one after another: `a ; b && c`.

use super::signals::SIGTERM;
use super::{Birth, Ending, NOFILE, Process, Program, Task, shutdown, vfs};
use crate::arch::trap::TrapFrame;
use crate::{exec, log, println, time};
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, Ordering};
use vfs::Errno;
use vfs::file::{FdTable, File};
use vfs::path::Place;
use vfs::types::{FileType, New, OpenFlags};
use vfs::wait::wait_on;

/// How the commands of a line hang together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Link {
    Always,
    IfOk,
}

/// What all commands share.
pub struct Setting {
    /// Environment, as `NAME=value`.
    pub env: Vec<Vec<u8>>,
    /// Working directory.
    pub cwd: Vec<u8>,
}

fn split(words: &[String]) -> Vec<(Link, Vec<Vec<u8>>)> {
    let mut out = Vec::new();
    let mut link = Link::Always;
    let mut command: Vec<Vec<u8>> = Vec::new();
    for word in words {
        let next = match word.as_str() {
            ";" => Link::Always,
            "&&" => Link::IfOk,
            _ => {
                command.push(word.clone().into_bytes());
                continue;
            }
        };
        if !command.is_empty() {
            out.push((link, core::mem::take(&mut command)));
        }
        link = next;
    }
    if !command.is_empty() {
        out.push((link, command));
    }
    out
}

/// Runs the commands in `words`; the status of the last one that ran. A crash ends the line. So does the machine's end: a command
/// that it has kept from running is as one that its signal has ended.
pub fn run(words: &[String], setting: &Setting) -> u8 {
    let mut status = 0;
    for (link, args) in split(words) {
        if link == Link::IfOk && status != 0 {
            continue;
        }
        status = match run_one(&args, setting) {
            Ok(Ending::Exit(status)) => status,
            Ok(ending) => {
                status = ending.shell_status();
                break;
            }
            Err(status) => status,
        };
    }
    if shutdown::is_asked() {
        shutdown::wait_for_all();
    }
    status
}

fn path_of(name: &[u8], base: &Arc<Place>, setting: &Setting) -> Vec<u8> {
    if name.contains(&b'/') {
        return name.to_vec();
    }
    let path = setting.env.iter().find_map(|e| e.strip_prefix(b"PATH=")).unwrap_or_default();
    for dir in path.split(|b| *b == b':').filter(|d| !d.is_empty()) {
        let candidate = [dir, b"/", name].concat();
        if vfs().tree.resolve(base, &candidate, true).is_ok() {
            return candidate;
        }
    }
    name.to_vec()
}

/// Runs one command. `Err` is the status for a program that cannot be started, after saying why.
fn run_one(args: &[Vec<u8>], setting: &Setting) -> Result<Ending, u8> {
    let show = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let root = vfs().tree.root();
    let cwd = vfs().tree.resolve(&root, &setting.cwd, true).map_err(|error| {
        println!("cannot enter {}: {error}", show(&setting.cwd));
        126
    })?;
    let path = path_of(&args[0], &cwd, setting);
    let image = exec::load(vfs(), &cwd, &path, args.to_vec(), &setting.env).map_err(|e| {
        println!("cannot run {}: {e}", show(&path));
        if e.error == Errno::ENOENT { 127 } else { 126 }
    })?;
    let fds = FdTable::new(NOFILE.0 as u32);
    connect_console(&fds).map_err(|error| {
        println!("cannot open the console: {error}");
        126
    })?;
    let program = Program { path: image.path, args: image.args, env: setting.env.clone(), auxv: image.auxv };
    let birth = || {
        let process = Process::new(Birth { parent: 0, fds, cwd, space: image.space, program });
        let task = Task::new(&process, process.pid, 0);
        (process, task)
    };
    let Some((process, task)) = shutdown::unless_asked(birth) else { return Ok(Ending::Signal(SIGTERM)) };
    static FIRST: AtomicBool = AtomicBool::new(true);
    if FIRST.swap(false, Ordering::Relaxed) {
        log!(Info, "first instruction of {} after {}", show(&path), Millis(time::monotonic_ns()));
    }
    if let Err(error) = task.start(TrapFrame::new(image.entry, image.stack)) {
        println!("cannot run {}: {error}", show(&path));
        process.reap();
        return Err(126);
    }
    drop(task);
    let ending = loop {
        // The init thread takes no signals: only the end wakes it.
        if let Ok(ending) = wait_on(&[process.ended()], None, || process.ending()) {
            break ending;
        }
    };
    process.reap();
    log!(Info, "{} ended: {ending:?}", show(&path));
    Ok(ending)
}

struct Millis(u64);

impl core::fmt::Display for Millis {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "{}.{} ms", self.0 / 1_000_000, self.0 / 100_000 % 10)
    }
}

fn connect_console(fds: &FdTable) -> Result<(), Errno> {
    let root = vfs().tree.root();
    let new = New::new(FileType::Regular, 0);
    let console: Arc<File> = vfs().open(&root, b"/dev/console", OpenFlags::RDWR, &new)?;
    for _ in 0..3 {
        fds.add(Arc::clone(&console), false, 0)?;
    }
    Ok(())
}
