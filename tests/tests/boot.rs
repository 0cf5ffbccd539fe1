//! The kernel in QEMU: real programs of the machine on a ZFS root. Output is awaited by reading it to its end, never by sleeping.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use testkit::rootfs;
use tests::elf::{SAYS, STATUS, Verdict, write_corpus};
use tests::server::CHECKS;
use tests::tool::{Zdb, tarn, tarn_ok, zdb_check};

const BUSYBOX: &str = "/bin/busybox";

/// Adds the program of [`Guest::checks`] to a root folder.
fn add_checks(root: &Path) {
    std::fs::copy(rootfs::workload("guest-checks").unwrap(), root.join(&CHECKS[1..])).unwrap();
}

struct Guest {
    folder: tempfile::TempDir,
    sqlite: rootfs::Sqlite,
}

impl Guest {
    /// An image with SQLite, busybox and what `prepare` adds to its root folder.
    fn new(prepare: impl FnOnce(&Path)) -> Self {
        Self::with(&["--size", "512M"], prepare)
    }

    /// As [`Guest::new`], with these options of `create`.
    fn with(options: &[&str], prepare: impl FnOnce(&Path)) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().join("root");
        let sqlite = rootfs::sqlite(&root).unwrap();
        prepare(&root);
        std::fs::create_dir(folder.path().join("disk")).unwrap();
        let guest = Guest { folder, sqlite };
        let root = root.to_string_lossy().into_owned();
        let image = guest.image();
        let create = ["create", &image, "--from", &root, "--pool", "guest"];
        tarn_ok(&[&create, options].concat()).unwrap();
        guest.zdb();
        guest
    }

    fn image(&self) -> String {
        self.folder.path().join("disk/guest.img").to_string_lossy().into_owned()
    }

    fn boot(&self, options: &[&str], command: &[&str]) -> Output {
        let mut boot = tarn();
        boot.args(["run", &self.image()]).args(options);
        if !options.contains(&"--memory") {
            boot.args(["--memory", "256M"]);
        }
        boot.arg("--").args(command);
        boot.stdin(Stdio::null()).output().unwrap()
    }

    /// Boots, expects success, and gives the application's output.
    fn ok(&self, options: &[&str], command: &[&str]) -> String {
        let output = self.boot(options, command);
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(
            output.status.success(),
            "{}\n{text}\n{}",
            output.status,
            String::from_utf8_lossy(&output.stderr)
        );
        text
    }

    /// Runs checks of the program `tests/workloads/guest-checks`, which must be in the image.
    fn checks(&self, options: &[&str], names: &[&str]) {
        self.only_checks(options, names);
        self.zdb();
    }

    /// The same, and nobody looks at the disk.
    fn only_checks(&self, options: &[&str], names: &[&str]) {
        let text = self.ok(options, &[&[CHECKS], names].concat());
        for name in names {
            assert!(text.lines().any(|line| line.starts_with(&format!("{name}: ok"))), "{text}");
        }
    }

    fn zdb(&self) {
        zdb_check(&self.folder.path().join("disk"), "guest").unwrap();
    }
}

/// Writes a program.
fn install(path: &Path, elf: &[u8]) {
    std::fs::write(path, elf).unwrap();
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).unwrap();
}

#[test]
fn every_machine_type_boots() {
    let guest = Guest::new(|_| {});
    for machine in ["q35", "pc", "microvm"] {
        let text = guest.ok(&["--machine", machine], &[BUSYBOX, "echo", "hello from", machine]);
        assert_eq!(text.trim(), format!("hello from {machine}"));
    }
    guest.zdb();
}

/// What is typed, more output than a buffer holds at once, the exit status.
#[test]
fn a_virtio_console_carries_both_directions() {
    let guest = Guest::new(|_| {});
    for machine in ["q35", "microvm"] {
        let run =
            ["run", &guest.image(), "--memory", "256M", "--machine", machine, "--console", "virtio", "--"];
        let commands = [
            &[BUSYBOX, "sh", "-c", "read a; echo got $a", ";", BUSYBOX, "seq", "1", "20000", ";"][..],
            &[BUSYBOX, "sh", "-c", "exit 7"],
        ];
        let mut boot = tarn();
        boot.args(run).args(commands.concat()).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut boot = boot.spawn().unwrap();
        boot.stdin.take().unwrap().write_all(b"a line\n").unwrap();
        let output = boot.wait_with_output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        let numbers: String = (1..=20000).map(|n| format!("{n}\n")).collect();
        let (head, tail) = text.split_once("got a line\n").unwrap_or_else(|| panic!("{text:.500}"));
        // The terminal shows what is typed.
        assert_eq!(head.trim_end(), "a line", "{machine}");
        assert!(tail == numbers, "{machine}: {} bytes", tail.len());
        assert_eq!(output.status.code(), Some(7), "{machine}");
    }
}

