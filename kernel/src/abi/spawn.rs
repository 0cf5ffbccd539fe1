//! New threads, new programs, and waiting for them.

use super::{Call, SysResult, user};
use crate::arch::trap::TrapFrame;
use crate::mm::{pressure, stack};
use crate::process::{self, Birth, Process, Task};
use crate::{exec, sched};
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, Ordering};
use vfs::Errno;
use vfs::wait::wait_on;

const CLONE_VM: u64 = 0x100;
const CLONE_VFORK: u64 = 0x4000;
const CLONE_THREAD: u64 = 0x1_0000;
const CLONE_SETTLS: u64 = 0x8_0000;
const CLONE_PARENT_SETTID: u64 = 0x10_0000;
const CLONE_CHILD_CLEARTID: u64 = 0x20_0000;
const CLONE_CHILD_SETTID: u64 = 0x100_0000;

/// What a new thread shall be.
struct Clone {
    flags: u64,
    stack: u64,
    parent_tid: u64,
    child_tid: u64,
    tls: u64,
}

pub(super) fn clone(call: &mut Call<'_>) -> SysResult {
    let wish = Clone {
        flags: call.arg(0) & !0xff,
        stack: call.arg(1),
        parent_tid: call.arg(2),
        child_tid: call.arg(3),
        tls: call.arg(4),
    };
    start(call, &wish)
}

pub(super) fn clone3(call: &mut Call<'_>) -> SysResult {
    if call.arg(1) < 64 {
        return Err(Errno::EINVAL);
    }
    let w = user::read_words::<8>(call.arg(0))?;
    let stack = if w[5] == 0 { 0 } else { w[5].checked_add(w[6]).ok_or(Errno::EINVAL)? };
    start(call, &Clone { flags: w[0], stack, parent_tid: w[3], child_tid: w[2], tls: w[7] })
}

pub(super) fn fork(call: &mut Call<'_>) -> SysResult {
    Err(no_fork(call))
}

/// A copy of the memory is not made yet: says so once.
fn no_fork(call: &Call<'_>) -> Errno {
    static SAID: AtomicBool = AtomicBool::new(false);
    if !SAID.swap(true, Ordering::Relaxed) {
        let name = call.task.name.lock().clone();
        crate::println!(
            "{} wants to fork, which is not implemented: vfork, posix_spawn and threads are",
            alloc::string::String::from_utf8_lossy(&name)
        );
    }
    Errno::ENOSYS
}

pub(super) fn vfork(call: &mut Call<'_>) -> SysResult {
    start(call, &Clone { flags: CLONE_VM | CLONE_VFORK, stack: 0, parent_tid: 0, child_tid: 0, tls: 0 })
}

fn start(call: &mut Call<'_>, wish: &Clone) -> SysResult {
    if wish.flags & CLONE_VM == 0 {
        return Err(no_fork(call));
    }
    if wish.flags & CLONE_THREAD != 0 {
        let process = Arc::clone(&call.task.process);
        if process.is_exiting() {
            return Err(Errno::EAGAIN);
        }
        let tid = process::next_pid();
        return launch(call, wish, &process, tid).map(|_| u64::from(tid));
    }
    if wish.flags & CLONE_VFORK == 0 {
        return Err(Errno::ENOSYS);
    }
    spawn_process(call, wish)
}

/// What a new thread takes beside its stack in the kernel: what it touches first of its own.
const THREAD_FRAMES: u64 = 32;

/// `vfork`: a process that borrows the caller's memory until it runs another program or ends; the caller waits.
fn spawn_process(call: &mut Call<'_>, wish: &Clone) -> SysResult {
    let parent = call.process();
    let program = parent.program.lock().clone();
    let cwd = Arc::clone(&parent.cwd.lock());
    let birth =
        Birth { parent: parent.pid, fds: parent.fds.duplicate(), cwd, space: parent.space(), program };
    let child = Process::new(birth);
    *child.actions.lock() = parent.actions.lock().clone();
    *child.credentials.lock() = parent.credentials.lock().clone();
    *child.limits.lock() = *parent.limits.lock();
    child.umask.store(parent.umask.load(Ordering::Relaxed), Ordering::Relaxed);
    launch(call, wish, &child, child.pid).inspect_err(|_| child.reap())?;
    loop {
        let released = || (child.released.load(Ordering::SeqCst) || child.ending().is_some()).then_some(());
        if wait_on(&[child.ended()], None, released).is_ok() || call.process().is_exiting() {
            break;
        }
        // A signal must not let the parent run on the memory that the child uses.
        sched::yield_now();
    }
    Ok(u64::from(child.pid))
}

