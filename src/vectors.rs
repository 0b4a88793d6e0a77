//! Copies of callers' `iovec` arrays: a vectored request's buffer, until it is complete.
//!
//! The caller may reuse its array when its call returns (the kernel copies it at io_submit, as we do here). The
//! copies come from pools, not from the allocator: a request may be completed, and its copy given back, in a
//! signal handler. Who works on the request shortens the copy as parts are done (`Buffer::after`).

use crate::errno::Errno;
use crate::pool::{Cell64, Number, Pool, Slot};
use crate::sys::files::Buffer;
use core::sync::atomic::AtomicU32;
use libc::iovec;

/// Most parts of one request: the kernel's UIO_MAXIOV, which is IOV_MAX.
pub const MOST_PARTS: usize = 1024;
const FEW: usize = 16;

/// An array with room for `ROOM` parts; each is two words.
struct Copy<const ROOM: usize> {
    link: AtomicU32,
    parts: [[Cell64; 2]; ROOM],
}
const _: () = assert!(size_of::<[Cell64; 2]>() == size_of::<iovec>());

// SAFETY: every member is an atomic; zero is an array of empty parts.
unsafe impl<const ROOM: usize> Slot for Copy<ROOM> {
    fn free_link(&self) -> &AtomicU32 {
        &self.link
    }
}

/// Marks the number of a copy of up to `MOST_PARTS`.
const LARGE: Number = 1 << 31;

pub struct Copies {
    small: Pool<Copy<FEW>>,
    large: Pool<Copy<MOST_PARTS>>,
}

impl Copies {
    pub const fn new() -> Copies {
        Copies { small: Pool::new(), large: Pool::new() }
    }

    /// Copies the array that `callers` names, and adds up its parts. The answer's number is to be given back.
    /// EINVAL: more than IOV_MAX parts. EFAULT: parts, but no array. EAGAIN: memory is out. A sum over SSIZE_MAX stays one, for the
    /// request to end with EINVAL.
    ///
    /// # Safety
    /// `callers.address` is an array of `callers.bytes` iovecs: `aio_iov` and `aio_iovcnt`.
    pub unsafe fn copy(&self, callers: Buffer) -> Result<(Buffer, Number), Errno> {
        let count = callers.bytes;
        if count > MOST_PARTS {
            return Err(Errno::INVAL);
        }
        if callers.address == 0 && count != 0 {
            return Err(Errno(libc::EFAULT));
        }
        let (number, parts) = self.take(count).ok_or(Errno::AGAIN)?;
        let mut bytes = 0usize;
        for (at, part) in parts.iter().enumerate().take(count) {
            // SAFETY: promised by our caller.
            let vector = unsafe { (callers.address as *const iovec).add(at).read() };
            part[0].set(vector.iov_base as u64);
            part[1].set(vector.iov_len as u64);
            bytes = bytes.saturating_add(vector.iov_len);
        }
        Ok((Buffer { address: parts.as_ptr() as usize, bytes, vectors: count as u32 }, number))
    }

    fn take(&self, count: usize) -> Option<(Number, &[[Cell64; 2]])> {
        if count <= FEW {
            let number = self.small.take()?;
            return self.small.get(number).map(|copy| (number, &copy.parts[..]));
        }
        let number = self.large.take()?;
        self.large.get(number).map(|copy| (number | LARGE, &copy.parts[..]))
    }

    /// The request of the copy is over. 0: it had none.
    pub fn give(&self, number: Number) {
        match number {
            0 => {}
            number if number & LARGE != 0 => self.large.give(number & !LARGE),
            number => self.small.give(number),
        }
    }
}
