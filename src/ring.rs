//! The shared context: the kernel's ring of completions, and how many requests are in it.

use crate::errno::{Errno, Outcome};
use crate::sys::aio_abi::{cmd, IoEvent, Iocb, RingHeader, FLAG_RESFD, RING_MAGIC, RWF_NOSIGNAL, RWF_NOWAIT};
use crate::sys::context::{self, ContextId};
use crate::sys::files;
use core::sync::atomic::{AtomicBool, AtomicI32, AtomicU32, Ordering};

/// An event whose `data` is this says nothing: it wakes whoever sleeps in the ring, or told an eventfd.
pub const KICK: u64 = 1;

/// Requests asked of `io_setup` unless `aio_init` said otherwise. The kernel doubles it and fills the
/// last page: 639 slots here. fs.aio-max-nr, 65536 by default, is charged with this number.
pub const DEFAULT_REQUESTS: u32 = 256;

pub struct Ring {
    id: ContextId,
    /// Slots in the ring, and bytes before the first.
    slots: u32,
    first_event: usize,
    /// Most requests of ours that may be in the kernel at once.
    limit: u32,
    /// Requests in the kernel or completed and not yet reaped. Kicks are not counted.
    in_ring: AtomicU32,
    /// A descriptor that `kick` could use, or 0. Relaxed: a hint.
    kicked_by: AtomicI32,
}

impl Ring {
    /// Sets up a context for `requests`, or for fewer when fs.aio-max-nr leaves no more.
    pub fn new(requests: u32) -> Result<Ring, Errno> {
        let mut ask = requests.clamp(8, 65_536);
        let id = loop {
            match context::io_setup(ask) {
                Err(Errno::AGAIN) if ask > 8 => ask /= 2,
                other => break other?,
            }
        };
        if let Err(errno) = context::probe(id) {
            let _ = context::io_destroy(id);
            return Err(errno);
        }
        let mut ring = Ring {
            id,
            slots: 0,
            first_event: 0,
            limit: 0,
            in_ring: AtomicU32::new(0),
            kicked_by: AtomicI32::new(0),
        };
        let header = ring.header();
        if header.magic != RING_MAGIC {
            // A kernel whose ring we cannot read: nothing of ours would be right.
            let _ = context::io_destroy(id);
            return Err(Errno::NOSYS);
        }
        // The kernel hands slots to processors in batches (fs/aio.c: ctx->req_batch), so some may be
        // out of reach on another processor; a few more stay free for kicks.
        let slots = header.nr - 1;
        let (nr, header_length) = (header.nr, header.header_length);
        // SAFETY: sysconf takes no pointer. Asked once per engine, never in a signal handler.
        let processors = unsafe { libc::sysconf(libc::_SC_NPROCESSORS_CONF) }.max(1) as u32;
        let batch = (slots / (processors * 4)).max(1);
        QUIET_WRITES.store(context::linux_release() >= QUIET_SINCE, Ordering::Relaxed);
        ring.slots = nr;
        ring.first_event = header_length as usize;
        ring.limit = slots.saturating_sub(batch * 2 * (processors - 1) + 8).max(slots / 4).max(1);
        Ok(ring)
    }

    fn header(&self) -> &RingHeader {
        // SAFETY: the kernel mapped the ring at the context's id, and unmaps it in io_destroy, which we
        // never call on a ring in use. Nothing but the two atomics changes after io_setup.
        unsafe { &*(self.id as *const RingHeader) }
    }

    /// Whether completions wait to be taken: two loads, no system call.
    #[inline]
    pub fn has_events(&self) -> bool {
        let header = self.header();
        // Acquire pairs with the kernel's smp_wmb before it moves tail (aio_complete).
        header.head.load(Ordering::Relaxed) != header.tail.load(Ordering::Acquire)
    }

    /// Where the oldest completion that nobody took lies.
    pub fn head(&self) -> u32 {
        self.header().head.load(Ordering::Relaxed)
    }

    /// Where the next completion will be put.
    #[inline]
    pub fn tail(&self) -> u32 {
        self.header().tail.load(Ordering::Acquire)
    }

    /// Looks (only looks) through the completions that were put in since `tail` was read for one
    /// with this `data`: its result. It may be overwritten by then: then it was also reaped, and
    /// the answer, `None` or the copy, is what its reaper acts on, not we.
    pub fn peek_since(&self, tail: u32, data: u64) -> Option<i64> {
        self.find_since(tail, |event| event.data == data).map(|event| event.res)
    }

