//! Object types: what an object's blocks hold. Source: `dmu_object_type_t`, `dmu_ot[]` (`include/sys/dmu.h`, `dmu.c`).

/// The type of an object, of a bonus buffer, or of the block that a block pointer leads to. Any number is a value;
/// [`ObjectType::is_valid`] says whether the format knows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct ObjectType(pub u8);

const NEW_TYPE: u8 = 0x80;
const NEW_TYPE_METADATA: u8 = 0x40;
const NEW_TYPE_ENCRYPTED: u8 = 0x20;
const BYTESWAP_MASK: u8 = 0x1f;
const BYTESWAP_ZAP: u8 = 4;
const BYTESWAP_FUNCTIONS: u8 = 10;

macro_rules! object_types {
    ($($number:literal $name:ident $metadata:literal $text:literal;)*) => {
        #[expect(missing_docs, reason = "the names are those of dmu_object_type_t without DMU_OT_")]
        impl ObjectType {
            $(pub const $name: ObjectType = ObjectType($number);)*
        }
        /// Whether it is metadata, and zdb's name, by number.
        const TYPES: &[(bool, &str)] = &[$(($metadata, $text)),*];
    };
}

object_types! {
    0 NONE true "unallocated";
    1 OBJECT_DIRECTORY true "object directory";
    2 OBJECT_ARRAY true "object array";
    3 PACKED_NVLIST true "packed nvlist";
    4 PACKED_NVLIST_SIZE true "packed nvlist size";
    5 BPOBJ true "bpobj";
    6 BPOBJ_HDR true "bpobj header";
    7 SPACE_MAP_HEADER true "SPA space map header";
    8 SPACE_MAP true "SPA space map";
    9 INTENT_LOG true "ZIL intent log";
    10 DNODE true "DMU dnode";
    11 OBJSET true "DMU objset";
    12 DSL_DIR true "DSL directory";
    13 DSL_DIR_CHILD_MAP true "DSL directory child map";
    14 DSL_DS_SNAP_MAP true "DSL dataset snap map";
    15 DSL_PROPS true "DSL props";
    16 DSL_DATASET true "DSL dataset";
    17 ZNODE true "ZFS znode";
    18 OLDACL true "ZFS V0 ACL";
    19 PLAIN_FILE_CONTENTS false "ZFS plain file";
    20 DIRECTORY_CONTENTS true "ZFS directory";
    21 MASTER_NODE true "ZFS master node";
    22 UNLINKED_SET true "ZFS delete queue";
    23 ZVOL false "zvol object";
    24 ZVOL_PROP true "zvol prop";
    25 PLAIN_OTHER false "other uint8[]";
    26 UINT64_OTHER false "other uint64[]";
    27 ZAP_OTHER true "other ZAP";
    28 ERROR_LOG true "persistent error log";
    29 SPA_HISTORY true "SPA history";
    30 SPA_HISTORY_OFFSETS true "SPA history offsets";
    31 POOL_PROPS true "Pool properties";
    32 DSL_PERMS true "DSL permissions";
    33 ACL true "ZFS ACL";
    34 SYSACL true "ZFS SYSACL";
    35 FUID true "FUID table";
    36 FUID_SIZE true "FUID table size";
    37 NEXT_CLONES true "DSL dataset next clones";
    38 SCAN_QUEUE true "scan work queue";
    39 USERGROUP_USED true "ZFS user/group/project used";
    40 USERGROUP_QUOTA true "ZFS user/group/project quota";
    41 USERREFS true "snapshot refcount tags";
    42 DDT_ZAP true "DDT ZAP algorithm";
    43 DDT_STATS true "DDT statistics";
    44 SA true "System attributes";
    45 SA_MASTER_NODE true "SA master node";
    46 SA_ATTR_REGISTRATION true "SA attr registration";
    47 SA_ATTR_LAYOUTS true "SA attr layouts";
    48 SCAN_XLATE true "scan translations";
    49 DEDUP false "deduplicated block";
    50 DEADLIST true "DSL deadlist map";
    51 DEADLIST_HDR true "DSL deadlist map hdr";
    52 DSL_CLONES true "DSL dir clones";
    53 BPOBJ_SUBOBJ true "bpobj subobj";
}

