//! The exports: contract, parse, one call, one conversion. Their comments become the header's.

use crate::abi::{Aiocb, AiocbRef, Aioinit, Sigevent};
use crate::cancel::{cancel_all, cancel_one};
use crate::errno::Errno;
use crate::finished;
use crate::goal::Goal;
use crate::libc_fallback;
use crate::lio::{self, LIO_VECTORED};
use crate::notify::Notice;
use crate::process::{self, decided, service, Service};
use crate::reap;
use crate::request::Operation;
use crate::submission::{check, notify_at_once, Form, Submission};
use crate::submit::submit;
use crate::sys::files;
use crate::told;
use crate::wait::{deadline_in, next_finished, suspend};
use crate::worklist;
use libc::{c_int, ssize_t, timespec};

/// 0, or -1 with `errno`.
fn answer(result: Result<(), Errno>) -> c_int {
    match result {
        Ok(()) => 0,
        Err(errno) => {
            errno.publish();
            -1
        }
    }
}

/// What a submitting call asks for, besides what its aiocb says.
struct Call {
    operation: Operation,
    form: Form,
    /// Put into `aio_lio_opcode`.
    opcode: c_int,
    /// The same of libc's own, where there is one.
    libc: Option<unsafe fn(*mut Aiocb) -> c_int>,
}

/// A submitting call: checks, and hands the request to the engine or to libc.
///
/// # Safety
/// As `aio_read`.
unsafe fn start(aiocb: *mut Aiocb, call: &Call) -> c_int {
    // SAFETY: this function's own contract.
    let Some(request) = (unsafe { AiocbRef::new(aiocb) }) else {
        return answer(Err(Errno::INVAL));
    };
    let notice = match check(request, call.operation) {
        Ok(notice) => notice,
        Err(errno) => return answer(Err(errno)),
    };
    match (service(), call.libc) {
        (Ok(Service::Engine(engine)), _) => {
            request.set_opcode(call.opcode);
            let (operation, form) = (call.operation, call.form);
            answer(submit(engine, &mut Submission::new(engine, request, operation, notice, 0, form)))
        }
        // SAFETY: this function's own contract.
        (Ok(Service::Libc), Some(libc)) if !notice.is_ours() => unsafe { libc(aiocb) },
        (Ok(Service::Libc), _) => answer(Err(Errno::NOSYS)),
        (Err(errno), _) => answer(Err(errno)),
    }
}

const PLAIN: Form = Form { vectored: false, at_position: false };
const VECTORED: Form = Form { vectored: true, at_position: false };

/// Starts reading `aio_nbytes` bytes at `aio_offset` of the file `aio_fildes` into `aio_buf`, and
/// returns without waiting for it, whatever the descriptor is.
///
/// The aiocb and the buffer belong to the library until `aio_error` of the aiocb is not EINPROGRESS.
/// The descriptor may be closed meanwhile: a request that has started finishes on its file, one that
/// has not ends with ECANCELED. Pipes, sockets and terminals are read at their position, in the order
/// of the calls. `aio_lio_opcode` is ignored, and set.
///
/// Returns 0, or -1 with errno: EINVAL, `aio_reqprio` is not in 0..20 or the signal number is not in
/// 0..SIGRTMAX (the aiocb then holds EINVAL too); EAGAIN, memory or threads are out. What is wrong
/// with the descriptor, the offset or the buffer is the request's error: `aio_error` tells, after
/// the notification that was asked for. Not async-signal-safe. POSIX.1-2017 aio_read.
///
/// # Safety
/// `aiocb` is NULL (EINVAL) or valid, and it and its buffer stay so until the request is complete.
///
/// cbindgen:postfix=AIO_POSIX_NOTHROW
#[no_mangle]
pub unsafe extern "C" fn aio_read(aiocb: *mut Aiocb) -> c_int {
    let (operation, opcode) = (Operation::Read, libc::LIO_READ);
    let call = Call { operation, form: PLAIN, opcode, libc: Some(libc_fallback::read) };
    // SAFETY: this function's own contract.
    unsafe { start(aiocb, &call) }
}

