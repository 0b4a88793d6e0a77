//! On what machine a result was made.

use std::ffi::CStr;
use std::path::Path;

/// One line: kernel, processors, file system.
pub fn describe(directory: &Path) -> String {
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    let plural = if processors == 1 { "" } else { "s" };
    let model = processor_model().map(|model| format!(" ({model})")).unwrap_or_default();
    format!("Linux {}, {processors} processor{plural}{model}, {}", kernel(), file_system(directory))
}

pub fn kernel() -> String {
    // SAFETY: uname fills in a structure of C strings.
    unsafe {
        let mut name: libc::utsname = std::mem::zeroed();
        libc::uname(&mut name);
        CStr::from_ptr(name.release.as_ptr()).to_string_lossy().into_owned()
    }
}

fn processor_model() -> Option<String> {
    let text = std::fs::read_to_string("/proc/cpuinfo").ok()?;
    let line = text.lines().find(|line| line.starts_with("model name"))?;
    line.split_once(':').map(|(_, model)| model.trim().to_owned())
}

/// The type of the file system that a directory is on: of the mounts on its way, the deepest.
pub fn file_system(directory: &Path) -> String {
    let unknown = || "unknown file system".to_owned();
    let Ok(directory) = directory.canonicalize() else {
        return unknown();
    };
    let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    mounts
        .lines()
        .filter_map(|line| {
            let mut fields = line.split(' ').skip(1);
            Some((fields.next()?.replace("\\040", " "), fields.next()?.to_owned()))
        })
        .filter(|(point, _)| directory.starts_with(point))
        // Of several on one place, the last mounted one is seen: max_by_key gives the last.
        .max_by_key(|(point, _)| point.len())
        .map_or_else(unknown, |(_, kind)| kind)
}
