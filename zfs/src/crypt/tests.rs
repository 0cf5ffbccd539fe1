//! Known answers: OpenZFS's own, and those of another implementation (Python's `cryptography`, which is OpenSSL, and its `hmac` and
//! `hashlib`).

use super::*;
use crate::error::Error;
use crate::ondisk::blkptr::{Blkptr, Dva};
use crate::ondisk::bookmark::Bookmark;
use crate::ondisk::crypt::{IV_SIZE, WrappedKey};
use crate::ondisk::object_type::ObjectType;
use alloc::vec;
use alloc::vec::Vec;

struct Vector {
    suite: Suite,
    /// Master key 0, 1, 2 … and HMAC key 64, 65, 66 …, wrapped by 0, 1, 2 ….
    wrapped: &'static str,
    wrapped_mac: &'static str,
    /// 48 bytes 0, 7, 14 …, encrypted with the key of salt a0, a1, a2 ….
    sealed: &'static str,
    mac: &'static str,
}

const GUID: u64 = 0x1122_3344_5566_7788;
const IV: [u8; IV_SIZE] = [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12];
const VECTORS: &[Vector] = &[
    Vector {
        suite: Suite::Aes128Ccm,
        wrapped: "fd8df95c81a7b71c25ce1f32a9c838b7c18eabc87a16dde311350944c4682e09c7705587bb8782217244c009967920f253b75a566d8d547a059c60fb63dd6079a61f6b20eae8f8a5cbd1af31688dc04d",
        wrapped_mac: "fc4193e3729cb824c8e912f44bfa0abd",
        sealed: "0d77ff9c8a535bc4525145c7f6b7591135c5f6e9929771aab913f5f8c9579b1dcabfe43d0aa8ab5398c855196abf7676",
        mac: "1b017e62a33491e81d4bc1f250c446b4",
    },
    Vector {
        suite: Suite::Aes192Ccm,
        wrapped: "fd8df95c81a7b71c25ce1f32a9c838b791defb982a468db3193d014ccc602601df684d9fa39f9a397a4cc8019e7128fa6b8f626e55b56c420d9468f36bd56871be077338f2f0e0bdc3d9a7396085c8459f0ffff1a5a4e0b2",
        wrapped_mac: "a81ddfe289540d813b12c3215de83ea7",
        sealed: "3e1650c20bca74775798d06f04a53c81468113565927395fc54f457f90d841d35b825958169ad08b6b885236e5f3d2c1",
        mac: "a54fec090ba4680940e78edf60e073fc",
    },
    Vector {
        suite: Suite::Aes256Ccm,
        wrapped: "fd8df95c81a7b71c25ce1f32a9c838b791defb982a468db34165591494387e59d7604597ab9792316254d019866930e263876a665dbd644a35ac50cb53ed5049b60f7b30faf8e8b5dbc1bf21789dd05d9707f7f9adace8ba6d3a822001849b81",
        wrapped_mac: "1b1bc0f82d2e11e73e5b078e9d675b98",
        sealed: "4f1ed7124851571ac556f891e7617574c15facc3a79db0bbd80863f71b4130ded86763e2c5271299309a3ac948bb679c",
        mac: "ffb7c47b3913fd176ad5021eb2ac7231",
    },
    Vector {
        suite: Suite::Aes128Gcm,
        wrapped: "05eb58d6e891f68144ab694c1c1ee4270202a3bdd3281682e916b36fd2fb388ad4b5c98c3ae0bac8e8f5e0be9986a602fe972d83b0fc50165e1466a6036c5a63070c7950cb842b97336bca0187457dd8",
        wrapped_mac: "f92719ab7ddf9922e573fd85d4f581c9",
        sealed: "420db9aa6a2273d3d6de1bb1b70524e31594d36604ba07fe8adf9ab0b2008c3255917c9bead4c18e5fe9b6cbef43edbd",
        mac: "ed83a0d62cae777f6c00e7117e8dd347",
    },
    Vector {
        suite: Suite::Aes192Gcm,
        wrapped: "05eb58d6e891f68144ab694c1c1ee4275252f3ed837846d2e11ebb67daf33082ccadd19422f8a2d0e0fde8b6918eae0ac6af15bb88c4682e561c6eae0b64526b1f146148d39c338f3b63c2098f4d75d0a5494a539e5480bf",
        wrapped_mac: "6e7766da299bb126ab46175fd3953bb9",
        sealed: "8a85f15cb4658eded9297ffe1baae32d4feb3cbda4a601f9b6b5934a7cbb03c6b20472d59d666de4c552cd440f7ec0cd",
        mac: "f16e321f89fa5645911fce1434ca7d1c",
    },
    Vector {
        suite: Suite::Aes256Gcm,
        wrapped: "05eb58d6e891f68144ab694c1c1ee4275252f3ed837846d2b946e33f82ab68dac4a5d99c2af0aad8f8e5f0ae8996b612cea71db380cc60266e245696335c6a53171c6940db943b87237bda1197556dc8ad41425b965c88b702efec705c835e5c",
        wrapped_mac: "b9db5f74758885882fa44388b158e87f",
        sealed: "072dda7638fdb54836c41ecb36313fc1e7b28aa2f395b169dfb2f2a3b415c2c4f05cdbf82822d9b70219a63e57822782",
        mac: "b7c02d1dc00a9ac1a9f11e423f829b19",
    },
];
const HMAC: &str = "02438de17194de7b1f63882f1e2610c5";
const PBKDF2: &str = "356594bcb411d314d9e5a095f67729f9e4656d8639f8cd9e26812badd2f2ce5a";
const AT: Bookmark = Bookmark { objset: 5, object: 6, level: 0, blkid: 7 };
const NONE: Pbkdf2 = Pbkdf2 { salt: 0, iterations: 0 };

