//! Descriptors: duplicating, flags, locks, pipes, `ioctl`.

use super::copy::{FICLONE, FICLONERANGE, clone_file};
use super::{Call, SysResult, user};
use crate::process::{self, console::Terminal, console::Termios};
use alloc::sync::Arc;
use core::sync::atomic::{AtomicU64, Ordering};
use vfs::Errno;
use vfs::file::File;
use vfs::inode::{Inode, Stream};
use vfs::inotify::Inotify;
use vfs::locks::{Family, FileKey, Lock, Owner};
use vfs::path::Place;
use vfs::pipe;
use vfs::types::{FileType, OpenFlags, Stat, StatFs};

pub(super) fn close(call: &mut Call<'_>) -> SysResult {
    let file = call.process().fds.remove(call.int(0))?;
    process::closed(call.process(), &file);
    Ok(0)
}

pub(super) fn close_range(call: &mut Call<'_>) -> SysResult {
    const CLOEXEC: u64 = 4;
    let (first, last, flags) = (call.arg(0) as u32, call.arg(1) as u32, call.arg(2));
    if first > last || flags & !(CLOEXEC | 2) != 0 {
        return Err(Errno::EINVAL);
    }
    let fds = &call.process().fds;
    for (fd, _) in fds.list() {
        if !(first..=last).contains(&(fd as u32)) {
            continue;
        }
        if flags & CLOEXEC != 0 {
            let _ = fds.set_cloexec(fd, true);
        } else if let Ok(file) = fds.remove(fd) {
            process::closed(call.process(), &file);
        }
    }
    Ok(0)
}

pub(super) fn dup(call: &mut Call<'_>) -> SysResult {
    let fds = &call.process().fds;
    fds.add(fds.get(call.int(0))?, false, 0).map(|fd| fd as u64)
}

fn dup_to(call: &Call<'_>, cloexec: bool) -> SysResult {
    let fds = &call.process().fds;
    let file = fds.get(call.int(0))?;
    if let Some(old) = fds.set(call.int(1), file, cloexec)? {
        process::closed(call.process(), &old);
    }
    Ok(call.arg(1))
}

pub(super) fn dup2(call: &mut Call<'_>) -> SysResult {
    if call.int(0) == call.int(1) {
        call.process().fds.get(call.int(0))?;
        return Ok(call.arg(1));
    }
    dup_to(call, false)
}

pub(super) fn dup3(call: &mut Call<'_>) -> SysResult {
    let cloexec = call.arg(2) == u64::from(OpenFlags::CLOEXEC.bits());
    if call.int(0) == call.int(1) || call.arg(2) != 0 && !cloexec {
        return Err(Errno::EINVAL);
    }
    dup_to(call, cloexec)
}

const F_DUPFD: i32 = 0;
const F_GETFD: i32 = 1;
const F_SETFD: i32 = 2;
const F_GETFL: i32 = 3;
const F_SETFL: i32 = 4;
const F_GETLK: i32 = 5;
const F_SETLK: i32 = 6;
const F_SETLKW: i32 = 7;
const F_OFD_GETLK: i32 = 36;
const F_OFD_SETLK: i32 = 37;
const F_OFD_SETLKW: i32 = 38;
const F_DUPFD_CLOEXEC: i32 = 1030;
const F_GETPIPE_SZ: i32 = 1032;
const F_SETPIPE_SZ: i32 = 1031;

pub(super) fn fcntl(call: &mut Call<'_>) -> SysResult {
    let (fd, command) = (call.int(0), call.int(1));
    let fds = &call.process().fds;
    let file = fds.get(fd)?;
    match command {
        F_DUPFD | F_DUPFD_CLOEXEC => {
            fds.add(file, command == F_DUPFD_CLOEXEC, call.int(2)).map(|fd| fd as u64)
        }
        F_GETFD => fds.cloexec(fd).map(u64::from),
        F_SETFD => fds.set_cloexec(fd, call.arg(2) & 1 != 0).map(|()| 0),
        F_GETFL => Ok(u64::from(file.flags().bits() & !OpenFlags::CREAT.bits() & !OpenFlags::EXCL.bits())),
        F_SETFL => {
            file.set_flags(OpenFlags::from_bits_retain(call.arg(2) as u32));
            Ok(0)
        }
        F_GETLK | F_SETLK | F_SETLKW => range_lock(call, &file, command, Owner::Process(call.process().pid)),
        F_OFD_GETLK | F_OFD_SETLK | F_OFD_SETLKW => {
            range_lock(call, &file, command - F_OFD_GETLK + F_GETLK, Owner::OpenFile(file.id()))
        }
        F_GETPIPE_SZ | F_SETPIPE_SZ => Ok(pipe::PIPE_SIZE as u64),
        // Owner of signals, leases, hints: accepted where they are only wishes.
        8 | 10 | 1036 | 1038 => Ok(0),
        9 => Ok(u64::from(call.process().pid)),
        _ => Err(Errno::EINVAL),
    }
}

fn key(file: &File) -> FileKey {
    (file.inode().fs_id(), file.inode().ino())
}

