//! What others can see of the library at work: counters for `aio-posix run --stats`, and USDT probes.
//!
//! The counters lie in a page that the command made (`page`) and the program inherited, as a sealed memfd whose number
//! the environment variable `AIO_POSIX_STATS` holds: a number, never a path, and not in a set-user-ID program. The library
//! looks once, where it decides who answers the process's calls. Forked children count in the same page, and programs
//! that they exec find it again. Without it each hook here is a load of `PAGE` and a branch; the clock is read only with it.
//!
//! A request is counted as complete before its status is stored: whoever sees the status finds it counted.
//!
//! Probes are a nop each, and a note in the file that says where they are (`readelf -n`); gdb, perf, bpftrace and
//! SystemTap put a breakpoint there. Provider `aio_posix`:
//!
//! | probe | arguments |
//! |---|---|
//! | `submit` | operation (`request::Operation`), descriptor, bytes, aiocb |
//! | `complete` | aiocb, result or -1, error number or 0; before the status is stored |
//! | `cancel` | aiocb, answer (`cancel::Answer`) |
//! | `fallback` | operation, aiocb: given to libc's implementation |
//!
//! Everything here is async-signal-safe, but for [`start`].

#[allow(dead_code)] // Some of it is the command's.
pub mod page;

use crate::abi::{Aiocb, AiocbRef};
use crate::engine::Engine;
use crate::errno::Outcome;
use crate::notify::Notice;
use crate::request::{flag, Operation, Request};
use crate::settings;
use crate::submission::Submission;
use crate::sys::files::is_sealed_memory;
use crate::sys::threads::{map_shared, now};
use core::sync::atomic::{AtomicPtr, Ordering};
pub use page::Way;
use page::{add, class_of, Page};

/// The page to count in, or NULL. Set before the engine is published, never changed after; a forked child has it too.
static PAGE: AtomicPtr<Page> = AtomicPtr::new(core::ptr::null_mut());

#[inline(always)]
fn page() -> Option<&'static Page> {
    // SAFETY: NULL or a mapping that stays, of a file that cannot shrink, whose members are atomics or never written.
    unsafe { PAGE.load(Ordering::Relaxed).as_ref() }
}

/// Looks whether somebody wants the counters. For who decides who answers, under its lock; not async-signal-safe.
pub fn start() {
    if !PAGE.load(Ordering::Relaxed).is_null() {
        return;
    }
    let Some(fd) = settings::variable(page::VARIABLE).and_then(settings::number) else {
        return;
    };
    let fd = fd as libc::c_int;
    // Any other file that has the number by now, closed and opened anew, is left alone.
    if !is_sealed_memory(fd, size_of::<Page>()) {
        return;
    }
    let Some(memory) = map_shared(fd, size_of::<Page>()) else {
        return;
    };
    let page = memory.cast::<Page>();
    // SAFETY: a fresh mapping of a Page's size and alignment; any bytes are a valid Page.
    if unsafe { page.as_ref() }.is_ours() {
        PAGE.store(page.as_ptr(), Ordering::Relaxed);
    }
}

/// The engine answers this process's calls.
pub fn engine_started() {
    if let Some(page) = page() {
        add(&page.engines, 1);
    }
}

/// The kernel refused a context: libc's implementation answers this process's calls.
pub fn context_refused() {
    if let Some(page) = page() {
        add(&page.refused, 1);
    }
}

/// A request goes to libc's implementation.
#[inline(never)]
pub fn fell_back(operation: Operation, aiocb: *const Aiocb) {
    probe::probe!(aio_posix, fallback, operation as u32, aiocb);
    if let Some(page) = page() {
        add(&page.operations[operation as usize % page::OPERATIONS], 1);
        add(&page.fallback, 1);
    }
}

/// A request is being submitted. When: for `Submission::started`; 0 while nobody counts.
#[inline(always)]
pub fn submitted(engine: &Engine, operation: Operation, aiocb: AiocbRef) -> u64 {
    probe::probe!(aio_posix, submit, operation as u32, aiocb.fildes(), aiocb.buffer().bytes, aiocb.address());
    page().map_or(0, |page| count_submitted(engine, page, operation))
}

