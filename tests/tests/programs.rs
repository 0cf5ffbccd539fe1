//! Broken programs: what the kernel's reader of ELF headers says to each of the corpus, and what Linux does with the same file.

extern crate alloc;

use platform::clock::{FixedClock, Timespec};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use tests::elf::{Linux, STATUS, Verdict};
use vfs::file::File;
use vfs::inode::FileSystem;
use vfs::path::Place;
use vfs::tmpfs::Tmpfs;
use vfs::types::{FileType, New, OpenFlags, Sync};

/// The kernel's own source: the kernel itself is no library.
#[path = "../../kernel/src/exec/elf.rs"]
#[expect(dead_code, unreachable_pub, reason = "the kernel has a use for all of it")]
mod elf;

#[test]
fn the_reader_says_what_is_broken() {
    let root = Tmpfs::new("tmpfs", 1, 64 << 20, Arc::new(FixedClock(Timespec::default()))).root();
    for case in tests::elf::corpus(Path::new("/elf")) {
        let inode = root.create(case.name.as_bytes(), &New::new(FileType::Regular, 0o755)).unwrap();
        inode.write_at(0, &case.file, Sync::No).unwrap();
        let file = File::new(Place::detached(inode, b"program"), OpenFlags::empty(), None).unwrap();
        let said = match elf::Elf::read(&file) {
            Ok(_) => Verdict::Runs,
            Err(flaw) => Verdict::Refused(flaw.errno, flaw.why),
        };
        // What is no ELF file at all is a script, which is known before.
        let wanted = if case.reader { case.tarn } else { Verdict::Runs };
        assert!(said == wanted || case.name == "script", "{}: {said:?}, not {wanted:?}", case.name);
    }
}

#[test]
fn linux_agrees() {
    let folder = tempfile::tempdir().unwrap();
    // The expectations are those of Linux 6; what came before, or imitates it, may read headers otherwise.
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    let judges =
        release.split('.').next().is_some_and(|major| major.parse().is_ok_and(|major: u32| major >= 6));
    for case in tests::elf::write_corpus(folder.path(), folder.path()).unwrap() {
        let mut program = Command::new(folder.path().join(case.name));
        program.current_dir(folder.path()).stdin(Stdio::null()).stdout(Stdio::null());
        let did = program.status();
        let name = case.name;
        let ran = did.as_ref().is_ok_and(|status| status.code() == Some(STATUS));
        match (case.linux, case.tarn) {
            (Linux::Depends, _) => println!("{name}: {did:?}"),
            _ if !judges => println!("{name}: {did:?}"),
            (Linux::Runs, _) | (_, Verdict::Runs) => assert!(ran, "{name}: {did:?}"),
            (Linux::Same, Verdict::Refused(errno, _)) => match did {
                Ok(status) => assert!(status.signal().is_some(), "{name}: {status}"),
                Err(error) => assert_eq!(error.raw_os_error(), Some(errno.number()), "{name}: {error}"),
            },
        }
    }
}
