//! Pipes and named pipes: a bounded queue of bytes with counted ends.

use crate::errno::{Errno, Result};
use crate::inode::{Ready, Stream};
use crate::wait::{Waiters, wait_on};
use alloc::collections::VecDeque;
use alloc::sync::Arc;
use alloc::vec::Vec;
use platform::sync::Mutex;

/// How many bytes a pipe holds, as on Linux.
pub const PIPE_SIZE: usize = 65536;
/// Writes up to this many bytes are never split.
pub const PIPE_BUF: usize = 4096;

#[derive(Default)]
struct State {
    bytes: VecDeque<u8>,
    readers: usize,
    writers: usize,
    // How often each side was ever opened: a peer may come and go before the other side looks.
    reader_opens: u64,
    writer_opens: u64,
}

/// The queue that both ends share.
#[derive(Default)]
pub struct Pipe {
    state: Mutex<State>,
    waiters: Waiters,
}

/// One opened end (or both, for a named pipe opened for reading and writing).
pub struct PipeEnd {
    pipe: Arc<Pipe>,
    reads: bool,
    writes: bool,
}

impl State {
    fn open(&mut self, reads: bool, writes: bool) {
        self.readers += usize::from(reads);
        self.writers += usize::from(writes);
        self.reader_opens += u64::from(reads);
        self.writer_opens += u64::from(writes);
    }

    fn room(&self) -> usize {
        PIPE_SIZE.saturating_sub(self.bytes.len())
    }
}

impl Pipe {
    /// Opens an end.
    #[must_use]
    pub fn open(self: &Arc<Self>, reads: bool, writes: bool) -> Arc<PipeEnd> {
        let mut state = self.state.lock();
        state.open(reads, writes);
        drop(state);
        self.waiters.wake();
        Arc::new(PipeEnd { pipe: Arc::clone(self), reads, writes })
    }

    /// Opens one end of a named pipe and waits until the other side is open, as `open(2)` does.
    pub fn open_and_wait(self: &Arc<Self>, reads: bool) -> Result<Arc<PipeEnd>> {
        let peer = |state: &State| match reads {
            true => (state.writers, state.writer_opens),
            false => (state.readers, state.reader_opens),
        };
        let mut state = self.state.lock();
        state.open(reads, !reads);
        let (present, before) = peer(&state);
        drop(state);
        self.waiters.wake();
        let end = Arc::new(PipeEnd { pipe: Arc::clone(self), reads, writes: !reads });
        if present == 0 {
            wait_on(&[&self.waiters], None, || (peer(&self.state.lock()).1 != before).then_some(()))?;
        }
        Ok(end)
    }

    /// Whether somebody has it open for reading.
    #[must_use]
    pub fn has_reader(&self) -> bool {
        self.state.lock().readers > 0
    }
}

/// A new pipe: the end to read from and the end to write to.
#[must_use]
pub fn pipe() -> (Arc<PipeEnd>, Arc<PipeEnd>) {
    let pipe = Arc::new(Pipe::default());
    (pipe.open(true, false), pipe.open(false, true))
}

impl PipeEnd {
    /// Bytes that wait to be read (`FIONREAD`).
    #[must_use]
    pub fn queued(&self) -> usize {
        self.pipe.state.lock().bytes.len()
    }

    fn try_read(&self, buf: &mut [u8]) -> Option<usize> {
        let mut state = self.pipe.state.lock();
        if state.bytes.is_empty() {
            return (state.writers == 0).then_some(0);
        }
        let n = buf.len().min(state.bytes.len());
        for (to, from) in buf.iter_mut().zip(state.bytes.drain(..n)) {
            *to = from;
        }
        Some(n)
    }

    /// Whether both are ends of one pipe.
    #[must_use]
    pub fn is_of_same_pipe(&self, other: &PipeEnd) -> bool {
        Arc::ptr_eq(&self.pipe, &other.pipe)
    }

    fn wait<T>(&self, nonblock: bool, mut ready: impl FnMut(&State) -> Option<T>) -> Result<T> {
        let mut ready = || ready(&self.pipe.state.lock());
        if nonblock { ready().ok_or(Errno::EAGAIN) } else { wait_on(&[&self.pipe.waiters], None, ready) }
    }

