//! Pipes, sockets, terminals and whatever else may have nothing to give for hours: try without
//! waiting, and where that fails let the kernel tell when to try again (IOCB_CMD_POLL in the shared ring).
//!
//! Each pipe or socket has a queue per direction, first come first served: reads never hold back
//! writes. What shares its inode with others (eventfds) has one per descriptor. Only the head of a queue is ever
//! tried; while a thread tries it the queue is `busy` and others only append. No thread waits here, however many queues are idle.
//!
//! Only the submitting call tries by the descriptor's number; later attempts are made by helpers,
//! through a copy of which they know that it is the request's file (`attempt`).
//!
//! A poll takes a place in the ring for as long as it is armed. So at most half the ring is given
//! to them; further queues share one epoll instance, which takes a single place (`watch`). So do terminals and
//! FIFOs opened for both directions, which IOCB_CMD_POLL refuses.
//!
//! All of it is guarded by the engine's lock, except the transfer itself.

mod attempt;
mod errand;
mod lines;
mod watch;

pub use errand::run_errand;
pub use lines::{drive_ready, has_ready, has_unwatched, watch_unwatched};
pub use watch::{is_watch_unarmed, look_at_watched, rearm_watch, watch_event};

use crate::complete::complete;
use crate::engine::Engine;
use crate::errno::Errno;
use crate::lock::{Blocked, Guard};
use crate::observe::{self, Way};
use crate::pins::found_no_copy;
use crate::pool::{Cell32, Cell64, Number, Pool, Slot};
use crate::request::{flag, Home, List, HELD, RUNNING};
use crate::sys::aio_abi::{cmd, Iocb};
use crate::sys::files::{Direction, Identity};
use crate::wake::{hold, owe_request};
use crate::worklist;
use attempt::{attempt, leads_there, Attempt, Reach};
use core::sync::atomic::{AtomicU32, Ordering};
use libc::c_int;
use lines::{give_to_completion_thread, give_to_helpers, helpers_can, Line};

/// The highest bit of an event's `data`: it belongs to a queue here, whose number is the low half.
pub const POLL_EVENT: u64 = 1 << 63;
/// An event's `data`: the epoll instance has something to say.
pub const WATCH_EVENT: u64 = 2;

/// Attempts in a row that found nothing although the kernel had said there was something.
const FUTILE: u32 = 16;

/// One file, or one descriptor, in one direction.
pub struct Queue {
    link: AtomicU32,
    chain: Cell32,
    /// The descriptor that is polled.
    fd: Cell32,
    device: Cell64,
    inode: Cell64,
    /// A `Direction`, or `AT_POSITION`.
    direction: Cell32,
    waiting: List,
    /// 1 while a thread, or an errand to a helper, transfers for the head.
    busy: Cell32,
    /// Where the kernel's answer will come from: 0 nowhere, or `ARMED_*`.
    armed: Cell32,
    /// 1 while it stands in one of `PollTable`'s lines, and the next one there.
    handed: Cell32,
    next_handed: Cell32,
    futile: Cell32,
    /// Which use of the slot this is: late events of an earlier one are ignored.
    generation: Cell32,
    /// What was submitted: io_cancel wants its address.
    iocb: IocbPlace,
}

/// `Queue::direction` of transfers at a file's own position, both ways: they move the one position.
const AT_POSITION: u32 = 2;

const ARMED_IN_RING: u32 = 1;
const ARMED_BY_WATCH: u32 = 2;
/// Told to end; its event is still to come.
const ARMED_AND_CANCELLED: u32 = 3;

/// 64 bytes with an address of their own; only the kernel reads them as an iocb.
#[derive(Default)]
struct IocbPlace {
    #[allow(dead_code)] // Its address is what matters.
    words: [Cell64; 8],
}

impl IocbPlace {
    fn address(&self) -> *const Iocb {
        core::ptr::from_ref(self).cast()
    }
}

// SAFETY: every member is an atomic; zero is an unused queue.
unsafe impl Slot for Queue {
    fn free_link(&self) -> &AtomicU32 {
        &self.link
    }
}

const BUCKETS: usize = 1024;

