//! Keeping a program going when it waits for data that no request of its own brings, and bringing everything to
//! its end: after `finish` nothing is in flight, every notification has come, and every pipe is empty.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::calls;
use super::child::{anchor, blank, cancel, fill, world, World};
use super::log::{problems, Kind, Record};
use super::plan::{is_file, is_write, Plan, Step};
use super::program::{Notify, What};

/// One read or write at an end by the program itself, logged when it moved data.
pub fn transfer(world: &World, id: u32, end: u32) -> bool {
    let request = world.plan.request(id);
    let object = world.plan.object_of(end);
    let writing = is_write(request.what);
    let possible = if writing { world.plan.writes_to(end) } else { world.plan.reads_from(end) };
    if is_file(object) || !possible {
        return false;
    }
    fill(world, request);
    let buffer = world.shared.buffer(request.buffer);
    let before = world.shared.tick();
    let moved = calls::transfer_now(object, anchor(end), buffer, request.length, writing);
    let after = world.shared.tick();
    if moved > 0 {
        world.log(
            Kind::Transfer,
            id,
            Record { before, after, value: moved as i64, extra: end as i32, ..blank() },
        );
    }
    moved > 0
}

/// A transfer with a spare request, if one is left. Spares of the other kind are skipped.
fn spare_transfer(world: &World, what: What, end: u32) -> bool {
    let mut id = world.next_spare.load(Ordering::Relaxed);
    while (id as usize) < world.plan.requests.len() && world.plan.request(id).what != what {
        id += 1;
    }
    if id as usize >= world.plan.requests.len() {
        return false;
    }
    let moved = transfer(world, id, end);
    if moved {
        world.next_spare.store(id + 1, Ordering::Relaxed);
    }
    moved
}

/// Gives readers that wait something, and makes room for writers that wait. An end that has data and room has
/// nobody waiting.
pub fn unblock(world: &World) {
    const AT_ONCE: usize = 8;
    let streams = (0..world.plan.ends()).filter(|end| !is_file(world.plan.object_of(*end)));
    for writer in streams.filter(|end| world.plan.writes_to(*end)) {
        let reader = Plan::other_end(writer);
        if !calls::is_empty(anchor(reader)) {
            if !calls::has_room(anchor(writer)) {
                (0..AT_ONCE).all(|_| spare_transfer(world, What::Take, reader));
            }
            continue;
        }
        // One at a time: a read takes all that is there.
        for _ in 0..AT_ONCE {
            if !calls::is_empty(anchor(reader)) || !spare_transfer(world, What::Feed, writer) {
                break;
            }
            std::thread::sleep(Duration::from_micros(50));
        }
    }
}

/// Ends a child that hangs: the machine's slowness does not explain it any more.
pub fn give_up(world: &World) -> ! {
    for id in world.all_submitted() {
        if world.look(id, 0) == libc::EINPROGRESS {
            world.problem(id, problems::STUCK, 0);
        }
    }
    for (number, place) in world.places.iter().enumerate() {
        let steps = &world.plan.threads[number];
        let step = steps.get(place.load(Ordering::Relaxed));
        let text = format!("{step:?}");
        eprintln!("thread {number} is at {}", text.get(..200).unwrap_or(&text));
        if let Some(Step::List { elements, .. }) = step {
            // SAFETY: aiocbs live as long as the process.
            let error = |id: &u32| unsafe { libc::aio_error(world.aiocb(*id)) };
            let stuck: Vec<&u32> = elements.iter().filter(|id| error(id) == libc::EINPROGRESS).collect();
            let first = &stuck[..stuck.len().min(20)];
            eprintln!("{} elements do not complete: {first:?}", stuck.len());
        }
    }
    eprintln!("{}", calls::system_calls_of_threads());
    // Other threads may sit in the library for ever: nothing orderly is left to do.
    // SAFETY: _exit() ends the process at once.
    unsafe { libc::_exit(3) }
}

pub fn finish(world: &'static World) {
    if world.plan.cancel_at_end {
        (0..world.plan.ends()).for_each(|slot| cancel(world, slot, None));
    }
    let mut pending = world.all_submitted();
    let start = Instant::now();
    let mut rounds = 0;
    loop {
        pending.retain(|id| {
            // SAFETY: aiocbs live as long as the process.
            unsafe { libc::aio_error(world.aiocb(*id)) == libc::EINPROGRESS }
        });
        if pending.is_empty() {
            break;
        }
        std::thread::sleep(Duration::from_micros(300));
        if start.elapsed() > Duration::from_millis(5) * (rounds + 1) {
            unblock(world);
            rounds += 1;
        }
        if start.elapsed() > world.patience {
            give_up(world);
        }
    }
    let submitted = world.all_submitted();
    submitted.iter().for_each(|id| {
        world.look(*id, 0);
    });
    let lists = (0..world.plan.first_spare).filter(|id| world.plan.request(*id).what == What::List);
    let expected: Vec<u32> = submitted.iter().copied().chain(lists).collect();
    await_notifications(world, &expected);
    check_untouched(world, &submitted);
    for end in (0..world.plan.ends()).filter(|end| world.plan.reads_from(*end)) {
        while spare_transfer(world, What::Take, end) {}
    }
}

/// Waits for the first notification of each; that there is no second one is seen later.
pub fn await_notifications(world: &World, ids: &[u32]) {
    let start = Instant::now();
    for id in ids {
        if world.plan.request(*id).notify == Notify::None {
            continue;
        }
        while world.shared.notified(*id).load(Ordering::Acquire) == 0 && start.elapsed() < world.patience {
            std::thread::sleep(Duration::from_micros(100));
        }
    }
}

/// From completion on nobody may touch aiocb and buffer: give both new contents, wait a little, look again.
fn check_untouched(world: &World, ids: &[u32]) {
    const POISON: u8 = 0x5a;
    let size = size_of::<libc::aiocb>();
    let copies: Vec<Vec<u8>> = ids
        .iter()
        .map(|id| {
            let request = world.plan.request(*id);
            // SAFETY: complete, so it is the program's own again.
            unsafe { std::ptr::write_bytes(world.aiocb(*id).cast::<u8>(), POISON, size) };
            world.shared.copy_of(request.buffer, request.length)
        })
        .collect();
    std::thread::sleep(Duration::from_millis(1));
    for (id, copy) in ids.iter().zip(copies) {
        let request = world.plan.request(*id);
        // SAFETY: the program's own memory, and plain bytes.
        let aiocb = unsafe { std::slice::from_raw_parts(world.aiocb(*id).cast::<u8>(), size) };
        if aiocb.iter().any(|byte| *byte != POISON) {
            world.problem(*id, problems::TOUCHED_AIOCB, 0);
        }
        if world.shared.copy_of(request.buffer, request.length) != copy {
            world.problem(*id, problems::TOUCHED_BUFFER, 0);
        }
    }
}

/// For a forked child, which cannot use the list of its parent's submitted requests.
pub fn give_up_forked(ids: &[u32]) -> ! {
    for id in ids {
        world().problem(*id, problems::STUCK, 1);
    }
    // SAFETY: _exit() ends the process at once.
    unsafe { libc::_exit(3) }
}
