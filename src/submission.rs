//! What is known of a request while it is being submitted, and the slot that it may get.

use crate::abi::AiocbRef;
use crate::complete::complete;
use crate::engine::Engine;
use crate::errno::{Errno, Outcome};
use crate::finished;
use crate::lock::Blocked;
use crate::notify::{self, Notice};
use crate::observe::{self, Way as Went};
use crate::pool::Number;
use crate::reap;
use crate::request::{flag, Handle, Operation, Request};
use crate::sys::files::Buffer;
use crate::threads;
use crate::wake::owe_request;
use core::cell::Cell;
use libc::c_int;

/// A request that was checked and may be submitted.
pub struct Submission {
    pub aiocb: AiocbRef,
    pub operation: Operation,
    pub notice: Notice,
    /// The lio_listio batch that it belongs to, or 0.
    pub batch: Number,
    pub form: Form,
    /// When, for `observe`.
    pub started: u64,
    /// From `begin` on: of a vectored request the copy's.
    pub buffer: Buffer,
    /// What it has taken of the pools, and a request that is made of it takes over: the copy of the caller's
    /// iovecs, and what `aio_waitcomplete` will know it by; or 0.
    copy: Cell<Number>,
    record: Cell<Number>,
    /// A request slot, taken beforehand where even what is complete at once may need one, for its batch or its notification:
    /// when the transfer is done it is too late to say EAGAIN.
    slot: Cell<Number>,
}

/// How a transfer names its buffer and its place, beyond what aio_read and aio_write have.
#[derive(Clone, Copy, Default)]
pub struct Form {
    /// `aio_buf` is an array of `aio_nbytes` iovecs.
    pub vectored: bool,
    /// At the descriptor's own position, not at `aio_offset`.
    pub at_position: bool,
}

/// `Some`: to be given to the kernel by the caller; `None`: on its way, or complete.
pub type Way = Result<Option<Handle>, Errno>;

impl Submission {
    #[inline(always)]
    pub fn new(
        engine: &Engine,
        aiocb: AiocbRef,
        operation: Operation,
        notice: Notice,
        batch: Number,
        form: Form,
    ) -> Submission {
        let started = observe::submitted(engine, operation, aiocb);
        let (buffer, copy, record, slot) = (aiocb.buffer(), Cell::new(0), Cell::new(0), Cell::new(0));
        Submission { aiocb, operation, notice, batch, form, started, buffer, copy, record, slot }
    }

    /// Where in the file it goes, if that is for `aio_offset` to say.
    #[inline(always)]
    pub fn offset(&self) -> i64 {
        if self.form.at_position {
            0
        } else {
            self.aiocb.offset()
        }
    }

    /// The aiocb is in progress from here on. EINVAL, EAGAIN: `Copies::copy`, or memory is out.
    #[inline(always)]
    pub fn begin(&mut self, engine: &'static Engine) -> Result<(), Errno> {
        if self.batch != 0 || self.notice != Notice::None {
            // What tells a signal or an eventfd here and now needs no thread.
            let alone = self.batch == 0 && !matches!(self.notice, Notice::Thread { .. });
            let number = if alone { engine.take_request_alone() } else { engine.take_request() };
            let number = number.ok_or(Errno::AGAIN)?;
            // Should it go back unused: what its last user had was given back by that one.
            engine.request(number).copy.set(0);
            self.slot.set(number);
        }
        let record = finished::reserve(engine, self.aiocb)?;
        self.record.set(record);
        self.aiocb.begin(engine.epoch, record);
        if self.form.vectored {
            // SAFETY: the contract of aio_readv and its kin.
            let (buffer, copy) = unsafe { engine.copies.copy(self.aiocb.buffer()) }?;
            self.buffer = buffer;
            self.copy.set(copy);
        }
        Ok(())
    }

    /// Gives back what no request took over.
    #[inline(always)]
    pub fn end(&self, engine: &Engine) {
        if self.copy.get() | self.record.get() | self.slot.get() != 0 {
            self.give_back(engine);
        }
    }

    #[cold]
    fn give_back(&self, engine: &Engine) {
        engine.copies.give(self.copy.take());
        finished::give_back(engine, self.record.take());
        if self.slot.get() != 0 {
            engine.free_request(self.slot.take());
        }
    }

    /// A slot for the request, and a thread for what comes of it. `None`: memory or threads are out.
    #[inline(always)]
    fn take_slot(&self, engine: &'static Engine) -> Option<Number> {
        if self.slot.get() == 0 {
            return engine.take_request();
        }
        // It may have been taken alone. Else they are there: this is a look.
        threads::ensure(engine).ok().map(|()| self.slot.take())
    }
}

/// `aio_reqprio`'s range (AIO_PRIO_DELTA_MAX, as glibc's).
pub const MOST_REQPRIO: c_int = 20;

