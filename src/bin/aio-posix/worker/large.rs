//! How long a submitting call takes when the work behind it is large or cannot begin: the longest of a few.

use super::file::{Buffers, Target};
use super::flow::{check, with, Kind, Operation, Queue};
use super::measure::now;
use super::{kernel, posix, uring};
use crate::bench::cell::{Large, Learn, Side, Way};
use crate::bench::job::{Failure, Job, Sample};
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsRawFd, FromRawFd};

const SIZE: usize = 64 << 20;
const TRIES: usize = 5;

/// What the request goes to.
enum Place {
    File(Target),
    /// Reading end, writing end.
    Pipe(File, File),
}

pub fn measure(job: &Job, kind: Large) -> Result<Sample, Failure> {
    let mut longest = 0;
    for _ in 0..TRIES {
        let place = prepare(job, kind)?;
        longest = longest.max(submission(job, kind, place)?);
    }
    Ok(Sample { value: longest as f64, p99_ns: None, cpu_ns: None, object: None })
}

fn prepare(job: &Job, kind: Large) -> Result<Place, Failure> {
    let target = |way, written| Target::open(&job.file, job.size, way, written).map(Place::File);
    Ok(match kind {
        Large::ColdRead => target(Way::Cold, false)?,
        Large::BufferedWrite => target(Way::Cold, true)?,
        Large::ExtendingDirectWrite => {
            // This cell has a file of its own, which is cut before each try.
            let cut = File::options().write(true).open(&job.file).and_then(|file| file.set_len(0));
            cut.map_err(|error| format!("the test file cannot be cut: {error}"))?;
            target(Way::Direct, true)?
        }
        Large::EmptyPipeRead => {
            let (reader, writer) = pipe().map_err(|error| format!("pipe: {error}"))?;
            Place::Pipe(reader, writer)
        }
    })
}

fn pipe() -> io::Result<(File, File)> {
    let mut ends = [0; 2];
    // SAFETY: pipe2 writes two descriptors, which then are owned by nobody else.
    unsafe {
        match libc::pipe2(ends.as_mut_ptr(), libc::O_CLOEXEC) {
            0 => Ok((File::from_raw_fd(ends[0]), File::from_raw_fd(ends[1]))),
            _ => Err(io::Error::last_os_error()),
        }
    }
}

fn submission(job: &Job, kind: Large, place: Place) -> Result<u64, Failure> {
    let size = if kind == Large::EmptyPipeRead { 1 } else { SIZE };
    let fd = match &place {
        Place::File(target) => target.fd(),
        Place::Pipe(reader, _) => reader.as_raw_fd(),
    };
    match job.side {
        Side::Libc | Side::Library => {
            timed(posix::Posix::new(fd, 1, size, Learn::Suspend)?, kind, place, size)
        }
        Side::Libaio => {
            timed(kernel::Kernel::new(fd, 1, size, Buffers::new(1, size)?, false)?, kind, place, size)
        }
        Side::Uring => {
            timed(uring::Uring::new(fd, 1, size, Buffers::new(1, size)?, false)?, kind, place, size)
        }
    }
}

fn timed<Q: Queue>(queue: Q, kind: Large, place: Place, size: usize) -> Result<u64, Failure> {
    let writes = matches!(kind, Large::BufferedWrite | Large::ExtendingDirectWrite);
    let kind = if writes { Kind::Write } else { Kind::Read };
    let took = with(queue, |queue| {
        let start = now();
        queue.submit(0, Operation { kind, offset: 0 })?;
        let took = now() - start;
        if let Place::Pipe(_, writer) = &place {
            let mut writer: &File = writer;
            writer.write_all(b"x").map_err(|error| format!("writing to the pipe: {error}"))?;
        }
        let mut done = Vec::new();
        while done.is_empty() {
            queue.reap(&mut done)?;
        }
        check(kind, done[0].1, size as i64)?;
        Ok(took)
    })?;
    Ok(took)
}
