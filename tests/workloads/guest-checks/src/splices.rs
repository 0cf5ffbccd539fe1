//! `splice`, `tee` and `vmsplice`.

use crate::transfers::say;
use std::fs::{self, File};
use std::io::{Error, Read, Seek, Write};
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::net::UnixStream;
use std::ptr::null_mut;

const NONBLOCK: u32 = libc::SPLICE_F_NONBLOCK;

type Moved = Result<usize, i32>;

fn moved(result: isize) -> Moved {
    usize::try_from(result).map_err(|_| Error::last_os_error().raw_os_error().unwrap_or(0))
}

fn splice(
    from: RawFd,
    from_at: Option<&mut i64>,
    to: RawFd,
    to_at: Option<&mut i64>,
    len: usize,
    flags: u32,
) -> Moved {
    let pointer = |at: Option<&mut i64>| at.map_or(null_mut(), |at| &raw mut *at);
    // SAFETY: pointers to numbers of ours, or none.
    moved(unsafe { libc::splice(from, pointer(from_at), to, pointer(to_at), len, flags) })
}

fn tee(from: RawFd, to: RawFd, len: usize, flags: u32) -> Moved {
    // SAFETY: no pointers.
    moved(unsafe { libc::tee(from, to, len, flags) })
}

fn vmsplice(fd: RawFd, buffers: &mut [&mut [u8]], flags: u32) -> Moved {
    let parts: Vec<libc::iovec> = buffers
        .iter_mut()
        .map(|b| libc::iovec { iov_base: b.as_mut_ptr().cast(), iov_len: b.len() })
        .collect();
    // SAFETY: buffers of ours.
    moved(unsafe { libc::vmsplice(fd, parts.as_ptr(), parts.len(), flags) })
}

fn wanted<T: PartialEq + std::fmt::Debug>(got: T, wanted: T, what: &str) -> Result<(), String> {
    if got == wanted { Ok(()) } else { Err(format!("{what}: {got:?}, not {wanted:?}")) }
}

fn pipe() -> Result<(std::io::PipeReader, std::io::PipeWriter), String> {
    say(std::io::pipe(), "pipe")
}

/// A file into a pipe and out of it into another file, by offsets and by positions.
fn files(bytes: &[u8]) -> Result<(), String> {
    let (mut from, mut to) =
        (say(File::open("/data/from"), "open")?, say(File::create("/data/to"), "create")?);
    let (r, w) = pipe()?;
    let (mut at, mut there) = (1000i64, 77i64);
    let n = splice(from.as_raw_fd(), Some(&mut at), w.as_raw_fd(), None, 10_000, 0);
    wanted((n, at), (Ok(10_000), 11_000), "a file into a pipe")?;
    let n = splice(r.as_raw_fd(), None, to.as_raw_fd(), Some(&mut there), 20_000, 0);
    wanted((n, there), (Ok(10_000), 10_077), "a pipe into a file")?;
    let ends = (say(from.stream_position(), "lseek")?, say(to.stream_position(), "lseek")?);
    wanted(ends, (0, 0), "positions moved with offsets")?;
    wanted(say(fs::read("/data/to"), "read")?[77..] == bytes[1000..11_000], true, "the copied bytes")?;
    let mut done = 0;
    while done < bytes.len() {
        let n = splice(from.as_raw_fd(), None, w.as_raw_fd(), None, bytes.len(), 0);
        let n = n.map_err(|e| format!("splice to a pipe: {e}"))?;
        let mut left = n;
        while left > 0 {
            left -= splice(r.as_raw_fd(), None, to.as_raw_fd(), None, left, 0)
                .map_err(|e| format!("splice: {e}"))?;
        }
        done += n;
    }
    wanted(say(from.stream_position(), "lseek")?, bytes.len() as u64, "the position")?;
    wanted(say(fs::read("/data/to"), "read")? == bytes, true, "the bytes by position")?;
    wanted(splice(from.as_raw_fd(), None, w.as_raw_fd(), None, 10, 0), Ok(0), "the end of a file")?;
    drop(w);
    wanted(splice(r.as_raw_fd(), None, to.as_raw_fd(), None, 10, 0), Ok(0), "the end of a pipe")
}

