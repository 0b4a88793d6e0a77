//! What the library knows of one request, and the lists that requests stand in.
//!
//! A request is the library's; the aiocb is the caller's and may be gone the moment its status is
//! stored. So everything that is needed after that was copied here at submission.
//!
//! # States
//!
//! | state | where the request is | who moves it on |
//! |---|---|---|
//! | `FREE` | nowhere | the submitting thread takes it: `SUBMITTING` |
//! | `SUBMITTING` | with the submitting thread, perhaps in the kernel already | that thread: `RING`, `HELD`; who reaps its event: completes it, or `BOUNCED` |
//! | `BOUNCED` | as before, and its event said "would wait" | the submitting thread, which alone knows that the descriptor still is the right one: `HELD` |
//! | `RING` | in the kernel | who reaps its event: completes it, or `HELD` |
//! | `HELD` | in one of the library's lists (`home`), nothing started | under the engine's lock: `RUNNING`, `RING`, or cancelled |
//! | `RUNNING` | with the one thread that does the transfer | that thread: completes it, `HELD`, or `RING` |
//! | `ENDED` | its status is stored; it carries the notification | the completion thread: `FREE` |
//!
//! Completing stores the status exactly once, because in each state exactly one party may do it.

use crate::abi::AiocbRef;
use crate::pool::{Cell32, Cell64, Number, Open32, Open64, Pool, Slot};
use crate::sys::files::{Buffer, Direction, Identity};
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

pub const FREE: u32 = 0;
pub const SUBMITTING: u32 = 1;
pub const BOUNCED: u32 = 2;
pub const RING: u32 = 3;
pub const HELD: u32 = 4;
pub const RUNNING: u32 = 5;
pub const ENDED: u32 = 6;

/// What a request asks for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Operation {
    Read,
    Write,
    /// O_SYNC: data and every attribute.
    Sync,
    /// O_DSYNC: data and what is needed to read it back.
    DataSync,
    /// `aio_mlock`: pages of memory, no file.
    Lock,
}

impl Operation {
    /// Which way data goes; `None` for what transfers none.
    pub fn direction(self) -> Option<Direction> {
        match self {
            Operation::Read => Some(Direction::Read),
            Operation::Write => Some(Direction::Write),
            Operation::Sync | Operation::DataSync | Operation::Lock => None,
        }
    }
}

/// `Request::flags`.
pub mod flag {
    /// Submitted with RWF_NOWAIT: EAGAIN means "would wait", not an error.
    pub const NOWAIT: u32 = 1 << 0;
    /// Cannot seek: transfers at the file position.
    pub const STREAM: u32 = 1 << 1;
    /// O_NONBLOCK was set at submission.
    pub const NONBLOCK: u32 = 1 << 2;
    /// `identity` is known.
    pub const IDENTIFIED: u32 = 1 << 3;
    /// Counted in `Engine::owed`.
    pub const OWED: u32 = 1 << 4;
    /// Knows no RWF_NOWAIT: transfers that would wait go to a helper.
    pub const WAITS: u32 = 1 << 5;
    /// Counted in `Engine::held`.
    pub const COUNTED: u32 = 1 << 6;
    /// Nothing tells when it can be done: a helper waits in the transfer.
    pub const BLOCKS: u32 = 1 << 8;
    /// The kernel adds one to the eventfd of its notification itself (IOCB_FLAG_RESFD).
    pub const RESFD: u32 = 1 << 11;
    /// A file's, at the descriptor's own position: after all others of that kind.
    pub const AT_POSITION: u32 = 1 << 12;
    /// RLIMIT_FSIZE sets no limit: a write sends no SIGXFSZ to the thread that makes it.
    pub const NO_LIMIT: u32 = 1 << 14;
    /// aio_cancel took it out of its list, and ends it.
    pub const CANCELED: u32 = 1 << 15;
    /// A helper just tries it, without waiting.
    pub const TRYING: u32 = 1 << 16;
    /// A helper found nothing, and it went back to its queue.
    pub const WAITED: u32 = 1 << 18;
    /// A helper could have no copy of its descriptor.
    pub const NO_COPY: u32 = 1 << 17;
    /// A helper tried it once, on a descriptor that knows no RWF_NOWAIT.
    pub const TRIED: u32 = 1 << 9;
    /// A pipe or socket, which its inode tells from all others.
    pub const BY_FILE: u32 = 1 << 10;
    /// Never goes to the ring: a helper or a waiter transfers it.
    pub const OFF_RING: u32 = 1 << 7;
}

