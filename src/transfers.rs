//! The transfer itself, by a thread that may wait for it.

use crate::engine::Engine;
use crate::errno::{Errno, Outcome};
use crate::pins::Pins;
use crate::request::{flag, Operation, Request};
use crate::sys::files::{transfer, transfer_nowait, Direction};

/// A read that need not wait: all there by now, on the pinned file. `None`: the rest has to be waited for.
pub fn transfer_ready(engine: &Engine, request: &Request, pins: &mut Pins) -> Option<Outcome> {
    let fd = match pins.pin(engine, request) {
        Ok(fd) => fd,
        Err(Errno::CANCELED) => return Some(finished_with(request, Err(Errno::CANCELED))),
        Err(_) => return None,
    };
    transfer_if_ready(request, fd)
}

/// As `transfer_ready`, on the file that `fd` is open on.
pub fn transfer_if_ready(request: &Request, fd: i32) -> Option<Outcome> {
    let count = transfer_nowait(Direction::Read, fd, request.rest(), request.position()).ok()?;
    request.advance(count);
    (request.rest().bytes == 0 || count == 0).then_some(Ok(request.done.get() as usize))
}

/// Transfers what is left of a request through `fd`, and waits as long as that takes. The answer is the whole
/// request's.
pub fn transfer_rest(request: &Request, fd: i32) -> Outcome {
    let Some(direction) = request.operation().direction() else {
        return Err(Errno::INVAL);
    };
    loop {
        let rest = request.rest();
        let outcome = match transfer(direction, fd, rest, request.position()) {
            // What the caller asked to seek cannot: it is at its position by nature.
            Err(Errno::SPIPE) if !request.has(flag::STREAM) => {
                request.add(flag::STREAM);
                continue;
            }
            Err(Errno::INTR) => continue,
            // EBADF also where another file has the number, which is not open for this.
            outcome => outcome.map_err(Errno::of_accepted),
        };
        let count = match outcome {
            Ok(count) if count > 0 => count,
            other => return finished_with(request, other),
        };
        request.advance(count);
        // A write goes on until all is written, or until it is told why not.
        if direction == Direction::Read || count == rest.bytes {
            return Ok(request.done.get() as usize);
        }
    }
}

/// An error, or the end of the file, after something was transferred counts as success, as in read(2). But a read whose
/// descriptor was closed meanwhile is cancelled: part of it would look like the end of the file.
pub fn finished_with(request: &Request, outcome: Outcome) -> Outcome {
    let cut_short = outcome == Err(Errno::CANCELED) && request.operation() == Operation::Read;
    match request.done.get() {
        0 => outcome,
        _ if cut_short => outcome,
        done => Ok(done as usize),
    }
}
