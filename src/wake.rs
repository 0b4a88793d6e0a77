//! Who waits, who leads, and how nobody sleeps through a completion.
//!
//! # Roles
//!
//! The **leader** is the one thread that may take events out of the ring. It sleeps in
//! `io_pgetevents`. **Followers** are other waiting threads; each sleeps on the futex word of its
//! [`Waiter`]. The **completion thread** is a follower by profession: it leads while something is owed
//! (`Engine::owed`) and nobody else does. With one waiting thread nobody ever hands over.
//!
//! # A waiter's word
//!
//! | word | meaning | who may change it |
//! |---|---|---|
//! | `AWAKE` | looks around, or does not wait at all | its thread: to `ASLEEP`, `IN_RING` |
//! | `ASLEEP` | sleeps on this word | anyone: to `WOKEN`, then wakes the futex |
//! | `IN_RING` | sleeps in the ring as leader | anyone: to `WOKEN`, then kicks the ring |
//! | `WOKEN` | must look around | its thread: to `AWAKE` |
//!
//! # Why no wake-up is lost
//!
//! 1. *Completion.* A waiter puts its number into each request it waits for, sets its word to
//!    `ASLEEP` or `IN_RING`, and then looks at every status once more. A completer stores the status, then
//!    takes the number out of the request, then swaps the word. All of it is SeqCst, so either
//!    the waiter sees the status or the completer sees the number and the word. Between the
//!    look and the sleep the futex word or the kick's event keeps what happened.
//!    A list may be long, so the last look is spared when `Engine::ending`, which a completer counts up before the status,
//!    is what `Engine::ended`, counted up after it, was before the waiter's look at the whole list: then no
//!    completion was under way at that time, and none has begun since.
//! 2. *Events in the ring.* A leader sleeps in the kernel, which wakes it for any event. It need
//!    not put its number into requests that only the ring can complete; `held` says whether others exist.
//! 3. *Leadership.* Who stops leading stores 0 in `leader`, then looks for a follower to invite, or, while
//!    something is owed, wakes the completion thread.
//!    Who goes to sleep as a follower sets its word, then looks at `leader`. So either the sleeper
//!    sees that nobody leads, or the leaving one sees the sleeper. An invited waiter that is
//!    satisfied and leaves passes the invitation on: everyone who leaves calls [`hand_over`]. So does the completion
//!    thread, woken for what is not owed any more: after it has set its word, before it sleeps.
//! 4. *Owed.* A submitter counts `owed` up, then looks at `leader`; who stops leading stores 0, then
//!    looks at `owed`. One of them wakes the completion thread.
//!
//! # What the rules above cannot cover
//!
//! A signal handler may run for long, or for ever (siglongjmp), on top of a waiter that was just
//! invited or that leads; the library cannot know. So the completion thread, while there are requests, looks
//! once a second whether events lie in the ring, or in a leader's inbox, that nobody took since it
//! looked last, and takes the leadership over. So does `aio_error`. That is safe at any moment: each leader has an inbox
//! of its own, an event is taken out of it by an atomic swap, and completing is safe for many threads
//! at once. Followers never wake up to look: a handler that runs between two sleeps is one whose EINTR
//! is lost.
//!
//! A leader that the scheduler kept from running looks the same, and it is one that sleeps in the kernel, which sees that
//! the ring is empty again and lets it sleep on. What it waits for may be among what was taken, and it need not be
//! findable (rule 2). So a leader looks around by itself once a second (`wait`).
//!
//! # Signals and cancellation
//!
//! A leader has its signals blocked except inside `io_pgetevents`, so a handler on top of a leader
//! stands on a frame that holds no event, no lock: it may lead itself, on the same thread, in
//! an inbox of its own. A thread that is cancelled inside the wait may have events in its
//! inbox already: the inbox is in the waiter's slot, not on the stack, and its clean-up handler processes them.

use crate::engine::Engine;
use crate::pool::{Cell32, Number, Slot};
use crate::request::{flag, Request};
use crate::sys::aio_abi::IoEvent;
use crate::sys::threads::{futex_wake, now};
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