/// Starts writing `aio_nbytes` bytes from `aio_buf` at `aio_offset` of the file `aio_fildes`, and
/// returns without waiting for it, whatever the descriptor is.
///
/// As `aio_read`, and: writes to a file opened with O_APPEND, and to what cannot seek, take effect in
/// the order of the calls. A blocking descriptor takes all of a request before the next one; one with
/// O_NONBLOCK what it can at once, or EAGAIN. EPIPE sends no SIGPIPE, and a write over RLIMIT_FSIZE
/// (EFBIG) no SIGXFSZ. POSIX.1-2017 aio_write.
///
/// # Safety
/// As `aio_read`.
///
/// cbindgen:postfix=AIO_POSIX_NOTHROW
#[no_mangle]
pub unsafe extern "C" fn aio_write(aiocb: *mut Aiocb) -> c_int {
    let (operation, opcode) = (Operation::Write, libc::LIO_WRITE);
    let call = Call { operation, form: PLAIN, opcode, libc: Some(libc_fallback::write) };
    // SAFETY: this function's own contract.
    unsafe { start(aiocb, &call) }
}

/// Starts a synchronisation of the file `aio_fildes` with its device, as fsync(2) for `op` O_SYNC, as
/// fdatasync(2) for O_DSYNC, and returns without waiting for it.
///
/// It covers every write of the file that was queued before this call, through any descriptor: it
/// completes after them, and if one of them failed, with that one's error. Later writes are not held
/// up. The descriptor may be open for reading only.
///
/// Returns 0, or -1 with errno: EINVAL, `op` is neither; EBADF, `aio_fildes` is not open; both leave the
/// aiocb as it was. EINVAL for the signal number, and EAGAIN, as `aio_read`; `aio_reqprio` is ignored. Not async-signal-safe.
/// POSIX.1-2017 aio_fsync.
///
/// # Safety
/// As `aio_read`; there is no buffer.
///
/// cbindgen:postfix=AIO_POSIX_NOTHROW
#[no_mangle]
pub unsafe extern "C" fn aio_fsync(op: c_int, aiocb: *mut Aiocb) -> c_int {
    // SAFETY: this function's own contract.
    let Some(request) = (unsafe { AiocbRef::new(aiocb) }) else {
        return answer(Err(Errno::INVAL));
    };
    let operation = match op {
        libc::O_SYNC => Operation::Sync,
        libc::O_DSYNC => Operation::DataSync,
        _ => return answer(Err(Errno::INVAL)),
    };
    if let Err(errno) = files::status_flags(request.fildes()) {
        return answer(Err(errno));
    }
    // glibc's own numbers for the two, beyond LIO_NOP.
    let (opcode, libc): (_, unsafe fn(*mut Aiocb) -> c_int) = match operation {
        Operation::Sync => (4, libc_fallback::sync),
        _ => (3, libc_fallback::data_sync),
    };
    // SAFETY: this function's own contract.
    unsafe { start(aiocb, &Call { operation, form: PLAIN, opcode, libc: Some(libc) }) }
}

/// The state of a request: EINPROGRESS, 0 when it succeeded, or its error number (ECANCELED when it was
/// cancelled, and in a forked child for what its parent had in flight).
///
/// Once it is not EINPROGRESS the library never touches the aiocb or its buffer again. It may be asked as
/// often as one likes, also after `aio_return`. It takes completions out of the kernel's ring when some
/// are there, and never waits. Async-signal-safe; errno is left alone. POSIX.1-2017 aio_error.
///
/// # Safety
/// `aiocb` is valid, and was submitted.
///
/// cbindgen:postfix=AIO_POSIX_NOTHROW
#[no_mangle]
pub unsafe extern "C" fn aio_error(aiocb: *const Aiocb) -> c_int {
    // SAFETY: this function's own contract.
    let Some(request) = (unsafe { AiocbRef::new(aiocb) }) else {
        return libc::EINVAL;
    };
    match request.status() {
        libc::EINPROGRESS => status_now(request),
        status => status,
    }
}

