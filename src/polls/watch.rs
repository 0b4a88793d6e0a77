//! The epoll instance: for queues that find no place in the ring, and for what IOCB_CMD_POLL refuses.

use super::{bucket_of, direction_of, events_of, goes_on, Queue, ARMED_BY_WATCH, BUCKETS, WATCH_EVENT};
use crate::engine::Engine;
use crate::lock::Blocked;
use crate::sys::aio_abi::{cmd, Iocb};
use crate::sys::files;

/// Lets the epoll instance watch the descriptor: for when the ring has no place to spare.
pub(super) fn watch(engine: &Engine, queue: &Queue) -> bool {
    let polls = &engine.polls;
    let fd = queue.fd.get() as i32;
    let mut events = 0;
    let bucket = bucket_of(queue.identity());
    let mut number = polls.buckets[bucket].get();
    while let Some(other) = polls.queues.get(number) {
        if other.fd.get() == fd as u32 && other.armed.get() == ARMED_BY_WATCH {
            events |= events_of(direction_of(other));
        }
        number = other.chain.get();
    }
    events |= events_of(direction_of(queue));
    for fresh in [false, true] {
        if polls.watch.get() == 0 || fresh {
            let Ok(instance) = files::epoll_create() else {
                return false;
            };
            polls.watch.set(instance as u32 + 1);
            polls.watch_armed.set(0);
        }
        // A program that closes what it does not know may have closed our instance: make another.
        if files::epoll_watch_once(
            polls.watch.get() as i32 - 1,
            fd,
            events,
            (bucket as u64) << 32 | fd as u64,
        )
        .is_ok()
        {
            queue.armed.set(ARMED_BY_WATCH);
            polls.watched.set(polls.watched.get() + 1);
            return arm_watch(engine);
        }
    }
    false
}

fn arm_watch(engine: &Engine) -> bool {
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
    let armed = engine.ring.submit_one(&mut { iocb }).is_ok();
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
    let count = files::epoll_ready(instance, &mut ready);
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
