//! `struct stat`, `struct statx`, `struct statfs` as bytes.

use platform::clock::Timespec;
use vfs::types::{Stat, StatFs, splitdev};

struct Bytes<'a>(&'a mut [u8]);

impl Bytes<'_> {
    fn u16(&mut self, at: usize, value: u16) {
        self.0[at..at + 2].copy_from_slice(&value.to_le_bytes());
    }
    fn u32(&mut self, at: usize, value: u32) {
        self.0[at..at + 4].copy_from_slice(&value.to_le_bytes());
    }
    fn u64(&mut self, at: usize, value: u64) {
        self.0[at..at + 8].copy_from_slice(&value.to_le_bytes());
    }
    fn time(&mut self, at: usize, time: Timespec) {
        self.u64(at, time.sec as u64);
        self.u64(at + 8, u64::from(time.nsec));
    }
    fn statx_time(&mut self, at: usize, time: Timespec) {
        self.u64(at, time.sec as u64);
        self.u32(at + 8, time.nsec);
    }
}

/// `struct stat` (x86-64).
pub fn stat(s: &Stat) -> [u8; 144] {
    let mut out = [0; 144];
    let mut b = Bytes(&mut out);
    b.u64(0, s.dev);
    b.u64(8, s.ino);
    b.u64(16, s.nlink);
    b.u32(24, s.mode);
    b.u32(28, s.uid);
    b.u32(32, s.gid);
    b.u64(40, s.rdev);
    b.u64(48, s.size);
    b.u64(56, u64::from(s.blksize));
    b.u64(64, s.blocks);
    b.time(72, s.atime);
    b.time(88, s.mtime);
    b.time(104, s.ctime);
    out
}

/// `struct statx`: the basic fields and the time of creation.
pub fn statx(s: &Stat) -> [u8; 256] {
    let mut out = [0; 256];
    let mut b = Bytes(&mut out);
    b.u32(0, 0xfff);
    b.u32(4, s.blksize);
    b.u32(16, s.nlink as u32);
    b.u32(20, s.uid);
    b.u32(24, s.gid);
    b.u16(28, s.mode as u16);
    b.u64(32, s.ino);
    b.u64(40, s.size);
    b.u64(48, s.blocks);
    b.statx_time(64, s.atime);
    b.statx_time(80, s.btime);
    b.statx_time(96, s.ctime);
    b.statx_time(112, s.mtime);
    let (major, minor) = splitdev(s.rdev);
    b.u32(128, major);
    b.u32(132, minor);
    let (major, minor) = splitdev(s.dev);
    b.u32(136, major);
    b.u32(140, minor);
    out
}

/// `struct statfs` (x86-64).
pub fn statfs(s: &StatFs) -> [u8; 120] {
    let mut out = [0; 120];
    let mut b = Bytes(&mut out);
    b.u64(0, s.magic);
    b.u64(8, s.block_size);
    b.u64(16, s.blocks);
    b.u64(24, s.free);
    b.u64(32, s.free);
    b.u64(40, s.files);
    b.u64(48, s.files_free);
    b.u64(56, s.fsid);
    b.u64(64, s.name_max);
    b.u64(72, s.block_size);
    out
}
