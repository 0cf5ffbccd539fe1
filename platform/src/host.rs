//! The host: std threads, image files as disks, the machine's clock and randomness.

use crate::block::{BlockDevice, BlockError, BlockInfo, Op, Outcome, Request, check_range};
use crate::clock::{Clock, Timespec};
use crate::random::Random;
use crate::thread::{Scheduler, Unpark};
use std::boxed::Box;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use std::vec::Vec;

/// Threads of the standard library.
#[derive(Debug)]
pub struct StdScheduler;

struct StdThread(std::thread::Thread);

impl Unpark for StdThread {
    fn unpark(&self) {
        self.0.unpark();
    }
}

std::thread_local! {
    static CURRENT: Arc<dyn Unpark> = Arc::new(StdThread(std::thread::current()));
}

fn origin() -> Instant {
    static ORIGIN: std::sync::OnceLock<Instant> = std::sync::OnceLock::new();
    *ORIGIN.get_or_init(Instant::now)
}

fn elapsed_ns() -> u64 {
    u64::try_from(origin().elapsed().as_nanos()).unwrap_or(u64::MAX)
}

impl Scheduler for StdScheduler {
    fn current(&self) -> Arc<dyn Unpark> {
        CURRENT.with(Arc::clone)
    }
    fn park(&self) {
        std::thread::park();
    }
    fn park_timeout(&self, ns: u64) {
        std::thread::park_timeout(Duration::from_nanos(ns));
    }
    fn yield_now(&self) {
        std::thread::yield_now();
    }
    fn spawn(&self, name: &str, main: Box<dyn FnOnce() + Send>) {
        std::thread::Builder::new()
            .name(name.into())
            .spawn(main)
            .expect("the operating system refused to start a thread");
    }
    fn cpus(&self) -> usize {
        // Asking takes the reading of several files.
        static CPUS: std::sync::OnceLock<usize> = std::sync::OnceLock::new();
        *CPUS.get_or_init(|| std::thread::available_parallelism().map_or(1, std::num::NonZero::get))
    }
    fn monotonic_ns(&self) -> u64 {
        elapsed_ns()
    }
}

/// The machine's clock.
#[derive(Debug, Clone, Copy)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> Timespec {
        match SystemTime::now().duration_since(UNIX_EPOCH) {
            Ok(d) => Timespec { sec: d.as_secs() as i64, nsec: d.subsec_nanos() },
            Err(_) => Timespec::default(),
        }
    }
    fn monotonic_ns(&self) -> u64 {
        elapsed_ns()
    }
}

/// The operating system's randomness.
#[derive(Debug)]
pub struct OsRandom(File);

impl OsRandom {
    /// Opens the system's random source.
    pub fn open() -> io::Result<Self> {
        Ok(OsRandom(File::open("/dev/urandom")?))
    }
}

impl Random for OsRandom {
    fn fill(&self, out: &mut [u8]) {
        self.0.read_exact_at(out, 0).expect("/dev/urandom always answers");
    }
}

/// How many requests of one image file are served at once.
const FILE_QUEUE_DEPTH: u32 = 8;

/// An image file (or a block device) as a disk. A few worker threads serve its queue.
pub struct FileDisk {
    info: BlockInfo,
    queue: Sender<Request>,
}

impl FileDisk {
    /// Opens an existing image. It is opened for reading alone if `writable` is false, so nothing can change it.
    pub fn open(path: &Path, writable: bool) -> io::Result<Self> {
        let file = OpenOptions::new().read(true).write(writable).open(path)?;
        Self::from_file(file, writable)
    }

    /// Makes a new sparse image of `size` bytes. Fails if `path` exists.
    pub fn create(path: &Path, size: u64) -> io::Result<Self> {
        let file = OpenOptions::new().read(true).write(true).create_new(true).open(path)?;
        file.set_len(size)?;
        Self::from_file(file, true)
    }

    fn from_file(file: File, writable: bool) -> io::Result<Self> {
        use std::io::{Seek, SeekFrom};
        // Seeking also measures block devices, whose metadata has no length.
        let size = (&file).seek(SeekFrom::End(0))?;
        let info = BlockInfo {
            size: size - size % 512,
            sector_size: 512,
            physical_sector_size: 512,
            read_only: !writable,
            discard: true,
            queue_depth: FILE_QUEUE_DEPTH,
        };
        let (queue, requests) = channel::<Request>();
        let requests = Arc::new(Mutex::new(requests));
        let file = Arc::new(file);
        for _ in 0..FILE_QUEUE_DEPTH {
            let (file, requests) = (Arc::clone(&file), Arc::clone(&requests));
            std::thread::Builder::new()
                .name("file-disk".into())
                .spawn(move || serve(&file, &info, &requests))?;
        }
        Ok(FileDisk { info, queue })
    }
}

fn serve(file: &File, info: &BlockInfo, requests: &Mutex<Receiver<Request>>) {
    loop {
        let Ok(receiver) = requests.lock() else { return };
        let Ok(request) = receiver.recv() else { return };
        drop(receiver);
        let outcome = check_range(info, &request.op).and_then(|()| perform(file, request.op));
        (request.done)(outcome);
    }
}

fn perform(file: &File, op: Op) -> Outcome {
    let done = match op {
        Op::Read { offset, mut buf } => {
            return file.read_exact_at(&mut buf, offset).map(|()| buf).map_err(|e| error(&e));
        }
        Op::Write { offset, data } => file.write_all_at(&data, offset),
        Op::Flush => file.sync_data(),
        Op::Discard { offset, len } => return discard(file, offset, len),
    };
    done.map(|()| Vec::new()).map_err(|e| error(&e))
}

/// Punches a hole: the file keeps its size, and the range reads as zeros.
fn discard(file: &File, offset: u64, len: u64) -> Outcome {
    use rustix::fs::{FallocateFlags, fallocate};
    use rustix::io::Errno;
    if len == 0 {
        return Ok(Vec::new());
    }
    match fallocate(file, FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE, offset, len) {
        Ok(()) => Ok(Vec::new()),
        Err(Errno::OPNOTSUPP | Errno::NOSYS) => Err(BlockError::Unsupported),
        Err(e) => Err(error(&e.into())),
    }
}

fn error(e: &io::Error) -> BlockError {
    match e.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => BlockError::NoSpace,
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => BlockError::ReadOnly,
        _ => BlockError::Io,
    }
}

impl BlockDevice for FileDisk {
    fn info(&self) -> BlockInfo {
        self.info
    }

    fn submit(&self, request: Request) {
        if let Err(refused) = self.queue.send(request) {
            (refused.0.done)(Err(BlockError::Gone));
        }
    }
}
