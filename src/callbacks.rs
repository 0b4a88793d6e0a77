//! SIGEV_THREAD: callbacks as threads of the program's.
//!
//! A callback with attributes gets a thread of its own. Without, it gets one that ran an earlier
//! callback to its end, when one is idle, and else a new one: a callback that blocks, or leaves by
//! pthread_exit, holds back nobody. A reused thread starts with what a new one has of a signal mask, of cancellation, name and
//! floating-point environment ([`begin_anew`]); thread-specific data, locale and scheduling stay as they were.
//!
//! A callback may leave by pthread_exit, which unwinds through our frames below it: they hold nothing with a
//! destructor, and `wait` says why they are plain `extern "C"`.
//!
//! The pool's lock is std's, a futex word: only library threads and callback threads take it, never a
//! signal handler, and never with another lock held. Not parking_lot's, whose waiting threads stand in a table of the
//! whole process: a fork copies it in the middle of a change, and the child crashed in it (once in forty forks).

use crate::engine::Engine;
use crate::fork;
use crate::sys::threads::{self, set_mask, LIBRARY_THREAD_MASK};
use libc::c_void;
use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// How long an idle thread stays, and how many do.
const IDLE: Duration = Duration::from_secs(1);
const MOST_IDLE: usize = 16;

#[repr(C)]
#[derive(Clone, Copy)]
struct Job {
    function: usize,
    value: usize,
}

#[derive(Default)]
pub struct CallbackPool {
    state: Mutex<State>,
    called: Condvar,
}

impl CallbackPool {
    /// Nobody panics while holding it (panic = "abort"), so it is never poisoned.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[derive(Default)]
struct State {
    /// Jobs that an idle thread was called for; never more than `idle`.
    jobs: VecDeque<Job>,
    idle: usize,
}

/// What a new thread is given.
struct First {
    job: Job,
    /// `None`: ends with its first job.
    engine: Option<&'static Engine>,
}

/// Runs a callback in a thread. False: the system has none to give now, try again later.
pub fn run(engine: &'static Engine, function: usize, value: usize, attributes: usize) -> bool {
    let job = Job { function, value };
    if attributes != 0 {
        // Attributes that cannot be had (a bad stack size) must not lose the notification. Twice: it is the same error that
        // tells of no thread to be had just now.
        return [attributes, attributes, 0].into_iter().any(|with| create(with, First { job, engine: None }));
    }
    let mut state = engine.callbacks.state();
    if state.idle > state.jobs.len() && state.jobs.try_reserve(1).is_ok() {
        state.jobs.push_back(job);
        drop(state);
        engine.callbacks.called.notify_one();
        return true;
    }
    drop(state);
    create(0, First { job, engine: Some(engine) })
}

/// PTHREAD_CANCEL_ENABLE and PTHREAD_CANCEL_DEFERRED (pthread.h).
const ENABLED: libc::c_int = 0;
const DEFERRED: libc::c_int = 0;

extern "C" {
    fn pthread_setcanceltype(kind: libc::c_int, before: *mut libc::c_int) -> libc::c_int;
    fn pthread_setcancelstate(state: libc::c_int, before: *mut libc::c_int) -> libc::c_int;
    fn pthread_testcancel();
    fn pthread_create(
        thread: *mut libc::pthread_t,
        attributes: *const libc::pthread_attr_t,
        entry: extern "C" fn(*mut c_void) -> *mut c_void,
        argument: *mut c_void,
    ) -> libc::c_int;
}

fn create(attributes: usize, first: First) -> bool {
    let mut thread: libc::pthread_t = 0;
    // SAFETY: the caller's attributes, valid by SIGEV_THREAD's contract, or our own, initialised here;
    // the entry takes `first` over when the thread exists. Not a Box, which aborts the program where memory is out.
    unsafe {
        let place = libc::malloc(size_of::<First>()).cast::<First>();
        if place.is_null() {
            return false;
        }
        place.write(first);
        let first = place.cast::<c_void>();
        let created = if attributes != 0 {
            pthread_create(&raw mut thread, attributes as *const _, callback_entry, first)
        } else {
            let mut detached = core::mem::MaybeUninit::<libc::pthread_attr_t>::uninit();
            libc::pthread_attr_init(detached.as_mut_ptr());
            libc::pthread_attr_setdetachstate(detached.as_mut_ptr(), libc::PTHREAD_CREATE_DETACHED);
            let created = pthread_create(&raw mut thread, detached.as_ptr(), callback_entry, first);
            libc::pthread_attr_destroy(detached.as_mut_ptr());
            created
        };
        if created != 0 {
            libc::free(first);
        }
        created == 0
    }
}

extern "C" fn callback_entry(argument: *mut c_void) -> *mut c_void {
    // SAFETY: what `create` wrote, ours now.
    let First { mut job, engine } = unsafe { argument.cast::<First>().read() };
    // SAFETY: malloc's, and read.
    unsafe { libc::free(argument) };
    let (name, stack) = (threads::name(), threads::signal_stack());
    loop {
        call(job);
        // In the child of a callback that forked the pool is the parent's, with its lock as the fork found it.
        let Some(engine) = engine.filter(|engine| fork::is_current(engine)) else {
            return core::ptr::null_mut();
        };
        begin_anew(&name);
        if threads::signal_stack() != stack {
            // It belongs to somebody's thread-specific data, which go with the thread.
            return core::ptr::null_mut();
        }
        set_mask(LIBRARY_THREAD_MASK);
        match next(engine) {
            Some(next) => job = next,
            None => return core::ptr::null_mut(),
        }
    }
}

/// Undoes what a callback may have made of its thread. One that was cancelled in vain ends here, not in the next callback:
/// libc unwinds from here as from `call`.
extern "C" fn begin_anew(name: &threads::Name) {
    let mut before = 0;
    // SAFETY: a live place for what was set before; nothing here or in the frames above has a destructor.
    unsafe {
        pthread_setcanceltype(DEFERRED, &raw mut before);
        pthread_setcancelstate(ENABLED, &raw mut before);
        pthread_testcancel();
    }
    threads::reset_float_environment();
    threads::set_name(name);
}

/// The program's function, which may leave by pthread_exit: nothing here has a destructor.
extern "C" fn call(job: Job) {
    // SAFETY: sigev_notify_function, as the program stored it: `void (*)(union sigval)`; on our targets a
    // union of int and pointer is passed as the pointer is.
    let function = unsafe { core::mem::transmute::<usize, unsafe extern "C" fn(usize)>(job.function) };
    set_mask(0);
    // SAFETY: the program's function with the program's value.
    unsafe { function(job.value) };
}

/// Waits for another job; `None`: none came, the thread ends.
fn next(engine: &'static Engine) -> Option<Job> {
    let pool = &engine.callbacks;
    let mut state = pool.state();
    if let Some(job) = state.jobs.pop_front() {
        return Some(job);
    }
    if state.idle >= MOST_IDLE {
        return None;
    }
    state.idle += 1;
    loop {
        let waited = pool.called.wait_timeout(state, IDLE).unwrap_or_else(PoisonError::into_inner);
        state = waited.0;
        let timed_out = waited.1.timed_out();
        let job = state.jobs.pop_front();
        if job.is_some() || timed_out {
            state.idle -= 1;
            return job;
        }
    }
}
