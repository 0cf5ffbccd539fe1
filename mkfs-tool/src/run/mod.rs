//! Booting an image in QEMU.
//!
//! The guest's serial console is this process's standard input and output. The kernel's last line, `tarn: exit status N`,
//! becomes this process's exit status and is not printed. QEMU ends when this process does, even if it is killed.
//!
//! # The end from outside
//! SIGTERM, and SIGINT where no terminal sends it to QEMU as well, press the machine's power button: the guest asks the application to
//! end, and ends. The button is pressed again and again, for a guest that is still booting does not feel it. A second signal, or
//! `--grace`, ends QEMU at once, which to the guest is a power cut. QEMU itself never sees these signals: it inherits that they are
//! blocked, so one that reaches both (from a service manager, to a process group) does not cut the power.

pub mod console;
pub mod forward;
mod monitor;
pub mod qemu;

use crate::cli::run_helper::ExecWithParent;
use crate::cli::{self, Accel};
use crate::commands::open;
use crate::{image, kernel};
use anyhow::{Context, Result, bail};
use console::Console;
use monitor::Monitor;
use nix::sys::signal::{SigSet, Signal};
use rustix::fs::{MemfdFlags, memfd_create};
use std::fs::{File, OpenOptions};
use std::io::{IsTerminal, Write};
use std::os::fd::AsRawFd;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, ExitCode, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant};

/// The machine ended without saying how the application did.
const NO_STATUS: u8 = 125;
/// `--timeout` ran out.
const TIMED_OUT: u8 = 124;
/// The machine was stopped although the guest had not ended: 128 + SIGKILL, as a shell shows what was killed.
const STOPPED: u8 = 137;
/// How often the power button is pressed.
const PRESS_EVERY: Duration = Duration::from_millis(500);
/// After so long it is said that the guest has not ended yet.
const REMIND_AFTER: Duration = Duration::from_secs(10);
/// So long QEMU may take to end when it is told to, before it is killed.
const QUIT_WITHIN: Duration = Duration::from_secs(1);

/// `tarn run`.
pub fn run(options: &cli::Run) -> Result<ExitCode> {
    // Before there is another thread, which would have its own idea of the signals.
    let (events, told) = channel();
    pass_on_signals(events.clone())?;
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
    let mut arguments = qemu::arguments(options, &kernel, &disks, accel)?;
    let (monitor, seat) = Monitor::new()?;
    arguments.extend(seat.arguments());
    let program = qemu::find().context(
        "qemu-system-x86_64 is not installed (Debian: apt-get install qemu-system-x86), and TARN_QEMU does not name it",
    )?;
    let mut child = Command::new(std::env::current_exe().context("finding this program")?);
    child.arg(cli::run_helper::NAME).arg(std::process::id().to_string()).arg("--");
    child.arg(program).args(arguments).stdout(Stdio::piped());
    let child = child.spawn().context("starting QEMU")?;
    drop(seat);
    let limits = Limits {
        timeout: options.timeout.map(Duration::from_secs),
        grace: options.grace.map(Duration::from_secs),
    };
    supervise(child, monitor, (events, told), &limits)
}

/// What a running machine may bring.
enum Event {
    /// Its console has ended; the status that it told.
    Ended(std::io::Result<Option<u8>>),
    /// Somebody wants it to end.
    Asked,
}

/// How long things may take.
struct Limits {
    /// All of it.
    timeout: Option<Duration>,
    /// From the first signal on.
    grace: Option<Duration>,
}

/// From now on the signals that ask for the end become events, and neither this process nor one that it starts dies of them.
fn pass_on_signals(events: Sender<Event>) -> Result<()> {
    let mut signals = SigSet::empty();
    signals.add(Signal::SIGTERM);
    // A terminal sends it to QEMU as well, which ends at once.
    if !std::io::stdin().is_terminal() {
        signals.add(Signal::SIGINT);
    }
    signals.thread_block().context("blocking signals")?;
    std::thread::Builder::new().name("signals".into()).spawn(move || {
        while signals.wait().is_ok() {
            if events.send(Event::Asked).is_err() {
                break;
            }
        }
    })?;
    Ok(())
}

