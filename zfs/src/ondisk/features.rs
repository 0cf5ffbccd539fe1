//! Features of pools: guid names, kinds, and how far this engine implements them. Source: `zpool_feature_init`
//! (`module/zcommon/zfeature_common.c`), `zfeature_info_t`.

/// A pool with it active can be read by software that does not know it (`ZFEATURE_FLAG_READONLY_COMPAT`).
pub const READ_ONLY: u8 = 1;
/// Needed to read the MOS itself: listed in the labels while active (`ZFEATURE_FLAG_MOS`).
pub const MOS: u8 = 2;
/// Active as soon as it is enabled (`ZFEATURE_FLAG_ACTIVATE_ON_ENABLE`).
pub const ON_ENABLE: u8 = 4;
/// Counted by datasets that use it (`ZFEATURE_FLAG_PER_DATASET`).
pub const PER_DATASET: u8 = 8;

/// Newer than the set that a new pool gets, which is that of OpenZFS 2.1.
pub const LATER: u8 = 16;

/// How far this engine implements a feature.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Support {
    /// Not at all: a pool where it is active is refused.
    None,
    /// A pool where it is active can be read.
    Read,
    /// All that it asks of a writer is done.
    Write,
}

/// A feature.
#[derive(Debug, Clone, Copy)]
pub struct Feature {
    /// Its name on disk: `com.delphix:hole_birth`.
    pub guid: &'static str,
    /// Its short name: `hole_birth`.
    pub name: &'static str,
    /// What it is, in words.
    pub description: &'static str,
    /// [`READ_ONLY`], [`MOS`], [`ON_ENABLE`], [`PER_DATASET`], [`LATER`].
    pub flags: u8,
    /// How far it is implemented.
    pub support: Support,
    /// Guid names of the features that must be enabled before it.
    pub depends: &'static [&'static str],
}

impl Feature {
    /// Whether software that does not know it may read the pool.
    #[must_use]
    pub fn read_only_compatible(&self) -> bool {
        self.flags & READ_ONLY != 0
    }
    /// Whether a new pool gets it: all that OpenZFS 2.1 enables, as what is enabled binds nobody until it is used.
    #[must_use]
    pub fn default_enabled(&self) -> bool {
        self.flags & LATER == 0 && (self.flags & ON_ENABLE == 0 || self.support == Support::Write)
    }
    /// Whether it can be enabled: what is enabled binds nobody until it is used, and what is used at once must be written completely.
    #[must_use]
    pub fn can_enable(&self) -> bool {
        self.flags & ON_ENABLE == 0 || self.support == Support::Write
    }
}

const fn feature(
    guid: &'static str,
    name: &'static str,
    description: &'static str,
    flags: u8,
    support: Support,
    depends: &'static [&'static str],
) -> Feature {
    Feature { guid, name, description, flags, support, depends }
}

