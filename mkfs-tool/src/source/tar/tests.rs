use super::*;
use std::io::Write;
use tar::{Builder, Header};

fn header(kind: EntryType, size: u64) -> Header {
    let mut header = Header::new_ustar();
    header.set_entry_type(kind);
    header.set_size(size);
    header.set_mode(0o640);
    header.set_uid(7);
    header.set_gid(8);
    header.set_mtime(1_000_000_000);
    header
}

fn archive(fill: impl FnOnce(&mut Builder<Vec<u8>>)) -> Vec<u8> {
    let mut builder = Builder::new(Vec::new());
    fill(&mut builder);
    builder.into_inner().unwrap()
}

fn parse(bytes: &[u8]) -> Result<Tree> {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(bytes).unwrap();
    open(file.path())
}

fn add(builder: &mut Builder<Vec<u8>>, name: &[u8], kind: EntryType, data: &[u8]) {
    let mut header = header(kind, data.len() as u64);
    // Written raw: the builder refuses the very names that are tested here.
    header.as_ustar_mut().unwrap().name[..name.len()].copy_from_slice(name);
    header.set_cksum();
    builder.append(&header, data).unwrap();
}

fn simple() -> Vec<u8> {
    archive(|b| {
        add(b, b"./", EntryType::Directory, b"");
        add(b, b"./z", EntryType::Regular, b"zed");
        add(b, b"./d/", EntryType::Directory, b"");
        add(b, b"/d/f", EntryType::Regular, b"content");
    })
}

fn content(tree: &Tree, index: usize) -> Vec<u8> {
    let Kind::File { size, token, .. } = tree.entries[index].kind else { panic!("no file") };
    let mut buf = vec![0xaa; size as usize];
    tree.content.read_at(token, 0, &mut buf).unwrap();
    buf
}

#[test]
fn members_become_a_sorted_tree() {
    let tree = parse(&simple()).unwrap();
    let names: Vec<_> = (0..tree.entries.len()).map(|i| tree.path(i)).collect();
    assert_eq!(names, ["/", "/d", "/d/f", "/z"]);
    assert_eq!(content(&tree, 2), b"content");
    let meta = &tree.entries[3].meta;
    assert_eq!((meta.mode, meta.uid, meta.gid, meta.mtime.sec), (0o640, 7, 8, 1_000_000_000));
}

#[test]
fn compression_changes_nothing() {
    let plain = simple();
    let mut gz = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gz.write_all(&plain).unwrap();
    let zst = ruzstd::encoding::compress_to_vec(&plain[..], ruzstd::encoding::CompressionLevel::Fastest);
    let want = parse(&plain).unwrap().entries;
    assert_eq!(parse(&gz.finish().unwrap()).unwrap().entries, want);
    assert_eq!(parse(&zst).unwrap().entries, want);
}

#[test]
fn members_that_escape_are_refused() {
    for name in [&b"../evil"[..], b"d/../../evil", b"/../evil", b".."] {
        let bytes = archive(|b| add(b, name, EntryType::Regular, b"x"));
        let error = format!("{:#}", parse(&bytes).unwrap_err());
        assert!(error.contains("leaves the root"), "{error}");
    }
    let through_link = archive(|b| {
        let mut header = header(EntryType::Symlink, 0);
        header.set_path("l").unwrap();
        header.set_link_name("/etc").unwrap();
        header.set_cksum();
        b.append(&header, &b""[..]).unwrap();
        add(b, b"l/passwd", EntryType::Regular, b"x");
    });
    assert!(format!("{:#}", parse(&through_link).unwrap_err()).contains("no directory"));
}