/// The status of what was in progress when it was last looked at. Apart, so that who asks again pays for nothing.
#[inline(never)]
fn status_now(request: AiocbRef) -> c_int {
    match decided() {
        Some(Service::Engine(engine)) if request.epoch() == engine.epoch => {
            reap::reap_if_any(engine);
            if request.in_progress() {
                told::see(engine, request);
                worklist::asked(engine);
            }
            request.status()
        }
        Some(Service::Libc) => request.status(),
        // A parent's request, in its child.
        _ => libc::ECANCELED,
    }
}

/// The result of a complete request: what read(2), write(2) or fsync(2) would have returned; -1 when it
/// failed (`aio_error` tells why) or is not complete.
///
/// Unlike POSIX demands of the caller, it may be asked more than once, or never: nothing leaks.
/// Async-signal-safe; errno is left alone. POSIX.1-2017 aio_return.
///
/// # Safety
/// `aiocb` is valid, and was submitted.
///
/// cbindgen:postfix=AIO_POSIX_NOTHROW
#[no_mangle]
pub unsafe extern "C" fn aio_return(aiocb: *mut Aiocb) -> ssize_t {
    // SAFETY: this function's own contract.
    match unsafe { AiocbRef::new(aiocb) } {
        // -1: in progress, or in a child of who submitted it.
        Some(request) => {
            // An eventfd may have told of it before anybody looked.
            if request.in_progress() {
                status_now(request);
                if request.in_progress() {
                    return -1;
                }
            }
            if request.record() != 0 {
                forget(request);
            }
            request.returned() as ssize_t
        }
        None => {
            Errno::INVAL.publish();
            -1
        }
    }
}

#[inline(never)]
fn forget(request: AiocbRef) {
    if let Some(Service::Engine(engine)) = decided() {
        finished::forget(engine, request);
    }
}

/// Waits until at least one of the `nent` requests in `list` is complete; NULL entries are ignored.
///
/// Returns 0 at once when one is complete already, or when there is nothing to wait for. Else -1 with
/// errno: EAGAIN, `timeout` (NULL: none) passed, by CLOCK_MONOTONIC; EINTR, a signal handler ran (without a
/// time-out and with SA_RESTART on every handler of the program, the wait goes on instead); EINVAL, `nent`
/// is negative or `timeout` is no time. While it waits it may carry out requests of the list itself.
/// A cancellation point. Async-signal-safe, wherever in the library the handler struck; errno is left alone
/// on success. POSIX.1-2017 aio_suspend.
///
/// # Safety
/// `list` has `nent` entries, each NULL or a valid aiocb; `timeout` is NULL or valid.
#[no_mangle]
pub unsafe extern "C" fn aio_suspend(
    list: *const *const Aiocb,
    nent: c_int,
    timeout: *const timespec,
) -> c_int {
    // SAFETY: NULL or valid by this function's contract.
    let timeout = unsafe { timeout.as_ref() };
    if nent < 0 || timeout.is_some_and(is_no_time) || list.is_null() && nent != 0 {
        return answer(Err(Errno::INVAL));
    }
    match decided() {
        Some(Service::Engine(engine)) => {
            // SAFETY: this function's own contract.
            let goal = unsafe { Goal::one_of(list, nent as usize) };
            let deadline = timeout.map(deadline_in);
            answer(suspend(engine, goal, deadline.as_ref()))
        }
        // SAFETY: this function's own contract.
        Some(Service::Libc) => unsafe {
            libc_fallback::suspend(list, nent, timeout.map_or(core::ptr::null(), core::ptr::from_ref))
        },
        // Nothing was ever submitted here.
        None => 0,
    }
}

