//! The checksum functions of the format. Source: `zio_checksum.c`.

use crate::error::{Error, Result};

/// A checksum function, as numbered on disk (`enum zio_checksum`). Which a property may choose: `dsl` knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
#[expect(missing_docs, reason = "the names are those of the functions")]
pub enum Checksum {
    Inherit = 0,
    On = 1,
    Off = 2,
    Label = 3,
    GangHeader = 4,
    Zilog = 5,
    Fletcher2 = 6,
    Fletcher4 = 7,
    Sha256 = 8,
    Zilog2 = 9,
    Noparity = 10,
    Sha512 = 11,
    Skein = 12,
    Edonr = 13,
    Blake3 = 14,
}

impl Checksum {
    /// The function of that number.
    pub fn from_raw(raw: u8) -> Result<Self> {
        use Checksum::{
            Blake3, Edonr, Fletcher2, Fletcher4, GangHeader, Inherit, Label, Noparity, Off, On, Sha256,
            Sha512, Skein, Zilog, Zilog2,
        };
        const ALL: [Checksum; 15] = [
            Inherit, On, Off, Label, GangHeader, Zilog, Fletcher2, Fletcher4, Sha256, Zilog2, Noparity,
            Sha512, Skein, Edonr, Blake3,
        ];
        ALL.get(usize::from(raw))
            .copied()
            .ok_or_else(|| Error::unsupported(alloc::format!("checksum function {raw}")))
    }

    /// The function that really runs: `on` means fletcher4.
    #[must_use]
    pub fn resolve(self) -> Self {
        if matches!(self, Checksum::On | Checksum::Inherit) { Checksum::Fletcher4 } else { self }
    }
}
