//! What a helper cannot reach, the completion thread does in its place, in the program's table.
//!
//! A helper with a descriptor table of its own may find that it can have no copy any more: RLIMIT_NOFILE was lowered
//! to nothing, or the program's first thread has ended, before Linux 6.9. It cannot come back to the program's table. So
//! it hands over one request after the other and waits; the completion thread looks at the number, and uses it.
//! Completions wait for such a transfer meanwhile: slow, but right.
//!
//! Both are threads of the library's: no signal handler runs there and nobody cancels them. A forked child has
//! neither, and an engine of its own.

use crate::admission::is_still_open;
use crate::engine::Engine;
use crate::errno::{from_kernel, Errno, Outcome};
use crate::pins::{found_no_copy, Pins};
use crate::pool::{Cell64, Number};
use crate::request::Operation;
use crate::sys::files::synchronise;
use crate::sys::threads::{futex_wait, futex_wake, later, now};
use crate::threads::IDLE;
use crate::transfers::{finished_with, transfer_rest};
use crate::wake::{wake, COMPLETION_THREAD};
use core::sync::atomic::{AtomicU32, Ordering};

/// A request on its way from one helper to the completion thread, and its outcome back.
#[derive(Default)]
pub struct StandIn {
    /// 1 while a helper has its turn. Acquire and Release: the next one finds the place as the last one left it.
    taken: AtomicU32,
    /// Its request, until that is done; then 0. Futex word. Stored by the helper, SeqCst (`is_wanted`), and taken back by the
    /// completion thread, Release: who sees 0 sees the outcome, and what was transferred.
    number: AtomicU32,
    /// As the kernel says it. Written by the completion thread while `number` is the request's, read by the helper after.
    outcome: Cell64,
}

/// For a helper: `transfer_rest` on the pinned file.
pub fn transfer_pinned(engine: &Engine, number: Number, pins: &mut Pins) -> Outcome {
    let request = engine.request(number);
    match pins.pin(engine, request) {
        Ok(fd) => transfer_rest(request, fd),
        Err(errno) => without_copy(engine, number, errno),
    }
}

/// For a helper that has no copy of the request's descriptor, and `why`. The request's outcome.
pub fn without_copy(engine: &Engine, number: Number, why: Errno) -> Outcome {
    if why == Errno::CANCELED {
        return finished_with(engine.request(number), Err(why));
    }
    found_no_copy(engine);
    let place = &engine.stand_in;
    while place.taken.swap(1, Ordering::Acquire) != 0 {
        std::thread::yield_now();
    }
    place.number.store(number, Ordering::SeqCst);
    wake(engine, COMPLETION_THREAD);
    while place.number.load(Ordering::Acquire) == number {
        let _ = futex_wait(&place.number, number, Some(&later(now(), IDLE)));
    }
    let outcome = from_kernel(place.outcome.get() as isize);
    place.taken.store(0, Ordering::Release);
    outcome
}

/// Whether a helper waits. SeqCst: the completion thread sleeps only after it has looked here (`wake`, rule 4).
pub fn is_wanted(engine: &Engine) -> bool {
    engine.stand_in.number.load(Ordering::SeqCst) != 0
}

/// For the completion thread: does what a helper waits for, if one does.
pub fn stand_in(engine: &Engine) {
    let place = &engine.stand_in;
    let number = place.number.load(Ordering::SeqCst);
    if number == 0 {
        return;
    }
    let request = engine.request(number);
    let outcome = match request.operation() {
        _ if !is_still_open(request) => finished_with(request, Err(Errno::CANCELED)),
        Operation::Read | Operation::Write => transfer_rest(request, request.fd()),
        operation => synchronise(request.fd(), operation == Operation::DataSync).map_err(Errno::of_accepted),
    };
    place.outcome.set(match outcome {
        Ok(count) => count as u64,
        Err(errno) => -i64::from(errno.0) as u64,
    });
    place.number.store(0, Ordering::Release);
    futex_wake(&place.number, 1);
}