/// A pipe into a socket that takes only a part at a time, and a socket into a pipe: nothing is left out.
fn sockets(bytes: &[u8]) -> Result<(), String> {
    let (near, mut far) = say(UnixStream::pair(), "socketpair")?;
    let (r, mut w) = pipe()?;
    say(near.set_nonblocking(true), "fcntl")?;
    say(far.set_nonblocking(true), "fcntl")?;
    let (mut given, mut got, mut piece) = (0, Vec::new(), vec![0; 3000]);
    while got.len() < bytes.len() {
        let mut held = 0i32;
        // SAFETY: a number of ours.
        unsafe { libc::ioctl(r.as_raw_fd(), libc::FIONREAD, &raw mut held) };
        if held < 50_000 {
            let n = (bytes.len() - given).min(4000);
            say(w.write_all(&bytes[given..given + n]), "write")?;
            given += n;
        }
        let sent = splice(r.as_raw_fd(), None, near.as_raw_fd(), None, 30_000, NONBLOCK);
        if !matches!(sent, Ok(_) | Err(libc::EAGAIN)) {
            return Err(format!("a pipe into a socket: {sent:?}"));
        }
        if let Ok(n) = far.read(&mut piece) {
            got.extend_from_slice(&piece[..n]);
        }
    }
    wanted(got == bytes, true, "a socket got other bytes")?;
    say(far.write_all(&bytes[..9000]), "write")?;
    let (mut r, w) = pipe()?;
    let mut done = 0;
    while done < 9000 {
        done += splice(near.as_raw_fd(), None, w.as_raw_fd(), None, 9000, 0)
            .map_err(|e| format!("splice: {e}"))?;
    }
    wanted(splice(near.as_raw_fd(), None, w.as_raw_fd(), None, 1, 0), Err(libc::EAGAIN), "an empty socket")?;
    let mut back = vec![0; 9000];
    say(r.read_exact(&mut back), "read")?;
    wanted(back == bytes[..9000], true, "a pipe got other bytes")
}

fn pipes() -> Result<(), String> {
    let ((mut r, mut w), (mut other_r, other_w)) = (pipe()?, pipe()?);
    let fds = (r.as_raw_fd(), other_w.as_raw_fd());
    wanted(tee(fds.0, fds.1, 100, NONBLOCK), Err(libc::EAGAIN), "tee of nothing")?;
    say(w.write_all(b"abcdef"), "write")?;
    wanted(tee(fds.0, fds.1, 4, 0), Ok(4), "tee")?;
    wanted(splice(fds.0, None, fds.1, None, 100, 0), Ok(6), "splice between pipes")?;
    let mut back = [0; 10];
    say(other_r.read_exact(&mut back), "read")?;
    wanted(&back, b"abcdabcdef", "what tee and splice left")?;
    // Memory, in pieces.
    let (mut one, mut two) = (*b"012", *b"3456789");
    wanted(vmsplice(w.as_raw_fd(), &mut [&mut one, &mut two], 0), Ok(10), "vmsplice into a pipe")?;
    let (mut one, mut two) = ([0; 4], [0; 100]);
    wanted(vmsplice(r.as_raw_fd(), &mut [&mut one, &mut two], 0), Ok(10), "vmsplice out of a pipe")?;
    wanted((&one, &two[..6]), (b"0123", &b"456789"[..]), "the bytes")?;
    wanted(vmsplice(r.as_raw_fd(), &mut [&mut one], NONBLOCK), Err(libc::EAGAIN), "vmsplice of nothing")?;
    // A full one takes a part, then nothing.
    let mut much = vec![7; 100_000];
    // Linux counts pages, which lie where the buffer does.
    let held =
        vmsplice(w.as_raw_fd(), &mut [&mut much], 0).map_err(|e| format!("vmsplice of too much: {e}"))?;
    wanted((60_000..=65_536).contains(&held), true, "what a pipe holds")?;
    wanted(
        vmsplice(w.as_raw_fd(), &mut [&mut much], NONBLOCK),
        Err(libc::EAGAIN),
        "vmsplice into a full pipe",
    )?;
    let file = say(File::open("/data/from"), "open")?;
    let full = splice(file.as_raw_fd(), None, w.as_raw_fd(), None, 10, NONBLOCK);
    wanted(full, Err(libc::EAGAIN), "splice into a full pipe")?;
    // Somebody waits, and is woken.
    say(r.read_exact(&mut vec![0; held]), "read")?;
    std::thread::scope(|scope| {
        let waits = scope.spawn(|| splice(fds.0, None, fds.1, None, 5, 0));
        std::thread::sleep(std::time::Duration::from_millis(20));
        say(w.write_all(b"late!"), "write")?;
        wanted(waits.join().map_err(|_| "panic".to_owned())?, Ok(5), "a splice that waits")
    })?;
    drop(other_r);
    say(w.write_all(b"x"), "write")?;
    // The standard library ignores SIGPIPE.
    wanted(splice(fds.0, None, fds.1, None, 5, 0), Err(libc::EPIPE), "splice to nobody")?;
    wanted(tee(fds.0, fds.1, 5, 0), Err(libc::EPIPE), "tee to nobody")?;
    let mut back = [0; 1];
    say(r.read_exact(&mut back), "read")?;
    wanted(&back, b"x", "the byte that went nowhere")
}

