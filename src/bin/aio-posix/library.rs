//! Where the library is, seen from the command.

use crate::words::plain;
use std::ffi::{CStr, CString, OsStr};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// The names it goes by: as built, and as installed without the development files.
const NAMES: [&str; 2] = ["libaio_posix.so", SONAME];

/// What the dynamic linker finds it by.
const SONAME: &str = "libaio_posix.so.0";

/// Finds the shared library: the one that the user named, else beside the executable, else in `../lib`, else where the
/// dynamic linker finds it.
pub fn find(named: Option<&Path>) -> Result<PathBuf, String> {
    if let Some(path) = named {
        return path
            .canonicalize()
            .map_err(|error| format!("the library {} cannot be used: {}", path.display(), plain(&error)));
    }
    let executable =
        std::env::current_exe().map_err(|error| format!("this command's own path is unknown: {error}"))?;
    let directory = executable.parent().unwrap_or(Path::new("/"));
    let candidates = [directory.to_path_buf(), directory.join("../lib")];
    candidates
        .iter()
        .flat_map(|directory| NAMES.iter().map(move |name| directory.join(name)))
        .find_map(|path| path.canonicalize().ok())
        .or_else(|| load(Path::new(SONAME)).ok())
        .ok_or_else(|| {
            format!(
                "libaio_posix.so is neither in {0} nor in {0}/../lib nor where the dynamic linker looks; build it (cargo \
                 build --release) or name it with --library",
                directory.display()
            )
        })
}

/// Loads a library into this process, beside libc's functions and not in place of them, to see whether it can be, and
/// whether it is what it should be. Returns the file that was loaded.
pub fn load(library: &Path) -> Result<PathBuf, String> {
    let name = CString::new(library.as_os_str().as_bytes())
        .map_err(|_| "the library's name holds a zero byte".to_owned())?;
    // SAFETY: a C string. Loading runs no code of the library's: it has no constructor; of another file,
    // the constructors run, which the user asked for by naming it.
    let handle = unsafe { libc::dlopen(name.as_ptr(), libc::RTLD_NOW | libc::RTLD_LOCAL) };
    if handle.is_null() {
        // SAFETY: after a failed dlopen, dlerror gives a C string of this thread's.
        let reason = unsafe { CStr::from_ptr(libc::dlerror()) };
        return Err(format!("the library cannot be loaded: {}", reason.to_string_lossy()));
    }
    // SAFETY: a live handle and a C string.
    let function = unsafe { libc::dlsym(handle, c"aio_read".as_ptr()) };
    // dlsym also looks into the libraries that this one needs; libc has an aio_read too.
    let found = object_of(function).and_then(|path| path.canonicalize().ok());
    match found {
        Some(path) if path.file_name().is_some_and(is_our_name) => Ok(path),
        _ => Err(format!("{} is not libaio_posix.so", library.display())),
    }
}

/// libaio_posix.so, .so.0, .so.0.1.0
fn is_our_name(name: &OsStr) -> bool {
    name.as_bytes().starts_with(b"libaio_posix.so")
}

/// The file that a function was loaded from.
fn object_of(function: *mut libc::c_void) -> Option<PathBuf> {
    if function.is_null() {
        return None;
    }
    // SAFETY: dladdr fills in the structure when it returns other than 0; the name is a C string that lives as
    // long as the object is loaded, and nothing unloads it.
    unsafe {
        let mut information: libc::Dl_info = std::mem::zeroed();
        if libc::dladdr(function, &mut information) == 0 || information.dli_fname.is_null() {
            return None;
        }
        let name = CStr::from_ptr(information.dli_fname);
        Some(PathBuf::from(OsStr::from_bytes(name.to_bytes())))
    }
}
