//! What waits for a helper: files with queued writes, cold reads, errands, and the line before the ring.
//!
//! Pushed to by submitters and by whoever reaps; taken from by helper threads ([`crate::helpers`]) and by waiters that
//! would else sleep ([`crate::own_work`]). Everything here is guarded by the engine's lock.

use crate::engine::Engine;
use crate::lock::{Blocked, Guard};
use crate::observe::{self, Way};
use crate::order::{self, File};
use crate::polls;
use crate::pool::{Cell32, Cell64, Number};
use crate::request::{Handle, Home, List, HELD};
use crate::sys::files::Identity;
use crate::sys::threads::futex_wake;
use crate::wake::hold;
use core::sync::atomic::{AtomicU32, Ordering};

/// `Worklist::word`: nobody is to be woken.
pub const CALLED: u32 = 0;
/// `Worklist::word`: a helper looks by itself within LINGER.
pub const LINGERING: u32 = 1;
/// `Worklist::word`: a helper sleeps until it is called.
pub const SLEEPING: u32 = 2;
/// `Worklist::word`: a helper stands by and looks within STUCK.
pub const STANDING_BY: u32 = 3;

/// The work list. Guarded by the engine's lock, but for the atomics.
pub struct Worklist {
    /// Files with queued writes and nobody at work on them, linked by `next_runnable`.
    pub first_file: Cell32,
    last_file: Cell32,
    pub cold: List,
    errands: List,
    /// Threads alive, and the most there may be.
    pub threads: Cell32,
    pub most: u32,
    /// 1 while the helper on shift works. A helper that is stuck loses the shift to the one standing by.
    pub working: Cell32,
    pub shift: Cell32,
    /// What each helper at work works on: a device, marked `AT_WORK`.
    pub at_work: [Cell64; PLACES],
    /// The second, of the monotonic clock, in which so many were at work last that all helpers there are were wanted.
    pub needed: Cell64,
    /// 1: the system had no thread that would stand by. Set by helpers; the completion thread, which looks at least once a
    /// second while something is owed, asks again. Relaxed: it guards nothing. A forked child has an engine of its own.
    pub stand_by_refused: AtomicU32,
    /// 1: a waiter wants to collect its cold reads itself, as soon as the helper that is at them has done its present one.
    pub leave_cold: Cell32,
    /// Waiters that collect cold reads: unless it is called, a helper leaves such reads to them.
    pub collecting: Cell32,
    /// Counts what waiters did themselves.
    pub by_waiters: Cell32,
    /// Which kind of job comes next.
    turn: Cell32,
    /// Counts finished jobs: tells a stuck helper from a busy one.
    pub finished: Cell32,
    /// What idle helpers sleep on, and how the last of them that lay down does.
    pub word: AtomicU32,
    /// Helpers asleep on `word`.
    pub idle: Cell32,
}

/// One thing for a helper to do.
pub enum Job {
    /// Requests that wait for room in the ring, of which there is some.
    Line,
    Writes(Number),
    Cold(Number),
    Errand(Number),
}

impl Worklist {
    pub fn new(most: u32) -> Worklist {
        Worklist {
            first_file: Cell32::default(),
            last_file: Cell32::default(),
            cold: List::default(),
            errands: List::default(),
            threads: Cell32::default(),
            most,
            working: Cell32::default(),
            shift: Cell32::default(),
            at_work: [const { Cell64::new(0) }; PLACES],
            needed: Cell64::new(0),
            stand_by_refused: AtomicU32::new(0),
            leave_cold: Cell32::default(),
            collecting: Cell32::default(),
            by_waiters: Cell32::default(),
            turn: Cell32::default(),
            finished: Cell32::default(),
            word: AtomicU32::new(CALLED),
            idle: Cell32::default(),
        }
    }

    pub fn has_work(&self, engine: &Engine) -> bool {
        line_can_move(engine)
            || self.first_file.get() != 0
            || !self.cold.is_empty()
            || !self.errands.is_empty()
            || polls::has_ready(engine)
    }

    /// Whether a helper is not at work on what may take long. The first one may not have been counted yet (`threads`).
    pub fn has_one_to_spare(&self) -> bool {
        let threads = self.threads.get();
        threads == 0 || threads > self.count_at_work()
    }

    /// Helpers at work.
    pub fn count_at_work(&self) -> u32 {
        self.at_work.iter().filter(|at| at.get() != 0).count() as u32
    }

    fn push_file(&self, engine: &Engine, number: Number) {
        let Some(file) = engine.files.get(number) else {
            return;
        };
        file.next_runnable.set(0);
        match engine.files.get(self.last_file.get()) {
            Some(last) if self.first_file.get() != 0 => last.next_runnable.set(number),
            _ => self.first_file.set(number),
        }
        self.last_file.set(number);
    }