fn refusals() -> Result<(), String> {
    let (r, w) = pipe()?;
    let file = say(File::options().read(true).write(true).open("/data/to"), "open")?;
    let reading = say(File::open("/data/from"), "open")?;
    let append = say(File::options().append(true).open("/data/to"), "open")?;
    let folder = say(File::open("/data"), "open")?;
    let [r, w, f, reading, append, folder] = [
        r.as_raw_fd(),
        w.as_raw_fd(),
        file.as_raw_fd(),
        reading.as_raw_fd(),
        append.as_raw_fd(),
        folder.as_raw_fd(),
    ];
    let mut at = 0;
    let mut negative = -1;
    for (got, error, what) in [
        (splice(reading, None, f, None, 1, 0), libc::EINVAL, "no pipe"),
        (splice(r, None, w, None, 1, 0), libc::EINVAL, "one pipe"),
        (tee(r, w, 1, 0), libc::EINVAL, "tee of one pipe"),
        (tee(reading, w, 1, 0), libc::EINVAL, "tee of a file"),
        (splice(r, Some(&mut at), f, None, 1, 0), libc::ESPIPE, "an offset in a pipe"),
        (splice(f, None, w, Some(&mut at), 1, 0), libc::ESPIPE, "an offset in a pipe"),
        (splice(f, Some(&mut negative), w, None, 1, 0), libc::EINVAL, "a negative offset"),
        (splice(r, None, append, None, 1, 0), libc::EINVAL, "O_APPEND"),
        (splice(folder, None, w, None, 1, 0), libc::EINVAL, "a folder"),
        (splice(r, None, reading, None, 1, 0), libc::EBADF, "a file that is only read"),
        (splice(w, None, f, None, 1, 0), libc::EBADF, "the wrong end"),
        (splice(-1, None, w, None, 1, 0), libc::EBADF, "no descriptor"),
        (splice(f, None, w, None, 1, 16), libc::EINVAL, "a flag that there is not"),
        (vmsplice(f, &mut [&mut [1]], 0), libc::EBADF, "vmsplice to a file"),
        (splice(r, None, f, None, 1, NONBLOCK), libc::EAGAIN, "an empty pipe"),
    ] {
        wanted(got, Err(error), what)?;
    }
    wanted(splice(r, None, f, None, 0, 0), Ok(0), "nothing at all")
}

/// The check.
pub fn run() -> Result<String, String> {
    let bytes: Vec<u8> = (0..300_000u32).map(|n| (n.wrapping_mul(n) >> 5) as u8).collect();
    say(fs::write("/data/from", &bytes), "write")?;
    files(&bytes)?;
    sockets(&bytes)?;
    pipes()?;
    refusals()?;
    Ok("splice, tee, vmsplice".to_owned())
}
