//! What the library has beyond POSIX, looked up by name: in this process it is preloaded.

use libc::{aiocb, c_int, c_void, ssize_t, timespec};
use std::ffi::CStr;
use std::io;
use std::ptr;

/// `sigev_notify` for an eventfd in `sigev_signo` (aio_posix.h).
pub const SIGEV_AIO_EVENTFD: c_int = 0x0a10;

fn find(name: &'static CStr) -> Result<*mut c_void, String> {
    // SAFETY: a C string.
    let address = unsafe { libc::dlsym(libc::RTLD_DEFAULT, name.as_ptr()) };
    if address.is_null() {
        return Err(format!("the preloaded library has no {}", name.to_string_lossy()));
    }
    Ok(address)
}

/// aio_readv and aio_writev.
pub struct Vectored {
    pub read: extern "C" fn(*mut aiocb) -> c_int,
    pub write: extern "C" fn(*mut aiocb) -> c_int,
}

impl Vectored {
    pub fn new() -> Result<Vectored, String> {
        // SAFETY: the library's functions of these names have this type.
        unsafe {
            let read = std::mem::transmute::<*mut c_void, extern "C" fn(*mut aiocb) -> c_int>;
            Ok(Vectored { read: read(find(c"aio_readv")?), write: read(find(c"aio_writev")?) })
        }
    }
}

type WaitFunction = extern "C" fn(*mut *mut aiocb, *const timespec) -> ssize_t;

/// aio_waitcomplete.
pub struct WaitComplete(WaitFunction);

impl WaitComplete {
    /// The library keeps completions for who asks so from the first call on that finds AIO in use: a request of no bytes and
    /// a call without waiting come before everything else.
    pub fn new(fd: c_int) -> Result<WaitComplete, String> {
        // SAFETY: the library's function of this name has this type.
        let wait = unsafe { std::mem::transmute::<*mut c_void, WaitFunction>(find(c"aio_waitcomplete")?) };
        // SAFETY: zeros are a valid aiocb; it stays until its request is complete, which one of no bytes is at once.
        unsafe {
            let mut empty: aiocb = std::mem::zeroed();
            empty.aio_fildes = fd;
            empty.aio_sigevent.sigev_notify = libc::SIGEV_NONE;
            if libc::aio_read(&mut empty) != 0 {
                return Err(format!("aio_read: {}", io::Error::last_os_error()));
            }
            while libc::aio_error(&empty) == libc::EINPROGRESS {
                std::thread::yield_now();
            }
            let (mut any, at_once) = (ptr::null_mut(), timespec { tv_sec: 0, tv_nsec: 0 });
            wait(&mut any, &at_once);
        }
        Ok(WaitComplete(wait))
    }

    /// The next completion: its control block, and the count or -errno.
    pub fn wait(&self) -> Result<(*mut aiocb, i64), String> {
        let mut done = ptr::null_mut();
        let value = (self.0)(&mut done, ptr::null());
        match (value, io::Error::last_os_error()) {
            (_, error) if done.is_null() => Err(format!("aio_waitcomplete: {error}")),
            (-1, error) => Ok((done, -i64::from(error.raw_os_error().unwrap_or(libc::EIO)))),
            (value, _) => Ok((done, value as i64)),
        }
    }
}

/// An eventfd that completions add to, and the epoll instance of a program that waits for it, as for everything else.
pub struct Events {
    instance: c_int,
    pub counter: c_int,
}

impl Events {
    pub fn new() -> Result<Events, String> {
        // SAFETY: plain descriptors, and an event that is copied.
        unsafe {
            let counter = libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK);
            let instance = libc::epoll_create1(libc::EPOLL_CLOEXEC);
            let mut event = libc::epoll_event { events: libc::EPOLLIN as u32, u64: 0 };
            if libc::epoll_ctl(instance, libc::EPOLL_CTL_ADD, counter, &mut event) != 0 {
                return Err(format!("epoll: {}", io::Error::last_os_error()));
            }
            Ok(Events { instance, counter })
        }
    }

    /// Waits until something was counted, and takes it.
    pub fn wait(&self) -> Result<(), String> {
        // SAFETY: room for one event, and for the count.
        unsafe {
            let mut event: libc::epoll_event = std::mem::zeroed();
            if libc::epoll_wait(self.instance, &mut event, 1, -1) < 0 {
                return Err(format!("epoll_wait: {}", io::Error::last_os_error()));
            }
            let mut count = 0u64;
            libc::read(self.counter, (&raw mut count).cast(), size_of::<u64>());
        }
        Ok(())
    }
}

impl Drop for Events {
    fn drop(&mut self) {
        // SAFETY: our own descriptors.
        unsafe {
            libc::close(self.instance);
            libc::close(self.counter);
        }
    }
}

/// The two halves of each buffer, for vectored requests.
pub fn halves(buffer: *mut u8, block: usize) -> [libc::iovec; 2] {
    let half = |at| libc::iovec { iov_base: buffer.wrapping_add(at).cast(), iov_len: block / 2 };
    [half(0), half(block / 2)]
}
