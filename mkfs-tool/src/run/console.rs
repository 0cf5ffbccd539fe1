//! The guest's console: passed on as it comes, but for its last line.

use std::io::{self, Read, Write};

const MARK: &[u8] = b"tarn: exit status ";
/// The kernel puts it before a newline of its own, when it has to speak in the middle of the application's line.
const RECORD_SEPARATOR: u8 = 0x1e;

/// Copies a console to `out` and looks for the line that tells the application's status.
pub struct Console<W> {
    out: W,
    /// The beginning of a line that may yet become the status line; not printed so far.
    held: Vec<u8>,
    /// The line is known to be an ordinary one.
    passing: bool,
    /// The last byte was a record separator: a newline that follows is not the application's.
    separated: bool,
    status: Option<u8>,
}

impl<W: Write> Console<W> {
    /// A console that prints to `out`.
    pub fn new(out: W) -> Self {
        Console { out, held: Vec::new(), passing: false, separated: false, status: None }
    }

    /// What the last status line said.
    pub fn status(&self) -> Option<u8> {
        self.status
    }

    /// Copies until the machine closes its console.
    pub fn copy(&mut self, mut from: impl Read) -> io::Result<()> {
        let mut buf = [0; 4096];
        loop {
            match from.read(&mut buf) {
                Ok(0) => break,
                Ok(len) => self.push(&buf[..len])?,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        self.end_line(b"")?;
        self.out.flush()
    }

    fn push(&mut self, bytes: &[u8]) -> io::Result<()> {
        for chunk in bytes.split_inclusive(|b| *b == b'\n') {
            match chunk.strip_suffix(b"\n") {
                Some(rest) => {
                    self.part(rest)?;
                    let end: &[u8] = if std::mem::take(&mut self.separated) { b"" } else { b"\n" };
                    self.end_line(end)?;
                }
                None => self.part(chunk)?,
            }
        }
        self.out.flush()
    }

    /// A part of a line: printed at once, unless the line may be the status line.
    fn part(&mut self, part: &[u8]) -> io::Result<()> {
        let part = match part.strip_suffix(b"\r").unwrap_or(part).strip_suffix(&[RECORD_SEPARATOR]) {
            Some(before) => {
                self.separated = true;
                before
            }
            None => {
                self.separated &= part.iter().all(|b| *b == b'\r');
                part
            }
        };
        if self.passing {
            return self.out.write_all(&without_return(part));
        }
        self.held.extend_from_slice(part);
        let common = self.held.len().min(MARK.len());
        if self.held[..common] != MARK[..common] {
            self.passing = true;
            let held = std::mem::take(&mut self.held);
            self.out.write_all(&without_return(&held))?;
        }
        Ok(())
    }

    fn end_line(&mut self, end: &[u8]) -> io::Result<()> {
        let held = std::mem::take(&mut self.held);
        let passing = std::mem::take(&mut self.passing);
        if !passing && let Some(status) = status(&held) {
            self.status = Some(status);
            return Ok(());
        }
        self.out.write_all(&without_return(&held))?;
        self.out.write_all(end)
    }
}

/// A serial line ends lines with a carriage return as well, which files and pipes do not want.
fn without_return(part: &[u8]) -> Vec<u8> {
    part.iter().copied().filter(|b| *b != b'\r').collect()
}

fn status(line: &[u8]) -> Option<u8> {
    let digits = line.strip_prefix(MARK)?.trim_ascii();
    // A status is a byte, as with wait(2): larger numbers wrap in the same way.
    std::str::from_utf8(digits).ok()?.parse::<i64>().ok().map(|n| (n & 0xff) as u8)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(text: &str, piece: usize) -> (String, Option<u8>) {
        let mut out = Vec::new();
        let mut console = Console::new(&mut out);
        for chunk in text.as_bytes().chunks(piece) {
            console.push(chunk).unwrap();
        }
        console.copy(&b""[..]).unwrap();
        let status = console.status();
        (String::from_utf8(out).unwrap(), status)
    }

    #[test]
    fn the_status_line_is_taken_out() {
        let text = "hello\r\ntarn: booted\r\nprompt> tarn: exit status 9\r\ntarn: exit status 3\r\n";
        for piece in [1, 2, 7, 1000] {
            let (shown, status) = run(text, piece);
            assert_eq!(shown, "hello\ntarn: booted\nprompt> tarn: exit status 9\n");
            assert_eq!(status, Some(3));
        }
    }

    #[test]
    fn a_machine_may_end_without_one() {
        assert_eq!(run("panic\nno newline", 3), ("panic\nno newline".into(), None));
        assert_eq!(run("tarn: exit status x\n", 4), ("tarn: exit status x\n".into(), None));
        assert_eq!(run("tarn: exi", 4), ("tarn: exi".into(), None));
        assert_eq!(run("tarn: exit status 256", 4).1, Some(0));
    }

    #[test]
    fn a_newline_of_the_kernels_own_is_taken_out() {
        for piece in [1, 2, 5, 1000] {
            let text = "no newline\x1e\r\ntarn: exit status 4\r\n";
            assert_eq!(run(text, piece), ("no newline".into(), Some(4)), "in pieces of {piece}");
        }
    }

    #[test]
    fn a_prompt_is_shown_at_once() {
        let mut out = Vec::new();
        Console::new(&mut out).push(b"sqlite> ").unwrap();
        assert_eq!(out, b"sqlite> ");
    }
}