pub const AWAKE: u32 = 0;
pub const ASLEEP: u32 = 1;
pub const IN_RING: u32 = 2;
pub const WOKEN: u32 = 3;

/// In `Request::waiter`: more than one waiter wants it, wake them all.
pub const SEVERAL: u32 = u32::MAX;

/// The completion thread's waiter: the first slot that an engine takes.
pub const COMPLETION_THREAD: Number = 1;

/// Nanoseconds after which the completion thread, on duty, looks around unasked, and events count as left lying.
pub const PATIENCE: i64 = 100_000_000;

/// Events taken out of the ring at once.
pub const INBOX: usize = 64;

/// A thread that waits. Slots are never unmapped, so a late wake-up meets a word, perhaps another's.
pub struct Waiter {
    link: AtomicU32,
    pub word: AtomicU32,
    /// 1 while the word is ASLEEP and its owner may be invited to lead.
    pub may_lead: AtomicU32,
    /// Where the kernel puts events while this one leads. `data` is 0 in what is empty or processed.
    pub inbox: [EventCell; INBOX],
}

/// An event as atomics, so that slots can be shared; the kernel writes through `as_ptr`.
#[repr(C)]
pub struct EventCell {
    pub data: AtomicU64,
    obj: AtomicU64,
    pub res: AtomicU64,
    res2: AtomicU64,
}
const _: () = assert!(size_of::<EventCell>() == size_of::<IoEvent>());

// SAFETY: every member is an atomic; zero is AWAKE with an empty inbox.
unsafe impl Slot for Waiter {
    fn free_link(&self) -> &AtomicU32 {
        &self.link
    }
}

/// A lio_listio call whose end is waited for or notified.
#[derive(Default)]
pub struct Batch {
    link: AtomicU32,
    /// Requests not complete, plus one while the call itself is at work.
    pub pending: AtomicU32,
    /// Of these, what the ring has a part in: without `flag::OFF_RING`. Changed with that flag (`Engine::leave_ring`). Relaxed, as
    /// the flag is: a waiter that sees it late waits in the wrong place, where it is woken all the same.
    pub by_ring: AtomicU32,
    /// LIO_WAIT: the waiter's number while it sleeps.
    pub waiter: AtomicU32,
    /// References: one for the pending requests together, one for a waiting call.
    pub references: AtomicU32,
    /// 1 when a request of the batch ended in an error.
    pub failed: AtomicU32,
    /// LIO_NOWAIT: the request that carries the notification, or 0.
    pub carrier: Cell32,
}

// SAFETY: every member is an atomic; zero is an unused batch.
unsafe impl Slot for Batch {
    fn free_link(&self) -> &AtomicU32 {
        &self.link
    }
}

/// Wakes one waiter, wherever it sleeps. Async-signal-safe.
pub fn wake(engine: &Engine, number: Number) {
    let Some(waiter) = engine.waiters.get(number) else {
        return;
    };
    match waiter.word.swap(WOKEN, Ordering::SeqCst) {
        ASLEEP => futex_wake(&waiter.word, 1),
        IN_RING if engine.ring.kick().is_err() => {
            engine.kick_failed.store(1, Ordering::SeqCst);
            if number != COMPLETION_THREAD {
                wake(engine, COMPLETION_THREAD);
            }
        }
        _ => {}
    }
}

/// Wakes whoever a completed request's `waiter` member names.
#[inline]
pub fn wake_named(engine: &Engine, named: u32) {
    match named {
        0 => {}
        SEVERAL => (1..=engine.waiters.used()).for_each(|number| wake(engine, number)),
        number => wake(engine, number),
    }
}

