//! The vdev layouts that campaigns run on.

use crate::model::env;
use anyhow::{Result, bail};
use platform::block::BlockDevice;
use platform::sim::{Image, SimDisk, SimLog};
use std::sync::Arc;
use zfs::Error;
use zfs::spa::{CreateOptions, NewDevice, NewVdev, Pool, Topology};

/// What OpenZFS 2.2 makes active in every new pool, and what is used here as soon as it is enabled.
const LATER: [&str; 4] = ["head_errlog", "vdev_zaps_v2", "blake3", "longname"];

/// Features of a campaign's pool beyond those of OpenZFS 2.1: in every other one blocks can be cloned, in both forms of tables. Half of them
/// have those that are newer, but for pools whose tables a `zdb` of then does not understand.
#[must_use]
pub fn features_of(seed: u64) -> Vec<&'static str> {
    let cloning: &[&str] = match seed % 4 {
        1 => &["block_cloning"],
        3 => return ["block_cloning", "block_cloning_endian"].into(),
        _ => &[],
    };
    let later: &[&str] = if seed / 4 % 2 == 1 { &LATER } else { &[] };
    [cloning, later].concat()
}

/// How a pool's disks are put together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Layout {
    /// One disk.
    Single,
    /// Two disks, each a top-level vdev.
    Stripe,
    /// Two disks with the same content.
    Mirror,
    /// Three disks, one of them parity.
    Raidz1,
    /// Five disks, two of them parity.
    Raidz2,
    /// Six disks, three of them parity.
    Raidz3,
    /// Five disks: groups of two data and one parity, one distributed spare.
    Draid,
    /// A disk, and one for intent logs.
    Log,
    /// A mirror, and one for metadata.
    Special,
    /// A mirror and a raidz1 side by side, mirrors for metadata and for intent logs.
    Mixed,
}

impl Layout {
    /// All of them.
    pub const ALL: [Layout; 10] = [
        Layout::Single,
        Layout::Stripe,
        Layout::Mirror,
        Layout::Raidz1,
        Layout::Raidz2,
        Layout::Raidz3,
        Layout::Draid,
        Layout::Log,
        Layout::Special,
        Layout::Mixed,
    ];

    /// Those that this engine can make.
    pub fn available() -> Result<Vec<Layout>> {
        let mut available = Vec::new();
        for layout in Layout::ALL {
            let log = SimLog::new();
            let disk = |i| Arc::new(SimDisk::new(&log, i, Image::new(64 << 20))) as Arc<dyn BlockDevice>;
            match layout.create((0..layout.disks()).map(disk).collect(), "probe") {
                Ok(_) => available.push(layout),
                Err(Error::Unsupported { what }) => println!("{}: not supported: {what}", layout.name()),
                Err(error) => return Err(error.into()),
            }
        }
        Ok(available)
    }

    /// Its name on command lines.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Layout::Single => "single",
            Layout::Stripe => "stripe",
            Layout::Mirror => "mirror",
            Layout::Raidz1 => "raidz1",
            Layout::Raidz2 => "raidz2",
            Layout::Raidz3 => "raidz3",
            Layout::Draid => "draid",
            Layout::Log => "log",
            Layout::Special => "special",
            Layout::Mixed => "mixed",
        }
    }

    /// From its name.
    pub fn parse(name: &str) -> Result<Layout> {
        let names: Vec<&str> = Layout::ALL.iter().map(|l| l.name()).collect();
        match Layout::ALL.into_iter().find(|l| l.name() == name) {
            Some(layout) => Ok(layout),
            None => bail!("no layout {name}: there are {}", names.join(", ")),
        }
    }

    /// How many disks it takes.
    #[must_use]
    pub fn disks(self) -> usize {
        match self {
            Layout::Single => 1,
            Layout::Stripe | Layout::Mirror | Layout::Log => 2,
            Layout::Raidz1 => 3,
            Layout::Special => 4,
            Layout::Raidz2 | Layout::Draid => 5,
            Layout::Raidz3 => 6,
            Layout::Mixed => 9,
        }
    }

    /// How many of its disks, any of them, it can lose.
    #[must_use]
    pub fn tolerance(self) -> usize {
        match self {
            Layout::Single | Layout::Stripe | Layout::Log => 0,
            Layout::Mirror | Layout::Raidz1 | Layout::Draid | Layout::Special | Layout::Mixed => 1,
            Layout::Raidz2 => 2,
            Layout::Raidz3 => 3,
        }
    }

    /// The disks as vdevs.
    ///
    /// # Panics
    /// If there are not as many as [`Layout::disks`] says.
    #[must_use]
    pub fn topology(self, devices: Vec<Arc<dyn BlockDevice>>) -> Topology {
        assert_eq!(devices.len(), self.disks(), "a layout takes as many disks as it says");
        let mut devices: Vec<NewDevice> = devices.into_iter().map(NewDevice::from).collect();
        let parity = |parity, devices| NewVdev::Raidz { parity, devices };
        match self {
            Layout::Single | Layout::Stripe => {
                devices.into_iter().map(NewVdev::Disk).collect::<Vec<_>>().into()
            }
            Layout::Mirror => vec![NewVdev::Mirror(devices)].into(),
            Layout::Raidz1 => vec![parity(1, devices)].into(),
            Layout::Raidz2 => vec![parity(2, devices)].into(),
            Layout::Raidz3 => vec![parity(3, devices)].into(),
            Layout::Draid => vec![NewVdev::Draid { parity: 1, data: Some(2), spares: 1, devices }].into(),
            Layout::Log => {
                let logs = devices.split_off(1).into_iter().map(NewVdev::Disk).collect();
                Topology { logs, ..devices.into_iter().map(NewVdev::Disk).collect::<Vec<_>>().into() }
            }
            Layout::Special => {
                let specials = vec![NewVdev::Mirror(devices.split_off(2))];
                Topology { specials, ..vec![NewVdev::Mirror(devices)].into() }
            }
            Layout::Mixed => {
                let logs = vec![NewVdev::Mirror(devices.split_off(7))];
                let specials = vec![NewVdev::Mirror(devices.split_off(5))];
                let raidz = parity(1, devices.split_off(2));
                Topology { logs, specials, ..vec![NewVdev::Mirror(devices), raidz].into() }
            }
        }
    }

    /// A new pool on these disks.
    pub fn create(self, devices: Vec<Arc<dyn BlockDevice>>, name: &str) -> zfs::Result<Arc<Pool>> {
        self.create_with(devices, name, &[])
    }

    /// A new pool that has these features besides those that every new one has.
    pub fn create_with(
        self,
        devices: Vec<Arc<dyn BlockDevice>>,
        name: &str,
        features: &[&str],
    ) -> zfs::Result<Arc<Pool>> {
        let env = env();
        let now = env.clock.now();
        let init =
            Box::new(move |os: &Arc<zfs::dmu::Objset>, tx: &zfs::dmu::Tx| zfs::zpl::init(os, tx, &[], now));
        let mut options = CreateOptions::new(name, init);
        options.properties =
            features.iter().map(|f| (format!("feature@{f}"), "enabled".to_owned())).collect();
        let longname = ("longname".to_owned(), "on".to_owned());
        options.root_properties.extend(features.contains(&"longname").then_some(longname));
        Pool::create(self.topology(devices), env, options)
    }
}
