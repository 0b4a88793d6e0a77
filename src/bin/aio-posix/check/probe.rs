//! Trying a place: what the kernel really does with each kind of transfer there.
//!
//! A request counts as asynchronous when it was seen under way after io_submit had returned. A kernel that does the work
//! inside io_submit puts the completion there before it returns, so it is never seen so.

use super::context::{Block, Command, Context, Passage, BLOCK, NOWAIT};
use crate::words::plain;
use std::fs::{File, Metadata, OpenOptions};
use std::io::{self, Write};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::time::Duration;

/// How often each operation is tried.
pub const TRIES: u64 = 8;
const SIZE: u64 = TRIES * BLOCK as u64;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Operation {
    DirectRead,
    DirectOverwrite,
    DirectExtension,
    CachedRead,
    UncachedRead,
    BufferedWrite,
    Sync,
}

impl Operation {
    const ALL: [Operation; 7] = [
        Operation::DirectRead,
        Operation::DirectOverwrite,
        Operation::DirectExtension,
        Operation::CachedRead,
        Operation::UncachedRead,
        Operation::BufferedWrite,
        Operation::Sync,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Operation::DirectRead => "direct read",
            Operation::DirectOverwrite => "direct overwrite",
            Operation::DirectExtension => "direct extension",
            Operation::CachedRead => "cached read",
            Operation::UncachedRead => "uncached read",
            Operation::BufferedWrite => "buffered write",
            Operation::Sync => "fdatasync",
        }
    }

    pub fn is_direct(self) -> bool {
        matches!(self, Operation::DirectRead | Operation::DirectOverwrite | Operation::DirectExtension)
    }

    fn only_reads(self) -> bool {
        matches!(self, Operation::DirectRead | Operation::CachedRead | Operation::UncachedRead)
    }

    fn command(self) -> Command {
        match self {
            Operation::Sync => Command::DataSync,
            _ if self.only_reads() => Command::Read,
            _ => Command::Write,
        }
    }
}

/// What became of RWF_NOWAIT.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum NoWait {
    /// Done, or started, without waiting.
    Done,
    /// The kernel would have to wait.
    WouldWait,
    /// The file system does not know the flag.
    Unsupported,
    /// Any other error number.
    Failed(i32),
}

/// One operation as it went in `TRIES` tries.
pub struct Measured {
    pub operation: Operation,
    /// Tries in which the request was still under way when io_submit had returned; or what all of them ended with.
    pub in_flight: Result<u64, i32>,
    /// The median time in io_submit, and until the completion was there.
    pub submitting: Duration,
    pub whole: Duration,
    /// None: the flag makes no sense there.
    pub nowait: Option<NoWait>,
}

/// What there is to try with: a file of our own for a directory; else the thing itself, which is only read.
pub struct Place {
    buffered: File,
    /// Why O_DIRECT cannot be had is in the error.
    direct: io::Result<File>,
    size: u64,
    pub kind: Kind,
    /// What the library asks of a file (`library::Place`).
    pub memory: bool,
    pub on_device: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Directory,
    File,
    BlockDevice,
}

impl Place {
    pub fn open(path: &Path) -> Result<Place, String> {
        let status = path
            .metadata()
            .map_err(|error| format!("{} cannot be looked at: {}", path.display(), plain(&error)))?;
        let kind = kind(path, &status)?;
        let buffered = if kind == Kind::Directory {
            filled_file(path)?
        } else {
            File::open(path)
                .map_err(|error| format!("{} cannot be read: {}", path.display(), plain(&error)))?
        };
        let size = match kind {
            Kind::Directory => SIZE,
            Kind::File => status.size(),
            Kind::BlockDevice => device_size(&buffered),
        };
        if size < BLOCK as u64 {
            return Err(format!(
                "{} has less than {} MiB to read; name its directory, where a file of the command's own can be made",
                path.display(),
                BLOCK >> 20
            ));
        }
        let direct = OpenOptions::new()
            .read(true)
            .write(kind == Kind::Directory)
            .custom_flags(libc::O_DIRECT)
            .open(format!("/proc/self/fd/{}", buffered.as_raw_fd()));
        let on_device = buffered.metadata().is_ok_and(|status| libc::major(status.dev()) != 0);
        Ok(Place { memory: is_memory(&buffered), buffered, direct, size, kind, on_device })
    }

    pub fn measure(&self, context: &Context) -> Result<Vec<Measured>, String> {
        Operation::ALL
            .into_iter()
            .filter(|operation| self.kind == Kind::Directory || operation.only_reads())
            .map(|operation| {
                self.measure_one(context, operation)
                    .map_err(|error| format!("{} cannot be tried: {}", operation.name(), plain(&error)))
            })
            .collect()
    }

