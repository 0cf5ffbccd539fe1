//! The machine: which programs it has, how to install the missing ones, how to run one.

use anyhow::{Context, Result, bail};
use std::path::Path;
use std::process::Command;
pub(crate) use testkit::machine::{find, output, root, run, target};

/// A program that some verb needs, and the Debian package that has it.
struct Program {
    name: &'static str,
    package: &'static str,
    /// Without it the verbs still work, showing less.
    optional: bool,
}

const PROGRAMS: [Program; 5] = [
    Program { name: "qemu-system-x86_64", package: "qemu-system-x86", optional: false },
    Program { name: "zdb", package: "zfsutils-linux", optional: true },
    Program { name: "sqlite3", package: "sqlite3", optional: true },
    Program { name: "busybox", package: "busybox-static", optional: true },
    Program { name: "ip", package: "iproute2", optional: true },
];

/// What is only measured beside us.
const PEERS: [Program; 2] = [
    Program { name: "mke2fs", package: "e2fsprogs", optional: true },
    Program { name: "mksquashfs", package: "squashfs-tools", optional: true },
];

/// `cargo` in the repository's root.
pub(crate) fn cargo() -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(root());
    command
}

/// Installs what is missing: Debian packages when root, else says what to install. Optional programs may stay missing.
pub(crate) fn install_all() -> Result<()> {
    install(&PROGRAMS)
}

/// The same for the programs that benchmarks are taken beside.
pub(crate) fn install_peers() -> Result<()> {
    install(&PEERS)
}

fn install(programs: &[Program]) -> Result<()> {
    let missing: Vec<&Program> = programs.iter().filter(|p| find(p.name).is_none()).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let names = missing.iter().map(|p| p.package).collect::<Vec<_>>().join(" ");
    if find("apt-get").is_none() || !is_root() {
        if missing.iter().all(|p| p.optional) {
            println!("note: not installed: {names}; what needs them is left out");
            return Ok(());
        }
        bail!("missing programs: install {names} (on Debian: apt-get install {names}), or run this as root");
    }
    println!("== installing {names}");
    if missing.iter().any(|p| p.package == "zfsutils-linux") {
        enable_contrib()?;
    }
    run(apt().args(["update", "-qq"]))?;
    for program in missing {
        // One at a time: a package that the archive lacks must not keep the others away. No recommended packages: they
        // bring a desktop's worth of libraries, and can conflict with newer QEMU tools from backports.
        let installed = run(apt().args(["install", "-y", "-qq", "--no-install-recommends", program.package]));
        if let Err(e) = installed {
            if !program.optional {
                return Err(e.context(format!("{} is needed and could not be installed", program.package)));
            }
            println!("note: {} could not be installed: {e:#}", program.package);
        }
    }
    Ok(())
}

/// Installs what one verb alone needs: (program, package).
pub(crate) fn install_for(programs: &[(&'static str, &'static str)]) -> Result<()> {
    let programs: Vec<Program> =
        programs.iter().map(|&(name, package)| Program { name, package, optional: false }).collect();
    install(&programs)
}

fn apt() -> Command {
    let mut command = Command::new("apt-get");
    command.env("DEBIAN_FRONTEND", "noninteractive").stdout(std::process::Stdio::null());
    command
}

/// Copies an image file, holes as holes.
pub(crate) fn copy_image(from: &Path, to: &Path) -> Result<()> {
    run(Command::new("cp").args(["--sparse=always", "--reflink=auto"]).arg(from).arg(to))
}

/// Makes `to` a copy of a file, or of all files of a folder, and touches nothing that is one already. What changes is replaced in one step:
/// a script that is running goes on as it was.
pub(crate) fn bring_up_to_date(from: &Path, to: &Path) -> Result<()> {
    if from.is_dir() {
        std::fs::create_dir_all(to)?;
        for entry in std::fs::read_dir(from)? {
            let entry = entry?;
            bring_up_to_date(&entry.path(), &to.join(entry.file_name()))?;
        }
        return Ok(());
    }
    let content = |path: &Path| std::fs::read(path).with_context(|| path.display().to_string());
    if content(to).ok() != Some(content(from)?) {
        let new = to.with_added_extension("new");
        std::fs::copy(from, &new)?;
        std::fs::rename(&new, to)?;
    }
    Ok(())
}

pub(crate) fn is_root() -> bool {
    output(Command::new("id").arg("-u")).is_ok_and(|id| id.trim() == "0")
}

/// `zdb -bcc`: every block of the pool on the disks in `folder` is read and checked, and compared with the space maps. Its verdict;
/// `None` where it is not installed.
pub(crate) fn zdb(folder: &Path, pool: &str) -> Result<Option<String>> {
    let Some(zdb) = find("zdb") else { return Ok(None) };
    let text = output(Command::new(zdb).args(["-e", "-p"]).arg(folder).args(["-bcc", pool]))?;
    let verdict = text.lines().find(|l| l.contains("No leaks")).with_context(|| format!("zdb: {text}"))?;
    Ok(Some(verdict.trim().to_owned()))
}

/// `zfsutils-linux` is in Debian's component `contrib`, which is not enabled by default.
fn enable_contrib() -> Result<()> {
    // A package that others only mention is known to `apt-cache show`, too: it succeeds then, and prints nothing.
    if output(Command::new("apt-cache").args(["show", "zfsutils-linux"]))
        .is_ok_and(|text| !text.trim().is_empty())
    {
        return Ok(());
    }
    let deb822 = Path::new("/etc/apt/sources.list.d/debian.sources");
    let list = Path::new("/etc/apt/sources.list");
    if deb822.exists() {
        let text = std::fs::read_to_string(deb822)?;
        let lines = text.lines().map(|line| match line.strip_prefix("Components:") {
            Some(rest) if !rest.split_whitespace().any(|c| c == "contrib") => format!("{line} contrib"),
            _ => line.to_owned(),
        });
        let changed: Vec<String> = lines.collect();
        std::fs::write(deb822, changed.join("\n") + "\n").context("enabling Debian's contrib component")?;
    } else if list.exists() {
        let text = std::fs::read_to_string(list)?;
        let lines = text.lines().map(|line| {
            let main = line.starts_with("deb ") && line.split_whitespace().any(|w| w == "main");
            if main && !line.contains("contrib") { format!("{line} contrib") } else { line.to_owned() }
        });
        let changed: Vec<String> = lines.collect();
        std::fs::write(list, changed.join("\n") + "\n").context("enabling Debian's contrib component")?;
    }
    Ok(())
}
