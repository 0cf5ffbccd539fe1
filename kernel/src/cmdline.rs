//! The kernel command line: `option`, `option=value`, then ` -- ` and the application's arguments.
//!
//! Arguments after `--` are percent-encoded (`%20` for a blank), separated by blanks; a lone `;` or `&&` separates
//! commands. QEMU's microvm appends `virtio_mmio.device=…` at the very end, so those words are options wherever
//! they stand.

use alloc::string::String;
use alloc::vec::Vec;

/// A command line.
#[derive(Clone, Copy)]
pub struct CommandLine<'a> {
    text: &'a str,
}

fn is_appended_by_the_loader(word: &str) -> bool {
    word.starts_with("virtio_mmio.device=")
}

impl<'a> CommandLine<'a> {
    /// A command line of `text`.
    pub fn new(text: &'a str) -> Self {
        CommandLine { text }
    }

    /// The whole text.
    pub fn text(self) -> &'a str {
        self.text
    }

    /// All options, as words.
    pub fn words(self) -> impl Iterator<Item = &'a str> {
        let mut arguments = false;
        self.text.split_ascii_whitespace().filter(move |word| {
            arguments |= *word == "--";
            !arguments || is_appended_by_the_loader(word)
        })
    }

    /// The value of the last `name=value`; `Some("")` for a bare `name`.
    pub fn get(self, name: &str) -> Option<&'a str> {
        self.words()
            .filter_map(|word| {
                let (key, value) = word.split_once('=').unwrap_or((word, ""));
                (key == name).then_some(value)
            })
            .last()
    }

    /// All values of `name=value`, in order.
    pub fn get_all(self, name: &'a str) -> impl Iterator<Item = &'a str> {
        self.words().filter_map(move |word| word.split_once('=').filter(|(k, _)| *k == name).map(|(_, v)| v))
    }

    /// A size in bytes with an optional K, M or G.
    pub fn size(self, name: &str) -> Option<u64> {
        let value = self.get(name)?;
        let (digits, shift) = match value.as_bytes().last()? {
            b'K' | b'k' => (&value[..value.len() - 1], 10),
            b'M' | b'm' => (&value[..value.len() - 1], 20),
            b'G' | b'g' => (&value[..value.len() - 1], 30),
            _ => (value, 0),
        };
        digits.parse::<u64>().ok()?.checked_mul(1 << shift)
    }

    /// The application's arguments after `--`, decoded; `None` without `--`.
    pub fn arguments(self) -> Option<Vec<String>> {
        let mut words = self.text.split_ascii_whitespace();
        words.by_ref().find(|word| *word == "--")?;
        Some(words.filter(|word| !is_appended_by_the_loader(word)).map(percent_decode).collect())
    }
}

/// Replaces every `%XX`; a lone `%` is the empty argument; anything else stands for itself.
pub fn percent_decode(word: &str) -> String {
    if word == "%" {
        return String::new();
    }
    let bytes = word.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut i = 0;
    while i < bytes.len() {
        let pair = bytes.get(i + 1..i + 3).and_then(|h| core::str::from_utf8(h).ok());
        match pair.and_then(|h| u8::from_str_radix(h, 16).ok()).filter(|_| bytes[i] == b'%') {
            Some(byte) => {
                out.push(byte);
                i += 3;
            }
            None => {
                out.push(bytes[i]);
                i += 1;
            }
        }
    }
    String::from_utf8(out).unwrap_or_else(|e| String::from_utf8_lossy(e.as_bytes()).into_owned())
}
