//! How far each leaf is trimmed: entries of its ZAP, as OpenZFS has them. Source: `vdev_trim_zap_update_sync`, `vdev_trim_load`
//! (`vdev_trim.c`).

use super::super::core::Spa;
use super::super::devices::leaf_list;
use super::super::vdev_zaps::LEAF_ZAP;
use crate::dmu::Tx;
use crate::error::{Error, Result};
use crate::zap;
use alloc::string::{String, ToString};

/// Entries of a leaf's ZAP (`VDEV_LEAF_ZAP_TRIM_*`).
const STATE: &str = "org.zfsonlinux:vdev_trim_state";
const ACTION_TIME: &str = "org.zfsonlinux:vdev_trim_action_time";
const LAST_OFFSET: &str = "org.zfsonlinux:next_offset_to_trim";
const RATE: &str = "org.zfsonlinux:vdev_trim_rate";
const PARTIAL: &str = "org.zfsonlinux:vdev_trim_partial";
const SECURE: &str = "org.zfsonlinux:vdev_trim_secure";

/// How the trim of a leaf stands (`vdev_trim_state_t`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TrimState {
    /// It goes on, or was cut off: the next one goes on from there.
    Active,
    /// It was given up.
    Canceled,
    /// It waits to be gone on with.
    Suspended,
    /// It came to its end.
    Complete,
}

impl TrimState {
    fn number(self) -> u64 {
        match self {
            TrimState::Active => 1,
            TrimState::Canceled => 2,
            TrimState::Suspended => 3,
            TrimState::Complete => 4,
        }
    }

    fn of(number: u64) -> Option<Self> {
        let all = [TrimState::Active, TrimState::Canceled, TrimState::Suspended, TrimState::Complete];
        all.into_iter().find(|state| state.number() == number)
    }

    /// In OpenZFS's words of the history.
    fn word(self) -> &'static str {
        match self {
            TrimState::Active => "activated",
            TrimState::Canceled => "canceled",
            TrimState::Suspended => "suspended",
            TrimState::Complete => "complete",
        }
    }

    /// Whether there is something to go on with.
    pub(super) fn is_unfinished(self) -> bool {
        matches!(self, TrimState::Active | TrimState::Suspended)
    }
}

/// What is on record about a leaf.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Standing {
    pub(super) guid: u64,
    pub(super) state: Option<TrimState>,
    /// When it began, or ended, in seconds since 1970.
    pub(super) action_time: u64,
    /// Up to that byte of the device it is done.
    pub(super) offset: u64,
    /// Bytes in a second; 0: as fast as can be.
    pub(super) rate: u64,
}

impl Spa {
    /// A leaf's ZAP, if it has one, and its path.
    fn trim_zap(&self, guid: u64) -> Option<(u64, String)> {
        let root = self.state.lock().config.root.clone();
        let list = leaf_list(&root, guid)?;
        let zap = list.get_u64(LEAF_ZAP).filter(|zap| *zap != 0)?;
        Some((zap, list.get_str("path").unwrap_or("?").to_string()))
    }

    /// What is on record about a leaf.
    pub(super) fn trim_standing(&self, guid: u64) -> Result<Standing> {
        let Some((zap, _)) = self.trim_zap(guid) else { return Ok(Standing { guid, ..Standing::default() }) };
        let zap = self.mos.hold(zap)?;
        let number = |name| match zap::lookup_u64(&zap, name) {
            Ok(number) => Ok(number),
            Err(Error::NotFound) => Ok(0),
            Err(error) => Err(error),
        };
        Ok(Standing {
            guid,
            state: TrimState::of(number(STATE)?),
            action_time: number(ACTION_TIME)?,
            offset: number(LAST_OFFSET)?,
            rate: number(RATE)?,
        })
    }

    /// Records how a leaf stands; `says`: in the history, too. Leaves without a ZAP have no record. Syncing context.
    pub(super) fn record_trim(&self, tx: &Tx, standing: &Standing, says: bool) -> Result<()> {
        let (Some((object, path)), Some(state)) = (self.trim_zap(standing.guid), standing.state) else {
            return Ok(());
        };
        let zap = self.mos.hold(object)?;
        let entries = [
            (LAST_OFFSET, standing.offset),
            (ACTION_TIME, standing.action_time),
            (RATE, standing.rate),
            (PARTIAL, 0),
            (SECURE, 0),
            (STATE, state.number()),
        ];
        entries.iter().try_for_each(|(name, value)| zap::update_u64(&zap, tx, *name, *value))?;
        if says {
            self.log_internal_event(tx, "trim", &alloc::format!("vdev={path} {}", state.word()))?;
        }
        Ok(())
    }
}