/// `struct flock`: type (i16), whence (i16), start (i64 at 8), length (i64 at 16), pid (i32 at 24).
fn range_lock(call: &Call<'_>, file: &File, command: i32, owner: Owner) -> SysResult {
    const READ: u16 = 0;
    const WRITE: u16 = 1;
    const UNLOCK: u16 = 2;
    let words = user::read_words::<4>(call.arg(2))?;
    let (kind, whence) = (words[0] as u16, (words[0] >> 16) as u16);
    let origin = match whence {
        0 => 0,
        1 => file.position(),
        2 => file.inode().stat()?.size,
        _ => return Err(Errno::EINVAL),
    };
    let start = i128::from(origin) + i128::from(words[1] as i64);
    let len = i128::from(words[2] as i64);
    let (start, end) = match len {
        0 => (start, i128::from(u64::MAX)),
        1.. => (start, start + len),
        _ => (start + len, start),
    };
    let start = u64::try_from(start).map_err(|_| Errno::EINVAL)?;
    let end = u64::try_from(end).map_err(|_| Errno::EOVERFLOW)?;
    let lock = Lock { owner, start, end, exclusive: kind == WRITE };
    let table = process::locks();
    if command == F_GETLK {
        let mut out = words;
        match table.conflict(Family::Range, key(file), &lock) {
            Some(held) => {
                out[0] = u64::from(if held.exclusive { WRITE } else { READ });
                out[1] = held.start;
                out[2] = if held.end == u64::MAX { 0 } else { held.end - held.start };
                out[3] = match held.owner {
                    Owner::Process(pid) => u64::from(pid),
                    Owner::OpenFile(_) => u64::from(u32::MAX),
                };
            }
            None => out[0] = out[0] & !0xffff | u64::from(UNLOCK),
        }
        user::write_words(call.arg(2), &out)?;
        return Ok(0);
    }
    match kind {
        UNLOCK => table.unlock(Family::Range, key(file), owner, start, end),
        READ if !file.flags().readable() => return Err(Errno::EBADF),
        WRITE if !file.flags().writable() => return Err(Errno::EBADF),
        READ | WRITE => table.lock(Family::Range, key(file), lock, command == F_SETLKW)?,
        _ => return Err(Errno::EINVAL),
    }
    Ok(0)
}

pub(super) fn flock(call: &mut Call<'_>) -> SysResult {
    let file = call.process().fds.get(call.int(0))?;
    let owner = Owner::OpenFile(file.id());
    let nonblock = call.arg(1) & 4 != 0;
    let exclusive = match call.arg(1) & !4 {
        1 => false,
        2 => true,
        8 => {
            process::locks().unlock(Family::Whole, key(&file), owner, 0, u64::MAX);
            return Ok(0);
        }
        _ => return Err(Errno::EINVAL),
    };
    let lock = Lock { owner, start: 0, end: u64::MAX, exclusive };
    process::locks().lock(Family::Whole, key(&file), lock, !nonblock).map(|()| 0)
}

/// The inode of a pipe or of another stream without a name: it is in no file system.
struct Nameless(u64);

impl Inode for Nameless {
    fn fs_id(&self) -> u64 {
        4
    }
    fn ino(&self) -> u64 {
        self.0
    }
    fn file_type(&self) -> FileType {
        FileType::Fifo
    }
    fn stat(&self) -> vfs::Result<Stat> {
        Ok(Stat { dev: 4, ino: self.0, mode: 0o010_600, nlink: 1, blksize: 4096, ..Stat::default() })
    }
    fn statfs(&self) -> vfs::Result<StatFs> {
        Ok(StatFs { magic: 0x5049_5045, block_size: 4096, name_max: 255, ..StatFs::default() })
    }
}

static NEXT_NAMELESS: AtomicU64 = AtomicU64::new(1);

/// Opens a stream that has no name but `anon_inode:[kind]`: its descriptor.
pub(super) fn open_stream(
    call: &Call<'_>,
    stream: Arc<dyn Stream>,
    kind: &str,
    flags: OpenFlags,
) -> Result<i32, Errno> {
    let inode: Arc<dyn Inode> = Arc::new(Nameless(NEXT_NAMELESS.fetch_add(1, Ordering::Relaxed)));
    let name = alloc::format!("anon_inode:[{kind}]");
    let status = (flags & OpenFlags::NONBLOCK) | OpenFlags::RDWR;
    let file = File::new(Place::detached(inode, name.as_bytes()), status, Some(stream))?;
    call.process().fds.add(file, flags.contains(OpenFlags::CLOEXEC), 0)
}

