//! Completion: the one place where a request ends.
//!
//! The order of steps is the contract's: return value, status (from here on the aiocb is gone),
//! waiter, batch, notification. What is needed after the status was copied into the request.

use crate::abi::AiocbRef;
use crate::admission;
use crate::engine::Engine;
use crate::errno::Outcome;
use crate::finished;
use crate::lock::Blocked;
use crate::notify::{self, Notice};
use crate::observe;
use crate::order;
use crate::pool::Number;
use crate::request::{flag, Operation};
use crate::wake::{settle, wake_named};
use crate::worklist;
use core::sync::atomic::Ordering;

/// Ends a request and wakes who waits for it. Only for the party that the table in `request`
/// names. Never blocks; async-signal-safe.
pub fn complete(engine: &Engine, blocked: &Blocked, number: Number, outcome: Outcome) {
    let waiter = complete_quietly(engine, blocked, number, outcome);
    wake_named(engine, waiter);
}

/// As `complete`, and answers whom to wake (`wake_named`), soon: for those who end many in a row.
#[must_use]
pub fn complete_quietly(engine: &Engine, blocked: &Blocked, number: Number, outcome: Outcome) -> u32 {
    let request = engine.request(number);
    let mut released = 0;
    if request.operation() == Operation::Write && request.file.get() != 0 {
        let guard = engine.lock.lock(blocked);
        released = order::write_ended(engine, &guard, request, outcome);
    }
    let waiter = end(engine, blocked, number, outcome);
    release(engine, blocked, released);
    waiter
}

/// Sends barriers on their way that have nothing to wait for any more.
pub fn release(engine: &Engine, blocked: &Blocked, first: Number) {
    let mut number = first;
    while number != 0 {
        let request = engine.request(number);
        let next = request.next();
        let submitted = order::inherited(request).and_then(|()| {
            if blocked.sees_descriptors() {
                return admission::submit_sync(engine, blocked, number, request);
            }
            // A helper has the number's file in its own table only by an errand.
            let guard = engine.lock.lock(blocked);
            worklist::push_errand(engine, &guard, number);
            Ok(())
        });
        if let Err(errno) = submitted {
            let waiter = end(engine, blocked, number, Err(errno));
            wake_named(engine, waiter);
        }
        number = next;
    }
}

fn end(engine: &Engine, blocked: &Blocked, number: Number, outcome: Outcome) -> u32 {
    let request = engine.request(number);
    let batch = request.batch.get();
    if batch != 0 {
        engine.leave_ring(request);
    }
    let flags = request.flags.get();
    // SAFETY: the request is not complete until the next line.
    let aiocb = unsafe { AiocbRef::from_address(request.aiocb_address()) };
    observe::completed(engine, request, outcome);
    let record = finished::record_of(engine, request.record.get(), aiocb);
    // SeqCst, before and after the status: `wake`, rule 1.
    engine.ending.fetch_add(1, Ordering::SeqCst);
    aiocb.finish(outcome);
    engine.ended.fetch_add(1, Ordering::SeqCst);
    let waiter = request.waiter.swap(0, Ordering::SeqCst);
    if flags & flag::OWED != 0 {
        settle(engine);
    }
    finished::add(engine, record, outcome);
    if Notice::load(request) == Notice::None {
        engine.free_request(number);
    } else {
        notify::deliver(engine, blocked, number);
    }
    if batch != 0 {
        batch_less_one(engine, blocked, batch, outcome.is_err());
    }
    // Last: a leader that finds nothing held does not make itself findable, also not for the batch.
    if flags & flag::COUNTED != 0 {
        engine.held.fetch_sub(1, Ordering::SeqCst);
    }
    waiter
}

/// One request of a lio_listio batch, or the call itself, is done with it.
pub fn batch_less_one(engine: &Engine, blocked: &Blocked, number: Number, failed: bool) {
    let Some(batch) = engine.batches.get(number) else {
        return;
    };
    if failed {
        batch.failed.store(1, Ordering::Relaxed);
    }
    // AcqRel: who takes the last one sees every `failed`. SeqCst besides, as for a status: `wake`, rule 1.
    if batch.pending.fetch_sub(1, Ordering::SeqCst) != 1 {
        return;
    }
    let carrier = batch.carrier.get();
    let waiter = batch.waiter.swap(0, Ordering::SeqCst);
    drop_batch(engine, number);
    if carrier != 0 {
        if engine.request(carrier).has(flag::OWED) {
            settle(engine);
        }
        notify::deliver(engine, blocked, carrier);
    }
    wake_named(engine, waiter);
}

/// Gives up one reference to a batch.
pub fn drop_batch(engine: &Engine, number: Number) {
    let Some(batch) = engine.batches.get(number) else {
        return;
    };
    if batch.references.fetch_sub(1, Ordering::AcqRel) == 1 {
        engine.batches.give(number);
    }
}
