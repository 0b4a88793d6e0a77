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
use crate::lock::Blocked;
use crate::notify::Notice;
use crate::order;
use crate::polls;
use crate::pool::Number;
use crate::reap;
use crate::request::{flag, number_of, Handle, Operation, Request};
use crate::sys::files::{self, Direction, Identity};
use crate::wake::{hold, owe_request, settle};
use crate::worklist;
use libc::c_int;

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
        aiocb.finish(Err(errno));
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
    aiocb.begin(engine.epoch);
    let direct = match submission.operation {
        Operation::Read => read(engine, submission),
        Operation::Write => write(engine, submission),
        Operation::Sync | Operation::DataSync => sync(engine, submission).map(|()| None),
    };
    match direct {
        Ok(None) => Ok(false),
        Ok(Some(handle)) => Ok(gathered.add(engine, handle)),
        Err(errno) => {
            aiocb.finish(Err(errno));
            Err(errno)
        }
    }
}

/// Ends a request that was never to start, with its notification.
pub fn fail(engine: &'static Engine, submission: &Submission, errno: Errno) -> Result<(), Errno> {
    submission.aiocb.begin(engine.epoch);
    ended(engine, submission, Err(errno)).map(|_| ())
}

/// `Some`: to be given to the kernel by the caller; `None`: on its way, or complete.
type Way = Result<Option<Handle>, Errno>;

fn read(engine: &'static Engine, submission: &Submission) -> Way {
    let aiocb = submission.aiocb;
    let (fd, buffer, offset) = (aiocb.fildes(), aiocb.buffer(), aiocb.offset());
    let flags = match check_transfer(aiocb, Direction::Read) {
        Ok(flags) => flags,
        Err(errno) => return ended(engine, submission, Err(errno)),
    };
    if !engine.polls.is_empty() && !is_seekable(fd)? {
        return by_kind(engine, submission, flags, 0, Errno::AGAIN);
    }
    if buffer.bytes > LARGE {
        let local = files::status(fd).is_ok_and(|status| status.identity.is_on_block_device());
        if buffer.bytes > MOST_IN_CALLER {
            return by_kind(engine, submission, flags, 0, Errno::AGAIN);
        }
        if !local && flags & libc::O_DIRECT == 0 {
            // A try with RWF_NOWAIT starts read-ahead, which on btrfs waits for what tells where the data are.
            return by_kind(engine, submission, flags, 0, Errno::OPNOTSUPP);
        }
    }
    if flags & libc::O_DIRECT != 0 {
        if files::is_memory(fd) {
            return ended(engine, submission, copy(submission, Direction::Read));
        }
        let handle = new_request(engine, submission, flags)?;
        engine.request(number_of(handle)).add(flag::NOWAIT);
        return Ok(Some(handle));
    }
    // Twice: a read that ends early ended at the end of the file, or of what is cached.
    let mut done = 0;
    loop {
        match files::transfer_nowait(Direction::Read, fd, buffer.after(done), offset + done as i64) {
            Ok(0) => return ended(engine, submission, Ok(done)),
            Ok(count) => {
                done += count;
                if done == buffer.bytes {
                    return ended(engine, submission, Ok(done));
                }
            }
            Err(errno @ (Errno::AGAIN | Errno::OPNOTSUPP | Errno::NOSYS | Errno::SPIPE)) => {
                return by_kind(engine, submission, flags, done, errno);
            }
            Err(_) if done > 0 => return ended(engine, submission, Ok(done)),
            Err(errno) => return ended(engine, submission, Err(errno)),
        }
    }
}

