//! Signals: numbers, what a process does on them, and which wait to be taken.

use alloc::collections::VecDeque;

/// Highest signal number.
pub const LAST: u8 = 64;
/// `sigaltstack` flag: no alternative stack.
pub const SS_DISABLE: u32 = 2;
/// Illegal instruction.
pub const SIGILL: u8 = 4;
/// Breakpoint.
pub const SIGTRAP: u8 = 5;
/// Abort.
pub const SIGABRT: u8 = 6;
/// Bad access to mapped memory.
pub const SIGBUS: u8 = 7;
/// Arithmetic.
pub const SIGFPE: u8 = 8;
/// Kill.
pub const SIGKILL: u8 = 9;
/// Bad memory reference.
pub const SIGSEGV: u8 = 11;
/// Write to a pipe without reader.
pub const SIGPIPE: u8 = 13;
/// `alarm`.
pub const SIGALRM: u8 = 14;
/// A request to end.
pub const SIGTERM: u8 = 15;
/// A child has ended.
pub const SIGCHLD: u8 = 17;
/// Stop.
pub const SIGSTOP: u8 = 19;

/// Handler: the default.
pub const SIG_DFL: u64 = 0;
/// Handler: ignore.
pub const SIG_IGN: u64 = 1;
/// The handler runs on the alternative stack.
pub const SA_ONSTACK: u64 = 0x0800_0000;
/// Interrupted calls begin again.
pub const SA_RESTART: u64 = 0x1000_0000;
/// The signal is not blocked in its handler.
pub const SA_NODEFER: u64 = 0x4000_0000;
/// The handler is forgotten when it is called.
pub const SA_RESETHAND: u64 = 0x8000_0000;

/// A signal's bit in a mask.
pub const fn bit(signal: u8) -> u64 {
    1 << (signal - 1)
}

/// The signals that cannot be blocked or handled.
pub const UNSTOPPABLE: u64 = bit(SIGKILL) | bit(SIGSTOP);

const NAMES: [&str; 32] = [
    "0",
    "SIGHUP",
    "SIGINT",
    "SIGQUIT",
    "SIGILL",
    "SIGTRAP",
    "SIGABRT",
    "SIGBUS",
    "SIGFPE",
    "SIGKILL",
    "SIGUSR1",
    "SIGSEGV",
    "SIGUSR2",
    "SIGPIPE",
    "SIGALRM",
    "SIGTERM",
    "SIGSTKFLT",
    "SIGCHLD",
    "SIGCONT",
    "SIGSTOP",
    "SIGTSTP",
    "SIGTTIN",
    "SIGTTOU",
    "SIGURG",
    "SIGXCPU",
    "SIGXFSZ",
    "SIGVTALRM",
    "SIGPROF",
    "SIGWINCH",
    "SIGIO",
    "SIGPWR",
    "SIGSYS",
];

/// The name of a signal.
pub fn name(signal: u8) -> &'static str {
    NAMES.get(usize::from(signal)).copied().unwrap_or("a real-time signal")
}

/// `siginfo_t`, as far as it is filled.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SigInfo {
    /// The signal.
    pub signal: u8,
    /// `si_code`.
    pub code: i32,
    /// Sender, or the number of a timer.
    pub pid: u32,
    /// What stands behind that: the sender's user, or how often a timer has rung too often.
    pub second: u32,
    /// Faulting address for memory signals, value for queued ones.
    pub value: u64,
}

impl SigInfo {
    /// From the kernel.
    pub fn kernel(signal: u8) -> Self {
        SigInfo { signal, code: 0x80, ..SigInfo::default() }
    }

    /// From `kill` (code 0) or `tgkill` (code -6).
    pub fn user(signal: u8, code: i32, pid: u32) -> Self {
        SigInfo { signal, code, pid, ..SigInfo::default() }
    }