#[test]
fn the_exit_status_is_the_applications() {
    let guest = Guest::new(|_| {});
    assert_eq!(guest.boot(&[], &[BUSYBOX, "false"]).status.code(), Some(1));
    assert_eq!(guest.boot(&[], &[BUSYBOX, "test", "-e", "/nothing"]).status.code(), Some(1));
    assert_eq!(guest.boot(&[], &[BUSYBOX, "test", "-e", "/bin/busybox"]).status.code(), Some(0));
    guest.zdb();
}

#[test]
fn a_signal_from_outside_ends_the_application_and_then_the_machine() {
    let guest = Guest::new(|_| {});
    let handled = [BUSYBOX, "sh", "-c", "trap 'echo caught; exit 7' TERM; echo ready; read line"];
    let unhandled = [BUSYBOX, "echo", "ready", ";", BUSYBOX, "sleep", "1000", ";", BUSYBOX, "echo", "never"];
    for (machine, command, said, status) in [
        ("q35", &handled[..], "caught\n", 7),
        ("pc", &handled, "caught\n", 7),
        ("microvm", &handled, "caught\n", 7),
        // 128 + SIGTERM.
        ("q35", &unhandled, "", 143),
    ] {
        let mut boot = tarn();
        boot.args(["run", &guest.image(), "--machine", machine, "--memory", "128M", "--timeout", "120"]);
        boot.arg("--").args(command).stdin(Stdio::null()).stdout(Stdio::piped());
        let mut child = boot.spawn().unwrap();
        let mut console = BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        console.read_line(&mut line).unwrap();
        assert_eq!(line, "ready\n", "{machine}");
        let sent = Command::new("kill").args(["-TERM", &child.id().to_string()]).status().unwrap();
        assert!(sent.success());
        let mut rest = String::new();
        console.read_to_string(&mut rest).unwrap();
        let ended = child.wait().unwrap().code();
        assert_eq!((rest.as_str(), ended), (said, Some(status)), "{machine}");
        // A pool that was let go of in order says so; one whose power was cut does not.
        let labels = tarn_ok(&["inspect", &guest.image(), "--labels"]).unwrap();
        assert!(labels.contains("state: 1"), "{labels}");
    }
    guest.zdb();
}

#[test]
fn what_the_kernel_holds_adds_up() {
    let guest = Guest::new(|_| {});
    let show = [BUSYBOX, "cat", "/proc/tarn/counters", "/proc/meminfo"];
    let text = guest.ok(&["--stats", "1", "--memory", "64M"], &show);
    assert!(text.lines().any(|line| line.starts_with("tarn: stats at=0.")), "{text}");
    let value = |name: &str| -> u64 {
        let found =
            text.lines().find_map(|line| line.strip_prefix(name)?.split_whitespace().next()?.parse().ok());
        found.unwrap_or_else(|| panic!("no {name}: {text}"))
    };
    let parts =
        ["free ", "page_tables ", "stacks ", "slab ", "large ", "anonymous ", "shared ", "other "].map(value);
    assert_eq!(parts.iter().sum::<u64>(), value("total "), "{text}");
    assert!(parts.iter().all(|part| *part > 0) && parts[7] < 1024, "{text}");
    // The console, three times: the file is made before it has a descriptor.
    assert_eq!((value("processes "), value("descriptors ")), (1, 3), "{text}");
    assert_eq!(value("MemTotal:"), value("total "), "{text}");
    for name in ["MemFree:", "Cached:", "AnonPages:", "Slab:", "KernelStack:", "PageTables:"] {
        assert!((1..value("total ")).contains(&value(name)), "{name} {text}");
    }
}

