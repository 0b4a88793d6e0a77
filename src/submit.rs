//! Submission: which of the ways a request goes (`engine` draws them).
//!
//! Nothing is remembered of a descriptor between calls. `fcntl(F_GETFL)` tells at once what it can
//! do; `statx` is asked only where order or a later start makes it necessary to know the file.

use crate::admission;
use crate::complete::complete;
use crate::direct::Gathered;
use crate::engine::Engine;
use crate::errno::{Errno, Outcome};
use crate::finished;
use crate::lock::Blocked;
use crate::notify::Notice;
use crate::observe;
use crate::order;
use crate::polls;
use crate::pool::Number;
use crate::reap;
use crate::request::{flag, number_of, Operation};
use crate::submission::{ended, new_direct, new_request, Submission, Way};
use crate::sys::files::{self, Direction, Identity};
use crate::wake::{hold, owe_request, settle};
use crate::worklist;
use libc::c_int;

/// Events that may lie in the ring after a submission that added one.
const MOST_LEFT: u32 = 32;

/// Transfers beyond this are a helper's: copying them, or pinning their pages, would hold up the caller.
const MOST_IN_CALLER: usize = 1 << 20;

/// Beyond this a look at where the file lies costs little beside the transfer.
const LARGE: usize = 128 << 10;

/// Read-ahead up to this is cheap to start in the caller; more is started by the helper's own read.
const READ_AHEAD_IN_CALLER: usize = 256 << 10;

/// Submits one request. An error means that it did not start: EAGAIN, memory is out.
pub fn submit(engine: &'static Engine, submission: &mut Submission) -> Result<(), Errno> {
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
    submission: &mut Submission,
    gathered: &mut Gathered<ROOM>,
) -> Result<bool, Errno> {
    let submitted = match (submission.begin(engine), submission.operation) {
        (Err(errno), _) => Err(errno),
        (Ok(()), Operation::Read) => read(engine, submission),
        (Ok(()), Operation::Write) => write(engine, submission),
        (Ok(()), Operation::Sync | Operation::DataSync) => sync(engine, submission).map(|()| None),
        (Ok(()), Operation::Lock) => lock(engine, submission).map(|()| None),
    };
    submission.end(engine);
    // What tells an eventfd leaves an event behind that nobody may ever look for.
    let crowded = matches!(submission.notice, Notice::Eventfd { .. }) && engine.ring.waiting() > MOST_LEFT;
    match submitted {
        Ok(None) => Ok(crowded),
        Ok(Some(handle)) => Ok(gathered.add(engine, handle)),
        Err(errno) => {
            observe::completed_at_once(engine, submission, Err(errno));
            submission.aiocb.refuse(errno);
            Err(errno)
        }
    }
}

/// Ends a request that was never to start, with its notification.
pub fn fail(engine: &'static Engine, submission: &mut Submission, errno: Errno) -> Result<(), Errno> {
    let answer = submission.begin(engine).and_then(|()| ended(engine, submission, Err(errno)).map(|_| ()));
    submission.end(engine);
    answer.inspect_err(|&errno| submission.aiocb.refuse(errno))
}

fn read(engine: &'static Engine, submission: &Submission) -> Way {
    let aiocb = submission.aiocb;
    let (fd, buffer, offset) = (aiocb.fildes(), submission.buffer, submission.offset());
    let flags = match check_transfer(submission, Direction::Read) {
        Ok(flags) => flags,
        Err(errno) => return ended(engine, submission, Err(errno)),
    };
    if submission.form.at_position || !engine.polls.is_empty() && !is_seekable(fd) {
        return by_kind(engine, submission, flags, Errno::AGAIN);
    }
    if buffer.bytes > LARGE {
        let local = files::status(fd).is_ok_and(|status| status.identity.is_on_block_device());
        if buffer.bytes > MOST_IN_CALLER {
            return by_kind(engine, submission, flags, Errno::AGAIN);
        }
        if !local && flags & libc::O_DIRECT == 0 {
            // A try with RWF_NOWAIT starts read-ahead, which on btrfs waits for what tells where the data are.
            return by_kind(engine, submission, flags, Errno::OPNOTSUPP);
        }
    }
    if flags & libc::O_DIRECT != 0 {
        if engine.hints.may_be_memory(fd) && files::is_memory(fd) {
            return ended(engine, submission, copy(submission, Direction::Read));
        }
        return new_direct(engine, submission, flags).map(|(handle, _)| Some(handle));
    }
    match files::transfer_nowait(Direction::Read, fd, buffer, offset) {
        Ok(0) if buffer.bytes == 0 && is_directory(fd) => ended(engine, submission, Err(Errno::ISDIR)),
        // It ended where the cached part does. All of it is read again: the number may be another file's by now, and a read is
        // of one file.
        Ok(count) if count != 0 && count != buffer.bytes && !is_end(fd, offset + count as i64) => {
            by_kind(engine, submission, flags, Errno::AGAIN)
        }
        Err(errno @ (Errno::AGAIN | Errno::OPNOTSUPP | Errno::NOSYS | Errno::SPIPE)) => {
            by_kind(engine, submission, flags, errno)
        }
        outcome => ended(engine, submission, outcome),
    }
}

