//! The Linux system-call ABI: the way in, the table, the way out.
//!
//! # The way in
//! Programs run in ring 0, so `syscall` changes neither stack nor privilege: the entry leaves the program's stack
//! before it touches memory (its red zone stays whole), builds the same frame as a trap does, and saves the SSE
//! registers that kernel code uses. Results go to `rax`; an error is its negative number.
//!
//! # Rules for handlers
//! - User memory is reached through [`user`] only, and with no lock held that a page fault takes.
//! - A handler that ends the thread owns nothing at that moment: its stack is not unwound.

pub mod aio;
mod copy;
mod events;
mod fd;
pub mod futex;
mod inotify;
mod io;
mod memory;
mod names;
mod outgoing;
mod path;
mod poll;
mod proc;
mod scratch;
mod shm;
mod signal;
mod signal_frame;
mod signalfd;
mod socket;
mod socket_calls;
mod socket_message;
mod socket_options;
mod spawn;
mod splice;
mod stat;
mod time;
pub mod timers;
mod transfer;
mod traps;
mod uring;
pub mod user;

pub use traps::return_to_app;

use crate::arch::trap::{SavedSse, TrapFrame, push_further_registers, restore_sse, save_sse};
use crate::arch::{cpu, fpu, gdt, trap};
use crate::log;
use crate::process::{self, Task};
use bitvec::array::BitArray;
use core::arch::naked_asm;
use core::sync::atomic::{AtomicBool, Ordering};
use platform::sync::Mutex;
use vfs::Errno;
use x86_64::VirtAddr;
use x86_64::registers::model_specific::{Efer, EferFlags, LStar, SFMask, Star};
use x86_64::registers::rflags::RFlags;

/// What a system call gives.
pub type SysResult = Result<u64, Errno>;

/// A system call on its way.
pub struct Call<'a> {
    /// Who calls.
    pub task: &'static Task,
    /// The caller's registers.
    pub frame: &'a mut TrapFrame,
    /// Set by a handler that has put all registers in place itself (`rt_sigreturn`, `execve`): `rax` stays.
    pub registers_set: bool,
}

impl Call<'_> {
    /// Argument `index`, from 0.
    pub fn arg(&self, index: usize) -> u64 {
        let f = &self.frame;
        [f.rdi, f.rsi, f.rdx, f.r10, f.r8, f.r9][index]
    }

    /// Argument `index` as a C `int`.
    pub fn int(&self, index: usize) -> i32 {
        self.arg(index) as i32
    }

    /// The calling process.
    pub fn process(&self) -> &'static process::Process {
        &self.task.process
    }
}

/// The vector number that frames of system calls carry.
pub const SYSCALL_VECTOR: u64 = 0x100;

static TRACE: AtomicBool = AtomicBool::new(false);

/// Lets programs call the kernel on this processor.
pub fn init_cpu() {
    // SAFETY: the segments are the kernel's flat ones; the entry obeys `syscall`'s protocol. Interrupts, direction,
    // trap and alignment check are off at the entry.
    unsafe {
        Star::write_raw(0, gdt::CODE);
        LStar::write(VirtAddr::new(syscall_entry as unsafe extern "C" fn() as usize as u64));
        SFMask::write(
            RFlags::TRAP_FLAG | RFlags::INTERRUPT_FLAG | RFlags::DIRECTION_FLAG | RFlags::ALIGNMENT_CHECK,
        );
        Efer::update(|efer| *efer |= EferFlags::SYSTEM_CALL_EXTENSIONS);
    }
}

/// Connects traps and waiting to this layer. Once.
pub fn init() {
    traps::install();
    vfs::wait::set_interrupted(|| process::try_current().is_some_and(Task::interrupted));
    vfs::errno::set_report(|error| log!(Error, "zfs: {error}"));
    let traced = crate::boot::info().cmdline().get("tarn.trace").is_some_and(|t| t.contains("syscalls"));
    TRACE.store(traced, Ordering::Relaxed);
}