fn bytes(hex: &str) -> Vec<u8> {
    (0..hex.len() / 2).map(|i| u8::from_str_radix(&hex[2 * i..2 * i + 2], 16).unwrap()).collect()
}

fn plain() -> Vec<u8> {
    (0..48_u8).map(|i| i.wrapping_mul(7)).collect()
}

fn wrapping() -> WrappingKey {
    let key: Vec<u8> = (0..32).collect();
    WrappingKey::new(KeyFormat::Raw, &key, NONE).unwrap()
}

fn wrapped(vector: &Vector) -> WrappedKey {
    let data = bytes(vector.wrapped);
    let len = vector.suite.key_len();
    let mut master = [0; 32];
    master[..len].copy_from_slice(&data[..len]);
    WrappedKey {
        suite: vector.suite as u64,
        guid: GUID,
        version: 1,
        iv: IV,
        mac: bytes(vector.wrapped_mac).try_into().unwrap(),
        master,
        hmac: data[len..].try_into().unwrap(),
    }
}

/// A pointer to a block of this type with salt, IV and MAC as the vectors have them.
fn pointer(ty: ObjectType, mac: &str) -> Blkptr {
    let mut words = [0_u64; 16];
    words[4] = u64::from_le_bytes([0xa0, 0xa1, 0xa2, 0xa3, 0xa4, 0xa5, 0xa6, 0xa7]);
    words[5] = u64::from_le_bytes([1, 2, 3, 4, 5, 6, 7, 8]);
    words[11] = u64::from(u32::from_le_bytes([9, 10, 11, 12])) << 32 | 1;
    let mac = bytes(mac);
    words[14] = u64::from_le_bytes(mac[..8].try_into().unwrap());
    words[15] = u64::from_le_bytes(mac[8..].try_into().unwrap());
    let raw: Vec<u8> = words.iter().flat_map(|w| w.to_le_bytes()).collect();
    let mut bp = Blkptr::from_bytes(raw[..].try_into().unwrap());
    bp.set_dva(0, Dva { vdev: 0, offset: 512, asize: 512, gang: false });
    bp.set_sizes(512, 512);
    bp.set_object_type(ty.0);
    bp.set_authenticated();
    bp.set_little_endian();
    bp
}

#[test]
fn keys_are_unwrapped_and_blocks_decrypted() {
    for vector in VECTORS {
        let key = MasterKey::unwrap(&wrapping(), &wrapped(vector)).unwrap();
        let bp = pointer(ObjectType::PLAIN_FILE_CONTENTS, vector.mac);
        assert_eq!(bp.fill(), 1);
        assert_eq!(key.open_block(&bp, AT, bytes(vector.sealed)).unwrap(), plain(), "{:?}", vector.suite);
        let mut changed = bytes(vector.sealed);
        changed[20] ^= 1;
        assert_eq!(key.open_block(&bp, AT, changed), Err(Error::Authentication { at: AT }));
        // What is not encrypted only has a MAC.
        let clear = pointer(ObjectType::MASTER_NODE, HMAC);
        assert_eq!(key.open_block(&clear, AT, plain()).unwrap(), plain());
        let mut changed = plain();
        changed[47] ^= 0x80;
        assert_eq!(key.open_block(&clear, AT, changed), Err(Error::Authentication { at: AT }));
    }
}