/// The list that a `HELD` request stands in.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Home {
    None,
    /// Waits for room in the ring.
    Overflow,
    /// A buffered write in its file's queue (`file`).
    FileQueue,
    /// A cold read in the helpers' queue.
    Cold,
    /// Anything else for a helper.
    Errand,
    /// A queue of one descriptor and direction (`poll`).
    Poll,
    /// An fsync that waits for writes of `file`.
    Barrier,
}

/// One request. 256 bytes at most.
#[derive(Default)]
pub struct Request {
    /// Generation (high half, never 0 in use) and state (low half).
    tag: AtomicU64,
    link: AtomicU32,
    /// Who sleeps until this is complete: 0, a waiter's number, or `SEVERAL`. See `wake`.
    pub waiter: AtomicU32,
    aiocb: Open64,
    pub fd: Open32,
    operation: Cell32,
    pub flags: Open32,
    pub priority: Cell32,
    /// What is left of the buffer (`files::Buffer`), and of a vectored one which copy it is (`vectors`).
    address: Cell64,
    left: Cell64,
    vectors: Cell32,
    pub copy: Cell32,
    offset: Cell64,
    /// Bytes transferred so far.
    pub done: Cell64,
    device: Cell64,
    inode: Cell64,
    /// `notify::Notice`, taken apart.
    pub notice: Cell32,
    pub signo: Cell32,
    pub value: Cell64,
    pub function: Cell64,
    pub attributes: Cell64,
    /// When it was submitted, while somebody wants the figures; and `observe::Way`.
    pub started: Cell64,
    pub way: Cell32,
    /// The lio_listio batch, or 0.
    pub batch: Cell32,
    /// Links of the list that `home` names.
    next: Cell32,
    previous: Cell32,
    home: Open32,
    /// The file (`order`) that this write or sync is counted in, or 0.
    pub file: Cell32,
    /// The queue (`polls`) that this stands in, or 0.
    pub poll: Cell32,
    /// `order`: a write's place between barriers; a barrier's own.
    pub epoch: Cell32,
    /// `order`: writes that a barrier waits for.
    pub pending: Cell32,
    /// `order`: the error number of a write that a barrier covers, or 0.
    pub failed: Cell32,
    /// What `aio_waitcomplete` will know it by (`finished`), or 0.
    pub record: Cell32,
}

const _: () = assert!(size_of::<Request>() <= 256);

// SAFETY: every member is an atomic; zero is FREE with no generation.
unsafe impl Slot for Request {
    fn free_link(&self) -> &AtomicU32 {
        &self.link
    }
}

/// Names one use of one slot: generation and number. Never 0.
pub type Handle = u64;

/// The number in a handle.
pub fn number_of(handle: Handle) -> Number {
    handle as u32
}

impl Request {
    /// A slot that is in no pool and never in use.
    pub const fn nowhere() -> Request {
        // SAFETY: all-zero bytes are a valid Request (Slot).
        unsafe { core::mem::zeroed() }
    }

