//! System calls on a caller's descriptors. None of them keeps anything of the descriptor.

use super::aio_abi::RWF_NOWAIT;
use super::raw::syscall;
use crate::errno::{Errno, Outcome};
use core::sync::atomic::{AtomicU64, Ordering};
use libc::c_int;

/// `fcntl(F_GETFL)`: O_ACCMODE, O_APPEND, O_DIRECT, O_NONBLOCK, O_PATH in one call; EBADF.
#[inline]
pub fn status_flags(fd: c_int) -> Result<c_int, Errno> {
    // SAFETY: no pointer is passed.
    unsafe { syscall(libc::SYS_fcntl, [fd as usize, libc::F_GETFL as usize, 0, 0, 0, 0]) }.map(|f| f as c_int)
}

/// Which file a descriptor is open on, for as long as that file exists.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Identity {
    pub device: u64,
    pub inode: u64,
}

impl Identity {
    /// Whether the file lies on a block device of this machine, by its device number: network and
    /// user-space file systems, btrfs and tmpfs have numbers without a device behind them.
    pub fn is_on_block_device(self) -> bool {
        libc::major(self.device) != 0
    }
}

/// What we ask of a file.
#[derive(Clone, Copy)]
pub struct FileStatus {
    pub identity: Identity,
    /// `stx_mode & S_IFMT`.
    pub kind: u32,
    /// The device that a device file stands for.
    pub special: u64,
    /// Bytes of a regular file.
    pub size: u64,
}

impl FileStatus {
    /// /dev/zero and its kin (Documentation/admin-guide/devices.txt).
    pub fn is_memory_device(&self) -> bool {
        self.kind == libc::S_IFCHR && libc::major(self.special) == 1
    }
}

/// As `FileStatus::is_memory_device`.
pub fn is_memory_device(fd: c_int) -> bool {
    status(fd).is_ok_and(|status| status.is_memory_device())
}

/// `statx(2)` for type and identity, from what the kernel knows already. Not fstat(2), for two
/// reasons: that asks the server of a network or user-space file system, and it queries the file's times, after
/// which xfs refuses the next write with RWF_NOWAIT, and ext4 takes half as long again for it (multigrain
/// timestamps, Linux 6.13). EBADF.
#[inline]
pub fn status(fd: c_int) -> Result<FileStatus, Errno> {
    let mut status = core::mem::MaybeUninit::<libc::statx>::uninit();
    let flags = (libc::AT_EMPTY_PATH | libc::AT_STATX_DONT_SYNC) as usize;
    let mask = (libc::STATX_TYPE | libc::STATX_INO | libc::STATX_SIZE) as usize;
    let arguments = [fd as usize, c"".as_ptr() as usize, flags, mask, status.as_mut_ptr() as usize, 0];
    // SAFETY: an empty path; the kernel fills the structure on success.
    let status = unsafe {
        match syscall(libc::SYS_statx, arguments) {
            Ok(_) => status.assume_init(),
            // Not known to the kernel, or to a seccomp filter that is older than the call.
            Err(Errno::NOSYS | Errno::PERM) => return status_by_fstat(fd),
            Err(errno) => return Err(errno),
        }
    };
    Ok(FileStatus {
        identity: Identity {
            device: libc::makedev(status.stx_dev_major, status.stx_dev_minor),
            inode: status.stx_ino,
        },
        kind: u32::from(status.stx_mode) & libc::S_IFMT,
        special: libc::makedev(status.stx_rdev_major, status.stx_rdev_minor),
        size: status.stx_size,
    })
}

#[cold]
fn status_by_fstat(fd: c_int) -> Result<FileStatus, Errno> {
    let mut status = core::mem::MaybeUninit::<libc::stat>::uninit();
    // SAFETY: the kernel fills the structure on success.
    let status = unsafe {
        syscall(libc::SYS_fstat, [fd as usize, status.as_mut_ptr() as usize, 0, 0, 0, 0])?;
        status.assume_init()
    };
    Ok(FileStatus {
        identity: Identity { device: status.st_dev, inode: status.st_ino },
        kind: status.st_mode & libc::S_IFMT,
        special: status.st_rdev,
        size: status.st_size as u64,
    })
}

/// /dev/ptmx (Documentation/admin-guide/devices.txt).
const TERMINAL_MULTIPLEXER: (u32, u32) = (5, 2);

