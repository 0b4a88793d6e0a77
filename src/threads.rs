//! The library's own threads: detached, named, all signals blocked for life.
//!
//! They start with the first request that is not complete at once, and end when for a second there was none: a process
//! whose own threads have all ended must be able to end too, and a program that is done with AIO has no
//! thread of ours. `Engine::alive` has one word for the completion thread and one for the first helper.
//! Who submits counts `live` up and then looks at the word; who wants to end clears the word and then looks at
//! `live`. Both SeqCst: one of them sees the other.
//!
//! | word | meaning | who may change it |
//! |---|---|---|
//! | 0 | no thread | who submits: to `STARTING`; the thread that has just set it: to 1, and remains |
//! | 1 | there is one | that thread: to 0, to end |
//! | `STARTING` | one is being started | who starts it: to 1, or to 0 where the system has none to give |
//!
//! Others that submit wait for what becomes of `STARTING`: a request that relied on a thread which is not to be had would never end.

use crate::engine::Engine;
use crate::errno::Errno;
use crate::lock::Blocked;
use crate::sys::threads::{futex_wait, futex_wake, set_mask, LIBRARY_THREAD_MASK};
use core::sync::atomic::Ordering;
use libc::c_void;

/// What a thread is for.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Role {
    Completion,
    Helper,
}

/// Enough for our frames; where the program's thread-local storage needs more, the default serves.
const STACK: usize = 128 << 10;

/// Nanoseconds after which an idle thread looks whether it may end (below one second, for `later`).
pub const IDLE: i64 = 999_000_000;

/// In `Engine::alive`: see above.
const NONE: u32 = 0;
const ALIVE: u32 = 1;
const STARTING: u32 = 2;

/// Sees to it that the completion thread and a helper are there. EAGAIN: the system has no thread to give.
#[inline]
pub fn ensure(engine: &'static Engine) -> Result<(), Errno> {
    for role in [Role::Completion, Role::Helper] {
        if engine.alive[role as usize].load(Ordering::SeqCst) != ALIVE {
            revive(engine, role)?;
        }
    }
    Ok(())
}

#[cold]
fn revive(engine: &'static Engine, role: Role) -> Result<(), Errno> {
    let alive = &engine.alive[role as usize];
    // Before STARTING is seen: a handler on top of us that needs a thread too would wait for us. And a thread inherits its
    // creator's mask: none of the program's signals may reach it.
    let blocked = Blocked::new();
    loop {
        match alive.compare_exchange(NONE, STARTING, Ordering::SeqCst, Ordering::SeqCst) {
            Ok(_) => break,
            Err(STARTING) => {
                let _ = futex_wait(alive, STARTING, None);
            }
            Err(_) => return Ok(()),
        }
    }
    let started = match role {
        Role::Completion => start(role, engine),
        Role::Helper => start_helper(engine, &blocked),
    };
    alive.store(if started.is_ok() { ALIVE } else { NONE }, Ordering::SeqCst);
    futex_wake(alive, i32::MAX as u32);
    started
}

/// Starts a helper, which counts from now on.
pub fn start_helper(engine: &'static Engine, blocked: &Blocked) -> Result<(), Errno> {
    let count = |change: u32| {
        let _guard = engine.lock.lock(blocked);
        engine.work.threads.set(engine.work.threads.get().wrapping_add(change));
    };
    count(1);
    start(Role::Helper, engine).inspect_err(|_| count(u32::MAX))
}

/// For a thread that was idle: whether it shall end. Then it never touches the engine again.
pub fn may_end(engine: &Engine, role: Role) -> bool {
    if engine.live.load(Ordering::SeqCst) != 0 {
        return false;
    }
    let alive = &engine.alive[role as usize];
    alive.store(NONE, Ordering::SeqCst);
    engine.live.load(Ordering::SeqCst) == 0
        || alive.compare_exchange(NONE, ALIVE, Ordering::SeqCst, Ordering::SeqCst).is_err()
}

/// Starts a thread. EAGAIN: the system has no more to give. Not async-signal-safe; signals blocked.
fn start(role: Role, engine: &'static Engine) -> Result<(), Errno> {
    let entry = match role {
        Role::Completion => completion_entry,
        Role::Helper => helper_entry,
    };
    let engine = core::ptr::from_ref(engine).cast_mut().cast::<c_void>();
    [Some(STACK), None]
        .into_iter()
        .find(|&stack| create(stack, entry, engine))
        .map(|_| ())
        .ok_or(Errno::AGAIN)
}

fn create(
    stack: Option<usize>,
    entry: extern "C" fn(*mut c_void) -> *mut c_void,
    argument: *mut c_void,
) -> bool {
    let mut attributes = core::mem::MaybeUninit::<libc::pthread_attr_t>::uninit();
    let mut thread: libc::pthread_t = 0;
    // SAFETY: attributes are initialised before use and destroyed after; the entry takes an engine.
    unsafe {
        if libc::pthread_attr_init(attributes.as_mut_ptr()) != 0 {
            return false;
        }
        libc::pthread_attr_setdetachstate(attributes.as_mut_ptr(), libc::PTHREAD_CREATE_DETACHED);
        if let Some(bytes) = stack {
            libc::pthread_attr_setstacksize(attributes.as_mut_ptr(), bytes);
        }
        let created = libc::pthread_create(&raw mut thread, attributes.as_ptr(), entry, argument) == 0;
        libc::pthread_attr_destroy(attributes.as_mut_ptr());
        created
    }
}

fn prepare(name: &core::ffi::CStr) {
    set_mask(LIBRARY_THREAD_MASK);
    // SAFETY: a name of at most 15 bytes; slack in nanoseconds: helpers linger for less than the default 50 us.
    unsafe {
        libc::prctl(libc::PR_SET_NAME, name.as_ptr());
        libc::prctl(libc::PR_SET_TIMERSLACK, 1000usize);
    }
}

extern "C" fn completion_entry(engine: *mut c_void) -> *mut c_void {
    prepare(c"aio-complete");
    // SAFETY: `start` was given an engine that lives for ever.
    crate::completion_thread::run(unsafe { &*engine.cast::<Engine>() });
    core::ptr::null_mut()
}

extern "C" fn helper_entry(engine: *mut c_void) -> *mut c_void {
    prepare(c"aio-helper");
    // SAFETY: `start` was given an engine that lives for ever.
    crate::helpers::helper_thread(unsafe { &*engine.cast::<Engine>() });
    core::ptr::null_mut()
}
