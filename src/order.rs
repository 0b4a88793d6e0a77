//! Files with writes under way: their order, and fsync as a barrier behind them.
//!
//! A file is known by device and inode while a write or a sync of it is unfinished, whatever
//! descriptors it came through. Three things hang on it:
//!
//! - **the queue** of buffered and appending writes, which run one at a time in call order: that is
//!   the order O_APPEND promises, and one thread at a time is as fast as an inode's lock allows;
//! - **the count of unfinished writes**, by epoch. An epoch ends with each fsync, so a barrier
//!   waits for the writes before it and not for those after it;
//! - **the barriers**: fsync requests that wait, oldest first. A barrier leaves when neither it nor
//!   an older one has a write to wait for. When a covered write fails, its error goes to every
//!   barrier that covers it (POSIX aio_fsync: "if any of them fails").
//!
//! Everything here is guarded by the engine's lock.

use crate::engine::Engine;
use crate::errno::{Errno, Outcome};
use crate::lock::{Blocked, Guard};
use crate::pool::{Cell32, Cell64, Number, Pool, Slot};
use crate::request::{Home, List, Request};
use crate::sys::files::Identity;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

/// One file. Slots are reused when nothing of the file is unfinished.
#[derive(Default)]
pub struct File {
    link: AtomicU32,
    /// Its own number.
    pub number: Cell32,
    /// The next file of the same bucket, or 0.
    chain: Cell32,
    device: Cell64,
    inode: Cell64,
    /// Writes and syncs that are not complete.
    unfinished: Cell32,
    /// Buffered writes that nobody has started.
    pub queue: List,
    /// 1 while a thread works on the queue.
    pub busy: Cell32,
    /// 1 while the file is in the helpers' list.
    pub listed: Cell32,
    /// The next file in the helpers' list, or 0.
    pub next_runnable: Cell32,
    /// 1 when the file lies on a local disk or in memory, so that a waiter may run its writes itself.
    pub local: Cell32,
    /// The epoch that new writes belong to, and its writes that are not complete.
    epoch: Cell32,
    open: Cell32,
    barriers: List,
}

// SAFETY: every member is an atomic; zero is an unused file.
unsafe impl Slot for File {
    fn free_link(&self) -> &AtomicU32 {
        &self.link
    }
}

const BUCKETS: usize = 1024;

pub struct FileTable {
    files: Pool<File>,
    buckets: [Cell32; BUCKETS],
    /// Files in the table, to be looked at without the lock.
    count: AtomicU32,
    /// Devices whose file systems refused a buffered write with RWF_NOWAIT, by a hash: a wrong
    /// guess costs a helper's trip, nothing else.
    refuses_nowait: [AtomicU64; DEVICES],
}

const DEVICES: usize = 16;

impl Default for FileTable {
    fn default() -> Self {
        FileTable {
            files: Pool::new(),
            buckets: [const { Cell32::new(0) }; BUCKETS],
            count: AtomicU32::new(0),
            refuses_nowait: [const { AtomicU64::new(0) }; DEVICES],
        }
    }
}