fn make_pipe(call: &Call<'_>, flags: u64) -> SysResult {
    let flags = OpenFlags::from_bits_retain(flags as u32);
    if !(OpenFlags::CLOEXEC | OpenFlags::NONBLOCK | OpenFlags::DIRECT).contains(flags) {
        return Err(Errno::EINVAL);
    }
    let number = NEXT_NAMELESS.fetch_add(1, Ordering::Relaxed);
    let inode: Arc<dyn Inode> = Arc::new(Nameless(number));
    let name = alloc::format!("pipe:[{number}]");
    let status = flags - OpenFlags::CLOEXEC;
    let (read, write) = pipe::pipe();
    let open = |end: Arc<dyn Stream>, mode| {
        File::new(Place::detached(Arc::clone(&inode), name.as_bytes()), status | mode, Some(end))
    };
    let (read, write) = (open(read, OpenFlags::empty())?, open(write, OpenFlags::WRONLY)?);
    let fds = &call.process().fds;
    let cloexec = flags.contains(OpenFlags::CLOEXEC);
    let first = fds.add(read, cloexec, 0)?;
    let second = fds.add(write, cloexec, 0).inspect_err(|_| drop(fds.remove(first)))?;
    let mut out = [0; 8];
    out[..4].copy_from_slice(&first.to_le_bytes());
    out[4..].copy_from_slice(&second.to_le_bytes());
    if let Err(error) = user::write(call.arg(0), &out) {
        drop((fds.remove(first), fds.remove(second)));
        return Err(error);
    }
    Ok(0)
}

pub(super) fn pipe(call: &mut Call<'_>) -> SysResult {
    make_pipe(call, 0)
}

pub(super) fn pipe2(call: &mut Call<'_>) -> SysResult {
    make_pipe(call, call.arg(1))
}

const TCGETS: u32 = 0x5401;
const TCSETS: u32 = 0x5402;
const TCSETSF: u32 = 0x5404;
const TIOCGPGRP: u32 = 0x540f;
const TIOCSPGRP: u32 = 0x5410;
const TIOCGWINSZ: u32 = 0x5413;
const TIOCSWINSZ: u32 = 0x5414;
const FIONREAD: u32 = 0x541b;
const FIONBIO: u32 = 0x5421;
const FIONCLEX: u32 = 0x5450;
const FIOCLEX: u32 = 0x5451;

pub(super) fn ioctl(call: &mut Call<'_>) -> SysResult {
    let (fd, request, argument) = (call.int(0), call.arg(1) as u32, call.arg(2));
    let fds = &call.process().fds;
    let file = fds.get(fd)?;
    if let Some(answer) = on_socket(call, fd, request, argument) {
        return answer;
    }
    match request {
        FIOCLEX | FIONCLEX => fds.set_cloexec(fd, request == FIOCLEX).map(|()| 0),
        FIONBIO => {
            let on = user::read_u32(argument)? != 0;
            let flags = file.flags();
            file.set_flags(if on { flags | OpenFlags::NONBLOCK } else { flags - OpenFlags::NONBLOCK });
            Ok(0)
        }
        FIONREAD => {
            let n = match file.stream() {
                Some(stream) => {
                    let any: &dyn core::any::Any = &**stream;
                    match any.downcast_ref::<pipe::PipeEnd>() {
                        Some(end) => end.queued() as u64,
                        None => any.downcast_ref::<Inotify>().ok_or(Errno::ENOTTY)?.queued() as u64,
                    }
                }
                None => file.inode().stat()?.size.saturating_sub(file.position()),
            };
            user::write_u32(argument, n.min(i32::MAX as u64) as u32)?;
            Ok(0)
        }
        FICLONE | FICLONERANGE => clone_file(call, &file, request, argument),
        _ if file.stream().is_some_and(|s| s.is_terminal()) => terminal(call, request, argument),
        _ => Err(Errno::ENOTTY),
    }
}

/// What a socket answers, if the descriptor is one and it knows the request.
fn on_socket(call: &Call<'_>, fd: i32, request: u32, argument: u64) -> Option<SysResult> {
    let (_, socket) = super::socket_calls::socket_of(call, fd).ok()?;
    super::socket_options::ioctl(&socket, request, argument)
}

fn terminal(call: &Call<'_>, request: u32, argument: u64) -> SysResult {
    let terminal = Terminal::get();
    match request {
        TCGETS => {
            let t = terminal.termios();
            let mut out = [0; 36];
            for (i, word) in [t.input, t.output, t.control, t.local].iter().enumerate() {
                out[i * 4..i * 4 + 4].copy_from_slice(&word.to_le_bytes());
            }
            out[17..36].copy_from_slice(&t.chars);
            user::write(argument, &out)?;
        }
        TCSETS..=TCSETSF => {
            let bytes = user::read_bytes(argument, 36)?;
            let word = |i: usize| u32::from_le_bytes([bytes[i], bytes[i + 1], bytes[i + 2], bytes[i + 3]]);
            let mut chars = [0; 19];
            chars.copy_from_slice(&bytes[17..36]);
            terminal.set_termios(Termios {
                input: word(0),
                output: word(4),
                control: word(8),
                local: word(12),
                chars,
            });
        }
        TIOCGWINSZ => user::write(argument, &[24, 0, 80, 0, 0, 0, 0, 0])?,
        TIOCGPGRP => user::write_u32(argument, call.process().pid)?,
        TIOCSPGRP | TIOCSWINSZ => {}
        // Becoming or giving up the controlling terminal.
        0x540e | 0x5422 => {}
        _ => return Err(Errno::ENOTTY),
    }
    Ok(0)
}
