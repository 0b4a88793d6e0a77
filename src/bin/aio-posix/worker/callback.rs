//! Completion learned by thread callbacks (SIGEV_THREAD): each callback submits its request again.

use super::file::{Buffers, Target};
use super::flow::{check, Kind, Operation, Sequence};
use super::measure::{conduct, stop, stopping, Tally};
use super::{extent, is_fast, summary};
use crate::bench::cell::Flow;
use crate::bench::job::{Failure, Job, Sample};
use libc::aiocb;
use std::io;
use std::mem::ManuallyDrop;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::Mutex;
use std::time::{Duration, Instant};

/// One request and what it counts. It belongs to whoever holds the request: the kernel or library between
/// submission and completion, then the one callback.
struct Slot {
    control: aiocb,
    sequence: Sequence,
    tally: Tally,
    started: u64,
    block: usize,
    shared: &'static Shared,
}

struct Shared {
    /// Slots that are still being resubmitted. The last step of a slot is a Release, met by the Acquire of who reads
    /// its tally afterwards.
    active: AtomicUsize,
    /// The first thing that went wrong.
    error: Mutex<Option<String>>,
}

pub fn measure(job: &Job, flow: Flow) -> Result<Sample, Failure> {
    let size = extent(job, flow);
    let target = Target::open(&job.file, size, flow.way, false)?;
    let depth = job.depth as usize;
    // A callback that comes too late may still use a buffer.
    let buffers = ManuallyDrop::new(Buffers::new(depth, flow.block)?);
    let shared: &'static Shared =
        Box::leak(Box::new(Shared { active: AtomicUsize::new(depth), error: Mutex::new(None) }));
    let slots: Vec<*mut Slot> = (0..depth)
        .map(|index| {
            // SAFETY: zeros are a valid aiocb.
            let mut control: aiocb = unsafe { std::mem::zeroed() };
            control.aio_fildes = target.fd();
            control.aio_buf = buffers.at(index).cast();
            control.aio_nbytes = flow.block;
            let sequence = Sequence::new(flow, size, index as u64);
            let tally = Tally::new(is_fast(flow));
            Box::into_raw(Box::new(Slot { control, sequence, tally, started: 0, block: flow.block, shared }))
        })
        .collect();
    for &slot in &slots {
        // SAFETY: the slot was just made, stays for ever, and is handed over here.
        unsafe { submit(slot) };
    }
    let span = conduct(job.seconds);
    let deadline = Instant::now() + Duration::from_secs(20);
    while shared.active.load(Ordering::Acquire) > 0 {
        if Instant::now() > deadline {
            return Err(Failure::Failed("a callback did not come in 20 s".to_owned()));
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    if let Some(error) = shared.error.lock().expect("no panic is survived").take() {
        return Err(Failure::Failed(error));
    }
    // SAFETY: no slot is active, so all are ours again.
    summary(span, slots.iter().map(|&slot| unsafe { &(*slot).tally }))
}

/// Submits the slot's next request, after which the slot is the callback's.
///
/// # Safety
/// The slot is valid for ever and the caller's alone.
unsafe fn submit(slot: *mut Slot) {
    // SAFETY: as the caller promises; sigev_notify_function is what follows sigev_notify (POSIX leaves the order
    // open; on Linux it shares its place with the thread id).
    unsafe {
        let mine = &mut *slot;
        let Operation { offset, .. } = mine.sequence.next();
        mine.control.aio_offset = offset as i64;
        let event = &mut mine.control.aio_sigevent;
        event.sigev_notify = libc::SIGEV_THREAD;
        event.sigev_value.sival_ptr = slot.cast();
        let function: *mut libc::c_int = &raw mut event.sigev_notify_thread_id;
        function.cast::<extern "C" fn(libc::sigval)>().write_unaligned(completed);
        mine.started = mine.tally.submitting();
        let shared = mine.shared;
        if libc::aio_read(&raw mut (*slot).control) != 0 {
            retire(shared, Some(format!("aio_read: {}", io::Error::last_os_error())));
        }
    }
}

extern "C" fn completed(value: libc::sigval) {
    let slot: *mut Slot = value.sival_ptr.cast();
    // SAFETY: the value is the slot's address, and its request is complete: the slot is this callback's alone.
    unsafe {
        let mine = &mut *slot;
        let error = libc::aio_error(&mine.control);
        let value = libc::aio_return(&mut mine.control) as i64;
        let result = if error == 0 { value } else { -i64::from(error) };
        if let Err(reason) = check(Kind::Read, result, mine.block as i64) {
            return retire(mine.shared, Some(reason));
        }
        mine.tally.completed(mine.started, true);
        if stopping() {
            return retire(mine.shared, None);
        }
        submit(slot);
    }
}

fn retire(shared: &Shared, error: Option<String>) {
    if error.is_some() {
        stop();
        *shared.error.lock().expect("no panic is survived") = error;
    }
    shared.active.fetch_sub(1, Ordering::Release);
}