impl ObjectType {
    /// `DMU_OTN_UINT8_DATA`.
    pub const OTN_UINT8_DATA: ObjectType = ObjectType(NEW_TYPE);
    /// `DMU_OTN_UINT8_METADATA`.
    pub const OTN_UINT8_METADATA: ObjectType = ObjectType(NEW_TYPE | NEW_TYPE_METADATA);
    /// `DMU_OTN_UINT64_DATA`.
    pub const OTN_UINT64_DATA: ObjectType = ObjectType(NEW_TYPE | 3);
    /// `DMU_OTN_UINT64_METADATA`.
    pub const OTN_UINT64_METADATA: ObjectType = ObjectType(NEW_TYPE | NEW_TYPE_METADATA | 3);
    /// `DMU_OTN_ZAP_DATA`.
    pub const OTN_ZAP_DATA: ObjectType = ObjectType(NEW_TYPE | BYTESWAP_ZAP);
    /// `DMU_OTN_ZAP_METADATA`.
    pub const OTN_ZAP_METADATA: ObjectType = ObjectType(NEW_TYPE | NEW_TYPE_METADATA | BYTESWAP_ZAP);

    /// Whether the format knows the number (`DMU_OT_IS_VALID`).
    #[must_use]
    pub fn is_valid(self) -> bool {
        if self.0 & NEW_TYPE != 0 {
            self.0 & BYTESWAP_MASK < BYTESWAP_FUNCTIONS
        } else {
            usize::from(self.0) < TYPES.len()
        }
    }

    /// Whether its blocks are metadata: more copies, always checksummed and compressed (`DMU_OT_IS_METADATA`).
    #[must_use]
    pub fn is_metadata(self) -> bool {
        if self.0 & NEW_TYPE != 0 {
            self.0 & NEW_TYPE_METADATA != 0
        } else {
            TYPES.get(usize::from(self.0)).is_none_or(|t| t.0)
        }
    }

    /// Whether its blocks, or a bonus of this type, are encrypted in an encrypted dataset (`DMU_OT_IS_ENCRYPTED`).
    #[must_use]
    pub fn is_encrypted(self) -> bool {
        if self.0 & NEW_TYPE != 0 {
            return self.0 & NEW_TYPE_ENCRYPTED != 0;
        }
        matches!(self.0, 9 | 10 | 18..=20 | 22 | 23 | 25 | 26 | 33..=35 | 39 | 40 | 44..=47 | 49)
    }

    /// Whether losing the block would lose more than one file (`DMU_OT_IS_CRITICAL`).
    #[must_use]
    pub fn is_critical(self, level: u8) -> bool {
        self.is_metadata()
            && (self != Self::DNODE || level > 0)
            && self != Self::DIRECTORY_CONTENTS
            && self != Self::SA
    }

    /// Whether a level-0 block's fill count is more than 0 or 1, so that it cannot be embedded (`DMU_OT_HAS_FILL`).
    #[must_use]
    pub fn has_fill(self) -> bool {
        matches!(self, Self::DNODE | Self::OBJSET)
    }

    /// Whether the object is a ZAP.
    #[must_use]
    pub fn is_zap(self) -> bool {
        if self.0 & NEW_TYPE != 0 {
            return self.0 & BYTESWAP_MASK == BYTESWAP_ZAP;
        }
        matches!(
            self.0,
            1 | 13 | 14 | 15 | 20 | 21 | 22 | 24 | 27 | 28 | 31 | 32 | 37..=43 | 45..=48 | 50 | 52
        )
    }

    /// The name in zdb's wording.
    #[must_use]
    pub fn name(self) -> &'static str {
        if self.0 & NEW_TYPE != 0 {
            return match self.0 & BYTESWAP_MASK {
                0 => "uint8",
                1 => "uint16",
                2 => "uint32",
                3 => "uint64",
                BYTESWAP_ZAP => "zap",
                5 => "dnode",
                6 => "objset",
                7 => "znode",
                8 => "oldacl",
                9 => "acl",
                _ => "unknown",
            };
        }
        TYPES.get(usize::from(self.0)).map_or("UNKNOWN", |t| t.1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_names_agree() {
        assert_eq!(TYPES.len(), 54);
        assert_eq!(ObjectType::SA.name(), "System attributes");
        assert_eq!(ObjectType::BPOBJ_SUBOBJ.0, 53);
        assert!(
            !ObjectType::PLAIN_FILE_CONTENTS.is_metadata() && ObjectType::DIRECTORY_CONTENTS.is_metadata()
        );
        assert!(ObjectType::OTN_ZAP_METADATA.is_zap() && ObjectType::OTN_ZAP_METADATA.is_metadata());
        assert_eq!(ObjectType::OTN_ZAP_METADATA.0, 0xc4);
        assert!(ObjectType::DNODE.is_encrypted() && ObjectType::SA.is_encrypted());
        assert!(!ObjectType::OBJSET.is_encrypted() && !ObjectType::MASTER_NODE.is_encrypted());
        assert!(ObjectType(0xa0).is_encrypted() && !ObjectType::OTN_UINT8_DATA.is_encrypted());
        assert!(!ObjectType(54).is_valid() && ObjectType(0xc4).is_valid());
    }
}
