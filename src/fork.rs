//! What a process has of the library, in one page that the kernel wipes in a forked child.
//!
//! No fork handler runs, and none has to: whatever the parent's threads were doing at the fork,
//! the child finds this page zeroed: no engine, an open start lock. It begins anew at its first call,
//! whether it was made by fork(3), by clone(2) or in a signal handler on top of the library itself. What
//! the parent's engine had mapped stays mapped in the child and is never used. After vfork the
//! child shares the parent's memory, page included, and only calls exec or _exit.

use crate::engine::Engine;
use crate::errno::Errno;
use crate::lock::Lock;
use crate::sys::threads::{map_zeroed, unmap, wipe_on_fork};
use core::sync::atomic::{AtomicPtr, AtomicU32, Ordering};
use once_cell::race::OnceNonZeroUsize;

/// All-zero bytes are the state before first use.
pub struct Page {
    /// The engine; set last, with Release, when it can be used.
    pub engine: AtomicPtr<Engine>,
    /// 1: the kernel refused a context, libc's own implementation serves this process.
    pub refused: AtomicU32,
    /// Held while the engine is set up. Outermost.
    pub start: Lock,
}

/// Not once_cell's blocking cell: a child forked while another thread runs an initialiser would wait for ever.
static PAGE: OnceNonZeroUsize = OnceNonZeroUsize::new();

const BYTES: usize = 4096;

/// The page, if the library was ever used in this line of forks.
#[inline]
pub fn page() -> Option<&'static Page> {
    // SAFETY: set once to a mapping that stays, and that is a valid Page at any time (zeroes are).
    PAGE.get().map(|address| unsafe { &*(address.get() as *const Page) })
}

/// The page, made at first use. EAGAIN: no memory. ENOSYS: the kernel does not wipe it (before 4.14, or a seccomp filter).
pub fn make_page() -> Result<&'static Page, Errno> {
    PAGE.get_or_try_init(|| {
        let memory = map_zeroed(BYTES).ok_or(Errno::AGAIN)?;
        if wipe_on_fork(memory, BYTES).is_err() {
            // SAFETY: nobody has seen it.
            unsafe { unmap(memory, BYTES) };
            return Err(Errno::NOSYS);
        }
        Ok(memory.addr())
    })?;
    page().ok_or(Errno::AGAIN)
}

/// The engine of this process, when it has started.
#[inline]
pub fn current() -> Option<&'static Engine> {
    let engine = page()?.engine.load(Ordering::Acquire);
    // SAFETY: set once per process to an engine that is never unmapped.
    unsafe { engine.as_ref() }
}

/// False in a child that was forked on top of a frame which uses its parent's engine.
pub fn is_current(engine: &Engine) -> bool {
    current().is_some_and(|current| core::ptr::eq(current, engine))
}
