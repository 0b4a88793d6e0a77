//! Waiting: `aio_suspend` and LIO_WAIT. The roles and the reasons are in `wake`.
//!
//! Both are cancellation points: libc unwinds a cancelled thread through the frames of this file. They hold
//! nothing with a destructor (signal masks are saved and put back by hand); what must be undone is
//! undone by [`cancelled`]. The functions are not `extern "C-unwind"`: with panic = "abort" rustc 1.95 puts a
//! landing pad that aborts around every call of such a function, and forced unwinding runs it. Without,
//! these frames have unwind tables and no landing pad, and libc passes through them as through C.

use crate::engine::Engine;
use crate::errno::{Errno, Outcome};
use crate::finished;
use crate::fork;
use crate::goal::Goal;
use crate::lock::Blocked;
use crate::own_work::run_own;
use crate::pool::Number;
use crate::reap;
use crate::sys::context::io_pgetevents;
use crate::sys::threads::{futex_wait, handlers_all_restart, now, self_id, set_mask, Mask};
use crate::threads::IDLE;
use crate::told;
use crate::wake::{hand_over, stop_leading, try_lead, Waiter, ASLEEP, AWAKE, INBOX, IN_RING};
use crate::worklist;
use core::cell::Cell;
use core::mem::ManuallyDrop;
use core::sync::atomic::Ordering;
use libc::{c_int, c_void, timespec};

/// One wait, as `cancelled` must know it.
struct Sleep<'a> {
    engine: &'a Engine,
    number: Number,
    waiter: &'a Waiter,
    goal: Goal,
    leads: Cell<bool>,
    /// The signal mask of the thread, while it leads.
    mask: Cell<Mask>,
    /// The waiter's number stands in requests.
    registered: Cell<bool>,
}

impl Sleep<'_> {
    fn register(&self) {
        self.registered.set(true);
        self.goal.register(self.engine, self.number);
    }
}

/// `aio_suspend` on a list that was not empty. Async-signal-safe, a cancellation point.
pub fn suspend(engine: &Engine, goal: Goal, deadline: Option<&timespec>) -> Result<(), Errno> {
    reap::reap_if_any(engine);
    if deadline.is_some() {
        goal.entries().filter(|aiocb| aiocb.in_progress()).for_each(|aiocb| told::see(engine, aiocb));
    }
    match goal.look(engine) {
        None => Ok(()),
        Some(_) => wait(engine, goal, deadline),
    }
}

/// The next completed request that nobody has returned: its aiocb's address and its result. `None`: the time-out
/// passed (EAGAIN), a handler ran (EINTR). As `suspend` otherwise.
pub fn next_finished(engine: &Engine, timeout: Option<&timespec>) -> Result<(u64, Outcome), Errno> {
    engine.finished.want();
    let deadline = timeout.map(deadline_in);
    loop {
        reap::reap_if_any(engine);
        if let Some(finished) = finished::take(engine) {
            return Ok(finished);
        }
        let passed = deadline.as_ref().is_some_and(|deadline| remaining(deadline).is_none());
        let waited = if passed { Err(Errno::AGAIN) } else { wait(engine, Goal::any(), deadline.as_ref()) };
        if let Err(errno) = waited {
            // The last look: another thread may just be taking one that an eventfd has told of.
            told::see_all(engine);
            return finished::take(engine).ok_or(errno);
        }
    }
}

/// Waits until the goal is reached. EAGAIN: the deadline passed, or memory is out. EINTR.
pub fn wait(engine: &Engine, goal: Goal, deadline: Option<&timespec>) -> Result<(), Errno> {
    let Some(number) = engine.waiters.take() else {
        return Err(Errno::AGAIN);
    };
    let Some(waiter) = engine.waiters.get(number) else {
        return Err(Errno::AGAIN);
    };
    let (leads, mask, registered) = (Cell::new(false), Cell::new(0), Cell::new(false));
    let sleep = Sleep { engine, number, waiter, goal, leads, mask, registered };
    let answer = wait_as(&sleep, deadline);
    if fork::is_current(engine) {
        if sleep.registered.get() {
            goal.unregister(engine, number);
        }
        engine.waiters.give(number);
        // An invitation to lead that came too late for us is another's; so is what came after our last look at the ring.
        hand_over(engine);
        reap::reap_if_any(engine);
    }
    answer
}

