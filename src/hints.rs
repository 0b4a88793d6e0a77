//! Which descriptors were on a file system that is memory, when somebody last looked: a guess, which spares a look.
//!
//! Nothing can be remembered of a descriptor's number between two calls, for it may be another file's by then. So a
//! guess is only good for what a wrong one does no harm to: a request to a disk that was memory before is looked at once
//! more, and one to memory comes back from the ring and is copied then. (A guess that a descriptor is O_DIRECT, which
//! would spare a direct read a twentieth of its processor time, is none of that kind: where a
//! socket has the number by now, reads that come back from the ring have been overtaken by others.)

use core::sync::atomic::{AtomicU64, Ordering};

const PLACES: usize = 64;

pub struct Hints {
    /// A descriptor that was on memory, plus one.
    memory: [AtomicU64; PLACES],
}

// The places are hashed by number, and written without care for each other: a lost guess costs a look.
impl Hints {
    pub const fn new() -> Hints {
        Hints { memory: [const { AtomicU64::new(0) }; PLACES] }
    }

    /// Whether to ask first if it is on memory.
    #[inline]
    pub fn may_be_memory(&self, fd: i32) -> bool {
        self.memory[fd as usize % PLACES].load(Ordering::Relaxed) == fd as u32 as u64 + 1
    }

    /// It is on memory.
    pub fn is_memory(&self, fd: i32) {
        self.memory[fd as usize % PLACES].store(fd as u32 as u64 + 1, Ordering::Relaxed);
    }
}