    /// A copy of the next bytes, `limit` at most, which stay where they are. Waits for them unless `nonblock`; none at the end.
    pub fn peek(&self, limit: usize, nonblock: bool) -> Result<Vec<u8>> {
        if !self.reads {
            return Err(Errno::EBADF);
        }
        self.wait(nonblock, |state| {
            let bytes = || state.bytes.iter().take(limit).copied().collect();
            (!state.bytes.is_empty() || state.writers == 0).then(bytes)
        })
    }

    /// Puts bytes that were read and have gone nowhere before the next ones.
    pub fn put_back(&self, data: &[u8]) {
        let mut state = self.pipe.state.lock();
        // It may hold more than it should now, by what was written meanwhile: then no room is left.
        data.iter().rev().for_each(|byte| state.bytes.push_front(*byte));
        drop(state);
        self.pipe.waiters.wake();
    }

    /// For how many bytes there is room; waits until there is some unless `nonblock`. [`Errno::EPIPE`] if nobody reads.
    pub fn room(&self, nonblock: bool) -> Result<usize> {
        if !self.writes {
            return Err(Errno::EBADF);
        }
        self.wait(nonblock, |state| match state.room() {
            _ if state.readers == 0 => Some(Err(Errno::EPIPE)),
            0 => None,
            room => Some(Ok(room)),
        })?
    }

    /// Adds bytes for which there was [`PipeEnd::room`] a moment ago, whether there still is or not: where they come from they cannot
    /// go back to. [`Errno::EPIPE`] if nobody reads.
    pub fn add(&self, data: &[u8]) -> Result<()> {
        let mut state = self.pipe.state.lock();
        if state.readers == 0 {
            return Err(Errno::EPIPE);
        }
        state.bytes.extend(data);
        drop(state);
        self.pipe.waiters.wake();
        Ok(())
    }

    fn try_write(&self, data: &[u8]) -> Option<Result<usize>> {
        let mut state = self.pipe.state.lock();
        if state.readers == 0 {
            return Some(Err(Errno::EPIPE));
        }
        let room = state.room();
        // A small write goes whole or waits; a large one takes what room there is.
        if room == 0 || data.len() <= PIPE_BUF && room < data.len() {
            return None;
        }
        let n = room.min(data.len());
        state.bytes.extend(&data[..n]);
        Some(Ok(n))
    }
}

impl Stream for PipeEnd {
    fn read(&self, buf: &mut [u8], nonblock: bool) -> Result<usize> {
        if !self.reads {
            return Err(Errno::EBADF);
        }
        if buf.is_empty() {
            return Ok(0);
        }
        let n = if nonblock {
            self.try_read(buf).ok_or(Errno::EAGAIN)?
        } else {
            wait_on(&[&self.pipe.waiters], None, || self.try_read(buf))?
        };
        self.pipe.waiters.wake();
        Ok(n)
    }

    fn write(&self, data: &[u8], nonblock: bool) -> Result<usize> {
        if !self.writes {
            return Err(Errno::EBADF);
        }
        let mut done = 0;
        while done < data.len() {
            let rest = &data[done..];
            let step = if nonblock {
                self.try_write(rest).unwrap_or(Err(Errno::EAGAIN))
            } else {
                wait_on(&[&self.pipe.waiters], None, || self.try_write(rest)).and_then(|r| r)
            };
            match step {
                Ok(n) => done += n,
                Err(_) if done > 0 => break,
                Err(error) => return Err(error),
            }
            self.pipe.waiters.wake();
        }
        Ok(done)
    }

    fn ready(&self) -> Ready {
        let state = self.pipe.state.lock();
        let mut bits = 0;
        if self.reads {
            bits |= if state.bytes.is_empty() { 0 } else { Ready::IN };
            bits |= if state.writers == 0 { Ready::HUP } else { 0 };
        }
        if self.writes {
            bits |= if state.bytes.len() + PIPE_BUF <= PIPE_SIZE { Ready::OUT } else { 0 };
            bits |= if state.readers == 0 { Ready::ERR } else { 0 };
        }
        Ready(bits)
    }