/// Cancels one request of the descriptor `fd`, or with a NULL `aiocb` all that can be.
///
/// Returns AIO_CANCELED: what was asked for is cancelled; it completed with ECANCELED, its notification was sent,
/// and it took no data from a pipe or socket. AIO_NOTCANCELED: at least one is under way and goes on.
/// AIO_ALLDONE: all were complete already. -1 with errno: EBADF, `fd` is not open; EINVAL, the aiocb has
/// another descriptor, or is in progress but unknown. What the kernel has started cannot be
/// cancelled; what waits in the library, or for data of a pipe, socket or terminal, can.
/// Not async-signal-safe. POSIX.1-2017 aio_cancel.
///
/// # Safety
/// `aiocb` is NULL or valid.
///
/// cbindgen:postfix=AIO_POSIX_NOTHROW
#[no_mangle]
pub unsafe extern "C" fn aio_cancel(fd: c_int, aiocb: *mut Aiocb) -> c_int {
    // SAFETY: this function's own contract.
    let request = unsafe { AiocbRef::new(aiocb) };
    if let Err(errno) = files::status_flags(fd) {
        return answer(Err(errno));
    }
    let cancelled = match (decided(), request) {
        (Some(Service::Engine(engine)), Some(request)) => cancel_one(engine, fd, request),
        (Some(Service::Engine(engine)), None) => Ok(cancel_all(engine, fd)),
        // SAFETY: this function's own contract.
        (Some(Service::Libc), _) => return unsafe { libc_fallback::cancel(fd, aiocb) },
        (None, Some(request)) if request.fildes() != fd => Err(Errno::INVAL),
        (None, _) => Ok(crate::cancel::Answer::AllDone),
    };
    match cancelled {
        Ok(answer) => answer as c_int,
        Err(errno) => answer(Err(errno)),
    }
}

/// Submits the `nent` requests of `list`, each LIO_READ, LIO_WRITE, LIO_READV, LIO_WRITEV or LIO_NOP by its `aio_lio_opcode`, the
/// first four also with LIO_FOFFSET (`aio_read2`); NULL and LIO_NOP entries are skipped. Where the files allow it they
/// reach the kernel in one system call.
///
/// LIO_WAIT: waits until all are complete. 0, or -1 with errno: EIO, at least one failed (`aio_error` tells which);
/// EINTR, a signal handler ran, as in `aio_suspend`; the requests go on. A cancellation point: C++ calls it with
/// cancellation disabled, as <aio.h> declares that it throws nothing.
/// LIO_NOWAIT: returns at once; `sig` (NULL: nothing) is notified once, after the last of them, besides what each
/// asks for itself; with no request at all, at once. -1 with EINVAL or EAGAIN when an element could not be
/// submitted; the others go on.
/// EINVAL: `mode` is neither, `nent` is negative, or the signal number of `sig` is out of range: nothing starts.
/// `list` and `sig` may be reused when the call returns. Not async-signal-safe. POSIX.1-2017 lio_listio.
///
/// # Safety
/// `list` has `nent` entries, each NULL or as `aio_read` demands; `sig` is NULL or valid.
///
/// cbindgen:postfix=AIO_POSIX_NOTHROW
#[no_mangle]
pub unsafe extern "C" fn lio_listio(
    mode: c_int,
    list: *const *mut Aiocb,
    nent: c_int,
    sig: *mut Sigevent,
) -> c_int {
    if !matches!(mode, libc::LIO_WAIT | libc::LIO_NOWAIT) || nent < 0 || list.is_null() && nent != 0 {
        return answer(Err(Errno::INVAL));
    }
    let list = list.cast::<*const Aiocb>();
    // SAFETY: NULL or valid by this function's contract.
    let notice = match (mode, unsafe { sig.as_ref() }) {
        (libc::LIO_NOWAIT, Some(sigevent)) => match Notice::parse(sigevent) {
            Ok(notice) => notice,
            Err(errno) => return answer(Err(errno)),
        },
        _ => Notice::None,
    };
    if nent == 0 && notice == Notice::None {
        return 0;
    }
    match (service(), mode) {
        (Ok(Service::Engine(engine)), _) if nent == 0 => answer(notify_at_once(engine, notice)),
        (Ok(Service::Engine(engine)), libc::LIO_WAIT) => {
            // SAFETY: this function's own contract.
            answer(unsafe { lio::run_and_wait(engine, list, nent as usize) })
        }
        (Ok(Service::Engine(engine)), _) => {
            // SAFETY: this function's own contract.
            answer(unsafe { lio::run(engine, list, nent as usize, notice) })
        }
        (Ok(Service::Libc), _) if notice.is_ours() => answer(Err(Errno::NOSYS)),
        // SAFETY: this function's own contract.
        (Ok(Service::Libc), _) => unsafe { libc_fallback::listio(mode, list, nent, sig) },
        (Err(errno), _) => {
            // SAFETY: this function's own contract.
            unsafe { lio::refuse_list(list, nent as usize, errno) };
            answer(Err(errno))
        }
    }
}

