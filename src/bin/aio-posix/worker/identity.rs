//! Whose AIO functions this process calls: looked up, not assumed.

use crate::bench::cell::Side;
use crate::bench::job::Job;
use std::ffi::{c_void, CStr};
use std::path::Path;

/// Checks that the POSIX calls of this process go where the job's side says, and nowhere else; gives that place.
pub fn check(job: &Job) -> Result<Option<String>, String> {
    let library = Path::new(&job.library);
    let loaded = is_mapped(library)?;
    if job.side == Side::Library && !loaded {
        return Err(format!("the loader did not preload {}", job.library));
    }
    if job.side != Side::Library && loaded {
        return Err(format!("{} is in the process that must do without it", job.library));
    }
    if job.side.is_raw() {
        return Ok(None);
    }
    let functions: [(&str, *const c_void); 7] = [
        ("aio_read", libc::aio_read as *const c_void),
        ("aio_write", libc::aio_write as *const c_void),
        ("aio_fsync", libc::aio_fsync as *const c_void),
        ("aio_error", libc::aio_error as *const c_void),
        ("aio_return", libc::aio_return as *const c_void),
        ("aio_suspend", libc::aio_suspend as *const c_void),
        ("lio_listio", libc::lio_listio as *const c_void),
    ];
    let mut object = None;
    for (name, address) in functions {
        let place = object_of(address).ok_or_else(|| format!("the loader does not know where {name} is"))?;
        let ours = Path::new(&place).canonicalize().is_ok_and(|path| path == library);
        match job.side {
            Side::Library if !ours => {
                return Err(format!("the preloaded library does not provide {name}: {place} does"))
            }
            Side::Libc if !is_libc(&place) => {
                return Err(format!("{name} is not libc's: {place} provides it"))
            }
            _ => object = Some(place),
        }
    }
    Ok(object)
}

/// glibc's own AIO is in libc.so.6 or, before 2.34, in librt; musl's in its one file.
fn is_libc(object: &str) -> bool {
    let name = Path::new(object).file_name().unwrap_or_default().to_string_lossy();
    ["libc.", "librt", "ld-musl", "libc-"].iter().any(|start| name.starts_with(start))
}

fn object_of(address: *const c_void) -> Option<String> {
    // SAFETY: dladdr fills in the Dl_info when it answers nonzero; the name then is a C string that lives as long as the
    // object is loaded.
    unsafe {
        let mut info: libc::Dl_info = std::mem::zeroed();
        if libc::dladdr(address, &mut info) == 0 || info.dli_fname.is_null() {
            return None;
        }
        Some(CStr::from_ptr(info.dli_fname).to_string_lossy().into_owned())
    }
}

/// Is the library, under whatever path, part of this process?
fn is_mapped(library: &Path) -> Result<bool, String> {
    let maps =
        std::fs::read_to_string("/proc/self/maps").map_err(|error| format!("/proc/self/maps: {error}"))?;
    let own_name = |path: &str| path.rsplit('/').next().is_some_and(|name| name.starts_with("libaio_posix"));
    Ok(maps
        .lines()
        .filter_map(|line| line.find('/').map(|start| &line[start..]))
        .any(|path| own_name(path) || Path::new(path) == library))
}
