//! `io_uring` and Linux AIO, by their system calls: every result and every byte is looked at. Files in `/data`.

use std::fs::File;
use std::os::fd::AsRawFd;
use std::ptr::null_mut;
use std::sync::atomic::{AtomicU32, Ordering};

const BLOCK: usize = 8192;
const BLOCKS: usize = 64;

fn call(number: i64, args: [u64; 6], what: &str) -> Result<i64, String> {
    // SAFETY: the callers pass addresses of memory of theirs.
    let result = unsafe { libc::syscall(number, args[0], args[1], args[2], args[3], args[4], args[5]) };
    if result < 0 { Err(format!("{what}: {}", std::io::Error::last_os_error())) } else { Ok(result) }
}

fn expect<T: PartialEq + std::fmt::Debug>(found: T, wanted: T, what: &str) -> Result<(), String> {
    if found == wanted { Ok(()) } else { Err(format!("{what}: {found:?}, not {wanted:?}")) }
}

fn pattern(block: usize, seed: u8) -> Vec<u8> {
    (0..BLOCK).map(|i| (i as u8).wrapping_mul(3).wrapping_add(block as u8) ^ seed).collect()
}

fn file(name: &str) -> Result<File, String> {
    let path = format!("/data/{name}");
    let open = std::fs::OpenOptions::new().read(true).write(true).create(true).truncate(true).open(&path);
    open.map_err(|e| format!("{path}: {e}"))
}

/// A ring as a program sees it.
struct Ring {
    fd: i32,
    rings: *mut u8,
    sqes: *mut [u8; 64],
    params: [u32; 30],
}

const NOP: u8 = 0;
const READV: u8 = 1;
const WRITEV: u8 = 2;
const FSYNC: u8 = 3;
const READ_FIXED: u8 = 4;
const POLL_ADD: u8 = 6;
const TIMEOUT: u8 = 11;
const CANCEL: u8 = 14;
const READ: u8 = 22;
const WRITE: u8 = 23;

impl Ring {
    fn new(entries: u32, flags: u32) -> Result<Self, String> {
        let mut params = [0u32; 30];
        params[2] = flags;
        let fd =
            call(425, [entries.into(), params.as_mut_ptr() as u64, 0, 0, 0, 0], "io_uring_setup")? as i32;
        let map = |len: usize, offset: i64| {
            let flags = libc::MAP_SHARED | libc::MAP_POPULATE;
            // SAFETY: a new mapping.
            let at =
                unsafe { libc::mmap(null_mut(), len, libc::PROT_READ | libc::PROT_WRITE, flags, fd, offset) };
            if at == libc::MAP_FAILED {
                Err(format!("mmap: {}", std::io::Error::last_os_error()))
            } else {
                Ok(at)
            }
        };
        let rings = map((params[16] + params[0] * 4) as usize, 0)?.cast();
        let sqes = map(params[0] as usize * 64, 0x1000_0000)?.cast();
        Ok(Ring { fd, rings, sqes, params })
    }

    fn word(&self, offset: u32) -> &AtomicU32 {
        // SAFETY: an offset that the kernel told.
        unsafe { &*self.rings.add(offset as usize).cast() }
    }

    /// Puts a submission in: (opcode, fd, offset, address, length, flags of the operation), and a tag.
    fn push(&self, (op, fd, offset, address, len, flags): (u8, i32, u64, u64, u32, u32), tag: u64) {
        let mut sqe = [0; 64];
        sqe[0] = op;
        sqe[4..8].copy_from_slice(&fd.to_le_bytes());
        sqe[8..16].copy_from_slice(&offset.to_le_bytes());
        sqe[16..24].copy_from_slice(&address.to_le_bytes());
        sqe[24..28].copy_from_slice(&len.to_le_bytes());
        sqe[28..32].copy_from_slice(&flags.to_le_bytes());
        sqe[32..40].copy_from_slice(&tag.to_le_bytes());
        let tail = self.word(self.params[11]);
        let at = tail.load(Ordering::Relaxed);
        let index = at & (self.params[0] - 1);
        // SAFETY: an entry of the ring.
        unsafe { *self.sqes.add(index as usize) = sqe };
        self.word(self.params[16] + index * 4).store(index, Ordering::Relaxed);
        tail.store(at.wrapping_add(1), Ordering::Release);
    }

