//! Identity, limits, and other facts about the process and the machine.

use super::{Call, SysResult, user};
use crate::arch::{self, random};
use crate::mm::frame;
use crate::process::info::{HOSTNAME, RELEASE, VERSION};
use crate::process::{self, Ending, Process};
use crate::{sched, time};
use core::sync::atomic::Ordering;
use vfs::Errno;

/// Calls that a machine of one program can accept without doing anything.
pub(super) fn nothing(_call: &mut Call<'_>) -> SysResult {
    Ok(0)
}

/// Calls whose effect would be missed, so that they must not seem to work.
pub(super) fn unsupported_as_root(_call: &mut Call<'_>) -> SysResult {
    Err(Errno::EPERM)
}

pub(super) fn sched_yield(_call: &mut Call<'_>) -> SysResult {
    sched::yield_now();
    Ok(0)
}

pub(super) fn exit(call: &mut Call<'_>) -> SysResult {
    let status = call.arg(0) as u8;
    if call.process().tasks.lock().len() == 1 {
        call.process().end(Ending::Exit(status));
    }
    process::exit_thread()
}

pub(super) fn exit_group(call: &mut Call<'_>) -> SysResult {
    call.process().end(Ending::Exit(call.arg(0) as u8));
    process::exit_thread()
}

pub(super) fn getpid(call: &mut Call<'_>) -> SysResult {
    Ok(u64::from(call.process().pid))
}

pub(super) fn getppid(call: &mut Call<'_>) -> SysResult {
    Ok(u64::from(call.process().parent))
}

pub(super) fn gettid(call: &mut Call<'_>) -> SysResult {
    Ok(u64::from(call.task.tid))
}

/// Every process is its own group and session.
pub(super) fn getpgrp(call: &mut Call<'_>) -> SysResult {
    getpid(call)
}

pub(super) fn getpgid(call: &mut Call<'_>) -> SysResult {
    match call.int(0) {
        0 => getpid(call),
        pid => process::find(pid as u32).map(|p| u64::from(p.pid)).ok_or(Errno::ESRCH),
    }
}

pub(super) fn setpgid(_call: &mut Call<'_>) -> SysResult {
    Ok(0)
}

pub(super) fn setsid(call: &mut Call<'_>) -> SysResult {
    getpid(call)
}

pub(super) fn set_tid_address(call: &mut Call<'_>) -> SysResult {
    call.task.clear_tid.store(call.arg(0), Ordering::Relaxed);
    gettid(call)
}

pub(super) fn getuid(call: &mut Call<'_>) -> SysResult {
    Ok(u64::from(call.process().credentials.lock().uid[0]))
}

pub(super) fn geteuid(call: &mut Call<'_>) -> SysResult {
    Ok(u64::from(call.process().credentials.lock().uid[1]))
}

pub(super) fn getgid(call: &mut Call<'_>) -> SysResult {
    Ok(u64::from(call.process().credentials.lock().gid[0]))
}

pub(super) fn getegid(call: &mut Call<'_>) -> SysResult {
    Ok(u64::from(call.process().credentials.lock().gid[1]))
}

fn set_ids(process: &Process, group: bool, ids: [u64; 3]) -> SysResult {
    let mut c = process.credentials.lock();
    // Who was root once may have left for good: only ids that are held can be taken up.
    let privileged = c.uid[1] == 0;
    let held = if group { c.gid } else { c.uid };
    let mut new = held;
    for (slot, id) in new.iter_mut().zip(ids) {
        let id = id as u32;
        if id == u32::MAX {
            continue;
        }
        if !privileged && !held.contains(&id) {
            return Err(Errno::EPERM);
        }
        *slot = id;
    }
    if group {
        c.gid = new
    } else {
        c.uid = new
    }
    Ok(0)
}

const KEEP: u64 = u32::MAX as u64;

fn set_one(call: &Call<'_>, group: bool) -> SysResult {
    let id = call.arg(0);
    let privileged = call.process().credentials.lock().uid[1] == 0;
    set_ids(call.process(), group, if privileged { [id; 3] } else { [KEEP, id, KEEP] })
}

pub(super) fn setuid(call: &mut Call<'_>) -> SysResult {
    set_one(call, false)
}

pub(super) fn setgid(call: &mut Call<'_>) -> SysResult {
    set_one(call, true)
}

fn set_two(call: &Call<'_>, group: bool) -> SysResult {
    let saved = if call.arg(0) as u32 == u32::MAX { KEEP } else { call.arg(1) };
    set_ids(call.process(), group, [call.arg(0), call.arg(1), saved])
}

pub(super) fn setreuid(call: &mut Call<'_>) -> SysResult {
    set_two(call, false)
}

pub(super) fn setregid(call: &mut Call<'_>) -> SysResult {
    set_two(call, true)
}

pub(super) fn setresuid(call: &mut Call<'_>) -> SysResult {
    set_ids(call.process(), false, [call.arg(0), call.arg(1), call.arg(2)])
}

pub(super) fn setresgid(call: &mut Call<'_>) -> SysResult {
    set_ids(call.process(), true, [call.arg(0), call.arg(1), call.arg(2)])
}

