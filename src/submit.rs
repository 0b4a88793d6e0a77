//! Submission: which of the ways a request goes (`engine` draws them).
//!
//! Nothing is remembered of a descriptor between calls. `fcntl(F_GETFL)` tells at once what it can
//! do; `statx` is asked only where order or a later start makes it necessary to know the file.

use crate::abi::AiocbRef;
use crate::admission;
use crate::complete::complete;
use crate::direct::Gathered;
use crate::engine::Engine;
use crate::errno::{Errno, Outcome};
use crate::finished;
use crate::lock::Blocked;
use crate::notify::{self, Notice};
use crate::observe::{self, Way as Went};
use crate::order;
use crate::polls;
use crate::pool::Number;
use crate::reap;
use crate::request::{flag, number_of, Handle, Operation};
use crate::sys::files::{self, Buffer, Direction, Identity};
use crate::wake::{hold, owe_request, settle};
use crate::worklist;
use core::cell::Cell;
use libc::c_int;

/// Events that may lie in the ring after a submission that added one.
const MOST_LEFT: u32 = 32;

/// Transfers beyond this are a helper's: copying them, or pinning their pages, would hold up the caller.
const MOST_IN_CALLER: usize = 1 << 20;

/// Beyond this a look at where the file lies costs little beside the transfer.
const LARGE: usize = 128 << 10;

/// Read-ahead up to this is cheap to start in the caller; more is started by the helper's own read.
const READ_AHEAD_IN_CALLER: usize = 256 << 10;

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
}

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
        Submission { aiocb, operation, notice, batch, form, started }
    }
}

/// How a transfer names its buffer and its place, beyond what aio_read and aio_write have.
#[derive(Clone, Copy, Default)]
pub struct Form {
    /// `aio_buf` is an array of `aio_nbytes` iovecs.
    pub vectored: bool,
    /// At the descriptor's own position, not at `aio_offset`.
    pub at_position: bool,
}

/// What a submission has taken of the pools; a request that is made of it takes it over.
struct Taken {
    buffer: Buffer,
    /// The copy of the caller's iovecs, or 0.
    copy: Cell<Number>,
    /// What `aio_waitcomplete` will know it by, or 0.
    record: Cell<Number>,
}

/// `aio_reqprio`'s range (AIO_PRIO_DELTA_MAX, as glibc's).
pub const MOST_REQPRIO: c_int = 20;

/// Checks what makes a submitting call itself fail: EINVAL for the priority or the signal number.
/// The aiocb then holds EINVAL.
pub fn check(aiocb: AiocbRef) -> Result<Notice, Errno> {
    let checked = match aiocb.reqprio() {
        0..=MOST_REQPRIO => Notice::parse(&aiocb.sigevent()),
        _ => Err(Errno::INVAL),
    };
    if let Err(errno) = checked {
        aiocb.begin(0);
        aiocb.refuse(errno);
    }
    checked
}

/// Submits one request. An error means that it did not start: EAGAIN, memory is out.
pub fn submit(engine: &'static Engine, submission: &Submission) -> Result<(), Errno> {
    let mut gathered = Gathered::<1>::new();
    let mut reap = submit_gathering(engine, submission, &mut gathered)?;
    reap |= gathered.flush(engine);
    if reap {
        reap::reap_if_any(engine);
    }
    Ok(())
}

/// Submits one request, but leaves it in `gathered` where it goes straight to the kernel.
/// True: somebody should reap.
pub fn submit_gathering<const ROOM: usize>(
    engine: &'static Engine,
    submission: &Submission,
    gathered: &mut Gathered<ROOM>,
) -> Result<bool, Errno> {
    let aiocb = submission.aiocb;
    let begun = begin(engine, submission);
    let direct = match (&begun, submission.operation) {
        (Err(errno), _) => Err(*errno),
        (Ok(taken), Operation::Read) => read(engine, submission, taken),
        (Ok(taken), Operation::Write) => write(engine, submission, taken),
        (Ok(taken), Operation::Sync | Operation::DataSync) => sync(engine, submission, taken).map(|()| None),
        (Ok(taken), Operation::Lock) => lock(engine, submission, taken).map(|()| None),
    };
    if let Ok(taken) = begun {
        engine.copies.give(taken.copy.take());
        finished::give_back(engine, taken.record.take());
    }
    // What tells an eventfd leaves an event behind that nobody may ever look for.
    let crowded = matches!(submission.notice, Notice::Eventfd { .. }) && engine.ring.waiting() > MOST_LEFT;
    match direct {
        Ok(None) => Ok(crowded),
        Ok(Some(handle)) => Ok(gathered.add(engine, handle)),
        Err(errno) => {
            observe::completed_at_once(engine, submission, Err(errno));
            aiocb.refuse(errno);
            Err(errno)
        }
    }
}