#[test]
fn a_wrong_key_and_a_changed_one_are_told() {
    let vector = &VECTORS[5];
    let other = WrappingKey::new(KeyFormat::Raw, &[9; 32], NONE).unwrap();
    assert_eq!(MasterKey::unwrap(&other, &wrapped(vector)).unwrap_err(), Error::WrongKey);
    for change in [
        |w: &mut WrappedKey| w.guid ^= 1,
        |w: &mut WrappedKey| w.version = 0,
        |w: &mut WrappedKey| w.hmac[63] ^= 1,
        |w: &mut WrappedKey| w.suite = 5,
    ] {
        let mut wrapped = wrapped(vector);
        change(&mut wrapped);
        assert_eq!(MasterKey::unwrap(&wrapping(), &wrapped).unwrap_err(), Error::WrongKey);
    }
    let odd = WrappedKey { suite: 9, ..wrapped(vector) };
    assert!(matches!(MasterKey::unwrap(&wrapping(), &odd), Err(Error::Unsupported { .. })));
}

#[test]
fn keys_in_each_format() {
    let key = |format, material: &[u8], pbkdf2| {
        WrappingKey::new(format, material, pbkdf2).map(|k| k.bytes().to_vec())
    };
    let pbkdf2 = Pbkdf2 { salt: 0x0123_4567_89ab_cdef, iterations: 1000 };
    let phrase = b"correct horse battery";
    assert_eq!(key(KeyFormat::Passphrase, phrase, pbkdf2).unwrap(), bytes(PBKDF2));
    assert_eq!(key(KeyFormat::Passphrase, b"correct horse battery\nmore", pbkdf2).unwrap(), bytes(PBKDF2));
    assert!(matches!(key(KeyFormat::Passphrase, b"short", pbkdf2), Err(Error::Invalid(_))));
    let endless = Pbkdf2 { iterations: u64::MAX, ..pbkdf2 };
    assert!(matches!(key(KeyFormat::Passphrase, phrase, endless), Err(Error::Corrupt { .. })));
    assert!(matches!(key(KeyFormat::Passphrase, phrase, NONE), Err(Error::Corrupt { .. })));
    assert_eq!(key(KeyFormat::Hex, PBKDF2.as_bytes(), NONE).unwrap(), bytes(PBKDF2));
    let line = [PBKDF2.to_uppercase().as_bytes(), b"\n"].concat();
    assert_eq!(key(KeyFormat::Hex, &line, NONE).unwrap(), bytes(PBKDF2));
    assert!(key(KeyFormat::Hex, &PBKDF2.as_bytes()[1..], NONE).is_err());
    assert!(key(KeyFormat::Hex, PBKDF2.replace('3', "x").as_bytes(), NONE).is_err());
    assert_eq!(key(KeyFormat::Raw, &[10; 32], NONE).unwrap(), [10; 32]);
    assert!(key(KeyFormat::Raw, &[10; 33], NONE).is_err() && key(KeyFormat::Raw, b"", NONE).is_err());
}

#[test]
fn a_store_forgets_what_is_unloaded() {
    let keys = Keys::default();
    let key = alloc::sync::Arc::new(MasterKey::unwrap(&wrapping(), &wrapped(&VECTORS[0])).unwrap());
    keys.assign(5, Some(70));
    assert!(keys.of(5).is_none() && !keys.is_loaded(70));
    keys.load(70, key);
    assert!(keys.of(5).is_some() && keys.of(6).is_none());
    keys.assign(5, None);
    assert!(keys.of(5).is_none());
    keys.assign(5, Some(70));
    assert!(keys.unload(70) && !keys.unload(70) && keys.of(5).is_none());
}

