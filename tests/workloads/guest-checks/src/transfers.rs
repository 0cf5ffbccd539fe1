//! Copying between descriptors inside the kernel.

use std::fs::{self, File};
use std::io::{ErrorKind, Read, Seek};
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::net::UnixStream;
use std::ptr::null_mut;

pub fn say<T>(result: std::io::Result<T>, what: &str) -> Result<T, String> {
    result.map_err(|e| format!("{what}: {e}"))
}

pub fn copy_file_range(from: RawFd, to: RawFd, len: usize) -> std::io::Result<usize> {
    // SAFETY: no pointers but null ones.
    let n = unsafe { libc::copy_file_range(from, null_mut(), to, null_mut(), len, 0) };
    usize::try_from(n).map_err(|_| std::io::Error::last_os_error())
}

/// `copy_file_range` is for regular files; what it refuses does not move.
fn ranges(bytes: &[u8]) -> Result<(), String> {
    let (mut from, mut to) =
        (say(File::open("/data/from"), "open")?, say(File::create("/data/to"), "create")?);
    let (near, _far) = say(UnixStream::pair(), "socketpair")?;
    let folder = say(File::open("/data"), "open")?;
    for (refusing, error) in [(near.as_raw_fd(), libc::EINVAL), (folder.as_raw_fd(), libc::EISDIR)] {
        let got = copy_file_range(from.as_raw_fd(), refusing, 1000).map_err(|e| e.raw_os_error());
        if got != Err(Some(error)) || say(from.stream_position(), "lseek")? != 0 {
            return Err(format!("copy_file_range to no regular file: {got:?}, wanted {error}"));
        }
    }
    while say(copy_file_range(from.as_raw_fd(), to.as_raw_fd(), bytes.len()), "copy_file_range")? > 0 {}
    let ends = (say(from.stream_position(), "lseek")?, say(to.stream_position(), "lseek")?);
    if ends != (bytes.len() as u64, bytes.len() as u64) || say(fs::read("/data/to"), "read")? != bytes {
        return Err(format!("copy_file_range copied something else, up to {ends:?}"));
    }
    Ok(())
}

/// `sendfile` to a socket that takes only a part at a time: nothing is left out.
fn parts(bytes: &[u8]) -> Result<(), String> {
    let mut from = say(File::open("/data/from"), "open")?;
    let (near, mut far) = say(UnixStream::pair(), "socketpair")?;
    say(near.set_nonblocking(true), "fcntl")?;
    say(far.set_nonblocking(true), "fcntl")?;
    let (mut got, mut piece) = (Vec::new(), vec![0; 3000]);
    while got.len() < bytes.len() {
        // SAFETY: no pointers but a null one.
        let sent = unsafe { libc::sendfile(near.as_raw_fd(), from.as_raw_fd(), null_mut(), bytes.len()) };
        let error = std::io::Error::last_os_error();
        if sent < 0 && error.kind() != ErrorKind::WouldBlock {
            return Err(format!("sendfile: {error}"));
        }
        match far.read(&mut piece) {
            Ok(n) => got.extend_from_slice(&piece[..n]),
            Err(e) if e.kind() == ErrorKind::WouldBlock && sent != 0 => {}
            Err(e) => return Err(format!("read: {e}, after {} bytes", got.len())),
        }
    }
    if got != bytes || say(from.stream_position(), "lseek")? != bytes.len() as u64 {
        return Err("sendfile sent something else".to_owned());
    }
    Ok(())
}

/// The check.
pub fn run() -> Result<String, String> {
    let bytes: Vec<u8> = (0..600_000u32).map(|n| (n.wrapping_mul(n) >> 7) as u8).collect();
    say(fs::write("/data/from", &bytes), "write")?;
    ranges(&bytes)?;
    parts(&bytes)?;
    Ok("copy_file_range, sendfile".to_owned())
}
