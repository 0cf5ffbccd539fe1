//! QEMU's command line.

use super::forward::{Forward, check_address};
use crate::cli::{Accel, ConsoleKind, Machine, Run};
use anyhow::{Result, bail, ensure};
use std::ffi::OsString;
use std::path::{Path, PathBuf};

/// Longest kernel command line in bytes that QEMU's PVH loader holds, with a margin.
const COMMAND_LINE_MAX: usize = 4000;

/// The program to run, as `TARN_QEMU` or by its usual name.
#[must_use]
pub fn program() -> OsString {
    std::env::var_os("TARN_QEMU").filter(|p| !p.is_empty()).unwrap_or_else(|| "qemu-system-x86_64".into())
}

/// Where it is; None if it is not installed.
#[must_use]
pub fn find() -> Option<PathBuf> {
    let program = PathBuf::from(program());
    if program.components().count() > 1 {
        return Some(program).filter(|p| p.is_file());
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).map(|folder| folder.join(&program)).find(|p| p.is_file())
}

/// All arguments.
pub fn arguments(options: &Run, kernel: &str, disks: &[PathBuf], accel: Accel) -> Result<Vec<OsString>> {
    let mut words: Vec<OsString> = Vec::new();
    let mut add = |list: &[&str]| words.extend(list.iter().map(OsString::from));
    let (accel, cpu) = match accel {
        Accel::Kvm => ("kvm", "host"),
        // One thread per processor of the guest.
        Accel::Tcg | Accel::Auto => ("tcg,thread=multi", "max"),
    };
    add(&["-accel", accel, "-cpu", cpu]);
    add(&["-machine", machine(options.machine)]);
    let megabytes = options.memory.div_ceil(1 << 20);
    ensure!(megabytes >= 16, "--memory {megabytes}M is too little for a machine");
    add(&["-m", &format!("{megabytes}M"), "-smp", &options.cpus.to_string()]);
    add(&["-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"]);
    let pci = options.machine != Machine::Microvm;
    match options.console {
        ConsoleKind::Serial => add(&["-serial", "stdio"]),
        ConsoleKind::Virtio => {
            let bus = if pci { "virtio-serial-pci,disable-legacy=on" } else { "virtio-serial-device" };
            add(&["-serial", "null", "-chardev", "stdio,id=console", "-device", bus]);
            add(&["-device", "virtconsole,chardev=console"]);
        }
    }
    add(&["-device", "isa-debug-exit,iobase=0xf4,iosize=0x04"]);
    add(&["-kernel", kernel, "-append", &command_line(options)?]);
    for (n, disk) in disks.iter().enumerate() {
        let snapshot = if options.snapshot { ",snapshot=on" } else { "" };
        let mut drive = OsString::from(format!(
            "if=none,id=disk{n},format=raw,cache=writeback,discard=unmap{snapshot},file="
        ));
        drive.push(escape(disk));
        words.push("-drive".into());
        words.push(drive);
        let device = if pci { "virtio-blk-pci,disable-legacy=on" } else { "virtio-blk-device" };
        words.extend(["-device".into(), format!("{device},drive=disk{n}").into()]);
    }
    words.extend(network(options, pci)?);
    words.extend(options.qemu_arg.iter().cloned());
    Ok(words)
}

fn machine(machine: Machine) -> &'static str {
    match machine {
        Machine::Q35 => "q35",
        Machine::Pc => "pc",
        Machine::Microvm => "microvm,rtc=on",
    }
}