/// The root block of `j_enc/ccm128` of the fixture `j-encrypted`, as OpenZFS wrote it: what of it is not zeros.
const OBJSET: &[(usize, &str)] = &[
    (0x0, "0a11060300000001200000000000000001000000000000000028010000000000"),
    (0x40, "020000000000000042180000000000000200000000000000be8b000000000000"),
    (0x70, "ff0001000f070aa50000000000000000"),
    (
        0x90,
        "25000000000000001500000000000000f34b96d34c7f2000c37eb845525026083502cf00e9da6bc0441cd279b779b0ca",
    ),
    (
        0x2c0,
        "02000000000000000700000000000000de7b8dcaa97111639e47e5bf500d5372ffbb4a6fc4b90574f4a349b4f0119dc7",
    ),
    (0x2f0, "664b0d30df386a3dd0b85f87392a56ca7f61365d833e2d51c6d403027ca0762e"),
    (0x400, "2711010300000001010000000000000000000000000000000004000000000000"),
    (
        0x440,
        "01000000000000004c180000000000000100000000000000c88b000000000000f1e69b504a1cb8d6cea38f443c806766",
    ),
    (0x470, "00000000020727a00000000000000000"),
    (
        0x490,
        "2500000000000000010000002724c0440d2cfce8a8e40200862887fbcdfe5e00af5ba1312854f0688dd09bfd53b1710d",
    ),
    (0x600, "2711010300000001010000000000000000000000000000000004000000000000"),
    (
        0x640,
        "01000000000000004d180000000000000100000000000000c98b000000000000f1e69b504a1cb8d6a464e99a2d627edf",
    ),
    (0x670, "00000000020727a00000000000000000"),
    (
        0x690,
        "250000000000000001000000da5a29fced69d8b865e90200ff50afc41ac961000ba9ccf6f6e7e544440d9a69df10fa9e",
    ),
    (0x800, "2711010300000001010000000000000000000000000000000004000000000000"),
    (
        0x840,
        "01000000000000004e180000000000000100000000000000ca8b000000000000f1e69b504a1cb8d604e45b74dd62712a",
    ),
    (0x870, "00000000020727a00000000000000000"),
    (
        0x890,
        "250000000000000001000000862012ccdf379f96ccb3020095c3021c00a55b0025d8d651b47098573b6cb5f048c9acc5",
    ),
];

/// The key of `j_enc/ccm128`, and the user's.
fn key_of_a_fixture() -> MasterKey {
    let mut master = [0; 32];
    master[..16].copy_from_slice(&bytes("f4154cd6d85b441fcbcd1e589e1d01a6"));
    let wrapped = WrappedKey {
        suite: Suite::Aes128Ccm as u64,
        guid: 0xc7f1bd6d1143b0b5,
        version: 1,
        iv: bytes("68dc876841aff50658d753e0").try_into().unwrap(),
        mac: bytes("efa53c67575d245984e032babd9633f5").try_into().unwrap(),
        master,
        hmac: bytes(concat!(
            "6acd270a636d22bddf78be4599589fee141b4df55f2a164c1649ff33a1df111d",
            "826746752c974754cc05e2b7bf5725688003c5a1b5e8d8e1e512b51eb138f893",
        ))
        .try_into()
        .unwrap(),
    };
    let users: Vec<u8> = (0..32).collect();
    MasterKey::unwrap(&WrappingKey::new(KeyFormat::Raw, &users, NONE).unwrap(), &wrapped).unwrap()
}

#[test]
fn the_macs_of_an_objset_are_those_of_openzfs() {
    const FLAGS: usize = 712;
    const LOCAL_MAC: usize = 752;
    let key = key_of_a_fixture();
    let mut block = vec![0; 4096];
    for (at, part) in OBJSET {
        let part = bytes(part);
        block[*at..at + part.len()].copy_from_slice(&part);
    }
    let bp = pointer(ObjectType::OBJSET, HMAC);
    let open = |change: &dyn Fn(&mut [u8])| {
        let mut block = block.clone();
        change(&mut block);
        key.open_block(&bp, AT, block).map(|_| ())
    };
    assert_eq!(open(&|_| ()), Ok(()));
    let forged = Err(Error::Authentication { at: AT });
    // Of the meta-dnode: its longest block number, properties and MAC of its pointer; the kind; the two MACs; a flag;
    // the account by user: its length and its MAC.
    for at in [16, 0x70, 0xbf, 704, 720, LOCAL_MAC, FLAGS, 1024 + 16, 1024 + 0xb0] {
        assert_eq!(open(&|block| block[at] ^= 2), forged, "{at}");
    }
    // Space in use, a place, a birth, the log's header: another pool has them otherwise.
    for at in [24, 0x48, 0x90, 0x200, 1024 + 0x60] {
        assert_eq!(open(&|block| block[at] ^= 2), Ok(()), "{at}");
    }
    // Accounts that nobody vouches for, and a MAC of none.
    let unvouched = |block: &mut [u8]| {
        block[LOCAL_MAC..LOCAL_MAC + 32].fill(0);
        block[1024 + 16] ^= 2;
    };
    assert_eq!(open(&unvouched), Ok(()));
    assert_eq!(open(&|block| block[FLAGS] &= !1), forged);
}
