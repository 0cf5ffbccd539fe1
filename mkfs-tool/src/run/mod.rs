//! Booting an image in QEMU.
//!
//! The guest's serial console is this process's standard input and output. The kernel's last line, `tarn: exit status N`,
//! becomes this process's exit status and is not printed. QEMU ends when this process does, even if it is killed.

pub mod console;
pub mod forward;
pub mod qemu;

use crate::cli::run_helper::ExecWithParent;
use crate::cli::{self, Accel};
use crate::commands::open;
use crate::{image, kernel};
use anyhow::{Context, Result, bail};
use console::Console;
use rustix::fs::{MemfdFlags, memfd_create};
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::fd::AsRawFd;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, ExitCode, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

/// The machine ended without saying how the application did.
const NO_STATUS: u8 = 125;
/// `--timeout` ran out.
const TIMED_OUT: u8 = 124;

/// `tarn run`.
pub fn run(options: &cli::Run) -> Result<ExitCode> {
    let disks: Vec<PathBuf> = std::iter::once(&options.image).chain(&options.disk).cloned().collect();
    // What is no pool, or has lost its end, is refused before the machine could write to it.
    open::check_labels(&options.image)?;
    for disk in &options.disk {
        File::open(disk).with_context(|| disk.display().to_string())?;
    }
    let accel = accelerator(options.accel)?;
    if options.dry_run {
        let words = qemu::arguments(options, "KERNEL", &disks, accel)?;
        let words = words.iter().map(|w| qemu::quote(&w.to_string_lossy()));
        println!("{} {}", qemu::program().to_string_lossy(), words.collect::<Vec<_>>().join(" "));
        return Ok(ExitCode::SUCCESS);
    }
    let elf = kernel::image(options.kernel.as_deref())?;
    // Without --snapshot the machine writes, and keeps every other writer away.
    let mut locks = Vec::new();
    if !options.snapshot {
        for disk in &disks {
            locks.push(image::lock(disk)?);
        }
    }
    // A file without a name, which the child inherits: there is nothing to clean up, however we end.
    let mut memory = File::from(memfd_create("tarn.elf", MemfdFlags::empty()).context("holding the kernel")?);
    memory.write_all(&elf).context("holding the kernel")?;
    let kernel = format!("/proc/self/fd/{}", memory.as_raw_fd());
    let arguments = qemu::arguments(options, &kernel, &disks, accel)?;
    let program = qemu::find().context(
        "qemu-system-x86_64 is not installed (Debian: apt-get install qemu-system-x86), and TARN_QEMU does not name it",
    )?;
    let mut child = Command::new(std::env::current_exe().context("finding this program")?);
    child.arg(cli::run_helper::NAME).arg(std::process::id().to_string()).arg("--");
    child.arg(program).args(arguments).stdout(Stdio::piped());
    let child = child.spawn().context("starting QEMU")?;
    supervise(child, options.timeout.map(Duration::from_secs))
}

/// Passes the console on until QEMU ends.
fn supervise(mut child: Child, timeout: Option<Duration>) -> Result<ExitCode> {
    let output = child.stdout.take().context("QEMU has no standard output")?;
    let (done, ended) = channel();
    std::thread::Builder::new().name("console".into()).spawn(move || {
        let mut console = Console::new(std::io::stdout());
        let copied = console.copy(output);
        // The receiver is gone only when the timeout ran out.
        let _ = done.send(copied.map(|()| console.status()));
    })?;
    let status = wait(&ended, timeout);
    if status.is_none() {
        child.kill().context("stopping QEMU")?;
    }
    let ended = child.wait().context("waiting for QEMU")?;
    match status {
        None => {
            eprintln!("tarn: the machine was stopped: it ran longer than --timeout allows");
            Ok(ExitCode::from(TIMED_OUT))
        }
        Some(Err(e)) => Err(e).context("the machine's console"),
        Some(Ok(Some(status))) => Ok(ExitCode::from(status)),
        Some(Ok(None)) => {
            eprintln!("tarn: the machine ended without an exit status (QEMU: {ended})");
            Ok(ExitCode::from(NO_STATUS))
        }
    }
}

type Copied = std::io::Result<Option<u8>>;

/// What the console's thread says; None if the time ran out first.
fn wait(ended: &Receiver<Copied>, timeout: Option<Duration>) -> Option<Copied> {
    let lost = || Some(Err(std::io::Error::other("the console's thread ended early")));
    let Some(timeout) = timeout else { return ended.recv().ok().or_else(lost) };
    let deadline = Instant::now() + timeout;
    match ended.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
        Ok(copied) => Some(copied),
        Err(RecvTimeoutError::Timeout) => None,
        Err(RecvTimeoutError::Disconnected) => lost(),
    }
}

/// `kvm` or `tcg`. `auto` takes KVM only if the processor has it *and* its device opens: a machine may have the device alone,
/// and QEMU then hangs.
fn accelerator(wanted: Accel) -> Result<Accel> {
    let cpuinfo = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let processor = has_virtualisation(&cpuinfo);
    let device = OpenOptions::new().read(true).write(true).open("/dev/kvm");
    match (wanted, processor, device) {
        (Accel::Tcg, ..) | (Accel::Auto, false, _) | (Accel::Auto, _, Err(_)) => Ok(Accel::Tcg),
        (_, true, Ok(_)) => Ok(Accel::Kvm),
        (_, false, _) => bail!("no KVM: this processor has no virtualisation (vmx, svm); use --accel tcg"),
        (_, true, Err(e)) => Err(e).context("/dev/kvm; use --accel tcg"),
    }
}

fn has_virtualisation(cpuinfo: &str) -> bool {
    let flags = cpuinfo.lines().filter(|line| line.starts_with("flags"));
    flags.into_iter().any(|line| line.split_whitespace().any(|flag| matches!(flag, "vmx" | "svm")))
}

/// The hidden verb: asks the system to end this process with its parent, then becomes QEMU.
pub fn exec_with_parent(options: &ExecWithParent) -> Result<ExitCode> {
    use rustix::process::{Signal, getppid, set_parent_process_death_signal};
    set_parent_process_death_signal(Some(Signal::KILL)).context("prctl")?;
    // The parent may have ended before the system was asked.
    if getppid().map(|p| p.as_raw_nonzero().get()) != Some(options.parent) {
        bail!("the process that wanted a machine is gone");
    }
    let [program, arguments @ ..] = options.command.as_slice() else { bail!("no command") };
    Err(Command::new(program).args(arguments).exec()).context(program.to_string_lossy().into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn virtualisation_is_a_word_among_the_flags() {
        assert!(has_virtualisation("processor : 0\nflags\t\t: fpu vmx sse\n"));
        assert!(!has_virtualisation("model name : vmx\nflags\t\t: fpu vmxnet sse\nbugs : svm\n"));
        assert!(!has_virtualisation(""));
    }
}
