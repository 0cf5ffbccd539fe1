//! Changes of a vdev tree's lists: who stands beside whom. Source: `vdev_add_parent`, `vdev_remove_parent`, `vdev_top_transfer`
//! (`vdev.c`).
//!
//! A disk that gets a companion gets a parent first, which takes its place; a parent that is left with one child gives its place to
//! that. What belongs to the place (metaslabs, sizes, the ZAP of a top-level vdev) goes with it.

use super::super::config::replace;
use super::super::vdev_zaps::TOP_ZAP;
use crate::error::{Error, Result};
use crate::ondisk::nvlist::NvList;
use alloc::vec::Vec;

/// What of a top-level vdev belongs to its place in the pool.
const OF_THE_PLACE: [&str; 8] =
    ["metaslab_array", "metaslab_shift", "ashift", "asize", "min_alloc", "is_log", "non_allocating", TOP_ZAP];
/// Deeper than any vdev tree is.
const DEPTH_MAX: usize = 20;

/// Kinds of vdevs whose children all hold the same.
pub(super) fn is_mirror(kind: &str) -> bool {
    matches!(kind, "mirror" | "replacing" | "spare")
}

/// The children of a list.
pub(super) fn children(list: &NvList) -> &[NvList] {
    list.get_nvlists("children").unwrap_or(&[])
}

fn kind(list: &NvList) -> &str {
    list.get_str("type").unwrap_or("")
}

/// The way to a vdev: lists from the root to it.
pub(super) fn path_to(root: &NvList, guid: u64) -> Option<Vec<&NvList>> {
    fn find<'a>(list: &'a NvList, guid: u64, path: &mut Vec<&'a NvList>) -> bool {
        path.push(list);
        let found = path.len() <= DEPTH_MAX
            && children(list)
                .iter()
                .any(|child| child.get_u64("guid") == Some(guid) || find(child, guid, path));
        if !found {
            path.pop();
        }
        found
    }
    let mut path = Vec::new();
    if !find(root, guid, &mut path) {
        return None;
    }
    let own = children(path.last()?).iter().find(|child| child.get_u64("guid") == Some(guid))?;
    path.push(own);
    Some(path)
}

/// A device of the pool in its place.
pub(super) struct Place<'a> {
    pub(super) leaf: &'a NvList,
    pub(super) parent: &'a NvList,
    /// The top-level vdev that it is, or is in.
    pub(super) top: &'a NvList,
}

/// Where the device of that guid is; [`Error::NotFound`] if it is none of the pool's.
pub(super) fn place(root: &NvList, guid: u64) -> Result<Place<'_>> {
    let path = path_to(root, guid).ok_or(Error::NotFound)?;
    let [.., parent, leaf] = path[..] else { return Err(Error::NotFound) };
    if !children(leaf).is_empty() || matches!(kind(leaf), "hole" | "missing" | "indirect") {
        return Err(Error::Invalid("it is no device: name one of those in it"));
    }
    Ok(Place { leaf, parent, top: path[1] })
}

fn set(list: &mut NvList, name: &str, value: u64) {
    if list.contains(name) { replace(list, name, value.into()) } else { list.insert(name, value) }
}

fn numbered(mut list: Vec<NvList>) -> Vec<NvList> {
    for (id, child) in list.iter_mut().enumerate() {
        set(child, "id", id as u64);
    }
    list
}

/// Moves what belongs to the place.
fn transfer(from: &mut NvList, to: &mut NvList) {
    for name in OF_THE_PLACE {
        if let Some(value) = from.remove(name) {
            to.insert(name, value);
        }
    }
}

/// Changes the list of the parent of the vdev `guid`, which is child number `index` of it.
fn at_parent(root: &mut NvList, guid: u64, edit: &mut dyn FnMut(&mut Vec<NvList>, usize)) -> bool {
    fn go(list: &mut NvList, guid: u64, edit: &mut dyn FnMut(&mut Vec<NvList>, usize), depth: usize) -> bool {
        let mut own = children(list).to_vec();
        let done = match own.iter().position(|child| child.get_u64("guid") == Some(guid)) {
            Some(index) => {
                edit(&mut own, index);
                true
            }
            None => depth < DEPTH_MAX && own.iter_mut().any(|child| go(child, guid, edit, depth + 1)),
        };
        if done {
            replace(list, "children", own.into());
        }
        done
    }
    go(root, guid, edit, 0)
}

