//! Helper threads: they do what would make a caller wait.
//!
//! Three kinds of work, taken in turn: files with queued writes (`order`), cold reads (started by
//! the caller's read-ahead, collected here in order), and errands: requests that the kernel would
//! only take by waiting, or transfers on descriptors that know no other way.
//!
//! # How many
//!
//! One thread works; more were slower on disks, because they fight for the same locks. A second one
//! stands by: it sleeps until nothing was finished for [`STUCK`] although work waits. Then it
//! works too, and calls up another to stand by, so that a hung file system holds up what is on it
//! and nothing else, up to `most` threads. When all but two of them have been idle for a second those end, also while the
//! rest have work: calls go to the sleepers in turn, so that under load none of them would ever sleep for a second.
//!
//! # Writes
//!
//! A write runs as `pwrite` in the helper, not as `io_submit` to the ring. Both copy the data in the calling thread, and
//! fio at depth 16 saw no difference: 57,000 to 109,000 writes a second by io_submit and 75,000 to 107,000 by pwrite
//! in three alternating rounds on a busy machine, with 14,000 to 28,000 context switches for 100,000 writes either way
//! (glibc: 68,000 to 75,000 a second, 62,000 to 89,000 switches). But a write that never enters the
//! ring takes none of its places, has its status stored before the next one starts, and lets a waiter run it itself.
//! A waiter is woken at the end of a batch, not for each write.
//!
//! # Waiters that work
//!
//! A thread that would sleep for a write at the head of an idle file's queue, or for a cold read, runs
//! it itself ([`crate::own_work`]): no context switch at all. So a helper leaves both to waiters for a while: it lingers for
//! [`LINGER`], and takes what nobody has touched since it looked last. It begins at once when it is called: for a request that
//! is to be notified, by a waiter that cannot do it itself, by a program that polls ([`crate::worklist::asked`]). One that
//! collects cold reads leaves off when a waiter wants to go on.

use crate::admission;
use crate::complete::{complete, complete_quietly};
use crate::direct;
use crate::engine::Engine;
use crate::errno::Errno;
use crate::lock::{Blocked, Guard};
use crate::observe;
use crate::order;
use crate::pins::Pins;
use crate::polls;
use crate::pool::Number;
use crate::request::{Operation, RUNNING};
use crate::stand_in::{transfer_pinned, without_copy};
use crate::sys::files::{lock_pages, synchronise};
use crate::sys::threads::{self, futex_wait, later};
use crate::threads::{may_end, start_helper, Role, IDLE};
use crate::transfers::{transfer_ready, transfer_rest};
use crate::wake::wake_named;
use crate::worklist::{
    call_any_helper, leave_file, Heads, Job, Worklist, AT_WORK, CALLED, LINGERING, SLEEPING, STANDING_BY,
};
use core::sync::atomic::Ordering;

/// Nanoseconds without a finished job after which a helper counts as stuck.
const STUCK: i64 = 20_000_000;
/// Nanoseconds that a helper waits for a waiter to do the work, and how often in a row before it sleeps.
const LINGER: i64 = 200_000;
const LINGERS: u32 = 4;
/// As `LINGER`, after one in which waiters did some of the work.
const LONG_LINGER: i64 = 800_000;
/// Writes of one file after which other work has its turn.
const TURN: u32 = 256;
/// Writes after which a waiter is woken though more are queued.
const BATCH: u32 = 8;

