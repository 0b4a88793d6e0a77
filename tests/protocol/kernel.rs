//! What the protocol stands on, as `loom` can explore it: SeqCst words, futexes, and the kernel's ring.
//!
//! `loom` treats a SeqCst load or store as no more than Acquire or Release, which the protocol's rules are not
//! content with. A read-modify-write, however, always meets the newest value, also in `loom`. So a SeqCst access is a
//! read-modify-write here, and the words that the library only touches with SeqCst have exactly
//! the one total order that SeqCst promises them.
//!
//! Nothing here ever times out: who would be saved by patience alone sleeps for ever, and `loom` calls that a deadlock.

use loom::sync::atomic::{AtomicU32, Ordering};
use loom::sync::{Condvar, Mutex};

/// A word of which every access is SeqCst.
pub struct SeqCst(AtomicU32);

impl SeqCst {
    pub fn new(value: u32) -> SeqCst {
        SeqCst(AtomicU32::new(value))
    }
    pub fn load(&self) -> u32 {
        self.0.fetch_add(0, Ordering::AcqRel)
    }
    pub fn store(&self, value: u32) {
        self.0.swap(value, Ordering::AcqRel);
    }
    pub fn swap(&self, value: u32) -> u32 {
        self.0.swap(value, Ordering::AcqRel)
    }
    pub fn fetch_add(&self, value: u32) -> u32 {
        self.0.fetch_add(value, Ordering::AcqRel)
    }
    pub fn fetch_sub(&self, value: u32) -> u32 {
        self.0.fetch_sub(value, Ordering::AcqRel)
    }
    pub fn compare_exchange(&self, from: u32, to: u32) -> Result<u32, u32> {
        self.0.compare_exchange(from, to, Ordering::AcqRel, Ordering::Acquire)
    }
}

/// A SeqCst word that a thread may sleep on. The mutex is the kernel's: it makes the comparison and the
/// falling asleep of FUTEX_WAIT one step.
pub struct Futex {
    word: Mutex<u32>,
    sleepers: Condvar,
}

impl Futex {
    pub fn new(value: u32) -> Futex {
        Futex { word: Mutex::new(value), sleepers: Condvar::new() }
    }
    pub fn store(&self, value: u32) {
        self.swap(value);
    }
    pub fn swap(&self, value: u32) -> u32 {
        core::mem::replace(&mut *self.word.lock().unwrap(), value)
    }
    pub fn compare_exchange(&self, from: u32, to: u32) -> Result<u32, u32> {
        let mut word = self.word.lock().unwrap();
        if *word != from {
            return Err(*word);
        }
        *word = to;
        Ok(from)
    }
    /// FUTEX_WAIT: sleeps when the word is `expected`. Returns when woken, whatever the word is then.
    pub fn wait(&self, expected: u32) {
        let word = self.word.lock().unwrap();
        if *word == expected {
            drop(self.sleepers.wait(word).unwrap());
        }
    }
    /// FUTEX_WAKE of one.
    pub fn wake(&self) {
        let _word = self.word.lock().unwrap();
        self.sleepers.notify_one();
    }
}

/// An event: a request's index, or `KICK`.
pub type Event = usize;
pub const KICK: Event = usize::MAX;

/// The kernel's ring of completions.
pub struct Ring {
    events: Mutex<Vec<Event>>,
    arrived: Condvar,
}

impl Ring {
    pub fn new() -> Ring {
        Ring { events: Mutex::new(Vec::new()), arrived: Condvar::new() }
    }
    /// The kernel puts an event in, and wakes whoever waits for one.
    pub fn put(&self, event: Event) {
        self.events.lock().unwrap().push(event);
        self.arrived.notify_all();
    }
    /// `Ring::has_events`: a look at head and tail.
    pub fn has_events(&self) -> bool {
        !self.events.lock().unwrap().is_empty()
    }
    /// `Ring::take`: io_getevents without waiting.
    pub fn take(&self) -> Vec<Event> {
        core::mem::take(&mut *self.events.lock().unwrap())
    }
    /// io_pgetevents with min_nr 1 and no time-out.
    pub fn wait(&self) -> Vec<Event> {
        let mut events = self.events.lock().unwrap();
        while events.is_empty() {
            events = self.arrived.wait(events).unwrap();
        }
        core::mem::take(&mut *events)
    }
}