/// The device that a descriptor stands for.
fn device_of(fd: c_int) -> (u32, u32) {
    status(fd).map_or((0, 0), |status| (libc::major(status.special), libc::minor(status.special)))
}

/// Whether opened once more it would be another terminal: /dev/ptmx is a new one each time, /dev/tty the process's own of the
/// moment, /dev/console and /dev/tty0 the one that is used.
pub fn is_another_when_reopened(fd: c_int) -> bool {
    matches!(device_of(fd), TERMINAL_MULTIPLEXER | (5, 0 | 1) | (4, 0))
}

/// Whether the file is memory (tmpfs, hugetlbfs, memfd): those alone have seals to ask for, and
/// `fcntl(F_GET_SEALS)` asks nobody, as `fstatfs` would the server of a user-space file system.
pub fn is_memory(fd: c_int) -> bool {
    // SAFETY: no pointer is passed.
    unsafe { syscall(libc::SYS_fcntl, [fd as usize, libc::F_GET_SEALS as usize, 0, 0, 0, 0]) }.is_ok()
}

/// Whether the descriptor is on a memfd of just this size, which can neither shrink nor grow.
pub fn is_sealed_memory(fd: c_int, bytes: usize) -> bool {
    let wanted = (libc::F_SEAL_SHRINK | libc::F_SEAL_GROW) as usize;
    // SAFETY: no pointer is passed.
    let seals = unsafe { syscall(libc::SYS_fcntl, [fd as usize, libc::F_GET_SEALS as usize, 0, 0, 0, 0]) };
    seals.is_ok_and(|seals| seals & wanted == wanted) && size(fd) == Ok(bytes as u64)
}

/// The file's length.
fn size(fd: c_int) -> Result<u64, Errno> {
    let mut status = core::mem::MaybeUninit::<libc::statx>::uninit();
    let (flags, mask) = (libc::AT_EMPTY_PATH as usize, libc::STATX_SIZE as usize);
    let arguments = [fd as usize, c"".as_ptr() as usize, flags, mask, status.as_mut_ptr() as usize, 0];
    // SAFETY: an empty path; the kernel fills the structure on success.
    unsafe {
        syscall(libc::SYS_statx, arguments)?;
        Ok(status.assume_init().stx_size)
    }
}

/// A caller's buffer, as numbers. The kernel checks the addresses (EFAULT).
#[derive(Clone, Copy)]
pub struct Buffer {
    /// Of the bytes, or of the first `iovec` when there are `vectors`.
    pub address: usize,
    pub bytes: usize,
    /// Parts of a vectored request's buffer; 0: it is one piece. The array is the library's own copy
    /// (`vectors`), in the hands of the one thread that works on the request.
    pub vectors: u32,
}

impl Buffer {
    /// The part of the buffer that is left after `done` bytes. Of a vectored one the copy of the array is
    /// shortened in place: what was before is gone.
    pub fn after(self, done: usize) -> Buffer {
        let bytes = self.bytes - done;
        if self.vectors == 0 {
            return Buffer { address: self.address.wrapping_add(done), bytes, vectors: 0 };
        }
        let (mut at, mut vectors, mut done) = (self.address as *mut libc::iovec, self.vectors, done);
        // SAFETY: `vectors` entries of our own copy, which no other thread looks at.
        unsafe {
            while vectors > 1 && done >= (*at).iov_len {
                done -= (*at).iov_len;
                at = at.add(1);
                vectors -= 1;
            }
            (*at).iov_base = (*at).iov_base.cast::<u8>().wrapping_add(done).cast();
            (*at).iov_len -= done;
        }
        Buffer { address: at as usize, bytes, vectors }
    }
}

/// Which way a transfer goes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Direction {
    Read,
    Write,
}

/// The file position of a descriptor, in `transfer_nowait`: what a pipe or a socket wants.
pub const STREAM: i64 = -1;