    fn enter(&self, submit: u32, wait: u32) -> Result<u32, String> {
        let args = [self.fd as u64, submit.into(), wait.into(), u64::from(wait > 0), 0, 0];
        call(426, args, "io_uring_enter").map(|n| n as u32)
    }

    /// The completions that are there: tag and result.
    fn completions(&self) -> Vec<(u64, i32)> {
        let (head, tail) = (self.word(self.params[20]), self.word(self.params[21]));
        let mut out = Vec::new();
        while head.load(Ordering::Relaxed) != tail.load(Ordering::Acquire) {
            let index = head.load(Ordering::Relaxed) & (self.params[1] - 1);
            // SAFETY: a completion that the kernel has finished.
            let cqe =
                unsafe { self.rings.add((self.params[25] + index * 16) as usize).cast::<[u32; 4]>().read() };
            out.push((u64::from(cqe[0]) | u64::from(cqe[1]) << 32, cqe[2] as i32));
            head.fetch_add(1, Ordering::Release);
        }
        out
    }

    /// Submits what was put in, and waits for as many completions; sorted by tag.
    fn run(&self, count: u32) -> Result<Vec<(u64, i32)>, String> {
        let mut done = Vec::new();
        expect(self.enter(count, count)?, count, "submitted")?;
        done.extend(self.completions());
        while done.len() < count as usize {
            self.enter(0, count - done.len() as u32)?;
            done.extend(self.completions());
        }
        done.sort_unstable();
        Ok(done)
    }
}

