//! Keys of encrypted datasets, as they are given on the command line.
//!
//! A run of this tool opens a pool and closes it again, so no key outlives it: whoever wants to see encrypted data gives the key to
//! the verb that shows it.

use crate::cli::Key;
use anyhow::{Context, Result, bail, ensure};
use rustix::termios::{LocalModes, OptionalActions, isatty, tcgetattr, tcsetattr};
use std::io::{Read, Write};
use std::sync::OnceLock;
use zfs::crypt::KeyFormat;
use zfs::dsl::Encryption;
use zfs::spa::Pool;

/// What `--key` said: for every pool that this run opens.
static GIVEN: OnceLock<Vec<Key>> = OnceLock::new();

/// Keeps what `--key` said.
pub(crate) fn give(keys: Vec<Key>) {
    let _ = GIVEN.set(keys);
}

/// Loads the keys that were given for datasets of this pool.
pub(crate) fn load(pool: &Pool) -> Result<()> {
    let name = pool.name();
    for key in GIVEN.get().into_iter().flatten() {
        if key.dataset.split('/').next() == Some(name.as_str()) {
            let material = find(pool, &key.dataset, key.location.as_deref())?;
            pool.dsl().load_key(&key.dataset, &material).map_err(|e| explain(&key.dataset, e))?;
        }
    }
    Ok(())
}

/// What is wrong with a key, in the words of `zfs load-key`.
pub(crate) fn explain(dataset: &str, error: zfs::Error) -> anyhow::Error {
    match error {
        zfs::Error::WrongKey => anyhow::anyhow!("incorrect key provided for '{dataset}'"),
        zfs::Error::Invalid(what) => anyhow::anyhow!("{dataset}: {what}"),
        other => anyhow::Error::new(other).context(dataset.to_owned()),
    }
}

/// The key of an encryption root, from where `location` says, or else its property `keylocation`.
pub(crate) fn find(pool: &Pool, dataset: &str, location: Option<&str>) -> Result<Vec<u8>> {
    let head = match pool.dsl().lookup(dataset) {
        Err(zfs::Error::NotFound) => bail!("no dataset {dataset} in pool {}", pool.name()),
        other => other.with_context(|| dataset.to_owned())?,
    };
    let Some(Encryption { root, format, .. }) = head.encryption().with_context(|| dataset.to_owned())? else {
        bail!("{dataset}: not encrypted, it has no key");
    };
    ensure!(root == dataset, "keys must be given for the encryption root of '{dataset}', which is '{root}'");
    let property = head.get("keylocation").map(|p| p.text).unwrap_or_default();
    read(location.unwrap_or(&property), format, dataset)
}

fn read(location: &str, format: KeyFormat, dataset: &str) -> Result<Vec<u8>> {
    if let Some(path) = location.strip_prefix("file://") {
        return std::fs::read(path).with_context(|| format!("the key of {dataset}: {path}"));
    }
    if let Some(digits) = location.strip_prefix("hex:") {
        ensure!(format != KeyFormat::Passphrase, "{dataset}: its key is a passphrase, not a number");
        return match format {
            KeyFormat::Hex => Ok(digits.into()),
            _ => unhex(digits)
                .with_context(|| format!("{dataset}: a key in hex has pairs of hexadecimal digits")),
        };
    }
    match location {
        "prompt" => prompt(format, dataset),
        "none" => bail!("{dataset}: it has no keylocation: give one"),
        other => bail!("{dataset}: keylocation {other} is not supported: prompt, file:///PATH or hex:DIGITS"),
    }
}

fn unhex(digits: &str) -> Option<Vec<u8>> {
    let digits: Option<Vec<u8>> = digits.chars().map(|c| c.to_digit(16).map(|d| d as u8)).collect();
    let (pairs, rest) = digits.as_deref()?.as_chunks::<2>();
    rest.is_empty().then(|| pairs.iter().map(|[high, low]| high << 4 | low).collect())
}

/// Asks on the terminal, without echo; without a terminal, the key comes from standard input: 32 bytes, or a line.
fn prompt(format: KeyFormat, dataset: &str) -> Result<Vec<u8>> {
    let mut input = std::io::stdin().lock();
    if format == KeyFormat::Raw {
        let mut key = vec![0; 32];
        input
            .read_exact(&mut key)
            .with_context(|| format!("the raw key of {dataset}, from standard input"))?;
        return Ok(key);
    }
    let terminal = if isatty(&input) { Some(tcgetattr(&input)?) } else { None };
    if let Some(modes) = &terminal {
        let mut silent = modes.clone();
        silent.local_modes.remove(LocalModes::ECHO);
        silent.local_modes.insert(LocalModes::ECHONL);
        tcsetattr(&input, OptionalActions::Flush, &silent)?;
        let what = if format == KeyFormat::Passphrase { "passphrase" } else { "hex key" };
        eprint!("Enter {what} for '{dataset}': ");
        std::io::stderr().flush()?;
    }
    let line = line(&mut input);
    if let Some(modes) = &terminal {
        tcsetattr(&input, OptionalActions::Flush, modes)?;
    }
    let line = line.with_context(|| format!("the key of {dataset}, from standard input"))?;
    ensure!(!line.is_empty(), "no key for {dataset} on standard input");
    Ok(line)
}

/// One line, without its end; byte by byte, so that the next key is left where it is.
fn line(input: &mut impl Read) -> std::io::Result<Vec<u8>> {
    let mut line = Vec::new();
    let mut byte = [0];
    while line.len() < LINE_MAX && input.read(&mut byte)? == 1 && byte[0] != b'\n' {
        line.push(byte[0]);
    }
    Ok(line)
}

/// Longer than any key, in bytes.
const LINE_MAX: usize = 4096;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_taken_line_by_line() {
        let mut input = &b"first\nsecond"[..];
        assert_eq!(line(&mut input).unwrap(), b"first");
        assert_eq!(line(&mut input).unwrap(), b"second");
        assert_eq!(line(&mut input).unwrap(), b"");
    }

    #[test]
    fn places_of_keys() {
        assert_eq!(read("hex:00ff", KeyFormat::Raw, "p").unwrap(), [0, 255]);
        assert_eq!(read("hex:00ff", KeyFormat::Hex, "p").unwrap(), b"00ff");
        for (location, format) in [
            ("hex:00f", KeyFormat::Raw),
            ("hex:0g", KeyFormat::Raw),
            ("hex:00ff", KeyFormat::Passphrase),
            ("none", KeyFormat::Raw),
            ("https://host/key", KeyFormat::Raw),
            ("file:///there/is/none", KeyFormat::Raw),
        ] {
            assert!(read(location, format, "p").is_err(), "{location}");
        }
    }
}
