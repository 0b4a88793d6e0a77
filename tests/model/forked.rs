//! fork in the middle of everything: the child looks at the requests it inherited, uses AIO on a pipe and on
//! the files, and ends.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::calls::{self, errno};
use super::child::{blank, submit, World, PROCESS};
use super::drain::{await_notifications, give_up_forked};
use super::log::{problems, Kind, Record, NOTHING};

pub fn fork(world: &'static World, requests: &[u32]) {
    let group = world.shared.new_group();
    // The child may not take the lock: another thread may hold it at the fork.
    let inherited = world.all_submitted();
    let before = world.shared.tick();
    // SAFETY: the child calls the functions under test, system calls and malloc, which the C library keeps usable.
    let child = unsafe { libc::fork() };
    if child == 0 {
        PROCESS.store(group, Ordering::Relaxed);
        run_child(world, group, &inherited, requests);
        // SAFETY: ends the child without running the parent's exit handlers.
        unsafe { libc::_exit(0) };
    }
    let after = world.shared.tick();
    if child < 0 {
        world.problem(NOTHING, problems::HARNESS, errno());
        return;
    }
    world.log(Kind::Fork, NOTHING, Record { before, after, group, ..blank() });
    let mut status = 0;
    // SAFETY: waits for the child made above; a signal's handler may interrupt it.
    while unsafe { libc::waitpid(child, &mut status, 0) } < 0 && errno() == libc::EINTR {}
    world.log(Kind::Reaped, NOTHING, Record { group, value: i64::from(status), ..blank() });
}

fn run_child(world: &World, group: u32, inherited: &[u32], requests: &[u32]) {
    // Whatever happens, this process ends.
    // SAFETY: the default action of SIGALRM ends the process.
    unsafe { libc::alarm(world.patience.as_secs() as u32 + 2) };
    for id in inherited {
        let cb = world.aiocb(*id);
        let before = world.shared.tick();
        // SAFETY: the aiocb is the child's own copy of one that was submitted.
        let (error, value) = unsafe { (libc::aio_error(cb), libc::aio_return(cb)) };
        let after = world.shared.tick();
        world.log(Kind::View, *id, Record { before, after, group, error, value: value as i64, ..blank() });
    }
    if !inherited.is_empty() && !suspend(world, inherited, 5) {
        world.problem(NOTHING, problems::CHILD_SUSPEND, errno());
    }
    use_pipe(world);
    let taken: Vec<u32> = requests.iter().copied().filter(|id| submit(world, *id)).collect();
    let start = Instant::now();
    let mut pending = taken.clone();
    while !pending.is_empty() {
        suspend(world, &pending, 1);
        pending.retain(|id| world.look(*id, 0) == libc::EINPROGRESS);
        if start.elapsed() > world.patience {
            give_up_forked(&pending);
        }
    }
    await_notifications(world, &taken);
}

fn suspend(world: &World, ids: &[u32], seconds: i64) -> bool {
    let pointers: Vec<*const libc::aiocb> = ids.iter().map(|id| world.aiocb(*id).cast_const()).collect();
    let limit = libc::timespec { tv_sec: seconds, tv_nsec: 0 };
    // SAFETY: all of them live through the call.
    unsafe { libc::aio_suspend(pointers.as_ptr(), pointers.len() as i32, &limit) == 0 }
}

/// A request that has to wait, in a process whose parent's library threads are gone.
fn use_pipe(world: &World) {
    let [reader, writer] = calls::pipe();
    let mut buffer = [0u8; 8];
    // SAFETY: zero is a valid aiocb; it and the buffer stay until the request has completed, or the process ended.
    unsafe {
        let mut cb: libc::aiocb = std::mem::zeroed();
        cb.aio_fildes = reader;
        cb.aio_buf = buffer.as_mut_ptr().cast();
        cb.aio_nbytes = buffer.len();
        cb.aio_sigevent.sigev_notify = libc::SIGEV_NONE;
        let list = [std::ptr::from_ref(&cb)];
        let at_once = libc::timespec { tv_sec: 0, tv_nsec: 0 };
        let waits = libc::aio_read(&mut cb) == 0
            && libc::aio_suspend(list.as_ptr(), 1, &at_once) == -1
            && errno() == libc::EAGAIN
            && libc::aio_error(&cb) == libc::EINPROGRESS;
        let fed = libc::write(writer, b"by child".as_ptr().cast(), 8) == 8;
        let start = Instant::now();
        while libc::aio_error(&cb) == libc::EINPROGRESS {
            if start.elapsed() > world.patience {
                world.problem(NOTHING, problems::CHILD_PIPE, -1);
                libc::_exit(3);
            }
            std::thread::sleep(Duration::from_micros(100));
        }
        let result = libc::aio_return(&mut cb);
        if !(waits && fed && result == 8 && buffer == *b"by child") {
            world.problem(NOTHING, problems::CHILD_PIPE, result as i32);
        }
        libc::close(reader);
        libc::close(writer);
    }
}
