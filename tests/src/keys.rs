//! Keys of the encrypted fixtures: see their `script.sh`.

use zfs::spa::Pool;

/// Encryption roots of `j-encrypted`, with what a user types or has in a file.
pub const J_ENCRYPTED: [(&str, &[u8]); 4] = [
    ("j_enc/gcm", b"correct horse battery"),
    ("j_enc/ccm128", b"000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f"),
    ("j_enc/ccm256", b"0123456789abcdefghijklmnopqrstuv"),
    ("j_enc/gcm192", b"0123456789abcdefghijklmnopqrstuv"),
];

/// Loads all keys of `j-encrypted`.
///
/// # Panics
/// If one is not taken.
pub fn load_all(pool: &Pool) {
    for (root, key) in J_ENCRYPTED {
        pool.dsl().load_key(root, key).unwrap_or_else(|e| panic!("{root}: {e}"));
    }
}
