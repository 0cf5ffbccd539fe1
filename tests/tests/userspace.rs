//! `tarn zfs userspace`, `groupspace`, `projectspace`, and quotas of users, groups and projects.

use tests::fixtures;
use tests::tool::{tarn, tarn_ok, zdb_check};

const FIXTURE: &str = "w-owners";

/// What OpenZFS printed, verb by verb.
#[test]
fn the_tables_are_those_of_openzfs() {
    let folder = tempfile::tempdir().unwrap();
    let image = folder.path().join("disk0.img");
    fixtures::write_image(FIXTURE, 0, &image).unwrap();
    let image = image.to_str().unwrap();
    let mut compared = 0;
    for section in fixtures::text(FIXTURE, ".space.txt").unwrap().split("## zfs ").filter(|s| !s.is_empty()) {
        let (command, wanted) = section.split_once('\n').unwrap();
        let words: Vec<&str> = command.split_whitespace().collect();
        // Where names are asked for, the machines differ in whom they know; what OpenZFS refused printed nothing.
        let numeric =
            words[0] == "projectspace" || words.iter().any(|w| w.starts_with('-') && w.contains('n'));
        if !numeric || wanted.is_empty() {
            continue;
        }
        let printed = tarn_ok(&[&["zfs", "--disk", image][..], &words].concat()).unwrap();
        assert_eq!(printed, wanted, "{command}");
        compared += 1;
    }
    assert!(compared >= 10, "{compared}");
}

#[test]
fn quotas_are_set_and_shown() {
    let folder = tempfile::tempdir().unwrap();
    let image = folder.path().join("disk0.img");
    fixtures::write_image(FIXTURE, 0, &image).unwrap();
    let path = image.to_str().unwrap();
    let zfs = |words: &[&str]| tarn_ok(&[&["zfs", "--disk", path][..], words].concat());
    let get = |property: &str| zfs(&["get", "-Hp", "-o", "value", property, "w_owners/fs"]).unwrap();
    assert_eq!((get("userquota@1000"), get("projectobjquota@8")), ("10485760\n".into(), "50\n".into()));
    zfs(&["set", "userquota@1000=1M", "userquota@root=none", "groupobjquota@4242=9", "w_owners/fs"]).unwrap();
    zfs(&["set", "projectquota@7=none", "compression=lz4", "w_owners/fs"]).unwrap();
    assert_eq!((get("userquota@1000"), get("groupobjquota@4242")), ("1048576\n".into(), "9\n".into()));
    assert_eq!((get("projectquota@7"), get("compression")), ("none\n".into(), "lz4\n".into()));
    let lines = zfs(&["groupspace", "-Hpn", "-o", "name,objquota", "w_owners/fs"]).unwrap();
    assert!(lines.lines().any(|line| line == "4242\t9"), "{lines}");
    for wrong in ["userquota@nobody-of-that-name=1M", "userused@1000=1M", "userquota@1000=much"] {
        let output = tarn().args(["zfs", "--disk", path, "set", wrong, "w_owners/fs"]).output().unwrap();
        assert!(!output.status.success(), "{wrong}");
    }
    zdb_check(folder.path(), "w_owners").unwrap();
}

/// Files that had no project are counted where they belong, as those that inherit it are.
#[test]
fn files_without_projects_are_put_into_one() {
    let folder = tempfile::tempdir().unwrap();
    let (image, source) = (folder.path().join("a.img"), tempfile::tempdir().unwrap());
    let path = image.to_str().unwrap();
    tarn_ok(&["zpool", "create", "--size", "64M", "p", path]).unwrap();
    let copy = |name: &str, to: &str| {
        std::fs::write(source.path().join(name), [7; 3000]).unwrap();
        tarn_ok(&["cp", source.path().join(name).to_str().unwrap(), &format!("{path}:{to}")]).unwrap();
    };
    copy("before", "/");
    tarn_ok(&["zfs", "--disk", path, "project", "-p", "5", "-rs", "p:/"]).unwrap();
    copy("after", "/");
    let space = tarn_ok(&["zfs", "--disk", path, "projectspace", "-Hp", "-o", "name,objused", "p"]).unwrap();
    // What is in no project stays uncounted, and nothing is in any other.
    assert!(space.lines().all(|line| line.starts_with("5\t") || line.starts_with("0\t")), "{space}");
    assert!(space.lines().any(|line| line == "5\t3"), "{space}");
    // The flag goes to regular files, too.
    let listed = tarn_ok(&["zfs", "--disk", path, "project", "-r", "p:/"]).unwrap();
    assert!(listed.lines().any(|line| line == "    5 P /after"), "{listed}");
    zdb_check(folder.path(), "p").unwrap();
}

/// A tree is put into a project, found to be in it, and taken out; the accounts follow.
#[test]
fn trees_are_put_into_projects() {
    let folder = tempfile::tempdir().unwrap();
    let image = folder.path().join("disk0.img");
    fixtures::write_image(FIXTURE, 0, &image).unwrap();
    let path = image.to_str().unwrap();
    let zfs =
        |line: &str| tarn_ok(&["zfs", "--disk", path].into_iter().chain(line.split(' ')).collect::<Vec<_>>());
    let used = || {
        let lines = zfs("projectspace -Hp -o name,objused w_owners/fs").unwrap();
        let line = lines.lines().find_map(|line| line.strip_prefix("77\t")).map(str::to_owned);
        line.map_or(0, |n| n.parse::<u64>().unwrap())
    };
    assert_eq!(used(), 0);
    zfs("project -p 77 -rs w_owners/fs:/").unwrap();
    let listed = zfs("project -r w_owners/fs:/").unwrap();
    assert!(listed.lines().count() > 5 && listed.lines().all(|line| line.starts_with("   77 ")), "{listed}");
    assert_eq!(zfs("project -d w_owners/fs:/").unwrap(), "   77 P /\n");
    assert_eq!(zfs("project -c -p 77 -d w_owners/fs:/").unwrap(), "");
    assert!(
        zfs("project -cd -p 78 w_owners/fs:/")
            .unwrap()
            .contains("/ - project ID is not set properly (77/78)")
    );
    assert!(used() >= listed.lines().count() as u64);
    zfs("project -C -k w_owners/fs:/").unwrap();
    assert_eq!(zfs("project -d w_owners/fs:/").unwrap(), "   77 - /\n");
    zfs("project -C -r w_owners/fs:/").unwrap();
    assert!(zfs("project -r w_owners/fs:/").unwrap().lines().all(|line| line.starts_with("    0 - ")));
    // Other kinds of files keep what they have: they cannot be named.
    assert!(used() < 20);
    for wrong in ["project -d -r w_owners/fs:/", "project -k w_owners/fs:/", "project w_owners/fs"] {
        assert!(zfs(wrong).is_err(), "{wrong}");
    }
    zdb_check(folder.path(), "w_owners").unwrap();
}
