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
//! and nothing else, up to `most` threads.
//!
//! # Writes
//!
//! A write runs as `pwrite` in the helper, not as `io_submit`: both copy the data in the calling
//! thread, but an event in the ring wakes the waiter for every single write, which at depth 16 cost
//! two to five context switches an operation where the helper now needs a fraction of one: it
//! stores each status at once and wakes a waiter at the end of a batch.
//!
//! # Waiters that work
//!
//! A thread that would sleep for a write at the head of an idle file's queue, or for a cold read, runs
//! it itself ([`run_own`]): no context switch at all. So a helper that has just been idle lingers for
//! [`LINGER`] before it sleeps for good, and takes what is there only when no waiter came for it.

use crate::admission::{self, hold, is_still_open};
use crate::complete::{complete, complete_quietly};
use crate::direct;
use crate::engine::Engine;
use crate::errno::{Errno, Outcome};
use crate::lock::{Blocked, Guard};
use crate::order::{self, File};
use crate::pins::Pins;
use crate::polls;
use crate::pool::{Cell32, Cell64, Number};
use crate::request::{flag, Home, List, Request, HELD, RUNNING};
use crate::sys::files::{transfer, Direction, Identity};
use crate::sys::threads::{self, discard_pending, futex_wait, futex_wake};
use crate::threads::{may_end, Role, IDLE};
use crate::wake::wake_named;
use core::sync::atomic::{AtomicU32, Ordering};
use libc::timespec;

/// Nanoseconds without a finished job after which a helper counts as stuck.
const STUCK: i64 = 20_000_000;
/// Nanoseconds that a helper waits for a waiter to do the work, and how often in a row before it sleeps.
const LINGER: i64 = 50_000;
const LINGERS: u32 = 8;
/// Writes after which a waiter is woken though more are queued.
const BATCH: u32 = 8;

/// `Helpers::word`: nobody is to be woken.
const CALLED: u32 = 0;
/// `Helpers::word`: a helper looks by itself within LINGER.
const LINGERING: u32 = 1;
/// `Helpers::word`: a helper sleeps until it is called.
const SLEEPING: u32 = 2;
/// `Helpers::word`: a helper stands by and looks within STUCK.
const STANDING_BY: u32 = 3;

/// The work list. Guarded by the engine's lock, but for the two atomics.
pub struct Helpers {
    /// Files with queued writes and nobody at work on them, linked by `next_runnable`.
    first_file: Cell32,
    last_file: Cell32,
    cold: List,
    errands: List,
    /// Threads alive, and the most there may be.
    threads: Cell32,
    most: u32,
    /// 1 while the helper on shift works. A helper that is stuck loses the shift to the one standing by.
    working: Cell32,
    shift: Cell32,
    /// What each helper at work works on: a device, marked `AT_WORK`.
    at_work: [Cell64; PLACES],
    /// Which kind of job comes next.
    turn: Cell32,
    /// Counts finished jobs: tells a stuck helper from a busy one.
    finished: Cell32,
    /// What idle helpers sleep on, and how the last of them that lay down does.
    word: AtomicU32,
    /// Helpers asleep on `word`.
    idle: Cell32,
}

enum Job {
    /// Requests that wait for room in the ring, of which there is some.
    Line,
    Writes(Number),
    Cold(Number),
    Errand(Number),
}

impl Helpers {
    pub fn new(most: u32) -> Helpers {
        Helpers {
            first_file: Cell32::default(),
            last_file: Cell32::default(),
            cold: List::default(),
            errands: List::default(),
            threads: Cell32::default(),
            most,
            working: Cell32::default(),
            shift: Cell32::default(),
            at_work: [const { Cell64::new(0) }; PLACES],
            turn: Cell32::default(),
            finished: Cell32::default(),
            word: AtomicU32::new(CALLED),
            idle: Cell32::default(),
        }
    }

