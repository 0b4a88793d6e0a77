//! Kernel AIO called directly, in the shape of a program on libaio.

use super::extensions::{halves, Events};
use super::file::Buffers;
use super::flow::{Kind, Operation, Queue};
use crate::bench::cell::{Flow, Learn};
use crate::bench::job::Failure;
use crate::words::plain;
use libc::{c_long, iocb};
use std::io;

const PREAD: u16 = 0;
const PWRITE: u16 = 1;
const PREADV: u16 = 7;
const PWRITEV: u16 = 8;
const IOCB_FLAG_RESFD: u32 = 1;

/// What io_getevents gives (linux/aio_abi.h).
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct IoEvent {
    data: u64,
    obj: u64,
    res: i64,
    res2: i64,
}

pub struct Kernel {
    context: libc::c_ulong,
    fd: i32,
    blocks: Box<[iocb]>,
    buffers: Buffers,
    block: usize,
    events: Vec<IoEvent>,
    /// Gathered until the next reap, when `batch` is set.
    pending: Vec<*mut iocb>,
    batch: bool,
    parts: Option<Box<[[libc::iovec; 2]]>>,
    /// Completions are waited for through an eventfd, not in io_getevents.
    told: Option<Events>,
    /// A whole list in one call, and then until all of it is complete: what lio_listio asks of the kernel.
    whole: bool,
}

impl Kernel {
    /// Without `batch`, each request is one io_submit: what fio does unless told otherwise, and what a program on POSIX
    /// AIO cannot help doing.
    pub fn new(
        fd: i32,
        depth: usize,
        block: usize,
        buffers: Buffers,
        batch: bool,
    ) -> Result<Kernel, Failure> {
        let mut context: libc::c_ulong = 0;
        // SAFETY: io_setup writes the context's number to our variable.
        if unsafe { libc::syscall(libc::SYS_io_setup, depth as c_long, &mut context) } != 0 {
            return Err(Failure::Refused(format!("io_setup: {}", plain(&io::Error::last_os_error()))));
        }
        // SAFETY: zeros are a valid iocb.
        let blocks = (0..depth).map(|_| unsafe { std::mem::zeroed() }).collect();
        let events = vec![IoEvent::default(); depth];
        let pending = Vec::with_capacity(depth);
        Ok(Kernel {
            context,
            fd,
            blocks,
            buffers,
            block,
            events,
            pending,
            batch,
            parts: None,
            told: None,
            whole: false,
        })
    }

    /// With vectored requests, and told by an eventfd, where the flow wants it.
    pub fn shaped(mut self, flow: Flow) -> Result<Kernel, Failure> {
        if flow.vectored {
            let slots = 0..self.blocks.len();
            self.parts = Some(slots.map(|slot| halves(self.buffers.at(slot), self.block)).collect());
        }
        if flow.learn == Learn::Epoll {
            self.told = Some(Events::new()?);
        }
        self.whole = matches!(flow.learn, Learn::LioWait | Learn::LioNowait);
        self.batch |= self.whole;
        Ok(self)
    }

    fn submit_pending(&mut self) -> Result<(), String> {
        let mut first = 0;
        while first < self.pending.len() {
            let rest = &mut self.pending[first..];
            // SAFETY: each pointer is to an iocb of ours, whose buffer stays until it is complete.
            let taken = unsafe {
                libc::syscall(libc::SYS_io_submit, self.context, rest.len() as c_long, rest.as_mut_ptr())
            };
            if taken <= 0 {
                return Err(format!("io_submit: {}", io::Error::last_os_error()));
            }
            first += taken as usize;
        }
        self.pending.clear();
        Ok(())
    }
}

impl Queue for Kernel {
    fn submit(&mut self, slot: usize, operation: Operation) -> Result<(), String> {
        let control = &mut self.blocks[slot];
        control.aio_data = slot as u64;
        control.aio_lio_opcode = match operation.kind {
            Kind::Read => PREAD,
            Kind::Write => PWRITE,
            Kind::Fsync => return Err("kernel AIO does not order an fsync after writes".to_owned()),
        };
        control.aio_fildes = self.fd as u32;
        control.aio_buf = self.buffers.at(slot) as u64;
        control.aio_nbytes = self.block as u64;
        control.aio_offset = operation.offset as i64;
        if let Some(parts) = &mut self.parts {
            control.aio_lio_opcode = if control.aio_lio_opcode == PREAD { PREADV } else { PWRITEV };
            control.aio_buf = parts[slot].as_mut_ptr() as u64;
            control.aio_nbytes = parts[slot].len() as u64;
        }
        if let Some(events) = &self.told {
            control.aio_flags = IOCB_FLAG_RESFD;
            control.aio_resfd = events.counter as u32;
        }
        self.pending.push(control);
        if self.batch {
            return Ok(());
        }
        self.submit_pending()
    }

    fn reap(&mut self, done: &mut Vec<(usize, i64)>) -> Result<(), String> {
        let submitted = self.pending.len();
        self.submit_pending()?;
        loop {
            // Once told, what is there is taken without waiting: it may be none, when the last look took it already.
            let least: c_long = if let Some(events) = &self.told {
                events.wait()?;
                0
            } else if self.whole {
                submitted as c_long
            } else {
                1
            };
            // SAFETY: the kernel writes at most as many events as our array has.
            let count = unsafe {
                libc::syscall(
                    libc::SYS_io_getevents,
                    self.context,
                    least,
                    self.events.len() as c_long,
                    self.events.as_mut_ptr(),
                    std::ptr::null_mut::<libc::timespec>(),
                )
            };
            if count > 0 {
                let events = &self.events[..count as usize];
                done.extend(events.iter().map(|event| (event.data as usize, event.res)));
                return Ok(());
            }
            if count == 0 {
                continue;
            }
            let error = io::Error::last_os_error();
            if error.kind() != io::ErrorKind::Interrupted {
                return Err(format!("io_getevents: {error}"));
            }
        }
    }
}

impl Drop for Kernel {
    fn drop(&mut self) {
        // SAFETY: the context is ours; the call waits for what is still in flight.
        unsafe { libc::syscall(libc::SYS_io_destroy, self.context) };
    }
}
