//! The console as a terminal: lines with echo and editing, or raw bytes, as `termios` says.

use crate::console;
use alloc::collections::VecDeque;
use alloc::sync::Arc;
use platform::sync::Mutex;
use vfs::inode::{Ready, Stream};
use vfs::wait::{Waiters, wait_on};
use vfs::{Errno, Result};

/// `struct termios` as `TCGETS` shows it: four words of flags, line discipline, 19 control characters.
#[derive(Debug, Clone, Copy)]
pub struct Termios {
    /// Input flags.
    pub input: u32,
    /// Output flags.
    pub output: u32,
    /// Control flags.
    pub control: u32,
    /// Local flags.
    pub local: u32,
    /// Control characters.
    pub chars: [u8; 19],
}

const ICRNL: u32 = 0o400;
const OPOST: u32 = 1;
const ONLCR: u32 = 4;
const ISIG: u32 = 1;
const ICANON: u32 = 2;
const ECHO: u32 = 8;

impl Default for Termios {
    fn default() -> Self {
        let mut chars = [0; 19];
        // VINTR ^C, VQUIT ^\, VERASE ^?, VKILL ^U, VEOF ^D, VMIN 1.
        chars[..7].copy_from_slice(&[3, 28, 127, 21, 4, 0, 1]);
        // Output is passed on as it is: a program's bytes arrive unchanged at the other end of the serial line.
        Termios { input: ICRNL, output: 0, control: 0o277, local: ISIG | ICANON | ECHO, chars }
    }
}

struct State {
    termios: Termios,
    line: VecDeque<u8>,
    ready: VecDeque<u8>,
    /// An end of file was typed behind what is in `ready`.
    ended: bool,
}

/// The terminal.
pub struct Terminal {
    state: Mutex<State>,
}

static WAITERS: Waiters = Waiters::new();

impl Terminal {
    /// The machine's terminal.
    pub fn get() -> Arc<Terminal> {
        static TERMINAL: spin::Once<Arc<Terminal>> = spin::Once::new();
        Arc::clone(TERMINAL.call_once(|| {
            console::on_input(|| WAITERS.wake());
            let (line, ready) = (VecDeque::new(), VecDeque::new());
            Arc::new(Terminal {
                state: Mutex::new(State { termios: Termios::default(), line, ready, ended: false }),
            })
        }))
    }

    /// Its settings.
    pub fn termios(&self) -> Termios {
        self.state.lock().termios
    }

    /// Changes its settings.
    pub fn set_termios(&self, termios: Termios) {
        self.state.lock().termios = termios;
    }

    /// Takes what has arrived through the line discipline.
    fn pump(&self) {
        let mut state = self.state.lock();
        while console::readable() {
            let mut byte = [0];
            console::read(&mut byte);
            accept(&mut state, byte[0]);
        }
    }

    fn try_read(&self, buf: &mut [u8]) -> Option<usize> {
        self.pump();
        let mut state = self.state.lock();
        let canonical = state.termios.local & ICANON != 0;
        if state.ready.is_empty() {
            return core::mem::take(&mut state.ended).then_some(0);
        }
        let end = if canonical { state.ready.iter().position(|b| *b == b'\n').map(|p| p + 1) } else { None };
        let n = buf.len().min(end.unwrap_or(state.ready.len()));
        for (to, from) in buf.iter_mut().zip(state.ready.drain(..n)) {
            *to = from;
        }
        Some(n)
    }
}

fn accept(state: &mut State, byte: u8) {
    let t = state.termios;
    let byte = if byte == b'\r' && t.input & ICRNL != 0 { b'\n' } else { byte };
    if t.local & ISIG != 0 && byte == t.chars[0] {
        for process in super::all() {
            process.signal(super::signals::SigInfo::kernel(2));
        }
        return;
    }
    let echo = t.local & ECHO != 0;
    if t.local & ICANON == 0 {
        state.ready.push_back(byte);
    } else if byte == t.chars[2] || byte == 8 {
        if state.line.pop_back().is_some() && echo {
            console::write(b"\x08 \x08");
        }
        return;
    } else if byte == t.chars[4] {
        state.ended |= state.line.is_empty();
        let line = core::mem::take(&mut state.line);
        state.ready.extend(line);
        return;
    } else {
        state.line.push_back(byte);
        if byte == b'\n' {
            let line = core::mem::take(&mut state.line);
            state.ready.extend(line);
        }
    }
    if echo {
        console::write(if byte == b'\n' { b"\r\n" } else { core::slice::from_ref(&byte) });
    }
}

impl Stream for Terminal {
    fn read(&self, buf: &mut [u8], nonblock: bool) -> Result<usize> {
        if buf.is_empty() {
            return Ok(0);
        }
        if nonblock {
            return self.try_read(buf).ok_or(Errno::EAGAIN);
        }
        wait_on(&[&WAITERS], None, || self.try_read(buf))
    }

    fn write(&self, data: &[u8], _nonblock: bool) -> Result<usize> {
        let flags = self.state.lock().termios.output;
        if flags & OPOST == 0 || flags & ONLCR == 0 {
            console::write(data);
            return Ok(data.len());
        }
        for line in data.split_inclusive(|b| *b == b'\n') {
            match line.strip_suffix(b"\n") {
                Some(text) => {
                    console::write(text);
                    console::write(b"\r\n");
                }
                None => console::write(line),
            }
        }
        Ok(data.len())
    }

    fn ready(&self) -> Ready {
        self.pump();
        let state = self.state.lock();
        Ready(Ready::OUT | if state.ready.is_empty() && !state.ended { 0 } else { Ready::IN })
    }

    fn waiters(&self) -> Option<&Waiters> {
        Some(&WAITERS)
    }

    fn is_terminal(&self) -> bool {
        true
    }
}
