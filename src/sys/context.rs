//! The five system calls of kernel AIO, and `io_pgetevents`.

use super::aio_abi::{IoEvent, Iocb};
use super::raw::syscall;
use crate::errno::{Errno, Outcome};
use libc::timespec;

/// A context's id: the address at which the kernel mapped its ring (`aio_context_t`).
pub type ContextId = usize;

/// `io_setup(2)`: a context for at least `events` requests in flight.
/// ENOSYS, EPERM (refused), EAGAIN (fs.aio-max-nr used up), ENOMEM.
pub fn io_setup(events: u32) -> Result<ContextId, Errno> {
    let mut id: ContextId = 0;
    // SAFETY: the kernel writes one word into `id`, which it wants to be 0 beforehand.
    unsafe { syscall(libc::SYS_io_setup, [events as usize, &raw mut id as usize, 0, 0, 0, 0]) }?;
    Ok(id)
}

/// `io_destroy(2)`: waits for what is in flight, then unmaps the ring.
pub fn io_destroy(context: ContextId) -> Result<(), Errno> {
    // SAFETY: no pointer is passed; a bad id is EINVAL.
    unsafe { syscall(libc::SYS_io_destroy, [context, 0, 0, 0, 0, 0]) }.map(|_| ())
}

/// `io_submit(2)`: how many of `iocbs` were accepted; an error speaks of the first.
///
/// # Safety
/// Each iocb is valid, and the buffers that they name stay so until their events are reaped: the
/// caller of `aio_read` and its kin guarantees that of its buffer.
pub unsafe fn io_submit(context: ContextId, iocbs: &mut [*mut Iocb]) -> Outcome {
    through_the_kernel();
    // SAFETY: the slice is a valid array of its length; the rest is our caller's promise.
    unsafe { syscall(libc::SYS_io_submit, [context, iocbs.len(), iocbs.as_mut_ptr() as usize, 0, 0, 0]) }
}

/// `io_cancel(2)`: EINPROGRESS means that it will end, with an event; EINVAL that it can't be cancelled.
pub fn io_cancel(context: ContextId, iocb: *const Iocb) -> Result<(), Errno> {
    let mut event = IoEvent::default();
    let arguments = [context, iocb as usize, &raw mut event as usize, 0, 0, 0];
    // SAFETY: the kernel reads the iocb's key (a bad address is EFAULT) and compares the address.
    unsafe { syscall(libc::SYS_io_cancel, arguments) }.map(|_| ())
}

/// `io_getevents(2)` without waiting: takes what has completed, at most `inbox.len()`.
pub fn io_getevents_now(context: ContextId, inbox: &mut [IoEvent]) -> Outcome {
    let zero = timespec { tv_sec: 0, tv_nsec: 0 };
    let arguments = [context, 0, inbox.len(), inbox.as_mut_ptr() as usize, &raw const zero as usize, 0];
    // SAFETY: the kernel writes at most inbox.len() events into the slice, which lives through the call; no mask.
    unsafe {
        match syscall(libc::SYS_io_getevents, arguments) {
            // By a seccomp filter: io_pgetevents is allowed (`probe`), and does as well.
            Err(Errno::PERM | Errno::NOSYS) => syscall(SYS_IO_PGETEVENTS, arguments),
            taken => taken,
        }
    }
}

/// `SYS_io_pgetevents`, which the libc crate lacks for glibc (asm/unistd.h).
#[cfg(target_arch = "x86_64")]
const SYS_IO_PGETEVENTS: libc::c_long = 333;
#[cfg(target_arch = "aarch64")]
const SYS_IO_PGETEVENTS: libc::c_long = 292;

/// `struct __aio_sigset`: the mask that `io_pgetevents` puts in place while it waits.
#[repr(C)]
struct AioSigset {
    mask: *const u64,
    bytes: usize,
}

/// `io_pgetevents(2)`: waits until one event or more is there, with `mask` in place of the thread's
/// own for just that time. EINTR: a signal handler ran and no event was taken; ETIMEDOUT never: 0.
///
/// # Safety
/// `inbox` is valid for writes of `room` events for as long as the call can last, which, when the
/// thread is cancelled inside, is longer than the calling frame: it must not be on the stack.
#[inline(always)]
pub unsafe fn io_pgetevents(
    context: ContextId,
    inbox: *mut IoEvent,
    room: usize,
    timeout: *const timespec,
    mask: &u64,
) -> Outcome {
    if cfg!(emulated_pgetevents) {
        // For valgrind, which does not know the call (`tests/checkers.rs`): in steps. A signal between them is handled and
        // does not end the wait.
        let before = super::threads::set_mask(*mask);
        let arguments = [context, 1, room, inbox as usize, timeout as usize, 0];
        // SAFETY: the inbox and the time-out are our caller's promise.
        let taken = unsafe { syscall(libc::SYS_io_getevents, arguments) };
        super::threads::set_mask(before);
        return taken;
    }
    let sigset = AioSigset { mask, bytes: size_of::<u64>() };
    let arguments = [context, 1, room, inbox as usize, timeout as usize, &raw const sigset as usize];
    // SAFETY: `mask` and `sigset` are live; the inbox is our caller's promise.
    unsafe { syscall(SYS_IO_PGETEVENTS, arguments) }
}

/// Whatever was done before a submission is seen by who acts on an event that was taken after it: the kernel orders the
/// two. ThreadSanitizer knows nothing of that, and is told by an atomic.
#[inline(always)]
pub fn through_the_kernel() {
    #[cfg(plain_cells)]
    {
        use core::sync::atomic::{AtomicU32, Ordering};
        static KERNEL: AtomicU32 = AtomicU32::new(0);
        KERNEL.fetch_add(1, Ordering::AcqRel);
    }
}

/// Whether the two calls that everything rests on are allowed here: a seccomp filter may know io_setup and not
/// the newer io_pgetevents. Submits nothing and takes nothing.
pub fn probe(context: ContextId) -> Result<(), Errno> {
    let zero = timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: no iocb, no room for events, a live time-out, no mask.
    unsafe {
        match syscall(libc::SYS_io_submit, [context, 0, 0, 0, 0, 0]) {
            // Allowed, but not now.
            Ok(_) | Err(Errno::AGAIN) => {}
            Err(errno) => return Err(errno),
        }
        let taking = if cfg!(emulated_pgetevents) { libc::SYS_io_getevents } else { SYS_IO_PGETEVENTS };
        match syscall(taking, [context, 0, 0, 0, &raw const zero as usize, 0]) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(errno) => return Err(errno),
        }
    }
    Ok(())
}

/// The first two numbers of the kernel's release (`uname(2)`); 0 where they are none.
pub fn linux_release() -> (u32, u32) {
    let mut names = core::mem::MaybeUninit::<libc::utsname>::zeroed();
    // SAFETY: the kernel fills the structure, which is all bytes; zeroes otherwise.
    let release = unsafe {
        let _ = syscall(libc::SYS_uname, [names.as_mut_ptr() as usize, 0, 0, 0, 0, 0]);
        names.assume_init().release
    };
    let mut numbers = release.split(|&byte| !(byte as u8).is_ascii_digit()).map(|digits| {
        digits.iter().fold(0u32, |number, &digit| {
            number.saturating_mul(10).saturating_add(u32::from(digit as u8 - b'0'))
        })
    });
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0))
}
