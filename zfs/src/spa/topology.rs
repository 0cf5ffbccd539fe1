//! What a new pool is made of: devices in mirrors, raidz and draid vdevs, by class. Source: `zpool_vdev.c` (the grammar),
//! `vdev_alloc` and `vdev_config_generate` (the lists).

use super::metaslab::metaslab_shift;
use crate::error::{Error, Result};
use crate::ondisk::blkptr::LABEL_START_SIZE;
use crate::ondisk::label::{LABEL_SIZE, MIN_DEVICE_SIZE};
use crate::ondisk::nvlist::NvList;
use crate::vdev::Member;
use crate::vdev::draid::Layout;
use alloc::format;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use platform::block::BlockDevice;
use platform::random::Random;

/// Smallest and largest sector size, as powers of two (`ASHIFT_MIN`, `ASHIFT_MAX`).
const ASHIFT_MIN: u8 = 9;
const ASHIFT_MAX: u8 = 16;
/// What a new vdev gets unless its sectors are larger.
const ASHIFT_DEFAULT: u8 = 12;
/// The highest parity of raidz and draid.
const PARITY_MAX: u8 = 3;
/// The most devices of one vdev (`VDEV_RAIDZ_MAXPARITY`'s columns and draid's children both fit a byte).
const WIDTH_MAX: usize = 255;

/// A device for a new pool.
#[derive(Clone)]
pub struct NewDevice {
    /// The device. Everything on it is lost.
    pub device: Arc<dyn BlockDevice>,
    /// What the label says about where it is; `None`: `/dev/vda`, `/dev/vdb`, … in the order of the topology.
    pub path: Option<String>,
}

impl From<Arc<dyn BlockDevice>> for NewDevice {
    fn from(device: Arc<dyn BlockDevice>) -> Self {
        NewDevice { device, path: None }
    }
}

/// A top-level vdev of a new pool.
#[derive(Clone)]
pub enum NewVdev {
    /// One device.
    Disk(NewDevice),
    /// Copies on two or more devices.
    Mirror(Vec<NewDevice>),
    /// Parity of 1 to 3 devices, spread over all of them.
    Raidz {
        /// How many devices may be lost: 1 to 3.
        parity: u8,
        /// The devices: at least one more than `parity`.
        devices: Vec<NewDevice>,
    },
    /// Parity groups and spare space spread over all devices.
    Draid {
        /// How many devices may be lost: 1 to 3.
        parity: u8,
        /// Data devices of a group; `None`: 8, or as many as there are.
        data: Option<u8>,
        /// Distributed spares.
        spares: u8,
        /// The devices.
        devices: Vec<NewDevice>,
    },
}

impl NewVdev {
    /// Its devices, in order.
    #[must_use]
    pub fn devices(&self) -> &[NewDevice] {
        match self {
            NewVdev::Disk(device) => core::slice::from_ref(device),
            NewVdev::Mirror(devices) | NewVdev::Raidz { devices, .. } | NewVdev::Draid { devices, .. } => {
                devices
            }
        }
    }

    /// Refuses impossible shapes.
    fn check(&self) -> Result<()> {
        let count = self.devices().len();
        if count > WIDTH_MAX {
            return Err(Error::Invalid("a vdev has at most 255 devices"));
        }
        match self {
            NewVdev::Disk(_) => Ok(()),
            NewVdev::Mirror(_) if count < 2 => Err(Error::Invalid("a mirror needs at least two devices")),
            NewVdev::Mirror(_) => Ok(()),
            NewVdev::Raidz { parity, .. } => {
                if !(1..=PARITY_MAX).contains(parity) {
                    return Err(Error::Invalid("raidz: parity is 1 to 3"));
                }
                if count < usize::from(*parity) + 1 {
                    return Err(Error::Invalid("raidz: at least one device more than its parity"));
                }
                Ok(())
            }
            NewVdev::Draid { .. } => self.draid().map(|_| ()),
        }
    }

