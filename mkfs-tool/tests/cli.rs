//! The binary's manners: help, completions, errors, and the machine driver with a stand-in for QEMU.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

fn tarn(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tarn"));
    command.args(args).stdin(Stdio::null());
    command
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// A folder with an image of an empty pool, a file that passes for a kernel, and a script in QEMU's place.
struct Machine {
    folder: tempfile::TempDir,
}

impl Machine {
    fn new(script: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let image = folder.path().join("a.img");
        let image = image.to_str().unwrap();
        let made = tarn(&["zpool", "create", "--size", "64M", "tank", image]).output().unwrap();
        assert!(made.status.success(), "{}", text(&made.stderr));
        fs::write(folder.path().join("kernel"), b"\x7fELF and so on").unwrap();
        let qemu = folder.path().join("qemu");
        fs::write(&qemu, format!("#!/bin/sh\n{script}\n")).unwrap();
        fs::set_permissions(&qemu, fs::Permissions::from_mode(0o755)).unwrap();
        Machine { folder }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = tarn(&["run"]);
        command.arg(self.path("a.img")).arg("--kernel").arg(self.path("kernel"));
        command.args(args).env("TARN_QEMU", self.path("qemu"));
        command
    }

    fn run(&self, args: &[&str]) -> Output {
        self.command(args).output().unwrap()
    }
}

#[test]
fn help_has_examples_and_succeeds() {
    for verb in ["create", "run", "zpool", "zfs", "ls", "cat", "tree", "stat", "cp", "inspect", "completions"]
    {
        let output = tarn(&[verb, "--help"]).output().unwrap();
        assert!(output.status.success() && text(&output.stdout).contains("Example"), "{verb}");
    }
    assert!(tarn(&["--help"]).output().unwrap().status.success());
}

#[test]
fn every_shell_gets_completions() {
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let output = tarn(&["completions", shell]).output().unwrap();
        assert!(output.status.success() && text(&output.stdout).contains("create"), "{shell}");
    }
}

#[test]
fn a_wrong_command_line_is_one_line_and_status_2() {
    for args in [
        &["frob"][..],
        &["run"],
        &["create", "x", "--size", "1Q"],
        &["zfs", "lst"],
        &["run", "x", "--cpus", "0"],
    ] {
        let output = tarn(args).output().unwrap();
        let said = text(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{args:?}");
        assert!(said.starts_with("tarn: ") && said.lines().count() == 1, "{args:?}: {said}");
    }
}

#[test]
fn the_guests_output_and_status_come_through() {
    let machine = Machine::new("printf 'hello\\r\\ntarn: exit status 7\\r\\n'; exit 15");
    let output = machine.run(&["--", "/bin/app"]);
    assert_eq!((text(&output.stdout).as_str(), output.status.code()), ("hello\n", Some(7)));
    assert!(output.stderr.is_empty(), "{}", text(&output.stderr));
    let silent = Machine::new("echo half a line; exit 1").run(&[]);
    assert_eq!(silent.status.code(), Some(125));
    assert!(text(&silent.stderr).contains("without an exit status"));
}

#[test]
fn qemu_gets_the_kernel_and_the_encoded_command() {
    // The kernel is readable under the name that is given: the script copies it to its output.
    let script = r#"while [ $# -gt 0 ]; do case "$1" in -kernel) cat "$2"; echo;; -append) echo "$2";; esac; shift; done"#;
    let output =
        Machine::new(script).run(&["--append=tarn.arc_max=64M", "--", "/bin/sh", "-c", "echo 'a b'\n"]);
    let said = text(&output.stdout);
    assert!(said.contains("ELF and so on"), "{said}");
    assert!(said.contains("tarn.arc_max=64M -- /bin/sh -c echo%20%27a%20b%27%0A"), "{said}");
}

#[test]
fn a_machine_that_hangs_is_stopped() {
    let output = Machine::new("exec sleep 1000").command(&["--timeout", "1"]).output().unwrap();
    assert_eq!(output.status.code(), Some(124));
    assert!(text(&output.stderr).contains("--timeout"));
}

/// A stand-in that says that it is up, and answers to the power button by `pressed`. It reads from QEMU's monitor, a socket that it
/// has inherited.
fn with_a_button(pressed: &str) -> Machine {
    Machine::new(&format!(
        r#"while [ $# -gt 0 ]; do case "$2" in socket,id=monitor,fd=*) eval "exec 3<&${{2##*=}}";; esac; shift; done
        echo up
        while read -r command <&3; do case "$command" in *system_powerdown*) {pressed};; esac; done"#
    ))
}