/// `kernel/src/selftest.rs`, among them devices that keep to no rules, played by the kernel itself.
#[test]
fn the_kernels_own_tests_pass() {
    let guest = Guest::new(|_| {});
    for cpus in ["1", "2", "4"] {
        let options = ["--memory", "256M", "--cpus", cpus, "--snapshot", "--append=tarn.selftest"];
        let text = guest.ok(&options, &[]);
        assert!(text.contains("selftest: all passed"), "{text}");
    }
}

/// For longer, and with servers: `cargo xtask workloads soak`.
#[test]
fn what_a_program_has_undone_leaves_nothing_behind() {
    let guest = Guest::new(add_checks);
    guest.checks(&["--cpus", "2"], &["leaks", "crowd-gone"]);
}

#[test]
fn commands_run_one_after_another() {
    let guest = Guest::new(|_| {});
    let text =
        guest.ok(&[], &[BUSYBOX, "echo", "one", "&&", BUSYBOX, "echo", "two words", ";", BUSYBOX, "uname"]);
    assert_eq!(text.lines().map(str::trim).collect::<Vec<_>>(), ["one", "two words", "Linux"]);
    guest.zdb();
}

#[test]
fn what_the_guest_wrote_is_there_for_the_host_and_the_next_boot() {
    let guest = Guest::new(|_| {});
    let sql = "PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL; CREATE TABLE t(a); INSERT INTO t VALUES(1),(2),(3); \
               SELECT 'sum '||sum(a) FROM t;";
    let program = guest.sqlite.program.clone();
    assert!(guest.ok(&["--cpus", "2"], &[&program, "/data/a.db", sql]).contains("sum 6"));
    guest.zdb();
    let check = "PRAGMA integrity_check; SELECT 'sum '||sum(a) FROM t;";
    let text = guest.ok(&[], &[&program, "/data/a.db", check]);
    assert!(text.contains("sum 6") && text.lines().any(|l| l.trim() == "ok"), "{text}");
    let listing = tarn_ok(&["ls", &format!("{}:/data", guest.image())]).unwrap();
    assert!(listing.contains("a.db"), "{listing}");
    guest.zdb();
}

#[test]
fn a_snapshot_taken_in_the_guest_keeps_the_old_state() {
    let guest = Guest::new(|root| std::fs::write(root.join("data/file"), "old").unwrap());
    let script = [
        BUSYBOX,
        "mkdir",
        "/.zfs/snapshot/before",
        "&&",
        BUSYBOX,
        "cp",
        BUSYBOX,
        "/data/file",
        "&&",
        BUSYBOX,
        "cat",
        "/.zfs/snapshot/before/data/file",
    ];
    assert_eq!(guest.ok(&[], &script).trim(), "old");
    guest.zdb();
    let image = guest.image();
    let snapshots = tarn_ok(&["zfs", "--disk", &image, "list", "-t", "snapshot"]).unwrap();
    assert!(snapshots.contains("guest/root@before"), "{snapshots}");
    assert_eq!(tarn_ok(&["cat", &format!("{image}:guest/root@before:/data/file")]).unwrap(), "old");
    tarn_ok(&["zfs", "--disk", &image, "rollback", "guest/root@before"]).unwrap();
    guest.zdb();
    assert_eq!(guest.ok(&[], &[BUSYBOX, "cat", "/data/file"]).trim(), "old");
    guest.zdb();
}

#[test]
fn a_static_pie_runs() {
    let guest = Guest::new(|root| {
        let built = rootfs::static_sqlite().unwrap();
        std::fs::copy(built, root.join("usr/bin/sqlite-static")).unwrap();
    });
    let sql = "CREATE TABLE t(a); INSERT INTO t VALUES(40),(2); SELECT sum(a) FROM t;";
    assert_eq!(guest.ok(&[], &["/usr/bin/sqlite-static", "/data/s.db", sql]).trim(), "42");
    // glibc reads on behind this value until there is an empty string: the stack has to end with one.
    let tunables = ["--append=tarn.env=GLIBC_TUNABLES=glibc.cpu.hwcaps=-AVX2"];
    assert_eq!(guest.ok(&tunables, &["/usr/bin/sqlite-static", "/data/t.db", sql]).trim(), "42");
    guest.zdb();
}

