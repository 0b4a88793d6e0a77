//! The C side: `struct aiocb`, `struct sigevent` and the numbers of `<aio.h>`, with glibc's layout
//! (musl puts every public field, the error code and the return value at the same offsets).

use core::ptr::NonNull;
use core::sync::atomic::{AtomicI32, AtomicI64, AtomicU32, AtomicU64, Ordering};
use libc::{c_int, c_void};

/// `struct sigevent` (signal.h), the members that AIO uses.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Sigevent {
    pub value: usize,
    pub signo: c_int,
    pub notify: c_int,
    /// `sigev_notify_function`; its first four bytes are `sigev_notify_thread_id` for SIGEV_THREAD_ID.
    pub function: usize,
    /// `sigev_notify_attributes`: a `pthread_attr_t *` or NULL.
    pub attributes: usize,
    reserved: [u64; 4],
}

/// `struct aiocb` (aio.h). The private members are ours between submission and completion.
#[repr(C)]
pub struct Aiocb {
    pub aio_fildes: c_int,
    pub aio_lio_opcode: c_int,
    pub aio_reqprio: c_int,
    pub aio_buf: *mut c_void,
    pub aio_nbytes: usize,
    pub aio_sigevent: Sigevent,
    /// Which request is at work on it (`Pool` handle), 0 for none. glibc: `__next_prio`.
    request: AtomicU64,
    /// Which engine of this process's line of forks: see `process`. glibc: `__abs_prio`.
    epoch: AtomicU32,
    /// What `finished` knows it by, 0 for nothing. glibc: `__policy`.
    record: AtomicU32,
    /// EINPROGRESS, 0 or an error number. glibc: `__error_code`.
    status: AtomicI32,
    /// glibc: `__return_value`.
    returned: AtomicI64,
    pub aio_offset: i64,
    reserved: [u8; 32],
}

/// `struct aioinit` (aio.h, a GNU extension): hints for `aio_init`.
#[repr(C)]
pub struct Aioinit {
    /// The most helper threads to use.
    pub aio_threads: c_int,
    /// Requests expected in flight: the size of the kernel's context.
    pub aio_num: c_int,
    pub unused: [c_int; 6],
}

const _: () = {
    use core::mem::{align_of, offset_of, size_of};
    assert!(size_of::<Aiocb>() == 168 && size_of::<libc::aiocb>() == 168);
    assert!(align_of::<Aiocb>() == align_of::<libc::aiocb>());
    assert!(offset_of!(Aiocb, aio_fildes) == offset_of!(libc::aiocb, aio_fildes));
    assert!(offset_of!(Aiocb, aio_lio_opcode) == offset_of!(libc::aiocb, aio_lio_opcode));
    assert!(offset_of!(Aiocb, aio_reqprio) == offset_of!(libc::aiocb, aio_reqprio));
    assert!(offset_of!(Aiocb, aio_buf) == offset_of!(libc::aiocb, aio_buf));
    assert!(offset_of!(Aiocb, aio_nbytes) == offset_of!(libc::aiocb, aio_nbytes));
    assert!(offset_of!(Aiocb, aio_sigevent) == offset_of!(libc::aiocb, aio_sigevent));
    assert!(offset_of!(Aiocb, aio_offset) == offset_of!(libc::aiocb, aio_offset));
    assert!(offset_of!(Aiocb, request) == 96 && offset_of!(Aiocb, epoch) == 104);
    assert!(offset_of!(Aiocb, status) == 112 && offset_of!(Aiocb, returned) == 120);
    assert!(size_of::<Sigevent>() == 64 && size_of::<Sigevent>() == size_of::<libc::sigevent>());
    assert!(offset_of!(Sigevent, signo) == offset_of!(libc::sigevent, sigev_signo));
    assert!(offset_of!(Sigevent, notify) == offset_of!(libc::sigevent, sigev_notify));
    assert!(offset_of!(Sigevent, function) == offset_of!(libc::sigevent, sigev_notify_thread_id));
    assert!(offset_of!(Sigevent, attributes) == 24);
    assert!(size_of::<Aioinit>() == 32);
};

/// A caller's aiocb. It is the caller's memory: valid from submission until the status is stored,
/// and from then on not to be touched, because the caller may have freed it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct AiocbRef(NonNull<Aiocb>);

impl AiocbRef {
    /// `None` for NULL.
    ///
    /// # Safety
    /// A pointer that is not NULL points to an aiocb that lives at least until the call that got it
    /// returns and, where that call submits it, until the request is complete: `<aio.h>`'s promise.
    pub unsafe fn new(pointer: *const Aiocb) -> Option<AiocbRef> {
        NonNull::new(pointer.cast_mut()).map(AiocbRef)
    }