fn network(options: &Run, pci: bool) -> Result<Vec<OsString>> {
    let default = if options.forward.is_empty() { "none" } else { "user" };
    let wanted = options.net.as_deref().unwrap_or(default);
    let (kind, rest) = wanted.split_once(':').unwrap_or((wanted, ""));
    ensure!(
        options.forward.is_empty() || kind == "user",
        "--forward needs --net user: other networks have their own ways"
    );
    let mut netdev = match (kind, rest) {
        ("none", "") => {
            ensure!(options.address.is_none(), "--address needs a network: --net");
            return Ok(Vec::new());
        }
        ("user", "") => "user,id=net0".to_owned(),
        ("tap", name) if !name.is_empty() && !name.contains(',') => {
            format!("tap,id=net0,ifname={name},script=no,downscript=no")
        }
        ("socket", rest) if !rest.is_empty() => format!("socket,id=net0,{rest}"),
        _ => bail!("--net {kind}: say none, user, tap:INTERFACE or socket:OPTIONS"),
    };
    for text in &options.forward {
        netdev.push(',');
        netdev.push_str(&Forward::parse(text)?.hostfwd());
    }
    let device =
        if pci { "virtio-net-pci,disable-legacy=on,netdev=net0" } else { "virtio-net-device,netdev=net0" };
    Ok(["-netdev", &netdev, "-device", device].map(OsString::from).to_vec())
}

/// QEMU splits options at commas; a comma in a value is written twice.
fn escape(path: &Path) -> OsString {
    use std::os::unix::ffi::{OsStrExt, OsStringExt};
    let bytes = path.as_os_str().as_bytes();
    OsString::from_vec(bytes.iter().flat_map(|&b| if b == b',' { vec![b, b] } else { vec![b] }).collect())
}

/// The kernel's command line: options, then ` -- ` and the encoded words of the command.
fn command_line(options: &Run) -> Result<String> {
    let mut line: Vec<String> = Vec::new();
    if let Some(root) = &options.root {
        line.push(format!("root=zfs:{root}"));
    }
    if options.verbose {
        line.push("tarn.log=info".into());
    }
    if options.console == ConsoleKind::Virtio {
        line.push("tarn.console=virtio".into());
    }
    line.extend(options.arc_max.map(|bytes| format!("tarn.arc_max={bytes}")));
    line.extend(options.stats.map(|seconds| format!("tarn.stats={seconds}")));
    if let Some(address) = &options.address {
        check_address(address)?;
        line.push(format!("tarn.net={address}"));
    }
    line.extend(options.append.iter().cloned());
    for word in &line {
        ensure!(word != "--", "the guest's command is given after --, not with --append");
    }
    if !options.command.is_empty() {
        line.push("--".into());
        line.extend(options.command.iter().map(|word| encode(word)));
    }
    let line = line.join(" ");
    ensure!(!line.contains('\0'), "the command holds a zero byte");
    // QEMU copies it into a buffer of fixed size without looking, and overwrites what lies behind.
    ensure!(
        line.len() <= COMMAND_LINE_MAX,
        "the command is too long for the kernel's command line: {} bytes encoded, {COMMAND_LINE_MAX} are allowed; put it into a file",
        line.len()
    );
    Ok(line)
}

/// An argument as the kernel's command line has it: every byte that could be mistaken is `%XX`, none at all is `%`. A lone
/// `;` or `&&` separates commands and stays.
#[must_use]
pub fn encode(argument: &str) -> String {
    if matches!(argument, ";" | "&&") {
        return argument.to_owned();
    }
    if argument.is_empty() {
        return "%".to_owned();
    }
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"_-./:=@+,".contains(&b);
    let encoded =
        argument.bytes().map(|b| if plain(b) { char::from(b).to_string() } else { format!("%{b:02X}") });
    encoded.collect()
}