pub struct PollTable {
    queues: Pool<Queue>,
    buckets: [Cell32; BUCKETS],
    /// Queues that exist, to be looked at without the lock.
    count: AtomicU32,
    /// Places in the ring that armed polls take, and those of them for writing.
    in_ring: Cell32,
    writes_in_ring: Cell32,
    /// The epoll instance's descriptor plus one; 1 while its poll is armed; queues that it watches.
    watch: Cell32,
    watch_armed: Cell32,
    watched: Cell32,
    /// The second in which `look_at_watched` looked last, and the queue that is next.
    looked: Cell64,
    look_next: Cell32,
    /// For helpers to go on with.
    ready: Line,
    /// For the completion thread to watch: helpers with a descriptor table of their own have no epoll instance.
    unwatched: Line,
}

fn bucket_of(identity: Identity) -> usize {
    (identity.inode ^ identity.device) as usize % BUCKETS
}

impl Queue {
    fn identity(&self) -> Identity {
        Identity { device: self.device.get(), inode: self.inode.get() }
    }
}

impl Default for PollTable {
    fn default() -> Self {
        PollTable {
            queues: Pool::new(),
            buckets: [const { Cell32::new(0) }; BUCKETS],
            count: AtomicU32::new(0),
            in_ring: Cell32::default(),
            writes_in_ring: Cell32::default(),
            watch: Cell32::default(),
            watch_armed: Cell32::default(),
            watched: Cell32::default(),
            looked: Cell64::default(),
            look_next: Cell32::default(),
            ready: Line::default(),
            unwatched: Line::default(),
        }
    }
}

impl PollTable {
    /// Whether no request waits on any pipe or the like: then order cannot be hurt by trying at once.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.count.load(Ordering::Relaxed) == 0
    }

    /// The queue of a pipe or socket, whatever descriptor it is reached by; of anything else, of which many may have
    /// one inode (eventfds), that of the descriptor.
    fn find_or_add(&self, fd: i32, identity: Identity, by_file: bool, kind: u32) -> Option<Number> {
        let bucket = &self.buckets[bucket_of(identity)];
        let mut number = bucket.get();
        while let Some(queue) = self.queues.get(number) {
            if (by_file || queue.fd.get() == fd as u32)
                && queue.direction.get() == kind
                && queue.inode.get() == identity.inode
                && queue.device.get() == identity.device
            {
                return Some(number);
            }
            number = queue.chain.get();
        }
        let number = self.queues.take()?;
        let queue = self.queues.get(number)?;
        queue.fd.set(fd as u32);
        queue.direction.set(kind);
        queue.inode.set(identity.inode);
        queue.device.set(identity.device);
        for cell in [&queue.busy, &queue.armed, &queue.handed, &queue.futile] {
            cell.set(0);
        }
        queue.generation.set((queue.generation.get() + 1) & 0x7fff_ffff);
        queue.chain.set(bucket.get());
        bucket.set(number);
        self.count.fetch_add(1, Ordering::Relaxed);
        Some(number)
    }

    fn forget_if_idle(&self, number: Number, queue: &Queue) {
        if !queue.waiting.is_empty()
            || queue.busy.get() != 0
            || queue.armed.get() != 0
            || queue.handed.get() != 0
        {
            return;
        }
        let mut cell = &self.buckets[bucket_of(queue.identity())];
        while cell.get() != number {
            match self.queues.get(cell.get()) {
                Some(before) => cell = &before.chain,
                None => return,
            }
        }
        cell.set(queue.chain.get());
        self.count.fetch_sub(1, Ordering::Relaxed);
        self.queues.give(number);
    }
}

/// Puts an identified request at the end of its descriptor's queue. Alone there it is tried at once: right here, if this
/// is the `submitting` call. Any thread, signals blocked; async-signal-safe. False, for the submitting call alone: memory is
/// out, and nothing was done; else that is the request's end.
pub fn enqueue(engine: &Engine, blocked: &Blocked, number: Number, submitting: bool) -> bool {
    let request = engine.request(number);
    let Some(direction) = request.operation().direction() else {
        complete(engine, blocked, number, Err(Errno::INVAL));
        return true;
    };
    let kind = if request.has(flag::AT_POSITION) { AT_POSITION } else { direction as u32 };
    let guard = engine.lock.lock(blocked);
    let by_file = request.has(flag::BY_FILE | flag::AT_POSITION);
    let Some(at) = engine.polls.find_or_add(request.fd(), request.identity(), by_file, kind) else {
        drop(guard);
        if !submitting {
            complete(engine, blocked, number, Err(Errno::AGAIN));
        }
        return !submitting;
    };
    let Some(queue) = engine.polls.queues.get(at) else {
        return true;
    };
    request.poll.set(at);
    observe::went(request, Way::Polled);
    hold(engine, request);
    owe_request(engine, request);
    request.set_state(HELD);
    queue.waiting.push_back(&engine.requests, number, Home::Poll);
    if queue.busy.get() != 0 || queue.armed.get() != 0 {
        // The descriptor that is watched may have been closed, and nobody would be told any more.
        if blocked.sees_descriptors() {
            watch::watch_again(engine, queue);
        }
        return true;
    }
    if submitting {
        drive(engine, blocked, guard, at, queue, &mut Reach::Own(number));
    } else {
        go_on(engine, blocked, guard, at, queue);
    }
    true
}

