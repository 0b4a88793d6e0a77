//! Taking completions out of the ring. Only the leader does (`wake`).

use crate::complete::complete;
use crate::direct;
use crate::engine::Engine;
use crate::errno::{from_kernel, Errno};
use crate::lock::Blocked;
use crate::polls;
use crate::request::{flag, number_of, BOUNCED, SUBMITTING};
use crate::ring::KICK;
use crate::sys::aio_abi::IoEvent;
use crate::sys::threads::self_id;
use crate::wake::{hand_over, is_stalled, stop_leading, take_over, try_lead, INBOX};

/// Acts on one event. Signals blocked; never blocks otherwise; async-signal-safe.
pub fn process(engine: &Engine, blocked: &Blocked, data: u64, result: i64) {
    if data == KICK {
        return;
    }
    if data == polls::WATCH_EVENT {
        return polls::watch_event(engine, blocked);
    }
    if data & polls::POLL_EVENT != 0 {
        return polls::event(engine, blocked, data);
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
    complete(engine, blocked, number, outcome);
}

/// Takes what has completed, without waiting, unless somebody else leads.
/// Signals blocked; async-signal-safe.
pub fn reap_now(engine: &Engine, blocked: &Blocked) {
    let me = self_id();
    if !try_lead(engine, me) && !(is_stalled(engine) && take_over(engine, me)) {
        return;
    }
    let mut inbox = [IoEvent::default(); INBOX];
    while engine.ring.has_events() {
        let count = engine.ring.take(&mut inbox).unwrap_or(0);
        if count == 0 {
            break;
        }
        for event in &inbox[..count] {
            process(engine, blocked, event.data, event.res);
        }
        direct::drain_line(engine, blocked);
    }
    stop_leading(engine, me);
    hand_over(engine);
}

/// `aio_error` and submitters: a look at the ring, and a reap when something is there.
#[inline]
pub fn reap_if_any(engine: &Engine) {
    if engine.ring.has_events() {
        reap_now(engine, &Blocked::new());
    }
}