    fn find_since(&self, tail: u32, is_it: impl Fn(&IoEvent) -> bool) -> Option<IoEvent> {
        let first = (self.id + self.first_event) as *const IoEvent;
        let (mut at, end) = (tail, self.tail());
        while at != end {
            // SAFETY: at < slots, inside the mapping; the kernel may be writing another lap: any bits are an IoEvent.
            let event = unsafe { first.add(at as usize).read_volatile() };
            if is_it(&event) {
                return Some(event);
            }
            at = (at + 1) % self.slots;
        }
        None
    }

    /// Room for `wanted` more requests? Returns how many places were reserved, up to that.
    #[inline]
    pub fn reserve(&self, wanted: u32) -> u32 {
        let before = self.in_ring.fetch_add(wanted, Ordering::Relaxed);
        let room = self.limit.saturating_sub(before).min(wanted);
        if room < wanted {
            self.in_ring.fetch_sub(wanted - room, Ordering::Relaxed);
        }
        room
    }

    /// Gives back places: of completions taken out, or reserved and not used.
    #[inline]
    pub fn release(&self, places: u32) {
        self.in_ring.fetch_sub(places, Ordering::Relaxed);
    }

    /// Whether nothing is in the ring: then no event will come by itself.
    pub fn is_empty(&self) -> bool {
        self.in_ring.load(Ordering::Relaxed) == 0
    }

    pub fn limit(&self) -> u32 {
        self.limit
    }

    /// Submits; the kernel has copied the iocbs when it returns. How many it took: it stops at
    /// the first that it refuses, and says why when that is the first of all.
    #[inline]
    pub fn submit(&self, iocbs: &mut [*mut Iocb]) -> Outcome {
        loop {
            // SAFETY: the iocbs are live; the buffers that they name are their callers' until completion.
            match unsafe { context::io_submit(self.id, iocbs) } {
                // Not the kernel's own answer, but what a handler makes of a call that a seccomp supervisor is asked about.
                Err(Errno::INTR) => {}
                Err(Errno::OPNOTSUPP) if make_loud(iocbs) => return self.submit_loudly(iocbs),
                taken => return taken,
            }
        }
    }

    /// The kernel calls itself new enough for RWF_NOSIGNAL, and does not know it.
    #[cold]
    fn submit_loudly(&self, iocbs: &mut [*mut Iocb]) -> Outcome {
        let taken = self.submit(iocbs);
        if taken.is_ok() {
            QUIET_WRITES.store(false, Ordering::Relaxed);
        }
        taken
    }

    /// Submits one.
    #[inline]
    pub fn submit_one(&self, iocb: &mut Iocb) -> Result<(), Errno> {
        self.submit(&mut [core::ptr::from_mut(iocb)]).map(|_| ())
    }

    /// Submits one of the library's own, on which others wait: once more when the kernel is short of memory for it.
    fn insist(&self, iocb: *mut Iocb) -> Result<(), Errno> {
        let mut answer = Ok(());
        for _ in 0..ATTEMPTS {
            answer = self.submit(&mut [iocb]).map(|_| ());
            if answer != Err(Errno::AGAIN) {
                break;
            }
        }
        answer
    }

    /// As `insist`, of one that is gone afterwards.
    pub fn submit_own(&self, iocb: &mut Iocb) -> Result<(), Errno> {
        self.insist(iocb)
    }

    /// Submits `iocb` from a place that stays: io_cancel knows a request by the address it came from.
    pub fn submit_from(&self, place: *const Iocb, iocb: Iocb) -> Result<(), Errno> {
        let place = place.cast_mut();
        // SAFETY: `polls::Queue` has 64 aligned bytes there that nothing else reads as values.
        unsafe { place.write(iocb) };
        self.insist(place)
    }

    /// Asks the kernel to end a poll early. `iocb` is where it was submitted from. False: a seccomp filter has it go on; else its
    /// event has come, or will.
    pub fn cancel(&self, iocb: *const Iocb) -> bool {
        !matches!(context::io_cancel(self.id, iocb), Err(Errno::PERM | Errno::NOSYS))
    }

    /// Takes what has completed, without waiting.
    #[inline]
    pub fn take(&self, inbox: &mut [IoEvent]) -> Outcome {
        context::io_getevents_now(self.id, inbox)
    }

    /// Returns when nobody is half-way through taking events: the kernel copies them under a lock of the ring, which it takes
    /// also for no events (fs/aio.c, aio_read_events_ring).
    pub fn let_others_finish(&self) {
        let _ = context::io_getevents_now(self.id, &mut []);
    }

    /// Whether a good part of the ring is free: enough to call somebody who fills it.
    pub fn has_room(&self) -> bool {
        self.in_ring.load(Ordering::Relaxed) <= self.limit - self.limit / 4
    }

