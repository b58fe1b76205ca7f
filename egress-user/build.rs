//! Puts the kernel programs into the binary.
//!
//! They are built by `cargo xtask build-ebpf`, since they need another target and another linker.
//! Where they have not been built the crate still compiles, for clippy and editors, and the binary
//! says at run time what is missing.

use std::error::Error;
use std::path::{Path, PathBuf};
use std::{env, fs};

/// Names an object to embed in place of the one below the target directory.
const OBJECT_VARIABLE: &str = "EGRESS_EBPF_OBJECT";
/// Where `cargo xtask build-ebpf` leaves the object, seen from the workspace.
const OBJECT_PATH: &str = "target/ebpf/egress-ebpf.o";

fn main() -> Result<(), Box<dyn Error>> {
    let object = object_path()?;
    println!("cargo::rerun-if-env-changed={OBJECT_VARIABLE}");
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed={}", object.display());

    let bytes = if object.exists() {
        fs::read(&object)?
    } else {
        println!(
            "cargo::warning={} is missing: this build has no kernel programs; run `cargo xtask build-ebpf`",
            object.display()
        );
        Vec::new()
    };
    let embedded = Path::new(&env::var("OUT_DIR")?).join("egress-ebpf.o");
    fs::write(embedded, bytes)?;
    Ok(())
}

fn object_path() -> Result<PathBuf, Box<dyn Error>> {
    if let Some(path) = env::var_os(OBJECT_VARIABLE) {
        return Ok(path.into());
    }
    let package = PathBuf::from(env::var("CARGO_MANIFEST_DIR")?);
    let workspace = package
        .parent()
        .ok_or("the package has no workspace around it")?;
    Ok(workspace.join(OBJECT_PATH))
}
