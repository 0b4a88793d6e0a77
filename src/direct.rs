//! The direct way: O_DIRECT files and block devices, submitted to the ring by the caller.
//!
//! With RWF_NOWAIT the kernel answers EAGAIN, by an event that is in the ring before io_submit
//! returns, for what it could only do by waiting (writes that extend a file or fill a hole, on ext4).
//! Such a request has *bounced*: it goes to a helper. The submitting thread looks for that event
//! itself, because a write must go on though nobody may ever ask for its completion, and because only
//! before its call returns is the descriptor sure to be the one that the caller meant.

use crate::admission::{self, identify, iocb, wait_for_room};
use crate::complete::complete;
use crate::engine::Engine;
use crate::errno::Errno;
use crate::fork;
use crate::lock::Blocked;
use crate::observe::{self, Way};
use crate::pins::Pins;
use crate::polls;
use crate::pool::Number;
use crate::request::{flag, number_of, Handle, Operation, Request, BOUNCED, RING, RUNNING, SUBMITTING};
use crate::stand_in::without_copy;
use crate::sys::aio_abi::Iocb;
use crate::sys::files::{self, transfer, FileStatus};
use crate::threads;
use crate::wake::{owe_request, settle};
use crate::worklist;
use core::sync::atomic::Ordering;

/// Most iocbs handed to the kernel at once.
pub const BATCH: usize = 64;

/// Requests gathered for one io_submit: `ROOM` is 1 for a call of one request, which then clears no room for more.
pub struct Gathered<const ROOM: usize> {
    handles: [Handle; ROOM],
    count: usize,
}

impl<const ROOM: usize> Gathered<ROOM> {
    pub fn new() -> Self {
        Gathered { handles: [0; ROOM], count: 0 }
    }

    /// Adds one; when full, submits all. True: somebody should reap.
    pub fn add(&mut self, engine: &Engine, handle: Handle) -> bool {
        self.handles[self.count] = handle;
        self.count += 1;
        self.count == ROOM && self.flush(engine)
    }

    /// Submits what was gathered, requests that are `SUBMITTING`, in one system call where the kernel takes them.
    /// True: one bounced and its event is still in the ring, somebody should reap.
    pub fn flush(&mut self, engine: &Engine) -> bool {
        let count = core::mem::take(&mut self.count);
        let mut bounced = false;
        let mut at = 0;
        while at < count {
            let (done, seen) = submit_some::<ROOM>(engine, &self.handles[at..count]);
            at += done;
            bounced |= seen;
        }
        bounced
    }
}

fn submit_some<const ROOM: usize>(engine: &Engine, handles: &[Handle]) -> (usize, bool) {
    let line = engine.overflowing.load(Ordering::Relaxed);
    let room = if line == 0 { engine.ring.reserve(handles.len() as u32) as usize } else { 0 };
    if room == 0 {
        if tell_ourselves(engine, &Blocked::new(), number_of(handles[0])) {
            line_up(engine, number_of(handles[0]), engine.request(number_of(handles[0])));
        }
        return (1, false);
    }
    let mut iocbs = [const { Iocb::EMPTY }; ROOM];
    let mut pointers = [core::ptr::null_mut(); ROOM];
    for (place, &handle) in handles[..room].iter().enumerate() {
        iocbs[place] = iocb(engine.request(number_of(handle)), handle);
        pointers[place] = &raw mut iocbs[place];
    }
    let tail = engine.ring.tail();
    match engine.ring.submit(&mut pointers[..room]) {
        Ok(taken) => {
            engine.ring.release((room - taken) as u32);
            let mut bounced = false;
            for &handle in &handles[..taken] {
                bounced |= after_submit(engine, handle, tail);
            }
            (taken, bounced)
        }
        Err(errno) => {
            engine.ring.release(room as u32);
            refused(engine, handles[0], engine.request(number_of(handles[0])), errno);
            (1, false)
        }
    }
}

/// The kernel has the request; perhaps it has ended already, and its slot is in other hands.
fn after_submit(engine: &Engine, handle: Handle, tail: u32) -> bool {
    let request = engine.request(number_of(handle));
    let seen = engine.ring.peek_since(tail, handle);
    // As `reap::process` knows it.
    let came_back = [libc::EAGAIN, libc::EOPNOTSUPP].iter().any(|&errno| seen == Some(-i64::from(errno)));
    if came_back && request.has(flag::NOWAIT) {
        let _ = identify(request);
    }
    if request.move_state(handle, SUBMITTING, RING) {
        return came_back;
    }
    if request.is_in(handle, BOUNCED) {
        let blocked = Blocked::new();
        take_back(engine, &blocked, number_of(handle));
    }
    false
}