fn uring() -> Result<(), String> {
    let file = file("uring")?;
    let fd = file.as_raw_fd();
    let ring = Ring::new(32, 0)?;
    // Written by vectors, in batches that fill the ring, at offsets in a mixed order.
    let blocks: Vec<Vec<u8>> = (0..BLOCKS).map(|i| pattern(i, 0x5a)).collect();
    let pieces: Vec<[libc::iovec; 2]> = blocks
        .iter()
        .map(|b| {
            let at = |from: usize, len| libc::iovec { iov_base: b[from..].as_ptr() as *mut _, iov_len: len };
            [at(0, 100), at(100, BLOCK - 100)]
        })
        .collect();
    for batch in 0..BLOCKS / 32 {
        for i in 0..32 {
            let block = (i * 7 % 32) + batch * 32;
            let address = pieces[block].as_ptr() as u64;
            ring.push((WRITEV, fd, (block * BLOCK) as u64, address, 2, 0), block as u64);
        }
        for (tag, result) in ring.run(32)? {
            expect(result, BLOCK as i32, &format!("writing block {tag}"))?;
        }
    }
    ring.push((FSYNC, fd, 0, 0, 0, 1), 1);
    expect(ring.run(1)?, vec![(1, 0)], "fsync")?;
    // Read back by both forms, the fixed one from a registered buffer.
    let mut buffers = vec![0u8; BLOCKS * BLOCK];
    let registered = libc::iovec { iov_base: buffers.as_mut_ptr().cast(), iov_len: buffers.len() };
    call(427, [ring.fd as u64, 0, &raw const registered as u64, 1, 0, 0], "registering a buffer")?;
    for batch in 0..BLOCKS / 32 {
        for i in 0..32 {
            let block = batch * 32 + i;
            let address = buffers[block * BLOCK..].as_mut_ptr() as u64;
            let op = if i % 2 == 0 { READ } else { READ_FIXED };
            ring.push((op, fd, (block * BLOCK) as u64, address, BLOCK as u32, 0), block as u64);
        }
        for (tag, result) in ring.run(32)? {
            expect(result, BLOCK as i32, &format!("reading block {tag}"))?;
        }
    }
    if let Some(wrong) = (0..BLOCKS).find(|i| buffers[i * BLOCK..(i + 1) * BLOCK] != blocks[*i]) {
        return Err(format!("block {wrong} is not what was written"));
    }
    // Errors come as results.
    ring.push((READ, fd, 0, 8, 16, 0), 1);
    ring.push((READ, -1, 0, buffers.as_ptr() as u64, 16, 0), 2);
    ring.push((READV, fd, 0, 8, 1, 0), 3);
    ring.push((READ_FIXED, fd, 0, 4096, 16, 0), 4);
    ring.push((200, fd, 0, 0, 0, 0), 5);
    ring.push((READ, fd, (BLOCKS * BLOCK) as u64, buffers.as_ptr() as u64, 16, 0), 6);
    let wanted = [-libc::EFAULT, -libc::EBADF, -libc::EFAULT, -libc::EFAULT, -libc::EINVAL, 0];
    expect(ring.run(6)?, (1..).zip(wanted).collect::<Vec<_>>(), "errors")?;
    // More completions than the ring holds are kept.
    for round in 0..4 {
        (0..32).for_each(|i| ring.push((NOP, -1, 0, 0, 0, 0), round * 32 + i));
        expect(ring.enter(32, 0)?, 32, "submitted")?;
    }
    let mut tags: Vec<u64> = Vec::new();
    while tags.len() < 128 {
        ring.enter(0, 1)?;
        tags.extend(ring.completions().iter().map(|c| c.0));
    }
    expect(tags, (0..128).collect(), "completions beyond the ring")?;
    waiting(&ring)?;
    // What we do not have is refused.
    let mut params = [0u32; 30];
    params[2] = 2;
    let refused = call(425, [8, params.as_mut_ptr() as u64, 0, 0, 0, 0], "");
    let with_poll_thread = std::io::Error::last_os_error().raw_os_error();
    expect((refused.is_err(), with_poll_thread), (true, Some(libc::EINVAL)), "IORING_SETUP_SQPOLL")
}

/// Requests that wait: for a pipe, for a time, and called off.
fn waiting(ring: &Ring) -> Result<(), String> {
    let mut pipe = [0; 2];
    let mut buffer = [0u8; 16];
    // SAFETY: room for two descriptors.
    expect(unsafe { libc::pipe(pipe.as_mut_ptr()) }, 0, "pipe")?;
    ring.push((POLL_ADD, pipe[0], 0, 0, 0, libc::POLLIN as u32), 1);
    ring.push((READ, pipe[0], u64::MAX, buffer.as_mut_ptr() as u64, 16, 0), 2);
    expect(ring.enter(2, 0)?, 2, "submitted")?;
    expect(ring.completions(), vec![], "nothing to read yet")?;
    // SAFETY: bytes of ours.
    expect(unsafe { libc::write(pipe[1], b"seven..".as_ptr().cast(), 7) }, 7, "write")?;
    ring.enter(0, 2)?;
    let mut done = ring.completions();
    done.sort_unstable();
    expect(done, vec![(1, libc::POLLIN as i32), (2, 7)], "poll and read of a pipe")?;
    expect(&buffer[..7], b"seven..", "the pipe's bytes")?;
    let time = libc::timespec { tv_sec: 0, tv_nsec: 3_000_000 };
    ring.push((TIMEOUT, -1, 0, &raw const time as u64, 1, 0), 3);
    expect(ring.run(1)?, vec![(3, -libc::ETIME)], "a timeout")?;
    ring.push((POLL_ADD, pipe[0], 0, 0, 0, libc::POLLIN as u32), 4);
    ring.enter(1, 0)?;
    ring.push((CANCEL, -1, 0, 4, 0, 0), 5);
    ring.push((CANCEL, -1, 0, 77, 0, 0), 6);
    ring.enter(2, 3)?;
    let mut done = ring.completions();
    done.sort_unstable();
    expect(done, vec![(4, -libc::ECANCELED), (5, 0), (6, -libc::ENOENT)], "cancelling")?;
    ring.push((WRITE, pipe[1], u64::MAX, b"x".as_ptr() as u64, 1, 0), 7);
    expect(ring.run(1)?, vec![(7, 1)], "a write to a pipe")
}

