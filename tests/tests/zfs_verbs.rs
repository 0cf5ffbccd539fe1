//! The verbs of `tarn zfs` as people type them, with zdb as the judge of what they leave.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use platform::Env;
use platform::block::BlockDevice;
use platform::host::{FileDisk, SystemClock};
use platform::random::{Random, Seeded};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tests::tool::{tarn, tarn_ok, zdb_check};
use zfs::spa::{ImportOptions, Pool};
use zfs::zpl::{Durability, FileKind, Filesystem, MountOptions, New};

struct Image {
    folder: tempfile::TempDir,
    random: Seeded,
}

impl Image {
    /// A pool `t` with an empty tree in it.
    fn new(seed: u64) -> Self {
        println!("seed {seed}");
        let folder = tempfile::tempdir().unwrap();
        for sub in ["disk", "source"] {
            std::fs::create_dir(folder.path().join(sub)).unwrap();
        }
        let image = Image { folder, random: Seeded::new(seed) };
        let source = image.folder.path().join("source").to_string_lossy().into_owned();
        let args = ["create", &image.disk(), "--from", &source, "--pool", "t", "--size", "256M"];
        tarn_ok(&args).unwrap();
        image
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("disk/t.img")
    }

    fn disk(&self) -> String {
        self.path().to_string_lossy().into_owned()
    }

    /// `tarn zfs WORDS`: what it printed.
    fn zfs(&self, words: &str) -> String {
        println!("zfs {words}");
        let disk = self.disk();
        let mut args = vec!["zfs", "--disk", &disk];
        args.extend(words.split(' '));
        tarn_ok(&args).unwrap()
    }

    /// The same, followed by zdb.
    fn judged(&self, words: &str) -> String {
        let printed = self.zfs(words);
        zdb_check(self.path().parent().unwrap_or(Path::new("/")), "t").unwrap();
        printed
    }

    /// `tarn zfs WORDS` that must fail: what it said.
    fn refused(&self, words: &str) -> String {
        println!("zfs {words}, refused");
        let output = tarn().args(["zfs", "--disk", &self.disk()]).args(words.split(' ')).output().unwrap();
        assert!(!output.status.success(), "{words}");
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!said.contains("panicked"), "{said}");
        said
    }

    /// Does something to a mounted file system.
    fn change(&self, dataset: &str, change: impl FnOnce(&Filesystem)) {
        let env = Env { clock: Arc::new(SystemClock), random: Arc::new(Seeded::new(self.random.next_u64())) };
        let disk: Arc<dyn BlockDevice> = Arc::new(FileDisk::open(&self.path(), true).unwrap());
        let pool = Pool::import(vec![disk], env, ImportOptions::default()).unwrap();
        let dataset = pool.dsl().lookup(dataset).unwrap();
        let fs = Filesystem::mount(&pool, dataset, MountOptions::default()).unwrap();
        change(&fs);
        fs.unmount().unwrap();
        pool.export().unwrap();
    }

    fn write(&self, dataset: &str, name: &str, len: usize) {
        let mut data = vec![0; len];
        self.random.fill(&mut data);
        self.change(dataset, |fs| {
            let root = fs.root();
            let object = fs.lookup(root, name.as_bytes()).unwrap_or_else(|_| {
                fs.create(root, name.as_bytes(), &New::new(FileKind::Regular, 0o644)).unwrap()
            });
            fs.write(object, 0, &data, Durability::Later).unwrap();
        });
    }

    fn get(&self, property: &str, dataset: &str) -> String {
        self.zfs(&format!("get -Hp -o value {property} {dataset}")).trim_end().to_owned()
    }

    fn names(&self, kind: &str) -> Vec<String> {
        self.zfs(&format!("list -H -o name -t {kind} -r t")).lines().map(str::to_owned).collect()
    }
}