#[test]
fn a_crash_ends_the_machine_with_registers_and_a_failing_status() {
    // A static ELF whose first instructions read address 8: mov rax, [8].
    let guest = Guest::new(|root| {
        let code = [0x48, 0x8b, 0x04, 0x25, 0x08, 0x00, 0x00, 0x00];
        install(&root.join("crash"), &tests::elf::static_program(&code));
    });
    let output = guest.boot(&[], &["/crash"]);
    let said = String::from_utf8_lossy(&output.stderr) + String::from_utf8_lossy(&output.stdout);
    assert!(!output.status.success(), "{said}");
    assert!(said.to_lowercase().contains("rip") && said.contains("SIGSEGV"), "{said}");
    guest.zdb();
}

#[test]
fn broken_programs_are_refused_with_a_reason() {
    let mut cases = Vec::new();
    let guest = Guest::new(|root| cases = write_corpus(&root.join("elf"), Path::new("/elf")).unwrap());
    let mut words = vec!["/bin/nothing".to_owned()];
    let mut wanted = vec![format!("cannot run /bin/nothing: {}", vfs::Errno::ENOENT)];
    for case in &cases {
        words.extend([";".to_owned(), format!("/elf/{}", case.name)]);
        wanted.push(match case.tarn {
            Verdict::Runs => SAYS.to_owned(),
            Verdict::Refused(errno, why) => {
                let colon = if why.is_empty() { "" } else { ": " };
                format!("cannot run /elf/{}: {errno}{colon}{why}", case.name)
            }
        });
    }
    let output = guest.boot(&[], &words.iter().map(String::as_str).collect::<Vec<_>>());
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let lines = said.lines().map(|line| line.strip_prefix("tarn: ").unwrap_or(line));
    let lines = lines.filter(|line| line.starts_with("cannot run ") || *line == SAYS);
    // Of an interpreter, its path is named before what is wrong with it.
    let without_path = |line: &str| match line.split_once(": its interpreter ") {
        Some((program, rest)) => format!("{program}: {}", rest.split_once(": ").unwrap().1),
        None => line.to_owned(),
    };
    assert_eq!(lines.map(without_path).collect::<Vec<_>>(), wanted, "{said}");
    assert!(said.contains("interpreter-missing: its interpreter /elf/nothing-of-the-kind: "), "{said}");
    // The last one runs.
    assert_eq!(output.status.code(), Some(STATUS), "{said}");
    guest.zdb();
}

#[test]
fn vector_registers_survive_system_calls() {
    // sha512 has code for AVX, which the kernel runs on the threads that read and write.
    let guest = Guest::with(&["--size", "256M", "-O", "checksum=sha512"], |root| {
        add_checks(root);
        std::fs::create_dir(root.join("data/vectors")).unwrap();
    });
    guest.checks(&["--cpus", "2"], &["vectors"]);
}

#[test]
fn mapped_files_events_and_names() {
    let guest = Guest::new(add_checks);
    guest.checks(&["--cpus", "2"], &["mapping", "events", "names", "transfers", "splices"]);
}

/// OpenZFS 2.1 does not know such a pool: its `zdb` checks the blocks, our own verification their references.
#[test]
fn files_share_blocks() {
    let guest = Guest::with(&["--size", "512M", "-o", "feature@block_cloning=enabled"], add_checks);
    guest.only_checks(&["--cpus", "2"], &["clones"]);
    Zdb::Newer { old_opens: true }.check(&guest.folder.path().join("disk"), "guest").unwrap();
    let zpool = |args: &[&str]| tarn_ok(&[&["zpool", "--disk", &guest.image()], args].concat()).unwrap();
    let saved = zpool(&["get", "-H", "-p", "-o", "value", "bclonesaved"]);
    assert!(saved.trim().parse::<u64>().unwrap() > 100_000, "{saved}");
    zpool(&["scrub", "--verify", "guest"]);
}

#[test]
fn asynchronous_requests_clocks_and_signals() {
    let guest = Guest::new(add_checks);
    guest.checks(&["--cpus", "2"], &["asynchronous", "signals", "futexes"]);
}

