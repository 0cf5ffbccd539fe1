//! A `zdb` that is newer than the system's: the judge of what OpenZFS 2.1 does not know, as block cloning.
//!
//! Debian's backports have it. Its packages are only unpacked, into the target folder; nothing of the system changes.

use crate::machine::{output, run, target};
use anyhow::{Context, Result, ensure};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";
/// The libraries of OpenZFS that its programs need; the system has all others.
const LIBRARIES: [&str; 4] = ["libnvpair", "libuutil", "libzfs", "libzpool"];

/// The path of the program; says why if there is none.
pub(crate) fn zdb() -> Option<PathBuf> {
    let home = target().join("newer-zdb");
    let program = home.join("zdb");
    if program.exists() {
        return Some(program);
    }
    match unpack(&home, &program) {
        Ok(()) => Some(program),
        Err(error) => {
            println!("LEFT OUT: a newer zdb judges nothing in this run, it could not be had: {error:#}");
            None
        }
    }
}

/// Names it to the tests that `command` runs, if there is one.
pub(crate) fn name_to(command: &mut Command) {
    if let Some(zdb) = zdb() {
        command.env("TARN_ZDB_NEWER", zdb);
    }
}

fn unpack(home: &Path, program: &Path) -> Result<()> {
    ensure!(cfg!(target_arch = "x86_64"), "this is no x86-64 machine");
    if home.exists() {
        std::fs::remove_dir_all(home)?;
    }
    for folder in ["lists/partial", "cache/archives/partial", "root"] {
        std::fs::create_dir_all(home.join(folder))?;
    }
    let (mirror, release) = archive()?;
    let signed = if Path::new(KEYRING).exists() { format!("[signed-by={KEYRING}] ") } else { String::new() };
    let source = format!("deb {signed}{mirror} {release}-backports contrib\n");
    std::fs::write(home.join("sources.list"), source)?;
    println!("== unpacking a newer zdb");
    run(apt(home).args(["update", "-qq"]).stdout(Stdio::null()))?;
    let backports = format!("{release}-backports");
    let fetch = |packages: &[String]| {
        run(apt(home).args(["download", "-qq", "-t", &backports]).args(packages).stdout(Stdio::null()))
    };
    fetch(&["zfsutils-linux".to_owned()])?;
    let depends =
        output(Command::new("dpkg-deb").arg("-f").arg(one(home, "zfsutils-linux")?).arg("Depends"))?;
    let names = depends.split([',', '|']).filter_map(|word| word.split_whitespace().next());
    let ours = |name: &&str| LIBRARIES.iter().any(|library| name.starts_with(library));
    let libraries: Vec<String> = names.filter(ours).map(str::to_owned).collect();
    ensure!(
        libraries.len() == LIBRARIES.len(),
        "zfsutils-linux needs other libraries than expected: {depends}"
    );
    fetch(&libraries)?;
    let root = home.join("root");
    for package in libraries.iter().map(String::as_str).chain(["zfsutils-linux"]) {
        run(Command::new("dpkg-deb").arg("-x").arg(one(home, package)?).arg(&root))?;
    }
    let found =
        ["sbin/zdb", "usr/sbin/zdb"].map(|path| root.join(path)).into_iter().find(|path| path.exists());
    let found = found.context("zfsutils-linux has no zdb")?;
    let paths = ["lib", "usr/lib"].map(|lib| root.join(lib).join("x86_64-linux-gnu").display().to_string());
    let script = format!("#!/bin/sh\nLD_LIBRARY_PATH={} exec {} \"$@\"\n", paths.join(":"), found.display());
    let unfinished = home.join("zdb.new");
    std::fs::write(&unfinished, script)?;
    std::fs::set_permissions(&unfinished, std::fs::Permissions::from_mode(0o755))?;
    // An option that it does not know: it fails, but says how it is used.
    let usage = Command::new(&unfinished).arg("--help").output()?;
    ensure!(String::from_utf8_lossy(&usage.stderr).contains("Usage"), "it does not run");
    Ok(std::fs::rename(unfinished, program)?)
}

/// `apt-get` with lists, sources and files of its own.
fn apt(home: &Path) -> Command {
    let option = |name: &str, path: &Path| format!("{name}={}", path.display());
    let mut apt = Command::new("apt-get");
    apt.current_dir(home);
    for option in [
        option("Dir::Etc::SourceList", &home.join("sources.list")),
        option("Dir::Etc::SourceParts", Path::new("/dev/null")),
        option("Dir::State::Lists", &home.join("lists")),
        option("Dir::Cache", &home.join("cache")),
        "APT::Sandbox::User=root".to_owned(),
    ] {
        apt.args(["-o", &option]);
    }
    apt
}

/// The archive that this system's packages come from, and the release.
fn archive() -> Result<(String, String)> {
    let os = std::fs::read_to_string("/etc/os-release")?;
    let release = os
        .lines()
        .find_map(|line| line.strip_prefix("VERSION_CODENAME="))
        .context("no release has a name")?;
    ensure!(os.lines().any(|line| line == "ID=debian"), "this is not Debian");
    let policy = output(Command::new("apt-cache").arg("policy"))?;
    let place = format!("{release}/main");
    let mirror = policy.lines().find_map(|line| {
        let mut words = line.split_whitespace().skip_while(|word| !word.starts_with("http"));
        let mirror = words.next()?;
        (words.next()? == place).then(|| mirror.to_owned())
    });
    Ok((mirror.context("apt knows no archive of this release")?, release.to_owned()))
}

/// The file of a package in the folder.
fn one(home: &Path, package: &str) -> Result<PathBuf> {
    let prefix = format!("{package}_");
    let files = std::fs::read_dir(home)?.filter_map(|entry| Some(entry.ok()?.path()));
    let mut files =
        files.filter(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(&prefix)));
    files.next().with_context(|| format!("{package} was not downloaded"))
}
