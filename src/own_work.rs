//! Waiters that work: a thread that would sleep carries out its own requests instead, if they are next in line.
//!
//! No other thread is woken for it, and none has to wake this one: for buffered writes at depth 1 that is worth a factor of
//! five, and cold reads cost a third less processor time (depth 16). Only the waiter's own requests, none that is long, only when
//! nobody is at work on the file, and only on a block device of this machine: there alone it cannot hang while others
//! of the waiter's list complete.

use crate::admission::is_still_open;
use crate::complete::complete;
use crate::engine::Engine;
use crate::errno::{Errno, Outcome};
use crate::goal::Goal;
use crate::lock::{Blocked, Guard};
use crate::observe::{self, Way};
use crate::order::File;
use crate::pool::Number;
use crate::request::{find, flag, number_of, Handle, Home, Request, HELD, RUNNING};
use crate::transfers::{finished_with, transfer_if_ready, transfer_rest};
use crate::worklist::{self, leave_file};

/// A waiter does no more than this at a time: no handler runs meanwhile, and no deadly signal is obeyed.
const MOST_BYTES: usize = 1 << 20;

/// Cold reads that a waiter collects at the most before it returns with the first.
const COLLECTED: u32 = 16;
/// Cold reads, or files with writes, among which a waiter looks for one of its own.
const LOOKED_AT: u32 = 32;

/// For a thread that would sleep until its goal is reached: does what is next in line and its own, if nobody else is at
/// it and it cannot hang. True: something is complete. `needs_ring`: something of the goal is the kernel's, and may
/// be complete before a cold read is.
pub fn run_own(engine: &Engine, goal: Goal, needs_ring: bool) -> bool {
    let blocked = Blocked::new();
    if collect_cold(engine, &blocked, goal, needs_ring) {
        return true;
    }
    if goal.batch != 0 {
        return run_write_of_batch(engine, &blocked, goal);
    }
    goal.entries().any(|aiocb| {
        aiocb.in_progress()
            && find(&engine.requests, aiocb).is_some_and(|(handle, request)| {
                request.state() == HELD
                    && request.home() == Home::FileQueue
                    && run_this_write(engine, &blocked, handle)
            })
    })
}

/// Reads the oldest of the goal's cold reads, and what the read-ahead has brought of those behind it.
fn collect_cold(engine: &Engine, blocked: &Blocked, goal: Goal, needs_ring: bool) -> bool {
    let mut collected = 0;
    while collected < COLLECTED {
        let guard = engine.lock.lock(blocked);
        let Some(number) = next_cold(engine, &guard, goal) else { break };
        drop(guard);
        let request = engine.request(number);
        // The first one is waited for, where nothing else can come meanwhile.
        let may_wait = collected == 0 && !needs_ring;
        let outcome = match is_still_open(request) {
            false => Some(finished_with(request, Err(Errno::CANCELED))),
            true if may_wait => Some(transfer_rest(request, request.fd())),
            true => transfer_if_ready(request, request.fd()),
        };
        if outcome.is_some() {
            observe::went(request, Way::Waiter);
        }
        let guard = engine.lock.lock(blocked);
        engine.work.collecting.set(engine.work.collecting.get() - 1);
        let Some(outcome) = outcome else {
            worklist::put_back_cold(engine, &guard, number);
            break;
        };
        drop(guard);
        complete(engine, blocked, number, outcome);
        collected += 1;
    }
    collected != 0
}

/// Takes the oldest cold read that is one of the goal's out of the queue, if no helper is at work on them; a helper that is
/// leaves off after its present one then.
fn next_cold(engine: &Engine, guard: &Guard, goal: Goal) -> Option<Number> {
    let work = &engine.work;
    let mut number = work.cold.first();
    for _ in 0..LOOKED_AT {
        let request = engine.requests.get(number)?;
        if goal.includes(request) {
            break;
        }
        number = request.next();
    }
    let request = engine.requests.get(number)?;
    let may = request.identity().is_on_block_device() && request.rest().bytes <= MOST_BYTES;
    if !goal.includes(request) || !may {
        return None;
    }
    if work.working.get() != 0 {
        work.leave_cold.set(1);
        return None;
    }
    work.cold.remove(&engine.requests, number);
    work.collecting.set(work.collecting.get() + 1);
    worklist::done_by_waiter(engine, guard);
    request.set_state(RUNNING);
    Some(number)
}

/// Runs a buffered write of the batch that is the first of its file's queue. By the files, not by the list: aiocbs that are
/// complete may be gone.
fn run_write_of_batch(engine: &Engine, blocked: &Blocked, goal: Goal) -> bool {
    let guard = engine.lock.lock(blocked);
    let mut at = engine.work.first_file.get();
    let mut looked_at = 0;
    while let Some(file) = engine.files.get(at) {
        let number = file.queue.first();
        if number != 0 && goal.includes(engine.request(number)) && is_next(engine, file, number) {
            run_write(engine, blocked, guard, number, file);
            return true;
        }
        // Those that waiters have emptied stay in the line until a helper looks.
        looked_at += u32::from(number != 0);
        if looked_at == LOOKED_AT {
            break;
        }
        at = file.next_runnable.get();
    }
    false
}

/// Runs a buffered write, if it is the first of its file's queue.
fn run_this_write(engine: &Engine, blocked: &Blocked, handle: Handle) -> bool {
    let number = number_of(handle);
    let request = engine.request(number);
    let guard = engine.lock.lock(blocked);
    if !request.is_in(handle, HELD) || request.home() != Home::FileQueue {
        return false;
    }
    let file = engine.files.get(request.file.get()).filter(|file| is_next(engine, file, number));
    if let Some(file) = file {
        run_write(engine, blocked, guard, number, file);
    }
    file.is_some()
}

/// Whether nobody is at work on the file, this is its first write, and a waiter may run it.
fn is_next(engine: &Engine, file: &File, number: Number) -> bool {
    let request = engine.request(number);
    let may = file.local.get() != 0 && request.has(flag::NO_LIMIT) && request.rest().bytes <= MOST_BYTES;
    may && file.busy.get() == 0 && file.queue.first() == number
}

fn run_write(engine: &Engine, blocked: &Blocked, guard: Guard, number: Number, file: &File) {
    let request = engine.request(number);
    worklist::done_by_waiter(engine, &guard);
    file.busy.set(1);
    file.queue.remove(&engine.requests, number);
    request.set_state(RUNNING);
    drop(guard);
    observe::went(request, Way::Waiter);
    complete(engine, blocked, number, transfer_own(request));
    leave_file(engine, &engine.lock.lock(blocked), file.number.get(), file);
}

/// In the program's own thread, through its own descriptor.
fn transfer_own(request: &Request) -> Outcome {
    if is_still_open(request) {
        transfer_rest(request, request.fd())
    } else {
        finished_with(request, Err(Errno::CANCELED))
    }
}
