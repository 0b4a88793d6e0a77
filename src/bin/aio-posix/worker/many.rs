//! Very many requests submitted before the first is reaped: what one submission costs.

use super::file::{Buffers, Target};
use super::flow::{check, with, Kind, Queue, Sequence};
use super::kernel::Kernel;
use super::measure::now;
use super::uring::Uring;
use crate::bench::cell::{Action, Flow, Learn, Side, Way};
use crate::bench::job::{Failure, Job, Sample};
use std::io;

const BLOCK: usize = 4096;
/// So many buffers serve all requests: nobody looks at what was read.
const SHARED: usize = 64;

pub fn measure(job: &Job) -> Result<Sample, Failure> {
    let flow = Flow {
        action: Action::Read,
        way: Way::Direct,
        block: BLOCK,
        sequential: false,
        threads: 1,
        fsync_every: None,
        learn: Learn::Suspend,
        vectored: false,
    };
    let target = Target::open(&job.file, job.size, flow.way, false)?;
    let mut sequence = Sequence::new(flow, job.size, 0);
    let count = job.depth as usize;
    // A buffer for each request of the raw interfaces: these queues are those of the other cells.
    let own = || Buffers::new(count, BLOCK);
    let fd = target.fd();
    let took = match job.side {
        Side::Libc | Side::Library => posix(&target, &mut sequence, count)?,
        Side::Libaio => queue(Kernel::new(fd, count, BLOCK, own()?, false)?, &mut sequence, count)?,
        Side::Uring => queue(Uring::new(fd, count, BLOCK, own()?, false)?, &mut sequence, count)?,
    };
    Ok(Sample { value: took as f64 / count as f64, p99_ns: None, cpu_ns: None, object: None })
}

fn posix(target: &Target, sequence: &mut Sequence, count: usize) -> Result<u64, Failure> {
    let buffers = Buffers::new(SHARED, BLOCK)?;
    // SAFETY: zeros are a valid aiocb.
    let mut blocks: Vec<libc::aiocb> = (0..count).map(|_| unsafe { std::mem::zeroed() }).collect();
    for (index, control) in blocks.iter_mut().enumerate() {
        control.aio_fildes = target.fd();
        control.aio_buf = buffers.at(index % SHARED).cast();
        control.aio_nbytes = BLOCK;
        control.aio_offset = sequence.next().offset as i64;
        control.aio_sigevent.sigev_notify = libc::SIGEV_NONE;
    }
    let start = now();
    for control in &mut blocks {
        // SAFETY: the control block stays until it is reaped below, its buffer until the process ends.
        if unsafe { libc::aio_read(control) } != 0 {
            let error = io::Error::last_os_error();
            // Those in flight still use their memory.
            std::mem::forget((blocks, buffers));
            return Err(Failure::Failed(format!("aio_read: {error}")));
        }
    }
    let took = now() - start;
    for control in &mut blocks {
        // SAFETY: the control block was submitted above and is not yet reaped.
        let result = unsafe {
            let list = [&raw const *control];
            while libc::aio_error(control) == libc::EINPROGRESS {
                libc::aio_suspend(list.as_ptr(), 1, std::ptr::null());
            }
            match libc::aio_error(control) {
                0 => libc::aio_return(control) as i64,
                error => -i64::from(error),
            }
        };
        check(Kind::Read, result, BLOCK as i64)?;
    }
    Ok(took)
}

fn queue<Q: Queue>(queue: Q, sequence: &mut Sequence, count: usize) -> Result<u64, Failure> {
    let took = with(queue, |queue| {
        let start = now();
        for slot in 0..count {
            queue.submit(slot, sequence.next())?;
        }
        let took = now() - start;
        let mut done = Vec::with_capacity(count);
        while done.len() < count {
            queue.reap(&mut done)?;
        }
        done.iter().try_for_each(|&(_, result)| check(Kind::Read, result, BLOCK as i64))?;
        Ok(took)
    })?;
    Ok(took)
}