/// All features known by name, in OpenZFS's order: a feature comes after those that it depends on, but for few.
pub const FEATURES: &[Feature] = &[
    feature(
        "com.delphix:async_destroy",
        "async_destroy",
        "Destroyed file systems are freed in the background.",
        READ_ONLY,
        Support::Write,
        &[],
    ),
    feature(
        "com.delphix:empty_bpobj",
        "empty_bpobj",
        "Empty block pointer objects are shared.",
        READ_ONLY,
        Support::Write,
        &[],
    ),
    feature(
        "org.illumos:lz4_compress",
        "lz4_compress",
        "Compression with LZ4.",
        ON_ENABLE,
        Support::Write,
        &[],
    ),
    feature(
        "com.joyent:multi_vdev_crash_dump",
        "multi_vdev_crash_dump",
        "Crash dumps across several vdevs.",
        0,
        Support::Write,
        &[],
    ),
    feature(
        "com.delphix:spacemap_histogram",
        "spacemap_histogram",
        "Space maps keep a histogram of free ranges.",
        READ_ONLY,
        Support::Write,
        &[],
    ),
    feature(
        "com.delphix:enabled_txg",
        "enabled_txg",
        "The txg in which each feature was enabled is recorded.",
        READ_ONLY,
        Support::Write,
        &[],
    ),
    feature(
        "com.delphix:hole_birth",
        "hole_birth",
        "Holes carry their birth txg.",
        MOS | ON_ENABLE,
        Support::Write,
        &["com.delphix:enabled_txg"],
    ),
    feature(
        "com.delphix:zpool_checkpoint",
        "zpool_checkpoint",
        "The state of the pool can be kept and rewound to.",
        READ_ONLY,
        Support::Write,
        &[],
    ),
    feature(
        "com.delphix:spacemap_v2",
        "spacemap_v2",
        "Space maps have compact entries for long runs.",
        READ_ONLY | ON_ENABLE,
        Support::Write,
        &[],
    ),
    feature(
        "com.delphix:extensible_dataset",
        "extensible_dataset",
        "Datasets can carry further fields.",
        0,
        Support::Write,
        &[],
    ),
    feature(
        "com.delphix:bookmarks",
        "bookmarks",
        "Bookmarks of snapshots.",
        READ_ONLY,
        Support::Write,
        &["com.delphix:extensible_dataset"],
    ),
    feature(
        "com.joyent:filesystem_limits",
        "filesystem_limits",
        "Limits on the number of file systems and snapshots.",
        READ_ONLY,
        Support::Write,
        &["com.delphix:extensible_dataset"],
    ),
    feature(
        "com.delphix:embedded_data",
        "embedded_data",
        "Very small blocks live in their block pointers.",
        MOS | ON_ENABLE,
        Support::Write,
        &[],
    ),
    feature(
        "com.delphix:livelist",
        "livelist",
        "Blocks of clones are listed for faster destruction.",
        READ_ONLY,
        Support::Write,
        &["com.delphix:extensible_dataset"],
    ),
    feature(
        "com.delphix:log_spacemap",
        "log_spacemap",
        "Space map changes are logged pool-wide first.",
        READ_ONLY,
        Support::Write,
        &["com.delphix:spacemap_v2"],
    ),
    feature(
        "org.open-zfs:large_blocks",
        "large_blocks",
        "Blocks of more than 128 KiB.",
        PER_DATASET,
        Support::Write,
        &["com.delphix:extensible_dataset"],
    ),
    feature(
        "org.zfsonlinux:large_dnode",
        "large_dnode",
        "Dnodes of more than 512 bytes.",
        PER_DATASET,
        Support::Write,
        &["com.delphix:extensible_dataset"],
    ),
    feature(
        "org.illumos:sha512",
        "sha512",
        "SHA-512/256 checksums.",
        PER_DATASET,
        Support::Write,
        &["com.delphix:extensible_dataset"],
    ),
    feature(
        "org.illumos:skein",
        "skein",
        "Skein checksums.",
        PER_DATASET,
        Support::Write,
        &["com.delphix:extensible_dataset"],
    ),
    feature(
        "org.illumos:edonr",
        "edonr",
        "Edon-R checksums.",
        PER_DATASET,
        Support::Write,
        &["com.delphix:extensible_dataset"],
    ),
    feature(
        "com.delphix:redaction_bookmarks",
        "redaction_bookmarks",
        "Bookmarks that hold redaction lists.",
        0,
        Support::Read,
        &["com.datto:bookmark_v2", "com.delphix:extensible_dataset", "com.delphix:bookmarks"],
    ),
    feature(
        "com.delphix:redacted_datasets",
        "redacted_datasets",
        "Datasets received from redacted streams.",
        PER_DATASET,
        Support::None,
        &["com.delphix:extensible_dataset"],
    ),
    feature(
        "com.delphix:bookmark_written",
        "bookmark_written",
        "Bookmarks know the space written since.",
        0,
        Support::Write,
        &["com.datto:bookmark_v2", "com.delphix:extensible_dataset", "com.delphix:bookmarks"],
    ),
    feature(
        "com.delphix:device_removal",
        "device_removal",
        "Top-level vdevs can be removed.",
        MOS,
        Support::Read,
        &[],
    ),
    feature(
        "com.delphix:obsolete_counts",
        "obsolete_counts",
        "Mappings of removed vdevs count what is still used.",
        READ_ONLY,
        Support::Read,
        &["com.delphix:extensible_dataset", "com.delphix:device_removal"],
    ),
    feature(
        "org.zfsonlinux:userobj_accounting",
        "userobj_accounting",
        "Objects are counted per user and group.",
        READ_ONLY | PER_DATASET,
        Support::Write,
        &["com.delphix:extensible_dataset"],
    ),
    feature(
        "com.datto:bookmark_v2",
        "bookmark_v2",
        "Larger bookmarks.",
        0,
        Support::Write,
        &["com.delphix:extensible_dataset", "com.delphix:bookmarks"],
    ),
    feature(
        "com.datto:encryption",
        "encryption",
        "Encryption of datasets.",
        PER_DATASET,
        Support::Write,
        &["com.delphix:extensible_dataset", "com.datto:bookmark_v2"],
    ),
    feature(
        "org.zfsonlinux:project_quota",
        "project_quota",
        "Space and objects are counted per project.",
        READ_ONLY | PER_DATASET,
        Support::Write,
        &["com.delphix:extensible_dataset"],
    ),
    feature(
        "org.zfsonlinux:allocation_classes",
        "allocation_classes",
        "Vdevs for special classes of blocks.",
        READ_ONLY,
        Support::Write,
        &[],
    ),
    feature(
        "com.datto:resilver_defer",
        "resilver_defer",
        "A further resilver waits for the running one.",
        READ_ONLY,
        Support::Write,
        &[],
    ),
    feature(
        "org.openzfs:device_rebuild",
        "device_rebuild",
        "Sequential rebuilds of mirrors and draid.",
        READ_ONLY,
        Support::Read,
        &[],
    ),
    feature(
        "org.freebsd:zstd_compress",
        "zstd_compress",
        "Compression with zstd.",
        PER_DATASET,
        Support::Write,
        &["com.delphix:extensible_dataset"],
    ),
    feature("org.openzfs:draid", "draid", "Draid with distributed spares.", MOS, Support::Write, &[]),
    feature(
        "com.seagate:draid_failure_domains",
        "draid_failure_domains",
        "Draid knows failure domains.",
        MOS | LATER,
        Support::None,
        &["org.openzfs:draid"],
    ),
    feature(
        "org.openzfs:zilsaxattr",
        "zilsaxattr",
        "System-attribute xattrs are logged in the intent log.",
        READ_ONLY | PER_DATASET | LATER,
        Support::Write,
        &["com.delphix:extensible_dataset"],
    ),
    feature(
        "com.delphix:head_errlog",
        "head_errlog",
        "Error logs per dataset.",
        ON_ENABLE | LATER,
        Support::Write,
        &[],
    ),
    feature(
        "org.openzfs:blake3",
        "blake3",
        "BLAKE3 checksums.",
        PER_DATASET | LATER,
        Support::Write,
        &["com.delphix:extensible_dataset"],
    ),
    feature(
        "com.fudosecurity:block_cloning",
        "block_cloning",
        "Blocks shared by a reference table.",
        READ_ONLY | LATER,
        Support::Write,
        &[],
    ),
    feature(
        "com.truenas:block_cloning_endian",
        "block_cloning_endian",
        "The block reference table has a fixed byte order.",
        READ_ONLY | LATER,
        Support::Write,
        &[],
    ),
    feature(
        "com.klarasystems:vdev_zaps_v2",
        "vdev_zaps_v2",
        "The root vdev has a ZAP.",
        MOS | LATER,
        Support::Write,
        &[],
    ),
    feature(
        "com.delphix:redaction_list_spill",
        "redaction_list_spill",
        "Redaction bookmarks with more snapshots.",
        LATER,
        Support::Read,
        &["com.delphix:redaction_bookmarks"],
    ),
    feature(
        "org.openzfs:raidz_expansion",
        "raidz_expansion",
        "Raidz vdevs can grow by disks.",
        MOS | LATER,
        Support::None,
        &[],
    ),
    feature(
        "com.klarasystems:fast_dedup",
        "fast_dedup",
        "Dedup tables with logs.",
        READ_ONLY | LATER,
        Support::Read,
        &[],
    ),
    feature(
        "org.zfsonlinux:longname",
        "longname",
        "File names up to 1023 bytes.",
        PER_DATASET | LATER,
        Support::Write,
        &["com.delphix:extensible_dataset"],
    ),
    feature(
        "com.klarasystems:large_microzap",
        "large_microzap",
        "Micro ZAPs of more than 128 KiB.",
        READ_ONLY | PER_DATASET | LATER,
        Support::Write,
        &["com.delphix:extensible_dataset", "org.open-zfs:large_blocks"],
    ),
    feature(
        "com.klarasystems:dynamic_gang_header",
        "dynamic_gang_header",
        "Gang headers of several sizes.",
        MOS | LATER,
        Support::None,
        &[],
    ),
    feature(
        "com.truenas:physical_rewrite",
        "physical_rewrite",
        "Blocks are rewritten and keep their logical birth.",
        READ_ONLY | PER_DATASET | LATER,
        Support::Read,
        &["com.delphix:extensible_dataset"],
    ),
];