    /// A memory fault at `address`.
    pub fn fault(signal: u8, code: i32, address: u64) -> Self {
        SigInfo { signal, code, value: address, ..SigInfo::default() }
    }

    /// The 128 bytes of `siginfo_t`.
    pub fn bytes(&self) -> [u8; 128] {
        let mut out = [0; 128];
        out[0..4].copy_from_slice(&u32::from(self.signal).to_le_bytes());
        out[8..12].copy_from_slice(&self.code.to_le_bytes());
        let fault = matches!(self.signal, SIGILL | SIGFPE | SIGSEGV | SIGBUS | SIGTRAP) && self.code > 0;
        if fault {
            out[16..24].copy_from_slice(&self.value.to_le_bytes());
        } else {
            out[16..20].copy_from_slice(&self.pid.to_le_bytes());
            out[20..24].copy_from_slice(&self.second.to_le_bytes());
            out[24..32].copy_from_slice(&self.value.to_le_bytes());
        }
        out
    }
}

/// Signals that wait: standard ones once, real-time ones as often as they came.
#[derive(Debug, Default)]
pub struct Pending {
    queue: VecDeque<SigInfo>,
}

impl Pending {
    /// Adds one.
    pub fn add(&mut self, info: SigInfo) {
        if info.signal >= 32 || !self.queue.iter().any(|i| i.signal == info.signal) {
            self.queue.push_back(info);
        }
    }

    /// All that wait, as a mask.
    pub fn set(&self) -> u64 {
        self.queue.iter().fold(0, |set, i| set | bit(i.signal))
    }

    /// Takes the lowest of `wanted`.
    pub fn take(&mut self, wanted: u64) -> Option<SigInfo> {
        let found = self.queue.iter().enumerate().filter(|(_, i)| wanted & bit(i.signal) != 0);
        let (index, _) = found.min_by_key(|(index, i)| (i.signal, *index))?;
        self.queue.remove(index)
    }

    /// Forgets all of `signal`.
    pub fn forget(&mut self, signal: u8) {
        self.queue.retain(|i| i.signal != signal);
    }
}

/// What a process does on a signal (`struct sigaction`).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Action {
    /// Function, or [`SIG_DFL`] or [`SIG_IGN`].
    pub handler: u64,
    /// `SA_*`.
    pub flags: u64,
    /// Where the handler returns to.
    pub restorer: u64,
    /// Signals blocked meanwhile.
    pub mask: u64,
}

/// All actions of a process.
#[derive(Debug, Clone)]
pub struct Actions {
    table: [Action; LAST as usize + 1],
}

impl Default for Actions {
    fn default() -> Self {
        Actions { table: [Action::default(); LAST as usize + 1] }
    }
}

/// What happens by default.
fn ignored_by_default(signal: u8) -> bool {
    // CHLD, CONT, URG, WINCH; and the stop signals, as nobody could continue the only program.
    matches!(signal, SIGCHLD | 18 | 20 | 21 | 22 | 23 | 28)
}

impl Actions {
    /// What happens on `signal`.
    pub fn get(&self, signal: u8) -> Action {
        self.table[usize::from(signal)]
    }

    /// Changes it.
    pub fn set(&mut self, signal: u8, action: Action) {
        self.table[usize::from(signal)] = action;
    }

    /// Whether `signal` has no effect.
    pub fn ignores(&self, signal: u8) -> bool {
        match self.get(signal).handler {
            SIG_IGN => true,
            SIG_DFL => ignored_by_default(signal),
            _ => false,
        }
    }

    /// Whether one of the signals in `set` has an effect.
    pub fn any_handled(&self, set: u64) -> bool {
        (1..=LAST).any(|s| set & bit(s) != 0 && !self.ignores(s))
    }

    /// `execve`: handlers go, ignoring stays.
    pub fn reset(&mut self) {
        for action in &mut self.table {
            if action.handler != SIG_IGN {
                *action = Action::default();
            }
        }
    }
}