    pub fn pointer(self) -> *mut Aiocb {
        self.0.as_ptr()
    }

    /// For storing in a request.
    pub fn address(self) -> u64 {
        self.0.as_ptr() as u64
    }

    /// The aiocb of a request that is not complete, from the address stored in it.
    ///
    /// # Safety
    /// `address` came from `address()` of an aiocb whose request is not complete.
    pub unsafe fn from_address(address: u64) -> AiocbRef {
        // SAFETY: address() of a NonNull is not 0; the rest is our caller's promise.
        AiocbRef(unsafe { NonNull::new_unchecked(address as *mut Aiocb) })
    }

    fn get(self) -> &'static Aiocb {
        // SAFETY: valid for the uses that `new` and `from_address` state. The public members are not
        // written while we read them (aio_read(3): results are undefined otherwise); ours are atomic.
        unsafe { self.0.as_ref() }
    }

    pub fn fildes(self) -> c_int {
        self.get().aio_fildes
    }
    pub fn opcode(self) -> c_int {
        self.get().aio_lio_opcode
    }
    pub fn reqprio(self) -> c_int {
        self.get().aio_reqprio
    }
    pub fn buffer(self) -> crate::sys::files::Buffer {
        crate::sys::files::Buffer {
            address: self.get().aio_buf as usize,
            bytes: self.get().aio_nbytes,
            vectors: 0,
        }
    }
    pub fn offset(self) -> i64 {
        self.get().aio_offset
    }
    pub fn sigevent(self) -> Sigevent {
        self.get().aio_sigevent
    }

    /// `aio_read` and its kin ignore the opcode, and set it, as glibc does.
    pub fn set_opcode(self, opcode: c_int) {
        // SAFETY: between the caller's call and its return the aiocb is ours to write.
        unsafe { (&raw mut (*self.0.as_ptr()).aio_lio_opcode).write(opcode) };
    }

    /// Submission begins: in progress, and no request known yet.
    pub fn begin(self, epoch: u32, record: u32) {
        let aiocb = self.get();
        aiocb.request.store(0, Ordering::Relaxed);
        aiocb.epoch.store(epoch, Ordering::Relaxed);
        aiocb.record.store(record, Ordering::Relaxed);
        aiocb.returned.store(-1, Ordering::Relaxed);
        // Pairs with `status`: who sees in-progress sees the members above.
        aiocb.status.store(libc::EINPROGRESS, Ordering::Release);
    }

    /// Makes the request findable from the aiocb. Before anything can complete it.
    pub fn attach(self, handle: u64) {
        self.get().request.store(handle, Ordering::Release);
    }

    /// The handle stored by `attach`, or garbage in an aiocb that was never submitted.
    pub fn request(self) -> u64 {
        self.get().request.load(Ordering::Acquire)
    }

    /// The record given to `begin`, or garbage in an aiocb that was never submitted.
    pub fn record(self) -> u32 {
        self.get().record.load(Ordering::Relaxed)
    }

    /// For a request that is not complete.
    pub fn set_record(self, record: u32) {
        self.get().record.store(record, Ordering::Relaxed);
    }

    pub fn epoch(self) -> u32 {
        self.get().epoch.load(Ordering::Relaxed)
    }

    /// Completes: return value first, then the status. After this the aiocb is the caller's again
    /// and may be gone. SeqCst: a waiter registers, then looks at the status; a completer stores
    /// the status, then looks for a waiter; one of them sees the other (`wait`).
    #[inline(always)] // The linker drops a copy that nobody calls, but not its probe's note.
    pub fn finish(self, outcome: crate::errno::Outcome) {
        let (status, returned) = match outcome {
            Ok(count) => (0, count as i64),
            Err(errno) => (errno.0, -1),
        };
        probe::probe!(aio_posix, complete, self.address(), returned, status);
        self.store(status, returned);
    }

    /// The submitting call itself fails: nothing was started.
    pub fn refuse(self, errno: crate::errno::Errno) {
        self.store(errno.0, -1);
    }

    #[inline(always)]
    fn store(self, status: i32, returned: i64) {
        let aiocb = self.get();
        aiocb.returned.store(returned, Ordering::Relaxed);
        aiocb.status.store(status, Ordering::SeqCst);
    }

    /// `aio_error`'s answer. SeqCst: see `finish`.
    #[inline]
    pub fn status(self) -> c_int {
        self.get().status.load(Ordering::SeqCst)
    }

    #[inline]
    pub fn in_progress(self) -> bool {
        self.status() == libc::EINPROGRESS
    }

    /// `aio_return`'s answer.
    pub fn returned(self) -> i64 {
        self.get().returned.load(Ordering::Relaxed)
    }
}
