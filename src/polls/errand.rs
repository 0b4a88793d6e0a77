//! What a helper does for a descriptor that knows no RWF_NOWAIT: terminals, FIFOs with a name, devices. For devices, and
//! what else nobody knows, it waits in the transfer itself, as libc's threads do.

use super::attempt::is_right_end;
use super::{events_of, goes_on};
use crate::complete::complete;
use crate::engine::Engine;
use crate::errno::{Errno, Outcome};
use crate::lock::Blocked;
use crate::pins::Pins;
use crate::pool::Number;
use crate::request::{flag, Home, Operation, Request, HELD};
use crate::stand_in::without_copy;
use crate::sys::files::{self, Direction, STREAM};
use crate::transfers::transfer_rest;

/// For a helper: the head of a queue, taken out of it, on a descriptor that knows no RWF_NOWAIT. A second open
/// file description of the same pipe or terminal, with O_NONBLOCK, transfers what there is; where none is to
/// be had the helper waits in the transfer.
pub fn run_errand(engine: &Engine, blocked: &Blocked, pins: &mut Pins, number: Number) {
    let request = engine.request(number);
    let at = request.poll.get();
    let (outcome, tried) = match pins.pin(engine, request) {
        // Opened anew, the other end of a pipe would do as well.
        Ok(fd) if !is_right_end(request, fd) => (Err(Errno::CANCELED), false),
        Ok(fd) => {
            // Anything else might mean another thing by being opened, and poll might never tell of it.
            let is_known = request.has(flag::BY_FILE) || files::is_terminal(fd) && !ends_itself(request, fd);
            let tried = if is_known { try_reopened(request, pins, fd) } else { None };
            let (outcome, tried) = match tried {
                Some(tried) => (tried, true),
                None if is_known && must_wait(request, fd) => (Err(Errno::AGAIN), true),
                None => {
                    request.remove(flag::TRYING);
                    (transfer_rest(request, fd), false)
                }
            };
            // A read that waited when the terminal hung up fails with EIO; ours came to it just afterwards.
            let hung_up = outcome == Ok(0)
                && request.has(flag::WAITED)
                && request.bytes() != 0
                && request.operation() == Operation::Read
                && files::poll_now(fd, libc::POLLIN) & libc::POLLERR != 0;
            (if hung_up { Err(Errno::IO) } else { outcome }, tried)
        }
        Err(Errno::CANCELED) => (Err(Errno::CANCELED), false),
        // The completion thread stands in where that does not wait: of a file, without blocking, or once poll says so.
        Err(errno) if request.has(flag::AT_POSITION | flag::NONBLOCK | flag::NO_COPY) => {
            request.remove(flag::TRYING);
            (without_copy(engine, number, errno), false)
        }
        Err(errno) if request.has(flag::BLOCKS) => (Err(errno), false),
        Err(_) => {
            request.add(flag::NO_COPY);
            (Err(Errno::AGAIN), true)
        }
    };
    let rest_is_to_come = match outcome {
        Ok(_) => request.operation() == Operation::Write && request.rest().bytes != 0,
        Err(errno) => errno == Errno::AGAIN,
    };
    let Some(queue) = engine.polls.queues.get(at) else { return };
    if tried && rest_is_to_come && !request.has(flag::NONBLOCK) {
        // Back to the head of its queue, until poll says that there is more.
        let guard = engine.lock.lock(blocked);
        request.remove(flag::TRYING);
        request.add(flag::WAITED);
        engine.return_to_ring(request);
        request.set_state(HELD);
        queue.waiting.push_front(&engine.requests, number, Home::Poll);
        drop(guard);
        return goes_on(engine, blocked, at);
    }
    let outcome = match (outcome, request.done.get()) {
        (Err(_), done) if done > 0 => Ok(done as usize),
        (outcome, _) => outcome,
    };
    complete(engine, blocked, number, outcome);
    goes_on(engine, blocked, at);
}

fn ends_itself(request: &Request, fd: i32) -> bool {
    request.operation() == Operation::Read && files::ends_reads_itself(fd)
}

/// Whether a transfer through `fd` itself would wait, and poll can tell when it would not.
fn must_wait(request: &Request, fd: i32) -> bool {
    let events = request.operation().direction().map_or(0, events_of);
    !request.has(flag::BLOCKS | flag::NONBLOCK) && files::poll_now(fd, events) == 0
}

/// `None`: no second description is to be had. EAGAIN: nothing (more) for now.
fn try_reopened(request: &Request, pins: &Pins, fd: i32) -> Option<Outcome> {
    let direction = request.operation().direction()?;
    if request.has(flag::BLOCKS) || files::is_another_when_reopened(fd) {
        return None;
    }
    let mode = match direction {
        Direction::Read => libc::O_RDONLY,
        Direction::Write => libc::O_WRONLY,
    };
    let reopened = pins.open_nonblocking(fd, mode)?;
    let outcome = files::transfer(direction, reopened, request.rest(), STREAM);
    files::close(reopened);
    if let Ok(count) = outcome {
        request.advance(count);
        return Some(Ok(request.done.get() as usize));
    }
    // What cannot be read or written at its position is no pipe and no terminal: as it is, then.
    (outcome != Err(Errno::SPIPE) && outcome != Err(Errno::INVAL)).then_some(outcome)
}