fn get_three(call: &Call<'_>, ids: [u32; 3]) -> SysResult {
    for (i, id) in ids.iter().enumerate() {
        user::write_u32(call.arg(i), *id)?;
    }
    Ok(0)
}

pub(super) fn getresuid(call: &mut Call<'_>) -> SysResult {
    let ids = call.process().credentials.lock().uid;
    get_three(call, ids)
}

pub(super) fn getresgid(call: &mut Call<'_>) -> SysResult {
    let ids = call.process().credentials.lock().gid;
    get_three(call, ids)
}

pub(super) fn getgroups(call: &mut Call<'_>) -> SysResult {
    let groups = call.process().credentials.lock().groups.clone();
    if call.int(0) == 0 {
        return Ok(groups.len() as u64);
    }
    if (call.int(0) as usize) < groups.len() {
        return Err(Errno::EINVAL);
    }
    let bytes: alloc::vec::Vec<u8> = groups.iter().flat_map(|g| g.to_le_bytes()).collect();
    user::write(call.arg(1), &bytes)?;
    Ok(groups.len() as u64)
}

pub(super) fn setgroups(call: &mut Call<'_>) -> SysResult {
    if call.arg(0) > 65536 {
        return Err(Errno::EINVAL);
    }
    let bytes = user::read_bytes(call.arg(1), call.arg(0) as usize * 4)?;
    let groups = bytes.chunks_exact(4).map(|c| u32::from_le_bytes([c[0], c[1], c[2], c[3]])).collect();
    call.process().credentials.lock().groups = groups;
    Ok(0)
}

pub(super) fn capget(call: &mut Call<'_>) -> SysResult {
    const VERSION_3: u32 = 0x2008_0522;
    let version = user::read_u32(call.arg(0))?;
    if version != VERSION_3 {
        user::write_u32(call.arg(0), VERSION_3)?;
        return if call.arg(1) == 0 { Ok(0) } else { Err(Errno::EINVAL) };
    }
    if call.arg(1) != 0 {
        let all = if call.process().credentials.lock().uid[1] == 0 { u32::MAX } else { 0 };
        for i in 0..6 {
            user::write_u32(call.arg(1) + i * 4, all)?;
        }
    }
    Ok(0)
}

pub(super) fn umask(call: &mut Call<'_>) -> SysResult {
    Ok(u64::from(call.process().umask.swap(call.arg(0) as u32 & 0o777, Ordering::Relaxed)))
}

pub(super) fn uname(call: &mut Call<'_>) -> SysResult {
    let mut out = [0; 6 * 65];
    let fields = ["Linux", HOSTNAME, RELEASE, VERSION, "x86_64", "(none)"];
    for (i, field) in fields.iter().enumerate() {
        out[i * 65..i * 65 + field.len()].copy_from_slice(field.as_bytes());
    }
    user::write(call.arg(0), &out)?;
    Ok(0)
}

pub(super) fn sysinfo(call: &mut Call<'_>) -> SysResult {
    let mut words = [0u64; 14];
    words[0] = time::monotonic_ns() / 1_000_000_000;
    words[4] = frame::total() * 4096;
    words[5] = frame::free_count() * 4096;
    words[10] = process::all().len() as u64;
    words[13] = 1;
    let bytes: alloc::vec::Vec<u8> = words.iter().flat_map(|w| w.to_le_bytes()).collect();
    user::write(call.arg(0), &bytes)?;
    Ok(0)
}

pub(super) fn getrusage(call: &mut Call<'_>) -> SysResult {
    let ns = match call.int(0) {
        0 => call.process().cpu_ns(),
        1 => sched::current_thread().cpu_ns(),
        -1 => 0,
        _ => return Err(Errno::EINVAL),
    };
    let mut words = [0u64; 18];
    words[0] = ns / 1_000_000_000;
    words[1] = ns % 1_000_000_000 / 1000;
    words[4] = call.process().space().size().1 / 1024;
    words[8] = call.process().space().faults.load(Ordering::Relaxed);
    user::write_words(call.arg(1), &words)?;
    Ok(0)
}

const RLIMIT_NOFILE: usize = 7;

fn limit(process: &Process, which: u64, new: Option<(u64, u64)>) -> Result<(u64, u64), Errno> {
    let index = usize::try_from(which).ok().filter(|i| *i < 16).ok_or(Errno::EINVAL)?;
    let mut limits = process.limits.lock();
    let old = limits[index];
    if let Some((soft, hard)) = new {
        if soft > hard || index == RLIMIT_NOFILE && hard > process::NOFILE.1 {
            return Err(if soft > hard { Errno::EINVAL } else { Errno::EPERM });
        }
        limits[index] = (soft, hard);
        if index == RLIMIT_NOFILE {
            process.fds.set_limit(soft as u32);
        }
    }
    Ok(old)
}

pub(super) fn getrlimit(call: &mut Call<'_>) -> SysResult {
    let (soft, hard) = limit(call.process(), call.arg(0), None)?;
    user::write_words(call.arg(1), &[soft, hard])?;
    Ok(0)
}