    /// The shape of a draid vdev.
    fn draid(&self) -> Result<Layout> {
        let NewVdev::Draid { parity, data, spares, devices } = self else {
            return Err(Error::Invalid("not a draid vdev"));
        };
        const DATA_DEFAULT: u64 = 8;
        let (children, parity, spares) = (devices.len() as u64, u64::from(*parity), u64::from(*spares));
        let most = children.saturating_sub(parity + spares);
        let data = data.map_or(most.min(DATA_DEFAULT), u64::from);
        Layout::new(children, parity, data, spares)
    }
}

/// What a new pool is made of.
#[derive(Clone, Default)]
pub struct Topology {
    /// Where data and metadata go. At least one.
    pub data: Vec<NewVdev>,
    /// Intent logs: disks and mirrors.
    pub logs: Vec<NewVdev>,
    /// Metadata, and data as small as `special_small_blocks` says.
    pub specials: Vec<NewVdev>,
    /// Deduplication tables.
    pub dedups: Vec<NewVdev>,
    /// Hot spares.
    pub spares: Vec<NewDevice>,
    /// Devices for the second-level cache. They are labelled and listed, and left alone.
    pub caches: Vec<NewDevice>,
}

impl From<Vec<Arc<dyn BlockDevice>>> for Topology {
    /// A stripe: each device a vdev of its own.
    fn from(devices: Vec<Arc<dyn BlockDevice>>) -> Self {
        devices.into_iter().map(|device| NewVdev::Disk(device.into())).collect::<Vec<_>>().into()
    }
}

impl From<Vec<NewVdev>> for Topology {
    /// Vdevs for data alone.
    fn from(data: Vec<NewVdev>) -> Self {
        Topology { data, ..Topology::default() }
    }
}

/// Name of a top-level vdev's class in its ZAP (`VDEV_TOP_ZAP_ALLOCATION_BIAS`).
pub(crate) const ALLOCATION_BIAS: &str = "org.zfsonlinux:allocation_bias";

/// What a vdev is for: `vdev_alloc_bias_t`, as the top-level vdev's ZAP says it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Bias {
    /// Data and metadata.
    None,
    /// Intent logs.
    Log,
    /// Metadata and small data.
    Special,
    /// Deduplication tables.
    Dedup,
}

impl Bias {
    /// Its name in the ZAP.
    pub(crate) fn name(self) -> Option<&'static str> {
        match self {
            Bias::None => None,
            Bias::Log => Some("log"),
            Bias::Special => Some("special"),
            Bias::Dedup => Some("dedup"),
        }
    }

    /// By its name in the ZAP.
    pub(crate) fn from_name(name: &[u8]) -> Self {
        let name = name.strip_suffix(&[0]).unwrap_or(name);
        let mut all = [Bias::Log, Bias::Special, Bias::Dedup].into_iter();
        all.find(|bias| bias.name().is_some_and(|n| n.as_bytes() == name)).unwrap_or(Bias::None)
    }
}

/// What becomes of a topology.
pub(super) struct Built {
    /// The lists of the top-level vdevs.
    pub(super) tops: Vec<NvList>,
    /// What each is for.
    pub(super) biases: Vec<Bias>,
    /// The devices of all of them.
    pub(super) members: Vec<Member>,
    /// Hot spares, the distributed ones included, and cache devices.
    pub(super) spares: Vec<NvList>,
    pub(super) caches: Vec<NvList>,
    /// The devices of both.
    pub(super) spare_members: Vec<Member>,
    pub(super) cache_members: Vec<Member>,
}

/// A guid that is not 0.
pub(super) fn new_guid(random: &dyn Random) -> u64 {
    loop {
        let guid = random.next_u64();
        if guid != 0 {
            return guid;
        }
    }
}

/// Bytes of a device that can hold blocks: what the labels leave.
pub(crate) fn allocatable(device: &dyn BlockDevice) -> u64 {
    let size = device.info().size;
    (size - size % LABEL_SIZE).saturating_sub(LABEL_START_SIZE + 2 * LABEL_SIZE)
}

