//! `linux/aio_abi.h`: the kernel's side of asynchronous I/O, whole, with its layout asserted.

/// `IOCB_CMD_*`: what an iocb asks for.
pub mod cmd {
    pub const PREAD: u16 = 0;
    pub const PWRITE: u16 = 1;
    pub const FSYNC: u16 = 2;
    pub const FDSYNC: u16 = 3;
    pub const POLL: u16 = 5;
    /// Numbered by the header; the kernel answers EINVAL.
    pub const NOOP: u16 = 6;
    pub const PREADV: u16 = 7;
    pub const PWRITEV: u16 = 8;
}

/// `IOCB_FLAG_RESFD`: completion adds one to the eventfd in `resfd`.
pub const FLAG_RESFD: u32 = 1 << 0;
/// `IOCB_FLAG_IOPRIO`: `reqprio` is an I/O priority as `ioprio_set(2)` takes it.
pub const FLAG_IOPRIO: u32 = 1 << 1;
/// `RWF_NOWAIT`: fail with EAGAIN instead of waiting (`preadv2(2)`).
pub const RWF_NOWAIT: i32 = 0x8;
/// `RWF_NOSIGNAL` (Linux 6.18): a write that nobody reads fails with EPIPE, and sends no SIGPIPE.
pub const RWF_NOSIGNAL: i32 = 0x100;

/// `struct iocb`: one request as the kernel reads it (little-endian field order).
#[repr(C)]
#[derive(Clone, Copy, Default, Debug)]
pub struct Iocb {
    /// Handed back in the event; ours to choose.
    pub data: u64,
    /// Set by the kernel at submission; `io_cancel` wants it back.
    pub key: u32,
    pub rw_flags: i32,
    pub opcode: u16,
    pub reqprio: i16,
    pub fildes: u32,
    pub buf: u64,
    pub nbytes: u64,
    pub offset: i64,
    pub reserved: u64,
    pub flags: u32,
    pub resfd: u32,
}

impl Iocb {
    pub const EMPTY: Iocb = Iocb {
        data: 0,
        key: 0,
        rw_flags: 0,
        opcode: 0,
        reqprio: 0,
        fildes: 0,
        buf: 0,
        nbytes: 0,
        offset: 0,
        reserved: 0,
        flags: 0,
        resfd: 0,
    };
}

/// `struct io_event`: one completion.
#[repr(C)]
#[derive(Clone, Copy, Default, Debug)]
pub struct IoEvent {
    /// The iocb's `data`.
    pub data: u64,
    /// The iocb's address at submission.
    pub obj: u64,
    /// A count, or a negative error number.
    pub res: i64,
    pub res2: i64,
}

/// `struct aio_ring` (fs/aio.c): the head of the ring that the kernel maps at the context's address.
/// We only ever look: the kernel alone moves `head` and `tail` (through `io_getevents` for us).
#[repr(C)]
pub struct RingHeader {
    pub id: u32,
    /// Slots in the ring; one stays empty.
    pub nr: u32,
    pub head: core::sync::atomic::AtomicU32,
    pub tail: core::sync::atomic::AtomicU32,
    pub magic: u32,
    pub compat_features: u32,
    pub incompat_features: u32,
    /// Bytes from here to the first event.
    pub header_length: u32,
}

/// `AIO_RING_MAGIC`.
pub const RING_MAGIC: u32 = 0xa10a_10a1;

const _: () = {
    use core::mem::{offset_of, size_of};
    assert!(size_of::<Iocb>() == 64);
    assert!(offset_of!(Iocb, key) == 8 && offset_of!(Iocb, rw_flags) == 12);
    assert!(offset_of!(Iocb, opcode) == 16 && offset_of!(Iocb, reqprio) == 18);
    assert!(offset_of!(Iocb, fildes) == 20 && offset_of!(Iocb, buf) == 24);
    assert!(offset_of!(Iocb, nbytes) == 32 && offset_of!(Iocb, offset) == 40);
    assert!(offset_of!(Iocb, flags) == 56 && offset_of!(Iocb, resfd) == 60);
    assert!(size_of::<IoEvent>() == 32 && offset_of!(IoEvent, res) == 16);
    assert!(size_of::<RingHeader>() == 32 && offset_of!(RingHeader, tail) == 12);
    assert!(cfg!(target_endian = "little"), "struct iocb's key and rw_flags change places on big-endian");
};
