//! The state that all requests of a process share. Data only: the rooms above act on it.
//!
//! # The flow of one request
//!
//! ```text
//!            aio_read    aio_write    aio_fsync    lio_listio            capi
//!                                |
//!                             submit    looks at the descriptor, and takes one way
//!                                |
//!    +---------------+-----------+----------+-------------------+
//!    |               |                      |                   |
//! at once         helped                 direct              polled
//! cached reads,   buffered writes,       O_DIRECT files,     pipes, sockets,
//! memory:         cold reads:            block devices,      terminals: tried
//! done in         wait their turn        fsync:              in the call, else
//! the call        (order, worklist)      io_submit           IOCB_CMD_POLL
//!    |               |                      |                   |
//!    |               |<--- "would wait" ----|                   |
//!    |               |                      v                   v
//!    |               |              +------------------------------------+
//!    |               |-- errands -->|  the ring: one kernel context for  |
//!    |               v              |  the whole process                 |
//!    |         helper threads,      +------------------------------------+
//!    |         or the waiter                |                   |
//!    |         itself (own_work)            |  reap, by the leader: a waiter,
//!    |               |                      |  aio_error, the completion thread
//!    |               |                      |                   |
//!    |               |<------------------ "ready": a helper tries again
//!    |               |                      |
//!    +---------------+----> complete <------+
//!                               |
//!         return value, status, waiter, batch, notification: in this order
//! ```
//!
//! Two more lines that a request may stand in are not drawn: an fsync waits for the writes that it covers (`order`),
//! and what finds no room in the ring waits before it (`admission`).
//!
//! | way | rooms | what it costs |
//! |---|---|---|
//! | at once | `submit` | no slot, no lock, no thread: some hundred nanoseconds of the caller's |
//! | helped | `order`, `worklist`, `helpers`, `own_work`, `transfers` | a thread of the library, or the one that waits |
//! | direct | `direct`, `ring` | one `io_submit` of the caller's; the kernel does the rest |
//! | polled | `polls` | nothing while nothing comes; then one try of a helper's |
//!
//! # Who touches what
//!
//! The lists and tables are guarded by `lock`, always taken with signals blocked. Requests, waiters
//! and batches are slots of pools, handed on as their state tables say. The counters
//! are atomics whose orderings are explained where they are used (`wake`).

use crate::callbacks::CallbackPool;
use crate::finished::Finished;
use crate::hints::Hints;
use crate::lock::Lock;
use crate::notify::Outbox;
use crate::order::FileTable;
use crate::polls::PollTable;
use crate::pool::Pool;
use crate::request::{flag, List, Request};
use crate::ring::Ring;
use crate::stand_in::StandIn;
use crate::vectors::Copies;
use crate::wake::{Batch, Waiter};
use crate::worklist::Worklist;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

pub struct Engine {
    pub ring: Ring,
    /// The process that the engine is of: a forked child has another engine.
    pub process: i32,
    /// Which engine of this line of forks: stored in aiocbs, so that a child knows its parent's.
    pub epoch: u32,
    pub requests: Pool<Request>,
    pub waiters: Pool<Waiter>,
    pub batches: Pool<Batch>,
    pub copies: Copies,
    pub finished: Finished,
    pub hints: Hints,

    /// The thread that may take events out of the ring (`sys::threads::self_id`), or 0. See `wake`.
    pub leader: AtomicU64,
    /// Things that must happen though nobody may ask: while there are any, the completion thread is on duty.
    pub owed: AtomicU32,
    /// Waiters that sleep and could lead.
    pub followers: AtomicU32,
    /// Requests that can complete without the ring: in the library's lists, or with a thread.
    pub held: AtomicU32,
    /// 1: a leader was to be woken, and no descriptor was free to do it with. The completion thread tries again.
    pub kick_failed: AtomicU32,
    /// The waiter in whose inbox the kernel puts the leader's events (`wait`), or 0.
    pub seat: AtomicU32,
    /// Requests counted up just before and just after their status is stored: by these a waiter knows that its last look
    /// still holds (`wake`, rule 1).
    pub ending: AtomicU64,
    pub ended: AtomicU64,
    /// Looks at requests that wait for a helper, since a thread last waited (`worklist::asked`).
    pub asked: AtomicU32,
    /// Requests that exist: while there are none, the library's threads may end.
    pub live: AtomicU32,
    /// Requests in flight, counted only while somebody wants the figures (`observe`).
    pub in_flight: AtomicU64,
    /// Whether the completion thread, and a helper, are there: see `threads`.
    pub alive: [AtomicU32; 2],
    /// The completion thread's thread id, through which helpers reach the program's descriptors.
    pub completion_thread: AtomicU32,
    /// Whether helpers have descriptor tables of their own, and copies in them (`pins`).
    pub own_tables: AtomicU32,
    /// `wake::is_stalled`: the ring's head when somebody last looked, and since when it is that.
    pub stall_head: AtomicU64,
    pub stall_since: AtomicU64,
    /// Length of `overflow`, to be looked at without the lock.
    pub overflowing: AtomicU32,