/// Where `syscall` arrives: rcx = return address, r11 = flags, interrupts off, still on the program's stack.
#[unsafe(naked)]
unsafe extern "C" fn syscall_entry() {
    naked_asm!(
        "mov gs:[{scratch}], rsp",
        "mov rsp, gs:[{kernel_stack}]",
        "push {ss}",
        "push qword ptr gs:[{scratch}]",
        "push r11",
        "push {cs}",
        "push rcx",
        "push rax", // error: the call's number, for restarting
        "push {vector}",
        "push rdi",
        "push rsi",
        "push rdx",
        push_further_registers!(),
        "mov rdi, rsp",
        save_sse!(),
        "cld",
        "mov rsi, rsp",
        "sti",
        "call {dispatch}",
        "cli",
        restore_sse!(),
        "jmp {ret}",
        scratch = const cpu::SCRATCH_OFFSET,
        kernel_stack = const cpu::KERNEL_STACK_OFFSET,
        ss = const gdt::DATA,
        cs = const gdt::CODE,
        vector = const SYSCALL_VECTOR,
        dispatch = sym dispatch,
        ret = sym trap::trap_return,
    )
}

extern "C" fn dispatch(frame: &mut TrapFrame, sse: &mut SavedSse) {
    let task = process::current();
    let number = frame.rax;
    let mut call = Call { task, frame, registers_set: false };
    let result = if matches!(number, NR_RT_SIGRETURN) {
        // The one call that replaces the vector registers.
        sse.with_whole_state(|| signal_frame::sigreturn(&mut call))
    } else {
        fpu::enter_call();
        outgoing::before(&call, number);
        serve(&mut call, number)
    };
    if !call.registers_set {
        call.frame.rax = match result {
            Ok(value) => value,
            Err(error) => i64::from(-error.number()) as u64,
        };
    } else if number != NR_RT_SIGRETURN {
        // Another program begins (`execve`).
        fpu::replace_in_call();
        *sse = SavedSse::INITIAL;
    }
    fpu::leave_call();
    if task.attention.load(Ordering::SeqCst) {
        sse.with_whole_state(|| return_to_app(frame));
    }
}

fn serve(call: &mut Call<'_>, number: u64) -> SysResult {
    let traced = TRACE.load(Ordering::Relaxed);
    if traced {
        let args: [u64; 6] = core::array::from_fn(|i| call.arg(i));
        crate::println!("[{}] {}({args:x?})", call.task.tid, names::of(number));
    }
    let result = table(call, number).unwrap_or_else(|| {
        unknown(number);
        Err(Errno::ENOSYS)
    });
    if traced {
        crate::println!("[{}] {} = {result:x?}", call.task.tid, names::of(number));
    }
    result
}

/// Says once of every call that it is missing.
fn unknown(number: u64) {
    static SAID: Mutex<BitArray<[u64; 8]>> = Mutex::new(BitArray::ZERO);
    let mut said = SAID.lock();
    if said.get(number as usize).as_deref() != Some(&false) {
        return;
    }
    said.set(number as usize, true);
    drop(said);
    log!(Info, "system call {} ({number}) is not implemented", names::of(number));
}

const NR_RT_SIGRETURN: u64 = 15;

macro_rules! calls {
    ($($number:literal => $handler:path,)*) => {
        /// Runs the handler of call `number`; `None` if there is none.
        fn table(call: &mut Call<'_>, number: u64) -> Option<SysResult> {
            Some(match number {
                $($number => $handler(call),)*
                _ => return None,
            })
        }
    };
}

