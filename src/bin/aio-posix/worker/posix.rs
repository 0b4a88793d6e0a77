//! POSIX AIO, as a sensible program uses it: an array of control blocks, one for each request in flight.

use super::extensions::{halves, Events, Vectored, WaitComplete, SIGEV_AIO_EVENTFD};
use super::file::Buffers;
use super::flow::{Kind, Operation, Queue};
use crate::bench::cell::{Flow, Learn};
use libc::{aiocb, c_int};
use std::io;
use std::ptr;

/// Requests on one descriptor, whose completion is learned in one of the ways that suit one thread.
pub struct Posix {
    fd: c_int,
    learn: Learn,
    blocks: Box<[aiocb]>,
    buffers: Buffers,
    block: usize,
    /// What aio_suspend and lio_listio are given; NULL where nothing is in flight.
    list: Vec<*mut aiocb>,
    /// A batch is gathered, not yet submitted.
    gathered: usize,
    /// What only some cells need, of what the library has beyond POSIX.
    vectored: Option<(Vectored, Box<[[libc::iovec; 2]]>)>,
    events: Option<Events>,
    next: Option<WaitComplete>,
}

/// How long a missing signal is waited for before the measurement fails: long enough for any disk.
const LOST: libc::timespec = libc::timespec { tv_sec: 20, tv_nsec: 0 };

impl Posix {
    pub fn new(fd: c_int, depth: usize, block: usize, learn: Learn) -> Result<Posix, String> {
        if matches!(learn, Learn::Signal | Learn::LioNowait) {
            block_signal();
        }
        // SAFETY: zeros are a valid aiocb.
        let blocks = (0..depth).map(|_| unsafe { std::mem::zeroed() }).collect();
        let buffers = Buffers::new(depth, block)?;
        let list = vec![ptr::null_mut(); depth];
        let (vectored, events, next) = (None, None, None);
        Ok(Posix { fd, learn, blocks, buffers, block, list, gathered: 0, vectored, events, next })
    }

    /// With what the flow wants beyond POSIX.
    pub fn shaped(mut self, flow: Flow) -> Result<Posix, String> {
        if flow.vectored {
            let slots = 0..self.blocks.len();
            let parts = slots.map(|slot| halves(self.buffers.at(slot), self.block)).collect();
            self.vectored = Some((Vectored::new()?, parts));
        }
        match self.learn {
            Learn::Epoll => self.events = Some(Events::new()?),
            Learn::WaitComplete => self.next = Some(WaitComplete::new(self.fd)?),
            _ => {}
        }
        Ok(self)
    }

    /// Takes the result of a request that is complete.
    fn finish(&mut self, slot: usize, error: c_int) -> i64 {
        // SAFETY: the control block is one of ours and complete.
        let value = unsafe { libc::aio_return(&mut self.blocks[slot]) };
        self.list[slot] = ptr::null_mut();
        if error == 0 {
            value as i64
        } else {
            -i64::from(error)
        }
    }

    /// Collects all that is complete.
    fn scan(&mut self, done: &mut Vec<(usize, i64)>) {
        for slot in 0..self.list.len() {
            if self.list[slot].is_null() {
                continue;
            }
            // SAFETY: the control block is one of ours and was submitted.
            let error = unsafe { libc::aio_error(&self.blocks[slot]) };
            if error != libc::EINPROGRESS {
                done.push((slot, self.finish(slot, error)));
            }
        }
    }

    fn suspend(&mut self) -> Result<(), String> {
        // SAFETY: the list holds pointers to our control blocks, or NULL.
        let answer =
            unsafe { libc::aio_suspend(self.list.as_ptr().cast(), self.list.len() as c_int, ptr::null()) };
        match answer {
            0 => Ok(()),
            _ => Err(format!("aio_suspend: {}", io::Error::last_os_error())),
        }
    }

    /// Submits the gathered batch: the occupied places, which are the first ones.
    fn submit_batch(&mut self) -> Result<(), String> {
        let count = self.gathered as c_int;
        self.gathered = 0;
        let mut event = signal_event(0);
        // SAFETY: the list holds that many of our control blocks; they and their buffers stay until they are complete.
        let answer = unsafe {
            if self.learn == Learn::LioWait {
                libc::lio_listio(libc::LIO_WAIT, self.list.as_ptr(), count, ptr::null_mut())
            } else {
                libc::lio_listio(libc::LIO_NOWAIT, self.list.as_ptr(), count, &mut event)
            }
        };
        match answer {
            0 => Ok(()),
            _ => Err(format!("lio_listio: {}", io::Error::last_os_error())),
        }
    }
}