/// Tries for the head of the queue until one would wait or none is left; then arms the poll.
fn drive<'a>(
    engine: &'a Engine,
    blocked: &'a Blocked,
    guard: Guard<'a>,
    at: Number,
    queue: &Queue,
    by: &mut Reach,
) {
    let mut guard = guard;
    loop {
        let number = queue.waiting.first();
        if number == 0 {
            engine.polls.forget_if_idle(at, queue);
            return;
        }
        if !by.is_for(number) {
            give_to_helpers(engine, &guard, at, queue);
            return;
        }
        let request = engine.request(number);
        queue.busy.set(1);
        request.set_state(RUNNING);
        drop(guard);
        let (fd, done) = (by.descriptor(engine, request), request.done.get());
        let attempt = match fd {
            // The process may have no more descriptors, not even in a helper's own table: by the number, then.
            Err(errno) if errno != Errno::CANCELED => {
                found_no_copy(engine);
                Attempt::NothingYet
            }
            fd => attempt(request, fd, by.is_by_number()),
        };
        guard = engine.lock.lock(blocked);
        match attempt {
            Attempt::Ended(outcome) => {
                queue.waiting.remove(&engine.requests, number);
                queue.futile.set(0);
                drop(guard);
                // Still busy: nobody overtakes between this completion and the next attempt.
                complete(engine, blocked, number, outcome);
                guard = engine.lock.lock(blocked);
                queue.busy.set(0);
            }
            Attempt::MustWait => {
                to_helper(engine, &guard, queue, number);
                return;
            }
            Attempt::NothingYet => {
                request.set_state(HELD);
                queue.busy.set(0);
                if request.done.get() != done {
                    queue.futile.set(0);
                }
                if queue.futile.get() > FUTILE {
                    queue.futile.set(0);
                    request.add(flag::WAITS | flag::BLOCKS);
                    to_helper(engine, &guard, queue, number);
                    return;
                }
                let armed = fd.is_ok_and(|fd| arm(engine, at, queue, fd));
                match (armed, blocked.sees_descriptors()) {
                    (true, false) => {}
                    // By the number, under which another thread may just have put something that has nothing to say for ever.
                    (true, true) if leads_there(request) => {}
                    // The event of this lets the queue go on.
                    (true, true) => disarm(engine, queue),
                    // The epoll instance is in the program's table.
                    (false, false) => give_to_completion_thread(engine, guard, at, queue),
                    (false, true) => watch_or_wait(engine, &guard, queue, number),
                }
                return;
            }
        }
    }
}

/// Has the epoll instance watch the queue's number, if that still leads to the request's file. In the program's table.
fn watch_or_wait(engine: &Engine, guard: &Guard, queue: &Queue, number: Number) {
    let request = engine.request(number);
    queue.fd.set(request.fd.get());
    if watch::watch(engine, queue) && leads_there(request) {
        return;
    }
    disarm(engine, queue);
    // Nothing can tell us when: a helper waits in the transfer itself, or finds that the file is gone.
    request.add(flag::WAITS | flag::BLOCKS);
    to_helper(engine, guard, queue, number);
}

/// A helper transfers, and may wait in that; until it is done the queue stays busy, so that nobody overtakes.
fn to_helper(engine: &Engine, guard: &Guard, queue: &Queue, number: Number) {
    queue.busy.set(1);
    queue.waiting.remove(&engine.requests, number);
    engine.leave_ring(engine.request(number));
    // Until it is about to wait: `errand`.
    engine.request(number).add(flag::TRYING);
    worklist::push_errand(engine, guard, number);
}

fn events_of(direction: Direction) -> i16 {
    match direction {
        Direction::Read => libc::POLLIN | libc::POLLPRI | libc::POLLRDHUP,
        Direction::Write => libc::POLLOUT,
    }
}

fn direction_of(queue: &Queue) -> Direction {
    if queue.direction.get() == Direction::Read as u32 {
        Direction::Read
    } else {
        Direction::Write
    }
}