    /// Bytes that the kernel mapped for the ring.
    pub fn bytes(&self) -> usize {
        (self.first_event + self.slots as usize * size_of::<IoEvent>()).next_multiple_of(4096)
    }

    pub fn id(&self) -> ContextId {
        self.id
    }

    /// Puts an event into the ring that says nothing: who sleeps there wakes and looks around. A poll of any descriptor of
    /// this thread's table that is ready. Only where none is, one is opened for just this: in the program's table that takes
    /// the number that another thread is about to get, or to give with dup2. (A helper has one, `pins`.) An error:
    /// none is to be had, or there is no place in the ring.
    pub fn kick(&self) -> Result<(), Errno> {
        // First the one that served last: each look holds a file open for an instant, which another thread may be closing. (0, the
        // first anyway, is a helper's own in its table.)
        let last = self.kicked_by.load(Ordering::Relaxed);
        let candidates = (last != 0).then_some(last).into_iter().chain(0..MOST_TRIED);
        for fd in candidates.filter(|&fd| files::is_ready_for_certain(fd, KICK_EVENTS)) {
            match self.kick_by(fd) {
                Err(Errno::AGAIN) => return Err(Errno::AGAIN),
                Err(_) => {}
                Ok(()) => {
                    if fd != 0 {
                        self.kicked_by.store(fd, Ordering::Relaxed);
                    }
                    return Ok(());
                }
            }
        }
        let fd = files::open_ready()?;
        let submitted = self.kick_by(fd);
        files::close(fd);
        submitted
    }

    /// Adds one to an eventfd, by a poll of it that is answered at once and tells it so. Not by write(2): only the kernel
    /// can tell, without a race, that the number still is an eventfd and not a file with somebody's data.
    /// EAGAIN: no place in the ring.
    pub fn add_one(&self, eventfd: i32) -> Result<(), Errno> {
        self.submit_own(&mut Iocb {
            data: KICK,
            opcode: cmd::POLL,
            fildes: eventfd as u32,
            buf: KICK_EVENTS as u64,
            flags: FLAG_RESFD,
            resfd: eventfd as u32,
            ..Iocb::default()
        })
    }

    /// Completions that nobody took.
    pub fn waiting(&self) -> u32 {
        self.between(self.head(), self.tail())
    }

    /// Places from one to another.
    pub fn between(&self, head: u32, tail: u32) -> u32 {
        if tail >= head {
            tail - head
        } else {
            tail + self.slots - head
        }
    }

    fn kick_by(&self, fd: i32) -> Result<(), Errno> {
        let mut iocb = Iocb {
            data: KICK,
            opcode: cmd::POLL,
            fildes: fd as u32,
            buf: KICK_EVENTS as u64,
            ..Iocb::default()
        };
        let (tail, own) = (self.tail(), &raw const iocb as u64);
        self.submit_own(&mut iocb)?;
        // Another thread may have put something else under the number, or have read what was there. That it was cancelled is
        // an event as well.
        let has_come = self.find_since(tail, |event| event.obj == own).is_some();
        if has_come || self.cancel(&raw const iocb) {
            Ok(())
        } else {
            Err(Errno::PERM)
        }
    }
}

/// Whether the kernel knows RWF_NOSIGNAL. Relaxed: it guards nothing, and is as true in a forked child.
static QUIET_WRITES: AtomicBool = AtomicBool::new(false);
/// The release of Linux that has it.
const QUIET_SINCE: (u32, u32) = (6, 18);

/// What a write is submitted with so that it sends no SIGPIPE; 0 where the kernel does not know how.
#[inline]
pub fn quiet_write() -> i32 {
    if QUIET_WRITES.load(Ordering::Relaxed) {
        RWF_NOSIGNAL
    } else {
        0
    }
}

/// Takes RWF_NOSIGNAL off, where the kernel refused the first of them for that: it has the flag, and not RWF_NOWAIT, which there
/// are files without.
fn make_loud(iocbs: &[*mut Iocb]) -> bool {
    // SAFETY: live.
    let refused = iocbs.first().map_or(0, |first| unsafe { (**first).rw_flags });
    if refused & (RWF_NOSIGNAL | RWF_NOWAIT) != RWF_NOSIGNAL {
        return false;
    }
    for iocb in iocbs {
        // SAFETY: live, and the kernel has copied none of them.
        unsafe { (**iocb).rw_flags &= !RWF_NOSIGNAL };
    }
    true
}

/// How often the library's own submissions are tried.
const ATTEMPTS: u32 = 3;

const KICK_EVENTS: i16 = libc::POLLIN | libc::POLLOUT;
/// Descriptors that are looked at for one that is ready. For most programs the first is.
const MOST_TRIED: i32 = 64;
