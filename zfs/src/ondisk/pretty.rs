//! Block pointers and uberblocks in zdb's wording.

use crate::checksum::Checksum;
use crate::compress;
use crate::ondisk::blkptr::Blkptr;
use crate::ondisk::uberblock::{MMP_MAGIC, UBERBLOCK_MAGIC, Uberblock};
use alloc::string::String;
use core::fmt;

/// Shows a block pointer on one line, as `zdb -u` and `zdb -dddddd` do (`snprintf_blkptr`). `type_name` is the name of
/// its object type, which the layers above know.
pub struct ShowBlkptr<'a> {
    /// The pointer.
    pub bp: &'a Blkptr,
    /// Name of its object type; if empty the number is shown.
    pub type_name: &'a str,
}

const COPIES: [&str; 4] = ["zero", "single", "double", "triple"];
/// `DMU_OT_OBJSET` and `DMU_OT_DNODE`: known here for their names alone, of the blocks that every pool starts with.
const OBJSET: u8 = 11;
const DNODE: u8 = 10;

impl ShowBlkptr<'_> {
    fn type_name(&self) -> String {
        match (self.type_name, self.bp.object_type()) {
            ("", OBJSET) => "DMU objset".into(),
            ("", DNODE) => "DMU dnode".into(),
            ("", number) => alloc::format!("type {number}"),
            (name, _) => name.into(),
        }
    }
}

impl fmt::Display for ShowBlkptr<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (bp, ty) = (self.bp, self.type_name());
        let (level, lsize, birth) = (bp.level(), bp.lsize(), bp.birth());
        if bp.is_embedded() {
            return write!(
                f,
                "EMBEDDED [L{level} {ty}] et={} {} size={lsize:x}L/{:x}P birth={birth}L",
                bp.embedded_type(),
                compress::name(bp.compress()),
                bp.psize()
            );
        }
        if bp.is_hole() {
            return write!(f, "HOLE [L{level} {ty}] size={lsize:x}L birth={birth}L");
        }
        let mut copies = 0;
        for (i, dva) in bp.dvas().enumerate() {
            write!(f, "DVA[{i}]=<{}:{:x}:{:x}> ", dva.vdev, dva.offset, dva.asize)?;
            copies += 1;
        }
        let checksum = Checksum::from_raw(bp.checksum_type()).map_or("unknown", Checksum::name);
        write!(
            f,
            "[L{level} {ty}] {checksum} {} {} {} {} {} {} size={lsize:x}L/{:x}P birth={birth}L/{}P fill={}",
            compress::name(bp.compress()),
            if bp.uses_crypt() { "encrypted" } else { "unencrypted" },
            if bp.little_endian() { "LE" } else { "BE" },
            if bp.is_gang() { "gang" } else { "contiguous" },
            if bp.dedup() { "dedup" } else { "unique" },
            COPIES[copies],
            bp.psize(),
            bp.physical_birth(),
            bp.fill()
        )?;
        let [a, b, c, d] = bp.checksum();
        write!(f, " cksum={a:016x}:{b:016x}:{c:016x}:{d:016x}")
    }
}

/// Shows an uberblock as `zdb -uuuu` does, a line for each field behind a tab. Times are UTC.
pub struct ShowUberblock<'a>(pub &'a Uberblock);

impl fmt::Display for ShowUberblock<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let u = self.0;
        writeln!(f, "\tmagic = {UBERBLOCK_MAGIC:016x}")?;
        writeln!(f, "\tversion = {}", u.version)?;
        writeln!(f, "\ttxg = {}", u.txg)?;
        writeln!(f, "\tguid_sum = {}", u.guid_sum)?;
        writeln!(f, "\ttimestamp = {} UTC = {}", u.timestamp, CTime(u.timestamp))?;
        writeln!(f, "\tmmp_magic = {:016x}", u.mmp_magic)?;
        if u.mmp_magic == MMP_MAGIC {
            writeln!(f, "\tmmp_delay = {}", u.mmp_delay)?;
            writeln!(f, "\tmmp_valid = {:x}", u.mmp_config & 0xff)?;
        }
        writeln!(f, "\trootbp = {}", ShowBlkptr { bp: &u.rootbp, type_name: "" })?;
        writeln!(f, "\tcheckpoint_txg = {}", u.checkpoint_txg)
    }
}

/// A time as `ctime(3)` writes it: `Sun Nov 22 16:39:47 2026`.
struct CTime(u64);

impl fmt::Display for CTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const DAYS: [&str; 7] = ["Thu", "Fri", "Sat", "Sun", "Mon", "Tue", "Wed"];
        const MONTHS: [&str; 12] =
            ["Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec", "Jan", "Feb"];
        let (days, second) = (self.0 / 86_400, self.0 % 86_400);
        // Years that start in March put the leap day last; 400 of them are always 146,097 days.
        let shifted = days + 719_468;
        let (era, day_of_era) = (shifted / 146_097, shifted % 146_097);
        let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
        let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let month = (5 * day_of_year + 2) / 153;
        let day = day_of_year - (153 * month + 2) / 5 + 1;
        let year = era * 400 + year_of_era + u64::from(month >= 10);
        let (hour, minute) = (second / 3600, second / 60 % 60);
        let (weekday, month) = (DAYS[(days % 7) as usize], MONTHS[month as usize]);
        write!(f, "{weekday} {month} {day:2} {hour:02}:{minute:02}:{:02} {year}", second % 60)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ondisk::blkptr::Dva;
    use alloc::string::ToString;

    #[test]
    fn times_read_as_in_c() {
        assert_eq!(CTime(1_795_365_587).to_string(), "Sun Nov 22 16:39:47 2026");
        assert_eq!(CTime(0).to_string(), "Thu Jan  1 00:00:00 1970");
        assert_eq!(CTime(951_782_400).to_string(), "Tue Feb 29 00:00:00 2000");
    }

    #[test]
    fn a_pointer_reads_as_in_zdb() {
        let mut bp = Blkptr::HOLE;
        bp.set_dva(0, Dva { vdev: 0, offset: 0x4000, asize: 0x1000, gang: false });
        bp.set_dva(1, Dva { vdev: 0, offset: 0x200_4000, asize: 0x1000, gang: false });
        bp.set_sizes(4096, 4096);
        bp.set_compress(15);
        bp.set_checksum_type(7);
        bp.set_object_type(11);
        bp.set_birth(10);
        bp.set_fill(5);
        bp.set_little_endian();
        bp.set_checksum([1, 2, 3, 4]);
        let golden = "DVA[0]=<0:4000:1000> DVA[1]=<0:2004000:1000> [L0 DMU objset] fletcher4 lz4 unencrypted LE \
                      contiguous unique double size=1000L/1000P birth=10L/10P fill=5 \
                      cksum=0000000000000001:0000000000000002:0000000000000003:0000000000000004";
        assert_eq!(ShowBlkptr { bp: &bp, type_name: "" }.to_string(), golden);
        let hole = ShowBlkptr { bp: &Blkptr::HOLE, type_name: "ZAP" }.to_string();
        assert_eq!(hole, "HOLE [L0 ZAP] size=0L birth=0L");
    }
}
