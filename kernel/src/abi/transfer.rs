//! A request for a file that is carried out later: what `io_uring` and Linux AIO have in common.
//!
//! A transfer holds its file open. It is run once, by a thread in the program's address space. On a stream it is preceded
//! by waiting until the stream is ready, so that it finds something to do.

use super::io::{self, At};
use crate::process::workers::{Outcome, Watch};
use crate::process::{Process, Task};
use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;
use vfs::Errno;
use vfs::file::File;
use vfs::inode::Ready;
use vfs::types::OpenFlags;

/// Address and length of each piece of the program's memory.
pub type Buffers = Vec<(u64, usize)>;

/// What is to be done with the file.
pub enum Work {
    /// Read into the buffers.
    Read(At, Buffers),
    /// Write from the buffers; durably if so said.
    Write(At, Buffers, bool),
    /// `fsync`.
    Sync,
    /// `fallocate` by its numbers: mode, offset, length.
    Allocate(u64, u64, u64),
}

/// A file and what is to be done with it.
pub struct Transfer {
    /// The file.
    pub file: Arc<File>,
    /// The work.
    pub work: Work,
}

/// Who carries out, and for whom.
#[derive(Clone, Copy)]
pub struct Who<'a> {
    /// The process.
    pub process: &'a Arc<Process>,
    /// Number of the ring or context.
    pub owner: u64,
    /// The request's name there.
    pub name: u64,
}

/// A number as requests answer it: the result, or a negative error number.
pub fn answer(result: Result<u64, Errno>) -> i64 {
    match result {
        Ok(n) => n as i64,
        Err(error) => i64::from(-error.number()),
    }
}

impl Transfer {
    /// Does it.
    pub fn run(self, task: &Task) -> Result<u64, Errno> {
        let at = |at| if self.file.stream().is_some() { At::Position } else { at };
        match &self.work {
            Work::Read(place, buffers) => io::read_to(&self.file, at(*place), buffers),
            Work::Write(place, buffers, durable) => {
                let n = io::write_from(task, &self.file, at(*place), buffers)?;
                if *durable {
                    self.file.fsync()?;
                }
                Ok(n)
            }
            Work::Sync => self.file.fsync().map(|()| 0),
            Work::Allocate(mode, start, len) => io::allocate(&self.file, *mode, *start, *len),
        }
    }

    /// Which condition of a stream it has to wait for.
    fn needs(&self) -> Option<u32> {
        let stream = self.file.stream()?;
        let events = match self.work {
            Work::Read(..) => Ready::IN,
            Work::Write(..) => Ready::OUT,
            Work::Sync | Work::Allocate(..) => return None,
        };
        let blocks = stream.waiters().is_some() && !self.file.flags().contains(OpenFlags::NONBLOCK);
        (blocks && stream.ready().0 & (events | Ready::ERR | Ready::HUP) == 0).then_some(events)
    }

    /// Has it done by the workers of the process; `done` gets the result.
    pub fn start(self, who: Who<'_>, done: impl FnOnce(Result<u64, Errno>) + Send + 'static) {
        let Some(events) = self.needs() else {
            let job = Box::new(move || done(self.run(crate::process::current())));
            return who.process.workers.submit(who.process, job);
        };
        let process = Arc::clone(who.process);
        let (owner, name) = (who.owner, who.name);
        let stream = self.file.stream().cloned();
        let then = move |outcome| match outcome {
            Outcome::Ready(_) => {
                let job = Box::new(move || done(self.run(crate::process::current())));
                process.workers.submit(&process, job);
            }
            _ => done(Err(Errno::ECANCELED)),
        };
        let watch = Watch { owner, name, stream, events, deadline: None, done: Box::new(then) };
        if let Err(watch) = who.process.workers.watch(who.process, watch) {
            (watch.done)(Outcome::Cancelled);
        }
    }
}