/// Checks what makes a submitting call itself fail: EINVAL for the priority or the signal number.
/// The aiocb then holds EINVAL.
pub fn check(aiocb: AiocbRef, operation: Operation) -> Result<Notice, Errno> {
    let checked = match priority(aiocb, operation) {
        0..=MOST_REQPRIO => Notice::parse(&aiocb.sigevent()),
        _ => Err(Errno::INVAL),
    };
    if let Err(errno) = checked {
        aiocb.begin(0, 0);
        aiocb.refuse(errno);
    }
    checked
}

/// aio_fsync ignores all but the descriptor and the notification (POSIX): other members may hold anything.
fn priority(aiocb: AiocbRef, operation: Operation) -> c_int {
    match operation {
        Operation::Sync | Operation::DataSync => 0,
        _ => aiocb.reqprio(),
    }
}

/// A request slot for the submission: `SUBMITTING`, findable from the aiocb. Of its buffer `rest` is left.
pub fn new_request(
    engine: &'static Engine,
    submission: &Submission,
    flags: c_int,
    rest: Buffer,
) -> Result<(Handle, &'static Request), Errno> {
    let number = submission.take_slot(engine).ok_or(Errno::AGAIN)?;
    let request = engine.request(number);
    let handle = fill_request(request, submission, number, rest);
    if flags & libc::O_NONBLOCK != 0 {
        request.add(flag::NONBLOCK);
    }
    if submission.notice != Notice::None {
        owe_request(engine, request);
    }
    submission.aiocb.attach(handle);
    Ok((handle, request))
}

/// As `new_request`, for what goes straight to the kernel: which tells an eventfd itself, without
/// any thread of ours.
pub fn new_direct(
    engine: &'static Engine,
    submission: &Submission,
    flags: c_int,
) -> Result<(Handle, &'static Request), Errno> {
    if !matches!(submission.notice, Notice::Eventfd { .. }) {
        let (handle, request) = new_request(engine, submission, flags, submission.buffer)?;
        request.add(flag::NOWAIT);
        return Ok((handle, request));
    }
    let number = submission.slot.take();
    let request = engine.request(number);
    let handle = fill_request(request, submission, number, submission.buffer);
    request.add(flag::NOWAIT | flag::RESFD);
    submission.aiocb.attach(handle);
    Ok((handle, request))
}

/// A notification without a request. EAGAIN: memory is out.
pub fn notify_at_once(engine: &'static Engine, notice: Notice) -> Result<(), Errno> {
    let carrier = engine.take_request().ok_or(Errno::AGAIN)?;
    carry(engine, notice, carrier);
    Ok(())
}

fn carry(engine: &Engine, notice: Notice, carrier: Number) {
    let request = engine.request(carrier);
    request.begin_carrier();
    notice.store(request);
    notify::deliver(engine, &Blocked::new(), carrier);
}

/// Tells of a request that is complete, from the call that submitted it: no thread is needed, but where nobody can be
/// told yet. If then there is none to be had, the next completion thread that starts tells: the request is done, and it
/// is too late to say EAGAIN.
fn tell_here(engine: &'static Engine, submission: &Submission) {
    let notice = submission.notice;
    let told = match notice {
        Notice::Signal { signo, thread, value } => notify::try_signal(engine, signo, thread, value),
        Notice::Eventfd { fd } => {
            notify::try_eventfd(engine, fd) || {
                reap::reap_if_any(engine);
                notify::try_eventfd(engine, fd)
            }
        }
        _ => false,
    };
    if told {
        return observe::notified(notice);
    }
    carry(engine, notice, submission.slot.take());
    let _ = threads::ensure(engine);
}

/// Complete before the call returns. Without notification or batch no request was ever needed.
pub fn ended(engine: &'static Engine, submission: &Submission, outcome: Outcome) -> Way {
    if submission.notice == Notice::None && submission.batch == 0 {
        observe::completed_at_once(engine, submission, outcome);
        submission.aiocb.finish(outcome);
        finished::add(engine, submission.record.take(), outcome);
        return Ok(None);
    }
    let told_here = matches!(submission.notice, Notice::Eventfd { .. } | Notice::Signal { .. });
    if told_here && submission.batch == 0 {
        observe::completed_at_once(engine, submission, outcome);
        submission.aiocb.finish(outcome);
        finished::add(engine, submission.record.take(), outcome);
        tell_here(engine, submission);
        return Ok(None);
    }
    // What is left of the buffer does not matter any more.
    let number = submission.slot.take();
    let request = engine.request(number);
    fill_request(request, submission, number, submission.aiocb.buffer());
    observe::went(request, Went::AtOnce);
    complete(engine, &Blocked::new(), number, outcome);
    Ok(None)
}

fn fill_request(request: &Request, submission: &Submission, number: Number, rest: Buffer) -> Handle {
    let handle = request.begin(number, submission.aiocb, submission.operation, rest, submission.offset());
    observe::went(request, Went::Kernel);
    request.done.set((submission.buffer.bytes - rest.bytes.min(submission.buffer.bytes)) as u64);
    request.priority.set(priority(submission.aiocb, submission.operation) as u32);
    request.started.set(submission.started);
    request.batch.set(submission.batch);
    request.copy.set(submission.copy.take());
    request.record.set(submission.record.take());
    submission.notice.store(request);
    handle
}