/// A helper thread's life, which ends after a second without any request.
pub fn helper_thread(engine: &'static Engine) {
    let helpers = &engine.work;
    let mut pins = Pins::new(engine);
    let blocked = Blocked::helper(pins.own_table());
    let (mut lingered, mut stuck, mut called) = (0, false, true);
    let (mut seen, mut by_waiters) = (Heads::default(), 0);
    loop {
        if polls::drive_ready(engine, &blocked, &mut pins) {
            lingered = 0;
            continue;
        }
        let guard = engine.lock.lock(&blocked);
        if polls::has_ready(engine) {
            continue;
        }
        if helpers.working.get() == 0 || stuck {
            let stale = (!called && !stuck).then_some(seen);
            if let Some(job) = helpers.pop(engine, stale) {
                let goes_on = work(engine, &blocked, guard, &mut pins, job);
                (lingered, stuck) = (0, false);
                called = goes_on || helpers.word.load(Ordering::Relaxed) == CALLED;
                continue;
            }
        }
        seen = seen.followed_by(helpers.heads(engine));
        let waiters_work = by_waiters != helpers.by_waiters.get();
        by_waiters = helpers.by_waiters.get();
        if waiters_work {
            lingered = 0;
        }
        let has_work = helpers.has_work(engine);
        let now = threads::now();
        if is_spare(helpers, now.tv_sec) {
            helpers.threads.set(helpers.threads.get() - 1);
            // Another one lies down anew, in this one's place.
            call_any_helper(engine, &guard);
            return;
        }
        let standing_by = helpers.working.get() != 0 && has_work;
        let finished = helpers.finished.get();
        let (word, limit) = match (standing_by, has_work || lingered < LINGERS) {
            (true, _) => (STANDING_BY, STUCK),
            (false, true) if waiters_work => (LINGERING, LONG_LINGER),
            (false, true) => (LINGERING, LINGER),
            (false, false) => (SLEEPING, IDLE),
        };
        helpers.idle.set(helpers.idle.get() + 1);
        helpers.word.store(word, Ordering::Relaxed);
        drop(guard);
        pins.release();
        let slept = futex_wait(&helpers.word, word, Some(&later(now, limit)));
        let guard = engine.lock.lock(&blocked);
        helpers.idle.set(helpers.idle.get() - 1);
        lingered += 1;
        called = helpers.word.load(Ordering::Relaxed) == CALLED;
        stuck = standing_by && helpers.working.get() != 0 && helpers.finished.get() == finished;
        let idle = word == SLEEPING && slept == Err(Errno::TIMEDOUT);
        if idle && !helpers.has_work(engine) && leaves(engine, &guard) {
            return;
        }
    }
}

/// Helpers that stay though idle, while there are requests: one to work, one to stand by.
const STAYING: u32 = 2;

/// Whether an idle helper ends: one too many, or when no request is left in the process.
fn leaves(engine: &Engine, _: &Guard) -> bool {
    let threads = &engine.work.threads;
    let leaves = match threads.get() {
        0 | 1 => may_end(engine, Role::Helper),
        more => more > STAYING || engine.live.load(Ordering::SeqCst) == 0,
    };
    if leaves {
        threads.set(threads.get() - 1);
    }
    leaves
}

/// Whether so many helpers were idle for more than a second that one can end at once.
fn is_spare(helpers: &Worklist, second: i64) -> bool {
    let threads = helpers.threads.get();
    threads > STAYING
        && helpers.count_at_work() + STAYING <= threads
        && second > helpers.needed.get() as i64 + 1
}

/// Takes the shift and does one job. False: a waiter goes on with what is left of it.
fn work(engine: &'static Engine, blocked: &Blocked, guard: Guard, pins: &mut Pins, job: Job) -> bool {
    let helpers = &engine.work;
    let shift = helpers.shift.get().wrapping_add(1);
    helpers.shift.set(shift);
    helpers.working.set(1);
    let device = match job {
        Job::Line => 0,
        Job::Writes(file) => order::device_of(engine, file),
        Job::Cold(number) | Job::Errand(number) => {
            engine.request(number).set_state(RUNNING);
            engine.request(number).identity().device
        }
    };
    let place = helpers.at_work.iter().find(|at| at.get() == 0);
    if let Some(place) = place {
        place.set(device | AT_WORK);
    }
    let (at_work, threads) = (helpers.count_at_work(), helpers.threads.get());
    let stand_by_wanted = threads <= at_work && threads < helpers.most;
    if at_work >= STAYING && threads <= at_work + 1 {
        helpers.needed.set(threads::now().tv_sec as u64);
    }
    observe::helpers_at_work(at_work);
    drop(guard);
    if stand_by_wanted && start_helper(engine, blocked).is_err() {
        helpers.stand_by_refused.store(1, Ordering::Relaxed);
    }
    match job {
        Job::Line => direct::drain_line(engine, blocked, pins),
        Job::Writes(file) => run_writes(engine, blocked, pins, file),
        Job::Cold(number) => run_cold(engine, blocked, pins, number),
        Job::Errand(number) => run_errand(engine, blocked, pins, number),
    }
    let _guard = engine.lock.lock(blocked);
    if let Some(place) = place {
        place.set(0);
    }
    if helpers.shift.get() == shift {
        helpers.finished.set(helpers.finished.get().wrapping_add(1));
        helpers.working.set(0);
    }
    let left = helpers.leave_cold.get() != 0;
    helpers.leave_cold.set(0);
    !left
}