fn wait_as(sleep: &Sleep, deadline: Option<&timespec>) -> Result<(), Errno> {
    let Sleep { engine, waiter, goal, .. } = *sleep;
    loop {
        waiter.word.store(AWAKE, Ordering::SeqCst);
        // Before the look: what ends after it counts up.
        let seen = engine.ended.load(Ordering::SeqCst);
        let Some(needs_ring) = goal.look(engine) else { return Ok(()) };
        let held = engine.held.load(Ordering::SeqCst) != 0;
        let works = held && deadline.is_none();
        if held {
            worklist::waits(engine);
        }
        if !needs_ring || works {
            // We turn away from the ring, for a while or for good: others may need somebody to lead.
            hand_over(engine);
        }
        if works && run_own(engine, goal, needs_ring) {
            continue;
        }
        if held {
            worklist::hurry(engine);
        }
        // No closures here: what may be cancelled inside must be able to unwind.
        let led = if needs_ring { lead(sleep, deadline, seen) } else { None };
        let slept = match led {
            Some(slept) => slept,
            None => follow(sleep, deadline, needs_ring, seen),
        };
        if !fork::is_current(engine) {
            // A handler forked on top of us, and we are in the child: nothing here will ever complete.
            return Err(Errno::INTR);
        }
        if goal.reached(engine) {
            return Ok(());
        }
        match slept {
            Err(Errno::INTR) if deadline.is_some() || !handlers_all_restart() => return Err(Errno::INTR),
            _ => {}
        }
        if deadline.is_some_and(|deadline| remaining(deadline).is_none()) {
            return Err(Errno::AGAIN);
        }
    }
}

/// Waits as the leader: until the goal is reached or has no more to do with the ring, a handler ran, or
/// the deadline passed. `None`: somebody else leads. Signals stay blocked from one sleep to the next, so that
/// none is handled unnoticed in between.
fn lead(sleep: &Sleep, deadline: Option<&timespec>, mut seen: u64) -> Option<Result<(), Errno>> {
    let Sleep { engine, waiter, goal, .. } = *sleep;
    let me = self_id();
    // By hand, not by a guard: no destructor may be live where a cancellation unwinds.
    let before = set_mask(!0);
    sleep.mask.set(before);
    let blocked = &ManuallyDrop::new(Blocked::library_thread());
    if !try_lead(engine, me) {
        set_mask(before);
        return None;
    }
    // A handler may run on top of a leader whose events have just been taken: `reap::rescue`.
    reap::rescue(engine, blocked);
    engine.seat.store(sleep.number, Ordering::SeqCst);
    let slept = loop {
        // What only the ring can complete, the leader sees; for the rest it must be findable.
        if goal.any || engine.held.load(Ordering::SeqCst) != 0 {
            sleep.register();
        }
        waiter.word.store(IN_RING, Ordering::SeqCst);
        if goal.reached_since(engine, seen) {
            break Ok(());
        }
        let limit = leaders_limit(deadline);
        sleep.leads.set(true);
        let slept = sleep_in_ring(sleep, Some(&limit), before);
        sleep.leads.set(false);
        waiter.word.store(AWAKE, Ordering::SeqCst);
        if !fork::is_current(engine) {
            set_mask(before);
            return Some(slept);
        }
        reap::process_inbox(engine, blocked, waiter);
        worklist::call_for_line(engine, blocked);
        let passed = deadline.is_some_and(|deadline| remaining(deadline).is_none());
        if slept.is_err() || passed || engine.leader.load(Ordering::SeqCst) != me {
            break slept;
        }
        seen = engine.ended.load(Ordering::SeqCst);
        if goal.look(engine) != Some(true) {
            break slept;
        }
    };
    waiter.word.store(AWAKE, Ordering::SeqCst);
    stop_leading(engine, me);
    set_mask(before);
    Some(slept)
}

/// Waits on the futex word of one's own.
fn follow(sleep: &Sleep, deadline: Option<&timespec>, may_lead: bool, seen: u64) -> Result<(), Errno> {
    let Sleep { engine, waiter, goal, .. } = *sleep;
    sleep.register();
    if may_lead {
        waiter.may_lead.store(1, Ordering::SeqCst);
        engine.followers.fetch_add(1, Ordering::SeqCst);
    }
    waiter.word.store(ASLEEP, Ordering::SeqCst);
    let mut slept = Ok(());
    // After the word: `wake`, rules 1 and 3.
    let nobody_leads = may_lead && engine.leader.load(Ordering::SeqCst) == 0;
    // In the child of a handler that forked on top of us nobody would wake it. Looked at here, not in the frame that libc
    // unwinds: with a second way out of that frame one in four runs of the cancellation tests under valgrind never ended.
    if !nobody_leads && !goal.reached_since(engine, seen) && fork::is_current(engine) {
        slept = sleep_on_word(sleep, deadline);
    }
    if may_lead {
        waiter.may_lead.store(0, Ordering::SeqCst);
        engine.followers.fetch_sub(1, Ordering::SeqCst);
    }
    slept
}

/// How long a leader sleeps at a stretch: who took over from one that seemed stuck may have taken its completion, and
/// the kernel does not wake it for that. Its signals are blocked from one sleep to the next, so no handler is missed.
fn leaders_limit(deadline: Option<&timespec>) -> timespec {
    let most = timespec { tv_sec: 0, tv_nsec: IDLE };
    let left = deadline.map(|deadline| remaining(deadline).unwrap_or(timespec { tv_sec: 0, tv_nsec: 0 }));
    left.filter(|left| is_before(left, &most)).unwrap_or(most)
}

fn is_before(one: &timespec, other: &timespec) -> bool {
    (one.tv_sec, one.tv_nsec) < (other.tv_sec, other.tv_nsec)
}