/// Makes lists of a topology, one vdev after the other.
pub(super) struct Builder<'a> {
    pub(super) random: &'a dyn Random,
    /// The sector size asked for, as a power of two.
    pub(super) ashift: Option<u8>,
    /// Paths of the devices in the order of the topology, for those without one of their own.
    pub(super) paths: &'a [String],
    /// The txg in which the vdevs are made.
    pub(super) txg: u64,
    /// Indices for top-level vdevs that are used before those from `first_id` on: holes in the numbering.
    pub(super) holes: Vec<u64>,
    /// The index of the first top-level vdev after these.
    pub(super) first_id: u64,
}

impl Builder<'_> {
    /// The lists for `topology`. [`Error::Invalid`] for impossible shapes and devices too small, [`Error::ReadOnly`] for a
    /// device that cannot be written.
    pub(super) fn build(&self, topology: &Topology) -> Result<Built> {
        let mut built = Built {
            tops: Vec::new(),
            biases: Vec::new(),
            members: Vec::new(),
            spares: Vec::new(),
            caches: Vec::new(),
            spare_members: Vec::new(),
            cache_members: Vec::new(),
        };
        let classes = [
            (Bias::None, &topology.data),
            (Bias::Special, &topology.specials),
            (Bias::Dedup, &topology.dedups),
            (Bias::Log, &topology.logs),
        ];
        for (bias, vdevs) in classes {
            for vdev in vdevs {
                vdev.check()?;
                if bias == Bias::Log && !matches!(vdev, NewVdev::Disk(_) | NewVdev::Mirror(_)) {
                    return Err(Error::Invalid("a log is a disk or a mirror"));
                }
                let top = self.top(vdev, bias, &mut built)?;
                built.tops.push(top);
                built.biases.push(bias);
            }
        }
        for (devices, is_spare) in [(&topology.spares, true), (&topology.caches, false)] {
            for device in devices {
                self.auxiliary(device, is_spare, &mut built)?;
            }
        }
        Ok(built)
    }

    fn ashift(&self, devices: &[NewDevice]) -> Result<u8> {
        let info = devices.iter().map(|d| d.device.info());
        let (mut logical, mut physical) = (1, 1);
        for info in info {
            logical = logical.max(info.sector_size);
            physical = physical.max(info.physical_sector_size.max(info.sector_size));
        }
        let default = (physical.ilog2() as u8).clamp(ASHIFT_DEFAULT, ASHIFT_MAX);
        let ashift = self.ashift.unwrap_or(default);
        if !(ASHIFT_MIN..=ASHIFT_MAX).contains(&ashift) || ashift < logical.ilog2() as u8 {
            return Err(Error::Invalid("ashift: from 9 to 16, and no less than the device's sectors"));
        }
        Ok(ashift)
    }

    fn path(&self, device: &NewDevice, index: usize) -> String {
        let given = device.path.clone().or_else(|| self.paths.get(index).cloned());
        given.unwrap_or_else(|| format!("/dev/vd{}", char::from(b'a' + (index % 26) as u8)))
    }

    fn check_device(device: &NewDevice) -> Result<()> {
        let info = device.device.info();
        if info.read_only {
            return Err(Error::ReadOnly);
        }
        if info.size < MIN_DEVICE_SIZE {
            return Err(Error::Invalid("a device for a pool must have at least 64 MiB"));
        }
        Ok(())
    }

    /// The list of one top-level vdev; its devices go to `built`.
    fn top(&self, vdev: &NewVdev, bias: Bias, built: &mut Built) -> Result<NvList> {
        let devices = vdev.devices();
        devices.iter().try_for_each(Self::check_device)?;
        let smallest = devices.iter().map(|d| allocatable(&*d.device)).min().unwrap_or(0);
        let ashift = self.ashift(devices)?;
        let index = built.tops.len();
        let next = self.first_id + index.saturating_sub(self.holes.len()) as u64;
        let id = self.holes.get(index).copied().unwrap_or(next);
        let guid = new_guid(self.random);
        let count = devices.len() as u64;
        let (list, asize) = match vdev {
            NewVdev::Disk(device) => {
                let path = self.path(device, built.members.len());
                built.members.push((guid, Arc::clone(&device.device)));
                let list = NvList::new().with("type", "disk").with("id", id).with("guid", guid);
                (list.with("path", path).with("whole_disk", 0), smallest)
            }
            NewVdev::Mirror(_) => (group("mirror", id, guid), smallest),
            NewVdev::Raidz { parity, .. } => {
                (group("raidz", id, guid).with("nparity", u64::from(*parity)), smallest.saturating_mul(count))
            }
            NewVdev::Draid { parity, .. } => {
                let layout = vdev.draid()?;
                let list = group("draid", id, guid)
                    .with("nparity", u64::from(*parity))
                    .with("draid_ndata", layout.data)
                    .with("draid_nspares", layout.spares)
                    .with("draid_ngroups", layout.groups);
                built.spares.extend(self.distributed_spares(&layout, id, guid, ashift));
                (list, layout.asize(smallest))
            }
        };
        if asize < MIN_DEVICE_SIZE / 2 {
            return Err(Error::Invalid("draid: the devices are too small"));
        }
        let mut list = list
            .with("metaslab_array", 0)
            .with("metaslab_shift", u64::from(metaslab_shift(asize)))
            .with("ashift", u64::from(ashift))
            .with("asize", asize)
            .with("is_log", u64::from(bias == Bias::Log))
            .with("create_txg", self.txg);
        if !matches!(vdev, NewVdev::Disk(_)) {
            let mut children = Vec::new();
            for (index, device) in devices.iter().enumerate() {
                let guid = new_guid(self.random);
                let path = self.path(device, built.members.len());
                built.members.push((guid, Arc::clone(&device.device)));
                let child = NvList::new().with("type", "disk").with("id", index as u64).with("guid", guid);
                children.push(child.with("path", path).with("whole_disk", 0).with("create_txg", self.txg));
            }
            list.insert("children", children);
        }
        Ok(list)
    }

    /// What the pool's list of spares says of a draid vdev's own (`vdev_draid_spare_create`).
    fn distributed_spares(&self, layout: &Layout, id: u64, top_guid: u64, ashift: u8) -> Vec<NvList> {
        let spare = |index: u64| {
            NvList::new()
                .with("type", "dspare")
                .with("guid", new_guid(self.random))
                .with("path", format!("draid{}-{id}-{index}", layout.parity))
                .with("top_guid", top_guid)
                .with("spareid", index)
                .with("whole_disk", 1)
                .with("is_spare", 1)
                .with("ashift", u64::from(ashift))
        };
        (0..layout.spares).map(spare).collect()
    }

    /// A hot spare or a cache device.
    fn auxiliary(&self, device: &NewDevice, is_spare: bool, built: &mut Built) -> Result<()> {
        Self::check_device(device)?;
        let guid = new_guid(self.random);
        let index = built.members.len() + built.spare_members.len() + built.cache_members.len();
        let mut list = NvList::new()
            .with("type", "disk")
            .with("guid", guid)
            .with("path", self.path(device, index))
            .with("whole_disk", 0);
        if is_spare {
            list.insert("is_spare", 1);
        }
        list.insert("ashift", u64::from(self.ashift(core::slice::from_ref(device))?));
        let member = (guid, Arc::clone(&device.device));
        let (lists, members) = match is_spare {
            true => (&mut built.spares, &mut built.spare_members),
            false => (&mut built.caches, &mut built.cache_members),
        };
        lists.push(list);
        members.push(member);
        Ok(())
    }
}

fn group(kind: &str, id: u64, guid: u64) -> NvList {
    NvList::new().with("type", kind).with("id", id).with("guid", guid)
}
