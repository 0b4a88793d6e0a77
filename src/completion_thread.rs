//! The completion thread: leads while something is owed and nobody else does, and delivers the
//! notifications that others cannot.

use crate::callbacks;
use crate::direct;
use crate::engine::Engine;
use crate::helpers::later;
use crate::lock::Blocked;
use crate::notify::{self, Notice};
use crate::reap;
use crate::sys::aio_abi::IoEvent;
use crate::sys::context::io_pgetevents;
use crate::sys::threads::{futex_wait, now, self_id, LIBRARY_THREAD_MASK};
use crate::wake::{
    hand_over, is_stalled, stop_leading, take_over, try_lead, Waiter, ASLEEP, AWAKE, COMPLETION_THREAD,
    INBOX, IN_RING, PATIENCE,
};
use core::sync::atomic::Ordering;
use libc::timespec;

/// Nanoseconds after which a notification that could not be delivered is tried again.
const RETRY: i64 = 2_000_000;

/// The thread's life.
pub fn run(engine: &'static Engine) -> ! {
    let blocked = Blocked::library_thread();
    let me = self_id();
    loop {
        let Some(seat) = engine.waiters.get(COMPLETION_THREAD) else {
            continue;
        };
        seat.word.store(AWAKE, Ordering::SeqCst);
        let retry = !deliver(engine, &blocked);
        let owed = engine.owed.load(Ordering::SeqCst) != 0;
        if owed && (try_lead(engine, me) || is_stalled(engine) && take_over(engine, me)) {
            lead(engine, &blocked, seat, retry);
            stop_leading(engine, me);
            hand_over(engine);
            continue;
        }
        seat.may_lead.store(u32::from(owed), Ordering::SeqCst);
        seat.word.store(ASLEEP, Ordering::SeqCst);
        // After the word: `wake`, rules 3 and 4, and a notification put into the outbox meanwhile.
        let owed_now = engine.owed.load(Ordering::SeqCst) != 0;
        let may_lead_now = owed_now && engine.leader.load(Ordering::SeqCst) == 0;
        if !may_lead_now && owed == owed_now && (retry || notify::is_outbox_empty(engine, &blocked)) {
            let limit = match (retry, owed) {
                (true, _) => Some(later(now(), RETRY)),
                (false, true) => Some(later(now(), PATIENCE)),
                (false, false) => None,
            };
            let _ = futex_wait(&seat.word, ASLEEP, limit.as_ref());
        }
        seat.may_lead.store(0, Ordering::SeqCst);
    }
}

/// Leads until nothing is owed, or until there is something to deliver.
fn lead(engine: &'static Engine, blocked: &Blocked, seat: &Waiter, mut retry: bool) {
    let mut inbox = [IoEvent::default(); INBOX];
    let me = self_id();
    loop {
        seat.word.store(IN_RING, Ordering::SeqCst);
        if engine.owed.load(Ordering::SeqCst) == 0 || !retry && !notify::is_outbox_empty(engine, blocked) {
            seat.word.store(AWAKE, Ordering::SeqCst);
            return;
        }
        let limit = timespec {
            tv_sec: 0,
            tv_nsec: if retry { RETRY } else { PATIENCE },
        };
        // SAFETY: this thread is never cancelled, so its frame outlives the call.
        let taken = unsafe {
            io_pgetevents(
                engine.ring.id(),
                inbox.as_mut_ptr(),
                INBOX,
                &raw const limit,
                &LIBRARY_THREAD_MASK,
            )
        };
        seat.word.store(AWAKE, Ordering::SeqCst);
        for event in &inbox[..taken.unwrap_or(0)] {
            reap::process(engine, blocked, event.data, event.res);
        }
        direct::drain_line(engine, blocked);
        retry = !deliver(engine, blocked);
        if engine.leader.load(Ordering::SeqCst) != me {
            return;
        }
    }
}

/// Delivers what is in the outbox. False: some could not be delivered yet.
fn deliver(engine: &'static Engine, blocked: &Blocked) -> bool {
    while let Some(number) = notify::next_waiting(engine, blocked) {
        let delivered = match Notice::load(engine.request(number)) {
            Notice::None => true,
            Notice::Signal { signo, thread, value } => notify::try_signal(signo, thread, value),
            Notice::Thread {
                function,
                value,
                attributes,
            } => callbacks::run(engine, function, value, attributes),
        };
        if !delivered {
            notify::put_back(engine, blocked, number);
            return false;
        }
        notify::free(engine, number);
    }
    true
}
