//! `lio_listio`: many requests in one call, and one end for all of them.

use crate::abi::{Aiocb, AiocbRef};
use crate::complete::{batch_less_one, drop_batch};
use crate::direct::{Gathered, BATCH};
use crate::engine::Engine;
use crate::errno::Errno;
use crate::goal::Goal;
use crate::lock::Blocked;
use crate::notify::Notice;
use crate::pool::Number;
use crate::reap;
use crate::request::Operation;
use crate::submission::{check, Form, Submission};
use crate::submit::{fail, submit_gathering};
use crate::wait::wait;
use crate::wake::{owe_request, Batch};
use core::sync::atomic::Ordering;

/// In `aio_lio_opcode`, beside LIO_READ or LIO_WRITE: as aio_readv, aio_writev.
pub const LIO_VECTORED: libc::c_int = 0x10;

/// The same: at the descriptor's own position, as aio_read2 with AIO_OP2_FOFFSET.
pub const LIO_FOFFSET: libc::c_int = 0x40;

/// LIO_WAIT: submits the list and waits for all of it. EIO: one of them failed (`aio_error` tells
/// which). EINTR: a signal handler ran; the requests go on. EAGAIN: memory is out.
///
/// # Safety
/// `list` has `count` entries, each NULL or a valid aiocb until it is complete.
pub unsafe fn run_and_wait(
    engine: &'static Engine,
    list: *const *const Aiocb,
    count: usize,
) -> Result<(), Errno> {
    // SAFETY: handed on from our caller.
    let (number, batch) =
        new_batch(engine, 2).inspect_err(|&errno| unsafe { refuse_list(list, count, errno) })?;
    // SAFETY: handed on from our caller.
    let submitted = unsafe { submit_list(engine, list, count, number) };
    batch_less_one(
        engine,
        &core::mem::ManuallyDrop::new(Blocked::library_thread()),
        number,
        submitted.is_err(),
    );
    let waited = wait(engine, Goal::all_of(number), None);
    if !crate::fork::is_current(engine) {
        return waited;
    }
    let failed = batch.failed.load(Ordering::Relaxed) != 0;
    drop_batch(engine, number);
    waited.and(match submitted {
        Err(Errno::AGAIN) => Err(Errno::AGAIN),
        _ if failed => Err(Errno::IO),
        _ => Ok(()),
    })
}

/// LIO_NOWAIT: submits the list; `notice` is given once, after the last of them, also for none.
/// An error is that of an element that could not be submitted; the others go on.
///
/// # Safety
/// As `run_and_wait`.
pub unsafe fn run(
    engine: &'static Engine,
    list: *const *const Aiocb,
    count: usize,
    notice: Notice,
) -> Result<(), Errno> {
    if notice == Notice::None {
        // SAFETY: handed on from our caller.
        return unsafe { submit_list(engine, list, count, 0) };
    }
    let Some(carrier) = engine.take_request() else {
        // SAFETY: handed on from our caller.
        unsafe { refuse_list(list, count, Errno::AGAIN) };
        return Err(Errno::AGAIN);
    };
    let request = engine.request(carrier);
    request.begin_carrier();
    notice.store(request);
    let (number, batch) = match new_batch(engine, 1) {
        Ok(new) => new,
        Err(errno) => {
            engine.free_request(carrier);
            // SAFETY: handed on from our caller.
            unsafe { refuse_list(list, count, errno) };
            return Err(errno);
        }
    };
    owe_request(engine, request);
    batch.carrier.set(carrier);
    // SAFETY: handed on from our caller.
    let submitted = unsafe { submit_list(engine, list, count, number) };
    batch_less_one(engine, &Blocked::new(), number, false);
    submitted
}

/// A batch that counts the call itself as pending.
fn new_batch(engine: &'static Engine, references: u32) -> Result<(Number, &'static Batch), Errno> {
    let number = engine.batches.take().ok_or(Errno::AGAIN)?;
    let batch = engine.batches.get(number).ok_or(Errno::AGAIN)?;
    batch.pending.store(1, Ordering::Relaxed);
    batch.by_ring.store(0, Ordering::Relaxed);
    batch.waiter.store(0, Ordering::Relaxed);
    batch.references.store(references, Ordering::Relaxed);
    batch.failed.store(0, Ordering::Relaxed);
    batch.carrier.set(0);
    Ok((number, batch))
}

/// None of the list was submitted, and each element says so: POSIX has the caller of a list that was refused with EAGAIN ask
/// for the status of each.
///
/// # Safety
/// As `run_and_wait`.
#[cold]
pub unsafe fn refuse_list(list: *const *const Aiocb, count: usize, errno: Errno) {
    for at in 0..count {
        // SAFETY: promised by our caller.
        if let Some(aiocb) = unsafe { AiocbRef::new(*list.add(at)) } {
            if aiocb.opcode() != libc::LIO_NOP {
                aiocb.refuse(errno);
            }
        }
    }
}

/// Submits every element; the error of the last that could not be. Elements that go straight to the
/// kernel go together.
unsafe fn submit_list(
    engine: &'static Engine,
    list: *const *const Aiocb,
    count: usize,
    batch: Number,
) -> Result<(), Errno> {
    let mut gathered = Gathered::<BATCH>::new();
    let mut reap = false;
    let mut answer = Ok(());
    for at in 0..count {
        // SAFETY: promised by our caller.
        let Some(aiocb) = (unsafe { AiocbRef::new(*list.add(at)) }) else {
            continue;
        };
        if aiocb.opcode() == libc::LIO_NOP {
            continue;
        }
        match submit_element(engine, aiocb, batch, &mut gathered) {
            Ok(wanted) => reap |= wanted,
            Err(errno) => {
                if let Some(counted) = engine.batches.get(batch) {
                    counted.by_ring.fetch_sub(1, Ordering::Relaxed);
                    batch_less_one(engine, &Blocked::new(), batch, true);
                }
                answer = Err(errno);
            }
        }
    }
    reap |= gathered.flush(engine);
    if reap {
        reap::reap_if_any(engine);
    }
    answer
}

fn submit_element(
    engine: &'static Engine,
    aiocb: AiocbRef,
    batch: Number,
    gathered: &mut Gathered<BATCH>,
) -> Result<bool, Errno> {
    if let Some(batch) = engine.batches.get(batch) {
        batch.pending.fetch_add(1, Ordering::Relaxed);
        batch.by_ring.fetch_add(1, Ordering::Relaxed);
    }
    let notice = check(aiocb, Operation::Read)?;
    let has = |flag| aiocb.opcode() & flag != 0;
    let form = Form { vectored: has(LIO_VECTORED), at_position: has(LIO_FOFFSET) };
    let operation = match aiocb.opcode() & !(LIO_VECTORED | LIO_FOFFSET) {
        libc::LIO_READ => Operation::Read,
        libc::LIO_WRITE => Operation::Write,
        _ => {
            let mut submission =
                Submission::new(engine, aiocb, Operation::Read, notice, batch, Form::default());
            return fail(engine, &mut submission, Errno::INVAL).map(|()| false);
        }
    };
    let mut submission = Submission::new(engine, aiocb, operation, notice, batch, form);
    submit_gathering(engine, &mut submission, gathered)
}