#[cold]
#[inline(never)]
fn count_submitted(engine: &Engine, page: &Page, operation: Operation) -> u64 {
    add(&page.operations[operation as usize % page::OPERATIONS], 1);
    let in_flight = engine.in_flight.fetch_add(1, Ordering::Relaxed) + 1;
    page.deepest.fetch_max(in_flight, Ordering::Relaxed);
    nanoseconds_now()
}

/// The way that a request goes from now on.
#[inline(always)]
pub fn went(request: &Request, way: Way) {
    request.way.set(way as u32);
}

/// A request is about to be complete. Just before its status is stored.
#[inline(always)]
pub fn completed(engine: &Engine, request: &Request, outcome: Outcome) {
    if let Some(page) = page() {
        count_request(engine, page, request, outcome);
    }
}

/// As `completed`, for one that never had a slot: complete, or refused, in the call that submits it.
#[inline(always)]
pub fn completed_at_once(engine: &Engine, submission: &Submission, outcome: Outcome) {
    if let Some(page) = page() {
        count_at_once(engine, page, submission, outcome);
    }
}

#[cold]
#[inline(never)]
fn count_request(engine: &Engine, page: &Page, request: &Request, outcome: Outcome) {
    let way = request.way.get() as usize;
    let notified = request.notice.get() != 0 || request.has(flag::RESFD);
    count_completed(engine, page, request.started.get(), way, notified, outcome);
}

#[cold]
#[inline(never)]
fn count_at_once(engine: &Engine, page: &Page, submission: &Submission, outcome: Outcome) {
    let notified = submission.notice != Notice::None;
    count_completed(engine, page, submission.started, Way::AtOnce as usize, notified, outcome);
}

fn count_completed(engine: &Engine, page: &Page, started: u64, way: usize, notified: bool, outcome: Outcome) {
    let took = nanoseconds_now().saturating_sub(started);
    engine.in_flight.fetch_sub(1, Ordering::Relaxed);
    add(&page.ways[way % page::WAYS], 1);
    if outcome.is_err() && way != Way::Cancelled as usize {
        add(&page.errors, 1);
    }
    if !notified {
        add(&page.unnotified, 1);
    }
    add(&page.nanoseconds, took);
    add(&page.latency[class_of(took)], 1);
}

/// What aio_cancel found a request to be.
#[inline(never)]
pub fn cancel_answered(aiocb: u64, answer: u32) {
    probe::probe!(aio_posix, cancel, aiocb, answer);
}

/// A notification is about to be sent.
#[inline]
pub fn notified(notice: Notice) {
    let Some(page) = page() else { return };
    match notice {
        Notice::None => {}
        Notice::Signal { .. } => add(&page.signals, 1),
        Notice::Thread { .. } => add(&page.threads, 1),
        Notice::Eventfd { .. } => add(&page.eventfds, 1),
    }
}

/// So many helpers are at work now.
#[inline]
pub fn helpers_at_work(count: u32) {
    if let Some(page) = page() {
        page.helpers.fetch_max(u64::from(count), Ordering::Relaxed);
    }
}

fn nanoseconds_now() -> u64 {
    let now = now();
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}

#[cfg(test)]
mod tests {
    use super::page::{class_of, end_of, CLASSES};

    #[test]
    fn every_latency_lies_in_its_class() {
        let powers = (0..42).flat_map(|power| [(1u64 << power) - 1, 1 << power, (1 << power) + 1]);
        for nanoseconds in (0..5000).chain(powers) {
            let class = class_of(nanoseconds);
            assert!(nanoseconds < end_of(class), "{nanoseconds} ns");
            assert!(class == 0 || nanoseconds >= end_of(class - 1), "{nanoseconds} ns");
        }
        assert_eq!(class_of(u64::MAX), CLASSES - 1);
    }
}