/// Hints, taken before the first request: `aio_threads`, the most helper threads (2 to 64); `aio_num`, requests in
/// flight for which the kernel's context is made. Ignored afterwards. The variables AIO_POSIX_THREADS
/// and AIO_POSIX_EVENTS say the same for who runs the program, and go before it. A GNU extension. Not async-signal-safe.
///
/// # Safety
/// `hints` is NULL (ignored) or valid.
///
/// cbindgen:postfix=AIO_POSIX_NOTHROW
#[cfg(target_os = "linux")]
#[no_mangle]
pub unsafe extern "C" fn aio_init(hints: *const Aioinit) {
    // SAFETY: this function's own contract.
    if let Some(hints) = unsafe { hints.as_ref() } {
        process::hint(hints.aio_threads, hints.aio_num);
    }
}

/// As `aio_read`, into the `aio_iovcnt` buffers of the array `aio_iov`, one after the other: other names of
/// `aio_nbytes` and `aio_buf`.
///
/// The array is copied: it may be reused when the call returns; the buffers may not. -1 with errno as `aio_read`,
/// and EINVAL: more than IOV_MAX (1,024) buffers; EFAULT: `aio_iov` is NULL, and there are buffers; ENOSYS: the kernel refuses a context. A sum over SSIZE_MAX is
/// the request's error, EINVAL. An extension, as in FreeBSD 14.
///
/// # Safety
/// `aiocb` is NULL (EINVAL) or valid; `aio_iov` has `aio_iovcnt` entries; the aiocb and the buffers stay
/// until the request is complete.
///
/// cbindgen:postfix=AIO_POSIX_NOTHROW
#[no_mangle]
pub unsafe extern "C" fn aio_readv(aiocb: *mut Aiocb) -> c_int {
    let call = Call { operation: Operation::Read, form: VECTORED, opcode: LIO_READV, libc: None };
    // SAFETY: this function's own contract.
    unsafe { start(aiocb, &call) }
}

/// As `aio_write`, from the buffers of `aio_iov`: see `aio_readv`. An extension, as in FreeBSD 14.
///
/// # Safety
/// As `aio_readv`.
///
/// cbindgen:postfix=AIO_POSIX_NOTHROW
#[no_mangle]
pub unsafe extern "C" fn aio_writev(aiocb: *mut Aiocb) -> c_int {
    let call = Call { operation: Operation::Write, form: VECTORED, opcode: LIO_WRITEV, libc: None };
    // SAFETY: this function's own contract.
    unsafe { start(aiocb, &call) }
}

/// As `aio_read`, with `flags`: AIO_OP2_VECTORED, as `aio_readv`; AIO_OP2_FOFFSET, at the descriptor's own position,
/// which moves as read(2) moves it, while `aio_offset` is ignored.
///
/// Transfers of one file at its descriptors' positions run one after the other, in the order of the calls, reads and
/// writes together. -1 with EINVAL: another flag; else as `aio_readv`. An extension, as in FreeBSD 14.
///
/// # Safety
/// As `aio_read`, or `aio_readv`.
///
/// cbindgen:postfix=AIO_POSIX_NOTHROW
#[no_mangle]
pub unsafe extern "C" fn aio_read2(aiocb: *mut Aiocb, flags: c_int) -> c_int {
    let Some(form) = form_of(flags) else {
        return answer(Err(Errno::INVAL));
    };
    let opcode = if form.vectored { LIO_READV } else { libc::LIO_READ };
    // SAFETY: this function's own contract.
    unsafe { start(aiocb, &Call { operation: Operation::Read, form, opcode, libc: None }) }
}

