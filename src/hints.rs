//! What descriptors were when somebody last looked: guesses, which spare a look.
//!
//! Nothing can be remembered of a descriptor's number between two calls, for it may be another file's by then. So
//! nothing here is believed: a request that goes by a wrong guess is answered rightly all the same, only
//! later (`direct::take_back`). Asking for the flags costs a twentieth of a direct read's processor time.

use core::sync::atomic::{AtomicU64, Ordering};

const PLACES: usize = 64;

/// Requests that go by one look.
const USES: u64 = 32;

pub struct Hints {
    /// A descriptor that was O_DIRECT, plus one, and how many may yet go by that: in the low byte.
    direct: [AtomicU64; PLACES],
    /// A descriptor that was on memory, plus one.
    memory: [AtomicU64; PLACES],
}

// The places are hashed by number, and written without care for each other: a lost guess costs a look.
impl Hints {
    pub const fn new() -> Hints {
        Hints { direct: [const { AtomicU64::new(0) }; PLACES], memory: [const { AtomicU64::new(0) }; PLACES] }
    }

    /// Whether to go by it that the descriptor is on a disk, and O_DIRECT.
    #[inline]
    pub fn may_be_direct(&self, fd: i32) -> bool {
        let place = &self.direct[fd as usize % PLACES];
        let guess = place.load(Ordering::Relaxed);
        if guess >> 8 != fd as u32 as u64 + 1 || guess & 0xff == 0 {
            return false;
        }
        place.store(guess - 1, Ordering::Relaxed);
        true
    }

    /// It is O_DIRECT.
    pub fn is_direct(&self, fd: i32) {
        self.direct[fd as usize % PLACES].store((fd as u32 as u64 + 1) << 8 | USES, Ordering::Relaxed);
    }

    /// A guess was wrong, or might soon be.
    pub fn look_again(&self, fd: i32) {
        self.direct[fd as usize % PLACES].store(0, Ordering::Relaxed);
    }

    /// Whether to ask first if it is on memory.
    #[inline]
    pub fn may_be_memory(&self, fd: i32) -> bool {
        self.memory[fd as usize % PLACES].load(Ordering::Relaxed) == fd as u32 as u64 + 1
    }

    /// It is on memory.
    pub fn is_memory(&self, fd: i32) {
        self.memory[fd as usize % PLACES].store(fd as u32 as u64 + 1, Ordering::Relaxed);
        self.look_again(fd);
    }
}
