//! Queues that one thread leaves to others: to helpers, which have copies of descriptors, and to the completion
//! thread, which has the epoll instance.

use super::attempt::Reach;
use super::{drive, watch_or_wait, Queue};
use crate::engine::Engine;
use crate::lock::{Blocked, Guard};
use crate::pins::{have_copies, Pins};
use crate::pool::{Cell32, Number};
use crate::threads::Role;
use crate::wake::{wake, COMPLETION_THREAD};
use crate::worklist;
use core::sync::atomic::Ordering;

/// Queues one after the other, linked by `next_handed`. A queue stands in one line at most.
#[derive(Default)]
pub(super) struct Line {
    first: Cell32,
    last: Cell32,
}

impl Line {
    fn is_empty(&self) -> bool {
        self.first.get() == 0
    }

    fn push(&self, engine: &Engine, at: Number, queue: &Queue) {
        queue.next_handed.set(0);
        match engine.polls.queues.get(self.last.get()) {
            Some(last) if !self.is_empty() => last.next_handed.set(at),
            _ => self.first.set(at),
        }
        self.last.set(at);
    }

    /// Takes the first out, if there is one; it may have nothing left.
    fn pop<'e>(&self, engine: &'e Engine) -> Option<(Number, &'e Queue)> {
        let at = self.first.get();
        let queue = engine.polls.queues.get(at)?;
        self.first.set(queue.next_handed.get());
        queue.handed.set(0);
        Some((at, queue))
    }
}

/// Whether helpers have what others lack, copies of descriptors, and not all of them are at work that may take long.
pub(super) fn helpers_can(engine: &Engine) -> bool {
    have_copies(engine) && engine.work.has_one_to_spare()
}

/// The next helper tries for the queue.
pub(super) fn give_to_helpers(engine: &Engine, guard: &Guard, at: Number, queue: &Queue) {
    if queue.handed.get() == 0 {
        queue.handed.set(1);
        engine.polls.ready.push(engine, at, queue);
        worklist::call_any_helper(engine, guard);
    }
}

pub(super) fn give_to_completion_thread(engine: &Engine, guard: Guard, at: Number, queue: &Queue) {
    if queue.handed.get() == 0 {
        queue.handed.set(1);
        engine.polls.unwatched.push(engine, at, queue);
        drop(guard);
        wake(engine, COMPLETION_THREAD);
    }
}

/// Whether there is a queue for a helper to go on with. With the lock held.
pub fn has_ready(engine: &Engine) -> bool {
    !engine.polls.ready.is_empty()
}

/// For a helper: goes on with one queue that was given to it. False: there is none.
pub fn drive_ready(engine: &Engine, blocked: &Blocked, pins: &mut Pins) -> bool {
    let guard = engine.lock.lock(blocked);
    let Some((at, queue)) = engine.polls.ready.pop(engine) else {
        return false;
    };
    if queue.busy.get() == 0 && queue.armed.get() == 0 {
        drive(engine, blocked, guard, at, queue, &mut Reach::Copy(pins));
        // It must not keep a pipe or socket open that the program closes.
        pins.release();
    }
    true
}

/// Whether helpers left queues to be watched. With the lock held.
pub fn has_unwatched(engine: &Engine, _: &Guard) -> bool {
    !engine.polls.unwatched.is_empty()
}

/// For the completion thread: has the epoll instance watch what helpers left.
pub fn watch_unwatched(engine: &Engine, blocked: &Blocked) {
    loop {
        let guard = engine.lock.lock(blocked);
        // The system may have had no thread to give.
        let no_helper = engine.alive[Role::Helper as usize].load(Ordering::SeqCst) == 0;
        let left = if no_helper { engine.polls.ready.pop(engine) } else { None };
        let Some((at, queue)) = left.or_else(|| engine.polls.unwatched.pop(engine)) else {
            return;
        };
        let number = queue.waiting.first();
        if number == 0 {
            engine.polls.forget_if_idle(at, queue);
        } else if queue.busy.get() != 0 || queue.armed.get() != 0 {
            // It went on by itself meanwhile.
        } else if no_helper || !have_copies(engine) {
            drive(engine, blocked, guard, at, queue, &mut Reach::Number);
        } else {
            watch_or_wait(engine, &guard, queue, number);
        }
    }
}