/// As `aio_write`, with `flags` as in `aio_read2`. With O_APPEND the data go to the end of the file whatever the
/// descriptor's position is. An extension, as in FreeBSD 14.
///
/// # Safety
/// As `aio_read2`.
///
/// cbindgen:postfix=AIO_POSIX_NOTHROW
#[no_mangle]
pub unsafe extern "C" fn aio_write2(aiocb: *mut Aiocb, flags: c_int) -> c_int {
    let Some(form) = form_of(flags) else {
        return answer(Err(Errno::INVAL));
    };
    let opcode = if form.vectored { LIO_WRITEV } else { libc::LIO_WRITE };
    // SAFETY: this function's own contract.
    unsafe { start(aiocb, &Call { operation: Operation::Write, form, opcode, libc: None }) }
}

/// Locks the `aio_nbytes` bytes at `aio_buf` into memory, as mlock(2) does, and returns without waiting for their
/// pages to be read in. `aio_fildes` and `aio_offset` are ignored, but `aio_cancel` knows the request by the former.
///
/// -1 with errno as `aio_read`, and ENOSYS: the kernel refuses a context. What mlock(2) fails with (ENOMEM, EPERM,
/// EAGAIN) is the request's error. An extension, as in FreeBSD 14.
///
/// # Safety
/// `aiocb` is NULL (EINVAL) or valid until the request is complete.
///
/// cbindgen:postfix=AIO_POSIX_NOTHROW
#[no_mangle]
pub unsafe extern "C" fn aio_mlock(aiocb: *mut Aiocb) -> c_int {
    let call = Call { operation: Operation::Lock, form: PLAIN, opcode: LIO_MLOCK, libc: None };
    // SAFETY: this function's own contract.
    unsafe { start(aiocb, &call) }
}

/// Waits for the next complete request of the process that nobody has returned yet, puts its aiocb's address into
/// `*aiocbp`, and returns its result: it stands for `aio_return` too.
///
/// It serves requests in the order of their completion; each goes to one caller, and one whose result `aio_return` has
/// given to none. `timeout`: NULL waits for ever, zero does not wait. -1 with `*aiocbp` set and errno the request's
/// error when the request failed; -1 with `*aiocbp` NULL and errno: EAGAIN (EWOULDBLOCK), the time passed, or the process has
/// never used AIO; EINTR, as in `aio_suspend`; EINVAL, `timeout` is no time; EFAULT, `aiocbp` is NULL; ENOSYS, the kernel
/// refuses a context. Requests that were complete before a process's first call are served where the
/// program refers to this function by name, or, if it had one thread when it began to use AIO, a library of its that is
/// linked with this one. A cancellation point.
/// An extension, as in FreeBSD 14.
///
/// # Safety
/// `aiocbp` is NULL or valid for a write; `timeout` is NULL or valid. A program that calls this at all keeps each aiocb
/// until its result was returned by this call or by `aio_return`.
#[no_mangle]
pub unsafe extern "C" fn aio_waitcomplete(aiocbp: *mut *mut Aiocb, timeout: *mut timespec) -> ssize_t {
    // SAFETY: NULL or valid by this function's contract.
    let (Some(place), timeout) = (unsafe { (aiocbp.as_mut(), timeout.as_ref()) }) else {
        return answer(Err(Errno(libc::EFAULT))) as ssize_t;
    };
    *place = core::ptr::null_mut();
    if timeout.is_some_and(is_no_time) {
        return answer(Err(Errno::INVAL)) as ssize_t;
    }
    let finished = match decided() {
        Some(Service::Engine(engine)) => next_finished(engine, timeout),
        Some(Service::Libc) => Err(Errno::NOSYS),
        None => Err(Errno::AGAIN),
    };
    let result = finished.and_then(|(aiocb, outcome)| {
        *place = aiocb as *mut Aiocb;
        outcome
    });
    match result {
        Ok(count) => count as ssize_t,
        Err(errno) => answer(Err(errno)) as ssize_t,
    }
}

const LIO_READV: c_int = LIO_VECTORED | libc::LIO_READ;
const LIO_WRITEV: c_int = LIO_VECTORED | libc::LIO_WRITE;
const LIO_MLOCK: c_int = 0x20;

const AIO_OP2_FOFFSET: c_int = 1;
const AIO_OP2_VECTORED: c_int = 2;

