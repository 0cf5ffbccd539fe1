//! Root file systems for the guest, collected from the machine's own programs: what `cargo xtask demo` and the tests boot.

use crate::machine::{find, output, root, run, target};
use anyhow::{Context, Result};
use std::path::{Path, PathBuf};
use std::process::Command;

/// How to speak SQL in the guest.
pub struct Sqlite {
    /// What it is, for people.
    pub name: String,
    /// The program's path in the guest: takes a database and one argument of SQL statements.
    pub program: String,
    /// The program is the machine's `sqlite3`, which has `writefile`; else ours, which has `tarn_snapshot`.
    shell: bool,
}

impl Sqlite {
    /// SQL that takes a snapshot of the root file system from inside the guest: by `mkdir .zfs/snapshot/NAME`.
    pub fn snapshot_statement(&self, name: &str) -> String {
        if self.shell {
            // The shell's writefile() with a directory's mode is mkdir(2).
            format!("SELECT writefile('/.zfs/snapshot/{name}', NULL, {});", 0o040_755)
        } else {
            format!("SELECT mkdir('/.zfs/snapshot/{name}');")
        }
    }
}

/// Fills `folder` with a root file system that has SQLite: the machine's `sqlite3` with its libraries, or a statically
/// linked one built from a crate where there is none.
pub fn sqlite(folder: &Path) -> Result<Sqlite> {
    for dir in ["data", "dev", "etc", "proc", "tmp", "usr/bin"] {
        std::fs::create_dir_all(folder.join(dir))?;
    }
    std::fs::write(folder.join("etc/passwd"), "root:x:0:0:root:/:/bin/sh\n")?;
    std::fs::write(folder.join("etc/hostname"), "tarn\n")?;
    if let Some(busybox) = find("busybox") {
        copy(&busybox, folder, Path::new("/bin/busybox"))?;
    }
    if let Some(sqlite3) = find("sqlite3") {
        let name =
            format!("{} {}", sqlite3.display(), output(Command::new(&sqlite3).arg("--version"))?.trim());
        program(&sqlite3, folder)?;
        return Ok(Sqlite { name, program: sqlite3.to_string_lossy().into_owned(), shell: true });
    }
    let built = static_sqlite()?;
    copy(&built, folder, Path::new("/usr/bin/sqlite-static"))?;
    Ok(Sqlite {
        name: "a statically linked SQLite".into(),
        program: "/usr/bin/sqlite-static".into(),
        shell: false,
    })
}

/// Builds the statically linked SQLite workload (a static PIE).
pub fn static_sqlite() -> Result<PathBuf> {
    workload("sqlite-static")
}

/// Builds a program of `tests/workloads` as a static PIE.
pub fn workload(name: &str) -> Result<PathBuf> {
    let folder = target().join(name);
    let mut build = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    build.current_dir(root().join("tests/workloads").join(name));
    build
        .args(["build", "--release", "--quiet", "--target", "x86_64-unknown-linux-gnu", "--target-dir"])
        .arg(&folder);
    run(build.env("RUSTFLAGS", "-C target-feature=+crt-static"))?;
    Ok(folder.join("x86_64-unknown-linux-gnu/release").join(name))
}

/// Copies a program and every library that the machine's loader would load for it, at the same paths.
pub fn program(path: &Path, folder: &Path) -> Result<()> {
    copy(path, folder, path)?;
    libraries(path, folder)
}

/// Copies every library that the machine's loader would load for a program or library, at the same paths.
pub fn libraries(path: &Path, folder: &Path) -> Result<()> {
    // «name => /path (address)», or «/path (address)» for the loader itself.
    let libraries = output(Command::new("ldd").arg(path))?;
    let paths = libraries.split_whitespace().filter(|word| word.starts_with('/'));
    for library in paths {
        copy(Path::new(library), folder, Path::new(library))?;
    }
    Ok(())
}

fn copy(from: &Path, folder: &Path, to: &Path) -> Result<()> {
    let target = folder.join(to.strip_prefix("/").unwrap_or(to));
    std::fs::create_dir_all(target.parent().context("a file lies in a folder")?)?;
    std::fs::copy(from, &target).with_context(|| from.display().to_string())?;
    Ok(())
}
