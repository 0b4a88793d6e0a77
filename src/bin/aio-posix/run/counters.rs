//! The page of counters, seen from the command: made here, inherited by the program, read at its end.

use super::page::{Page, MAGIC, VERSION};
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicU64, Ordering};

/// The number that the program's copy of the descriptor has, or the next one: beyond those that scripts use themselves.
const PLACE: RawFd = 200;

pub struct Counters {
    page: &'static Page,
    /// Without close-on-exec.
    shared: OwnedFd,
}

impl Counters {
    pub fn new() -> io::Result<Counters> {
        let memory = memfd()?;
        let bytes = size_of::<Page>();
        // SAFETY: plain numbers on a descriptor of ours; the new mapping has a Page's size and alignment, and the seals
        // say that the file behind it keeps that size. Zeroes are a valid Page.
        unsafe {
            check(libc::ftruncate(memory.as_raw_fd(), bytes as libc::off_t))?;
            let address = libc::mmap(
                std::ptr::null_mut(),
                bytes,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED,
                memory.as_raw_fd(),
                0,
            );
            if address == libc::MAP_FAILED {
                return Err(io::Error::last_os_error());
            }
            let page = address.cast::<Page>();
            (*page).magic = MAGIC;
            (*page).version = VERSION;
            (*page).bytes = bytes as u64;
            let seals = libc::F_SEAL_SHRINK | libc::F_SEAL_GROW | libc::F_SEAL_SEAL;
            check(libc::fcntl(memory.as_raw_fd(), libc::F_ADD_SEALS, seals))?;
            let page = &*page;
            // Where the limit of descriptors is lower than that, any number does.
            let shared = check(libc::fcntl(memory.as_raw_fd(), libc::F_DUPFD, PLACE))
                .or_else(|_| check(libc::fcntl(memory.as_raw_fd(), libc::F_DUPFD, 0)))?;
            Ok(Counters { page, shared: OwnedFd::from_raw_fd(shared) })
        }
    }

    /// What `AIO_POSIX_STATS` is to be.
    pub fn number(&self) -> String {
        self.shared.as_raw_fd().to_string()
    }

    pub fn page(&self) -> &Page {
        self.page
    }
}

fn memfd() -> io::Result<OwnedFd> {
    let make = |flags| {
        // SAFETY: a C string; a descriptor that is nobody's yet.
        unsafe {
            check(libc::memfd_create(c"aio-posix-stats".as_ptr(), flags)).map(|fd| OwnedFd::from_raw_fd(fd))
        }
    };
    let flags = libc::MFD_CLOEXEC | libc::MFD_ALLOW_SEALING;
    // EINVAL: a kernel before 6.3, which knows nothing of it.
    make(flags | libc::MFD_NOEXEC_SEAL).or_else(|_| make(flags))
}

fn check(answer: libc::c_int) -> io::Result<libc::c_int> {
    match answer {
        -1 => Err(io::Error::last_os_error()),
        answer => Ok(answer),
    }
}

pub fn get(counter: &AtomicU64) -> u64 {
    counter.load(Ordering::Relaxed)
}