    fn has_work(&self, engine: &Engine) -> bool {
        line_can_move(engine)
            || self.first_file.get() != 0
            || !self.cold.is_empty()
            || !self.errands.is_empty()
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

    /// The next job, the kinds in turn, so that none keeps the others waiting.
    fn pop(&self, engine: &Engine) -> Option<Job> {
        let turn = self.turn.get();
        self.turn.set(turn.wrapping_add(1));
        (0..4).find_map(|step| match turn.wrapping_add(step) % 4 {
            0 => line_can_move(engine).then_some(Job::Line),
            1 => self.pop_file(engine).map(Job::Writes),
            2 => self.pop_request(engine, &self.errands).map(Job::Errand),
            _ => self.pop_request(engine, &self.cold).map(Job::Cold),
        })
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

/// Marks a device in `Helpers::at_work`: 0 is nobody.
const AT_WORK: u64 = 1 << 63;
/// Most helpers that there can be.
pub const PLACES: usize = 64;
/// Writes of one file after which other work has its turn.
const TURN: u32 = 256;

/// Queues a write behind those of its file (`order::write_begins` counted it).
pub fn push_write(engine: &Engine, guard: &Guard, number: Number) {
    let request = engine.request(number);
    let Some(file) = engine.files.get(request.file.get()) else {
        return;
    };
    request.add(flag::OFF_RING);
    hold(engine, request);
    request.set_state(HELD);
    file.queue.push_back(&engine.requests, number, Home::FileQueue);
    list_file(engine, request.file.get(), file);
    call_helper(engine, guard, request.notice.get() != 0 || file.queue.len() > 1);
}

fn list_file(engine: &Engine, number: Number, file: &File) {
    if file.busy.get() == 0 && file.listed.get() == 0 && !file.queue.is_empty() {
        file.listed.set(1);
        engine.helpers.push_file(engine, number);
    }
}

/// Queues a read that the page cache could not serve.
pub fn push_cold(engine: &Engine, guard: &Guard, number: Number) {
    let request = engine.request(number);
    request.add(flag::OFF_RING);
    hold(engine, request);
    request.set_state(HELD);
    engine.helpers.cold.push_back(&engine.requests, number, Home::Cold);
    call_helper(engine, guard, request.notice.get() != 0 || engine.helpers.cold.len() > 1);
}

/// Queues anything else that may wait.
pub fn push_errand(engine: &Engine, guard: &Guard, number: Number) {
    hold(engine, engine.request(number));
    engine.request(number).set_state(HELD);
    engine.helpers.errands.push_back(&engine.requests, number, Home::Errand);
    call_helper(engine, guard, true);
}

/// Takes a cancelled request out of its list of ours.
pub fn withdraw(engine: &Engine, _: &Guard, number: Number) {
    let request = engine.request(number);
    match request.home() {
        Home::Cold => engine.helpers.cold.remove(&engine.requests, number),
        Home::Errand => engine.helpers.errands.remove(&engine.requests, number),
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

/// Wakes an idle helper. When none of `urgent` holds, one that lingers finds the work by itself soon.
fn call_helper(engine: &Engine, _: &Guard, urgent: bool) {
    let helpers = &engine.helpers;
    if helpers.idle.get() == 0 {
        return;
    }
    let word = helpers.word.load(Ordering::Relaxed);
    if word == SLEEPING || word == LINGERING && urgent {
        helpers.word.store(CALLED, Ordering::Relaxed);
        futex_wake(&helpers.word, 1);
    }
}

/// A helper thread's life, which ends after a second without any request.
pub fn helper_thread(engine: &'static Engine) {
    let helpers = &engine.helpers;
    let mut pins = Pins::new(engine);
    let blocked = Blocked::helper(pins.own_table());
    {
        let _guard = engine.lock.lock(&blocked);
        helpers.threads.set(helpers.threads.get() + 1);
    }
    let mut lingered = LINGERS;
    let mut stuck = false;
    loop {
        let guard = engine.lock.lock(&blocked);
        if helpers.working.get() == 0 || stuck {
            if let Some(job) = helpers.pop(engine) {
                work(engine, &blocked, guard, &mut pins, job);
                (lingered, stuck) = (0, false);
                continue;
            }
        }
        let standing_by = helpers.working.get() != 0 && helpers.has_work(engine);
        let finished = helpers.finished.get();
        let (word, limit) = match (standing_by, lingered < LINGERS) {
            (true, _) => (STANDING_BY, STUCK),
            (false, true) => (LINGERING, LINGER),
            (false, false) => (SLEEPING, IDLE),
        };
        helpers.idle.set(helpers.idle.get() + 1);
        helpers.word.store(word, Ordering::Relaxed);
        drop(guard);
        pins.release();
        let slept = futex_wait(&helpers.word, word, Some(&later(threads::now(), limit)));
        let guard = engine.lock.lock(&blocked);
        helpers.idle.set(helpers.idle.get() - 1);
        lingered += 1;
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
    let threads = &engine.helpers.threads;
    let leaves = match threads.get() {
        0 | 1 => may_end(engine, Role::Helper),
        more => more > STAYING || engine.live.load(Ordering::SeqCst) == 0,
    };
    if leaves {
        threads.set(threads.get() - 1);
    }
    leaves
}

/// `time` plus `nanoseconds` (below one second).
pub fn later(time: timespec, nanoseconds: i64) -> timespec {
    let sum = time.tv_nsec + nanoseconds;
    timespec { tv_sec: time.tv_sec + sum / 1_000_000_000, tv_nsec: sum % 1_000_000_000 }
}

/// Takes the shift and does one job.
fn work(engine: &'static Engine, blocked: &Blocked, guard: Guard, pins: &mut Pins, job: Job) {
    let helpers = &engine.helpers;
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
    let stand_by_wanted = helpers.idle.get() == 0 && helpers.threads.get() < helpers.most;
    drop(guard);
    if stand_by_wanted {
        // A refused thread is asked for again with the next job.
        let _ = crate::threads::start(Role::Helper, engine);
    }
    match job {
        Job::Line => direct::drain_line(engine, blocked, pins),
        Job::Writes(file) => run_writes(engine, blocked, pins, file),
        Job::Cold(number) => {
            let outcome = transfer_pinned(engine, engine.request(number), pins);
            complete(engine, blocked, number, outcome);
        }
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
        engine.helpers.finished.set(engine.helpers.finished.get().wrapping_add(1));
        drop(guard);
        let outcome = transfer_pinned(engine, request, pins);
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

/// Done with a file's queue: others may work on what has come since.
fn leave_file(engine: &Engine, guard: &Guard, number: Number, file: &File) {
    file.busy.set(0);
    if !file.queue.is_empty() {
        list_file(engine, number, file);
        call_helper(engine, guard, true);
    }
    order::forget_if_idle(engine, number, file);
}

/// As `transfer_rest`, on the pinned file.
fn transfer_pinned(engine: &Engine, request: &Request, pins: &mut Pins) -> Outcome {
    match pins.pin(engine, request) {
        Ok(fd) => transfer_rest(request, fd),
        Err(errno) => finished_with(request, Err(errno)),
    }
}

/// Transfers what is left of a request through `fd`, and waits as long as that takes. The answer is the whole
/// request's.
fn transfer_rest(request: &Request, fd: i32) -> Outcome {
    let Some(direction) = request.operation().direction() else {
        return Err(Errno::INVAL);
    };
    loop {
        let rest = request.rest();
        let outcome = match transfer(direction, fd, rest, request.position()) {
            // What the caller asked to seek cannot: it is at its position by nature.
            Err(Errno::SPIPE) if !request.has(flag::STREAM) => {
                request.add(flag::STREAM);
                continue;
            }
            Err(Errno::INTR) => continue,
            outcome => outcome,
        };
        let count = match outcome {
            Ok(count) if count > 0 => count,
            other => return finished_with(request, other),
        };
        request.done.set(request.done.get() + count as u64);
        // A write goes on until all is written, or until it is told why not.
        if direction == Direction::Read || count == rest.bytes {
            return Ok(request.done.get() as usize);
        }
    }
}

/// An error, or the end of the file, after something was transferred counts as success, as in read(2).
fn finished_with(request: &Request, outcome: Outcome) -> Outcome {
    match request.done.get() {
        0 => outcome,
        done => Ok(done as usize),
    }
}

/// Submits what the kernel takes only by waiting, to the same ring; or transfers right here.
fn run_errand(engine: &Engine, blocked: &Blocked, pins: &mut Pins, number: Number) {
    let request = engine.request(number);
    if request.poll.get() != 0 {
        return polls::run_errand(engine, blocked, pins, number);
    }
    let fd = match pins.pin(engine, request) {
        Ok(fd) => fd,
        Err(errno) => return complete(engine, blocked, number, finished_with(request, Err(errno))),
    };
    if request.operation().direction().is_none() {
        return match direct::submit_waiting(engine, number, request, fd) {
            Ok(()) => {}
            Err(Errno::AGAIN) => admission::wait_for_room(engine, blocked, number),
            Err(errno) => complete(engine, blocked, number, Err(errno)),
        };
    }
    // Submitted, the request is the kernel's, or somebody has even reaped it: not to be touched any more.
    if direct::submit_waiting(engine, number, request, fd).is_err() {
        complete(engine, blocked, number, transfer_rest(request, fd));
    }
}

/// A transfer that may wait, for `polls`.
pub fn transfer_waiting(request: &Request, fd: i32) -> Outcome {
    transfer_rest(request, fd)
}

/// For a thread that would sleep until `number` is complete: does the work when it is next in line,
/// nobody else is at it, and it cannot hang (`order::File::local`). True: it is complete.
pub fn run_own(engine: &Engine, blocked: &Blocked, handle: u64) -> bool {
    let number = crate::request::number_of(handle);
    let request = engine.request(number);
    if request.state() != HELD {
        return false;
    }
    let guard = engine.lock.lock(blocked);
    if !request.is(handle) || request.state() != HELD {
        return false;
    }
    match request.home() {
        Home::FileQueue => {
            let file_number = request.file.get();
            let Some(file) = engine.files.get(file_number) else {
                return false;
            };
            if file.busy.get() != 0 || file.queue.first() != number || file.local.get() == 0 {
                return false;
            }
            file.busy.set(1);
            file.queue.remove(&engine.requests, number);
            request.set_state(RUNNING);
            drop(guard);
            let outcome = transfer_own(request);
            if outcome == Err(Errno(libc::EFBIG)) {
                // RLIMIT_FSIZE's signal went to this thread, whose signals are blocked.
                discard_pending(libc::SIGXFSZ);
            }
            complete(engine, blocked, number, outcome);
            leave_file(engine, &engine.lock.lock(blocked), file_number, file);
        }
        Home::Cold => {
            let local = request.identity().is_on_block_device();
            if !local || engine.helpers.working.get() != 0 || engine.helpers.cold.first() != number {
                return false;
            }
            engine.helpers.cold.remove(&engine.requests, number);
            request.set_state(RUNNING);
            drop(guard);
            complete(engine, blocked, number, transfer_own(request));
        }
        _ => return false,
    }
    true
}

/// In the program's own thread, through its own descriptor.
fn transfer_own(request: &Request) -> Outcome {
    if is_still_open(request) {
        transfer_rest(request, request.fd())
    } else {
        finished_with(request, Err(Errno::CANCELED))
    }
}