/// Starts it, and sends `tarn` a signal as soon as it is up, and another one after each line that it prints; what the last
/// of these was, and how `tarn` ended.
fn signalled(machine: &Machine, args: &[&str], signals: &[&str]) -> (String, Output) {
    let mut tarn = machine.command(args).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut out = std::io::BufReader::new(tarn.stdout.take().unwrap());
    let mut line = String::new();
    for signal in signals {
        line.clear();
        std::io::BufRead::read_line(&mut out, &mut line).unwrap();
        let pid = tarn.id().to_string();
        assert!(Command::new("kill").args([&format!("-{signal}"), &pid]).status().unwrap().success());
    }
    (line, tarn.wait_with_output().unwrap())
}

#[test]
fn signals_press_the_power_button() {
    let machine = with_a_button("printf 'tarn: exit status 6\\n'; exit");
    for signal in ["TERM", "INT"] {
        let (_, output) = signalled(&machine, &[], &[signal]);
        assert_eq!(output.status.code(), Some(6), "{signal}: {}", text(&output.stderr));
    }
}

#[test]
fn a_guest_that_does_not_end_is_stopped() {
    let machine = with_a_button("echo pressed");
    let (line, output) = signalled(&machine, &[], &["TERM", "TERM"]);
    assert_eq!((line.as_str(), output.status.code()), ("pressed\n", Some(137)), "{}", text(&output.stderr));
    assert!(text(&output.stderr).contains("second signal"), "{}", text(&output.stderr));
    let (_, output) = signalled(&machine, &["--grace", "1"], &["TERM"]);
    assert_eq!(output.status.code(), Some(137));
    assert!(text(&output.stderr).contains("--grace"), "{}", text(&output.stderr));
}

#[test]
fn the_image_is_locked_while_the_machine_runs() {
    let machine = Machine::new("echo up; read line");
    let mut first = machine.command(&[]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut out = std::io::BufReader::new(first.stdout.take().unwrap());
    let mut line = String::new();
    std::io::BufRead::read_line(&mut out, &mut line).unwrap();
    assert_eq!(line, "up\n");
    let second = machine.run(&[]);
    assert_eq!(second.status.code(), Some(1));
    assert!(text(&second.stderr).contains("in use"), "{}", text(&second.stderr));
    // A machine that discards its writes needs no lock. (The script ends at the end of its input.)
    assert_eq!(machine.run(&["--snapshot"]).status.code(), Some(125));
    drop(first.stdin.take());
    first.wait().unwrap();
}

#[test]
fn qemu_does_not_outlive_a_killed_tarn() {
    let machine = Machine::new("echo $$; exec sleep 1000");
    let mut tarn = machine.command(&[]).stdout(Stdio::piped()).spawn().unwrap();
    let mut out = std::io::BufReader::new(tarn.stdout.take().unwrap());
    let mut line = String::new();
    std::io::BufRead::read_line(&mut out, &mut line).unwrap();
    let pid: u32 = line.trim().parse().unwrap();
    tarn.kill().unwrap();
    tarn.wait().unwrap();
    let process = PathBuf::from(format!("/proc/{pid}/stat"));
    let gone = |p: &Path| fs::read_to_string(p).map_or(true, |stat| stat.contains(") Z "));
    for _ in 0..1000 {
        if gone(&process) {
            return;
        }
        std::thread::yield_now();
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    panic!("process {pid} still runs");
}

#[test]
fn a_dry_run_shows_the_command_and_starts_nothing() {
    let output =
        Machine::new("touch started").run(&["--dry-run", "--machine", "microvm", "--forward", "8080:80"]);
    let said = text(&output.stdout);
    assert!(
        output.status.success() && said.contains("-machine microvm") && said.contains("hostfwd=tcp"),
        "{said}"
    );
}

#[test]
fn missing_pieces_are_named() {
    let machine = Machine::new("true");
    let missing = machine.command(&[]).env("TARN_QEMU", machine.path("nowhere")).output().unwrap();
    assert!(text(&missing.stderr).contains("not installed"), "{}", text(&missing.stderr));
    fs::write(machine.path("kernel"), "no ELF").unwrap();
    assert!(text(&machine.run(&[]).stderr).contains("not an ELF"));
    fs::remove_file(machine.path("a.img")).unwrap();
    let output = machine.run(&[]);
    assert!(
        !output.status.success() && text(&output.stderr).contains("a.img: No such file"),
        "{}",
        text(&output.stderr)
    );
}