    /// The next job, the kinds in turn, so that none keeps the others waiting. `stale`: of what a waiter may do itself
    /// only that which has not moved since it was first.
    pub fn pop(&self, engine: &Engine, stale: Option<Heads>) -> Option<Job> {
        let turn = self.turn.get();
        self.turn.set(turn.wrapping_add(1));
        let now = self.heads(engine);
        let (writes, cold) = stale.map_or((true, true), |then| {
            let left = self.collecting.get() == 0 || then.looks >= MOST_LOOKS;
            (then.write == now.write, then.cold == now.cold && left)
        });
        (0..4).find_map(|step| match turn.wrapping_add(step) % 4 {
            0 => line_can_move(engine).then_some(Job::Line),
            1 if writes => self.pop_file(engine).map(Job::Writes),
            2 => self.pop_request(engine, &self.errands).map(Job::Errand),
            3 if cold => self.pop_request(engine, &self.cold).map(Job::Cold),
            _ => None,
        })
    }

    /// What is first in line of that which waiters may do themselves.
    pub fn heads(&self, engine: &Engine) -> Heads {
        let handle = |number| engine.requests.get(number).map_or(0, |request| request.handle(number));
        let write = engine.files.get(self.first_file.get()).map_or(0, |file| handle(file.queue.first()));
        Heads { write, cold: handle(self.cold.first()), looks: 0 }
    }

    /// The next cold read, for the helper that is at it already; `None` also when a waiter wants to go on with it.
    pub fn pop_cold(&self, engine: &Engine) -> Option<Number> {
        if self.leave_cold.get() != 0 {
            return None;
        }
        self.pop_request(engine, &self.cold)
    }

    fn pop_file(&self, engine: &Engine) -> Option<Number> {
        let mut before: Option<&File> = None;
        let mut number = self.first_file.get();
        while let Some(file) = engine.files.get(number) {
            let next = file.next_runnable.get();
            let wanted = file.busy.get() == 0 && !file.queue.is_empty();
            if wanted && self.is_crowded(engine.request(file.queue.first()).identity()) {
                before = Some(file);
                number = next;
                continue;
            }
            match before {
                Some(before) => before.next_runnable.set(next),
                None => self.first_file.set(next),
            }
            if next == 0 {
                self.last_file.set(before.map_or(0, |before| before.number.get()));
            }
            file.listed.set(0);
            if wanted {
                file.busy.set(1);
                return Some(number);
            }
            // Somebody is at it, who lists it again when there is more; or a waiter did it all.
            order::forget_if_idle(engine, number, file);
            number = next;
        }
        None
    }

    fn pop_request(&self, engine: &Engine, list: &List) -> Option<Number> {
        let mut number = list.first();
        while number != 0 && self.is_crowded(engine.request(number).identity()) {
            number = engine.request(number).next();
        }
        if number != 0 {
            list.remove(&engine.requests, number);
        }
        (number != 0).then_some(number)
    }

    /// Whether so many helpers are at work on a device already that it must be stuck: the others are for the rest.
    fn is_crowded(&self, identity: Identity) -> bool {
        let most = self.most.min(PLACES as u32) / 2;
        self.threads.get() > most
            && self.at_work.iter().filter(|at| at.get() == identity.device | AT_WORK).count() as u32 >= most
    }
}

/// The oldest write and the oldest cold read in line, by handle; 0: none.
#[derive(Clone, Copy, Default)]
pub struct Heads {
    write: Handle,
    cold: Handle,
    /// Looks in a row that have found this cold read.
    looks: u32,
}

impl Heads {
    /// As they are `now`, after these.
    pub fn followed_by(self, now: Heads) -> Heads {
        let looks = if now.cold == self.cold { self.looks.saturating_add(1) } else { 0 };
        Heads { looks, ..now }
    }
}

/// After so many looks that find the same cold read a helper does not leave it to waiters any more, which collect others.
const MOST_LOOKS: u32 = 5;

/// Marks a device in `Worklist::at_work`: 0 is nobody.
pub const AT_WORK: u64 = 1 << 63;
/// Most helpers that there can be.
pub const PLACES: usize = 64;
/// Queues a write behind those of its file (`order::write_begins` counted it).
pub fn push_write(engine: &Engine, guard: &Guard, number: Number) {
    let request = engine.request(number);
    let Some(file) = engine.files.get(request.file.get()) else {
        return;
    };
    engine.leave_ring(request);
    observe::went(request, Way::Helper);
    hold(engine, request);
    request.set_state(HELD);
    file.queue.push_back(&engine.requests, number, Home::FileQueue);
    list_file(engine, request.file.get(), file);
    call_helper(engine, guard, request.notice.get() != 0 || file.queue.len() > 1);
}

fn list_file(engine: &Engine, number: Number, file: &File) {
    if file.busy.get() == 0 && file.listed.get() == 0 && !file.queue.is_empty() {
        file.listed.set(1);
        engine.work.push_file(engine, number);
    }
}