/// How long until `deadline`; `None`: it has passed.
fn remaining(deadline: &timespec) -> Option<timespec> {
    let now = now();
    if !is_before(&now, deadline) {
        return None;
    }
    let (mut seconds, mut nanoseconds) = (deadline.tv_sec - now.tv_sec, deadline.tv_nsec - now.tv_nsec);
    if nanoseconds < 0 {
        (seconds, nanoseconds) = (seconds - 1, nanoseconds + 1_000_000_000);
    }
    Some(timespec { tv_sec: seconds, tv_nsec: nanoseconds })
}

/// `CLOCK_MONOTONIC` in `timeout` from now, saturating.
pub fn deadline_in(timeout: &timespec) -> timespec {
    let now = now();
    let nanoseconds = now.tv_nsec + timeout.tv_nsec;
    timespec {
        tv_sec: now.tv_sec.saturating_add(timeout.tv_sec).saturating_add(nanoseconds / 1_000_000_000),
        tv_nsec: nanoseconds % 1_000_000_000,
    }
}

/// `struct _pthread_cleanup_buffer` (pthread.h).
#[repr(C)]
struct CleanupBuffer {
    words: [usize; 4],
}

const ASYNCHRONOUS: c_int = 1;

extern "C" {
    fn pthread_setcanceltype(kind: c_int, before: *mut c_int) -> c_int;
    fn _pthread_cleanup_push(
        buffer: *mut CleanupBuffer,
        routine: extern "C" fn(*mut c_void),
        argument: *mut c_void,
    );
    fn _pthread_cleanup_pop(buffer: *mut CleanupBuffer, execute: c_int);
}

/// Runs `wait` as a cancellation point: the thread may be cancelled inside, after `cancelled` was called.
#[inline(always)]
fn cancellable(
    sleep: &Sleep,
    limit: Option<&timespec>,
    mask: u64,
    wait: unsafe fn(&Sleep, Option<&timespec>, u64) -> Result<(), Errno>,
) -> Result<(), Errno> {
    let mut buffer = CleanupBuffer { words: [0; 4] };
    let mut kind = 0;
    // SAFETY: the buffer lives in this frame and is popped in it; the frames between here and the
    // cancelled instruction are plain. Asynchronous cancelling covers the one system call in `wait`.
    unsafe {
        _pthread_cleanup_push(&raw mut buffer, cancelled, core::ptr::from_ref(sleep).cast_mut().cast());
        pthread_setcanceltype(ASYNCHRONOUS, &raw mut kind);
        let slept = wait(sleep, limit, mask);
        pthread_setcanceltype(kind, &raw mut kind);
        _pthread_cleanup_pop(&raw mut buffer, 0);
        slept
    }
}

fn sleep_in_ring(sleep: &Sleep, limit: Option<&timespec>, mask: u64) -> Result<(), Errno> {
    cancellable(sleep, limit, mask, in_ring)
}

fn sleep_on_word(sleep: &Sleep, limit: Option<&timespec>) -> Result<(), Errno> {
    cancellable(sleep, limit, 0, on_word)
}

unsafe fn in_ring(sleep: &Sleep, limit: Option<&timespec>, mask: u64) -> Result<(), Errno> {
    let inbox = sleep.waiter.inbox.as_ptr().cast_mut().cast();
    let limit = limit.map_or(core::ptr::null(), core::ptr::from_ref);
    // SAFETY: the inbox lies in a pool's slot, which is never unmapped, and holds INBOX events.
    unsafe { io_pgetevents(sleep.engine.ring.id(), inbox, INBOX, limit, &mask) }.map(|_| ())
}

unsafe fn on_word(sleep: &Sleep, limit: Option<&timespec>, _: u64) -> Result<(), Errno> {
    futex_wait(&sleep.waiter.word, ASLEEP, limit).map(|_| ())
}

/// The thread is cancelled in its sleep: what it took out of the ring is completed, and who waits learns
/// that somebody else must lead.
extern "C" fn cancelled(argument: *mut c_void) {
    // SAFETY: the sleep of the frame that pushed this routine, which is still there.
    let sleep = unsafe { &*argument.cast::<Sleep>() };
    let engine = sleep.engine;
    let leads = sleep.leads.get();
    let blocked = Blocked::new();
    if leads {
        // As in `lead`, before anything is taken out of the inbox: `told`.
        sleep.waiter.word.store(AWAKE, Ordering::SeqCst);
        reap::process_inbox(engine, &blocked, sleep.waiter);
        stop_leading(engine, self_id());
    } else if sleep.waiter.may_lead.swap(0, Ordering::SeqCst) == 1 {
        engine.followers.fetch_sub(1, Ordering::SeqCst);
    }
    sleep.waiter.word.store(AWAKE, Ordering::SeqCst);
    sleep.goal.unregister(engine, sleep.number);
    crate::complete::drop_batch(engine, sleep.goal.batch);
    engine.waiters.give(sleep.number);
    hand_over(engine);
    drop(blocked);
    if leads {
        // It may have been cancelled before it slept: the program's cleanup handlers have the mask that it had.
        set_mask(sleep.mask.get());
    }
}
