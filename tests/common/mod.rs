//! What the test binaries share: the library as it is shipped, and the C programs that call it.

// Each test binary compiles this module for itself and uses its own part of it.
#![allow(dead_code)]

pub mod process;
pub mod program;

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// The file name that the dynamic linker looks for in programs linked with `-laio_posix`.
pub const SONAME: &str = "libaio_posix.so.0";

/// Names a directory with a finished `libaio_posix.so` to test in place of a freshly built one: an installed library,
/// or one that was built with a sanitizer.
const FINISHED_PRODUCT: &str = "AIO_POSIX_PRODUCT";

/// The root of the source tree.
pub fn source_root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// A directory of this test binary's own, which lasts until its next run.
pub fn work_directory() -> &'static Path {
    static DIRECTORY: OnceLock<PathBuf> = OnceLock::new();
    DIRECTORY.get_or_init(|| {
        let binary = std::env::current_exe().expect("the path of this test binary");
        let name = binary.file_stem().expect("a test binary has a name");
        let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
        fs::create_dir_all(&directory).expect("make the work directory");
        directory
    })
}

/// A new empty directory on the file system of the target directory, removed when it is dropped.
pub fn scratch_directory() -> tempfile::TempDir {
    tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("make a scratch directory")
}

/// The release build of the library, with the names that linking and loading want: built once per test binary, and copied,
/// so that a build beside a running test does not change what it tests.
///
/// Returns the directory that holds `libaio_posix.so` and `libaio_posix.so.0`.
pub fn product() -> &'static Path {
    static DIRECTORY: OnceLock<PathBuf> = OnceLock::new();
    DIRECTORY.get_or_init(|| {
        let built = match std::env::var_os(FINISHED_PRODUCT) {
            Some(directory) => PathBuf::from(directory),
            None => build_product(),
        };
        keep(&built, "lib")
    })
}

/// Copies the library from `built` to a directory of that name, and gives it the SONAME.
fn keep(built: &Path, name: &str) -> PathBuf {
    let directory = work_directory().join(name);
    fs::create_dir_all(&directory).expect("make the directory of the library");
    let library = directory.join("libaio_posix.so");
    // Another run of this test binary may have the old file mapped: give the name to a new one.
    let _ = fs::remove_file(&library);
    fs::copy(built.join("libaio_posix.so"), &library)
        .unwrap_or_else(|error| panic!("no libaio_posix.so in {}: {error}", built.display()));
    let link = directory.join(SONAME);
    let _ = fs::remove_file(&link);
    std::os::unix::fs::symlink("libaio_posix.so", &link).expect("link the SONAME");
    directory
}

/// The product itself, as LD_PRELOAD wants it.
pub fn product_file() -> PathBuf {
    product().join("libaio_posix.so")
}

/// `cargo test` builds the library in the test profile; what people run is the release build, so that is tested.
fn build_product() -> PathBuf {
    build(&[], &[]).unwrap_or_else(|said| panic!("the library does not build:\n{said}")).join("release")
}

/// The release build of the library by other compiler flags, in a directory of that name; or what the compiler says.
pub fn product_for(name: &str, rustflags: &str) -> Result<PathBuf, String> {
    // With a target named the flags are not those of build scripts, which need not be built anew. The variable lets the
    // stable compiler take flags that are not stable: the checkers'.
    let target = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
    let environment = [("RUSTFLAGS", rustflags), ("RUSTC_BOOTSTRAP", "1")];
    let built = build(&["--target", &target], &environment)?;
    Ok(keep(&built.join(&target).join("release"), name))
}

fn build(more: &[&str], environment: &[(&str, &str)]) -> Result<PathBuf, String> {
    let target = Path::new(env!("CARGO_TARGET_TMPDIR"))
        .parent()
        .expect("cargo puts its tmp directory in the target directory")
        .join("product");
    let output = Command::new(env!("CARGO"))
        .args(["build", "--release", "--lib", "--target-dir"])
        .arg(&target)
        .args(more)
        .envs(environment.iter().copied())
        .current_dir(source_root())
        .output()
        .expect("run cargo");
    match output.status.success() {
        true => Ok(target),
        false => Err(String::from_utf8_lossy(&output.stderr).into_owned()),
    }
}

/// The system's C compiler as the cc crate finds it (`CC` and `CFLAGS` count).
pub fn c_compiler(cpp: bool) -> Command {
    let target = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
    cc::Build::new()
        .cpp(cpp)
        .cargo_metadata(false)
        .host(&target)
        .target(&target)
        .opt_level(1)
        .debug(true)
        .pic(true)
        .warnings(true)
        .extra_warnings(true)
        .get_compiler()
        .to_command()
}

/// A line for whoever watches the tests run.
pub fn report(line: &str) {
    // Nobody may be reading; that is no failure of the library.
    let _ = writeln!(std::io::stderr(), "{line}");
}

/// Gives this thread, and what it starts, a mount namespace that passes nothing on.
pub fn own_mounts() -> Result<(), String> {
    let last_error = || std::io::Error::last_os_error().to_string();
    // SAFETY: no memory is touched; only this thread's view of the file system changes.
    if unsafe { libc::unshare(libc::CLONE_NEWNS) } == -1 {
        return Err(format!("no mount namespace: {}", last_error()));
    }
    let flags = libc::MS_REC | libc::MS_PRIVATE;
    // SAFETY: the path is a C string; the kernel reads no other argument for a change of propagation.
    let result =
        unsafe { libc::mount(std::ptr::null(), c"/".as_ptr(), std::ptr::null(), flags, std::ptr::null()) };
    match result {
        0 => Ok(()),
        _ => Err(format!("no private mounts: {}", last_error())),
    }
}

/// Compiler arguments by which a program is linked with the library and finds it again.
pub fn link_arguments() -> [std::ffi::OsString; 4] {
    let directory = product();
    let run_path = format!("-Wl,-rpath,{}", directory.display());
    ["-L".into(), directory.into(), "-laio_posix".into(), run_path.into()]
}
