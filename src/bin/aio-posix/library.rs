//! Where the library is, seen from the command.

use crate::words::plain;
use std::path::{Path, PathBuf};

/// The names it goes by: as built, and as installed without the development files.
const NAMES: [&str; 2] = ["libaio_posix.so", "libaio_posix.so.0"];

/// Finds the shared library: the one that the user named, else beside the executable, else in `../lib`.
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
        .ok_or_else(|| {
            format!(
                "libaio_posix.so is neither in {0} nor in {0}/../lib; build it (cargo build --release) or name it with --library",
                directory.display()
            )
        })
}
