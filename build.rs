//! Generates the C header from the exports, and tells the linker what the product is called.

use std::path::PathBuf;

fn main() {
    // SONAME: what programs linked with -laio_posix ask for. Nodelete: the library's threads outlive a dlclose.
    println!("cargo::rustc-cdylib-link-arg=-Wl,-soname,libaio_posix.so.0");
    println!("cargo::rustc-cdylib-link-arg=-Wl,-z,nodelete");
    // A sanitizer's calls are answered by its runtime, which the program brings.
    if std::env::var_os("CARGO_CFG_SANITIZE").is_none() {
        println!("cargo::rustc-cdylib-link-arg=-Wl,-z,defs");
    }
    // Code lies in the file where it lies in memory: perf takes a probe's address for its place in the file, and lld
    // would have the two a page apart. GNU ld has them equal by itself, and ignores this.
    println!("cargo::rustc-cdylib-link-arg=-Wl,-z,separate-loadable-segments");
    println!("cargo::rerun-if-changed=src/capi.rs");
    println!("cargo::rerun-if-changed=cbindgen.toml");
    let root = PathBuf::from(std::env::var_os("CARGO_MANIFEST_DIR").expect("cargo sets CARGO_MANIFEST_DIR"));
    let out = PathBuf::from(std::env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    let config = cbindgen::Config::from_file(root.join("cbindgen.toml")).expect("cbindgen.toml is valid");
    let header = cbindgen::Builder::new()
        .with_config(config)
        .with_src(root.join("src/capi.rs"))
        .generate()
        .expect("cbindgen reads src/capi.rs");
    // Into OUT_DIR only: a build never changes the source tree. A test compares it with the committed one.
    header.write_to_file(out.join("aio_posix.h"));
}