    fn measure_one(&self, context: &Context, operation: Operation) -> io::Result<Measured> {
        let file = match &self.direct {
            Ok(direct) if operation.is_direct() => direct,
            Err(error) if operation.is_direct() => {
                return Ok(Measured {
                    operation,
                    in_flight: Err(error.raw_os_error().unwrap_or(libc::EIO)),
                    submitting: Duration::ZERO,
                    whole: Duration::ZERO,
                    nowait: None,
                })
            }
            _ => &self.buffered,
        };
        let mut block = Box::new(Block([0x5a; BLOCK]));
        let mut passages = Vec::new();
        for attempt in 0..TRIES {
            let offset = self.prepare(operation, attempt)?;
            passages.push(context.pass(operation.command(), file.as_fd(), &mut block, offset, 0));
        }
        if let Some(Passage { outcome: Err(error), .. }) = passages.iter().find(|one| one.outcome.is_err()) {
            let number = error.raw_os_error().unwrap_or(libc::EIO);
            // A full disk is no property of the place.
            if matches!(number, libc::ENOSPC | libc::EDQUOT | libc::EFBIG) {
                return Err(io::Error::from_raw_os_error(number));
            }
            return Ok(Measured {
                operation,
                in_flight: Err(number),
                submitting: Duration::ZERO,
                whole: Duration::ZERO,
                nowait: None,
            });
        }
        let nowait = match operation {
            Operation::Sync => None,
            _ => {
                let mut answers = Vec::new();
                for attempt in 0..TRIES {
                    let offset = self.prepare(operation, attempt)?;
                    let passage = context.pass(operation.command(), file.as_fd(), &mut block, offset, NOWAIT);
                    answers.push(nowait(&passage.outcome));
                }
                most_frequent(&answers)
            }
        };
        Ok(Measured {
            operation,
            in_flight: Ok(passages.iter().filter(|one| one.in_flight).count() as u64),
            submitting: median(passages.iter().map(|one| one.submitting)),
            whole: median(passages.iter().map(|one| one.whole)),
            nowait,
        })
    }

    /// Puts the file into the state that the operation is about; returns where to transfer.
    fn prepare(&self, operation: Operation, attempt: u64) -> io::Result<u64> {
        let block = BLOCK as u64;
        let offset = attempt * block % (self.size / block * block);
        match operation {
            Operation::DirectRead | Operation::DirectOverwrite | Operation::BufferedWrite => Ok(offset),
            Operation::DirectExtension => Ok(self.buffered.metadata()?.len().next_multiple_of(block)),
            Operation::CachedRead => {
                let mut byte = vec![0; BLOCK];
                self.buffered.read_exact_at(&mut byte, offset)?;
                Ok(offset)
            }
            Operation::UncachedRead => {
                if self.kind == Kind::Directory {
                    // Only clean pages can be dropped.
                    self.buffered.sync_data()?;
                }
                // SAFETY: a live descriptor; a hint, which may fail.
                unsafe { libc::posix_fadvise(self.buffered.as_raw_fd(), 0, 0, libc::POSIX_FADV_DONTNEED) };
                Ok(offset)
            }
            Operation::Sync => {
                self.buffered.write_all_at(&vec![0x33; BLOCK], offset)?;
                Ok(0)
            }
        }
    }
}

fn kind(path: &Path, status: &Metadata) -> Result<Kind, String> {
    let kind = status.file_type();
    if kind.is_dir() {
        Ok(Kind::Directory)
    } else if kind.is_file() {
        Ok(Kind::File)
    } else if kind.is_block_device() {
        Ok(Kind::BlockDevice)
    } else {
        Err(format!("{} is neither a directory, a file nor a block device", path.display()))
    }
}

/// A written file without a name: whatever ends the command, nothing stays behind.
fn filled_file(directory: &Path) -> Result<File, String> {
    let place = directory.display();
    let mut file = tempfile::tempfile_in(directory)
        .map_err(|error| format!("no file can be made in {place}: {}", plain(&error)))?;
    let chunk = vec![0xa5; BLOCK];
    (0..TRIES).try_for_each(|_| file.write_all(&chunk)).and_then(|()| file.sync_all()).map_err(|error| {
        format!("a file of {} MiB in {place} cannot be written: {}", SIZE >> 20, plain(&error))
    })?;
    Ok(file)
}

fn device_size(device: &File) -> u64 {
    use std::io::{Seek, SeekFrom};
    let mut device: &File = device;
    device.seek(SeekFrom::End(0)).unwrap_or(0)
}

/// Whether a file is memory: of all files those alone have seals (fcntl(2)).
fn is_memory(file: &File) -> bool {
    // SAFETY: a live descriptor, and no pointer.
    unsafe { libc::fcntl(file.as_raw_fd(), libc::F_GET_SEALS) != -1 }
}

fn nowait(outcome: &io::Result<usize>) -> NoWait {
    match outcome {
        Ok(_) => NoWait::Done,
        Err(error) => match error.raw_os_error().unwrap_or(libc::EIO) {
            libc::EAGAIN => NoWait::WouldWait,
            libc::EOPNOTSUPP => NoWait::Unsupported,
            number => NoWait::Failed(number),
        },
    }
}

/// What was answered most often; of equals, the first.
fn most_frequent(answers: &[NoWait]) -> Option<NoWait> {
    let count = |answer: &NoWait| answers.iter().filter(|other| *other == answer).count();
    // max_by_key gives the last of equals.
    answers.iter().rev().max_by_key(|answer| count(answer)).copied()
}

fn median(values: impl Iterator<Item = Duration>) -> Duration {
    let mut values: Vec<Duration> = values.collect();
    values.sort();
    values.get(values.len() / 2).copied().unwrap_or_default()
}