fn bucket(identity: Identity) -> usize {
    let mixed = (identity.inode ^ identity.device.rotate_left(32)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (mixed >> 54) as usize
}
const _: () = assert!(BUCKETS == 1 << (64 - 54));

impl FileTable {
    pub fn get(&self, number: Number) -> Option<&File> {
        self.files.get(number)
    }

    fn find(&self, identity: Identity) -> Option<Number> {
        let mut number = self.buckets[bucket(identity)].get();
        while let Some(file) = self.files.get(number) {
            if file.inode.get() == identity.inode && file.device.get() == identity.device {
                return Some(number);
            }
            number = file.chain.get();
        }
        None
    }

    fn find_or_add(&self, identity: Identity) -> Option<Number> {
        if let Some(number) = self.find(identity) {
            return Some(number);
        }
        let number = self.files.take()?;
        let file = self.files.get(number)?;
        file.number.set(number);
        file.device.set(identity.device);
        file.inode.set(identity.inode);
        for cell in [&file.unfinished, &file.busy, &file.listed, &file.local, &file.epoch, &file.open] {
            cell.set(0);
        }
        let bucket = &self.buckets[bucket(identity)];
        file.chain.set(bucket.get());
        bucket.set(number);
        self.count.fetch_add(1, Ordering::Relaxed);
        Some(number)
    }

    fn forget(&self, number: Number) {
        let Some(file) = self.files.get(number) else {
            return;
        };
        let identity = Identity { device: file.device.get(), inode: file.inode.get() };
        let mut cell = &self.buckets[bucket(identity)];
        while cell.get() != number {
            match self.files.get(cell.get()) {
                Some(before) => cell = &before.chain,
                None => return,
            }
        }
        cell.set(file.chain.get());
        self.count.fetch_sub(1, Ordering::Relaxed);
        self.files.give(number);
    }

    /// The file system of this file takes no buffered writes with RWF_NOWAIT.
    pub fn cannot_write_now(&self, identity: Identity) {
        self.refuses_nowait[identity.device as usize % DEVICES].store(identity.device, Ordering::Relaxed);
    }
}

/// Whether a buffered write may be tried at once: no other of its file waits that it would overtake.
pub fn may_write_now(engine: &Engine, identity: Identity) -> bool {
    let files = &engine.files;
    if files.refuses_nowait[identity.device as usize % DEVICES].load(Ordering::Relaxed) == identity.device {
        return false;
    }
    if files.count.load(Ordering::Relaxed) == 0 {
        return true;
    }
    let blocked = Blocked::new();
    let _guard = engine.lock.lock(&blocked);
    let file = files.find(identity).and_then(|number| files.get(number));
    file.is_none_or(|file| file.queue.is_empty() && file.busy.get() == 0)
}

/// Counts a write of the file that the request is identified with. False: memory is out.
/// The second answer: the file was not known before.
pub fn write_begins(engine: &Engine, _: &Guard, request: &Request) -> Option<(Number, bool)> {
    let number = engine.files.find_or_add(request.identity())?;
    let file = engine.files.get(number)?;
    let new = file.unfinished.get() == 0;
    file.unfinished.set(file.unfinished.get() + 1);
    file.open.set(file.open.get() + 1);
    request.file.set(number);
    request.epoch.set(file.epoch.get());
    Some((number, new))
}

/// A counted write is over. Answers the barriers that may go now, linked from the first (0: none).
pub fn write_ended(engine: &Engine, _: &Guard, request: &Request, outcome: Outcome) -> Number {
    let number = request.file.get();
    let Some(file) = engine.files.get(number) else {
        return 0;
    };
    let epoch = request.epoch.get();
    let mut at = file.barriers.first();
    // Epochs run round; the distance tells before from after.
    while at != 0 && (engine.request(at).epoch.get().wrapping_sub(epoch) as i32) < 0 {
        at = engine.request(at).next();
    }
    match at {
        0 => file.open.set(file.open.get() - 1),
        covering => {
            let pending = &engine.request(covering).pending;
            pending.set(pending.get() - 1);
        }
    }
    if let Err(errno) = outcome {
        while at != 0 {
            let failed = &engine.request(at).failed;
            if failed.get() == 0 {
                failed.set(errno.0 as u32);
            }
            at = engine.request(at).next();
        }
    }
    let released = release_barriers(engine, file);
    unfinished_less_one(engine, number, file);
    released
}

/// A barrier behind the file's unfinished writes. False: there is none to wait for, go at once.
pub fn barrier_begins(engine: &Engine, _: &Guard, number: Number, request: &Request) -> bool {
    let Some(at) = engine.files.find(request.identity()) else {
        return false;
    };
    let Some(file) = engine.files.get(at) else {
        return false;
    };
    if file.open.get() == 0 && file.barriers.is_empty() {
        return false;
    }
    request.file.set(at);
    request.epoch.set(file.epoch.get());
    request.pending.set(file.open.get());
    request.failed.set(0);
    file.epoch.set(file.epoch.get().wrapping_add(1));
    file.open.set(0);
    file.unfinished.set(file.unfinished.get() + 1);
    file.barriers.push_back(&engine.requests, number, Home::Barrier);
    true
}

/// Takes a cancelled barrier out: those behind it wait for its writes instead. Answers as `write_ended`.
pub fn barrier_cancelled(engine: &Engine, _: &Guard, number: Number) -> Number {
    let request = engine.request(number);
    let Some(file) = engine.files.get(request.file.get()) else {
        return 0;
    };
    let heir = match request.next() {
        0 => &file.open,
        next => &engine.request(next).pending,
    };
    heir.set(heir.get() + request.pending.get());
    file.barriers.remove(&engine.requests, number);
    let released = release_barriers(engine, file);
    unfinished_less_one(engine, request.file.get(), file);
    request.file.set(0);
    released
}

/// What a barrier that left the list inherited from the writes it covered.
pub fn inherited(request: &Request) -> Result<(), Errno> {
    match request.failed.get() {
        0 => Ok(()),
        errno => Err(Errno(errno as i32)),
    }
}

fn release_barriers(engine: &Engine, file: &File) -> Number {
    let released = List::default();
    while file.barriers.first() != 0 && engine.request(file.barriers.first()).pending.get() == 0 {
        let Some(number) = file.barriers.pop_front(&engine.requests) else {
            break;
        };
        // Out of the list it is on its way to the kernel: nobody cancels it any more.
        engine.request(number).set_state(crate::request::RUNNING);
        engine.request(number).file.set(0);
        file.unfinished.set(file.unfinished.get() - 1);
        released.push_back(&engine.requests, number, Home::None);
    }
    released.first()
}

fn unfinished_less_one(engine: &Engine, number: Number, file: &File) {
    file.unfinished.set(file.unfinished.get() - 1);
    forget_if_idle(engine, number, file);
}

/// The device that a file lies on.
pub fn device_of(engine: &Engine, number: Number) -> u64 {
    engine.files.get(number).map_or(0, |file| file.device.get())
}

/// Nothing unfinished, nobody at work on it, nobody told to be: the slot is free for another file.
pub fn forget_if_idle(engine: &Engine, number: Number, file: &File) {
    if file.unfinished.get() == 0 && file.busy.get() == 0 && file.listed.get() == 0 {
        engine.files.forget(number);
    }
}
