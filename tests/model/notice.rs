//! Where the child's notifications arrive: a signal handler and a thread callback, which count and log them.

use std::ffi::{c_int, c_void};
use std::sync::atomic::Ordering;

use super::calls;
use super::child::{blank, world};
use super::log::{problems, Kind, Record, NOTHING, NOT_LOOKED};
use super::program::What;

/// Added to the number of a request or list, so that a stray value is seen.
const MARK: usize = 0x5eed_0000_0000;

pub fn value_of(id: u32) -> usize {
    MARK + id as usize
}

pub fn signal_number() -> c_int {
    libc::SIGRTMIN() + 1
}

pub fn install(restart: bool) {
    let set = |number, handler: usize| {
        // SAFETY: both handlers have the type that SA_SIGINFO asks for, and call async-signal-safe functions only.
        unsafe {
            let mut action: libc::sigaction = std::mem::zeroed();
            action.sa_sigaction = handler;
            action.sa_flags = libc::SA_SIGINFO | if restart { libc::SA_RESTART } else { 0 };
            assert_eq!(libc::sigaction(number, &action, std::ptr::null_mut()), 0);
        }
    };
    set(signal_number(), on_signal as *const () as usize);
    set(libc::SIGPIPE, on_sigpipe as *const () as usize);
    // In place of Rust's own handlers, which lack SA_RESTART: a wait resumes only where all have it.
    set(libc::SIGSEGV, on_crash as *const () as usize);
    set(libc::SIGBUS, on_crash as *const () as usize);
}

extern "C" fn on_signal(_: c_int, info: *mut libc::siginfo_t, _: *mut c_void) {
    // SAFETY: the kernel gives a handler with SA_SIGINFO a valid siginfo; errno is this thread's own.
    let (saved, fields_are_right, value) = unsafe {
        let info = &*info;
        let right = info.si_code == libc::SI_ASYNCIO
            && info.si_pid() == libc::getpid()
            && info.si_uid() == libc::getuid();
        (*libc::__errno_location(), right, info.si_value().sival_ptr as usize)
    };
    if !fields_are_right {
        world().problem(NOTHING, problems::SIGNAL_FIELDS, 0);
    }
    notified(value);
    // SAFETY: as above.
    unsafe { *libc::__errno_location() = saved };
}

/// Says where the process crashed, and lets it.
extern "C" fn on_crash(number: c_int, info: *mut libc::siginfo_t, context: *mut c_void) {
    // SAFETY: the kernel gives a handler with SA_SIGINFO a valid siginfo and context; with the default action back in
    // place the instruction that crashed does so again.
    unsafe {
        libc::signal(number, libc::SIG_DFL);
        let mut text = format!("signal {number} for address {:p}", (*info).si_addr());
        for place in calls::places_of(context) {
            text += &format!("\n  {}", calls::library_of(place));
        }
        eprintln!("{text}");
    }
}

extern "C" fn on_sigpipe(_: c_int, _: *mut libc::siginfo_t, _: *mut c_void) {
    world().problem(NOTHING, problems::LIBRARY_TOOK_SIGPIPE, 0);
}

pub extern "C" fn on_thread(value: libc::sigval) {
    notified(value.sival_ptr as usize);
}

/// A count too many of a direct request, kept by who read it (`check`): it says nothing of the status, and may come when the
/// aiocb has been given other contents.
pub fn counted_again(id: u32) {
    let world = world();
    let tick = world.shared.tick();
    world.log(Kind::Notify, id, Record { before: tick, after: tick, error: NOT_LOOKED, ..blank() });
    world.shared.notified(id).fetch_add(1, Ordering::Release);
}

/// Async-signal-safe.
pub fn notified(value: usize) {
    let world = world();
    let id = value.wrapping_sub(MARK);
    if id >= world.plan.first_spare as usize {
        world.problem(NOTHING, problems::UNKNOWN_NOTIFICATION, value as i32);
        return;
    }
    let id = id as u32;
    let before = world.shared.tick();
    // SAFETY: aiocbs live as long as the process, and these were submitted, or they could not notify.
    let status = |id| unsafe { libc::aio_error(world.aiocb(id)) };
    let (error, pending) = if world.plan.request(id).what == What::List {
        let elements = world.elements[id as usize].iter();
        (0, elements.filter(|id| status(**id) == libc::EINPROGRESS).count())
    } else {
        (status(id), 0)
    };
    let after = world.shared.tick();
    world.log(Kind::Notify, id, Record { before, after, error, value: pending as i64, ..blank() });
    world.shared.notified(id).fetch_add(1, Ordering::Release);
}