/// Ends a request that was never to start, with its notification.
pub fn fail(engine: &'static Engine, submission: &Submission, errno: Errno) -> Result<(), Errno> {
    let taken = begin(engine, submission)?;
    let answer = ended(engine, submission, &taken, Err(errno)).map(|_| ());
    engine.copies.give(taken.copy.take());
    finished::give_back(engine, taken.record.take());
    answer
}

/// The aiocb is in progress from here on. EINVAL, EAGAIN: `Copies::copy`, or memory is out.
fn begin(engine: &'static Engine, submission: &Submission) -> Result<Taken, Errno> {
    let aiocb = submission.aiocb;
    let record = finished::reserve(engine, aiocb)?;
    aiocb.begin(engine.epoch);
    aiocb.set_record(record);
    let (buffer, copy) = match submission.form.vectored {
        false => (aiocb.buffer(), 0),
        // SAFETY: the contract of aio_readv and its kin.
        true => unsafe { engine.copies.copy(aiocb.buffer()) }
            .inspect_err(|_| finished::give_back(engine, record))?,
    };
    Ok(Taken { buffer, copy: Cell::new(copy), record: Cell::new(record) })
}

/// `Some`: to be given to the kernel by the caller; `None`: on its way, or complete.
type Way = Result<Option<Handle>, Errno>;

fn read(engine: &'static Engine, submission: &Submission, taken: &Taken) -> Way {
    let aiocb = submission.aiocb;
    let (fd, mut rest, offset) = (aiocb.fildes(), taken.buffer, aiocb.offset());
    if offset >= 0
        && rest.bytes <= LARGE
        && !submission.form.at_position
        && engine.polls.is_empty()
        && engine.hints.may_be_direct(fd)
    {
        let handle = new_direct(engine, submission, taken, 0)?;
        engine.request(number_of(handle)).add(flag::GUESSED);
        engine.request(number_of(handle)).pending.set(0);
        return Ok(Some(handle));
    }
    let flags = match check_transfer(submission, taken, Direction::Read) {
        Ok(flags) => flags,
        Err(errno) => return ended(engine, submission, taken, Err(errno)),
    };
    if submission.form.at_position || !engine.polls.is_empty() && !is_seekable(fd) {
        return by_kind(engine, submission, taken, flags, rest, Errno::AGAIN);
    }
    if rest.bytes > LARGE {
        let local = files::status(fd).is_ok_and(|status| status.identity.is_on_block_device());
        if rest.bytes > MOST_IN_CALLER {
            return by_kind(engine, submission, taken, flags, rest, Errno::AGAIN);
        }
        if !local && flags & libc::O_DIRECT == 0 {
            // A try with RWF_NOWAIT starts read-ahead, which on btrfs waits for what tells where the data are.
            return by_kind(engine, submission, taken, flags, rest, Errno::OPNOTSUPP);
        }
    }
    if flags & libc::O_DIRECT != 0 {
        if engine.hints.may_be_memory(fd) && files::is_memory(fd) {
            return ended(engine, submission, taken, copy(submission, taken, Direction::Read));
        }
        engine.hints.is_direct(fd);
        return new_direct(engine, submission, taken, flags).map(Some);
    }
    // Twice: a read that ends early ended at the end of the file, or of what is cached.
    loop {
        let done = taken.buffer.bytes - rest.bytes;
        match files::transfer_nowait(Direction::Read, fd, rest, offset + done as i64) {
            Ok(count) if count == 0 || count == rest.bytes => {
                return ended(engine, submission, taken, Ok(done + count));
            }
            Ok(count) => rest = rest.after(count),
            Err(errno @ (Errno::AGAIN | Errno::OPNOTSUPP | Errno::NOSYS | Errno::SPIPE)) => {
                return by_kind(engine, submission, taken, flags, rest, errno);
            }
            Err(_) if done > 0 => return ended(engine, submission, taken, Ok(done)),
            Err(errno) => return ended(engine, submission, taken, Err(errno)),
        }
    }
}

