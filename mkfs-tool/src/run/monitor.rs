//! QEMU's monitor, by its protocol for machines (QMP): the power button, and the plug.
//!
//! It is reached by a socket that QEMU inherits, so nothing lies in the file system and nobody else can speak to it.

use anyhow::{Context, Result};
use rustix::io::{FdFlags, fcntl_setfd};
use serde_json::Value;
use std::ffi::OsString;
use std::io::{BufRead, BufReader, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;

/// Our end of the socket.
pub(super) struct Monitor {
    stream: UnixStream,
}

/// QEMU's end, until QEMU has inherited it.
pub(super) struct Seat {
    socket: OwnedFd,
}

impl Seat {
    /// What QEMU is told about it.
    #[must_use]
    pub(super) fn arguments(&self) -> [OsString; 4] {
        let socket = format!("socket,id=monitor,fd={}", self.socket.as_raw_fd());
        ["-chardev", &socket, "-mon", "chardev=monitor,mode=control"].map(OsString::from)
    }
}

impl Monitor {
    /// Both ends. What QEMU says is read by a thread of its own, and only its complaints are passed on.
    pub(super) fn new() -> Result<(Monitor, Seat)> {
        let (ours, theirs) = UnixStream::pair().context("a socket for QEMU's monitor")?;
        let theirs = OwnedFd::from(theirs);
        fcntl_setfd(&theirs, FdFlags::empty()).context("a socket for QEMU's monitor")?;
        let answers = BufReader::new(ours.try_clone().context("a socket for QEMU's monitor")?);
        std::thread::Builder::new().name("monitor".into()).spawn(move || listen(answers))?;
        let mut monitor = Monitor { stream: ours };
        // Every conversation begins so. It waits in the socket until QEMU is there.
        monitor.execute("qmp_capabilities");
        Ok((monitor, Seat { socket: theirs }))
    }

    /// Presses the power button. A guest that does not listen to it yet never hears of it.
    pub(super) fn press_power_button(&mut self) {
        self.execute("system_powerdown");
    }

    /// Ends QEMU.
    pub(super) fn quit(&mut self) {
        self.execute("quit");
    }

    fn execute(&mut self, command: &str) {
        // It fails when QEMU has just ended, which its console tells.
        let _ = writeln!(self.stream, "{{\"execute\":\"{command}\"}}");
    }
}

fn listen(answers: impl BufRead) {
    for line in answers.lines().map_while(Result::ok) {
        if let Some(complaint) = complaint(&line) {
            eprintln!("tarn: QEMU's monitor: {complaint}");
        }
    }
}

/// What is wrong, if a line of QMP says so.
fn complaint(line: &str) -> Option<String> {
    let said: Value = serde_json::from_str(line).ok()?;
    Some(said.get("error")?.get("desc")?.as_str()?.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn complaints_are_told_from_answers_and_events() {
        let error = r#"{"error": {"class": "CommandNotFound", "desc": "The command x has not been found"}}"#;
        assert_eq!(complaint(error).as_deref(), Some("The command x has not been found"));
        for line in [r#"{"return": {}}"#, r#"{"event": "POWERDOWN"}"#, r#"{"QMP": {"version": {}}}"#, "{", ""]
        {
            assert_eq!(complaint(line), None, "{line}");
        }
    }
}
