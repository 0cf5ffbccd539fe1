//! `tarn`: see the library for everything.

fn main() -> std::process::ExitCode {
    mkfs_tool::main()
}
