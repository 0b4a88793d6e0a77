//! `Errno`: the one error type, from the first system call to the last line of `capi`.

/// An error number of this platform (`errno(3)`), never 0.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Errno(pub i32);

impl Errno {
    pub const AGAIN: Errno = Errno(libc::EAGAIN);
    pub const BADF: Errno = Errno(libc::EBADF);
    pub const CANCELED: Errno = Errno(libc::ECANCELED);
    pub const INTR: Errno = Errno(libc::EINTR);
    pub const INVAL: Errno = Errno(libc::EINVAL);
    pub const IO: Errno = Errno(libc::EIO);
    pub const ISDIR: Errno = Errno(libc::EISDIR);
    pub const NOSYS: Errno = Errno(libc::ENOSYS);
    pub const OPNOTSUPP: Errno = Errno(libc::EOPNOTSUPP);
    pub const PERM: Errno = Errno(libc::EPERM);
    pub const SPIPE: Errno = Errno(libc::ESPIPE);
    pub const SRCH: Errno = Errno(libc::ESRCH);
    pub const TIMEDOUT: Errno = Errno(libc::ETIMEDOUT);

    /// As the error of a request that was accepted: its descriptor was open then, so that EBADF says that it was closed
    /// since, which cancels the request (POSIX close()).
    pub fn of_accepted(self) -> Errno {
        if self == Errno::BADF {
            Errno::CANCELED
        } else {
            self
        }
    }

    /// Makes this the calling thread's `errno`. Async-signal-safe.
    pub fn publish(self) {
        // SAFETY: glibc and musl guarantee that the address is the calling thread's own `errno`.
        unsafe { *libc::__errno_location() = self.0 };
    }
}

/// What a transfer came to, as the kernel says it: a count, or a negative error number.
pub type Outcome = Result<usize, Errno>;

/// Reads the kernel's convention: `-4095..=-1` is an error number, anything else a count.
pub fn from_kernel(raw: isize) -> Outcome {
    if (-4095..0).contains(&raw) {
        Err(Errno(-raw as i32))
    } else {
        Ok(raw as usize)
    }
}
