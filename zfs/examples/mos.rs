//! Reads the label and the root block of the MOS of each image given: `cargo run --example mos -- IMG…`.

use std::process::ExitCode;
use std::sync::Arc;
use zfs::ondisk::bookmark::Bookmark;
use zfs::ondisk::pretty::ShowUberblock;
use zfs::vdev::{VdevTree, label};
use zfs::zio::Zio;

fn show(path: &str) -> Result<(), Box<dyn std::error::Error>> {
    let disk = platform::host::FileDisk::open(path.as_ref(), false)?;
    let label = label::read(&disk)?;
    let guid = label.guid()?;
    let tree = VdevTree::open(label.config.nvlist("vdev_tree")?, &[(guid, Arc::new(disk))])?;
    let zio = Zio::new(tree, [0; 32], 1 << 20);
    let uberblock = label.uberblock.ok_or("no uberblock")?;
    let at = Bookmark::objset_root(0);
    let root = zio.read(&uberblock.rootbp, at)?;
    let verified = zio.verify(&uberblock.rootbp, at)?;
    println!("{path}: {} bytes, {verified:?}\n{}{}", root.len(), label.config, ShowUberblock(&uberblock));
    Ok(())
}

fn main() -> ExitCode {
    let mut code = ExitCode::SUCCESS;
    for path in std::env::args().skip(1) {
        if let Err(e) = show(&path) {
            eprintln!("{path}: {e}");
            code = ExitCode::FAILURE;
        }
    }
    code
}