/// A read that the page cache could not serve at once: what kind of file is it?
fn by_kind(engine: &'static Engine, submission: &Submission, flags: c_int, done: usize, why: Errno) -> Way {
    let fd = submission.aiocb.fildes();
    let status = match files::status(fd) {
        Ok(status) => status,
        Err(errno) => return ended(engine, submission, Err(errno)),
    };
    let memory = why == Errno::OPNOTSUPP && files::is_memory(fd);
    match status.kind {
        libc::S_IFDIR => return ended(engine, submission, Err(Errno::ISDIR)),
        libc::S_IFREG if memory => return ended(engine, submission, copy(submission, Direction::Read)),
        _ => {}
    }
    let handle = new_request(engine, submission, flags)?;
    let number = number_of(handle);
    let request = engine.request(number);
    request.identify(status.identity);
    request.done.set(done as u64);
    let blocked = Blocked::new();
    match status.kind {
        libc::S_IFREG | libc::S_IFBLK => {
            let rest = request.rest();
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

fn write(engine: &'static Engine, submission: &Submission) -> Way {
    let aiocb = submission.aiocb;
    let fd = aiocb.fildes();
    let flags = match check_transfer(aiocb, Direction::Write) {
        Ok(flags) => flags,
        Err(errno) => return ended(engine, submission, Err(errno)),
    };
    let status = match files::status(fd) {
        Ok(status) => status,
        Err(errno) => return ended(engine, submission, Err(errno)),
    };
    let on_file = matches!(status.kind, libc::S_IFREG | libc::S_IFBLK);
    // A write beyond RLIMIT_FSIZE sends SIGXFSZ to the thread that makes it: not to the caller.
    let here = on_file && files::file_size_unlimited();
    let direct = here && flags & libc::O_DIRECT != 0 && flags & libc::O_APPEND == 0;
    let small = aiocb.buffer().bytes <= MOST_IN_CALLER;
    let mut done = 0;
    if here
        && small
        && !direct
        && flags & libc::O_DIRECT == 0
        && order::may_write_now(engine, status.identity)
    {
        match write_now(engine, submission, status.identity) {
            WriteNow::Ended(outcome) => return ended(engine, submission, outcome),
            WriteNow::Partly(count) => done = count,
        }
    }
    let handle = new_request(engine, submission, flags)?;
    let number = number_of(handle);
    let request = engine.request(number);
    request.identify(status.identity);
    request.done.set(done as u64);
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
fn write_now(engine: &'static Engine, submission: &Submission, identity: Identity) -> WriteNow {
    let aiocb = submission.aiocb;
    let buffer = aiocb.buffer();
    match files::transfer_nowait(Direction::Write, aiocb.fildes(), buffer, aiocb.offset()) {
        Ok(count) if count == buffer.bytes => WriteNow::Ended(Ok(count)),
        Ok(count) => WriteNow::Partly(count),
        Err(Errno::AGAIN) => WriteNow::Partly(0),
        Err(Errno::OPNOTSUPP) if files::is_memory(aiocb.fildes()) => {
            WriteNow::Ended(copy(submission, Direction::Write))
        }
        Err(Errno::OPNOTSUPP | Errno::NOSYS) => {
            engine.files.cannot_write_now(identity);
            WriteNow::Partly(0)
        }
        Err(errno) => WriteNow::Ended(Err(errno)),
    }
}

/// The transfer itself, here: on a file system that is memory.
fn copy(submission: &Submission, direction: Direction) -> Outcome {
    let aiocb = submission.aiocb;
    files::transfer(direction, aiocb.fildes(), aiocb.buffer(), aiocb.offset())
}

fn sync(engine: &'static Engine, submission: &Submission) -> Result<(), Errno> {
    let handle = new_request(engine, submission, 0)?;
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

/// What is wrong with a transfer from the start; else the descriptor's flags.
fn check_transfer(aiocb: AiocbRef, direction: Direction) -> Result<c_int, Errno> {
    let flags = files::status_flags(aiocb.fildes())?;
    let wrong = match direction {
        Direction::Read => libc::O_WRONLY,
        Direction::Write => libc::O_RDONLY,
    };
    if flags & libc::O_ACCMODE == wrong || flags & libc::O_PATH != 0 {
        return Err(Errno::BADF);
    }
    if aiocb.offset() < 0 || aiocb.buffer().bytes > isize::MAX as usize {
        return Err(Errno::INVAL);
    }
    Ok(flags)
}

fn is_seekable(fd: c_int) -> Result<bool, Errno> {
    Ok(matches!(files::status(fd)?.kind, libc::S_IFREG | libc::S_IFBLK | libc::S_IFDIR))
}

/// A request slot for the submission: `SUBMITTING`, findable from the aiocb.
fn new_request(engine: &'static Engine, submission: &Submission, flags: c_int) -> Result<Handle, Errno> {
    let number = engine.take_request().ok_or(Errno::AGAIN)?;
    let request = engine.request(number);
    let handle = request.begin(number, submission.aiocb, submission.operation);
    request.priority.set(submission.aiocb.reqprio() as u32);
    request.batch.set(submission.batch);
    if flags & libc::O_NONBLOCK != 0 {
        request.add(flag::NONBLOCK);
    }
    submission.notice.store(request);
    if submission.notice != Notice::None {
        owe_request(engine, request);
    }
    submission.aiocb.attach(handle);
    Ok(handle)
}

/// Complete before the call returns. Without notification or batch no request was ever needed.
fn ended(engine: &'static Engine, submission: &Submission, outcome: Outcome) -> Way {
    if submission.notice == Notice::None && submission.batch == 0 {
        submission.aiocb.finish(outcome);
        return Ok(None);
    }
    let handle = new_carrier(engine, submission)?;
    complete(engine, &Blocked::new(), number_of(handle), outcome);
    Ok(None)
}

fn new_carrier(engine: &'static Engine, submission: &Submission) -> Result<Handle, Errno> {
    let number = engine.take_request().ok_or(Errno::AGAIN)?;
    let request: &Request = engine.request(number);
    let handle = request.begin(number, submission.aiocb, submission.operation);
    request.batch.set(submission.batch);
    submission.notice.store(request);
    Ok(handle)
}