/// What GRUB can read (`compatibility.d/grub2`).
const GRUB2: [&str; 11] = [
    "async_destroy",
    "bookmarks",
    "embedded_data",
    "empty_bpobj",
    "enabled_txg",
    "extensible_dataset",
    "filesystem_limits",
    "hole_birth",
    "large_blocks",
    "lz4_compress",
    "spacemap_histogram",
];
/// What ZFS on Linux 0.8 lacks of the default set.
const NOT_IN_0_8: [&str; 8] = [
    "bookmark_written",
    "device_rebuild",
    "draid",
    "livelist",
    "log_spacemap",
    "redacted_datasets",
    "redaction_bookmarks",
    "zstd_compress",
];

/// What OpenZFS 2.4 has and 2.3 lacks.
const SINCE_2_4: [&str; 3] = ["block_cloning_endian", "dynamic_gang_header", "physical_rewrite"];
/// What OpenZFS 2.3 has and 2.2 lacks.
const SINCE_2_3: [&str; 5] =
    ["fast_dedup", "large_microzap", "longname", "raidz_expansion", "redaction_list_spill"];
/// What is newer than OpenZFS 2.4.
const AFTER_2_4: [&str; 1] = ["draid_failure_domains"];

/// Whether a feature belongs to all sets of a value of the pool property `compatibility`: `off`, `legacy`, or names of sets of features
/// separated by commas. `None` if a set is not known.
#[must_use]
pub fn is_compatible(feature: &Feature, sets: &str) -> Option<bool> {
    let mut all = true;
    for set in sets.split(',') {
        all &= match set {
            "off" => true,
            "legacy" => false,
            "grub2" => GRUB2.contains(&feature.name),
            "zol-0.8" => feature.flags & LATER == 0 && !NOT_IN_0_8.contains(&feature.name),
            "openzfs-2.0-linux" => feature.flags & LATER == 0 && feature.name != "draid",
            "openzfs-2.1-linux" => feature.flags & LATER == 0,
            "openzfs-2.2" => {
                [&AFTER_2_4[..], &SINCE_2_4, &SINCE_2_3].iter().all(|later| !later.contains(&feature.name))
            }
            "openzfs-2.3" => [&AFTER_2_4[..], &SINCE_2_4].iter().all(|later| !later.contains(&feature.name)),
            "openzfs-2.4" => !AFTER_2_4.contains(&feature.name),
            _ => return None,
        };
    }
    Some(all)
}

