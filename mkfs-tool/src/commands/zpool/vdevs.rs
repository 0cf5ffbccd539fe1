//! A pool's vdevs as `zpool status` and `zpool list -v` show them.

use crate::output::show_name;
use std::collections::BTreeMap;
use zfs::ondisk::nvlist::NvList;
use zfs::spa::Pool;
use zfs::vdev::VdevTree;
use zfs::zap;

/// Deeper than any vdev tree can be: only a damaged one is.
const DEPTH_MAX: usize = 8;
/// Class of a top-level vdev in its ZAP (`VDEV_TOP_ZAP_ALLOCATION_BIAS`).
const ALLOCATION_BIAS: &str = "org.zfsonlinux:allocation_bias";

/// A vdev.
pub(super) struct Row {
    /// 1 for a top-level vdev.
    pub(super) depth: usize,
    /// As zpool names it: `mirror-0`, `a.img`.
    pub(super) name: String,
    /// `ONLINE`, `DEGRADED`, …
    pub(super) state: &'static str,
    /// What explains the state.
    pub(super) note: String,
    /// Its guid.
    pub(super) guid: u64,
    /// Index of its top-level vdev; none for spares and cache devices.
    pub(super) top: Option<u32>,
}

/// Vdevs under one heading.
pub(super) struct Section {
    /// `logs`, `special`, …; nothing for those of the data.
    pub(super) heading: &'static str,
    /// Parents before children.
    pub(super) rows: Vec<Row>,
}

/// All vdevs, in zpool's order of classes.
pub(super) fn sections(pool: &Pool) -> Vec<Section> {
    let config = pool.config();
    let tops =
        config.get_nvlist("vdev_tree").and_then(|tree| tree.get_nvlists("children")).unwrap_or_default();
    let mut classes: BTreeMap<usize, Section> = BTreeMap::new();
    let mut seen = Vec::new();
    let vdevs = pool.zio().vdevs();
    for top in tops {
        if top.get_str("type") == Some("hole") {
            continue;
        }
        let (order, heading) = class(pool, top);
        let rows = &mut classes.entry(order).or_insert_with(|| Section { heading, rows: Vec::new() }).rows;
        let id = top.get_u64("id").and_then(|id| u32::try_from(id).ok());
        tree(&vdevs, top, id, 1, rows);
    }
    for section in classes.values() {
        seen.extend(section.rows.iter().map(|row| row.guid));
    }
    let mut sections: Vec<Section> = classes.into_values().collect();
    for (heading, list) in [("cache", pool.caches()), ("spares", pool.spares())] {
        let Ok(list) = list else { continue };
        let rows: Vec<Row> = list.iter().map(|device| auxiliary(heading, device, &seen)).collect();
        if !rows.is_empty() {
            sections.push(Section { heading, rows });
        }
    }
    sections
}

/// The devices of the pool, by the names that a status shows and as their labels say where they were, with their guids.
pub(super) fn devices(pool: &Pool) -> Vec<(String, u64)> {
    fn visit(vdev: &NvList, depth: usize, out: &mut Vec<(String, u64)>) {
        let children = vdev.get_nvlists("children").unwrap_or_default();
        if children.is_empty() {
            let guid = vdev.get_u64("guid").unwrap_or(0);
            out.push((name(vdev), guid));
            out.extend(vdev.get_str("path").map(|path| (path.to_owned(), guid)));
        } else if depth < DEPTH_MAX {
            children.iter().for_each(|child| visit(child, depth + 1, out));
        }
    }
    let mut out = Vec::new();
    if let Some(tree) = pool.config().get_nvlist("vdev_tree") {
        visit(tree, 0, &mut out);
    }
    out
}

/// Where a top-level vdev's class comes in the listing, and its heading.
pub(super) fn class(pool: &Pool, top: &NvList) -> (usize, &'static str) {
    if top.get_u64("is_log") == Some(1) {
        return (3, "logs");
    }
    let zap = top.get_u64("com.delphix:vdev_zap_top");
    let bias = zap
        .and_then(|object| pool.mos().hold(object).ok())
        .and_then(|zap| zap::lookup(&zap, ALLOCATION_BIAS).ok());
    let letters = bias.map(|value| {
        value.ints.iter().filter_map(|b| u8::try_from(*b).ok()).take_while(|b| *b != 0).collect::<Vec<u8>>()
    });
    match letters.unwrap_or_default().as_slice() {
        b"special" => (2, "special"),
        b"dedup" => (1, "dedup"),
        b"log" => (3, "logs"),
        _ => (0, ""),
    }
}

