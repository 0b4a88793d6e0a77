//! Waiters that work: a thread that would sleep carries out its own request instead, if it is next in line.
//!
//! No other thread is woken for it, and none has to wake this one: for buffered writes at depth 1 that is worth a factor of
//! five. Only the waiter's own request, only when nobody is at work on the file, and only on a block device
//! of this machine: there alone it cannot hang while others of the waiter's list complete.

use crate::admission::is_still_open;
use crate::complete::complete;
use crate::engine::Engine;
use crate::errno::{Errno, Outcome};
use crate::lock::Blocked;
use crate::observe::{self, Way};
use crate::request::{flag, Home, Request, HELD, RUNNING};
use crate::transfers::{finished_with, transfer_rest};
use crate::worklist::leave_file;

/// For a thread that would sleep until `number` is complete: does the work when it is next in line,
/// nobody else is at it, and it cannot hang (`order::File::local`). True: it is complete.
pub fn run_own(engine: &Engine, blocked: &Blocked, handle: u64) -> bool {
    let number = crate::request::number_of(handle);
    let request = engine.request(number);
    if request.state() != HELD {
        return false;
    }
    let guard = engine.lock.lock(blocked);
    if !request.is(handle) || request.state() != HELD {
        return false;
    }
    match request.home() {
        Home::FileQueue => {
            let file_number = request.file.get();
            let Some(file) = engine.files.get(file_number) else {
                return false;
            };
            let here = file.local.get() != 0 && request.has(flag::NO_LIMIT);
            if file.busy.get() != 0 || file.queue.first() != number || !here {
                return false;
            }
            file.busy.set(1);
            file.queue.remove(&engine.requests, number);
            request.set_state(RUNNING);
            observe::went(request, Way::Waiter);
            drop(guard);
            let outcome = transfer_own(request);
            complete(engine, blocked, number, outcome);
            leave_file(engine, &engine.lock.lock(blocked), file_number, file);
        }
        Home::Cold => {
            let local = request.identity().is_on_block_device();
            if !local || engine.work.working.get() != 0 || engine.work.cold.first() != number {
                return false;
            }
            engine.work.cold.remove(&engine.requests, number);
            request.set_state(RUNNING);
            observe::went(request, Way::Waiter);
            drop(guard);
            complete(engine, blocked, number, transfer_own(request));
        }
        _ => return false,
    }
    true
}

/// In the program's own thread, through its own descriptor.
fn transfer_own(request: &Request) -> Outcome {
    if is_still_open(request) {
        transfer_rest(request, request.fd())
    } else {
        finished_with(request, Err(Errno::CANCELED))
    }
}
