//! `aio_cancel`: what the library still holds can be cancelled; what the kernel has cannot.

use crate::abi::AiocbRef;
use crate::complete::{complete, release};
use crate::engine::Engine;
use crate::errno::Errno;
use crate::lock::Blocked;
use crate::observe::{self, Way};
use crate::order;
use crate::polls;
use crate::reap;
use crate::request::{find, flag, number_of, Handle, Home, ENDED, FREE, HELD, RUNNING};
use crate::told;
use crate::worklist;
use core::sync::atomic::Ordering;
use libc::c_int;

/// aio_cancel's answers (aio.h).
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    Canceled = 0,
    NotCanceled = 1,
    AllDone = 2,
}

/// Cancels one request. EINVAL: another descriptor's, or in progress but not known here. A parent's, in its child, is over.
pub fn cancel_one(engine: &Engine, fd: c_int, aiocb: AiocbRef) -> Result<Answer, Errno> {
    if aiocb.fildes() != fd {
        return Err(Errno::INVAL);
    }
    reap::reap_if_any(engine);
    if aiocb.in_progress() {
        told::see(engine, aiocb);
    }
    if !aiocb.in_progress() || aiocb.epoch() != engine.epoch {
        return Ok(Answer::AllDone);
    }
    match find(&engine.requests, aiocb) {
        Some((handle, _)) => Ok(try_cancel(engine, handle)),
        None if !aiocb.in_progress() => Ok(Answer::AllDone),
        None => Err(Errno::INVAL),
    }
}

/// Cancels all of a descriptor that can be. The one walk over every request there is.
pub fn cancel_all(engine: &Engine, fd: c_int) -> Answer {
    reap::reap_if_any(engine);
    told::see_all(engine);
    let mut answer = Answer::AllDone;
    for number in 1..=engine.requests.used() {
        let request = engine.request(number);
        let handle = request.handle(number);
        if request.fd() != fd || matches!(request.state(), FREE | ENDED) {
            continue;
        }
        answer = match (try_cancel(engine, handle), answer) {
            (Answer::AllDone, before) => before,
            (Answer::NotCanceled, _) | (_, Answer::NotCanceled) => Answer::NotCanceled,
            (Answer::Canceled, _) => Answer::Canceled,
        };
    }
    answer
}

fn try_cancel(engine: &Engine, handle: Handle) -> Answer {
    let aiocb = engine.request(number_of(handle)).aiocb_address();
    let answer = withdraw(engine, handle);
    observe::cancel_answered(aiocb, answer as u32);
    answer
}

fn withdraw(engine: &Engine, handle: Handle) -> Answer {
    let number = number_of(handle);
    let request = engine.request(number);
    let blocked = Blocked::new();
    let mut guard = engine.lock.lock(&blocked);
    // Another thread just tries whether the pipe has something, or cancels it: that takes no time, and says which it is.
    while request.is(handle)
        && request.state() == RUNNING
        && (request.home() == Home::Poll || request.has(flag::CANCELED | flag::TRYING))
    {
        drop(guard);
        std::thread::yield_now();
        guard = engine.lock.lock(&blocked);
    }
    if !request.is(handle) || request.state() == ENDED {
        return Answer::AllDone;
    }
    if request.state() != HELD || request.done.get() != 0 {
        return Answer::NotCanceled;
    }
    let home = request.home();
    let mut released = 0;
    match home {
        Home::Overflow => {
            engine.overflow.remove(&engine.requests, number);
            engine.overflowing.store(engine.overflow.len(), Ordering::SeqCst);
        }
        Home::FileQueue | Home::Cold | Home::Errand => worklist::withdraw(engine, &guard, number),
        Home::Poll => polls::withdraw(engine, &guard, number),
        Home::Barrier => released = order::barrier_cancelled(engine, &guard, number),
        Home::None => return Answer::NotCanceled,
    }
    // In no list any more: this thread alone can end it.
    request.add(flag::CANCELED);
    request.set_state(RUNNING);
    observe::went(request, Way::Cancelled);
    let queue = request.poll.get();
    drop(guard);
    complete(engine, &blocked, number, Err(Errno::CANCELED));
    release(engine, &blocked, released);
    if home == Home::Errand && queue != 0 {
        polls::goes_on(engine, &blocked, queue);
    }
    Answer::Canceled
}