calls! {
    0 => io::read,
    1 => io::write,
    2 => path::open,
    3 => fd::close,
    4 => path::stat,
    5 => path::fstat,
    6 => path::lstat,
    7 => poll::poll,
    8 => io::lseek,
    9 => memory::mmap,
    10 => memory::mprotect,
    11 => memory::munmap,
    12 => memory::brk,
    13 => signal::rt_sigaction,
    14 => signal::rt_sigprocmask,
    16 => fd::ioctl,
    17 => io::pread64,
    18 => io::pwrite64,
    19 => io::readv,
    20 => io::writev,
    21 => path::access,
    22 => fd::pipe,
    23 => poll::select,
    24 => proc::sched_yield,
    25 => memory::mremap,
    26 => memory::msync,
    27 => memory::mincore,
    28 => memory::madvise,
    29 => shm::shmget,
    30 => shm::shmat,
    31 => shm::shmctl,
    32 => fd::dup,
    33 => fd::dup2,
    34 => signal::pause,
    35 => time::nanosleep,
    36 => time::getitimer,
    37 => time::alarm,
    38 => time::setitimer,
    39 => proc::getpid,
    40 => copy::sendfile,
    41 => socket_calls::socket,
    42 => socket_calls::connect,
    43 => socket_calls::accept,
    44 => socket_calls::sendto,
    45 => socket_calls::recvfrom,
    46 => socket_calls::sendmsg,
    47 => socket_calls::recvmsg,
    48 => socket_calls::shutdown,
    49 => socket_calls::bind,
    50 => socket_calls::listen,
    51 => socket_calls::getsockname,
    52 => socket_calls::getpeername,
    53 => socket_calls::socketpair,
    54 => socket_options::setsockopt,
    55 => socket_options::getsockopt,
    56 => spawn::clone,
    57 => spawn::fork,
    58 => spawn::vfork,
    59 => spawn::execve,
    60 => proc::exit,
    61 => spawn::wait4,
    62 => signal::kill,
    63 => proc::uname,
    67 => shm::shmdt,
    72 => fd::fcntl,
    73 => fd::flock,
    74 => io::fsync,
    75 => io::fsync,
    76 => path::truncate,
    77 => path::ftruncate,
    78 => io::getdents,
    79 => path::getcwd,
    80 => path::chdir,
    81 => path::fchdir,
    82 => path::rename,
    83 => path::mkdir,
    84 => path::rmdir,
    85 => path::creat,
    86 => path::link,
    87 => path::unlink,
    88 => path::symlink,
    89 => path::readlink,
    90 => path::chmod,
    91 => path::fchmod,
    92 => path::chown,
    93 => path::fchown,
    94 => path::lchown,
    95 => proc::umask,
    96 => time::gettimeofday,
    97 => proc::getrlimit,
    98 => proc::getrusage,
    99 => proc::sysinfo,
    100 => time::times,
    102 => proc::getuid,
    104 => proc::getgid,
    105 => proc::setuid,
    106 => proc::setgid,
    107 => proc::geteuid,
    108 => proc::getegid,
    109 => proc::setpgid,
    110 => proc::getppid,
    111 => proc::getpgrp,
    112 => proc::setsid,
    113 => proc::setreuid,
    114 => proc::setregid,
    115 => proc::getgroups,
    116 => proc::setgroups,
    117 => proc::setresuid,
    118 => proc::getresuid,
    119 => proc::setresgid,
    120 => proc::getresgid,
    121 => proc::getpgid,
    124 => proc::getpgid,
    125 => proc::capget,
    126 => proc::nothing,
    127 => signal::rt_sigpending,
    128 => signal::rt_sigtimedwait,
    130 => signal::rt_sigsuspend,
    131 => signal::sigaltstack,
    132 => path::utime,
    133 => path::mknod,
    137 => path::statfs,
    138 => path::fstatfs,
    140 => proc::getpriority,
    141 => proc::nothing,
    142 => proc::nothing,
    143 => proc::sched_getparam,
    144 => proc::nothing,
    145 => proc::nothing,
    146 => proc::nothing,
    147 => proc::nothing,
    149 => proc::nothing,
    150 => proc::nothing,
    151 => proc::nothing,
    152 => proc::nothing,
    157 => proc::prctl,
    158 => proc::arch_prctl,
    160 => proc::setrlimit,
    161 => proc::unsupported_as_root,
    162 => io::sync,
    170 => proc::nothing,
    186 => proc::gettid,
    187 => proc::nothing,
    188 => path::setxattr,
    189 => path::lsetxattr,
    190 => path::fsetxattr,
    191 => path::getxattr,
    192 => path::lgetxattr,
    193 => path::fgetxattr,
    194 => path::listxattr,
    195 => path::llistxattr,
    196 => path::flistxattr,
    197 => path::removexattr,
    198 => path::lremovexattr,
    199 => path::fremovexattr,
    200 => signal::tkill,
    201 => time::time,
    202 => futex::futex,
    203 => proc::nothing,
    204 => proc::sched_getaffinity,
    206 => aio::io_setup,
    207 => aio::io_destroy,
    208 => aio::io_getevents,
    209 => aio::io_submit,
    210 => aio::io_cancel,
    213 => events::epoll_create,
    217 => io::getdents64,
    218 => proc::set_tid_address,
    221 => proc::nothing,
    222 => timers::timer_create,
    223 => timers::timer_settime,
    224 => timers::timer_gettime,
    225 => timers::timer_getoverrun,
    226 => timers::timer_delete,
    227 => time::clock_settime,
    228 => time::clock_gettime,
    229 => time::clock_getres,
    230 => time::clock_nanosleep,
    231 => proc::exit_group,
    232 => events::epoll_wait,
    233 => events::epoll_ctl,
    234 => signal::tgkill,
    235 => path::utimes,
    237 => memory::mbind,
    238 => memory::set_mempolicy,
    239 => memory::get_mempolicy,
    247 => spawn::waitid,
    253 => inotify::inotify_init,
    254 => inotify::inotify_add_watch,
    255 => inotify::inotify_rm_watch,
    257 => path::openat,
    258 => path::mkdirat,
    259 => path::mknodat,
    260 => path::fchownat,
    261 => path::futimesat,
    262 => path::newfstatat,
    263 => path::unlinkat,
    264 => path::renameat,
    265 => path::linkat,
    266 => path::symlinkat,
    267 => path::readlinkat,
    268 => path::fchmodat,
    269 => path::faccessat,
    270 => poll::pselect6,
    271 => poll::ppoll,
    273 => futex::set_robust_list,
    274 => futex::get_robust_list,
    275 => splice::splice,
    276 => splice::tee,
    277 => io::sync_file_range,
    278 => splice::vmsplice,
    280 => path::utimensat,
    281 => events::epoll_pwait,
    282 => signalfd::signalfd,
    283 => events::timerfd_create,
    284 => events::eventfd,
    285 => io::fallocate,
    286 => events::timerfd_settime,
    287 => events::timerfd_gettime,
    288 => socket_calls::accept4,
    289 => signalfd::signalfd4,
    290 => events::eventfd2,
    291 => events::epoll_create1,
    292 => fd::dup3,
    293 => fd::pipe2,
    294 => inotify::inotify_init1,
    295 => io::preadv,
    296 => io::pwritev,
    299 => socket_calls::recvmmsg,
    302 => proc::prlimit64,
    306 => io::syncfs,
    307 => socket_calls::sendmmsg,
    309 => proc::getcpu,
    316 => path::renameat2,
    318 => proc::getrandom,
    319 => memory::memfd_create,
    324 => proc::membarrier,
    325 => proc::nothing,
    326 => copy::copy_file_range,
    327 => io::preadv2,
    328 => io::pwritev2,
    330 => memory::pkey_alloc,
    332 => path::statx,
    333 => aio::io_pgetevents,
    425 => uring::io_uring_setup,
    426 => uring::io_uring_enter,
    427 => uring::io_uring_register,
    435 => spawn::clone3,
    436 => fd::close_range,
    437 => path::openat2,
    439 => path::faccessat2,
    441 => events::epoll_pwait2,
}
