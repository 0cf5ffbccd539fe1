//! Names of files: what was looked up before a change must not be found after it. In `/data`.

use std::ffi::CString;
use std::fs::{self, File};
use std::io::ErrorKind;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

const ROUNDS: usize = 300;

fn say<T>(result: std::io::Result<T>, what: &str) -> Result<T, String> {
    result.map_err(|e| format!("{what}: {e}"))
}

fn size(path: &Path) -> Result<Option<u64>, String> {
    match fs::metadata(path) {
        Ok(found) => Ok(Some(found.len())),
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(None),
        Err(e) => Err(format!("{}: {e}", path.display())),
    }
}

fn expect(path: &Path, wanted: Option<u64>, when: &str) -> Result<(), String> {
    // Twice: the second answer may come from what the first one left.
    for _ in 0..2 {
        let found = size(path)?;
        if found != wanted {
            return Err(format!("{when}: {} has size {found:?}, not {wanted:?}", path.display()));
        }
    }
    Ok(())
}

fn exchange(a: &Path, b: &Path) -> Result<(), String> {
    let c = |p: &Path| CString::new(p.as_os_str().as_encoded_bytes()).map_err(|e| e.to_string());
    let (a, b) = (c(a)?, c(b)?);
    // SAFETY: two paths that end with a zero byte.
    let done = unsafe {
        libc::renameat2(libc::AT_FDCWD, a.as_ptr(), libc::AT_FDCWD, b.as_ptr(), libc::RENAME_EXCHANGE)
    };
    if done == 0 { Ok(()) } else { Err(format!("exchange: {}", std::io::Error::last_os_error())) }
}

fn changes(folder: &Path) -> Result<(), String> {
    let [a, b, c] = ["a", "b", "c"].map(|name| folder.join(name));
    expect(&a, None, "before")?;
    say(fs::write(&a, "1"), "write")?;
    expect(&a, Some(1), "made")?;
    expect(&b, None, "not yet")?;
    say(fs::hard_link(&a, &b), "link")?;
    expect(&b, Some(1), "linked")?;
    say(fs::remove_file(&a), "unlink")?;
    expect(&a, None, "unlinked")?;
    expect(&b, Some(1), "the other name")?;
    say(fs::write(&c, "333"), "write")?;
    exchange(&b, &c)?;
    expect(&b, Some(3), "exchanged")?;
    expect(&c, Some(1), "exchanged")?;
    say(fs::rename(&b, &c), "rename")?;
    expect(&b, None, "renamed away")?;
    expect(&c, Some(3), "renamed over")?;
    say(fs::remove_file(&c), "unlink")?;
    // A directory that takes the place, and perhaps the number, of one that was removed.
    for round in 0..8 {
        let inside = a.join("x");
        say(fs::create_dir(&a), "mkdir")?;
        expect(&inside, None, "a new directory")?;
        say(fs::write(&inside, vec![0; round + 1]), "write")?;
        expect(&inside, Some(round as u64 + 1), "in a new directory")?;
        say(fs::remove_dir_all(&a), "removing a directory")?;
        expect(&inside, None, "in a removed directory")?;
    }
    Ok(())
}

/// One thread makes and removes a name, another asks: after each step the maker sees its own work.
fn racing(folder: &Path) -> Result<(), String> {
    let (name, stop) = (folder.join("raced"), AtomicBool::new(false));
    std::thread::scope(|scope| {
        let asker = scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                if size(&name)?.is_some_and(|n| n != 0) {
                    return Err("a size that it never had".to_owned());
                }
            }
            Ok(())
        });
        let result = (0..ROUNDS).try_for_each(|_| {
            say(File::create(&name), "create")?;
            expect(&name, Some(0), "racing, made")?;
            say(fs::remove_file(&name), "unlink")?;
            expect(&name, None, "racing, removed")
        });
        stop.store(true, Ordering::Relaxed);
        asker.join().map_err(|_| "the asker panicked".to_owned())?.and(result)
    })
}

/// Snapshots by their directories: what is in one stays, and goes with it.
fn snapshots(folder: &Path) -> Result<(), String> {
    let snapshot = Path::new("/.zfs/snapshot/names");
    let (file, before) = (folder.join("kept"), snapshot.join("data/names/kept"));
    say(fs::write(&file, "12"), "write")?;
    for _ in 0..2 {
        say(fs::create_dir(snapshot), "taking a snapshot")?;
        say(fs::write(&file, "123"), "write")?;
        expect(&before, Some(2), "in a snapshot")?;
        expect(&file, Some(3), "after a snapshot")?;
        say(fs::write(&file, "12"), "write")?;
        say(fs::remove_dir(snapshot), "destroying a snapshot")?;
        expect(&before, None, "in a destroyed snapshot")?;
    }
    say(fs::remove_file(&file), "unlink")
}

/// The check.
pub fn run() -> Result<String, String> {
    let folder = Path::new("/data/names");
    say(fs::create_dir(folder), "mkdir")?;
    changes(folder)?;
    racing(folder)?;
    snapshots(folder)?;
    say(fs::remove_dir(folder), "rmdir")?;
    Ok(format!("{ROUNDS} rounds"))
}
