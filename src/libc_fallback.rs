//! libc's own implementation, for processes to which the kernel refuses a context.
//!
//! Decided once per process (`process`). From then on every call that submits, waits or cancels goes
//! to the next definition of its name, which a preloaded or linked library finds behind itself.
//! `aio_error` and `aio_return` read the aiocb, whose status and return value lie where libc puts them.

use crate::abi::{Aiocb, Sigevent};
use crate::errno::Errno;
use crate::notify::SIGEV_AIO_EVENTFD;
use crate::observe;
use crate::request::Operation;
use core::ffi::CStr;
use libc::{c_int, timespec};
use once_cell::race::OnceNonZeroUsize;

/// One function of libc's, looked up at its first use.
struct Next {
    name: &'static CStr,
    address: OnceNonZeroUsize,
}

impl Next {
    const fn new(name: &'static CStr) -> Next {
        Next { name, address: OnceNonZeroUsize::new() }
    }

    /// ENOSYS: there is none (a C library without AIO).
    fn find(&self) -> Result<usize, Errno> {
        let look = || {
            // SAFETY: a NUL-terminated name.
            let address = unsafe { libc::dlsym(libc::RTLD_NEXT, self.name.as_ptr()) };
            core::num::NonZeroUsize::new(address as usize).ok_or(Errno::NOSYS)
        };
        self.address.get_or_try_init(look).map(core::num::NonZeroUsize::get)
    }
}

/// Finds everything now, outside of any signal handler: aio_suspend may be called in one later.
pub fn prepare() {
    for next in [&READ, &WRITE, &FSYNC, &SUSPEND, &CANCEL, &LISTIO] {
        let _ = next.find();
    }
}

static READ: Next = Next::new(c"aio_read");
static WRITE: Next = Next::new(c"aio_write");
static FSYNC: Next = Next::new(c"aio_fsync");
static SUSPEND: Next = Next::new(c"aio_suspend");
static CANCEL: Next = Next::new(c"aio_cancel");
static LISTIO: Next = Next::new(c"lio_listio");

/// Without an implementation behind us: -1 and ENOSYS.
fn call(found: Result<usize, Errno>, with: impl FnOnce(usize) -> c_int) -> c_int {
    match found {
        Ok(address) => with(address),
        Err(errno) => {
            errno.publish();
            -1
        }
    }
}

/// # Safety
/// As `aio_read`.
pub unsafe fn read(aiocb: *mut Aiocb) -> c_int {
    observe::fell_back(Operation::Read, aiocb);
    // SAFETY: libc's function of that name and type; the arguments are our caller's.
    call(READ.find(), |f| unsafe {
        core::mem::transmute::<usize, extern "C" fn(*mut Aiocb) -> c_int>(f)(aiocb)
    })
}

/// # Safety
/// As `aio_write`.
pub unsafe fn write(aiocb: *mut Aiocb) -> c_int {
    observe::fell_back(Operation::Write, aiocb);
    // SAFETY: as in `read`.
    call(WRITE.find(), |f| unsafe {
        core::mem::transmute::<usize, extern "C" fn(*mut Aiocb) -> c_int>(f)(aiocb)
    })
}

/// # Safety
/// As `aio_fsync`.
pub unsafe fn sync(aiocb: *mut Aiocb) -> c_int {
    // SAFETY: this function's own contract.
    unsafe { fsync(libc::O_SYNC, aiocb) }
}

/// # Safety
/// As `aio_fsync`.
pub unsafe fn data_sync(aiocb: *mut Aiocb) -> c_int {
    // SAFETY: this function's own contract.
    unsafe { fsync(libc::O_DSYNC, aiocb) }
}

unsafe fn fsync(operation: c_int, aiocb: *mut Aiocb) -> c_int {
    type Function = extern "C" fn(c_int, *mut Aiocb) -> c_int;
    observe::fell_back(if operation == libc::O_SYNC { Operation::Sync } else { Operation::DataSync }, aiocb);
    // SAFETY: as in `read`.
    call(FSYNC.find(), |f| unsafe { core::mem::transmute::<usize, Function>(f)(operation, aiocb) })
}

/// # Safety
/// As `aio_suspend`.
pub unsafe fn suspend(list: *const *const Aiocb, count: c_int, timeout: *const timespec) -> c_int {
    type Function = extern "C" fn(*const *const Aiocb, c_int, *const timespec) -> c_int;
    match SUSPEND.find() {
        // SAFETY: as in `read`; a cancellation point, so without a closure's frame.
        Ok(f) => unsafe { core::mem::transmute::<usize, Function>(f)(list, count, timeout) },
        Err(errno) => {
            errno.publish();
            -1
        }
    }
}

/// # Safety
/// As `aio_cancel`.
pub unsafe fn cancel(fd: c_int, aiocb: *mut Aiocb) -> c_int {
    type Function = extern "C" fn(c_int, *mut Aiocb) -> c_int;
    // SAFETY: as in `read`.
    call(CANCEL.find(), |f| unsafe { core::mem::transmute::<usize, Function>(f)(fd, aiocb) })
}

/// # Safety
/// As `lio_listio`.
pub unsafe fn listio(mode: c_int, list: *const *const Aiocb, count: c_int, notice: *const Sigevent) -> c_int {
    type Function = extern "C" fn(c_int, *const *const Aiocb, c_int, *const Sigevent) -> c_int;
    for at in 0..count as usize {
        // SAFETY: `count` entries by our caller's contract, each NULL or valid.
        let Some(aiocb) = (unsafe { (*list.add(at)).as_ref() }) else {
            continue;
        };
        if aiocb.aio_lio_opcode != libc::LIO_NOP && aiocb.aio_sigevent.notify == SIGEV_AIO_EVENTFD {
            // libc would tell nobody. Nothing was started.
            return call(Err(Errno::NOSYS), |_| 0);
        }
        match aiocb.aio_lio_opcode {
            libc::LIO_READ => observe::fell_back(Operation::Read, aiocb),
            libc::LIO_WRITE => observe::fell_back(Operation::Write, aiocb),
            _ => {}
        }
    }
    match LISTIO.find() {
        // SAFETY: as in `suspend`.
        Ok(f) => unsafe { core::mem::transmute::<usize, Function>(f)(mode, list, count, notice) },
        Err(errno) => {
            errno.publish();
            -1
        }
    }
}