#[test]
fn memory_and_system_calls_with_arguments_that_no_sane_program_passes() {
    let guest = Guest::new(add_checks);
    guest.checks(&["--cpus", "2"], &["memory", "large", "wild"]);
    guest.checks(&["--cpus", "1"], &["threads"]);
    // The fuzzer ends with its process. More of it: `cargo xtask syscalls`.
    let output = guest.ok(&["--cpus", "2", "--append=tarn.env=FUZZ_MS=1500"], &[CHECKS, "fuzz"]);
    assert!(output.contains("fuzz: ok"), "{output}");
    guest.zdb();
}

#[test]
fn a_program_that_takes_anothers_place_has_threads() {
    let guest = Guest::new(add_checks);
    let said = guest.ok(&["--cpus", "2"], &[CHECKS, "exec"]);
    assert!(said.contains("joined: ok"), "{said}");
    guest.zdb();
}

#[test]
fn a_program_that_wants_too_much_memory_is_ended_by_name() {
    let guest = Guest::new(add_checks);
    let output = guest.boot(&["--memory", "96M"], &[CHECKS, "hunger"]);
    let said = String::from_utf8_lossy(&output.stderr) + String::from_utf8_lossy(&output.stdout);
    // 128 + SIGKILL.
    assert_eq!(output.status.code(), Some(137), "{said}");
    assert!(said.contains("out of memory") && said.contains("guest-checks"), "{said}");
    guest.only_checks(&["--memory", "32M"], &["crowd"]);
    guest.zdb();
}

#[test]
fn a_database_is_filled_in_little_memory() {
    let guest = Guest::new(|_| {});
    let sql = "CREATE TABLE t(a, b); WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 10000) \
               INSERT INTO t SELECT i, randomblob(1000) FROM n; SELECT 'rows '||count(*) FROM t; PRAGMA integrity_check;";
    let program = guest.sqlite.program.clone();
    let text = guest.ok(&["--memory", "32M"], &[&program, "/data/a.db", sql]);
    assert!(text.contains("rows 10000") && text.lines().any(|l| l.trim() == "ok"), "{text}");
    guest.zdb();
}

#[test]
fn disks_interrupt_by_messages_and_by_lines() {
    let guest = Guest::new(|_| {});
    for machine in ["q35", "pc"] {
        // Without vectors the device has no MSI-X. A second disk may share the line.
        for (arguments, says) in
            [(&[][..], None), (&["-global", "virtio-blk-pci.vectors=0"], Some("interrupts by a line"))]
        {
            let mut options = vec!["--machine", machine, "--verbose", "--append=tarn.selftest=disk"];
            let image = guest.image();
            options.extend(["--snapshot", "--disk", &image]);
            let words: Vec<String> = arguments.iter().map(|a| format!("--qemu-arg={a}")).collect();
            options.extend(words.iter().map(String::as_str));
            let text = guest.ok(&options, &[]);
            assert!(text.contains("selftest: all passed"), "{text}");
            assert_eq!(text.contains("interrupts by a line"), says.is_some(), "{text}");
            assert!(!text.contains("polled"), "{text}");
        }
    }
}

#[test]
fn a_full_pool_is_an_error_that_deleting_mends() {
    let guest = Guest::with(&["--size", "96M", "-O", "compression=off"], |_| {});
    let program = guest.sqlite.program.clone();
    let fill = [BUSYBOX, "dd", "if=/dev/urandom", "of=/data/fill", "bs=128k"];
    let output = guest.boot(&[], &fill);
    let said = String::from_utf8_lossy(&output.stderr) + String::from_utf8_lossy(&output.stdout);
    assert!(!output.status.success() && said.contains("No space left on device"), "{said}");
    guest.zdb();
    // The next boot finds it as full as it was left.
    let insert = "CREATE TABLE t(a); INSERT INTO t VALUES(randomblob(8000000));";
    let output = guest.boot(&[], &[&program, "/data/a.db", insert]);
    let said = String::from_utf8_lossy(&output.stderr) + String::from_utf8_lossy(&output.stdout);
    assert!(!output.status.success() && said.contains("database or disk is full"), "{said}");
    guest.zdb();
    guest.ok(&[], &[BUSYBOX, "rm", "/data/fill"]);
    let text = guest.ok(
        &[],
        &[
            &program,
            "/data/b.db",
            &format!("{insert} SELECT 'rows '||count(*) FROM t; PRAGMA integrity_check;"),
        ],
    );
    assert!(text.contains("rows 1") && text.lines().any(|l| l.trim() == "ok"), "{text}");
    guest.zdb();
}