/// `preadv2(2)`/`pwritev2(2)` with RWF_NOWAIT: what can be done without waiting, else EAGAIN;
/// EOPNOTSUPP where the file knows no such thing; `offset` [`STREAM`] for what cannot seek.
#[inline]
pub fn transfer_nowait(direction: Direction, fd: c_int, buffer: Buffer, offset: i64) -> Outcome {
    let vector = libc::iovec { iov_base: buffer.address as *mut libc::c_void, iov_len: buffer.bytes };
    let (first, count) = match buffer.vectors {
        0 => (&raw const vector as usize, 1),
        count => (buffer.address, count as usize),
    };
    let number = match direction {
        Direction::Read => libc::SYS_preadv2,
        Direction::Write => libc::SYS_pwritev2,
    };
    // The offset goes in two halves; on 64-bit kernels the low one alone counts.
    let arguments = [fd as usize, first, count, offset as usize, 0, RWF_NOWAIT as usize];
    // SAFETY: the iovecs are live; what they point to is the caller's buffer, checked by the kernel.
    unsafe { syscall(number, arguments) }
}

/// `pread(2)`/`pwrite(2)`, or `read(2)`/`write(2)` at [`STREAM`]; their vectored kin. May wait: library
/// threads only, or where waiting is known not to happen.
pub fn transfer(direction: Direction, fd: c_int, buffer: Buffer, offset: i64) -> Outcome {
    let number = match (direction, offset, buffer.vectors) {
        (Direction::Read, STREAM, 0) => libc::SYS_read,
        (Direction::Write, STREAM, 0) => libc::SYS_write,
        (Direction::Read, _, 0) => libc::SYS_pread64,
        (Direction::Write, _, 0) => libc::SYS_pwrite64,
        (Direction::Read, STREAM, _) => libc::SYS_readv,
        (Direction::Write, STREAM, _) => libc::SYS_writev,
        (Direction::Read, ..) => libc::SYS_preadv,
        (Direction::Write, ..) => libc::SYS_pwritev,
    };
    let length = if buffer.vectors == 0 { buffer.bytes } else { buffer.vectors as usize };
    // SAFETY: the buffer is the caller's, checked by the kernel; iovecs are live.
    unsafe { syscall(number, [fd as usize, buffer.address, length, offset as usize, 0, 0]) }
}

/// `mlock(2)` of the pages that hold the buffer: they are read in and stay. ENOMEM, EPERM, EAGAIN.
pub fn lock_pages(buffer: Buffer) -> Outcome {
    // SAFETY: the kernel checks the range; locking changes nothing that the program can see but residence.
    unsafe { syscall(libc::SYS_mlock, [buffer.address, buffer.bytes, 0, 0, 0, 0]) }
}

/// `fsync(2)`, or `fdatasync(2)` for `data_only`. Waits: library threads only.
pub fn synchronise(fd: c_int, data_only: bool) -> Outcome {
    let number = if data_only { libc::SYS_fdatasync } else { libc::SYS_fsync };
    // SAFETY: no pointer is passed.
    unsafe { syscall(number, [fd as usize, 0, 0, 0, 0, 0]) }
}

/// An empty datagram: `write(2)` of no bytes sends one, `pwritev2` of none does nothing.
pub fn send_empty(fd: c_int) -> Outcome {
    let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
    // SAFETY: no byte is read.
    unsafe { syscall(libc::SYS_sendto, [fd as usize, 0, 0, flags as usize, 0, 0]) }
}

/// `posix_fadvise(POSIX_FADV_WILLNEED)`: starts reading the range into the page cache.
pub fn read_ahead(fd: c_int, offset: i64, bytes: usize) {
    let arguments = [fd as usize, offset as usize, bytes, libc::POSIX_FADV_WILLNEED as usize, 0, 0];
    // SAFETY: no pointer is passed. Advice that is refused costs speed only.
    let _ = unsafe { syscall(libc::SYS_fadvise64, arguments) };
}

/// `poll(2)` without waiting: the ready events among `events`, also POLLERR, POLLHUP, POLLNVAL.
pub fn poll_now(fd: c_int, events: i16) -> i16 {
    let mut entry = libc::pollfd { fd, events, revents: 0 };
    let zero = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    let arguments = [&raw mut entry as usize, 1, &raw const zero as usize, 0, 0, 0];
    // SAFETY: one live pollfd, a live timespec, no mask.
    match unsafe { syscall(libc::SYS_ppoll, arguments) } {
        Ok(_) => entry.revents,
        Err(_) => 0,
    }
}

/// Whether this process may make files of any size (RLIMIT_FSIZE): where it may not, a write
/// beyond the limit sends SIGXFSZ to the writing thread, which must not be the caller's.
pub fn file_size_unlimited() -> bool {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    let arguments = [0, libc::RLIMIT_FSIZE as usize, 0, &raw mut limit as usize, 0, 0];
    // SAFETY: the kernel fills the live structure.
    unsafe { syscall(libc::SYS_prlimit64, arguments) }.is_ok() && limit.rlim_cur == libc::RLIM_INFINITY
}

