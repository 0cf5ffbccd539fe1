//! What is said when a signal that nobody handles ends the application: why, registers, a backtrace, the maps.

use super::signals::{self, SigInfo};
use super::{Process, Task};
use crate::arch::trap::TrapFrame;
use crate::mm::usercopy;
use crate::println;
use alloc::format;
use alloc::string::String;

const MAX_FRAMES: usize = 32;

/// Whether a signal is the kind that a program causes by a mistake.
pub fn is_crash(info: &SigInfo) -> bool {
    matches!(
        info.signal,
        signals::SIGSEGV
            | signals::SIGBUS
            | signals::SIGILL
            | signals::SIGFPE
            | signals::SIGABRT
            | signals::SIGTRAP
            | 31
    )
}

fn word(address: u64) -> Option<u64> {
    let mut bytes = [0; 8];
    usercopy::read(address, &mut bytes).ok()?;
    Some(u64::from_le_bytes(bytes))
}

fn place(process: &Process, address: u64) -> String {
    match process.space().locate(address) {
        Some((base, name)) if !name.is_empty() => format!("{address:#018x} {name}+{:#x}", address - base),
        _ => format!("{address:#018x}"),
    }
}

/// Prints the report. Called by the thread that crashed, with interrupts on.
pub fn report(task: &Task, info: &SigInfo, frame: &TrapFrame) {
    let process = &task.process;
    let path = String::from_utf8_lossy(&process.program.lock().path).into_owned();
    println!(
        "{path} (process {}, thread {}) was ended by {}",
        process.pid,
        task.tid,
        signals::name(info.signal)
    );
    if info.code > 0 && info.code != 0x80 {
        println!("at address {:#x}, RIP {}", info.value, place(process, frame.rip));
    } else {
        println!("RIP {}", place(process, frame.rip));
    }
    for line in format!("{frame}").lines() {
        println!("{line}");
    }
    println!("fs base {:016x}", crate::sched::current_thread().fs_base());
    let mut rbp = frame.rbp;
    println!("  0: {}", place(process, frame.rip));
    for number in 1..MAX_FRAMES {
        let (Some(next), Some(caller)) = (word(rbp), word(rbp.wrapping_add(8))) else { break };
        if caller == 0 {
            break;
        }
        println!("{number:3}: {}", place(process, caller));
        if next <= rbp {
            break;
        }
        rbp = next;
    }
    // Programs are mostly built without frame pointers: what lies on the stack helps to find the way by hand.
    for row in 0..8 {
        let at = frame.rsp.wrapping_add(row * 32);
        let Some(words) =
            (0..4).map(|i| word(at.wrapping_add(i * 8))).collect::<Option<alloc::vec::Vec<_>>>()
        else {
            break;
        };
        println!("{at:#x}: {:016x} {:016x} {:016x} {:016x}", words[0], words[1], words[2], words[3]);
    }
    for line in process.space().describe().lines() {
        println!("{line}");
    }
}