#[test]
fn hard_links_need_their_target() {
    let link = |target: &str| {
        let mut header = header(EntryType::Link, 0);
        header.set_path("a").unwrap();
        header.set_link_name(target).unwrap();
        header.set_cksum();
        header
    };
    let good = archive(|b| {
        add(b, b"m", EntryType::Regular, b"data");
        b.append(&link("m"), &b""[..]).unwrap();
    });
    let tree = parse(&good).unwrap();
    assert_eq!(content(&tree, 1), b"data");
    assert_eq!(tree.entries[2].kind, Kind::HardLink(1));
    let bad = archive(|b| b.append(&link("gone"), &b""[..]).unwrap());
    assert!(format!("{:#}", parse(&bad).unwrap_err()).contains("not there"));
}

#[test]
fn pax_records_refine_the_header() {
    let long = "n".repeat(200);
    let bytes = archive(|b| {
        b.append_pax_extensions([
            ("mtime", &b"1.5"[..]),
            ("atime", b"-2.25"),
            ("uid", b"100000"),
            ("SCHILY.xattr.user.k", b"v\0v\n7 a=b\n"),
            ("path", long.as_bytes()),
        ])
        .unwrap();
        add(b, b"short", EntryType::Regular, b"x");
    });
    let tree = parse(&bytes).unwrap();
    let entry = &tree.entries[1];
    assert_eq!(entry.name, long.as_bytes());
    assert_eq!(entry.meta.mtime, Time { sec: 1, nsec: 500_000_000 });
    assert_eq!(entry.meta.atime, Time { sec: -3, nsec: 750_000_000 });
    assert_eq!(entry.meta.uid, 100_000);
    assert_eq!(entry.meta.xattrs, [(b"user.k".to_vec(), b"v\0v\n7 a=b\n".to_vec())]);
}

#[test]
fn a_pax_sparse_file_has_holes() {
    let mut data = b"2\n4096\n3\n8192\n2\n".to_vec();
    data.resize(512, 0);
    data.extend_from_slice(b"abcde");
    let bytes = archive(|b| {
        b.append_pax_extensions([
            ("GNU.sparse.major", &b"1"[..]),
            ("GNU.sparse.minor", b"0"),
            ("GNU.sparse.name", b"dir/real"),
            ("GNU.sparse.realsize", b"10000"),
        ])
        .unwrap();
        add(b, b"dir/GNUSparseFile.0/real", EntryType::Regular, &data);
    });
    let tree = parse(&bytes).unwrap();
    assert_eq!(tree.path(2), "/dir/real");
    let all = content(&tree, 2);
    assert_eq!((all.len(), &all[4096..4099], &all[8192..8194]), (10000, &b"abc"[..], &b"de"[..]));
    assert_eq!(all.iter().filter(|b| **b != 0).count(), 5);
    let Kind::File { token, allocated: 5, .. } = tree.entries[2].kind else { panic!("{tree:?}") };
    assert_eq!(tree.content.extents(token, 0..10000).unwrap(), [4096..4099, 8192..8194]);
}

#[test]
fn damage_is_an_error() {
    let good = simple();
    assert!(parse(b"").is_err());
    assert!(parse(&[0; 10240]).is_err());
    assert!(parse(b"this is no archive at all, but it is long enough to be looked at").is_err());
    let big = archive(|b| add(b, b"f", EntryType::Regular, &[1; 5000]));
    let error = format!("{:#}", parse(&big[..2048]).unwrap_err());
    assert!(error.contains("truncated") || error.contains("damaged"), "{error}");
    // Every single damaged byte of the headers either parses or fails; none panics.
    for i in 0..good.len() {
        let mut bad = good.clone();
        bad[i] ^= 0x55;
        let _ = parse(&bad);
    }
}

#[test]
fn times_are_read() {
    assert_eq!(time("5").unwrap(), Time { sec: 5, nsec: 0 });
    assert_eq!(time("5.000000001999").unwrap(), Time { sec: 5, nsec: 1 });
    assert_eq!(time("-1.5").unwrap(), Time { sec: -2, nsec: 500_000_000 });
    assert!(time("x").is_err());
    assert!(time("1.x").is_err());
}