#[test]
fn file_systems_and_volumes_are_made_resized_and_renamed() {
    let image = Image::new(31);
    image.zfs("create -o compression=lz4 -o my:note=x t/a");
    assert!(image.refused("create t/a").contains("exists"));
    image.zfs("create -p t/a");
    assert!(!image.refused("create t/no/such").is_empty());
    assert_eq!(image.zfs("create -nvp t/x/y"), "would create ancestors of t/x/y\nwould create t/x/y\n");
    assert!(!image.names("filesystem").contains(&"t/x".to_owned()));
    image.zfs("create -p t/x/y/z");
    image.judged("create -V 16M t/vol");
    // As OpenZFS reserves for a volume of that size.
    assert_eq!(image.get("volsize,volblocksize,refreservation", "t/vol"), "16777216\n8192\n19398656");
    assert!(!image.refused("create -V 10G t/huge").is_empty());
    image.judged("create -s -V 100000000 -b 16K t/sparse");
    assert_eq!(image.get("volsize,volblocksize,refreservation", "t/sparse"), "100007936\n16384\n0");
    image.judged("set volsize=8M t/vol");
    assert_eq!(image.get("volsize,refreservation", "t/vol"), "8388608\n10485760");
    assert!(image.refused("set volsize=1000 t/vol").contains("volsize"));
    image.judged("rename -p t/x/y t/new/place/y");
    assert!(image.names("filesystem").contains(&"t/new/place/y/z".to_owned()));
    image.zfs("set my:note=other quota=100M t/a");
    image.zfs("inherit my:note t/a");
    assert_eq!(image.get("my:note,quota,compression", "t/a"), "-\n104857600\nlz4");
    image.zfs("destroy t/sparse");
    image.judged("destroy -r t/new");
    assert!(!image.zfs("list -H -o name -r t").contains("t/new"));
}

#[test]
fn snapshots_clones_bookmarks_and_holds_come_and_go() {
    let image = Image::new(32);
    image.zfs("create t/a");
    image.zfs("create t/a/b");
    for i in 1..=6 {
        image.write("t/a", "file", 300_000);
        image.zfs(&format!("snapshot -r -o test:n={i} t/a@{i}"));
    }
    assert_eq!(image.get("test:n", "t/a/b@3"), "3");
    let written: u64 = image.get("written@5", "t/a").parse().unwrap();
    assert!((300_000..600_000).contains(&written), "{written}");
    image.zfs("bookmark t/a@2 #two");
    image.judged("bookmark t/a#two t/a#copy");
    assert_eq!(image.names("bookmark"), ["t/a#copy", "t/a#two"]);
    assert_eq!(image.get("guid", "t/a#two"), image.get("guid", "t/a@2"));

    image.zfs("hold -r keep t/a@3");
    assert_eq!(image.zfs("holds -H -r t/a@3").lines().count(), 2);
    assert!(image.refused("destroy t/a@3").contains("held"));
    image.zfs("release -r keep t/a@3");
    let said = image.zfs("destroy -nvp t/a@2%4");
    let reclaimed: u64 = said.lines().last().unwrap().strip_prefix("reclaim\t").unwrap().parse().unwrap();
    assert!(
        said.starts_with("destroy\tt/a@2\ndestroy\tt/a@3\ndestroy\tt/a@4\n") && reclaimed > 600_000,
        "{said}"
    );
    image.judged("destroy t/a@2%4");
    assert_eq!(image.zfs("list -H -o name -t snapshot t/a"), "t/a@1\nt/a@5\nt/a@6\n");
    // The bookmark has outlived its snapshot and still counts.
    let written: u64 = image.get("written#two", "t/a").parse().unwrap();
    assert!((300_000..600_000).contains(&written), "{written}");
    image.judged("destroy t/a#two");

    image.judged("clone -p -o compression=gzip t/a@5 t/deep/er/clone");
    image.write("t/deep/er/clone", "other", 200_000);
    assert!(image.refused("destroy t/a@5").contains("-R"));
    assert!(image.refused("rollback t/a@5").contains("-r"));
    image.zfs("snapshot t/deep/er/clone@own");
    image.judged("promote t/deep/er/clone");
    assert_eq!(image.get("origin", "t/a"), "t/deep/er/clone@5");
    image.judged("promote t/a");
    image.zfs("rename -r t/a@6 @six");
    assert!(image.names("snapshot").contains(&"t/a/b@six".to_owned()));
    image.zfs("bookmark t/a@six t/a#six");
    image.zfs("clone t/a@six t/second");
    image.judged("rollback -R t/a@5");
    assert!(!image.names("all").iter().any(|n| n.contains("six") && !n.contains("/b@") || n == "t/second"));
    image.zfs("destroy -d t/a@5");
    assert_eq!(image.get("defer_destroy", "t/a@5"), "on");
    assert!(image.refused("destroy -r t/a").contains("t/deep/er/clone"));
    image.judged("destroy -R t/a");
    assert!(!image.names("all").iter().any(|n| n.starts_with("t/a") || n.ends_with("clone")));

    let disk = image.disk();
    let history = tarn_ok(&["zpool", "--disk", &disk, "history"]).unwrap();
    for line in ["zfs destroy t/a@2%4", "zfs bookmark t/a@2 #two", "zfs rollback -R t/a@5"] {
        assert!(history.contains(line), "{history}");
    }
}