/// Puts `new` beside the device `guid`, as another child of its parent if that is of the kind `group`, or else in a new vdev of that kind
/// and guid, which takes the place of the device.
pub(super) fn attach(root: &mut NvList, guid: u64, new: &NvList, group: &str, group_guid: u64) -> Result<()> {
    let place = place(root, guid)?;
    let joins = kind(place.parent) == group;
    let parent_guid = place.parent.get_u64("guid").unwrap_or(0);
    let done = if joins {
        at_parent(root, parent_guid, &mut |siblings, index| {
            let mut all = children(&siblings[index]).to_vec();
            all.push(new.clone());
            replace(&mut siblings[index], "children", numbered(all).into());
        })
    } else {
        at_parent(root, guid, &mut |siblings, index| {
            let mut old = siblings[index].clone();
            let mut parent = NvList::new()
                .with("type", group)
                .with("id", old.get_u64("id").unwrap_or(0))
                .with("guid", group_guid)
                .with("whole_disk", 0);
            transfer(&mut old, &mut parent);
            if let Some(txg) = old.get_u64("create_txg") {
                parent.insert("create_txg", txg);
            }
            parent.insert("children", numbered([old, new.clone()].into()));
            siblings[index] = parent;
        })
    };
    if done { Ok(()) } else { Err(Error::NotFound) }
}

/// Takes a device out of its mirror, replacing or spare vdev. What is left alone there takes the vdev's place; at the top level it takes
/// its guid, too, so that labels that were not written yet are not taken for those of another vdev.
pub(super) fn detach(root: &mut NvList, guid: u64) -> Result<()> {
    let parent = place(root, guid)?.parent;
    if !is_mirror(kind(parent)) {
        return Err(Error::Invalid(
            "only devices of mirrors, and of those that are being replaced, can be detached",
        ));
    }
    let parent_guid = parent.get_u64("guid").unwrap_or(0);
    let is_top = children(root).iter().any(|top| top.get_u64("guid") == Some(parent_guid));
    let done = at_parent(root, parent_guid, &mut |siblings, index| {
        let mut parent = siblings[index].clone();
        let mut left = children(&parent).to_vec();
        left.retain(|child| child.get_u64("guid") != Some(guid));
        let [only] = &mut left[..] else {
            replace(&mut siblings[index], "children", numbered(left).into());
            return;
        };
        let mut only = only.clone();
        set(&mut only, "id", parent.get_u64("id").unwrap_or(0));
        transfer(&mut parent, &mut only);
        if is_top {
            set(&mut only, "guid", parent_guid);
        }
        if kind(&parent) == "spare" {
            only.remove("unspare");
        }
        siblings[index] = only;
    });
    if done { Ok(()) } else { Err(Error::NotFound) }
}

/// A replacement that is complete, as far as the lists say: `old` can go if `new` lacks nothing, and then `spare`, too.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Replaced {
    pub(super) old: u64,
    pub(super) new: u64,
    pub(super) spare: Option<u64>,
}

