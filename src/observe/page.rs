//! The page of counters that `aio-posix run --stats` gives to a program, and that the library in it counts in.
//!
//! Compiled into both the library and the command, which must not contain the library: so it imports nothing of either.
//! A command never reads the page of another version: the head says which it is.

use core::ffi::CStr;
use core::sync::atomic::{AtomicU64, Ordering};

/// The environment variable that holds the descriptor's number.
pub const VARIABLE: &CStr = c"AIO_POSIX_STATS";

/// The page's first words. The version changes whenever anything below does.
pub const MAGIC: u64 = u64::from_le_bytes(*b"aioposix");
pub const VERSION: u64 = 1;

/// By which way a request was answered, the last one that it took. In the order of `Page::ways`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Way {
    /// Given to the kernel in the submitting call (an fsync: when the writes before it were done).
    Kernel,
    /// Complete when the submitting call returned: cached, memory, or refused at sight.
    AtOnce,
    /// A helper thread did it, or waited in the kernel for it.
    Helper,
    /// The thread that waited for it did it.
    Waiter,
    /// Tried, and polled for where there was nothing yet: pipes, sockets, terminals.
    Polled,
    /// Cancelled before anything started.
    Cancelled,
}
pub const WAYS: usize = 6;

/// Room for operations, in the order of `request::Operation`.
pub const OPERATIONS: usize = 16;

/// Each power of two of nanoseconds is divided into this many classes.
const PARTS: usize = 8;
/// Classes of latency: up to 2^42 ns, more than an hour; the last has all that is longer.
pub const CLASSES: usize = 40 * PARTS;

/// All counters only grow. Written by every thread of every process that has it mapped.
#[repr(C, align(4096))]
pub struct Page {
    pub magic: u64,
    pub version: u64,
    pub bytes: u64,
    /// Engines started: processes (forked children too) that submitted something to the kernel's context.
    pub engines: AtomicU64,
    /// Processes in which the kernel refused a context.
    pub refused: AtomicU64,
    /// Requests given to libc's implementation there.
    pub fallback: AtomicU64,
    /// Submitted requests by operation.
    pub operations: [AtomicU64; OPERATIONS],
    /// Completed requests by way.
    pub ways: [AtomicU64; WAYS],
    /// Completed requests that failed, cancelled ones not counted.
    pub errors: AtomicU64,
    /// Most requests in flight at once in one process.
    pub deepest: AtomicU64,
    /// Most helper threads at work at once in one process.
    pub helpers: AtomicU64,
    /// Notifications sent, those of whole lists too; requests that asked for none.
    pub signals: AtomicU64,
    pub threads: AtomicU64,
    pub eventfds: AtomicU64,
    pub unnotified: AtomicU64,
    /// Nanoseconds from submission to completion: all together, and how many requests in each class.
    pub nanoseconds: AtomicU64,
    pub latency: [AtomicU64; CLASSES],
}

const _: () = assert!(size_of::<Page>() == 4096);

impl Page {
    /// Whether this is a page of ours, of this version.
    pub fn is_ours(&self) -> bool {
        (self.magic, self.version, self.bytes) == (MAGIC, VERSION, size_of::<Page>() as u64)
    }
}

pub fn add(counter: &AtomicU64, count: u64) {
    counter.fetch_add(count, Ordering::Relaxed);
}

/// The class of a latency: exact below `PARTS`, then `PARTS` to each power of two.
pub fn class_of(nanoseconds: u64) -> usize {
    if nanoseconds < PARTS as u64 {
        return nanoseconds as usize;
    }
    let shift = nanoseconds.ilog2() - PARTS.ilog2();
    (shift as usize * PARTS + (nanoseconds >> shift) as usize).min(CLASSES - 1)
}

/// The first latency beyond a class, in nanoseconds.
pub fn end_of(class: usize) -> u64 {
    if class < PARTS {
        return class as u64 + 1;
    }
    let shift = class / PARTS - 1;
    ((class % PARTS + PARTS) as u64 + 1) << shift
}
