//! Blocking signals, and the one lock of the engine.
//!
//! **Lock order.** There are three locks. The start lock (`process`) is outermost and is never
//! held while a request moves. The engine's lock guards every queue; nobody waits, allocates or
//! notifies under it. The callback pool's lock (`callbacks`) belongs to library threads
//! alone. No thread holds two of them, so they cannot deadlock. Nor does one that holds any of them call the dynamic
//! loader (dlsym, dl_iterate_phdr): its lock is held while an object's constructors run, and those may call us.
//!
//! **Signals.** A handler may call `aio_suspend` on top of any library frame, and it may need the
//! engine's lock. So whoever takes the lock has all signals blocked ([`Blocked`] is the
//! proof), and its thread's handlers wait until the lock is free again.
//!
//! **fork.** A child starts with a new engine, hence a new lock; a lock that another thread held at
//! the fork is left behind with the old one.

use crate::sys::threads::{futex_wait, futex_wake, set_mask, Mask};
use core::sync::atomic::{AtomicU32, Ordering};

/// Proof that the calling thread's signals are blocked; unblocks them when dropped.
pub struct Blocked {
    before: Option<Mask>,
    /// A helper with a descriptor table of its own: the program's numbers mean nothing here.
    own_table: bool,
    /// Not Send: it speaks of one thread.
    not_send: core::marker::PhantomData<*const ()>,
}

impl Blocked {
    /// Blocks every signal of the calling thread until dropped.
    #[inline]
    pub fn new() -> Blocked {
        Blocked { before: Some(set_mask(!0)), own_table: false, not_send: core::marker::PhantomData }
    }

    /// For threads of the library, whose signals are blocked for life.
    pub fn library_thread() -> Blocked {
        Blocked { before: None, own_table: false, not_send: core::marker::PhantomData }
    }

    /// For helpers, which may not use the program's descriptors by number when `own_table`.
    pub fn helper(own_table: bool) -> Blocked {
        Blocked { before: None, own_table, not_send: core::marker::PhantomData }
    }

    /// Whether the program's descriptors can be used by number in this thread.
    pub fn sees_descriptors(&self) -> bool {
        !self.own_table
    }
}

impl Drop for Blocked {
    #[inline]
    fn drop(&mut self) {
        if let Some(before) = self.before {
            set_mask(before);
        }
    }
}

/// A lock for short sections with signals blocked. All-zero bytes are an open lock.
///
/// | word | meaning | who may change it |
/// |---|---|---|
/// | 0 | open | anyone: to 1, taking it |
/// | 1 | held, nobody waits | the holder: to 0; a waiter: to 2 |
/// | 2 | held, perhaps waited for | the holder: to 0, then wakes one |
#[derive(Default)]
pub struct Lock(AtomicU32);

/// The lock is held, signals are blocked.
pub struct Guard<'a> {
    lock: &'a Lock,
    pub blocked: &'a Blocked,
}

impl Lock {
    #[inline]
    pub fn lock<'a>(&'a self, blocked: &'a Blocked) -> Guard<'a> {
        // Acquire pairs with the Release in drop.
        if self.0.compare_exchange(0, 1, Ordering::Acquire, Ordering::Relaxed).is_err() {
            self.lock_contended();
        }
        Guard { lock: self, blocked }
    }

    #[cold]
    fn lock_contended(&self) {
        // Sections are some hundred instructions: the holder is often about to leave.
        for _ in 0..100 {
            if self.0.load(Ordering::Relaxed) == 0
                && self.0.compare_exchange(0, 1, Ordering::Acquire, Ordering::Relaxed).is_ok()
            {
                return;
            }
            core::hint::spin_loop();
        }
        while self.0.swap(2, Ordering::Acquire) != 0 {
            let _ = futex_wait(&self.0, 2, None);
        }
    }
}

impl Drop for Guard<'_> {
    #[inline]
    fn drop(&mut self) {
        if self.lock.0.swap(0, Ordering::Release) == 2 {
            futex_wake(&self.lock.0, 1);
        }
    }
}
