//! Taking completions out of the ring. Only the leader does (`wake`).

use crate::complete::complete;
use crate::direct;
use crate::engine::Engine;
use crate::errno::{from_kernel, Errno};
use crate::fork;
use crate::lock::Blocked;
use crate::notify::Notice;
use crate::observe;
use crate::polls;
use crate::request::{flag, number_of, BOUNCED, SUBMITTING};
use crate::ring::KICK;
use crate::sys::aio_abi::IoEvent;
use crate::sys::context::through_the_kernel;
use crate::sys::threads::self_id;
use crate::wake::{hand_over, is_stalled, stop_leading, take_over, try_lead, Waiter, INBOX};
use crate::worklist;
use core::sync::atomic::Ordering;

/// Acts on one event. Signals blocked; never blocks otherwise; async-signal-safe.
pub fn process(engine: &Engine, blocked: &Blocked, data: u64, result: i64) {
    through_the_kernel();
    if data == KICK {
        return;
    }
    if data == polls::WATCH_EVENT {
        return polls::watch_event(engine, blocked);
    }
    if data & polls::POLL_EVENT != 0 {
        return polls::event(engine, blocked, data, result);
    }
    engine.ring.release(1);
    let number = number_of(data);
    let request = engine.request(number);
    let outcome = from_kernel(result as isize);
    if request.has(flag::NOWAIT) && matches!(outcome, Err(Errno::AGAIN | Errno::OPNOTSUPP)) {
        // Still with its submitter? Then that thread takes it back (`direct`).
        if !request.move_state(data, SUBMITTING, BOUNCED) {
            direct::take_back(engine, blocked, number);
        }
        return;
    }
    if request.has(flag::RESFD) {
        // The kernel has told the eventfd.
        observe::notified(Notice::load(request));
        request.notice.set(0);
    }
    complete(engine, blocked, number, outcome);
}

/// Acts on the events of an inbox, each exactly once, whoever's frame they were meant for.
pub fn process_inbox(engine: &Engine, blocked: &Blocked, waiter: &Waiter) {
    for event in &waiter.inbox {
        // Filled from the front; 0 is what nobody filled since.
        let data = event.data.swap(0, Ordering::Relaxed);
        if data == 0 {
            return;
        }
        process(engine, blocked, data, event.res.load(Ordering::Relaxed) as i64);
    }
}

/// For who leads in another leader's place. io_pgetevents can return events *and* let a signal handler run before
/// its caller goes on: then the handler, on the same thread, stands on a leader with events in its inbox,
/// and may wait for just those. A leader that was cancelled or left behind by siglongjmp may have some too.
pub fn rescue(engine: &Engine, blocked: &Blocked) {
    if let Some(waiter) = engine.waiters.get(engine.seat.swap(0, Ordering::SeqCst)) {
        process_inbox(engine, blocked, waiter);
    }
}

/// Takes what has completed, without waiting, unless somebody else leads.
/// Signals blocked; async-signal-safe.
pub fn reap_now(engine: &Engine, blocked: &Blocked) {
    // A handler may have forked on top of our caller, and we are in the child: it sees the parent's completions, and
    // cannot take them. With signals blocked none comes from here on.
    if !fork::is_current(engine) {
        return;
    }
    let me = self_id();
    let mut inbox = [IoEvent::default(); INBOX];
    loop {
        let leads = try_lead(engine, me) || is_stalled(engine) && take_over(engine, me);
        if !leads {
            return;
        }
        rescue(engine, blocked);
        let mut taken = Ok(0);
        while engine.ring.has_events() {
            taken = engine.ring.take(&mut inbox);
            let count = taken.unwrap_or(0);
            if count == 0 {
                break;
            }
            for event in &inbox[..count] {
                process(engine, blocked, event.data, event.res);
            }
            worklist::call_for_line(engine, blocked);
        }
        stop_leading(engine, me);
        hand_over(engine);
        // Who put something in between our last look and here, and found us leading, relies on us. Unless we are not let:
        // EINTR is a seccomp supervisor's (`Ring::submit`), any other error stays.
        if !engine.ring.has_events() || taken.is_err_and(|errno| errno != Errno::INTR) {
            return;
        }
    }
}

/// `aio_error` and submitters: a look at the ring, and a reap when something is there.
#[inline]
pub fn reap_if_any(engine: &Engine) {
    // The leader's own thread: this is a handler on top of it, and the inbox may hold something.
    if engine.ring.has_events() || engine.leader.load(Ordering::Relaxed) == self_id() {
        reap_now(engine, &Blocked::new());
    }
}
