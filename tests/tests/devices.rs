//! `tarn zpool`'s verbs for devices: mirrors made and taken apart, disks replaced, spares, vdevs added; `zdb` finds nothing wrong with what
//! they leave, with the old disks gone.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use platform::random::{Random, Seeded};
use std::path::{Path, PathBuf};
use tests::tool::{self, Zdb, tarn_ok};

/// A folder with a pool's images and nothing else.
struct Pool {
    folder: tempfile::TempDir,
    /// Where other things are.
    aside: tempfile::TempDir,
    random: Seeded,
    /// Who understands it.
    zdb: Zdb,
}

impl Pool {
    fn create(seed: u64, vdevs: &str) -> Self {
        Pool::create_with(seed, Zdb::Old, &[], vdevs)
    }

    fn create_with(seed: u64, zdb: Zdb, options: &[&str], vdevs: &str) -> Self {
        println!("seed {seed}");
        let (folder, aside) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let pool = Pool { folder, aside, random: Seeded::new(seed), zdb };
        let words: Vec<String> = vdevs.split(' ').map(|word| pool.word(word)).collect();
        let mut args = [&["zpool", "create", "--size", "128M"], options, &["tank"]].concat();
        args.extend(words.iter().map(String::as_str));
        tarn_ok(&args).unwrap();
        pool
    }

    /// Names of images as paths, other words as they are.
    fn word(&self, word: &str) -> String {
        if word.ends_with(".img") { self.image(word).to_str().unwrap().to_owned() } else { word.to_owned() }
    }

