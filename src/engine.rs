//! The state that all requests of a process share. Data only: the rooms above act on it.
//!
//! # The flow of one request
//!
//! ```text
//!   aio_read, aio_write, aio_fsync, lio_listio                         (capi)
//!        |
//!      submit ---- cached: all there, complete on return
//!        |\------- direct: io_submit ----------------------+
//!        |\------- order: a file's queue of writes --.      |
//!        |\------- helpers: cold reads, errands ------+     |   kernel
//!        |\------- polls: IOCB_CMD_POLL -------------(-+--> | context
//!        |\------- order: fsync behind writes --------(-+-> |  (ring)
//!        |\------- overflow: no room in the ring ----(--+-> |
//!                                                    |      v
//!                    helper threads, waiters ------> |    reap     (a waiter, aio_error,
//!                                                    v      |       or the completion thread)
//!                                                 complete <+
//!                                                    |
//!                    return value, status, wake the waiter, notify
//! ```
//!
//! # Who touches what
//!
//! The lists and tables are guarded by `lock`, always taken with signals blocked. Requests, waiters
//! and batches are slots of pools, handed on as their state tables say. The counters
//! are atomics whose orderings are explained where they are used (`wake`).

use crate::callbacks::CallbackPool;
use crate::helpers::Helpers;
use crate::lock::Lock;
use crate::notify::Outbox;
use crate::order::FileTable;
use crate::polls::PollTable;
use crate::pool::Pool;
use crate::request::{List, Request};
use crate::ring::Ring;
use crate::wake::{Batch, Waiter};
use core::sync::atomic::{AtomicU32, AtomicU64};

pub struct Engine {
    pub ring: Ring,
    /// Which engine of this line of forks: stored in aiocbs, so that a child knows its parent's.
    pub epoch: u32,
    pub requests: Pool<Request>,
    pub waiters: Pool<Waiter>,
    pub batches: Pool<Batch>,

    /// The thread that may take events out of the ring (`sys::threads::self_id`), or 0. See `wake`.
    pub leader: AtomicU64,
    /// Things that must happen though nobody may ask: while there are any, the completion thread is on duty.
    pub owed: AtomicU32,
    /// Waiters that sleep and could lead.
    pub followers: AtomicU32,
    /// Requests that can complete without the ring: in the library's lists, or with a thread.
    pub held: AtomicU32,
    /// `wake::is_stalled`: the ring's head when somebody last looked, and since when it is that.
    pub stall_head: AtomicU64,
    pub stall_since: AtomicU64,
    /// Length of `overflow`, to be looked at without the lock.
    pub overflowing: AtomicU32,

    pub lock: Lock,
    pub overflow: List,
    pub files: FileTable,
    pub polls: PollTable,
    pub helpers: Helpers,
    pub outbox: Outbox,
    /// Locked by library threads only.
    pub callbacks: CallbackPool,
}

impl Engine {
    pub fn new(ring: Ring, epoch: u32, most_helpers: u32) -> Engine {
        Engine {
            ring,
            epoch,
            requests: Pool::new(),
            waiters: Pool::new(),
            batches: Pool::new(),
            leader: AtomicU64::new(0),
            owed: AtomicU32::new(0),
            followers: AtomicU32::new(0),
            held: AtomicU32::new(0),
            stall_head: AtomicU64::new(u64::MAX),
            stall_since: AtomicU64::new(0),
            overflowing: AtomicU32::new(0),
            lock: Lock::default(),
            overflow: List::default(),
            files: FileTable::default(),
            polls: PollTable::default(),
            helpers: Helpers::new(most_helpers),
            outbox: Outbox::default(),
            callbacks: CallbackPool::default(),
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