/// Why a machine was stopped before its guest had ended.
enum Stopped {
    Timeout,
    Again,
    Grace,
}

/// Passes the console on until QEMU ends.
fn supervise(
    mut child: Child,
    mut monitor: Monitor,
    (events, told): (Sender<Event>, Receiver<Event>),
    limits: &Limits,
) -> Result<ExitCode> {
    let output = child.stdout.take().context("QEMU has no standard output")?;
    std::thread::Builder::new().name("console".into()).spawn(move || {
        let mut console = Console::new(std::io::stdout());
        let copied = console.copy(output);
        // The receiver is gone only when the machine was stopped.
        let _ = events.send(Event::Ended(copied.map(|()| console.status())));
    })?;
    let copied = wait(&told, &mut monitor, limits);
    if copied.is_err() {
        // So that it gives the terminal back as it was.
        monitor.quit();
        if !ends_within(&mut child, QUIT_WITHIN)? {
            child.kill().context("stopping QEMU")?;
        }
    }
    let ended = child.wait().context("waiting for QEMU")?;
    match copied {
        Err(why) => {
            let (why, status) = match why {
                Stopped::Timeout => ("it ran longer than --timeout allows", TIMED_OUT),
                Stopped::Again => ("a second signal came before the guest had ended", STOPPED),
                Stopped::Grace => ("the guest did not end within --grace", STOPPED),
            };
            eprintln!("tarn: the machine was stopped: {why}");
            Ok(ExitCode::from(status))
        }
        Ok(Err(e)) => Err(e).context("the machine's console"),
        Ok(Ok(Some(status))) => Ok(ExitCode::from(status)),
        Ok(Ok(None)) => {
            eprintln!("tarn: the machine ended without an exit status (QEMU: {ended})");
            Ok(ExitCode::from(NO_STATUS))
        }
    }
}

/// Whether a process ends by itself soon.
fn ends_within(child: &mut Child, patience: Duration) -> Result<bool> {
    let deadline = Instant::now() + patience;
    while child.try_wait().context("waiting for QEMU")?.is_none() {
        if Instant::now() >= deadline {
            return Ok(false);
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    Ok(true)
}

/// What the console's thread says at last; `Err` if the machine is to be stopped before that.
fn wait(
    told: &Receiver<Event>,
    monitor: &mut Monitor,
    limits: &Limits,
) -> Result<std::io::Result<Option<u8>>, Stopped> {
    let timeout = limits.timeout.map(|timeout| Instant::now() + timeout);
    // When the end was asked for: the end of the grace, and when the button is pressed next.
    let mut asked: Option<(Option<Instant>, Instant)> = None;
    let mut remind: Option<Instant> = None;
    loop {
        let now = Instant::now();
        if timeout.is_some_and(|at| now >= at) {
            return Err(Stopped::Timeout);
        }
        let mut next = timeout;
        if let Some((grace, press)) = &mut asked {
            if grace.is_some_and(|at| now >= at) {
                return Err(Stopped::Grace);
            }
            if remind.is_some_and(|at| now >= at) {
                remind = None;
                eprintln!(
                    "tarn: the guest was asked to end and has not ended yet; a second signal stops it at once"
                );
            }
            if now >= *press {
                monitor.press_power_button();
                *press = now + PRESS_EVERY;
            }
            next = [timeout, *grace, Some(*press)].into_iter().flatten().min();
        }
        let event = match next {
            Some(at) => told.recv_timeout(at.saturating_duration_since(now)),
            None => told.recv().map_err(|_| RecvTimeoutError::Disconnected),
        };
        match event {
            Ok(Event::Ended(copied)) => return Ok(copied),
            Ok(Event::Asked) if asked.is_some() => return Err(Stopped::Again),
            Ok(Event::Asked) => {
                let now = Instant::now();
                asked = Some((limits.grace.map(|grace| now + grace), now));
                remind = Some(now + REMIND_AFTER);
            }
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => {
                return Ok(Err(std::io::Error::other("the console's thread ended early")));
            }
        }
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