/// 1 for a queue of writes.
fn writes(queue: &Queue) -> u32 {
    u32::from(direction_of(queue) == Direction::Write)
}

/// Asks the ring to say when `fd`, of this thread's table, is ready. False: it has no place, or does not know how.
fn arm(engine: &Engine, at: Number, queue: &Queue, fd: c_int) -> bool {
    let polls = &engine.polls;
    // Its requests may have come by several descriptors: the one that waits first is polled.
    queue.fd.set(engine.request(queue.waiting.first()).fd.get());
    if polls.in_ring.get() >= engine.ring.limit() / 2 || engine.ring.reserve(1) == 0 {
        return false;
    }
    let iocb = Iocb {
        data: POLL_EVENT | u64::from(queue.generation.get()) << 32 | u64::from(at),
        opcode: cmd::POLL,
        fildes: fd as u32,
        buf: events_of(direction_of(queue)) as u64,
        ..Iocb::default()
    };
    let submitted = engine.ring.submit_from(queue.iocb.address(), iocb);
    match submitted {
        Ok(()) => {
            queue.armed.set(ARMED_IN_RING);
            polls.in_ring.set(polls.in_ring.get() + 1);
            polls.writes_in_ring.set(polls.writes_in_ring.get() + writes(queue));
            true
        }
        // EINVAL: the kernel polls on one wait queue only, and terminals, and FIFOs open for both, have two.
        Err(_) => {
            engine.ring.release(1);
            false
        }
    }
}

/// The poll of a queue answered. Any thread that reaps, signals blocked.
pub fn event(engine: &Engine, blocked: &Blocked, data: u64, result: i64) {
    engine.ring.release(1);
    let at = data as u32;
    let guard = engine.lock.lock(blocked);
    let Some(queue) = engine.polls.queues.get(at) else {
        return;
    };
    if u64::from(queue.generation.get()) != (data & !POLL_EVENT) >> 32 {
        return;
    }
    engine.polls.in_ring.set(engine.polls.in_ring.get() - 1);
    engine.polls.writes_in_ring.set(engine.polls.writes_in_ring.get() - writes(queue));
    queue.armed.set(0);
    // 0 says that it was cancelled; an attempt that gets something sets it back.
    queue.futile.set(queue.futile.get() + u32::from(result > 0));
    if queue.busy.get() == 0 {
        go_on(engine, blocked, guard, at, queue);
    }
}

/// Who made the queue busy is done: it goes on.
pub fn goes_on(engine: &Engine, blocked: &Blocked, at: Number) {
    let guard = engine.lock.lock(blocked);
    let Some(queue) = engine.polls.queues.get(at) else { return };
    queue.busy.set(0);
    if queue.armed.get() != 0 {
        return;
    }
    go_on(engine, blocked, guard, at, queue);
}

/// A queue that nobody is busy with and that is not armed goes on: by a helper, if there is one to spare.
fn go_on(engine: &Engine, blocked: &Blocked, guard: Guard, at: Number, queue: &Queue) {
    if queue.waiting.is_empty() {
        engine.polls.forget_if_idle(at, queue);
    } else if blocked.sees_descriptors() && !helpers_can(engine) {
        drive(engine, blocked, guard, at, queue, &mut Reach::Number);
    } else {
        give_to_helpers(engine, &guard, at, queue);
    }
}

/// Takes a cancelled request out; a descriptor is not watched (and held open) for nobody.
pub fn withdraw(engine: &Engine, guard: &Guard, number: Number) {
    let at = engine.request(number).poll.get();
    let Some(queue) = engine.polls.queues.get(at) else {
        return;
    };
    queue.waiting.remove(&engine.requests, number);
    let next = engine.request(queue.waiting.first());
    // The others may have come by the same descriptor.
    if queue.busy.get() != 0 || !queue.waiting.is_empty() && next.fd.get() == queue.fd.get() {
        return;
    }
    disarm(engine, queue);
    if queue.waiting.is_empty() {
        engine.polls.forget_if_idle(at, queue);
    } else if queue.armed.get() == 0 {
        give_to_helpers(engine, guard, at, queue);
    }
}

/// Nobody is to be told any more when the queue's descriptor is ready.
fn disarm(engine: &Engine, queue: &Queue) {
    match queue.armed.get() {
        ARMED_IN_RING => {
            queue.armed.set(ARMED_AND_CANCELLED);
            let _ = engine.ring.cancel(queue.iocb.address());
        }
        ARMED_BY_WATCH => watch::unwatch(engine, queue),
        _ => {}
    }
}
