//! The files that the benchmark works on. None has a name: whatever ends the command, nothing stays behind.

use super::cell::{Cell, Large, Work};
use crate::words::plain;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

/// Of the file on the disk. A power of two, and larger than what a short measurement reads cold.
pub const SIZE: u64 = 256 << 20;
const TMPFS: &str = "/dev/shm";
const TMPFS_SIZE: u64 = 64 << 20;

pub struct Files {
    main: File,
    /// Empty: what extends a file extends this one.
    scratch: File,
    tmpfs: Option<File>,
}

impl Files {
    /// Makes the files that the cells need; `wrote` is called now and then while they are written.
    pub fn prepare(directory: &Path, cells: &[&Cell], wrote: &mut dyn FnMut()) -> Result<Files, String> {
        let place = directory.display();
        let create = || {
            tempfile::tempfile_in(directory)
                .map_err(|error| format!("no file can be made in {place}: {}", plain(&error)))
        };
        let main = create()?;
        let scratch = create()?;
        if cells.iter().any(|cell| cell.needs_direct()) {
            check_direct(&main, directory)?;
        }
        fill(&main, SIZE, wrote).map_err(|error| {
            format!("a file of {} MiB in {place} cannot be written: {}", SIZE >> 20, plain(&error))
        })?;
        let tmpfs = if cells.iter().any(|cell| cell.needs_tmpfs()) { tmpfs(wrote)? } else { None };
        Ok(Files { main, scratch, tmpfs })
    }

    /// The file for a cell: its path for workers, and its size. None where this machine has none for it.
    pub fn of(&self, cell: &Cell) -> Option<(String, u64)> {
        let (file, size) = match cell.work {
            _ if cell.needs_tmpfs() => (self.tmpfs.as_ref()?, TMPFS_SIZE),
            Work::LongestSubmission(Large::ExtendingDirectWrite) => (&self.scratch, SIZE),
            _ => (&self.main, SIZE),
        };
        Some((path(file), size))
    }
}

/// How another process of the same user opens a file of ours that has no name.
fn path(file: &File) -> String {
    format!("/proc/{}/fd/{}", std::process::id(), file.as_raw_fd())
}

fn opens_direct(file: &File) -> io::Result<()> {
    OpenOptions::new().read(true).write(true).custom_flags(libc::O_DIRECT).open(path(file)).map(drop)
}

fn check_direct(file: &File, directory: &Path) -> Result<(), String> {
    opens_direct(file).map_err(|error| {
        format!(
            "the file system of {} refuses O_DIRECT ({}); choose another directory with --path, or a cell that does \
             without, such as --cell cached-read",
            directory.display(),
            plain(&error)
        )
    })
}

fn tmpfs(wrote: &mut dyn FnMut()) -> Result<Option<File>, String> {
    let Ok(file) = tempfile::tempfile_in(TMPFS) else {
        return Ok(None);
    };
    if opens_direct(&file).is_err() {
        return Ok(None);
    }
    fill(&file, TMPFS_SIZE, wrote)
        .map_err(|error| format!("a file in {TMPFS} cannot be written: {}", plain(&error)))?;
    Ok(Some(file))
}

/// Allocates and writes a file, so that later writes are overwrites.
fn fill(mut file: &File, size: u64, wrote: &mut dyn FnMut()) -> io::Result<()> {
    let mut chunk = vec![0u8; 1 << 20];
    let mut state = 0x2545_F491_4F6C_DD1D_u64;
    for word in chunk.chunks_exact_mut(8) {
        // Numbers that no disk can squeeze (xorshift).
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        word.copy_from_slice(&state.to_ne_bytes());
    }
    for _ in 0..size / chunk.len() as u64 {
        file.write_all(&chunk)?;
        wrote();
    }
    file.sync_all()
}