/// A read that the page cache could not serve at once, of which `rest` is left: what kind of file is it?
fn by_kind(
    engine: &'static Engine,
    submission: &Submission,
    taken: &Taken,
    flags: c_int,
    rest: Buffer,
    why: Errno,
) -> Way {
    let fd = submission.aiocb.fildes();
    let status = match files::status(fd) {
        Ok(status) => status,
        Err(errno) => return ended(engine, submission, taken, Err(errno)),
    };
    let memory = why == Errno::OPNOTSUPP && files::is_memory(fd);
    match status.kind {
        libc::S_IFDIR => return ended(engine, submission, taken, Err(Errno::ISDIR)),
        libc::S_IFREG if memory => {
            return ended(engine, submission, taken, copy(submission, taken, Direction::Read));
        }
        _ => {}
    }
    let handle = new_request(engine, submission, taken, flags, rest)?;
    let number = number_of(handle);
    let request = engine.request(number);
    request.identify(status.identity);
    let blocked = Blocked::new();
    match status.kind {
        libc::S_IFREG | libc::S_IFBLK if submission.form.at_position => {
            at_position(engine, &blocked, number);
        }
        libc::S_IFREG | libc::S_IFBLK => {
            let direct = flags & libc::O_DIRECT != 0;
            // Read-ahead that does not wait itself: on FUSE and on btrfs it was seen to.
            let quick = why == Errno::AGAIN && status.identity.is_on_block_device();
            if quick && rest.bytes <= READ_AHEAD_IN_CALLER && !direct {
                files::read_ahead(fd, request.position(), rest.bytes);
            }
            let guard = engine.lock.lock(&blocked);
            if direct {
                worklist::push_errand(engine, &guard, number);
            } else {
                worklist::push_cold(engine, &guard, number);
            }
        }
        kind => {
            request.note_kind(kind);
            polls::enqueue(engine, &blocked, number);
        }
    }
    Ok(None)
}

/// At a file's own position: one after the other, in the order of the calls, by helpers.
fn at_position(engine: &Engine, blocked: &Blocked, number: Number) {
    engine.request(number).add(flag::STREAM | flag::BLOCKS | flag::AT_POSITION);
    polls::enqueue(engine, blocked, number);
}

fn write(engine: &'static Engine, submission: &Submission, taken: &Taken) -> Way {
    let aiocb = submission.aiocb;
    let fd = aiocb.fildes();
    let flags = match check_transfer(submission, taken, Direction::Write) {
        Ok(flags) => flags,
        Err(errno) => return ended(engine, submission, taken, Err(errno)),
    };
    let status = match files::status(fd) {
        Ok(status) => status,
        Err(errno) => return ended(engine, submission, taken, Err(errno)),
    };
    let on_file = matches!(status.kind, libc::S_IFREG | libc::S_IFBLK);
    let appends = flags & libc::O_APPEND != 0;
    // What appends goes to the end, whatever the descriptor's position is, as write(2) does.
    let placed = on_file && submission.form.at_position && !appends;
    // A write beyond RLIMIT_FSIZE sends SIGXFSZ to the thread that makes it: not to the caller.
    let here = on_file && !placed && files::file_size_unlimited();
    let direct = here && flags & libc::O_DIRECT != 0 && !appends;
    let mut rest = taken.buffer;
    let small = rest.bytes <= MOST_IN_CALLER;
    if here
        && small
        && !direct
        && flags & libc::O_DIRECT == 0
        && order::may_write_now(engine, status.identity)
    {
        match write_now(engine, submission, taken, status.identity) {
            WriteNow::Ended(outcome) => return ended(engine, submission, taken, outcome),
            WriteNow::Partly(count) => rest = rest.after(count),
        }
    }
    let ends = (aiocb.offset() as u64).saturating_add(rest.bytes as u64);
    let handle = if direct && small && (status.kind == libc::S_IFBLK || ends <= status.size) {
        new_direct(engine, submission, taken, flags)?
    } else {
        new_request(engine, submission, taken, flags, rest)?
    };
    let number = number_of(handle);
    let request = engine.request(number);
    request.identify(status.identity);
    if here {
        request.add(flag::NO_LIMIT);
    }
    let blocked = Blocked::new();
    if !on_file {
        request.note_kind(status.kind);
        polls::enqueue(engine, &blocked, number);
        return Ok(None);
    }
    let guard = engine.lock.lock(&blocked);
    let Some((at, new)) = order::write_begins(engine, &guard, request) else {
        drop(guard);
        if request.has(flag::OWED) {
            settle(engine);
        }
        engine.free_request(number);
        return Err(Errno::AGAIN);
    };
    if direct && small {
        request.add(flag::NOWAIT);
        return Ok(Some(handle));
    }
    if direct {
        worklist::push_errand(engine, &guard, number);
        return Ok(None);
    }
    if placed {
        drop(guard);
        at_position(engine, &blocked, number);
        return Ok(None);
    }
    if new {
        if let Some(file) = engine.files.get(at) {
            // Only there can nobody hang who runs the write itself.
            file.local.set(u32::from(status.identity.is_on_block_device()));
        }
    }
    worklist::push_write(engine, &guard, number);
    Ok(None)
}

