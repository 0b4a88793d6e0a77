//! The completion thread: leads while something is owed and nobody else does, and delivers the
//! notifications that others cannot.

use crate::callbacks;
use crate::engine::Engine;
use crate::errno::Errno;
use crate::helpers;
use crate::lock::Blocked;
use crate::notify::{self, Notice};
use crate::pins::lost_copies;
use crate::polls;
use crate::reap;
use crate::stand_in::{is_wanted, stand_in};
use crate::sys::context::io_pgetevents;
use crate::sys::threads::{futex_wait, later, now, self_id, thread_id, LIBRARY_THREAD_MASK};
use crate::threads::{self, Role};
use crate::wake::{
    hand_over, is_stalled, stop_leading, take_over, try_lead, Waiter, ASLEEP, AWAKE, COMPLETION_THREAD,
    INBOX, IN_RING, PATIENCE,
};
use crate::worklist;
use core::sync::atomic::Ordering;
use libc::timespec;

/// Nanoseconds after which a notification that could not be delivered is tried again.
const RETRY: i64 = 2_000_000;

/// The thread's life, which ends after a second without any request.
pub fn run(engine: &'static Engine) {
    let blocked = Blocked::library_thread();
    let me = self_id();
    engine.completion_thread.store(thread_id(), Ordering::Relaxed);
    loop {
        let Some(seat) = engine.waiters.get(COMPLETION_THREAD) else {
            continue;
        };
        seat.word.store(AWAKE, Ordering::SeqCst);
        let retry = !do_chores(engine, &blocked);
        let owed = engine.owed.load(Ordering::SeqCst) != 0;
        let stalled = is_stalled(engine);
        if owed && try_lead(engine, me) || stalled && take_over(engine, me) {
            reap::rescue(engine, &blocked);
            engine.seat.store(COMPLETION_THREAD, Ordering::SeqCst);
            lead(engine, &blocked, seat, retry);
            stop_leading(engine, me);
            hand_over(engine);
            continue;
        }
        seat.may_lead.store(u32::from(owed), Ordering::SeqCst);
        seat.word.store(ASLEEP, Ordering::SeqCst);
        // After the word: `wake`, rules 3 and 4, and a notification put into the outbox meanwhile.
        let owed_now = engine.owed.load(Ordering::SeqCst) != 0;
        if !owed_now {
            // Who stopped leading may have called us for what was owed then, and is not any more.
            hand_over(engine);
        }
        let may_lead_now = owed_now && engine.leader.load(Ordering::SeqCst) == 0;
        if !may_lead_now && owed == owed_now && (retry || !has_work(engine, &blocked)) {
            let limit = match (retry, owed) {
                (true, _) => later(now(), RETRY),
                (false, true) => later(now(), PATIENCE),
                (false, false) => later(now(), threads::IDLE),
            };
            let slept = futex_wait(&seat.word, ASLEEP, Some(&limit));
            let idle = slept == Err(Errno::TIMEDOUT) && !retry && !owed;
            // Not to be found any more by helpers, before another one may come.
            if idle {
                engine.completion_thread.store(0, Ordering::Relaxed);
                if threads::may_end(engine, Role::Completion) {
                    return;
                }
                engine.completion_thread.store(thread_id(), Ordering::Relaxed);
            }
        }
        seat.may_lead.store(0, Ordering::SeqCst);
    }
}

/// Leads until nothing is owed, or until there is something to deliver.
fn lead(engine: &'static Engine, blocked: &Blocked, seat: &Waiter, mut retry: bool) {
    let me = self_id();
    loop {
        seat.word.store(IN_RING, Ordering::SeqCst);
        let nothing_owed = engine.owed.load(Ordering::SeqCst) == 0 && !engine.ring.has_events();
        if nothing_owed || !retry && has_work(engine, blocked) {
            seat.word.store(AWAKE, Ordering::SeqCst);
            return;
        }
        // A helper that can have no descriptor can wake us by none either.
        let soon = retry || lost_copies(engine);
        let limit = timespec { tv_sec: 0, tv_nsec: if soon { RETRY } else { threads::IDLE } };
        let inbox = seat.inbox.as_ptr().cast_mut().cast();
        // SAFETY: the inbox lies in a pool's slot, which is never unmapped, and holds INBOX events.
        let _ =
            unsafe { io_pgetevents(engine.ring.id(), inbox, INBOX, &raw const limit, &LIBRARY_THREAD_MASK) };
        seat.word.store(AWAKE, Ordering::SeqCst);
        reap::process_inbox(engine, blocked, seat);
        worklist::call_for_line(engine, blocked);
        retry = !do_chores(engine, blocked);
        if engine.leader.load(Ordering::SeqCst) != me {
            return;
        }
    }
}

/// Does what others left for this thread. False: some of it could not be done yet.
fn do_chores(engine: &'static Engine, blocked: &Blocked) -> bool {
    stand_in(engine);
    polls::watch_unwatched(engine, blocked);
    polls::look_at_watched(engine, blocked);
    let kicked = retry_kick(engine);
    let armed = polls::rearm_watch(engine, blocked);
    let stands_by = helpers::retry_stand_by(engine, blocked);
    deliver(engine, blocked) && kicked && armed && stands_by
}

/// Whether somebody left something for this thread.
fn has_work(engine: &Engine, blocked: &Blocked) -> bool {
    let guard = engine.lock.lock(blocked);
    !notify::is_outbox_empty(engine, &guard)
        || polls::has_unwatched(engine, &guard)
        || polls::is_watch_unarmed(engine, &guard)
        || is_wanted(engine)
}

/// A leader that could not be woken (`Ring::kick`) is woken as soon as it can be. False: not yet.
fn retry_kick(engine: &Engine) -> bool {
    if engine.kick_failed.swap(0, Ordering::SeqCst) != 0 && engine.ring.kick().is_err() {
        engine.kick_failed.store(1, Ordering::SeqCst);
        return false;
    }
    true
}

/// Delivers what is in the outbox. False: some could not be delivered yet.
fn deliver(engine: &'static Engine, blocked: &Blocked) -> bool {
    notify::deliver_outbox(engine, blocked, |notice| match notice {
        Notice::None => true,
        Notice::Signal { signo, thread, value } => notify::try_signal(engine, signo, thread, value),
        Notice::Thread { function, value, attributes } => callbacks::run(engine, function, value, attributes),
        Notice::Eventfd { fd } => {
            notify::try_eventfd(engine, fd) || {
                // The ring is full, perhaps of what nobody will ever take.
                reap::reap_now(engine, blocked);
                notify::try_eventfd(engine, fd)
            }
        }
    })
}