/// Whether a poll of this descriptor for any of the `events` has something to say, and says so at once: a user-space file
/// system (FUSE) is asked for its files and devices, and may never answer.
pub fn is_ready_for_certain(fd: c_int, events: i16) -> bool {
    status(fd).is_ok_and(|status| match (status.kind, libc::major(status.special)) {
        (libc::S_IFDIR, _) => true,
        (libc::S_IFREG | libc::S_IFBLK, _) => status.identity.is_on_block_device(),
        _ if status.is_memory_device() => true,
        // Of other devices only terminals, consoles and pseudo-terminals (Documentation/admin-guide/devices.txt).
        (libc::S_IFCHR, major) if !matches!(major, 4 | 5 | 136..=143) => false,
        _ => poll_now(fd, events) & events != 0,
    })
}

/// A descriptor that is ready for reading, closed on exec: an eventfd, or where those are refused the root
/// directory. EMFILE, ENFILE, ENOMEM.
pub fn open_ready() -> Result<c_int, Errno> {
    // SAFETY: no pointer is passed.
    let opened = unsafe { syscall(libc::SYS_eventfd2, [1, libc::EFD_CLOEXEC as usize, 0, 0, 0, 0]) };
    let flags = (libc::O_RDONLY | libc::O_DIRECTORY | libc::O_CLOEXEC) as usize;
    let root = [libc::AT_FDCWD as usize, c"/".as_ptr() as usize, flags, 0, 0, 0];
    // SAFETY: a C string.
    opened.or_else(|_| unsafe { syscall(libc::SYS_openat, root) }).map(|fd| fd as c_int)
}

/// Takes one from what an eventfd counts, where it counts anything. Another thread may see the number without all of it
/// for a moment. Async-signal-safe. Linux before 5.8 cannot read an eventfd without waiting: nothing is taken.
pub fn take_one(eventfd: c_int) {
    if !is_eventfd(eventfd) {
        return;
    }
    let count = AtomicU64::new(0);
    let word = Buffer { address: count.as_ptr() as usize, bytes: size_of::<u64>(), vectors: 0 };
    // One that counts down gives 1; any other gives all.
    if transfer_nowait(Direction::Read, eventfd, word, STREAM) == Ok(8) && count.load(Ordering::Relaxed) > 1 {
        count.fetch_sub(1, Ordering::Relaxed);
        // It has room for what was just in it.
        let _ = transfer(Direction::Write, eventfd, word, STREAM);
    }
}

/// Whether a descriptor is an eventfd.
fn is_eventfd(fd: c_int) -> bool {
    is_named(fd, b"anon_inode:[eventfd]")
}

/// Whether a descriptor is a signalfd.
pub fn is_signalfd(fd: c_int) -> bool {
    is_named(fd, b"anon_inode:[signalfd]")
}

/// Whether a descriptor of the calling thread has this name, where /proc is mounted.
fn is_named(fd: c_int, wanted: &[u8]) -> bool {
    let path = path_of(fd);
    let mut name = [0u8; 32];
    let arguments =
        [libc::AT_FDCWD as usize, path.as_ptr() as usize, name.as_mut_ptr() as usize, name.len(), 0, 0];
    // SAFETY: a C string, and room for as many bytes as we say.
    let length = unsafe { syscall(libc::SYS_readlinkat, arguments) };
    length == Ok(wanted.len()) && name.starts_with(wanted)
}

/// "/proc/thread-self/fd/" and at most ten digits, as a C string; written by hand, for no allocation.
pub fn path_of(fd: c_int) -> [u8; 32] {
    const DIRECTORY: &[u8] = b"/proc/thread-self/fd/";
    let mut path = [0; 32];
    path[..DIRECTORY.len()].copy_from_slice(DIRECTORY);
    let mut rest = fd.unsigned_abs();
    let digits = rest.checked_ilog10().unwrap_or(0) as usize + 1;
    for place in path[DIRECTORY.len()..][..digits].iter_mut().rev() {
        *place = b'0' + (rest % 10) as u8;
        rest /= 10;
    }
    path
}