fn launch(call: &mut Call<'_>, wish: &Clone, process: &Arc<Process>, tid: u32) -> Result<Arc<Task>, Errno> {
    if wish.flags & CLONE_PARENT_SETTID != 0 {
        user::write_u32(wish.parent_tid, tid)?;
    }
    if wish.flags & CLONE_CHILD_SETTID != 0 {
        user::write_u32(wish.child_tid, tid)?;
    }
    // A stack that waits for a thread is taken already.
    let stack = if stack::free() > 0 { 0 } else { stack::PAGES as u64 };
    if !pressure::admit_fixed(THREAD_FRAMES + stack) {
        return Err(Errno::EAGAIN);
    }
    let task = Task::new(process, tid, call.task.mask.load(Ordering::Relaxed));
    *task.name.lock() = call.task.name.lock().clone();
    if wish.flags & CLONE_CHILD_CLEARTID != 0 {
        task.clear_tid.store(wish.child_tid, Ordering::Relaxed);
    }
    let tls = if wish.flags & CLONE_SETTLS != 0 { wish.tls } else { sched::current_thread().fs_base() };
    task.fs_base.store(tls, Ordering::Relaxed);
    let mut frame: TrapFrame = *call.frame;
    frame.rax = 0;
    frame.vector = 0;
    if wish.stack != 0 {
        frame.rsp = wish.stack;
    }
    task.start(frame)?;
    Ok(task)
}

pub(super) fn execve(call: &mut Call<'_>) -> SysResult {
    let path = user::read_path(call.arg(0))?;
    let args = user::read_strings(call.arg(1))?;
    let env = user::read_strings(call.arg(2))?;
    replace(call, &path, args, env)?;
    call.registers_set = true;
    Ok(0)
}

fn replace(call: &mut Call<'_>, path: &[u8], mut args: Vec<Vec<u8>>, env: Vec<Vec<u8>>) -> Result<(), Errno> {
    let process = call.process();
    if process.tasks.lock().len() > 1 {
        // The other threads would have to end first.
        return Err(Errno::EAGAIN);
    }
    if args.is_empty() {
        args.push(Vec::new());
    }
    let cwd = Arc::clone(&process.cwd.lock());
    let image = exec::load(process::vfs(), &cwd, path, args, &env).map_err(|e| e.error)?;
    image.space.set_only_small(process.space().has_only_small());
    // From here on there is no way back: a program that is refused leaves its caller everything.
    process.workers.stop();
    process.aio.lock().clear();
    process.timers.lock().clear();
    for file in process.fds.take_cloexec() {
        process::closed(process, &file);
    }
    let old = core::mem::replace(&mut *process.space.write(), Arc::clone(&image.space));
    sched::current_thread().set_cr3(image.space.root());
    sched::current_thread().set_fs_base(0);
    if Arc::strong_count(&old) == 1 {
        old.clear();
    }
    drop(old);
    process.released.store(true, Ordering::SeqCst);
    process.ended().wake();
    process.actions.lock().reset();
    let task = call.task;
    *task.alt_stack.lock() = (0, 0, process::signals::SS_DISABLE);
    task.clear_tid.store(0, Ordering::Relaxed);
    task.robust_list.store(0, Ordering::Relaxed);
    let name = image.path.rsplit(|b| *b == b'/').next().unwrap_or_default();
    *task.name.lock() = name[..name.len().min(15)].to_vec();
    let program = process::Program { path: image.path, args: image.args, env, auxv: image.auxv };
    *process.program.lock() = program;
    *call.frame = TrapFrame::new(image.entry, image.stack);
    Ok(())
}

fn children(parent: u32, which: i32) -> Vec<Arc<Process>> {
    let mine = |p: &Arc<Process>| p.parent == parent && (which <= 0 || p.pid == which as u32);
    process::all().into_iter().filter(mine).collect()
}

/// Waits for a child that has ended and takes it out of the table.
fn reap(call: &Call<'_>, which: i32, nohang: bool) -> Result<Option<(u32, process::Ending)>, Errno> {
    let parent = call.process();
    let look = || {
        let children = children(parent.pid, which);
        if children.is_empty() {
            return Some(Err(Errno::ECHILD));
        }
        let (child, ending) = children.iter().find_map(|c| c.ending().map(|e| (c, e)))?;
        child.reap();
        Some(Ok(Some((child.pid, ending))))
    };
    if nohang {
        return look().unwrap_or(Ok(None));
    }
    wait_on(&[parent.ended()], None, look)?
}

pub(super) fn wait4(call: &mut Call<'_>) -> SysResult {
    let Some((pid, ending)) = reap(call, call.int(0), call.arg(2) & 1 != 0)? else { return Ok(0) };
    if call.arg(1) != 0 {
        user::write_u32(call.arg(1), ending.wait_status())?;
    }
    if call.arg(3) != 0 {
        user::write_words(call.arg(3), &[0; 18])?;
    }
    Ok(u64::from(pid))
}

pub(super) fn waitid(call: &mut Call<'_>) -> SysResult {
    let which = match call.arg(0) {
        0 => -1,
        1 => call.int(1),
        _ => return Err(Errno::EINVAL),
    };
    let found = reap(call, which, call.arg(3) & 1 != 0)?;
    if call.arg(2) != 0 {
        let mut out = [0; 128];
        if let Some((pid, ending)) = found {
            out[0..4].copy_from_slice(&u32::from(process::signals::SIGCHLD).to_le_bytes());
            let (code, status) = match ending {
                process::Ending::Exit(status) => (1u32, status),
                process::Ending::Signal(signal) => (2, signal),
            };
            out[8..12].copy_from_slice(&code.to_le_bytes());
            out[16..20].copy_from_slice(&pid.to_le_bytes());
            out[24..28].copy_from_slice(&u32::from(status).to_le_bytes());
        }
        user::write(call.arg(2), &out)?;
    }
    Ok(0)
}