/// Asks again for a thread to stand by, if one was refused and is still missing. False: it is refused again. For the
/// completion thread.
pub fn retry_stand_by(engine: &'static Engine, blocked: &Blocked) -> bool {
    let helpers = &engine.work;
    if helpers.stand_by_refused.swap(0, Ordering::Relaxed) == 0 {
        return true;
    }
    let guard = engine.lock.lock(blocked);
    let threads = helpers.threads.get();
    let wanted = threads != 0 && !helpers.has_one_to_spare() && threads < helpers.most;
    drop(guard);
    if wanted && start_helper(engine, blocked).is_err() {
        helpers.stand_by_refused.store(1, Ordering::Relaxed);
        return false;
    }
    true
}

/// Runs a file's queued writes in order, and wakes waiters as rarely as it can.
fn run_writes(engine: &Engine, blocked: &Blocked, pins: &mut Pins, file_number: Number) {
    let Some(file) = engine.files.get(file_number) else {
        return;
    };
    let mut to_wake = 0;
    let mut unwoken = 0;
    let mut done = 0;
    loop {
        let guard = engine.lock.lock(blocked);
        let Some(number) = file.queue.pop_front(&engine.requests) else {
            leave_file(engine, &guard, file_number, file);
            drop(guard);
            wake_named(engine, to_wake);
            return;
        };
        let request = engine.request(number);
        request.set_state(RUNNING);
        let last = file.queue.is_empty();
        engine.work.finished.set(engine.work.finished.get().wrapping_add(1));
        drop(guard);
        let outcome = transfer_pinned(engine, number, pins);
        let waiter = complete_quietly(engine, blocked, number, outcome);
        if waiter != 0 && waiter != to_wake {
            wake_named(engine, to_wake);
            to_wake = waiter;
        }
        unwoken += 1;
        done += 1;
        if done >= TURN {
            let guard = engine.lock.lock(blocked);
            leave_file(engine, &guard, file_number, file);
            drop(guard);
            wake_named(engine, to_wake);
            return;
        }
        if last || unwoken >= BATCH {
            wake_named(engine, to_wake);
            (to_wake, unwoken) = (0, 0);
        }
    }
}

/// Collects cold reads in order. As long as the read-ahead has brought what the next one wants, nobody is woken for
/// the last; before this thread itself sleeps for the disk, those are who can go on.
fn run_cold(engine: &Engine, blocked: &Blocked, pins: &mut Pins, first: Number) {
    let mut to_wake = 0;
    let mut number = first;
    for turn in 0..TURN {
        let request = engine.request(number);
        let outcome = match transfer_ready(engine, request, pins) {
            Some(outcome) => outcome,
            None => {
                wake_named(engine, core::mem::take(&mut to_wake));
                transfer_pinned(engine, number, pins)
            }
        };
        let waiter = complete_quietly(engine, blocked, number, outcome);
        if waiter != 0 && waiter != to_wake {
            wake_named(engine, core::mem::replace(&mut to_wake, waiter));
        }
        if turn % BATCH == BATCH - 1 {
            wake_named(engine, core::mem::take(&mut to_wake));
        }
        let _guard = engine.lock.lock(blocked);
        let helpers = &engine.work;
        helpers.finished.set(helpers.finished.get().wrapping_add(1));
        let next = if turn + 1 < TURN { helpers.pop_cold(engine) } else { None };
        match next {
            Some(next) => number = next,
            None => break,
        }
        engine.request(number).set_state(RUNNING);
    }
    wake_named(engine, to_wake);
}

/// Submits what the kernel takes only by waiting, to the same ring; or transfers right here.
fn run_errand(engine: &Engine, blocked: &Blocked, pins: &mut Pins, number: Number) {
    let request = engine.request(number);
    if request.poll.get() != 0 {
        return polls::run_errand(engine, blocked, pins, number);
    }
    if request.operation() == Operation::Lock {
        return complete(engine, blocked, number, lock_pages(request.rest()));
    }
    let fd = match pins.pin(engine, request) {
        Ok(fd) => fd,
        Err(errno) => return complete(engine, blocked, number, without_copy(engine, number, errno)),
    };
    if request.operation().direction().is_none() {
        return match direct::submit_waiting(engine, number, request, fd) {
            Ok(()) => {}
            Err(Errno::AGAIN) if !engine.ring.is_empty() => admission::wait_for_room(engine, blocked, number),
            Err(Errno::AGAIN) => {
                // No completion is to come that would make room.
                let data_only = request.operation() == Operation::DataSync;
                complete(engine, blocked, number, synchronise(fd, data_only).map_err(Errno::of_accepted));
            }
            Err(errno) => complete(engine, blocked, number, Err(errno.of_accepted())),
        };
    }
    // Submitted, the request is the kernel's, or somebody has even reaped it: not to be touched any more.
    if direct::submit_waiting(engine, number, request, fd).is_err() {
        complete(engine, blocked, number, transfer_rest(request, fd));
    }
}
