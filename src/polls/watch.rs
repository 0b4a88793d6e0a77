//! The epoll instance: for queues that find no place in the ring, and for what IOCB_CMD_POLL refuses.

use super::attempt::leads_there;
use super::lines::give_to_helpers;
use super::{
    bucket_of, direction_of, disarm, events_of, goes_on, PollTable, Queue, ARMED_BY_WATCH, ARMED_IN_RING,
    BUCKETS, WATCH_EVENT,
};
use crate::engine::Engine;
use crate::errno::Errno;
use crate::lock::{Blocked, Guard};
use crate::sys::aio_abi::{cmd, Iocb};
use crate::sys::files::{self, Direction};
use crate::sys::threads::now;
use crate::wake::{wake, COMPLETION_THREAD};

/// What the instance is to watch a descriptor for: both directions have a queue, perhaps.
fn watched_events(polls: &PollTable, bucket: usize, fd: u32) -> i16 {
    let mut events = 0;
    let mut number = polls.buckets[bucket].get();
    while let Some(queue) = polls.queues.get(number) {
        if queue.fd.get() == fd && queue.armed.get() == ARMED_BY_WATCH {
            events |= events_of(direction_of(queue));
        }
        number = queue.chain.get();
    }
    events
}

/// Tells the instance what to watch the queue's descriptor for, now that the queue itself is armed or not. ECANCELED: the
/// number leads to another file by now, which others may wait for; closed, ours is not watched any more.
fn tell(polls: &PollTable, queue: &Queue) -> Result<(), Errno> {
    let (instance, fd) = (polls.watch.get() as i32 - 1, queue.fd.get());
    if !files::status(fd as i32).is_ok_and(|status| status.identity == queue.identity()) {
        return Err(Errno::CANCELED);
    }
    let bucket = bucket_of(queue.identity());
    match watched_events(polls, bucket, fd) {
        0 => {
            files::epoll_forget(instance, fd as i32);
            Ok(())
        }
        events => files::epoll_watch_once(instance, fd as i32, events, (bucket as u64) << 32 | u64::from(fd)),
    }
}

/// Lets the epoll instance watch the descriptor: for when the ring has no place to spare.
pub(super) fn watch(engine: &Engine, queue: &Queue) -> bool {
    let polls = &engine.polls;
    queue.armed.set(ARMED_BY_WATCH);
    let watched = match tell(polls, queue) {
        Ok(()) => true,
        // The descriptor was closed, not the instance.
        Err(Errno::BADF) if files::status_flags(polls.watch.get() as i32 - 1).is_ok() => false,
        // A program that closes what it does not know may have closed our instance: make another.
        Err(Errno::BADF | Errno::INVAL) => renew(polls) && tell(polls, queue).is_ok(),
        Err(_) => false,
    };
    if !watched {
        queue.armed.set(0);
        return false;
    }
    polls.watched.set(polls.watched.get() + 1);
    arm_watch(engine);
    true
}

/// The queue of a cancelled request is not watched any more; the other direction of its descriptor is.
pub(super) fn unwatch(engine: &Engine, queue: &Queue) {
    queue.armed.set(0);
    engine.polls.watched.set(engine.polls.watched.get() - 1);
    let _ = tell(&engine.polls, queue);
}

/// For a queue that waits, with the program's descriptors in sight: its number may lead to another descriptor of the same
/// file than the one that is watched, which is closed.
pub(super) fn watch_again(engine: &Engine, queue: &Queue) {
    if queue.armed.get() == ARMED_BY_WATCH {
        let _ = tell(&engine.polls, queue);
    }
}

/// Queues that are looked at in one second at the most.
const LOOKS: u32 = 256;