#[test]
fn diff_says_what_zfs_diff_says() {
    let image = Image::new(33);
    image.zfs("create -o mountpoint=/m t/a");
    for name in ["same", "changed", "gone", "old name", "linked"] {
        image.write("t/a", name, 1000);
    }
    image.zfs("snapshot t/a@1");
    image.write("t/a", "changed", 2000);
    image.change("t/a", |fs| {
        let root = fs.root();
        fs.unlink(root, b"gone").unwrap();
        fs.rename(root, b"old name", root, b"new", Default::default()).unwrap();
        let linked = fs.lookup(root, b"linked").unwrap();
        let dir = fs.create(root, b"dir", &New::new(FileKind::Directory, 0o755)).unwrap();
        fs.link(dir, b"second", linked).unwrap();
    });
    let said = image.zfs("diff -FH t/a@1 t/a");
    let mut lines: Vec<&str> = said.lines().collect();
    lines.sort_unstable();
    let want = [
        "+\t/\t/m/dir",
        "-\tF\t/m/gone",
        "M\t/\t/m/",
        "M\tF\t/m/changed",
        "M\tF\t/m/linked\t(+1)",
        "R\tF\t/m/old\\0040name\t/m/new",
    ];
    assert_eq!(lines, want);
    assert_eq!(image.zfs("diff -c t/a@1"), "1 added, 1 removed, 3 modified, 1 renamed\n");
    assert!(image.zfs("diff -t t/a@1").lines().all(|line| line.as_bytes()[10] == b'.'));
}

#[test]
fn hundreds_of_snapshots_are_made_and_go_in_one_txg() {
    let image = Image::new(34);
    image.zfs("create t/a");
    let env = Env { clock: Arc::new(SystemClock), random: Arc::new(Seeded::new(34)) };
    let disk: Arc<dyn BlockDevice> = Arc::new(FileDisk::open(&image.path(), true).unwrap());
    let pool = Pool::import(vec![disk], env, ImportOptions::default()).unwrap();
    let start = std::time::Instant::now();
    for i in 0..300 {
        pool.dsl().create_snapshots(&[&format!("t/a@{i}")]).unwrap();
    }
    println!("300 snapshots made in {:?}", start.elapsed());
    pool.export().unwrap();
    drop(pool);
    zdb_check(image.path().parent().unwrap_or(Path::new("/")), "t").unwrap();
    let start = std::time::Instant::now();
    assert_eq!(image.zfs("list -H -o name -t snapshot t/a").lines().count(), 300);
    println!("listed in {:?}", start.elapsed());
    let start = std::time::Instant::now();
    image.judged("destroy t/a@%");
    println!("destroyed and checked in {:?}", start.elapsed());
    assert!(image.names("snapshot").is_empty());
}