/// `None`: a flag that is not known.
fn form_of(flags: c_int) -> Option<Form> {
    let known = flags & !(AIO_OP2_FOFFSET | AIO_OP2_VECTORED) == 0;
    known.then_some(Form {
        vectored: flags & AIO_OP2_VECTORED != 0,
        at_position: flags & AIO_OP2_FOFFSET != 0,
    })
}

fn is_no_time(time: &timespec) -> bool {
    time.tv_sec < 0 || !(0..1_000_000_000).contains(&time.tv_nsec)
}

/// `aio_read` under its name for large files; `aiocb64` is the same type.
///
/// # Safety
/// As `aio_read`.
///
/// cbindgen:postfix=AIO_POSIX_NOTHROW
#[cfg(target_pointer_width = "64")]
#[no_mangle]
pub unsafe extern "C" fn aio_read64(aiocb: *mut Aiocb64) -> c_int {
    // SAFETY: this function's own contract.
    unsafe { aio_read(aiocb) }
}

/// `aio_write` under its name for large files.
///
/// # Safety
/// As `aio_write`.
///
/// cbindgen:postfix=AIO_POSIX_NOTHROW
#[cfg(target_pointer_width = "64")]
#[no_mangle]
pub unsafe extern "C" fn aio_write64(aiocb: *mut Aiocb64) -> c_int {
    // SAFETY: this function's own contract.
    unsafe { aio_write(aiocb) }
}

/// `aio_fsync` under its name for large files.
///
/// # Safety
/// As `aio_fsync`.
///
/// cbindgen:postfix=AIO_POSIX_NOTHROW
#[cfg(target_pointer_width = "64")]
#[no_mangle]
pub unsafe extern "C" fn aio_fsync64(op: c_int, aiocb: *mut Aiocb64) -> c_int {
    // SAFETY: this function's own contract.
    unsafe { aio_fsync(op, aiocb) }
}

/// `aio_error` under its name for large files.
///
/// # Safety
/// As `aio_error`.
///
/// cbindgen:postfix=AIO_POSIX_NOTHROW
#[cfg(target_pointer_width = "64")]
#[no_mangle]
pub unsafe extern "C" fn aio_error64(aiocb: *const Aiocb64) -> c_int {
    // SAFETY: this function's own contract.
    unsafe { aio_error(aiocb) }
}

/// `aio_return` under its name for large files.
///
/// # Safety
/// As `aio_return`.
///
/// cbindgen:postfix=AIO_POSIX_NOTHROW
#[cfg(target_pointer_width = "64")]
#[no_mangle]
pub unsafe extern "C" fn aio_return64(aiocb: *mut Aiocb64) -> ssize_t {
    // SAFETY: this function's own contract.
    unsafe { aio_return(aiocb) }
}

/// `aio_suspend` under its name for large files.
///
/// # Safety
/// As `aio_suspend`.
#[cfg(target_pointer_width = "64")]
#[no_mangle]
pub unsafe extern "C" fn aio_suspend64(
    list: *const *const Aiocb64,
    nent: c_int,
    timeout: *const timespec,
) -> c_int {
    // SAFETY: this function's own contract.
    unsafe { aio_suspend(list, nent, timeout) }
}

/// `aio_cancel` under its name for large files.
///
/// # Safety
/// As `aio_cancel`.
///
/// cbindgen:postfix=AIO_POSIX_NOTHROW
#[cfg(target_pointer_width = "64")]
#[no_mangle]
pub unsafe extern "C" fn aio_cancel64(fd: c_int, aiocb: *mut Aiocb64) -> c_int {
    // SAFETY: this function's own contract.
    unsafe { aio_cancel(fd, aiocb) }
}

/// `lio_listio` under its name for large files.
///
/// # Safety
/// As `lio_listio`.
///
/// cbindgen:postfix=AIO_POSIX_NOTHROW
#[cfg(target_pointer_width = "64")]
#[no_mangle]
pub unsafe extern "C" fn lio_listio64(
    mode: c_int,
    list: *const *mut Aiocb64,
    nent: c_int,
    sig: *mut Sigevent,
) -> c_int {
    // SAFETY: this function's own contract.
    unsafe { lio_listio(mode, list, nent, sig) }
}

/// `struct aiocb64`: the same type, for the header's sake under its own name.
type Aiocb64 = Aiocb;
