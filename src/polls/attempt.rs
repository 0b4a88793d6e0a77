//! One attempt for the head of a queue, without waiting, and through what a thread makes it.
//!
//! A request that waits has only a descriptor number, and a program that shuts a socket down and closes it may well have
//! another one under its number a moment later, just when the event of the shutdown has led to an attempt. So
//! later attempts are for helpers, which use a copy of the descriptor and look at the copy ([`crate::pins`]).

use crate::admission::is_still_open;
use crate::engine::Engine;
use crate::errno::{Errno, Outcome};
use crate::pins::Pins;
use crate::pool::Number;
use crate::request::{flag, Request};
use crate::sys::files::{self, transfer_nowait, Direction};
use crate::sys::threads::{discard_pending, is_pending};
use libc::c_int;

use super::events_of;

/// How a thread comes to the file of a request.
pub enum Reach<'a> {
    /// By the number, once, for this request: the call that submits it is still at work.
    Own(Number),
    /// That was it: the request may have ended, and another have its place.
    Spent,
    /// By a copy of the descriptor, looked at after it was made.
    Copy(&'a mut Pins),
    /// By the number, looked at just before its use: for where no helper can have copies.
    Number,
}

impl Reach<'_> {
    pub fn is_for(&self, number: Number) -> bool {
        match self {
            Reach::Own(own) => *own == number,
            Reach::Spent => false,
            Reach::Copy(_) | Reach::Number => true,
        }
    }

    pub fn is_by_number(&self) -> bool {
        !matches!(self, Reach::Copy(_))
    }

    /// A descriptor of the calling thread, open on the request's file. ECANCELED: the request's own was closed.
    pub fn descriptor(&mut self, engine: &Engine, request: &Request) -> Result<c_int, Errno> {
        match self {
            Reach::Own(_) => {
                *self = Reach::Spent;
                Ok(request.fd())
            }
            Reach::Copy(pins) => pins.pin(engine, request),
            Reach::Number if is_still_open(request) => Ok(request.fd()),
            Reach::Number | Reach::Spent => Err(Errno::CANCELED),
        }
    }
}

/// Whether the number still leads to the request's file, and to the right end of it.
pub fn leads_there(request: &Request) -> bool {
    is_still_open(request) && is_right_end(request, request.fd())
}

/// Whether `fd`, open on the request's file, can do what is asked: both ends of a pipe have one identity.
pub fn is_right_end(request: &Request, fd: c_int) -> bool {
    let wrong_end = match request.operation().direction() {
        Some(Direction::Read) => libc::O_WRONLY,
        _ => libc::O_RDONLY,
    };
    files::status_flags(fd).is_ok_and(|flags| flags & libc::O_ACCMODE != wrong_end)
}

pub enum Attempt {
    Ended(Outcome),
    NothingYet,
    MustWait,
}

/// `by_number`: `fd` is the program's own number, which may lead elsewhere after each transfer.
pub fn attempt(request: &Request, fd: Result<c_int, Errno>, by_number: bool) -> Attempt {
    let ended = |outcome| match (outcome, request.done.get()) {
        (Err(_), done) if done > 0 => Attempt::Ended(Ok(done as usize)),
        (outcome, _) => Attempt::Ended(outcome),
    };
    let fd = match fd {
        Ok(fd) => fd,
        Err(errno) => return ended(Err(errno)),
    };
    let Some(direction) = request.operation().direction() else {
        return ended(Err(Errno::INVAL));
    };
    if request.has(flag::AT_POSITION) {
        return Attempt::MustWait;
    }
    if direction == Direction::Write && request.bytes() == 0 {
        return match files::send_empty(fd) {
            Err(Errno::AGAIN) if !request.has(flag::NONBLOCK) => Attempt::NothingYet,
            // No socket: there a write of nothing is nothing.
            Err(Errno(libc::ENOTSOCK)) => ended(Ok(0)),
            sent => ended(sent.map_err(Errno::of_accepted)),
        };
    }
    loop {
        if request.has(flag::WAITS) {
            if !is_right_end(request, fd) {
                return ended(Err(Errno::CANCELED));
            }
            return ready_to_wait(request, fd, direction);
        }
        let rest = request.rest();
        match transfer_quietly(direction, fd, request, rest) {
            Ok(count) => {
                request.advance(count);
                // A blocking write(2) goes on until all is written; a read gives what there is (a packet of /dev/net/tun).
                // Memory (/dev/zero) stopped short only because it was told not to wait.
                let all_there_is = direction == Direction::Read
                    && (request.has(flag::STREAM) || !files::is_memory_device(fd));
                let whole = count == rest.bytes || count == 0 || all_there_is;
                if whole || request.has(flag::NONBLOCK) {
                    return ended(Ok(request.done.get() as usize));
                }
                if by_number {
                    return Attempt::NothingYet;
                }
            }
            Err(Errno::SPIPE) if !request.has(flag::STREAM) => request.add(flag::STREAM),
            Err(Errno::AGAIN) if request.has(flag::NONBLOCK) => return ended(Err(Errno::AGAIN)),
            Err(Errno::AGAIN) if !request.has(flag::BY_FILE) && files::is_signalfd(fd) => {
                // It tells each thread of its own signals, and so the kernel's thread that polls of none.
                request.add(flag::WAITS | flag::BLOCKS);
                return Attempt::MustWait;
            }
            Err(Errno::AGAIN) => return Attempt::NothingYet,
            Err(Errno::INTR) => {}
            Err(Errno::OPNOTSUPP | Errno::NOSYS) => request.add(flag::WAITS),
            // It was open for this when it was submitted (the other end of a pipe has the same inode).
            Err(errno) => return ended(Err(errno.of_accepted())),
        }
    }
}

/// The transfer without waiting; the SIGPIPE of a write that nobody reads goes to nobody.
fn transfer_quietly(direction: Direction, fd: c_int, request: &Request, rest: files::Buffer) -> Outcome {
    let was_pending = direction == Direction::Write && is_pending(libc::SIGPIPE);
    let outcome = transfer_nowait(direction, fd, rest, request.position());
    if direction == Direction::Write && outcome == Err(Errno(libc::EPIPE)) && !was_pending {
        discard_pending(libc::SIGPIPE);
    }
    outcome
}

/// Knows no RWF_NOWAIT (terminals, FIFOs with a name): once poll says so, a helper transfers.
fn ready_to_wait(request: &Request, fd: c_int, direction: Direction) -> Attempt {
    if !request.has(flag::TRIED) {
        // What a terminal is set to may let a read end at once that poll would never announce (VMIN 0).
        request.add(flag::TRIED);
        return Attempt::MustWait;
    }
    let ready = files::poll_now(fd, events_of(direction)) != 0;
    match (ready, request.has(flag::NONBLOCK)) {
        (true, _) => Attempt::MustWait,
        (false, true) => Attempt::Ended(Err(Errno::AGAIN)),
        (false, false) => Attempt::NothingYet,
    }
}