enum WriteNow {
    Ended(Outcome),
    /// So much was written, a helper writes the rest.
    Partly(usize),
}

/// A buffered write into the page cache, where the file system can without waiting.
fn write_now(
    engine: &'static Engine,
    submission: &Submission,
    taken: &Taken,
    identity: Identity,
) -> WriteNow {
    let (aiocb, buffer) = (submission.aiocb, taken.buffer);
    match files::transfer_nowait(Direction::Write, aiocb.fildes(), buffer, aiocb.offset()) {
        Ok(count) if count == buffer.bytes => WriteNow::Ended(Ok(count)),
        Ok(count) => WriteNow::Partly(count),
        Err(Errno::AGAIN) => WriteNow::Partly(0),
        Err(Errno::OPNOTSUPP) if files::is_memory(aiocb.fildes()) => {
            WriteNow::Ended(copy(submission, taken, Direction::Write))
        }
        Err(Errno::OPNOTSUPP | Errno::NOSYS) => {
            engine.files.cannot_write_now(identity);
            WriteNow::Partly(0)
        }
        Err(errno) => WriteNow::Ended(Err(errno)),
    }
}

/// The transfer itself, here: on a file system that is memory.
fn copy(submission: &Submission, taken: &Taken, direction: Direction) -> Outcome {
    let aiocb = submission.aiocb;
    files::transfer(direction, aiocb.fildes(), taken.buffer, aiocb.offset())
}

fn sync(engine: &'static Engine, submission: &Submission, taken: &Taken) -> Result<(), Errno> {
    let handle = new_request(engine, submission, taken, 0, taken.buffer)?;
    let number = number_of(handle);
    let request = engine.request(number);
    let blocked = Blocked::new();
    if let Err(errno) = admission::identify(request) {
        complete(engine, &blocked, number, Err(errno));
        return Ok(());
    }
    let guard = engine.lock.lock(&blocked);
    if order::barrier_begins(engine, &guard, number, request) {
        // Under the lock: once it is open the barrier may be released, and over.
        hold(engine, request);
        owe_request(engine, request);
        request.set_state(crate::request::HELD);
        return Ok(());
    }
    drop(guard);
    if let Err(errno) = admission::submit_sync(engine, &blocked, number, request) {
        complete(engine, &blocked, number, Err(errno));
    }
    Ok(())
}

/// Reading pages in may wait: an errand, to no file.
fn lock(engine: &'static Engine, submission: &Submission, taken: &Taken) -> Result<(), Errno> {
    let handle = new_request(engine, submission, taken, 0, taken.buffer)?;
    engine.request(number_of(handle)).identify(Identity::default());
    let blocked = Blocked::new();
    let guard = engine.lock.lock(&blocked);
    worklist::push_errand(engine, &guard, number_of(handle));
    Ok(())
}

/// What is wrong with a transfer from the start; else the descriptor's flags.
fn check_transfer(submission: &Submission, taken: &Taken, direction: Direction) -> Result<c_int, Errno> {
    let flags = files::status_flags(submission.aiocb.fildes())?;
    let wrong = match direction {
        Direction::Read => libc::O_WRONLY,
        Direction::Write => libc::O_RDONLY,
    };
    if flags & libc::O_ACCMODE == wrong || flags & libc::O_PATH != 0 {
        return Err(Errno::BADF);
    }
    let misplaced = submission.aiocb.offset() < 0 && !submission.form.at_position;
    if misplaced || taken.buffer.bytes > isize::MAX as usize {
        return Err(Errno::INVAL);
    }
    Ok(flags)
}

