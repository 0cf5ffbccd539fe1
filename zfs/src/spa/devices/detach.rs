//! A device leaves its companions.

use super::super::aux_devices::{self, Aux};
use super::super::core::{Core, Spa};
use super::super::vdev_zaps::LEAF_ZAP;
use super::tree;
use crate::dmu::Tx;
use crate::error::{Error, Result};
use crate::ondisk::nvlist::NvList;
use crate::vdev::{Member, VdevTree, label};
use alloc::format;
use alloc::sync::Arc;

/// What a device leaves behind.
struct Leaving {
    guid: u64,
    list: NvList,
    /// The vdev that it was in; what is left alone there may take this guid.
    parent: u64,
    /// The spare that stood in for it is a device like others from now on.
    promoted: Option<u64>,
}

impl Core {
    /// Takes a device out of its mirror, or ends a replacement: of the old device or of the new one. Its labels are cleared; a hot spare
    /// is free again. [`Error::Busy`] if nobody else has some of its data.
    pub(crate) fn detach(&self, guid: u64) -> Result<()> {
        let _changing = self.spa.change_devices()?;
        self.spa.check_no_checkpoint()?;
        let (config, _) = self.spa.devices();
        let place = tree::place(&config.root, guid)?;
        tree::detach(&mut config.root.clone(), guid)?;
        if self.requires(place.top, guid) {
            return Err(Error::Busy);
        }
        let siblings = tree::children(place.parent);
        let is_original = place.parent.get_str("type") == Some("spare")
            && siblings.first().and_then(|first| first.get_u64("guid")) == Some(guid);
        let spare = siblings.last().filter(|last| is_original && last.get_u64("is_spare") == Some(1));
        let leaving = Leaving {
            guid,
            list: place.leaf.clone(),
            parent: place.parent.get_u64("guid").unwrap_or(0),
            promoted: spare.and_then(|spare| spare.get_u64("guid")),
        };
        let is_spare = place.leaf.get_u64("is_spare") == Some(1);
        let member = self.spa.member(guid);
        let spa = Arc::clone(&self.spa);
        self.spa.run_task(move |tx: &Tx| spa.leave(tx, &leaving, is_spare))?;
        self.release(member.as_ref(), is_spare)
    }

    /// The labels of a device that left, last of all.
    fn release(&self, member: Option<&Member>, is_spare: bool) -> Result<()> {
        match member {
            Some(member) if is_spare => aux_devices::create_label(Aux::Spares, member),
            Some((_, device)) => label::clear(&**device),
            None => Ok(()),
        }
    }
}

impl Spa {
    fn leave(&self, tx: &Tx, leaving: &Leaving, stays_known: bool) -> Result<()> {
        let (mut config, mut members) = self.devices();
        tree::detach(&mut config.root, leaving.guid)?;
        if let Some(spare) = leaving.promoted {
            config.edit_vdev(spare, &mut |list| _ = list.remove("is_spare"));
            let mut spares = aux_devices::read(&self.mos, Aux::Spares)?;
            spares.retain(|list| list.get_u64("guid") != Some(spare));
            aux_devices::write(&self.mos, tx, Aux::Spares, spares)?;
        }
        if !stays_known {
            members.retain(|(guid, _)| *guid != leaving.guid);
        }
        // The one that is left may have become a top-level vdev, with the guid of the one that it was in.
        let old = self.zio.vdevs();
        let heir = tree::place(&config.root, leaving.parent).is_ok().then(|| {
            let siblings = old.leaves().into_iter().filter(|leaf| leaf.top_guid == leaving.parent);
            siblings.map(|leaf| leaf.guid).find(|guid| *guid != leaving.guid)
        });
        let heir = heir.flatten();
        if let Some(heir) = heir
            && let Some(member) = members.iter_mut().find(|(guid, _)| *guid == heir)
        {
            member.0 = leaving.parent;
        }
        let missing = heir.and_then(|heir| old.leaf(heir)).map(|leaf| leaf.missing());
        self.install(config, members, &|vdevs: &VdevTree| {
            if let (Some(missing), Some(leaf)) = (&missing, vdevs.leaf(leaving.parent)) {
                leaf.set_missing(missing.clone());
            }
        })?;
        self.free_vdev_zap(tx, &leaving.list, LEAF_ZAP)?;
        let path = leaving.list.get_str("path").unwrap_or("?");
        self.log_internal_event(tx, "detach", &format!("vdev={path}"))
    }
}
