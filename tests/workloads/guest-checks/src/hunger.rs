//! Takes memory until there is none: the kernel ends the program, by name, and stays well itself. Never returns.

/// The check.
pub fn run() -> Result<String, String> {
    let mut hoard: Vec<Vec<u8>> = Vec::new();
    loop {
        let mut piece = Vec::new();
        if piece.try_reserve_exact(1 << 20).is_err() {
            return Err(format!("the allocator gave up after {} MiB", hoard.len()));
        }
        piece.resize(1 << 20, hoard.len() as u8);
        hoard.push(piece);
    }
}
