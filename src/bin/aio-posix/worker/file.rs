//! The file that a worker uses, opened as the cell wants it, and memory for its requests.

use crate::bench::cell::Way;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::fs::{FileExt, OpenOptionsExt};

pub struct Target {
    file: File,
    size: u64,
    written: bool,
}

impl Target {
    /// Opens the file and brings the page cache into the state that `way` speaks of.
    pub fn open(path: &str, size: u64, way: Way, written: bool) -> Result<Target, String> {
        let direct = matches!(way, Way::Direct | Way::Tmpfs);
        let flags = if direct { libc::O_DIRECT } else { 0 };
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(flags)
            .open(path)
            .map_err(|error| format!("the worker cannot open the test file: {error}"))?;
        let target = Target { file, size, written };
        match way {
            Way::Tmpfs => {}
            Way::Direct => target.drop_cached()?,
            Way::Cold => target.evict()?,
            Way::Cached => {
                target.fill_cache().map_err(|error| format!("the test file cannot be read: {error}"))?
            }
        }
        Ok(target)
    }

    pub fn fd(&self) -> RawFd {
        self.file.as_raw_fd()
    }

    fn fill_cache(&self) -> io::Result<()> {
        let mut chunk = vec![0; 1 << 20];
        (0..self.size).step_by(chunk.len()).try_for_each(|offset| self.file.read_exact_at(&mut chunk, offset))
    }

    fn drop_cached(&self) -> Result<(), String> {
        self.file.sync_data().map_err(|error| format!("the test file cannot be synced: {error}"))?;
        // SAFETY: the descriptor is open; this touches no memory of ours.
        unsafe { libc::posix_fadvise(self.fd(), 0, 0, libc::POSIX_FADV_DONTNEED) };
        Ok(())
    }

    /// Takes the file out of the page cache, and looks that it is out.
    pub fn evict(&self) -> Result<(), String> {
        self.drop_cached()?;
        let pages = (self.size / 4096) as usize;
        let resident = self.resident(pages).map_err(|error| format!("mincore of the test file: {error}"))?;
        if resident > pages / 100 {
            return Err(format!(
                "{resident} of {pages} pages of the test file stay in the page cache: no cold reads here"
            ));
        }
        Ok(())
    }

    fn resident(&self, pages: usize) -> io::Result<usize> {
        let mut present = vec![0u8; pages];
        // SAFETY: a fresh mapping of the file that only mincore looks at, which fills in a byte for each page.
        unsafe {
            let length = self.size as usize;
            let map =
                libc::mmap(std::ptr::null_mut(), length, libc::PROT_READ, libc::MAP_SHARED, self.fd(), 0);
            if map == libc::MAP_FAILED {
                return Err(io::Error::last_os_error());
            }
            let answer = libc::mincore(map, length, present.as_mut_ptr());
            let error = io::Error::last_os_error();
            libc::munmap(map, length);
            if answer != 0 {
                return Err(error);
            }
        }
        Ok(present.iter().filter(|&&page| page & 1 == 1).count())
    }
}

impl Drop for Target {
    /// What one measurement dirtied is no burden to the next one.
    fn drop(&mut self) {
        if self.written {
            let _ = self.file.sync_data();
        }
    }
}

/// Page-aligned memory for a number of requests. Whoever drops it makes sure that none of them is in flight.
pub struct Buffers {
    base: *mut u8,
    block: usize,
    length: usize,
}

impl Buffers {
    pub fn new(count: usize, block: usize) -> Result<Buffers, String> {
        // SAFETY: a new private mapping, of which nothing is assumed but that it can be written.
        let base = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                count * block,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_POPULATE,
                -1,
                0,
            )
        };
        if base == libc::MAP_FAILED {
            return Err(format!("no memory for {count} buffers of {block} bytes"));
        }
        // SAFETY: the mapping is count * block bytes long. Not zeros: some disks store those for nothing.
        unsafe { std::ptr::write_bytes(base.cast::<u8>(), 0xA5, count * block) };
        Ok(Buffers { base: base.cast(), block, length: count * block })
    }

    pub fn at(&self, slot: usize) -> *mut u8 {
        // SAFETY: slots are below the count that the mapping was made for.
        unsafe { self.base.add(slot * self.block) }
    }
}

impl Drop for Buffers {
    fn drop(&mut self) {
        // SAFETY: the mapping is ours, and no request uses it any more.
        unsafe { libc::munmap(self.base.cast(), self.length) };
    }
}