/// No room: the request waits for some, and what it is open on must be known then.
fn line_up(engine: &Engine, number: Number, request: &Request) {
    let blocked = Blocked::new();
    match identify(request) {
        Ok(_) => wait_for_room(engine, &blocked, number),
        Err(errno) => complete(engine, &blocked, number, Err(errno)),
    }
}

/// The kernel will not tell the request's eventfd, if it has one: we will, and for that our threads must be there.
/// False: the system has none to give, and the request has ended with EAGAIN.
fn tell_ourselves(engine: &Engine, blocked: &Blocked, number: Number) -> bool {
    let request = engine.request(number);
    if !request.has(flag::RESFD) {
        return true;
    }
    request.remove(flag::RESFD);
    owe_request(engine, request);
    let started = fork::current().is_some_and(|engine| threads::ensure(engine).is_ok());
    if !started {
        complete(engine, blocked, number, Err(Errno::AGAIN));
    }
    started
}

/// io_submit itself said no, with nothing started.
fn refused(engine: &Engine, handle: Handle, request: &Request, errno: Errno) {
    let number = number_of(handle);
    let blocked = Blocked::new();
    let by_eventfd = request.has(flag::RESFD);
    if !tell_ourselves(engine, &blocked, number) {
        return;
    }
    match errno {
        // Perhaps of the eventfd, which is none: the transfer is to be done all the same.
        Errno::INVAL | Errno::BADF if by_eventfd => errand(engine, &blocked, number),
        // The kernel's slots or its memory are used up. Completions make room, if any are to come.
        Errno::AGAIN if !engine.ring.is_empty() => line_up(engine, number, request),
        Errno::AGAIN => errand(engine, &blocked, number),
        Errno::OPNOTSUPP if request.has(flag::NOWAIT) => without_nowait(engine, &blocked, handle),
        Errno::INVAL | Errno::SPIPE => no_file(engine, &blocked, number, request.fd(), errno),
        _ => complete(engine, &blocked, number, Err(errno)),
    }
}

/// io_submit does not take what `fd` is open on: a pipe or the like goes on as one, anything else fails as pread would.
fn no_file(engine: &Engine, blocked: &Blocked, number: Number, fd: i32, errno: Errno) {
    match files::status(fd) {
        Ok(FileStatus { kind: libc::S_IFDIR, .. }) => complete(engine, blocked, number, Err(Errno::ISDIR)),
        Ok(FileStatus { kind: libc::S_IFREG | libc::S_IFBLK, .. }) | Err(_) => {
            complete(engine, blocked, number, Err(errno));
        }
        Ok(FileStatus { kind, identity, .. }) => {
            let request = engine.request(number);
            if request.has(flag::IDENTIFIED) && identity != request.identity() {
                return complete(engine, blocked, number, Err(Errno::CANCELED));
            }
            request.remove(flag::NOWAIT);
            request.identify(identity);
            request.note_kind(kind);
            polls::enqueue(engine, blocked, number, false);
        }
    }
}

/// The file knows no RWF_NOWAIT. Memory is copied here and now; what any other does, a helper finds out.
fn without_nowait(engine: &Engine, blocked: &Blocked, handle: Handle) {
    let number = number_of(handle);
    let request = engine.request(number);
    request.remove(flag::NOWAIT);
    if !files::is_memory(request.fd()) {
        return errand(engine, blocked, number);
    }
    engine.hints.is_memory(request.fd());
    observe::went(request, Way::AtOnce);
    let outcome = match request.operation().direction() {
        Some(direction) => transfer(direction, request.fd(), request.rest(), request.position()),
        None => Err(Errno::INVAL),
    };
    complete(engine, blocked, number, outcome);
}