/// For the completion thread, which looks at least once a second while something is owed: a descriptor that is closed is
/// not watched any more, and its requests are to be cancelled. And writes are tried again: poll says nothing of an AF_UNIX socket
/// that is shut down for writing while it is full (unix_poll), by either side, though a write fails then.
pub fn look_at_watched(engine: &Engine, blocked: &Blocked) {
    let polls = &engine.polls;
    let guard = engine.lock.lock(blocked);
    if polls.watched.get() == 0 && polls.writes_in_ring.get() == 0 {
        return;
    }
    let (second, used) = (now().tv_sec as u64, polls.queues.used());
    if polls.looked.get() == second {
        return;
    }
    polls.looked.set(second);
    for _ in 0..LOOKS.min(used) {
        let at = polls.look_next.get() % used + 1;
        polls.look_next.set(at);
        let Some(queue) = polls.queues.get(at) else { continue };
        let writes = direction_of(queue) == Direction::Write;
        match queue.armed.get() {
            // Its event lets the queue go on.
            ARMED_IN_RING if writes => disarm(engine, queue),
            ARMED_BY_WATCH if !writes && leads_there(engine.request(queue.waiting.first())) => {
                watch_again(engine, queue);
            }
            ARMED_BY_WATCH => {
                unwatch(engine, queue);
                give_to_helpers(engine, &guard, at, queue);
            }
            _ => {}
        }
    }
}

/// A new instance, which watches all that the old one did.
fn renew(polls: &PollTable) -> bool {
    let Ok(instance) = files::epoll_create() else {
        return false;
    };
    polls.watch.set(instance as u32 + 1);
    polls.watch_armed.set(0);
    for queue in (1..=polls.queues.used()).filter_map(|number| polls.queues.get(number)) {
        if queue.armed.get() == ARMED_BY_WATCH {
            let _ = tell(polls, queue);
        }
    }
    true
}

/// Has the ring tell of the instance. Where it cannot be armed now the completion thread tries again.
fn arm_watch(engine: &Engine) {
    if !try_arm(engine) {
        wake(engine, COMPLETION_THREAD);
    }
}

/// For the completion thread: arms what could not be armed. False: it still cannot.
pub fn rearm_watch(engine: &Engine, blocked: &Blocked) -> bool {
    let _guard = engine.lock.lock(blocked);
    engine.polls.watched.get() == 0 || try_arm(engine)
}

/// Whether `rearm_watch` has something to do. With the lock held.
pub fn is_watch_unarmed(engine: &Engine, _: &Guard) -> bool {
    engine.polls.watched.get() != 0 && engine.polls.watch_armed.get() == 0
}

fn try_arm(engine: &Engine) -> bool {
    let polls = &engine.polls;
    if polls.watch_armed.get() != 0 {
        return true;
    }
    // One place beyond the limit: the ring has some to spare for this and for kicks.
    let iocb = Iocb {
        data: WATCH_EVENT,
        opcode: cmd::POLL,
        fildes: polls.watch.get() - 1,
        buf: libc::POLLIN as u64,
        ..Iocb::default()
    };
    let armed = engine.ring.submit_own(&mut { iocb }).is_ok();
    polls.watch_armed.set(u32::from(armed));
    armed
}

/// The epoll instance has ready descriptors.
pub fn watch_event(engine: &Engine, blocked: &Blocked) {
    let polls = &engine.polls;
    let guard = engine.lock.lock(blocked);
    polls.watch_armed.set(0);
    let instance = polls.watch.get() as i32 - 1;
    drop(guard);
    let mut ready = [0; 64];
    let Ok(count) = files::epoll_ready(instance, &mut ready) else {
        // Closed: the kernel's poll kept it alive until now. What it knew a new one will say again.
        let _guard = engine.lock.lock(blocked);
        if polls.watched.get() != 0 && renew(polls) {
            arm_watch(engine);
        }
        return;
    };
    for &told in &ready[..count] {
        let (bucket, fd) = ((told >> 32) as usize % BUCKETS, told as u32);
        // Both directions of a descriptor, and uses of its number from before it was closed.
        let mut woken = [0; 8];
        let guard = engine.lock.lock(blocked);
        let mut number = polls.buckets[bucket].get();
        for place in &mut woken {
            while let Some(queue) = polls.queues.get(number) {
                if queue.fd.get() == fd && queue.armed.get() == ARMED_BY_WATCH {
                    break;
                }
                number = queue.chain.get();
            }
            let Some(queue) = polls.queues.get(number) else {
                break;
            };
            *place = number;
            number = queue.chain.get();
            queue.armed.set(0);
            queue.busy.set(1);
            polls.watched.set(polls.watched.get() - 1);
        }
        drop(guard);
        for at in woken.into_iter().filter(|&at| at != 0) {
            goes_on(engine, blocked, at);
        }
    }
    let _guard = engine.lock.lock(blocked);
    if polls.watched.get() != 0 {
        arm_watch(engine);
    }
}