fn is_directory(fd: c_int) -> bool {
    files::status(fd).is_ok_and(|status| status.kind == libc::S_IFDIR)
}

/// Whether a read that got as far as `offset` and no farther is whole: at the end of a file, or of what anything but a
/// file gives at a time. Devices that give all that is asked for stop short only because they were told not to wait.
fn is_end(fd: c_int, offset: i64) -> bool {
    files::status(fd).is_ok_and(|status| match status.kind {
        libc::S_IFREG => status.size == offset as u64,
        libc::S_IFBLK => false,
        libc::S_IFCHR => !status.is_memory_device(),
        _ => true,
    })
}

/// A read that the page cache could not serve at once: what kind of file is it?
fn by_kind(engine: &'static Engine, submission: &Submission, flags: c_int, why: Errno) -> Way {
    let (fd, bytes) = (submission.aiocb.fildes(), submission.buffer.bytes);
    let status = match files::status(fd) {
        Ok(status) => status,
        Err(errno) => return ended(engine, submission, Err(errno)),
    };
    let memory = why == Errno::OPNOTSUPP && files::is_memory(fd);
    match status.kind {
        libc::S_IFDIR => return ended(engine, submission, Err(Errno::ISDIR)),
        libc::S_IFREG if memory => {
            return ended(engine, submission, copy(submission, Direction::Read));
        }
        _ => {}
    }
    let (handle, request) = new_request(engine, submission, flags, submission.buffer)?;
    let number = number_of(handle);
    request.identify(status.identity);
    let blocked = Blocked::new();
    match status.kind {
        libc::S_IFREG | libc::S_IFBLK if submission.form.at_position => {
            if !at_position(engine, &blocked, number) {
                return forget(engine, number);
            }
        }
        libc::S_IFREG | libc::S_IFBLK => {
            let direct = flags & libc::O_DIRECT != 0;
            // Read-ahead that does not wait itself: on FUSE and on btrfs it was seen to.
            let quick = why == Errno::AGAIN && status.identity.is_on_block_device();
            if quick && bytes <= READ_AHEAD_IN_CALLER && !direct {
                files::read_ahead(fd, request.position(), bytes);
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
            if !polls::enqueue(engine, &blocked, number, true) {
                return forget(engine, number);
            }
        }
    }
    Ok(None)
}

/// Memory is out for what has a slot already, and nothing of it was started.
#[cold]
fn forget(engine: &Engine, number: Number) -> Way {
    if engine.request(number).has(flag::OWED) {
        settle(engine);
    }
    finished::give_back(engine, engine.request(number).record.get());
    engine.free_request(number);
    Err(Errno::AGAIN)
}

/// At a file's own position: one after the other, in the order of the calls, by helpers.
fn at_position(engine: &Engine, blocked: &Blocked, number: Number) -> bool {
    engine.request(number).add(flag::STREAM | flag::BLOCKS | flag::AT_POSITION);
    polls::enqueue(engine, blocked, number, true)
}

fn write(engine: &'static Engine, submission: &Submission) -> Way {
    let aiocb = submission.aiocb;
    let fd = aiocb.fildes();
    let flags = match check_transfer(submission, Direction::Write) {
        Ok(flags) => flags,
        Err(errno) => return ended(engine, submission, Err(errno)),
    };
    let status = match files::status(fd) {
        Ok(status) => status,
        Err(errno) => return ended(engine, submission, Err(errno)),
    };
    let on_file = matches!(status.kind, libc::S_IFREG | libc::S_IFBLK);
    let appends = flags & libc::O_APPEND != 0;
    // What appends goes to the end, whatever the descriptor's position is, as write(2) does.
    let placed = on_file && submission.form.at_position && !appends;
    // A write beyond RLIMIT_FSIZE sends SIGXFSZ to the thread that makes it: not to the caller.
    let here = on_file && !placed && files::file_size_unlimited();
    let direct = here && flags & libc::O_DIRECT != 0 && !appends;
    let mut rest = submission.buffer;
    let small = rest.bytes <= MOST_IN_CALLER;
    // What appends is a record: done in part here and in part by a helper it would have another process's in between. And
    // RWF_NOWAIT does not keep xfs from waiting for the device where O_DSYNC, a part of O_SYNC, asks for it. Memory takes all of
    // it at once.
    let may_wait_or_stop = flags & (libc::O_APPEND | libc::O_DSYNC) != 0 && !files::is_memory(fd);
    let now = here && small && flags & libc::O_DIRECT == 0 && !may_wait_or_stop;
    if now && order::may_write_now(engine, status.identity) {
        match write_now(engine, submission, status.identity) {
            WriteNow::Ended(outcome) => return ended(engine, submission, outcome),
            WriteNow::Partly(count) => rest = rest.after(count),
        }
    }
    let ends = (submission.offset() as u64).saturating_add(rest.bytes as u64);
    let (handle, request) = if direct && small && (status.kind == libc::S_IFBLK || ends <= status.size) {
        new_direct(engine, submission, flags)?
    } else {
        new_request(engine, submission, flags, rest)?
    };
    let number = number_of(handle);
    request.identify(status.identity);
    if here {
        request.add(flag::NO_LIMIT);
    }
    let blocked = Blocked::new();
    if !on_file {
        request.note_kind(status.kind);
        return match polls::enqueue(engine, &blocked, number, true) {
            true => Ok(None),
            false => forget(engine, number),
        };
    }
    let guard = engine.lock.lock(&blocked);
    let Some((at, new)) = order::write_begins(engine, &guard, request) else {
        drop(guard);
        return forget(engine, number);
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
        if !at_position(engine, &blocked, number) {
            // It counts as one of its file's writes already.
            complete(engine, &blocked, number, Err(Errno::AGAIN));
        }
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
    let (aiocb, buffer) = (submission.aiocb, submission.buffer);
    match files::transfer_nowait(Direction::Write, aiocb.fildes(), buffer, submission.offset()) {
        Ok(count) if count == buffer.bytes => WriteNow::Ended(Ok(count)),
        Ok(count) => WriteNow::Partly(count),
        Err(Errno::AGAIN) => WriteNow::Partly(0),
        Err(Errno::OPNOTSUPP) if files::is_memory(aiocb.fildes()) => {
            WriteNow::Ended(copy(submission, Direction::Write))
        }
        // ESPIPE: a file that has no positions (below /proc and /sys).
        Err(Errno::OPNOTSUPP | Errno::NOSYS | Errno::SPIPE) => {
            engine.files.cannot_write_now(identity);
            WriteNow::Partly(0)
        }
        Err(errno) => WriteNow::Ended(Err(errno)),
    }
}

/// The transfer itself, here: on a file system that is memory.
fn copy(submission: &Submission, direction: Direction) -> Outcome {
    let aiocb = submission.aiocb;
    files::transfer(direction, aiocb.fildes(), submission.buffer, submission.offset())
}

fn sync(engine: &'static Engine, submission: &Submission) -> Result<(), Errno> {
    let fd = submission.aiocb.fildes();
    if files::status_flags(fd).is_ok_and(|flags| flags & libc::O_PATH != 0) {
        // Later EBADF would mean that it was closed since.
        return ended(engine, submission, Err(Errno::BADF)).map(|_| ());
    }
    let (handle, request) = new_request(engine, submission, 0, submission.buffer)?;
    let number = number_of(handle);
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
fn lock(engine: &'static Engine, submission: &Submission) -> Result<(), Errno> {
    let (handle, request) = new_request(engine, submission, 0, submission.buffer)?;
    request.identify(Identity::default());
    let blocked = Blocked::new();
    let guard = engine.lock.lock(&blocked);
    worklist::push_errand(engine, &guard, number_of(handle));
    Ok(())
}

/// What is wrong with a transfer from the start; else the descriptor's flags.
fn check_transfer(submission: &Submission, direction: Direction) -> Result<c_int, Errno> {
    let flags = files::status_flags(submission.aiocb.fildes())?;
    let wrong = match direction {
        Direction::Read => libc::O_WRONLY,
        Direction::Write => libc::O_RDONLY,
    };
    // Both bits: open(2)'s mode for ioctl alone.
    let neither = libc::O_WRONLY | libc::O_RDWR;
    if [wrong, neither].contains(&(flags & libc::O_ACCMODE)) || flags & libc::O_PATH != 0 {
        return Err(Errno::BADF);
    }
    if submission.offset() < 0 || submission.buffer.bytes > isize::MAX as usize {
        return Err(Errno::INVAL);
    }
    Ok(flags)
}

/// A descriptor that is just being closed counts as one: what is tried next finds out.
fn is_seekable(fd: c_int) -> bool {
    files::status(fd)
        .map_or(true, |status| matches!(status.kind, libc::S_IFREG | libc::S_IFBLK | libc::S_IFDIR))
}