/// The feature of that guid name.
#[must_use]
pub fn by_guid(guid: &str) -> Option<&'static Feature> {
    FEATURES.iter().find(|f| f.guid == guid)
}

/// The feature of that short name.
#[must_use]
pub fn by_name(name: &str) -> Option<&'static Feature> {
    FEATURES.iter().find(|f| f.name == name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_we_write_depends_only_on_what_we_write() {
        for feature in FEATURES {
            for dependency in feature.depends {
                let needed = by_guid(dependency).unwrap();
                assert!(
                    feature.support < Support::Write || needed.support == Support::Write,
                    "{}",
                    feature.name
                );
            }
        }
    }

    #[test]
    fn sets_of_features_are_those_of_openzfs() {
        let count = |sets| FEATURES.iter().filter(|f| is_compatible(f, sets).unwrap()).count();
        assert_eq!(
            ["legacy", "grub2", "zol-0.8", "openzfs-2.0-linux", "openzfs-2.1-linux"].map(count),
            [0, 11, 26, 33, 34]
        );
        assert_eq!(["openzfs-2.2", "openzfs-2.3", "openzfs-2.4"].map(count), [39, 44, 47]);
        assert_eq!(count("grub2,openzfs-2.1-linux"), 11);
        assert_eq!(is_compatible(&FEATURES[0], "grub2,plan9"), None);
        assert!(FEATURES.iter().filter(|f| f.default_enabled()).count() == 34);
    }

    #[test]
    fn names_are_unique() {
        for feature in FEATURES {
            assert_eq!(by_guid(feature.guid).unwrap().name, feature.name);
            assert_eq!(by_name(feature.name).unwrap().guid, feature.guid);
        }
    }
}