    /// Starts a new life of the slot: `SUBMITTING`. Only for who took it from the pool.
    pub fn begin(
        &self,
        number: Number,
        aiocb: AiocbRef,
        operation: Operation,
        buffer: Buffer,
        offset: i64,
    ) -> Handle {
        // 31 bits: handles keep their highest bit 0 (see `polls`); never 0: handles are not small.
        let generation = ((self.tag.load(Ordering::Relaxed) >> 32) as u32 + 1) & 0x7fff_ffff;
        let generation = generation.max(1);
        self.waiter.store(0, Ordering::Relaxed);
        self.aiocb.set(aiocb.address());
        self.fd.set(aiocb.fildes() as u32);
        self.operation.set(operation as u32);
        self.flags.set(0);
        self.priority.set(0);
        self.keep_rest(buffer);
        self.offset.set(offset as u64);
        for cell in [&self.batch, &self.file, &self.poll, &self.notice, &self.copy, &self.record] {
            cell.set(0);
        }
        self.home.set(0);
        self.done.set(0);
        let tag = u64::from(generation) << 32;
        // Release pairs with `find`.
        self.tag.store(tag | u64::from(SUBMITTING), Ordering::Release);
        tag | u64::from(number)
    }

    /// A slot that only carries a notification: no aiocb, nothing to find. `ENDED`.
    pub fn begin_carrier(&self) {
        let generation = ((self.tag.load(Ordering::Relaxed) >> 32) as u32 + 1) & 0x7fff_ffff;
        self.waiter.store(0, Ordering::Relaxed);
        self.aiocb.set(0);
        self.fd.set(u32::MAX);
        self.flags.set(0);
        for cell in [&self.batch, &self.file, &self.copy, &self.record] {
            cell.set(0);
        }
        self.tag.store(u64::from(generation.max(1)) << 32 | u64::from(ENDED), Ordering::Release);
    }

    #[inline]
    pub fn state(&self) -> u32 {
        self.tag.load(Ordering::Acquire) as u32
    }

    /// For the party that the table above names.
    #[inline]
    pub fn set_state(&self, state: u32) {
        let tag = self.tag.load(Ordering::Relaxed);
        self.tag.store(tag & !0xffff_ffff | u64::from(state), Ordering::Release);
    }

    /// Moves this use of the slot from one state to another, unless somebody else moved it first.
    #[inline]
    pub fn move_state(&self, handle: Handle, from: u32, to: u32) -> bool {
        let generation = handle & !0xffff_ffff;
        let (from, to) = (generation | u64::from(from), generation | u64::from(to));
        self.tag.compare_exchange(from, to, Ordering::AcqRel, Ordering::Acquire).is_ok()
    }

    /// Whether `handle` names the present use of this slot.
    pub fn is(&self, handle: Handle) -> bool {
        let tag = self.tag.load(Ordering::Acquire);
        tag >> 32 == handle >> 32 && tag as u32 != FREE
    }

    /// Whether `handle` names the present use, and it is in `state`: one load, so that it is one use's.
    pub fn is_in(&self, handle: Handle, state: u32) -> bool {
        self.tag.load(Ordering::Acquire) == handle & !0xffff_ffff | u64::from(state)
    }

    pub fn handle(&self, number: Number) -> Handle {
        self.tag.load(Ordering::Relaxed) & !0xffff_ffff | u64::from(number)
    }

    /// The address of the caller's aiocb: valid memory only until the request is complete.
    pub fn aiocb_address(&self) -> u64 {
        self.aiocb.get()
    }

    pub fn fd(&self) -> i32 {
        self.fd.get() as i32
    }

    pub fn operation(&self) -> Operation {
        match self.operation.get() {
            0 => Operation::Read,
            1 => Operation::Write,
            2 => Operation::Sync,
            3 => Operation::DataSync,
            _ => Operation::Lock,
        }
    }

    /// Bytes asked for.
    pub fn bytes(&self) -> usize {
        (self.done.get() + self.left.get()) as usize
    }

    /// What is left of the buffer.
    pub fn rest(&self) -> Buffer {
        let (address, bytes) = (self.address.get() as usize, self.left.get() as usize);
        Buffer { address, bytes, vectors: self.vectors.get() }
    }

    fn keep_rest(&self, rest: Buffer) {
        self.address.set(rest.address as u64);
        self.left.set(rest.bytes as u64);
        self.vectors.set(rest.vectors);
    }

    /// So many bytes more are transferred.
    pub fn advance(&self, count: usize) {
        self.keep_rest(self.rest().after(count));
        self.done.set(self.done.get() + count as u64);
    }