impl Queue for Posix {
    fn submit(&mut self, slot: usize, operation: Operation) -> Result<(), String> {
        let control = &mut self.blocks[slot];
        control.aio_fildes = self.fd;
        control.aio_buf = self.buffers.at(slot).cast();
        control.aio_nbytes = self.block;
        control.aio_offset = operation.offset as i64;
        control.aio_sigevent.sigev_notify = libc::SIGEV_NONE;
        if self.learn == Learn::Signal {
            control.aio_sigevent = signal_event(slot);
        }
        if let Some(events) = &self.events {
            control.aio_sigevent.sigev_notify = SIGEV_AIO_EVENTFD;
            control.aio_sigevent.sigev_signo = events.counter;
        }
        self.list[slot] = control;
        if matches!(self.learn, Learn::LioWait | Learn::LioNowait) {
            control.aio_lio_opcode =
                if operation.kind == Kind::Read { libc::LIO_READ } else { libc::LIO_WRITE };
            self.gathered += 1;
            return Ok(());
        }
        // SAFETY: the control block and its buffer are ours and stay until the request is complete.
        let answer = unsafe {
            if let Some((vectored, parts)) = &mut self.vectored {
                control.aio_buf = parts[slot].as_mut_ptr().cast();
                control.aio_nbytes = parts[slot].len();
                match operation.kind {
                    Kind::Write => (vectored.write)(control),
                    _ => (vectored.read)(control),
                }
            } else {
                match operation.kind {
                    Kind::Read => libc::aio_read(control),
                    Kind::Write => libc::aio_write(control),
                    Kind::Fsync => libc::aio_fsync(libc::O_SYNC, control),
                }
            }
        };
        match answer {
            0 => Ok(()),
            _ => Err(format!("submitting a {:?}: {}", operation.kind, io::Error::last_os_error())),
        }
    }

    fn reap(&mut self, done: &mut Vec<(usize, i64)>) -> Result<(), String> {
        match self.learn {
            Learn::Suspend => {
                self.suspend()?;
                self.scan(done);
            }
            Learn::Poll => {
                self.scan(done);
                if done.is_empty() {
                    std::thread::yield_now();
                }
            }
            Learn::Signal => {
                let slot = wait_for_signal()?;
                // SAFETY: the control block is one of ours; its signal came.
                let error = unsafe { libc::aio_error(&self.blocks[slot]) };
                done.push((slot, self.finish(slot, error)));
            }
            Learn::LioWait => {
                self.submit_batch()?;
                self.scan(done);
            }
            Learn::LioNowait => {
                self.submit_batch()?;
                wait_for_signal()?;
                self.scan(done);
            }
            Learn::Epoll => {
                // What was counted may be known already, from an earlier look.
                self.events.as_ref().map_or(Ok(()), Events::wait)?;
                self.scan(done);
            }
            Learn::WaitComplete => {
                let next = self.next.as_ref().ok_or("aio_waitcomplete was not looked up")?;
                let (control, result) = next.wait()?;
                let first = self.blocks.as_mut_ptr();
                // SAFETY: the control block is one of ours, in this array.
                let slot = unsafe { control.offset_from(first) } as usize;
                self.list[slot] = ptr::null_mut();
                done.push((slot, result));
            }
            Learn::Thread => unreachable!("callbacks have a loop of their own"),
        }
        Ok(())
    }
}

/// A signal of its own, which no runtime uses.
fn completion_signal() -> c_int {
    libc::SIGRTMIN() + 4
}

fn signal_event(slot: usize) -> libc::sigevent {
    // SAFETY: zeros are a valid sigevent.
    let mut event: libc::sigevent = unsafe { std::mem::zeroed() };
    event.sigev_notify = libc::SIGEV_SIGNAL;
    event.sigev_signo = completion_signal();
    event.sigev_value.sival_ptr = slot as *mut libc::c_void;
    event
}

fn signal_set() -> libc::sigset_t {
    // SAFETY: sigemptyset makes a set of what is written to.
    unsafe {
        let mut set = std::mem::zeroed();
        libc::sigemptyset(&mut set);
        libc::sigaddset(&mut set, completion_signal());
        set
    }
}

/// Keeps completion signals pending until they are waited for, in this thread and those that it starts.
pub fn block_signal() {
    // SAFETY: the set is a local of ours.
    unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, &signal_set(), ptr::null_mut()) };
}

/// The value that the next completion signal carries.
fn wait_for_signal() -> Result<usize, String> {
    // SAFETY: zeros are a valid siginfo_t, which the call fills in; the signal carries a value (SI_ASYNCIO).
    unsafe {
        let mut information: libc::siginfo_t = std::mem::zeroed();
        match libc::sigtimedwait(&signal_set(), &mut information, &LOST) {
            number if number > 0 => Ok(information.si_value().sival_ptr as usize),
            _ => Err(format!("no completion signal came in {} s", LOST.tv_sec)),
        }
    }
}
