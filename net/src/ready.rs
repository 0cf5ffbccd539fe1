//! What a socket is ready for: `poll(2)`'s conditions.

use core::fmt;

/// A set of conditions, with the bits that Linux gives them.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
pub struct Ready(pub u32);

impl Ready {
    /// Something can be read (data, the end, a connection).
    pub const IN: Ready = Ready(0x1);
    /// Something can be written.
    pub const OUT: Ready = Ready(0x4);
    /// An error is pending.
    pub const ERR: Ready = Ready(0x8);
    /// Both directions are over.
    pub const HUP: Ready = Ready(0x10);
    /// The other side sends no more.
    pub const RDHUP: Ready = Ready(0x2000);

    /// Whether all of `other` hold.
    #[must_use]
    pub fn contains(self, other: Ready) -> bool {
        self.0 & other.0 == other.0
    }

    /// `self` with `other` if `condition`.
    #[must_use]
    pub fn with(self, other: Ready, condition: bool) -> Ready {
        if condition { Ready(self.0 | other.0) } else { self }
    }
}

impl fmt::Debug for Ready {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Ready({:#x})", self.0)
    }
}