/// Queues a read that the page cache could not serve.
pub fn push_cold(engine: &Engine, guard: &Guard, number: Number) {
    let request = engine.request(number);
    engine.leave_ring(request);
    observe::went(request, Way::Helper);
    hold(engine, request);
    request.set_state(HELD);
    engine.work.cold.push_back(&engine.requests, number, Home::Cold);
    call_helper(engine, guard, request.notice.get() != 0);
}

/// A cold read that a waiter took out, and that it would have to wait for.
pub fn put_back_cold(engine: &Engine, guard: &Guard, number: Number) {
    engine.request(number).set_state(HELD);
    engine.work.cold.push_front(&engine.requests, number, Home::Cold);
    call_helper(engine, guard, engine.request(number).notice.get() != 0);
}

/// Queues anything else that may wait.
pub fn push_errand(engine: &Engine, guard: &Guard, number: Number) {
    observe::went(engine.request(number), Way::Helper);
    hold(engine, engine.request(number));
    engine.request(number).set_state(HELD);
    engine.work.errands.push_back(&engine.requests, number, Home::Errand);
    call_helper(engine, guard, true);
}

/// A waiter does the next job itself.
pub fn done_by_waiter(engine: &Engine, _: &Guard) {
    engine.work.by_waiters.set(engine.work.by_waiters.get().wrapping_add(1));
}

/// Takes a cancelled request out of its list of ours.
pub fn withdraw(engine: &Engine, _: &Guard, number: Number) {
    let request = engine.request(number);
    match request.home() {
        Home::Cold => engine.work.cold.remove(&engine.requests, number),
        Home::Errand => engine.work.errands.remove(&engine.requests, number),
        Home::FileQueue => {
            if let Some(file) = engine.files.get(request.file.get()) {
                file.queue.remove(&engine.requests, number);
            }
        }
        _ => {}
    }
}

fn line_can_move(engine: &Engine) -> bool {
    engine.overflowing.load(Ordering::Relaxed) != 0 && engine.ring.has_room()
}

/// After completions were taken out: lets a helper move waiting requests into the ring.
#[inline]
pub fn call_for_line(engine: &Engine, blocked: &Blocked) {
    if line_can_move(engine) {
        let guard = engine.lock.lock(blocked);
        call_helper(engine, &guard, true);
    }
}

/// As `call_for_line`, with the lock held.
pub fn call_if_line_can_move(engine: &Engine, guard: &Guard) {
    if line_can_move(engine) {
        call_helper(engine, guard, true);
    }
}

/// A thread goes to sleep that could not do itself what it waits for: a helper that leaves such things to waiters
/// for a while is to begin. Async-signal-safe.
pub fn hurry(engine: &Engine) {
    if engine.work.word.load(Ordering::Relaxed) == LINGERING {
        let blocked = Blocked::new();
        let guard = engine.lock.lock(&blocked);
        if engine.work.has_work(engine) {
            call_helper(engine, &guard, true);
        }
    }
}

/// A thread waits: its program does not poll.
pub fn waits(engine: &Engine) {
    engine.asked.store(0, Ordering::Relaxed);
}

/// A program asks for a request that is not complete. When it asks more often than once for each that a helper may hold,
/// and waits for none, it polls: the helper is to begin. Async-signal-safe.
#[inline]
pub fn asked(engine: &Engine) {
    let held = engine.held.load(Ordering::Relaxed);
    if held != 0 && engine.asked.fetch_add(1, Ordering::Relaxed) > held {
        waits(engine);
        hurry(engine);
    }
}

/// Wakes an idle helper. When none of `urgent` holds, one that lingers finds the work by itself soon.
pub fn call_helper(engine: &Engine, _: &Guard, urgent: bool) {
    let helpers = &engine.work;
    if helpers.idle.get() == 0 {
        if urgent {
            helpers.word.store(CALLED, Ordering::Relaxed);
        }
        return;
    }
    let word = helpers.word.load(Ordering::Relaxed);
    if word == SLEEPING || word == LINGERING && urgent {
        helpers.word.store(CALLED, Ordering::Relaxed);
        futex_wake(&helpers.word, 1);
    }
}

/// Wakes an idle helper for what takes no time, also one that stands by. All that are awake look by themselves.
pub fn call_any_helper(engine: &Engine, _: &Guard) {
    if engine.work.idle.get() != 0 {
        engine.work.word.store(CALLED, Ordering::Relaxed);
        futex_wake(&engine.work.word, 1);
    }
}

/// Done with a file's queue: others may work on what has come since.
pub fn leave_file(engine: &Engine, guard: &Guard, number: Number, file: &File) {
    file.busy.set(0);
    if !file.queue.is_empty() {
        list_file(engine, number, file);
        call_helper(engine, guard, true);
    }
    order::forget_if_idle(engine, number, file);
}