/// A vdev and those below it; its state.
fn tree(
    vdevs: &VdevTree,
    vdev: &NvList,
    top: Option<u32>,
    depth: usize,
    rows: &mut Vec<Row>,
) -> &'static str {
    let children = vdev.get_nvlists("children").unwrap_or_default();
    let at = rows.len();
    let guid = vdev.get_u64("guid").unwrap_or(0);
    rows.push(Row { depth, name: name(vdev), state: "ONLINE", note: String::new(), guid, top });
    if children.is_empty() || depth >= DEPTH_MAX {
        let (state, note) = leaf(vdevs, vdev, guid);
        if state != "ONLINE" {
            // Where it was does not say what it is any more.
            rows[at].name = guid.to_string();
        }
        (rows[at].state, rows[at].note) = (state, note);
        return state;
    }
    let states: Vec<&str> = children.iter().map(|child| tree(vdevs, child, top, depth + 1, rows)).collect();
    let lost = states.iter().filter(|state| !matches!(**state, "ONLINE" | "DEGRADED")).count();
    let tolerance = match vdev.get_str("type") {
        Some("raidz" | "draid") => usize::try_from(vdev.get_u64("nparity").unwrap_or(1)).unwrap_or(1),
        _ => children.len() - 1,
    };
    rows[at].state = match lost {
        lost if lost > tolerance => "UNAVAIL",
        0 if states.iter().all(|state| *state == "ONLINE") => "ONLINE",
        _ => "DEGRADED",
    };
    if rows[at].state == "UNAVAIL" {
        rows[at].note = "insufficient replicas".to_owned();
    }
    rows[at].state
}

/// State of a device, and why.
fn leaf(vdevs: &VdevTree, vdev: &NvList, guid: u64) -> (&'static str, String) {
    if vdev.get_str("type") == Some("indirect") {
        return ("ONLINE", String::new());
    }
    let was =
        || vdev.get_str("path").map(|path| format!("was {}", show_name(path.as_bytes()))).unwrap_or_default();
    let missing = vdevs.dtl_leaves().into_iter().find(|leaf| leaf.guid == guid).map(|leaf| leaf.missing());
    for (flag, state) in [("offline", "OFFLINE"), ("removed", "REMOVED"), ("faulted", "FAULTED")] {
        if vdev.get_u64(flag) == Some(1) {
            return (state, was());
        }
    }
    let found = vdevs.leaves().iter().any(|leaf| leaf.guid == guid && leaf.device.is_some());
    if !found && vdev.get_str("type") != Some("dspare") {
        return ("UNAVAIL", was());
    }
    let note = if missing.is_some_and(|txgs| !txgs.is_empty()) { "(awaiting resilver)" } else { "" };
    (if vdev.get_u64("degraded") == Some(1) { "DEGRADED" } else { "ONLINE" }, note.to_owned())
}

/// A spare or a cache device.
fn auxiliary(heading: &str, device: &NvList, seen: &[u64]) -> Row {
    let guid = device.get_u64("guid").unwrap_or(0);
    let in_use = seen.contains(&guid);
    let state = match heading {
        "spares" if in_use => "INUSE",
        "spares" => "AVAIL",
        _ => "ONLINE",
    };
    let note = if in_use { "currently in use".to_owned() } else { String::new() };
    Row { depth: 1, name: name(device), state, note, guid, top: None }
}

/// A vdev's name: the file name of a device, the kind and number of others (`zpool_vdev_name`).
fn name(vdev: &NvList) -> String {
    let kind = vdev.get_str("type").unwrap_or("?");
    let number = |name: &str| vdev.get_u64(name).unwrap_or(0);
    let text = match (kind, vdev.get_str("path")) {
        (_, Some(path)) => path.rsplit('/').next().unwrap_or(path).to_owned(),
        ("raidz", None) => format!("raidz{}-{}", number("nparity"), number("id")),
        ("draid", None) => {
            let children = vdev.get_nvlists("children").unwrap_or_default().len();
            let (parity, data, spares) = (number("nparity"), number("draid_ndata"), number("draid_nspares"));
            format!("draid{parity}:{data}d:{children}c:{spares}s-{}", number("id"))
        }
        _ => format!("{kind}-{}", number("id")),
    };
    show_name(text.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn vdevs_have_openzfs_names() {
        let disk = NvList::new().with("type", "disk").with("path", "/dev/disk/a.img");
        assert_eq!(name(&disk), "a.img");
        let raidz = NvList::new().with("type", "raidz").with("nparity", 2).with("id", 3);
        assert_eq!(name(&raidz), "raidz2-3");
        assert_eq!(name(&NvList::new().with("type", "mirror").with("id", 1)), "mirror-1");
        let draid = NvList::new()
            .with("type", "draid")
            .with("nparity", 1)
            .with("draid_ndata", 2)
            .with("draid_nspares", 1);
        let draid =
            draid.with("id", 0).with("children", vec![disk.clone(), disk.clone(), disk.clone(), disk]);
        assert_eq!(name(&draid), "draid1:2d:4c:1s-0");
    }
}