/// After leading, or after waiting: when nobody leads, sees to it that somebody does who must. While something is
/// owed that is the completion thread: a follower that is woken to lead just when a signal for it arrives
/// does not notice that its handler ran.
pub fn hand_over(engine: &Engine) {
    if engine.leader.load(Ordering::SeqCst) != 0 {
        return;
    }
    if engine.owed.load(Ordering::SeqCst) != 0 {
        return wake(engine, COMPLETION_THREAD);
    }
    if engine.followers.load(Ordering::SeqCst) != 0 {
        let _ = (COMPLETION_THREAD + 1..=engine.waiters.used()).any(|number| invite(engine, number));
    }
}

/// Wakes a follower so that it leads; false when it does not sleep as one.
fn invite(engine: &Engine, number: Number) -> bool {
    let Some(waiter) = engine.waiters.get(number) else {
        return false;
    };
    let asleep = waiter.may_lead.load(Ordering::SeqCst) == 1
        && waiter.word.compare_exchange(ASLEEP, WOKEN, Ordering::SeqCst, Ordering::SeqCst).is_ok();
    if asleep {
        futex_wake(&waiter.word, 1);
    }
    asleep
}

/// Something is owed from now on: the completion thread must be on duty unless somebody leads.
pub fn owe(engine: &Engine) {
    if engine.owed.fetch_add(1, Ordering::SeqCst) == 0 && engine.leader.load(Ordering::SeqCst) == 0 {
        wake(engine, COMPLETION_THREAD);
    }
}

/// From now on, and until it is complete, the request may complete without the ring.
pub fn hold(engine: &Engine, request: &Request) {
    if !request.has(flag::COUNTED) {
        request.add(flag::COUNTED);
        // SeqCst: a leader that counts on the ring alone looks here (`wake`, rule 2).
        engine.held.fetch_add(1, Ordering::SeqCst);
    }
}

/// The request's progress is owed, whoever waits or does not.
pub fn owe_request(engine: &Engine, request: &Request) {
    if !request.has(flag::OWED) {
        request.add(flag::OWED);
        owe(engine);
    }
}

/// The opposite of [`owe`].
pub fn settle(engine: &Engine) {
    engine.owed.fetch_sub(1, Ordering::SeqCst);
}

/// Tries to become the leader. Signals must be blocked.
pub fn try_lead(engine: &Engine, me: u64) -> bool {
    let leader = engine.leader.load(Ordering::SeqCst);
    // Its own name: this thread led, and a handler on top of it, or a clean-up handler after
    // its cancellation, wants to lead now. The frame below holds no event outside its inbox.
    leader == me
        || leader == 0 && engine.leader.compare_exchange(0, me, Ordering::SeqCst, Ordering::SeqCst).is_ok()
}

/// Whether completions have been lying in the ring for [`PATIENCE`] and nobody takes them: whoever leads
/// is kept from it by a signal handler, or left by siglongjmp.
pub fn is_stalled(engine: &Engine) -> bool {
    let now = now();
    let now = now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64;
    let head = u64::from(engine.ring.head());
    let seat = engine.waiters.get(engine.seat.load(Ordering::Relaxed));
    let taken = seat.is_some_and(|waiter| waiter.inbox[0].data.load(Ordering::Relaxed) != 0);
    if !(taken || engine.ring.has_events()) || engine.stall_head.swap(head, Ordering::Relaxed) != head {
        engine.stall_since.store(now, Ordering::Relaxed);
        return false;
    }
    now.saturating_sub(engine.stall_since.load(Ordering::Relaxed)) > PATIENCE as u64
}

/// Takes the leadership from whoever has it; for when `is_stalled`. Signals must be blocked.
pub fn take_over(engine: &Engine, me: u64) -> bool {
    let leader = engine.leader.load(Ordering::SeqCst);
    let taken = engine.leader.compare_exchange(leader, me, Ordering::SeqCst, Ordering::SeqCst).is_ok();
    if taken {
        // The kernel may be just putting events into the other's inbox, of which `reap::rescue` must not see half.
        engine.ring.let_others_finish();
    }
    taken
}

/// Stops leading, unless the leadership was taken over meanwhile.
pub fn stop_leading(engine: &Engine, me: u64) {
    let _ = engine.leader.compare_exchange(me, 0, Ordering::SeqCst, Ordering::SeqCst);
}
