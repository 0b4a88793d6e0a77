//! Two threads hand a message to and fro over a socket pair, each through asynchronous calls.

use super::file::Buffers;
use super::flow::{check, with, Kind, Operation, Queue};
use super::measure::{conduct, stop, stopping, Tally};
use super::{posix, summary, uring};
use crate::bench::cell::{Learn, Side};
use crate::bench::job::{Failure, Job, Sample};
use std::net::Shutdown;
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::net::UnixStream;

const MESSAGE: usize = 64;

pub fn measure(job: &Job) -> Result<Sample, Failure> {
    let (near, far) = UnixStream::pair().map_err(|error| format!("socketpair: {error}"))?;
    let (span, tally, echoed) = std::thread::scope(|scope| {
        // A side that ends shuts the socket, so that the other one ends too.
        let caller = scope.spawn(|| {
            let outcome = with_queue(job, near.as_raw_fd(), |queue| call(queue));
            stop();
            let _ = near.shutdown(Shutdown::Both);
            outcome
        });
        let echo = scope.spawn(|| {
            let outcome = with_queue(job, far.as_raw_fd(), |queue| echo(queue));
            let _ = far.shutdown(Shutdown::Both);
            outcome
        });
        let span = conduct(job.seconds);
        (
            span,
            caller.join().expect("a panic ends the process"),
            echo.join().expect("a panic ends the process"),
        )
    });
    let tally = tally?;
    echoed?;
    summary(span, std::iter::once(&tally))
}

fn with_queue(
    job: &Job,
    fd: RawFd,
    work: impl FnOnce(&mut dyn Queue) -> Result<Tally, String>,
) -> Result<Tally, Failure> {
    Ok(match job.side {
        Side::Libc | Side::Library => {
            with(posix::Posix::new(fd, 1, MESSAGE, Learn::Suspend)?, |queue| work(queue))?
        }
        Side::Uring => {
            let queue = uring::Uring::new(fd, 1, MESSAGE, Buffers::new(1, MESSAGE)?, job.batch)?;
            with(queue, |queue| work(queue))?
        }
        Side::Libaio => {
            return Err(Failure::Refused("io_submit of a socket read waits for the data".to_owned()));
        }
    })
}

fn transfer(queue: &mut dyn Queue, kind: Kind) -> Result<i64, String> {
    let mut done = Vec::new();
    queue.submit(0, Operation { kind, offset: 0 })?;
    while done.is_empty() {
        queue.reap(&mut done)?;
    }
    Ok(done[0].1)
}

fn call(queue: &mut dyn Queue) -> Result<Tally, String> {
    let mut tally = Tally::new(false);
    while !stopping() {
        let started = tally.submitting();
        for kind in [Kind::Write, Kind::Read] {
            check(kind, transfer(queue, kind)?, MESSAGE as i64)?;
        }
        tally.completed(started, true);
    }
    Ok(tally)
}

fn echo(queue: &mut dyn Queue) -> Result<Tally, String> {
    loop {
        match transfer(queue, Kind::Read)? {
            0 => return Ok(Tally::new(false)),
            count => check(Kind::Read, count, MESSAGE as i64)?,
        }
        match transfer(queue, Kind::Write)? {
            // The caller has ended between the two.
            count if count == -i64::from(libc::EPIPE) => return Ok(Tally::new(false)),
            count => check(Kind::Write, count, MESSAGE as i64)?,
        }
    }
}