    pub lock: Lock,
    pub overflow: List,
    pub files: FileTable,
    pub polls: PollTable,
    pub work: Worklist,
    pub outbox: Outbox,
    /// Locked by library threads only.
    pub callbacks: CallbackPool,
    /// Between helpers and the completion thread.
    pub stand_in: StandIn,
}

impl Engine {
    pub fn new(ring: Ring, epoch: u32, most_helpers: u32) -> Engine {
        Engine {
            ring,
            process: crate::sys::threads::process_id(),
            epoch,
            requests: Pool::new(),
            waiters: Pool::new(),
            batches: Pool::new(),
            copies: Copies::new(),
            finished: Finished::new(),
            hints: Hints::new(),
            leader: AtomicU64::new(0),
            owed: AtomicU32::new(0),
            followers: AtomicU32::new(0),
            held: AtomicU32::new(0),
            kick_failed: AtomicU32::new(0),
            seat: AtomicU32::new(0),
            ending: AtomicU64::new(0),
            ended: AtomicU64::new(0),
            asked: AtomicU32::new(0),
            live: AtomicU32::new(0),
            in_flight: AtomicU64::new(0),
            alive: [AtomicU32::new(0), AtomicU32::new(0)],
            completion_thread: AtomicU32::new(0),
            own_tables: AtomicU32::new(0),
            stall_head: AtomicU64::new(u64::MAX),
            stall_since: AtomicU64::new(0),
            overflowing: AtomicU32::new(0),
            lock: Lock::default(),
            overflow: List::default(),
            files: FileTable::default(),
            polls: PollTable::default(),
            work: Worklist::new(most_helpers),
            outbox: Outbox::default(),
            callbacks: CallbackPool::default(),
            stand_in: StandIn::default(),
        }
    }

    /// A slot for a new request. `None`: memory or threads are out.
    pub fn take_request(&'static self) -> Option<u32> {
        // SeqCst, before the look at the threads: `threads`.
        self.live.fetch_add(1, Ordering::SeqCst);
        let number = crate::threads::ensure(self).ok().and_then(|()| self.requests.take());
        if number.is_none() {
            self.live.fetch_sub(1, Ordering::SeqCst);
        }
        number
    }

    /// As `take_request`, for one that needs no thread of ours.
    pub fn take_request_alone(&self) -> Option<u32> {
        self.requests.take().inspect(|_| {
            self.live.fetch_add(1, Ordering::SeqCst);
        })
    }

    /// The request is over: its slot may be used again.
    pub fn free_request(&self, number: u32) {
        self.copies.give(self.request(number).copy.get());
        self.request(number).set_state(crate::request::FREE);
        self.requests.give(number);
        self.live.fetch_sub(1, Ordering::SeqCst);
    }

    /// The request goes to a helper or a waiter, or is about to be complete: its batch does not wait for the ring on its
    /// account any more.
    pub fn leave_ring(&self, request: &Request) {
        if request.has(flag::OFF_RING) {
            return;
        }
        request.add(flag::OFF_RING);
        if let Some(batch) = self.batches.get(request.batch.get()) {
            batch.by_ring.fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// The opposite of `leave_ring`.
    pub fn return_to_ring(&self, request: &Request) {
        request.remove(flag::OFF_RING);
        if let Some(batch) = self.batches.get(request.batch.get()) {
            batch.by_ring.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// The request of a number that the engine itself stored: always there.
    #[inline]
    pub fn request(&self, number: u32) -> &Request {
        match self.requests.get(number) {
            Some(request) => request,
            // A number that no list of ours can hold; a slot of its own rather than a panic in a program.
            None => &NOWHERE,
        }
    }
}

/// A slot that is never in use.
static NOWHERE: Request = Request::nowhere();
