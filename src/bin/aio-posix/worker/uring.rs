//! io_uring: either a call for each request, or, as its tutorials have it, one that submits all that was reaped and waits.

use super::file::Buffers;
use super::flow::{Kind, Operation, Queue};
use crate::bench::job::Failure;
use crate::words::plain;
use io_uring::{opcode, types, IoUring};
use std::io;

pub struct Uring {
    ring: IoUring,
    fd: types::Fd,
    buffers: Buffers,
    block: u32,
    batch: bool,
}

/// A ring for the calling thread alone, with the kernel's help for that case where the kernel has it.
pub fn ring(entries: u32) -> Result<IoUring, Failure> {
    IoUring::builder()
        .setup_single_issuer()
        .setup_coop_taskrun()
        .build(entries)
        .or_else(|_| IoUring::new(entries))
        .map_err(|error| Failure::Refused(format!("io_uring_setup: {}", plain(&error))))
}

impl Uring {
    pub fn new(fd: i32, depth: usize, block: usize, buffers: Buffers, batch: bool) -> Result<Uring, Failure> {
        let ring = ring((depth as u32).next_power_of_two())?;
        Ok(Uring { ring, fd: types::Fd(fd), buffers, block: block as u32, batch })
    }

    /// Submits what is queued, without waiting for anything.
    fn enter(&mut self) -> Result<(), String> {
        self.ring.submit().map(drop).map_err(|error| format!("io_uring_enter: {error}"))
    }
}

impl Queue for Uring {
    fn submit(&mut self, slot: usize, operation: Operation) -> Result<(), String> {
        let buffer = self.buffers.at(slot);
        let entry = match operation.kind {
            Kind::Read => opcode::Read::new(self.fd, buffer, self.block).offset(operation.offset).build(),
            Kind::Write => opcode::Write::new(self.fd, buffer, self.block).offset(operation.offset).build(),
            Kind::Fsync => return Err("io_uring does not order an fsync after writes".to_owned()),
        };
        // SAFETY: the buffer is this slot's alone and stays until the request is complete.
        unsafe { self.ring.submission().push(&entry.user_data(slot as u64)) }
            .map_err(|_| "the submission queue is full".to_owned())?;
        if self.batch {
            return Ok(());
        }
        self.enter()
    }

    fn reap(&mut self, done: &mut Vec<(usize, i64)>) -> Result<(), String> {
        // Completions that are there already need no call.
        while self.batch || self.ring.completion().is_empty() {
            match self.ring.submit_and_wait(1) {
                Ok(_) => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(format!("io_uring_enter: {error}")),
            }
        }
        done.extend(
            self.ring.completion().map(|entry| (entry.user_data() as usize, i64::from(entry.result()))),
        );
        Ok(())
    }
}
