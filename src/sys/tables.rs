//! System calls on descriptor tables: leaving the shared one, and copying out of it.

use super::files::path_of;
use super::raw::syscall;
use crate::errno::Errno;
use core::sync::atomic::{AtomicBool, Ordering};
use libc::c_int;

/// `SYS_pidfd_open`, `SYS_pidfd_getfd`, `SYS_close_range`: the same numbers on every architecture.
const PIDFD_OPEN: libc::c_long = 434;
const PIDFD_GETFD: libc::c_long = 438;
const CLOSE_RANGE: libc::c_long = 436;
/// `PIDFD_THREAD` (Linux 6.9): a thread that is no group leader.
const PIDFD_THREAD: usize = libc::O_EXCL as usize;
const CLOSE_RANGE_UNSHARE: usize = 1 << 1;

/// The kernel is older than PIDFD_THREAD. Relaxed: it guards nothing, and is as true in a forked child.
static FIRST_THREADS_ONLY: AtomicBool = AtomicBool::new(false);

/// `pidfd_open(2)`: this process through its thread `thread`, which lives though the first thread may
/// have ended; before Linux 6.9 through the first thread. ESRCH: `thread` has ended.
pub fn open_process(thread: c_int) -> Result<c_int, Errno> {
    if thread == 0 {
        return Err(Errno::SRCH);
    }
    // SAFETY: no pointer is passed.
    let by_thread = unsafe { syscall(PIDFD_OPEN, [thread as usize, PIDFD_THREAD, 0, 0, 0, 0]) };
    let opened = match by_thread {
        Err(Errno::INVAL) => {
            FIRST_THREADS_ONLY.store(true, Ordering::Relaxed);
            // SAFETY: getpid touches nothing; no pointer is passed.
            unsafe {
                syscall(libc::SYS_getpid, [0; 6]).and_then(|pid| syscall(PIDFD_OPEN, [pid, 0, 0, 0, 0, 0]))
            }
        }
        by_thread => by_thread,
    };
    opened.map(|fd| fd as c_int)
}

/// `pidfd_getfd(2)`: a copy in the calling thread's table of `fd` in the other's.
pub fn copy_descriptor(process: c_int, fd: c_int) -> Result<c_int, Errno> {
    // SAFETY: no pointer is passed.
    unsafe { syscall(PIDFD_GETFD, [process as usize, fd as usize, 0, 0, 0, 0]) }.map(|fd| fd as c_int)
}

/// `kcmp(2)`, KCMP_FILE: whether `fd` of the calling thread's table and `other` of `thread`'s are one open file
/// description. False also where the kernel does not say.
pub fn is_same_description(fd: c_int, thread: c_int, other: c_int) -> bool {
    const KCMP_FILE: usize = 0;
    // SAFETY: no pointer is passed.
    let compared = unsafe {
        let own = syscall(libc::SYS_gettid, [0; 6]).unwrap_or(0);
        syscall(libc::SYS_kcmp, [own, thread as usize, KCMP_FILE, fd as usize, other as usize, 0])
    };
    compared == Ok(0)
}

/// Whether what `open_process` answered leads to the table of `thread`, which shares the program's. Before Linux 6.9 it
/// does not when the first thread has ended, and pidfd_getfd says EBADF of all there is.
pub fn reaches_table_of(thread: c_int) -> bool {
    const KCMP_FILES: usize = 2;
    if !FIRST_THREADS_ONLY.load(Ordering::Relaxed) {
        return true;
    }
    // SAFETY: no pointer is passed.
    let compared = unsafe {
        let first = syscall(libc::SYS_getpid, [0; 6]).unwrap_or(0);
        syscall(libc::SYS_kcmp, [thread as usize, first, KCMP_FILES, 0, 0, 0])
    };
    compared == Ok(0)
}

/// Whether the kernel knows the calls that copy descriptors, and no seccomp filter refuses them: it finds fault with
/// their arguments then. Asked before the shared table is left for good, and so without opening anything there: threads of one
/// process need no further permission (ptrace(2), "Ptrace access mode checking").
pub fn may_copy_descriptors() -> bool {
    const NONE: usize = usize::MAX;
    // SAFETY: no pointer is passed.
    let (opened, copied) =
        unsafe { (syscall(PIDFD_OPEN, [NONE, 0, 0, 0, 0, 0]), syscall(PIDFD_GETFD, [NONE, 0, 0, 0, 0, 0])) };
    opened == Err(Errno::INVAL) && copied == Err(Errno::BADF)
}

/// `close_range(2)` with CLOSE_RANGE_UNSHARE over everything: the calling thread has an empty table of its own.
pub fn leave_shared_table() -> Result<(), Errno> {
    // SAFETY: the calling thread is a helper, which uses none of the program's descriptors by number.
    unsafe { syscall(CLOSE_RANGE, [0, u32::MAX as usize, CLOSE_RANGE_UNSHARE, 0, 0, 0]) }.map(|_| ())
}

/// Opens what `fd` of the calling thread's table is open on once more.
pub fn reopen(fd: c_int, flags: c_int) -> Result<c_int, Errno> {
    let path = path_of(fd);
    let arguments =
        [libc::AT_FDCWD as usize, path.as_ptr() as usize, (flags | libc::O_CLOEXEC) as usize, 0, 0, 0];
    // SAFETY: a NUL-terminated path.
    unsafe { syscall(libc::SYS_openat, arguments) }.map(|fd| fd as c_int)
}
