//! The shape of a draid vdev. Source: `vdev_draid.c`, `vdev_draid_config_t`.

use crate::error::{Error, Result};

/// Bytes of a row on each device (`VDEV_DRAID_ROWHEIGHT`): the largest block fits even with one data device.
const ROW_HEIGHT: u64 = 16 << 20;
/// Kept free at the end of each device, in bytes (`VDEV_DRAID_REFLOW_RESERVE`).
const RESERVE: u64 = 2 * ROW_HEIGHT;
/// The most children of a draid vdev (`VDEV_DRAID_MAX_CHILDREN`).
const CHILDREN_MAX: u64 = 255;
/// The most distributed spares.
const SPARES_MAX: u64 = 100;

/// How groups and spares lie on the children.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Layout {
    /// Devices.
    pub children: u64,
    /// Parity devices of a group.
    pub parity: u64,
    /// Data devices of a group.
    pub data: u64,
    /// Distributed spares.
    pub spares: u64,
    /// Groups in a slice: after so many, they end with a whole row.
    pub groups: u64,
}

impl Layout {
    /// The layout of that many devices; [`Error::Invalid`] if there is none.
    pub fn new(children: u64, parity: u64, data: u64, spares: u64) -> Result<Self> {
        if !(1..=3).contains(&parity) {
            return Err(Error::Invalid("draid: parity is 1 to 3"));
        }
        if children > CHILDREN_MAX || spares > SPARES_MAX {
            return Err(Error::Invalid("draid: at most 255 devices and 100 spares"));
        }
        if data == 0 || data + parity + spares > children {
            return Err(Error::Invalid("draid: data, parity and spares need more devices than there are"));
        }
        let (width, disks) = (data + parity, children - spares);
        let mut groups = 1;
        while width * groups % disks != 0 {
            groups += 1;
        }
        Ok(Layout { children, parity, data, spares, groups })
    }

    /// Devices of a group.
    #[must_use]
    pub fn width(&self) -> u64 {
        self.data + self.parity
    }

    /// Allocatable bytes if each device has `child` of them (`vdev_draid_open`).
    #[must_use]
    pub fn asize(&self, child: u64) -> u64 {
        let rows = child.saturating_sub(RESERVE) / ROW_HEIGHT;
        let group = self.width() * ROW_HEIGHT;
        rows * ROW_HEIGHT * (self.children - self.spares) / group * group
    }
}