pub(super) fn setrlimit(call: &mut Call<'_>) -> SysResult {
    let new = user::read_words::<2>(call.arg(1))?;
    limit(call.process(), call.arg(0), Some((new[0], new[1])))?;
    Ok(0)
}

pub(super) fn prlimit64(call: &mut Call<'_>) -> SysResult {
    if !matches!(call.int(0), 0) && call.int(0) as u32 != call.process().pid {
        return Err(Errno::ESRCH);
    }
    let new = match call.arg(2) {
        0 => None,
        at => Some(user::read_words::<2>(at)?).map(|w| (w[0], w[1])),
    };
    let (soft, hard) = limit(call.process(), call.arg(1), new)?;
    if call.arg(3) != 0 {
        user::write_words(call.arg(3), &[soft, hard])?;
    }
    Ok(0)
}

pub(super) fn getpriority(_call: &mut Call<'_>) -> SysResult {
    // The raw call gives 20 - nice.
    Ok(20)
}

pub(super) fn sched_getparam(call: &mut Call<'_>) -> SysResult {
    user::write_u32(call.arg(1), 0)?;
    Ok(0)
}

pub(super) fn sched_getaffinity(call: &mut Call<'_>) -> SysResult {
    let cpus = arch::cpu::count();
    if call.arg(1) < 8 || !call.arg(1).is_multiple_of(8) {
        return Err(Errno::EINVAL);
    }
    user::write_u64(call.arg(2), if cpus >= 64 { u64::MAX } else { (1 << cpus) - 1 })?;
    Ok(8)
}

pub(super) fn getcpu(call: &mut Call<'_>) -> SysResult {
    if call.arg(0) != 0 {
        user::write_u32(call.arg(0), sched::cpu_index() as u32)?;
    }
    if call.arg(1) != 0 {
        user::write_u32(call.arg(1), 0)?;
    }
    Ok(0)
}

pub(super) fn getrandom(call: &mut Call<'_>) -> SysResult {
    if call.arg(2) & !7 != 0 {
        return Err(Errno::EINVAL);
    }
    let len = (call.arg(1) as usize).min(user::MAX_RW);
    let mut done = 0;
    let mut piece = [0; 256];
    while done < len {
        let n = (len - done).min(piece.len());
        random::fill(&mut piece[..n]);
        user::write(call.arg(0) + done as u64, &piece[..n])?;
        done += n;
    }
    Ok(len as u64)
}

pub(super) fn membarrier(call: &mut Call<'_>) -> SysResult {
    const QUERY: u64 = 0;
    match call.arg(0) {
        QUERY => Ok(0),
        _ => Err(Errno::EINVAL),
    }
}

pub(super) fn prctl(call: &mut Call<'_>) -> SysResult {
    match call.int(0) {
        // PR_SET_NAME, PR_GET_NAME
        15 => {
            let name = user::read_bytes(call.arg(1), 16).or_else(|_| user::read_string(call.arg(1), 16))?;
            // A string that ends before its page does may be shorter than 16 bytes, and then has no zero at its end here.
            let end = name.iter().position(|b| *b == 0).unwrap_or(name.len()).min(15);
            *call.task.name.lock() = name[..end].to_vec();
            Ok(0)
        }
        16 => {
            let mut name = call.task.name.lock().clone();
            name.resize(16, 0);
            user::write(call.arg(1), &name)?;
            Ok(0)
        }
        // PR_GET_DUMPABLE
        3 => Ok(1),
        // PR_SET_PDEATHSIG, PR_SET_DUMPABLE, PR_SET_KEEPCAPS, PR_SET_TIMERSLACK, PR_SET_NO_NEW_PRIVS
        1 | 4 | 8 | 29 | 36 | 38 => Ok(0),
        // PR_SET_THP_DISABLE, PR_GET_THP_DISABLE
        41 if [2, 3, 4].iter().all(|i| call.arg(*i) == 0) => {
            call.process().space().set_only_small(call.arg(1) != 0);
            Ok(0)
        }
        42 if [1, 2, 3, 4].iter().all(|i| call.arg(*i) == 0) => {
            Ok(u64::from(call.process().space().has_only_small()))
        }
        // PR_CAPBSET_READ
        23 => Ok(u64::from(call.arg(1) <= 40)),
        // PR_GET_NO_NEW_PRIVS, PR_GET_KEEPCAPS
        39 | 7 => Ok(0),
        _ => Err(Errno::EINVAL),
    }
}

pub(super) fn arch_prctl(call: &mut Call<'_>) -> SysResult {
    const SET_FS: u64 = 0x1002;
    const GET_FS: u64 = 0x1003;
    match call.arg(0) {
        SET_FS => {
            if call.arg(1) >= crate::mm::usercopy::USER_END {
                return Err(Errno::EPERM);
            }
            sched::current_thread().set_fs_base(call.arg(1));
            Ok(0)
        }
        GET_FS => {
            user::write_u64(call.arg(1), sched::current_thread().fs_base())?;
            Ok(0)
        }
        // GS is the kernel's; CET and the like do not exist.
        _ => Err(Errno::EINVAL),
    }
}