/// A word as a shell would need it, for people.
#[must_use]
pub fn quote(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "_-./:=@%+,".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', "'\\''"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::{Cli, Verb};
    use clap::Parser;

    fn options(args: &[&str]) -> Run {
        let cli = Cli::try_parse_from(["tarn", "run", "a.img"].iter().chain(args)).unwrap();
        let Verb::Run(run) = cli.verb else { panic!("another verb") };
        run
    }

    fn line(args: &[&str]) -> String {
        let words = arguments(&options(args), "k", &[PathBuf::from("a,b.img")], Accel::Tcg).unwrap();
        words.join(std::ffi::OsStr::new(" ")).into_string().unwrap()
    }

    #[test]
    fn arguments_arrive_whole() {
        assert_eq!(encode("/bin/ls"), "/bin/ls");
        assert_eq!(encode(""), "%");
        assert_eq!(encode("a b\n%;ü"), "a%20b%0A%25%3B%C3%BC");
        assert_eq!((encode(";"), encode("&&"), encode("--")), (";".into(), "&&".into(), "--".into()));
        assert_eq!(quote("it's"), "'it'\\''s'");
        let run =
            options(&["--append=tarn.arc_max=64M", "--root", "tarn/x", "--", "/bin/sh", "-c", "echo x"]);
        let want = "root=zfs:tarn/x tarn.arc_max=64M -- /bin/sh -c echo%20x";
        assert_eq!(command_line(&run).unwrap(), want);
        assert_eq!(command_line(&options(&[])).unwrap(), "");
        assert_eq!(command_line(&options(&["--verbose"])).unwrap(), "tarn.log=info");
        assert_eq!(command_line(&options(&["--arc-max", "64M"])).unwrap(), "tarn.arc_max=67108864");
        assert_eq!(command_line(&options(&["--stats", "5"])).unwrap(), "tarn.stats=5");
        assert!(command_line(&options(&["--append=--"])).is_err());
        assert!(command_line(&options(&["--", &"x".repeat(3990)])).is_ok());
        assert!(command_line(&options(&["--", &" ".repeat(1400)])).is_err());
    }

    #[test]
    fn each_machine_gets_its_devices() {
        let q35 = line(&[]);
        assert!(q35.contains("-machine q35 -m 512M -smp 2"), "{q35}");
        assert!(
            q35.contains("file=a,,b.img") && q35.contains("virtio-blk-pci,disable-legacy=on,drive=disk0"),
            "{q35}"
        );
        assert!(!q35.contains("netdev"), "{q35}");
        let micro = line(&["--machine", "microvm", "--forward", "80:80", "--memory", "64M", "--snapshot"]);
        assert!(
            micro.contains("virtio-blk-device,drive=disk0") && micro.contains("virtio-net-device"),
            "{micro}"
        );
        assert!(micro.contains("-m 64M") && micro.contains("snapshot=on"), "{micro}");
        assert!(q35.contains("-serial stdio") && !q35.contains("virtconsole"), "{q35}");
        for (machine, bus) in [("pc", "virtio-serial-pci"), ("microvm", "virtio-serial-device")] {
            let words = line(&["--machine", machine, "--console", "virtio"]);
            let wanted = [bus, "-device virtconsole,chardev=console", "tarn.console=virtio", "-serial null"];
            assert!(wanted.iter().all(|w| words.contains(w)), "{words}");
        }
    }

    #[test]
    fn networks_are_chosen() {
        let user = line(&["--net", "user", "--address", "10.0.2.99/24,gw=10.0.2.2"]);
        assert!(
            user.contains("-netdev user,id=net0 ") && user.contains("tarn.net=10.0.2.99/24,gw=10.0.2.2"),
            "{user}"
        );
        assert!(line(&["--net", "tap:tap0"]).contains("tap,id=net0,ifname=tap0,script=no"));
        assert!(
            line(&["--net", "socket:connect=127.0.0.1:1"])
                .contains("-netdev socket,id=net0,connect=127.0.0.1:1")
        );
        for wrong in [
            &["--net", "wifi"][..],
            &["--net", "tap"],
            &["--net", "none", "--forward", "1:1"],
            &["--address", "1.2.3.4/8"],
            &["--net", "user", "--address", "1.2.3.4"],
        ] {
            assert!(arguments(&options(wrong), "k", &[], Accel::Tcg).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn too_little_memory_is_refused() {
        assert!(arguments(&options(&["--memory", "1M"]), "k", &[], Accel::Tcg).is_err());
    }
}