/// The request would have made its caller wait: it is ours again. Signals blocked; any thread.
pub fn take_back(engine: &Engine, blocked: &Blocked, number: Number) {
    let request = engine.request(number);
    request.remove(flag::NOWAIT);
    if request.has(flag::RESFD) && blocked.sees_descriptors() {
        // The kernel has counted that it would have to wait, too.
        files::take_one(request.signo.get() as i32);
    }
    if !tell_ourselves(engine, blocked, number) {
        return;
    }
    match files::status(request.fd()) {
        Err(_) => complete(engine, blocked, number, Err(Errno::CANCELED)),
        Ok(now) if request.has(flag::IDENTIFIED) && now.identity != request.identity() => {
            complete(engine, blocked, number, Err(Errno::CANCELED));
        }
        Ok(now) => {
            request.identify(now.identity);
            match now.kind {
                libc::S_IFREG | libc::S_IFBLK => errand(engine, blocked, number),
                kind => {
                    request.note_kind(kind);
                    polls::enqueue(engine, blocked, number, false);
                }
            }
        }
    }
}

fn errand(engine: &Engine, blocked: &Blocked, number: Number) {
    let request = engine.request(number);
    if let Err(errno) = identify(request) {
        complete(engine, blocked, number, Err(errno.of_accepted()));
        return;
    }
    let guard = engine.lock.lock(blocked);
    worklist::push_errand(engine, &guard, number);
}

/// For a helper, through its own copy of the descriptor: submits without RWF_NOWAIT, which waits where it must.
/// An error: nothing started. EAGAIN: there is no room.
pub fn submit_waiting(engine: &Engine, number: Number, request: &Request, fd: i32) -> Result<(), Errno> {
    if engine.ring.reserve(1) == 0 {
        return Err(Errno::AGAIN);
    }
    let mut iocb = Iocb { fildes: fd as u32, ..iocb(request, request.handle(number)) };
    // Before the call: the event may be reaped, and the slot reused, before it returns. It stays counted as held,
    // so that a leader stays findable should the kernel refuse it.
    request.set_state(RING);
    engine.ring.submit_one(&mut iocb).inspect_err(|_| {
        engine.ring.release(1);
        request.set_state(RUNNING);
    })
}

/// For a helper: moves requests from the line into the ring as far as there is room.
pub fn drain_line(engine: &Engine, blocked: &Blocked, pins: &mut Pins) {
    while engine.overflowing.load(Ordering::SeqCst) != 0 && engine.ring.reserve(1) == 1 {
        let guard = engine.lock.lock(blocked);
        let popped = engine.overflow.pop_front(&engine.requests);
        engine.overflowing.store(engine.overflow.len(), Ordering::SeqCst);
        let Some(number) = popped else {
            engine.ring.release(1);
            return;
        };
        let request = engine.request(number);
        request.set_state(RUNNING);
        drop(guard);
        let fd = match pins.pin(engine, request) {
            Ok(fd) => fd,
            Err(errno) => {
                engine.ring.release(1);
                complete(engine, blocked, number, without_copy(engine, number, errno));
                continue;
            }
        };
        if !leave_line(engine, blocked, number, request, fd) {
            return;
        }
    }
}

/// Submits one that was taken out of the line. False: there is no room after all.
fn leave_line(engine: &Engine, blocked: &Blocked, number: Number, request: &Request, fd: i32) -> bool {
    let mut iocb = Iocb { fildes: fd as u32, ..iocb(request, request.handle(number)) };
    // A write stays owed: it may bounce, and must go on though nobody asks.
    let settles =
        request.has(flag::OWED) && request.notice.get() == 0 && request.operation() != Operation::Write;
    if settles {
        request.remove(flag::OWED);
    }
    request.set_state(RING);
    let outcome = engine.ring.submit_one(&mut iocb);
    if settles {
        settle(engine);
    }
    let Err(errno) = outcome else { return true };
    engine.ring.release(1);
    request.set_state(RUNNING);
    match errno {
        Errno::AGAIN if !engine.ring.is_empty() => {
            let guard = engine.lock.lock(blocked);
            admission::line_up(engine, &guard, number, true);
            return false;
        }
        // No completion is to come that would make room: the kernel's memory is used up.
        Errno::AGAIN => errand(engine, blocked, number),
        Errno::OPNOTSUPP if request.has(flag::NOWAIT) => {
            request.remove(flag::NOWAIT);
            errand(engine, blocked, number);
        }
        Errno::INVAL | Errno::SPIPE => no_file(engine, blocked, number, fd, errno),
        _ => complete(engine, blocked, number, Err(errno.of_accepted())),
    }
    true
}
