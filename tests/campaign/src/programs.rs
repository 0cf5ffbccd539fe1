//! Targets that the engine does not have: the host tool's readers and the kernel's loader of programs.

use anyhow::{Result, ensure};
use mkfs_tool::{location::Location, quantity, source, vdev_spec};
use platform::clock::{FixedClock, Timespec};
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;
use tests::fuzz::Target;
use vfs::file::File;
use vfs::inode::FileSystem;
use vfs::path::{Place, Tree};
use vfs::tmpfs::Tmpfs;
use vfs::types::{FileType, New, OpenFlags, Sync};

/// The kernel's own source: the kernel itself is no library.
#[path = "../../../kernel/src/exec/elf.rs"]
#[expect(dead_code, unreachable_pub, reason = "the kernel has a use for all of it")]
mod elf;

/// All of them.
pub(crate) static TARGETS: [Target; 6] = [
    Target { name: "tar", corpus: archives, run: tar },
    Target { name: "initrd", corpus: archives, run: initrd },
    Target { name: "elf", corpus: programs, run: program },
    Target { name: "vdevs", corpus: specifications, run: vdevs },
    Target { name: "properties", corpus: properties, run: property },
    Target { name: "words", corpus: words, run: word },
];

/// Archives of three writers, one compressed in two ways.
fn archives() -> Result<Vec<Vec<u8>>> {
    let folder = tempfile::tempdir()?;
    let tree = folder.path().join("tree");
    std::fs::create_dir_all(tree.join("deep/".repeat(30)))?;
    std::fs::write(tree.join("deep/".repeat(30)).join("long-name".repeat(10)), "content")?;
    std::fs::write(tree.join("file"), vec![7; 3000])?;
    std::fs::hard_link(tree.join("file"), tree.join("link"))?;
    std::os::unix::fs::symlink("../file", tree.join("symlink"))?;
    let sparse = std::fs::File::create(tree.join("sparse"))?;
    sparse.set_len(1 << 20)?;
    std::os::unix::fs::FileExt::write_all_at(&sparse, b"data", 600_000)?;
    let mut inputs = Vec::new();
    for format in ["gnu", "pax", "ustar", "v7"] {
        for more in [&["-S"][..], &["-S", "-z"], &["-S", "--sparse-version=0.1"]] {
            let archive = folder.path().join("archive.tar");
            let mut tar = std::process::Command::new("tar");
            tar.arg("-C").arg(&tree).arg(format!("--format={format}")).args(more).arg("-cf").arg(&archive);
            // Not every format bears every name or sparse file; what it bears is the corpus.
            let _ = tar.arg(".").stderr(std::process::Stdio::null()).status()?;
            inputs.push(std::fs::read(&archive)?);
        }
    }
    Ok(inputs)
}

/// Makes the checksums of headers right, or hardly an input would come past them. Sizes that say so are followed.
fn seal_headers(archive: &mut [u8]) {
    let mut at = 0;
    while let Some(header) = archive.get_mut(at..at + 512) {
        let zero = header.iter().all(|b| *b == 0);
        if !zero {
            header[148..156].fill(b' ');
            let sum: u64 = header.iter().map(|b| u64::from(*b)).sum();
            header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        }
        let octal = std::str::from_utf8(&header[124..135]).ok();
        let size = octal.and_then(|text| usize::from_str_radix(text.trim(), 8).ok()).unwrap_or(0);
        at += 512 + if zero { 0 } else { size.min(1 << 24).next_multiple_of(512) };
    }
}

/// The host tool's reader: the archive's index, then all content.
fn tar(input: &[u8]) -> Result<()> {
    /// Bytes of content that are read: a sparse file may rightly claim any size.
    const READ_MAX: u64 = 8 << 20;
    let mut archive = input.to_vec();
    if !archive.starts_with(&[0x1f, 0x8b]) {
        seal_headers(&mut archive);
    }
    let file = tempfile::NamedTempFile::new()?;
    std::fs::write(file.path(), &archive)?;
    let Ok(tree) = source::open(file.path()) else { return Ok(()) };
    let tree = Arc::new(tree);
    std::hint::black_box(tree.totals());
    for index in 0..tree.entries.len() {
        let path = tree.path(index);
        ensure!(!path.split('/').any(|part| part == ".."), "{path} leaves the root");
    }
    let mut pipeline = source::pipeline::Pipeline::start(Arc::clone(&tree), 1)?;
    let mut left = READ_MAX;
    while let Some(Ok(piece)) = pipeline.take() {
        let len: u64 = piece.data.iter().map(|(_, data)| data.len() as u64).sum();
        if len >= left {
            break;
        }
        left -= len.max(1);
    }
    Ok(())
}

fn memory() -> Arc<Tmpfs> {
    Tmpfs::new("tmpfs", 1, 64 << 20, Arc::new(FixedClock(Timespec::default())))
}

/// The kernel's unpacking of an initrd.
fn initrd(input: &[u8]) -> Result<()> {
    let mut archive = input.to_vec();
    seal_headers(&mut archive);
    let tree = Tree::new(memory() as Arc<dyn FileSystem>);
    // Any error is a good answer.
    let _ = vfs::tar::unpack(&tree, &archive);
    Ok(())
}

