//! Link arguments of the freestanding image, which override what rustc passes for an ordinary Linux program; and the vDSO,
//! which is compiled and linked by itself.

use std::path::Path;
use std::process::Command;

/// Makes `vdso.so` from the sources in `vdso/`.
fn vdso(dir: &str) {
    let out = std::env::var("OUT_DIR").expect("cargo sets it");
    let rustc = std::env::var("RUSTC").expect("cargo sets it");
    println!("cargo:rerun-if-changed=vdso");
    let (object, image) = (format!("{out}/vdso.o"), format!("{out}/vdso.so"));
    let source = Path::new(dir).join("vdso");
    let mut compile = Command::new(rustc);
    compile.args(["--edition", "2024", "--crate-name", "vdso", "--emit=obj", "-O", "-Cpanic=abort"]);
    compile.args(["--target", "x86_64-unknown-linux-gnu", "-Crelocation-model=pic", "-Ccodegen-units=1"]);
    compile.arg("-o").arg(&object).arg(source.join("vdso.rs"));
    let mut link = Command::new("cc");
    link.args([
        "-nostdlib",
        "-nostartfiles",
        "-shared",
        "-Wl,-Bsymbolic",
        "-Wl,--hash-style=both",
        "-Wl,--build-id=none",
    ]);
    link.args([
        "-Wl,-soname,linux-vdso.so.1",
        "-Wl,-z,noexecstack",
        "-Wl,-z,max-page-size=4096",
        "-Wl,--strip-all",
    ]);
    link.arg(format!("-Wl,-T,{}", source.join("vdso.lds").display())).arg("-o").arg(&image).arg(&object);
    for command in [&mut compile, &mut link] {
        let status = command.status().unwrap_or_else(|error| panic!("{command:?}: {error}"));
        assert!(status.success(), "{command:?}: {status}");
    }
}

fn main() {
    let dir = std::env::var("CARGO_MANIFEST_DIR").expect("cargo sets it");
    vdso(&dir);
    println!("cargo:rerun-if-changed=linker.ld");
    println!("cargo:rerun-if-changed=build.rs");
    let arguments = [
        "-nostartfiles",
        "-nostdlib",
        "-static",
        // Later than the -pie that rustc passes, so it wins: the image is linked at fixed addresses.
        "-no-pie",
        "-Wl,--build-id=none",
        "-Wl,-z,norelro",
        "-Wl,-z,max-page-size=0x1000",
    ];
    for argument in arguments {
        println!("cargo:rustc-link-arg-bins={argument}");
    }
    println!("cargo:rustc-link-arg-bins=-Wl,-T,{dir}/linker.ld");
}
