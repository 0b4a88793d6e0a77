//! Into the ring, or into the line before it.
//!
//! The ring has room for a few hundred requests; a program may have any number in flight. What does not fit
//! waits in `Engine::overflow`, first come first served, and goes in as completions are taken
//! out (`reap`). While anything waits there the completion thread is on duty.

use crate::engine::Engine;
use crate::errno::Errno;
use crate::lock::{Blocked, Guard};
use crate::notify::Notice;
use crate::pool::Number;
use crate::request::{flag, Handle, Home, Operation, Request, HELD, RING};
use crate::ring;
use crate::sys::aio_abi::{cmd, Iocb, FLAG_IOPRIO, FLAG_RESFD, RWF_NOWAIT};
use crate::sys::files::{self, Identity};
use crate::wake::{hold, owe_request};
use crate::worklist;
use core::sync::atomic::Ordering;

/// The kernel's form of the request, or of what is left of it.
pub fn iocb(request: &Request, handle: Handle) -> Iocb {
    let mut iocb = Iocb { data: handle, fildes: request.fd.get(), ..Iocb::default() };
    iocb.opcode = match request.operation() {
        Operation::Read => cmd::PREAD,
        Operation::Write => cmd::PWRITE,
        Operation::Sync => cmd::FSYNC,
        Operation::DataSync => cmd::FDSYNC,
        // Helpers lock pages; nothing of it comes here.
        Operation::Lock => cmd::NOOP,
    };
    if request.has(flag::RESFD) {
        iocb.flags |= FLAG_RESFD;
        iocb.resfd = request.signo.get();
    }
    if request.operation().direction().is_none() {
        // The kernel wants every other member 0 in a sync (fs/aio.c, aio_fsync).
        return iocb;
    }
    let rest = request.rest();
    iocb.buf = rest.address as u64;
    iocb.nbytes = rest.bytes as u64;
    if rest.vectors != 0 {
        iocb.opcode = if iocb.opcode == cmd::PREAD { cmd::PREADV } else { cmd::PWRITEV };
        iocb.nbytes = u64::from(rest.vectors);
    }
    iocb.offset = request.position();
    if request.has(flag::NOWAIT) {
        iocb.rw_flags = RWF_NOWAIT;
    }
    if request.operation() == Operation::Write {
        // The number may have become a socket's: the thread that submits is the program's, and SIGPIPE would be too.
        iocb.rw_flags |= ring::quiet_write();
    }
    if request.priority.get() != 0 {
        iocb.flags |= FLAG_IOPRIO;
        iocb.reqprio = io_priority(request.priority.get());
    }
    iocb
}

/// aio_reqprio lowers the priority by its value (POSIX); the kernel has eight levels in the best-effort
/// class (ioprio_set(2)), of which 4 is what a process has that never asked: 1..20 become 5..7.
fn io_priority(reqprio: u32) -> i16 {
    const BEST_EFFORT: u32 = 2;
    let level = 4 + reqprio.div_ceil(7);
    (BEST_EFFORT << 13 | level) as i16
}

/// Puts a request that found no room at the end of the line.
pub fn wait_for_room(engine: &Engine, blocked: &Blocked, number: Number) {
    let guard = engine.lock.lock(blocked);
    line_up(engine, &guard, number, false);
    // Completions may have been taken out since there was no room, by somebody who saw no line.
    worklist::call_if_line_can_move(engine, &guard);
}

/// As `wait_for_room`, at either end, with the lock held.
pub fn line_up(engine: &Engine, _: &Guard, number: Number, first: bool) {
    let request = engine.request(number);
    hold(engine, request);
    owe_request(engine, request);
    request.set_state(HELD);
    if first {
        engine.overflow.push_front(&engine.requests, number, Home::Overflow);
    } else {
        engine.overflow.push_back(&engine.requests, number, Home::Overflow);
    }
    engine.overflowing.store(engine.overflow.len(), Ordering::SeqCst);
}

/// Submits an fsync; where there is no room it waits for some. An error means that it did not start.
pub fn submit_sync(
    engine: &Engine,
    blocked: &Blocked,
    number: Number,
    request: &Request,
) -> Result<(), Errno> {
    if !is_still_open(request) {
        return Err(Errno::CANCELED);
    }
    if engine.ring.reserve(1) == 0 {
        wait_for_room(engine, blocked, number);
        return Ok(());
    }
    if matches!(Notice::load(request), Notice::Eventfd { .. }) && blocked.sees_descriptors() {
        request.add(flag::RESFD);
    }
    // Before the call: its event may be reaped before it returns.
    request.set_state(RING);
    match engine.ring.submit_one(&mut iocb(request, request.handle(number))) {
        Ok(()) => Ok(()),
        Err(errno) => {
            let by_eventfd = request.has(flag::RESFD);
            request.remove(flag::RESFD);
            engine.ring.release(1);
            match errno {
                // Perhaps of the eventfd, which is none: a helper does it.
                Errno::INVAL | Errno::BADF if by_eventfd => {
                    worklist::push_errand(engine, &engine.lock.lock(blocked), number);
                }
                Errno::AGAIN if !engine.ring.is_empty() => wait_for_room(engine, blocked, number),
                // The kernel's memory is used up, and no completion is to come that would give some back.
                Errno::AGAIN => worklist::push_errand(engine, &engine.lock.lock(blocked), number),
                _ => return Err(errno.of_accepted()),
            }
            Ok(())
        }
    }
}

/// Whether the descriptor is still open on the file that the request was submitted for.
pub fn is_still_open(request: &Request) -> bool {
    !request.has(flag::IDENTIFIED)
        || files::status(request.fd()).is_ok_and(|now| now.identity == request.identity())
}

/// Finds out what the descriptor is open on, for a request whose submission needed not know.
pub fn identify(request: &Request) -> Result<Identity, Errno> {
    if !request.has(flag::IDENTIFIED) {
        request.identify(files::status(request.fd())?.identity);
    }
    Ok(request.identity())
}