/// Beginnings of programs of this machine, and of shared objects; small ones that are whole, or broken in one way.
fn programs() -> Result<Vec<Vec<u8>>> {
    let mut inputs = Vec::new();
    for path in ["/bin/sh", "/bin/true", "/lib64/ld-linux-x86-64.so.2", "/proc/self/exe"] {
        if let Ok(program) = std::fs::read(path) {
            inputs.push(program[..program.len().min(4096)].to_vec());
        }
    }
    inputs.extend(tests::elf::corpus("/elf".as_ref()).into_iter().map(|case| case.file));
    Ok(inputs)
}

fn program(input: &[u8]) -> Result<()> {
    let root = memory().root();
    let inode = root.create(b"program", &New::new(FileType::Regular, 0o755));
    let Ok(inode) = inode else { return Ok(()) };
    if inode.write_at(0, input, Sync::No).is_err() {
        return Ok(());
    }
    let Ok(file) = File::new(Place::detached(inode, b"program"), OpenFlags::empty(), None) else {
        return Ok(());
    };
    let Ok(program) = elf::Elf::read(&file) else { return Ok(()) };
    let ends = program.segments.iter().map(|s| s.address.checked_add(s.mem_size));
    ensure!(ends.flatten().count() == program.segments.len(), "a segment ends beyond all addresses");
    ensure!(
        program.segments.windows(2).all(|w| w[0].address + w[0].mem_size <= w[1].address),
        "segments overlap"
    );
    ensure!(program.segments.iter().all(|s| s.file_size <= s.mem_size), "more in the file than in memory");
    Ok(())
}

fn lines(text: &str) -> Vec<Vec<u8>> {
    text.lines().map(|line| line.as_bytes().to_vec()).collect()
}

#[expect(clippy::unnecessary_wraps, reason = "a corpus is made by a function that may fail")]
fn specifications() -> Result<Vec<Vec<u8>>> {
    Ok(lines(
        "a\na b c\nmirror a b\nmirror a b mirror c d log mirror e f cache g spare h\nraidz a b c\nraidz3 a b c d e f\n\
         draid2:3d:7c:1s a b c d e f g\ndraid a b c d\nspecial mirror a b dedup c a\nlog a log b\nraidz2 a b c special x",
    ))
}

fn vdevs(input: &[u8]) -> Result<()> {
    let words = input.split(|b| *b == b' ').filter(|w| !w.is_empty());
    let words: Vec<OsString> = words.map(|w| OsStr::from_bytes(w).to_owned()).collect();
    let Ok(spec) = vdev_spec::Spec::parse(&words) else { return Ok(()) };
    let devices = spec.devices().count();
    ensure!(devices <= words.len(), "{devices} devices of {} words", words.len());
    let _ = spec.check_redundancy(&[]);
    Ok(())
}

#[expect(clippy::unnecessary_wraps, reason = "a corpus is made by a function that may fail")]
fn properties() -> Result<Vec<Vec<u8>>> {
    Ok(lines(
        "compression=zstd-19\ncompression=gzip-9\nrecordsize=1M\nquota=1.5T\nreservation=none\nchecksum=sha512\ncopies=3\n\
         volsize=18446744073709551615\nsnapdir=visible\ncanmount=noauto\nmountpoint=/a/b\ncom.example:x=anything\n\
         special_small_blocks=128K\ndnodesize=auto\nxattr=sa\natime=off\nquota=1e9\nquota=0x10K\nquota=99999999999999999999P",
    ))
}

fn property(input: &[u8]) -> Result<()> {
    let text = String::from_utf8_lossy(input);
    let (name, value) = text.split_once('=').unwrap_or((&text, ""));
    std::hint::black_box(zfs::dsl::stored_value(name, value)).ok();
    // The same value of every property that there is.
    for name in
        ["compression", "quota", "recordsize", "checksum", "copies", "volsize", "mountpoint", "dnodesize"]
    {
        std::hint::black_box(zfs::dsl::stored_value(name, value)).ok();
    }
    let number = input.first_chunk().map_or(0, |w| u64::from_le_bytes(*w));
    std::hint::black_box((zfs::dsl::human_bytes(number), zfs::dsl::human_time(number)));
    Ok(())
}

#[expect(clippy::unnecessary_wraps, reason = "a corpus is made by a function that may fail")]
fn words() -> Result<Vec<Vec<u8>>> {
    Ok(lines(
        "1G\n1.5T\n64M\n0\n18446744073709551615\n/dev/null:/path\n/:tank/root@snap:/a:b\n/etc:x@y\n16E\n0.001K",
    ))
}

/// Sizes and places of the command line.
fn word(input: &[u8]) -> Result<()> {
    let text = String::from_utf8_lossy(input);
    std::hint::black_box(quantity::parse_size(&text)).ok();
    if let Ok(location) = Location::parse(OsStr::from_bytes(input)) {
        ensure!(location.path_or_root().starts_with(b"/"), "a path in an image is absolute");
    }
    let number = input.first_chunk().map_or(0, |w| u64::from_le_bytes(*w));
    std::hint::black_box((quantity::human(number), quantity::ratio(number)));
    Ok(())
}