    fn image(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn path(&self) -> &Path {
        self.folder.path()
    }

    /// `tarn zpool --disk FOLDER …`.
    fn zpool(&self, line: &str) -> anyhow::Result<String> {
        let mut args =
            vec!["zpool".to_owned(), "--disk".to_owned(), self.path().to_str().unwrap().to_owned()];
        args.extend(line.split(' ').map(|word| self.word(word)));
        tarn_ok(&args)
    }

    /// Copies a new file in.
    fn write(&self, name: &str) {
        let mut noise = vec![0; 3 << 20];
        self.random.fill(&mut noise);
        let file = self.aside.path().join(name);
        std::fs::write(&file, noise).unwrap();
        let target = format!("{}:/", self.path().display());
        tarn_ok(&["cp", file.to_str().unwrap(), &target]).unwrap();
    }

    /// All files are there as they were written.
    fn compare(&self) {
        for entry in std::fs::read_dir(self.aside.path()).unwrap() {
            let file = entry.unwrap();
            let source = format!("{}:/{}", self.path().display(), file.file_name().to_str().unwrap());
            let output = tool::tarn().args(["cat", &source]).output().unwrap();
            assert!(
                output.status.success() && output.stdout == std::fs::read(file.path()).unwrap(),
                "{source}"
            );
        }
    }

    fn lose(&self, name: &str) {
        std::fs::remove_file(self.image(name)).unwrap();
    }

    /// Files, `tarn`'s verification and `zdb` agree that all is well; `zdb -d` finds no object of the MOS that nothing refers to.
    fn judge(&self) {
        self.compare();
        self.zpool("scrub --verify -q").unwrap();
        self.zdb.check(self.path(), "tank").unwrap();
        self.zdb.check_mos(self.path(), "tank").unwrap();
    }
}

#[test]
fn a_mirror_is_made_and_its_first_side_replaced() {
    let pool = Pool::create(1, "a.img");
    pool.write("one");
    let text = pool.zpool("attach -q --size 128M tank a.img b.img").unwrap();
    assert!(text.contains("resilvered"), "{text}");
    pool.judge();
    pool.lose("a.img");
    pool.write("two");
    let text = pool.zpool("status").unwrap();
    assert!(text.contains("DEGRADED") && text.contains("was /dev/a.img"), "{text}");
    pool.zpool("replace -q --size 128M tank a.img c.img").unwrap();
    let text = pool.zpool("status").unwrap();
    assert!(text.contains("mirror-0") && text.contains("c.img") && !text.contains("a.img"), "{text}");
    pool.judge();
    pool.zpool("detach tank b.img").unwrap();
    pool.lose("b.img");
    pool.judge();
    assert!(pool.zpool("detach tank c.img").is_err());
}

#[test]
fn a_resilver_that_was_left_can_be_done_later() {
    let pool = Pool::create(2, "raidz2 a.img b.img c.img d.img");
    pool.write("one");
    pool.lose("b.img");
    pool.lose("d.img");
    pool.write("two");
    pool.zpool("replace --later --size 128M tank b.img e.img").unwrap();
    pool.zpool("replace --later --size 128M tank d.img f.img").unwrap();
    pool.write("three");
    let text = pool.zpool("status").unwrap();
    assert!(text.contains("replacing-1") && text.contains("awaiting resilver"), "{text}");
    pool.judge();
    pool.zpool("resilver -q").unwrap();
    pool.judge();
    pool.lose("a.img");
    pool.lose("c.img");
    pool.compare();
    let history = pool.zpool("history").unwrap();
    assert!(history.contains("zpool replace tank d.img f.img\n"), "{history}");
}

#[test]
fn spares_logs_and_vdevs_come_and_go() {
    let pool = Pool::create(3, "raidz1 a.img b.img c.img");
    pool.write("one");
    let refused = pool.zpool("add --size 128M tank d.img").unwrap_err().to_string();
    assert!(refused.contains("mismatched replication level"), "{refused}");
    let drawn = pool.zpool("add -n tank raidz1 d.img e.img f.img").unwrap();
    assert!(drawn.contains("would add to 'tank'"), "{drawn}");
    pool.zpool("add --size 128M tank raidz1 d.img e.img f.img log l.img spare s.img cache k.img").unwrap();
    pool.write("two");
    pool.judge();
    pool.lose("e.img");
    pool.zpool("replace -q tank e.img s.img").unwrap();
    let text = pool.zpool("status").unwrap();
    assert!(text.contains("spare-1") && text.contains("INUSE"), "{text}");
    pool.judge();
    pool.zpool("replace -q --size 128M tank e.img g.img").unwrap();
    let text = pool.zpool("status").unwrap();
    assert!(!text.contains("spare-1") && text.contains("AVAIL"), "{text}");
    for name in ["l.img", "s.img", "k.img"] {
        pool.zpool(&format!("remove tank {name}")).unwrap();
        pool.lose(name);
    }
    pool.write("three");
    pool.judge();
}

#[test]
fn a_distributed_spare_takes_over() {
    let pool = Pool::create(4, "draid1:2d:5c:1s a.img b.img c.img d.img e.img");
    pool.write("one");
    pool.lose("c.img");
    pool.zpool("replace -q tank c.img draid1-0-0").unwrap();
    pool.write("two");
    pool.judge();
    pool.zpool("replace -q --size 128M tank c.img f.img").unwrap();
    let text = pool.zpool("status").unwrap();
    assert!(!text.contains("spare-") && !text.contains("c.img"), "{text}");
    pool.judge();
}

#[test]
fn out_of_service_and_back() {
    let pool = Pool::create(5, "mirror a.img b.img");
    pool.write("one");
    pool.zpool("offline tank a.img").unwrap();
    assert!(pool.zpool("offline tank b.img").is_err());
    pool.write("two");
    assert!(pool.zpool("status").unwrap().contains("OFFLINE"));
    let text = pool.zpool("online -q tank a.img").unwrap();
    assert!(text.contains("resilvered"), "{text}");
    pool.judge();
    pool.lose("b.img");
    pool.compare();
}

/// A pool as OpenZFS 2.2 makes it: the root vdev has a ZAP, whatever comes and goes below it.
#[test]
fn the_root_keeps_its_zap() {
    let newer = Zdb::Newer { old_opens: false };
    let pool = Pool::create_with(6, newer, &["-o", "compatibility=openzfs-2.2"], "a.img");
    pool.judge();
    pool.zpool("attach -q --size 128M tank a.img b.img").unwrap();
    pool.zpool("add --size 128M tank log l.img").unwrap();
    pool.write("one");
    pool.judge();
    pool.zpool("detach tank a.img").unwrap();
    pool.lose("a.img");
    pool.zpool("replace -q --size 128M tank b.img c.img").unwrap();
    pool.zpool("remove tank l.img").unwrap();
    pool.lose("l.img");
    pool.zpool("reguid tank").unwrap();
    pool.write("two");
    pool.judge();
    let states =
        pool.zpool("get -H -o value feature@vdev_zaps_v2,feature@head_errlog,feature@blake3").unwrap();
    assert_eq!(states, "active\nactive\nenabled\n");

    // A pool that gets the feature later.
    let pool = Pool::create_with(7, newer, &["-d"], "mirror a.img b.img");
    pool.write("one");
    pool.zpool("set feature@vdev_zaps_v2=enabled tank").unwrap();
    pool.judge();
    pool.write("two");
    assert_eq!(pool.zpool("get -H -o value feature@vdev_zaps_v2").unwrap(), "active\n");
    pool.judge();
}
