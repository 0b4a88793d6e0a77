//! A kernel AIO context of the command's own, by the bare system calls: what is measured must not pass through the
//! library.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::time::{Duration, Instant};

/// Requests that the library asks a context for, and the fewest that it makes do with.
pub const ASKED: u32 = 256;
const FEWEST: u32 = 8;

/// `RWF_NOWAIT` (preadv2(2)): rather fail than wait.
pub const NOWAIT: i32 = 0x8;

/// What an iocb asks for (linux/aio_abi.h).
#[derive(Clone, Copy)]
pub enum Command {
    Read = 0,
    Write = 1,
    DataSync = 3,
}

/// What io_getevents gives (linux/aio_abi.h).
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct IoEvent {
    data: u64,
    obj: u64,
    res: i64,
    res2: i64,
}

/// Memory for O_DIRECT transfers.
#[repr(C, align(4096))]
pub struct Block(pub [u8; BLOCK]);

/// Bytes of one request: long enough under way for a disk that it is seen under way.
pub const BLOCK: usize = 1 << 20;

/// Bytes of a request with RWF_NOWAIT: as programs make them. The kernel refuses larger ones that it would have to split.
pub const SMALL: usize = 64 << 10;

pub struct Context {
    id: libc::c_ulong,
    /// What was asked for in the end.
    pub requests: u32,
}

/// A system call that the kernel, or what stands before it, refused.
pub struct Refusal {
    pub call: &'static str,
    pub error: io::Error,
}

/// One request as it went.
pub struct Passage {
    /// Whether it was still under way when io_submit had returned.
    pub in_flight: bool,
    /// Time in io_submit, and until the completion was there.
    pub submitting: Duration,
    pub whole: Duration,
    /// Bytes, or why not.
    pub outcome: io::Result<usize>,
}

impl Context {
    /// Asks as the library does: for fewer requests where fs.aio-max-nr leaves no more; and tries the calls that it needs.
    pub fn new() -> Result<Context, Refusal> {
        let mut requests = ASKED;
        let mut id: libc::c_ulong = 0;
        loop {
            // SAFETY: the kernel writes the context's number into our variable.
            let answer = unsafe { libc::syscall(libc::SYS_io_setup, libc::c_long::from(requests), &mut id) };
            if answer == 0 {
                break;
            }
            let error = io::Error::last_os_error();
            if error.raw_os_error() != Some(libc::EAGAIN) || requests <= FEWEST {
                return Err(Refusal { call: "io_setup", error });
            }
            requests /= 2;
        }
        let context = Context { id, requests };
        context.try_other_calls()?;
        Ok(context)
    }

    fn try_other_calls(&self) -> Result<(), Refusal> {
        let refused = |call, answer: libc::c_long| match answer {
            0.. => Ok(()),
            _ => Err(Refusal { call, error: io::Error::last_os_error() }),
        };
        let nothing = std::ptr::null_mut::<libc::c_void>();
        let no_time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
        let zero: libc::c_long = 0;
        // SAFETY: no request is passed and none is taken.
        unsafe {
            refused("io_submit", libc::syscall(libc::SYS_io_submit, self.id, zero, nothing))?;
            refused(
                "io_getevents",
                libc::syscall(libc::SYS_io_getevents, self.id, zero, zero, nothing, &no_time),
            )?;
            refused(
                "io_pgetevents",
                libc::syscall(SYS_IO_PGETEVENTS, self.id, zero, zero, nothing, &no_time, nothing),
            )
        }
    }

    /// Passes one request through the kernel, of `BLOCK` bytes, with `NOWAIT` in `flags` (preadv2(2)) of `SMALL`.
    pub fn pass(
        &self,
        command: Command,
        file: BorrowedFd,
        block: &mut Block,
        offset: u64,
        flags: i32,
    ) -> Passage {
        // SAFETY: zeros are a valid iocb.
        let mut control: libc::iocb = unsafe { std::mem::zeroed() };
        control.aio_lio_opcode = command as u16;
        control.aio_fildes = file.as_raw_fd() as u32;
        control.aio_rw_flags = flags;
        if !matches!(command, Command::DataSync) {
            control.aio_buf = block.0.as_mut_ptr() as u64;
            control.aio_nbytes = if flags & NOWAIT == 0 { BLOCK } else { SMALL } as u64;
            control.aio_offset = offset as i64;
        }
        let mut list = [&raw mut control];
        let start = Instant::now();
        // SAFETY: one iocb, whose buffer outlives the request: its completion is waited for below.
        let taken =
            unsafe { libc::syscall(libc::SYS_io_submit, self.id, 1 as libc::c_long, list.as_mut_ptr()) };
        let submitting = start.elapsed();
        if taken != 1 {
            return Passage {
                in_flight: false,
                submitting,
                whole: submitting,
                outcome: Err(io::Error::last_os_error()),
            };
        }
        let at_once = self.event(false);
        let in_flight = at_once.is_none();
        let event = at_once.or_else(|| self.event(true)).unwrap_or_default();
        Passage {
            in_flight,
            submitting,
            whole: start.elapsed(),
            outcome: match event.res {
                count @ 0.. => Ok(count as usize),
                error => Err(io::Error::from_raw_os_error(-error as i32)),
            },
        }
    }

    /// The completion of the one request there is; None: not yet.
    fn event(&self, wait: bool) -> Option<IoEvent> {
        let mut event = IoEvent::default();
        let no_time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
        let limit = if wait { std::ptr::null() } else { &raw const no_time };
        loop {
            let fewest = libc::c_long::from(wait);
            let most: libc::c_long = 1;
            // SAFETY: room for the one event that is asked for.
            let count =
                unsafe { libc::syscall(libc::SYS_io_getevents, self.id, fewest, most, &mut event, limit) };
            match count {
                1 => return Some(event),
                0 if !wait => return None,
                // A signal handler ran (the process was stopped and went on, for instance).
                _ => {}
            }
        }
    }
}

impl Drop for Context {
    fn drop(&mut self) {
        // SAFETY: the context is ours, and nothing is in flight.
        unsafe { libc::syscall(libc::SYS_io_destroy, self.id) };
    }
}

/// `SYS_io_pgetevents`, which the libc crate lacks for glibc (asm/unistd.h).
#[cfg(target_arch = "x86_64")]
const SYS_IO_PGETEVENTS: libc::c_long = 333;
#[cfg(not(target_arch = "x86_64"))]
const SYS_IO_PGETEVENTS: libc::c_long = 292;