    /// Where in the file the rest belongs, or `STREAM`.
    pub fn position(&self) -> i64 {
        if self.has(flag::STREAM) {
            crate::sys::files::STREAM
        } else {
            self.offset.get() as i64 + self.done.get() as i64
        }
    }

    pub fn has(&self, flag: u32) -> bool {
        self.flags.get() & flag != 0
    }
    pub fn add(&self, flag: u32) {
        self.flags.set(self.flags.get() | flag);
    }
    pub fn remove(&self, flag: u32) {
        self.flags.set(self.flags.get() & !flag);
    }

    /// What kind of file it is (S_IFMT): whether its inode is its own.
    pub fn note_kind(&self, kind: u32) {
        if matches!(kind, libc::S_IFIFO | libc::S_IFSOCK) {
            self.add(flag::BY_FILE);
        }
    }

    /// The file that the descriptor was open on at submission.
    pub fn identify(&self, identity: Identity) {
        self.device.set(identity.device);
        self.inode.set(identity.inode);
        self.add(flag::IDENTIFIED);
    }
    pub fn identity(&self) -> Identity {
        Identity { device: self.device.get(), inode: self.inode.get() }
    }

    pub fn home(&self) -> Home {
        match self.home.get() {
            1 => Home::Overflow,
            2 => Home::FileQueue,
            3 => Home::Cold,
            4 => Home::Errand,
            5 => Home::Poll,
            6 => Home::Barrier,
            _ => Home::None,
        }
    }

    /// The one after this in its list, or 0.
    pub fn next(&self) -> Number {
        self.next.get()
    }
}

/// Finds the request that is at work on an aiocb, if there is one: also for garbage in an aiocb
/// that was never submitted, or was submitted to a parent process.
pub fn find(pool: &Pool<Request>, aiocb: AiocbRef) -> Option<(Handle, &Request)> {
    let handle = aiocb.request();
    let request = pool.get(number_of(handle))?;
    (request.is(handle) && request.aiocb_address() == aiocb.address()).then_some((handle, request))
}

/// A first-come-first-served list of requests, by number. Guarded by the engine's lock.
#[derive(Default)]
pub struct List {
    first: Cell32,
    last: Cell32,
    length: Cell32,
}

impl List {
    pub fn first(&self) -> Number {
        self.first.get()
    }
    pub fn len(&self) -> u32 {
        self.length.get()
    }
    pub fn is_empty(&self) -> bool {
        self.first.get() == 0
    }

    pub fn push_back(&self, pool: &Pool<Request>, number: Number, home: Home) {
        let Some(request) = pool.get(number) else { return };
        let last = self.last.get();
        request.previous.set(last);
        request.next.set(0);
        request.home.set(home as u32);
        match pool.get(last) {
            Some(before) => before.next.set(number),
            None => self.first.set(number),
        }
        self.last.set(number);
        self.length.set(self.length.get() + 1);
    }

    pub fn push_front(&self, pool: &Pool<Request>, number: Number, home: Home) {
        let Some(request) = pool.get(number) else { return };
        let first = self.first.get();
        request.previous.set(0);
        request.next.set(first);
        request.home.set(home as u32);
        match pool.get(first) {
            Some(after) => after.previous.set(number),
            None => self.last.set(number),
        }
        self.first.set(number);
        self.length.set(self.length.get() + 1);
    }

    /// Takes out one that stands in this list.
    pub fn remove(&self, pool: &Pool<Request>, number: Number) {
        let Some(request) = pool.get(number) else { return };
        let (previous, next) = (request.previous.get(), request.next.get());
        match pool.get(previous) {
            Some(before) => before.next.set(next),
            None => self.first.set(next),
        }
        match pool.get(next) {
            Some(after) => after.previous.set(previous),
            None => self.last.set(previous),
        }
        request.home.set(Home::None as u32);
        self.length.set(self.length.get() - 1);
    }

    pub fn pop_front(&self, pool: &Pool<Request>) -> Option<Number> {
        let number = self.first.get();
        (number != 0).then(|| {
            self.remove(pool, number);
            number
        })
    }
}