fn aio() -> Result<(), String> {
    let file = file("aio")?;
    // SAFETY: no arguments in memory.
    let event = unsafe { libc::eventfd(0, 0) };
    let mut context = 0u64;
    call(libc::SYS_io_setup, [BLOCKS as u64, &raw mut context as u64, 0, 0, 0, 0], "io_setup")?;
    let iocb = |op: u64, block: usize, buffer: u64| -> [u64; 8] {
        let fd = file.as_raw_fd() as u64;
        let tail = 1 | (event as u64) << 32;
        [block as u64 + 1000, 0, op | fd << 32, buffer, BLOCK as u64, (block * BLOCK) as u64, 0, tail]
    };
    let run = |iocbs: &[[u64; 8]]| -> Result<Vec<[u64; 4]>, String> {
        let pointers: Vec<u64> = iocbs.iter().map(|i| i.as_ptr() as u64).collect();
        let n = iocbs.len() as u64;
        let taken = call(libc::SYS_io_submit, [context, n, pointers.as_ptr() as u64, 0, 0, 0], "io_submit")?;
        expect(taken as u64, n, "taken")?;
        let mut events = vec![[0u64; 4]; iocbs.len()];
        let args = [context, n, n, events.as_mut_ptr() as u64, 0, 0];
        expect(call(libc::SYS_io_getevents, args, "io_getevents")? as u64, n, "events")?;
        events.sort_unstable();
        Ok(events)
    };
    let blocks: Vec<Vec<u8>> = (0..BLOCKS).map(|i| pattern(i, 0xa5)).collect();
    let writes: Vec<_> = (0..BLOCKS).map(|i| iocb(1, i, blocks[i].as_ptr() as u64)).collect();
    for (i, event) in run(&writes)?.iter().enumerate() {
        let wanted = [i as u64 + 1000, writes[i].as_ptr() as u64, BLOCK as u64, 0];
        expect(*event, wanted, "a write's event")?;
    }
    let mut buffers = vec![0u8; BLOCKS * BLOCK];
    let base = buffers.as_mut_ptr() as u64;
    let reads: Vec<_> = (0..BLOCKS).map(|i| iocb(0, i, base + (i * BLOCK) as u64)).collect();
    run(&reads)?.iter().try_for_each(|e| expect(e[2], BLOCK as u64, "a read's event"))?;
    if let Some(wrong) = (0..BLOCKS).find(|i| buffers[i * BLOCK..(i + 1) * BLOCK] != blocks[*i]) {
        return Err(format!("aio: block {wrong} is not what was written"));
    }
    let mut count = 0;
    // SAFETY: a counter of ours.
    expect(
        (unsafe { libc::eventfd_read(event, &raw mut count) }, count),
        (0, 2 * BLOCKS as u64),
        "the eventfd",
    )?;
    let wild = [iocb(0, 0, 8)];
    expect(run(&wild)?[0][2] as i64, -i64::from(libc::EFAULT), "a read to nowhere")?;
    call(libc::SYS_io_destroy, [context, 0, 0, 0, 0, 0], "io_destroy").map(drop)
}

/// The check.
pub fn run() -> Result<String, String> {
    uring()?;
    aio()?;
    Ok(format!("{BLOCKS} blocks by io_uring and by aio"))
}