/// A descriptor that is just being closed counts as one: what is tried next finds out.
fn is_seekable(fd: c_int) -> bool {
    files::status(fd)
        .map_or(true, |status| matches!(status.kind, libc::S_IFREG | libc::S_IFBLK | libc::S_IFDIR))
}

/// A request slot for the submission: `SUBMITTING`, findable from the aiocb. Of its buffer `rest` is left.
fn new_request(
    engine: &'static Engine,
    submission: &Submission,
    taken: &Taken,
    flags: c_int,
    rest: Buffer,
) -> Result<Handle, Errno> {
    let number = engine.take_request().ok_or(Errno::AGAIN)?;
    let handle = fill_request(engine, submission, taken, number, rest);
    let request = engine.request(number);
    if flags & libc::O_NONBLOCK != 0 {
        request.add(flag::NONBLOCK);
    }
    if submission.notice != Notice::None {
        owe_request(engine, request);
    }
    submission.aiocb.attach(handle);
    Ok(handle)
}

/// As `new_request`, for what goes straight to the kernel: which tells an eventfd itself, without
/// any thread of ours.
fn new_direct(
    engine: &'static Engine,
    submission: &Submission,
    taken: &Taken,
    flags: c_int,
) -> Result<Handle, Errno> {
    if !matches!(submission.notice, Notice::Eventfd { .. }) {
        let handle = new_request(engine, submission, taken, flags, taken.buffer)?;
        engine.request(number_of(handle)).add(flag::NOWAIT);
        return Ok(handle);
    }
    let number = engine.take_request_alone().ok_or(Errno::AGAIN)?;
    let handle = fill_request(engine, submission, taken, number, taken.buffer);
    engine.request(number).add(flag::NOWAIT | flag::RESFD);
    submission.aiocb.attach(handle);
    Ok(handle)
}

/// A notification without a request. EAGAIN: memory is out.
pub fn notify_at_once(engine: &'static Engine, notice: Notice) -> Result<(), Errno> {
    let carrier = engine.take_request().ok_or(Errno::AGAIN)?;
    let request = engine.request(carrier);
    request.begin_carrier();
    notice.store(request);
    notify::deliver(engine, &Blocked::new(), carrier);
    Ok(())
}

/// Complete before the call returns. Without notification or batch no request was ever needed.
fn ended(engine: &'static Engine, submission: &Submission, taken: &Taken, outcome: Outcome) -> Way {
    if submission.notice == Notice::None && submission.batch == 0 {
        observe::completed_at_once(engine, submission, outcome);
        submission.aiocb.finish(outcome);
        finished::add(engine, taken.record.take(), outcome);
        return Ok(None);
    }
    if let (Notice::Eventfd { fd }, 0) = (submission.notice, submission.batch) {
        observe::completed_at_once(engine, submission, outcome);
        submission.aiocb.finish(outcome);
        finished::add(engine, taken.record.take(), outcome);
        if !notify::try_eventfd(engine, fd) {
            reap::reap_if_any(engine);
            // Its own carrier, and somebody who tries again, where there is still no place.
            return notify_at_once(engine, submission.notice).map(|()| None);
        }
        observe::notified(submission.notice);
        return Ok(None);
    }
    // What is left of the buffer does not matter any more.
    let number = engine.take_request().ok_or(Errno::AGAIN)?;
    fill_request(engine, submission, taken, number, submission.aiocb.buffer());
    observe::went(engine.request(number), Went::AtOnce);
    complete(engine, &Blocked::new(), number, outcome);
    Ok(None)
}

fn fill_request(
    engine: &'static Engine,
    submission: &Submission,
    taken: &Taken,
    number: Number,
    rest: Buffer,
) -> Handle {
    let request = engine.request(number);
    let handle = request.begin(number, submission.aiocb, submission.operation, rest);
    observe::went(request, Went::Kernel);
    request.done.set((taken.buffer.bytes - rest.bytes.min(taken.buffer.bytes)) as u64);
    request.priority.set(submission.aiocb.reqprio() as u32);
    request.started.set(submission.started);
    request.batch.set(submission.batch);
    request.copy.set(taken.copy.take());
    request.record.set(taken.record.take());
    submission.notice.store(request);
    handle
}