    fn waiters(&self) -> Option<&Waiters> {
        Some(&self.pipe.waiters)
    }
}

impl Drop for PipeEnd {
    fn drop(&mut self) {
        let mut state = self.pipe.state.lock();
        state.readers -= usize::from(self.reads);
        state.writers -= usize::from(self.writes);
        drop(state);
        self.pipe.waiters.wake();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec;

    #[test]
    fn bytes_pass_in_order_and_the_end_is_seen() {
        let (r, w) = pipe();
        assert_eq!(w.write(b"hello", true), Ok(5));
        let mut buf = [0; 3];
        assert_eq!(r.read(&mut buf, true), Ok(3));
        assert_eq!(&buf, b"hel");
        assert_eq!(r.ready().0 & Ready::IN, Ready::IN);
        drop(w);
        assert_eq!(r.read(&mut buf, true), Ok(2));
        assert_eq!(r.read(&mut buf, true), Ok(0));
        assert_eq!(r.ready().0, Ready::HUP);
    }

    #[test]
    fn bytes_are_shown_put_back_and_added() {
        let (r, w) = pipe();
        assert!(r.is_of_same_pipe(&w) && !r.is_of_same_pipe(&pipe().0));
        assert_eq!(r.peek(9, true), Err(Errno::EAGAIN));
        assert_eq!(w.peek(9, true), Err(Errno::EBADF));
        assert_eq!(r.room(true), Err(Errno::EBADF));
        assert_eq!(w.room(true), Ok(PIPE_SIZE));
        assert_eq!(w.write(b"hello", true), Ok(5));
        assert_eq!(r.peek(3, true).as_deref(), Ok(&b"hel"[..]));
        let mut buf = [0; 4];
        assert_eq!(r.read(&mut buf, true), Ok(4));
        r.put_back(&buf[1..]);
        assert_eq!(r.peek(9, true).as_deref(), Ok(&b"ello"[..]));
        // More than there is room for, for bytes that have nowhere else to go.
        assert_eq!(w.add(&vec![b'x'; PIPE_SIZE]), Ok(()));
        assert_eq!(w.room(true), Err(Errno::EAGAIN));
        assert_eq!(w.write(b"x", true), Err(Errno::EAGAIN));
        assert_eq!(r.read(&mut [0; 10], true), Ok(10));
        assert_eq!(w.room(true), Ok(6));
        drop(w);
        assert_eq!(r.read(&mut vec![0; PIPE_SIZE], true), Ok(PIPE_SIZE - 6));
        assert_eq!(r.peek(9, true).as_deref(), Ok(&b""[..]));
        let (r, w) = pipe();
        drop(r);
        assert_eq!(w.room(true), Err(Errno::EPIPE));
        assert_eq!(w.add(b"x"), Err(Errno::EPIPE));
    }

    #[test]
    fn full_and_broken() {
        let (r, w) = pipe();
        assert_eq!(w.write(&vec![1; PIPE_SIZE + 10], true), Ok(PIPE_SIZE));
        assert_eq!(w.write(b"x", true), Err(Errno::EAGAIN));
        assert_eq!(w.ready().0, 0);
        drop(r);
        assert_eq!(w.write(b"x", true), Err(Errno::EPIPE));
    }

    #[test]
    fn a_reader_sleeps_until_a_writer_comes() {
        let (r, w) = pipe();
        let writer = std::thread::spawn(move || {
            std::thread::yield_now();
            w.write(&vec![7; 3 * PIPE_SIZE], false)
        });
        let mut total = 0;
        let mut buf = vec![0; 10_000];
        loop {
            match r.read(&mut buf, false) {
                Ok(0) => break,
                Ok(n) => total += n,
                Err(e) => panic!("{e}"),
            }
        }
        assert_eq!(writer.join().unwrap(), Ok(3 * PIPE_SIZE));
        assert_eq!(total, 3 * PIPE_SIZE);
    }
}
