//! Values in the caller's memory.

use crate::mm::usercopy;
use alloc::vec::Vec;
use platform::clock::Timespec;
use vfs::Errno;
use vfs::types::PATH_MAX;

pub use usercopy::{read, update_u32, write};

/// Largest piece that a call copies at once, in bytes.
pub const CHUNK: usize = 128 << 10;
/// More than this is never transferred by one call, as on Linux.
pub const MAX_RW: usize = 0x7fff_f000;

/// Reads a 32-bit number.
pub fn read_u32(at: u64) -> Result<u32, Errno> {
    let mut bytes = [0; 4];
    read(at, &mut bytes)?;
    Ok(u32::from_le_bytes(bytes))
}

/// Reads a 64-bit number.
pub fn read_u64(at: u64) -> Result<u64, Errno> {
    let mut bytes = [0; 8];
    read(at, &mut bytes)?;
    Ok(u64::from_le_bytes(bytes))
}

/// Reads `N` 64-bit numbers.
pub fn read_words<const N: usize>(at: u64) -> Result<[u64; N], Errno> {
    let mut bytes = [[0; 8]; N];
    read(at, bytes.as_flattened_mut())?;
    Ok(bytes.map(u64::from_le_bytes))
}

/// Reads bytes; the length is bounded by the caller.
pub fn read_bytes(at: u64, len: usize) -> Result<Vec<u8>, Errno> {
    usercopy::check(at, len)?;
    let mut bytes = alloc::vec![0; len];
    read(at, &mut bytes)?;
    Ok(bytes)
}

/// Writes a 32-bit number.
pub fn write_u32(at: u64, value: u32) -> Result<(), Errno> {
    write(at, &value.to_le_bytes())
}

/// Writes a 64-bit number.
pub fn write_u64(at: u64, value: u64) -> Result<(), Errno> {
    write(at, &value.to_le_bytes())
}

/// Writes 64-bit numbers.
pub fn write_words(at: u64, words: &[u64]) -> Result<(), Errno> {
    let bytes: Vec<u8> = words.iter().flat_map(|w| w.to_le_bytes()).collect();
    write(at, &bytes)
}

/// Reads a zero-terminated string of at most `max` bytes; [`Errno::ENAMETOOLONG`] if it is longer.
pub fn read_string(at: u64, max: usize) -> Result<Vec<u8>, Errno> {
    let mut out = Vec::new();
    let mut at = at;
    while out.len() < max {
        // Never beyond the page: the next one may not exist.
        let n = (4096 - (at % 4096) as usize).min(256).min(max - out.len());
        let mut piece = [0; 256];
        read(at, &mut piece[..n])?;
        if let Some(end) = piece[..n].iter().position(|b| *b == 0) {
            out.extend_from_slice(&piece[..end]);
            return Ok(out);
        }
        out.extend_from_slice(&piece[..n]);
        at += n as u64;
    }
    Err(Errno::ENAMETOOLONG)
}

/// Reads a path.
pub fn read_path(at: u64) -> Result<Vec<u8>, Errno> {
    read_string(at, PATH_MAX)
}

/// Reads a list of strings that ends with a null pointer (`argv`).
pub fn read_strings(at: u64) -> Result<Vec<Vec<u8>>, Errno> {
    let mut out = Vec::new();
    if at == 0 {
        return Ok(out);
    }
    let mut total = 0;
    loop {
        let pointer = read_u64(at + out.len() as u64 * 8)?;
        if pointer == 0 {
            return Ok(out);
        }
        let string = read_string(pointer, 128 << 10)
            .map_err(|e| if e == Errno::ENAMETOOLONG { Errno::E2BIG } else { e })?;
        total += string.len() + 9;
        if total > 2 << 20 {
            return Err(Errno::E2BIG);
        }
        out.push(string);
    }
}

/// Reads a `timespec`; [`Errno::EINVAL`] if it is not a time.
pub fn read_timespec(at: u64) -> Result<Timespec, Errno> {
    let (sec, nsec) = (read_u64(at)? as i64, read_u64(at + 8)?);
    if nsec >= 1_000_000_000 { Err(Errno::EINVAL) } else { Ok(Timespec { sec, nsec: nsec as u32 }) }
}

/// Writes a `timespec`.
pub fn write_timespec(at: u64, time: Timespec) -> Result<(), Errno> {
    write_words(at, &[time.sec as u64, u64::from(time.nsec)])
}

/// A duration in nanoseconds as a `timespec`.
pub fn timespec_of(ns: u64) -> Timespec {
    Timespec { sec: (ns / 1_000_000_000) as i64, nsec: (ns % 1_000_000_000) as u32 }
}

/// A duration in nanoseconds; negative ones are [`Errno::EINVAL`].
pub fn duration(time: Timespec) -> Result<u64, Errno> {
    let sec = u64::try_from(time.sec).map_err(|_| Errno::EINVAL)?;
    Ok(sec.saturating_mul(1_000_000_000).saturating_add(u64::from(time.nsec)))
}

/// Reads an array of `iovec`: addresses and lengths.
pub fn read_iovecs(at: u64, count: u64) -> Result<Vec<(u64, usize)>, Errno> {
    if count > 1024 {
        return Err(Errno::EINVAL);
    }
    usercopy::check(at, count as usize * 16)?;
    let mut total = 0usize;
    (0..count)
        .map(|i| {
            let [address, len] = read_words(at + i * 16)?;
            let len = usize::try_from(len).ok().filter(|l| *l <= isize::MAX as usize).ok_or(Errno::EINVAL)?;
            total = total.checked_add(len).filter(|t| *t <= isize::MAX as usize).ok_or(Errno::EINVAL)?;
            Ok((address, len))
        })
        .collect()
}
