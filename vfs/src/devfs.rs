//! `/dev`: device files on a tmpfs, and the devices that need no driver.

use crate::errno::{Errno, Result};
use crate::inode::{FileSystem, Stream};
use crate::ops::Devices;
use crate::tmpfs::Tmpfs;
use crate::types::{FileType, New, OpenFlags, makedev, splitdev};
use alloc::sync::Arc;
use platform::clock::Clock;
use platform::random::Random;

/// What `/dev` may hold before it answers `ENOSPC`: `/dev/shm` lives here.
const LIMIT: u64 = 1 << 30;

/// A `/dev` with the usual files, as file system number `dev`.
pub fn new(dev: u64, clock: Arc<dyn Clock>) -> Result<Arc<dyn FileSystem>> {
    let fs = Tmpfs::new("devtmpfs", dev, LIMIT, clock);
    let root = fs.root();
    for (name, major, minor, mode) in [
        ("null", 1, 3, 0o666),
        ("zero", 1, 5, 0o666),
        ("full", 1, 7, 0o666),
        ("random", 1, 8, 0o666),
        ("urandom", 1, 9, 0o666),
        ("tty", 5, 0, 0o666),
        ("console", 5, 1, 0o600),
        ("ttyS0", 4, 64, 0o600),
    ] {
        let new = New { rdev: makedev(major, minor), ..New::new(FileType::CharDevice, mode) };
        root.create(name.as_bytes(), &new)?;
    }
    for (name, target) in [
        ("fd", "/proc/self/fd"),
        ("stdin", "/proc/self/fd/0"),
        ("stdout", "/proc/self/fd/1"),
        ("stderr", "/proc/self/fd/2"),
    ] {
        let new = New { target: target.into(), ..New::new(FileType::Symlink, 0o777) };
        root.create(name.as_bytes(), &new)?;
    }
    root.create(b"shm", &New::new(FileType::Directory, 0o1777))?;
    Ok(fs)
}

/// The memory devices, and the console if the machine has one.
pub struct Builtin {
    random: Arc<dyn Random>,
    console: Option<Arc<dyn Stream>>,
}

impl Builtin {
    /// Devices that draw on `random` and `console`.
    #[must_use]
    pub fn new(random: Arc<dyn Random>, console: Option<Arc<dyn Stream>>) -> Self {
        Builtin { random, console }
    }
}

impl Devices for Builtin {
    fn open(&self, kind: FileType, rdev: u64, _flags: OpenFlags) -> Result<Arc<dyn Stream>> {
        if kind != FileType::CharDevice {
            return Err(Errno::ENXIO);
        }
        Ok(match splitdev(rdev) {
            (1, 3) => Arc::new(Null),
            (1, 5) => Arc::new(Zero { full: false }),
            (1, 7) => Arc::new(Zero { full: true }),
            (1, 8 | 9) => Arc::new(Entropy(Arc::clone(&self.random))),
            (5, 0 | 1) | (4, 64) => return self.console.clone().ok_or(Errno::ENXIO),
            _ => return Err(Errno::ENXIO),
        })
    }
}

struct Null;

impl Stream for Null {
    fn read(&self, _buf: &mut [u8], _nonblock: bool) -> Result<usize> {
        Ok(0)
    }
    fn write(&self, data: &[u8], _nonblock: bool) -> Result<usize> {
        Ok(data.len())
    }
}

struct Zero {
    full: bool,
}

impl Stream for Zero {
    fn read(&self, buf: &mut [u8], _nonblock: bool) -> Result<usize> {
        buf.fill(0);
        Ok(buf.len())
    }
    fn write(&self, data: &[u8], _nonblock: bool) -> Result<usize> {
        if self.full { Err(Errno::ENOSPC) } else { Ok(data.len()) }
    }
}

struct Entropy(Arc<dyn Random>);

impl Stream for Entropy {
    fn read(&self, buf: &mut [u8], _nonblock: bool) -> Result<usize> {
        self.0.fill(buf);
        Ok(buf.len())
    }
    fn write(&self, data: &[u8], _nonblock: bool) -> Result<usize> {
        Ok(data.len())
    }
}