/// Whether the descriptor is on a terminal, or on the master of one.
pub fn is_terminal(fd: c_int) -> bool {
    terminal(fd).is_some()
}

/// Whether a read of this terminal ends by a count or a time of its own (`termios(3)`: VMIN, VTIME), which neither poll(2) nor
/// a read with O_NONBLOCK goes by. A master tells the settings of its other side, and goes by none.
pub fn ends_reads_itself(fd: c_int) -> bool {
    terminal(fd).is_some_and(|terminal| {
        terminal.c_lflag & libc::ICANON == 0
            && terminal.c_cc[libc::VMIN] != 1
            && device_of(fd) != TERMINAL_MULTIPLEXER
    })
}

/// The kernel's `struct termios` (asm-generic/termbits.h).
#[repr(C)]
#[derive(Default)]
struct Terminal {
    c_iflag: u32,
    c_oflag: u32,
    c_cflag: u32,
    c_lflag: u32,
    c_line: u8,
    c_cc: [u8; 19],
}

fn terminal(fd: c_int) -> Option<Terminal> {
    let mut terminal = Terminal::default();
    let arguments = [fd as usize, libc::TCGETS as usize, &raw mut terminal as usize, 0, 0, 0];
    // SAFETY: the kernel fills the live structure.
    unsafe { syscall(libc::SYS_ioctl, arguments) }.ok().map(|_| terminal)
}

/// `close(2)` of a descriptor of our own.
pub fn close(fd: c_int) {
    // SAFETY: no pointer is passed.
    let _ = unsafe { syscall(libc::SYS_close, [fd as usize, 0, 0, 0, 0, 0]) };
}

/// `epoll_create1(2)`, closed on exec. Not under the numbers of standard input and output, which a program that has closed
/// them expects for what it opens next.
pub fn epoll_create() -> Result<c_int, Errno> {
    const FIRST: usize = 3;
    // SAFETY: no pointer is passed.
    let made = unsafe { syscall(libc::SYS_epoll_create1, [libc::EPOLL_CLOEXEC as usize, 0, 0, 0, 0, 0]) }?;
    if made >= FIRST {
        return Ok(made as c_int);
    }
    // SAFETY: no pointer is passed.
    let moved = unsafe { syscall(libc::SYS_fcntl, [made, libc::F_DUPFD_CLOEXEC as usize, FIRST, 0, 0, 0]) };
    close(made as c_int);
    moved.map(|fd| fd as c_int)
}

/// Watches `fd` for `events` (poll's bits, which are epoll's) once; `data` comes back when it is ready.
pub fn epoll_watch_once(instance: c_int, fd: c_int, events: i16, data: u64) -> Result<(), Errno> {
    let events = events as u32 | libc::EPOLLONESHOT as u32;
    let mut event = libc::epoll_event { events, u64: data };
    let mut control = |operation: c_int| {
        let arguments = [instance as usize, operation as usize, fd as usize, &raw mut event as usize, 0, 0];
        // SAFETY: a live epoll_event.
        unsafe { syscall(libc::SYS_epoll_ctl, arguments) }.map(|_| ())
    };
    match control(libc::EPOLL_CTL_ADD) {
        Err(Errno(libc::EEXIST)) => control(libc::EPOLL_CTL_MOD),
        other => other,
    }
}

/// Stops watching `fd`.
pub fn epoll_forget(instance: c_int, fd: c_int) {
    let arguments = [instance as usize, libc::EPOLL_CTL_DEL as usize, fd as usize, 0, 0, 0];
    // SAFETY: EPOLL_CTL_DEL reads no event (epoll_ctl(2), since 2.6.9).
    let _ = unsafe { syscall(libc::SYS_epoll_ctl, arguments) };
}

/// Puts the data of ready descriptors into `ready` without waiting; how many. EBADF, EINVAL: no epoll instance.
pub fn epoll_ready(instance: c_int, ready: &mut [u64; 64]) -> Outcome {
    let mut events = [libc::epoll_event { events: 0, u64: 0 }; 64];
    let arguments = [instance as usize, events.as_mut_ptr() as usize, events.len(), 0, 0, 8];
    // SAFETY: room for 64 events; no time-out, no mask.
    let count = unsafe { syscall(libc::SYS_epoll_pwait, arguments) }?;
    for (data, event) in ready.iter_mut().zip(&events[..count]) {
        *data = event.u64;
    }
    Ok(count)
}
