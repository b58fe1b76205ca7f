//! Every version of a tool that the build fetches by itself, written once.

/// The `bpf-linker` that is built where none is installed.
pub(crate) const BPF_LINKER: &str = "0.13.0";

/// The majors of LLVM against which that `bpf-linker` can be built.
pub(crate) const BPF_LINKER_LLVM: [u32; 3] = [21, 22, 23];

/// What `cargo xtask ci` checks the dependencies with.
pub(crate) const CARGO_DENY: &str = "0.20.2";

/// Debian's compiler and its library source, for machines on which rustup has no library source.
pub(crate) const DEBIAN_RUST: [&str; 3] = ["rustc-web", "libstd-rust-web-dev", "rust-web-src"];

/// The clippy that belongs to Debian's compiler.
pub(crate) const DEBIAN_CLIPPY: &str = "rust-web-clippy";

/// What stands before and after the release in the names of Debian's kernels. The kernel tests run
/// on the newest of a series that apt knows, whichever that is.
pub(crate) const DEBIAN_KERNEL: (&str, &str) = ("linux-image-", "-cloud-amd64");

/// What boots them.
pub(crate) const DEBIAN_QEMU: [&str; 2] = ["busybox-static", "qemu-system-x86"];

/// Debian's packages with the LLVM libraries of one major.
pub(crate) fn debian_llvm(major: u32) -> [String; 2] {
    [format!("llvm-{major}-dev"), format!("libllvm{major}")]
}
