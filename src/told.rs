//! What an eventfd has counted can be seen by whoever it woke.
//!
//! The kernel counts itself (IOCB_FLAG_RESFD), as soon as a request's event is in the ring. Where nobody leads, who then
//! asks takes the event out and stores the status. Where another thread leads, that one takes it, and who asks waits for
//! it here: some microseconds, for it has been woken already, does not block, and has its signals blocked.
//!
//! An event moves from the ring into the leader's inbox, from there into the leader's hands, and becomes a status. Who
//! looks in this order does not miss it. In the leader's hands there is something while its word is not `IN_RING`.

use crate::abi::AiocbRef;
use crate::engine::Engine;
use crate::fork;
use crate::lock::Blocked;
use crate::reap::reap_now;
use crate::request::{find, flag, Handle};
use crate::sys::threads::{futex_wait, later, now};
use crate::wake::{Waiter, IN_RING};
use core::sync::atomic::{AtomicU32, Ordering};

/// Looks before the first pause; then one after each pause.
const EAGER: u32 = 100;
/// Nanoseconds: less than a program would notice, enough for the other thread to run where there is one processor.
const PAUSE: i64 = 20_000;
/// A leader that is kept from its work by a signal handler, or by a debugger, is passed over (`wake::PATIENCE`) before this.
const LONGEST: i64 = 900_000_000;

/// For an aiocb that is in progress though `reap_if_any` was called: returns when its status is stored, unless it really
/// is in progress. Async-signal-safe.
#[inline]
pub fn see(engine: &Engine, aiocb: AiocbRef) {
    if somebody_takes(engine) {
        see_one(engine, aiocb);
    }
}

/// As `see`, for every request whose event was there when this was called.
#[inline]
pub fn see_all(engine: &Engine) {
    if somebody_takes(engine) {
        let tail = engine.ring.tail();
        let waiting = engine.ring.between(engine.ring.head(), tail);
        wait_while(engine, || {
            let left = engine.ring.between(engine.ring.head(), tail);
            left != 0 && left <= waiting || is_taken(engine, |_| true)
        });
    }
}

/// Whether completions may be with another thread. A new leader looks at the ring again before it leaves (`reap_now`).
fn somebody_takes(engine: &Engine) -> bool {
    engine.leader.load(Ordering::SeqCst) != 0 || engine.ring.has_events()
}

#[cold]
fn see_one(engine: &Engine, aiocb: AiocbRef) {
    let Some((handle, request)) = find(&engine.requests, aiocb) else { return };
    if request.has(flag::RESFD) {
        wait_while(engine, || aiocb.in_progress() && is_on_its_way(engine, handle));
    }
}

fn is_on_its_way(engine: &Engine, handle: Handle) -> bool {
    let in_ring = engine.ring.peek_since(engine.ring.head(), handle).is_some();
    in_ring || is_taken(engine, |data| data == handle)
}

/// Whether the leader has an event of this kind, or may have.
fn is_taken(engine: &Engine, wanted: impl Fn(Handle) -> bool) -> bool {
    if engine.leader.load(Ordering::SeqCst) == 0 {
        return false;
    }
    let Some(leader) = engine.waiters.get(engine.seat.load(Ordering::SeqCst)) else {
        return true;
    };
    let has = |waiter: &Waiter| {
        let data = waiter.inbox.iter().map(|event| event.data.load(Ordering::SeqCst));
        data.into_iter().any(|data| data != 0 && wanted(data))
    };
    // The inbox first: its events are taken out of it after the word has changed.
    has(leader) || leader.word.load(Ordering::SeqCst) != IN_RING
}

fn wait_while(engine: &Engine, condition: impl Fn() -> bool) {
    /// Nobody wakes who sleeps on it.
    static NOBODY: AtomicU32 = AtomicU32::new(0);
    let longest = later(now(), LONGEST);
    let mut looks = 0;
    while condition() {
        looks += 1;
        if looks < EAGER {
            core::hint::spin_loop();
            continue;
        }
        let moment = now();
        let is_late = (moment.tv_sec, moment.tv_nsec) > (longest.tv_sec, longest.tv_nsec);
        // Not current: a handler forked on top of us, and in the child there is no other thread.
        if is_late || !fork::is_current(engine) {
            return;
        }
        // The other thread may have left meanwhile, or be held up.
        reap_now(engine, &Blocked::new());
        let _ = futex_wait(&NOBODY, 0, Some(&later(moment, PAUSE)));
    }
}