/// The devices that are being replaced by others (`spa_vdev_resilver_done_hunt`).
pub(super) fn replacements(root: &NvList) -> Vec<Replaced> {
    fn visit(list: &NvList, parent: Option<&NvList>, depth: usize, out: &mut Vec<Replaced>) {
        let guid = |list: &NvList| list.get_u64("guid").unwrap_or(0);
        let own = children(list);
        if depth < DEPTH_MAX {
            own.iter().for_each(|child| visit(child, Some(list), depth + 1, out));
        }
        let [first, .., last] = own else { return };
        match kind(list) {
            "replacing" => {
                // A device that a spare stands in for is replaced for good: the spare is free again.
                let spared = parent.filter(|parent| kind(parent) == "spare").map(children);
                let spare = match spared {
                    Some([first, spare]) if guid(first) == guid(list) => Some(guid(spare)),
                    _ => None,
                };
                out.push(Replaced { old: guid(first), new: guid(last), spare });
            }
            "spare" if last.get_u64("unspare") == Some(1) => {
                out.push(Replaced { old: guid(first), new: guid(last), spare: None });
            }
            "spare" if first.get_u64("unspare") == Some(1) => {
                out.push(Replaced { old: guid(last), new: guid(first), spare: None });
            }
            _ => {}
        }
    }
    let mut out = Vec::new();
    visit(root, None, 0, &mut out);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn disk(id: u64, guid: u64) -> NvList {
        NvList::new().with("type", "disk").with("id", id).with("guid", guid)
    }

    fn root(tops: Vec<NvList>) -> NvList {
        NvList::new().with("type", "root").with("id", 0).with("guid", 1).with("children", tops)
    }

    /// The tree in a line: kinds, guids and children.
    fn shown(list: &NvList) -> alloc::string::String {
        let own: Vec<_> = children(list).iter().map(shown).collect();
        let (id, guid) = (list.u64("id").unwrap(), list.u64("guid").unwrap());
        match own.len() {
            0 => alloc::format!("{id}:{guid}"),
            _ => alloc::format!("{id}:{}{guid}({})", list.str("type").unwrap(), own.join(" ")),
        }
    }

    #[test]
    fn a_disk_becomes_a_mirror_and_again_a_disk() {
        let top = disk(0, 5).with("asize", 77).with("metaslab_array", 9).with("create_txg", 4);
        let mut tree = root([top, disk(1, 6)].into());
        attach(&mut tree, 5, &disk(0, 7), "mirror", 8).unwrap();
        assert_eq!(shown(&tree), "0:root1(0:mirror8(0:5 1:7) 1:6)");
        attach(&mut tree, 7, &disk(0, 10), "mirror", 11).unwrap();
        assert_eq!(shown(&tree), "0:root1(0:mirror8(0:5 1:7 2:10) 1:6)");
        let mirror = &children(&tree)[0];
        assert_eq!(
            (mirror.u64("asize"), mirror.u64("metaslab_array"), mirror.u64("create_txg")),
            (Ok(77), Ok(9), Ok(4))
        );
        assert!(!children(mirror)[0].contains("asize"));
        detach(&mut tree, 5).unwrap();
        assert_eq!(shown(&tree), "0:root1(0:mirror8(0:7 1:10) 1:6)");
        detach(&mut tree, 10).unwrap();
        // The survivor has the mirror's guid.
        assert_eq!(shown(&tree), "0:root1(0:8 1:6)");
        assert_eq!(children(&tree)[0].u64("asize"), Ok(77));
        assert!(matches!(detach(&mut tree, 6), Err(Error::Invalid(_))));
        assert_eq!(detach(&mut tree, 99), Err(Error::NotFound));
    }

    #[test]
    fn a_spared_child_is_replaced_for_good() {
        let raidz = NvList::new().with("type", "raidz").with("id", 0).with("guid", 2);
        let mut tree = root([raidz.with("children", alloc::vec![disk(0, 3), disk(1, 4), disk(2, 5)])].into());
        attach(&mut tree, 4, &disk(0, 6).with("is_spare", 1), "spare", 20).unwrap();
        attach(&mut tree, 4, &disk(0, 7), "replacing", 21).unwrap();
        assert_eq!(shown(&tree), "0:root1(0:raidz2(0:3 1:spare20(0:replacing21(0:4 1:7) 1:6) 2:5))");
        assert_eq!(replacements(&tree), [Replaced { old: 4, new: 7, spare: Some(6) }]);
        detach(&mut tree, 4).unwrap();
        detach(&mut tree, 6).unwrap();
        assert_eq!(shown(&tree), "0:root1(0:raidz2(0:3 1:7 2:5))");
        assert!(matches!(detach(&mut tree, 7), Err(Error::Invalid(_))));
        assert!(matches!(place(&tree, 2), Err(Error::Invalid(_))));
    }
}
