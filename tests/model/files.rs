//! What reads and files may contain. Reads and writes of a file that overlap in time have no order, and are not
//! atomic: each byte that is read may be from any write that was not surely replaced before, or that had perhaps
//! begun. What was complete before something began counts for it.

use super::history::{History, Life};
use super::plan::{content, initial, is_file, Plan, Request, INITIAL_SIZE};
use super::program::{Object, What};
use super::streams::{self, Piece};

/// A write that has perhaps gone to a file.
struct Write {
    id: u32,
    start: usize,
    end: usize,
    before: u64,
    done: u64,
    /// It cannot have gone anywhere else.
    must: bool,
}

/// The time in which something looked at a file.
struct Look {
    before: u64,
    done: u64,
}

fn writes(history: &History, object: u32) -> Vec<Write> {
    let successful =
        history.complete().filter(|(request, life)| request.what == What::Write && life.error == 0);
    successful
        .filter_map(|(request, life)| {
            let ends = history.ends(request, life);
            let here = ends.iter().flatten().any(|end| end / 2 == object);
            // A write without a place in a file went to a pipe or socket.
            let start = usize::try_from(request.offset).ok()?;
            let end = start + life.value as usize;
            let elsewhere = ends.iter().any(|end| end.is_none_or(|end| end / 2 != object));
            let (before, done) = (life.submit.before, life.done);
            here.then_some(Write { id: request.id, start, end, before, done, must: !elsewhere })
        })
        .collect()
}

/// Whether a read at this end of a file may have got as many bytes as it did.
pub fn length_is_right(history: &History, request: &Request, life: &Life, end: u32) -> bool {
    let object = end / 2;
    let all = writes(history, object);
    let append = history.plan.object_of(end) == Object::Append;
    let (mut least, mut most) = (INITIAL_SIZE, INITIAL_SIZE);
    for write in all.iter().filter(|write| write.end > write.start) {
        let size = write.end - write.start;
        if write.must && write.done < life.submit.before {
            least = if append { least + size } else { least.max(write.end) };
        }
        if write.before < life.done {
            most = if append { most + size } else { most.max(write.end) };
        }
    }
    let Ok(offset) = usize::try_from(request.offset) else {
        return false;
    };
    let reach = |size: usize| size.saturating_sub(offset).min(request.length) as i64;
    (reach(least)..=reach(most)).contains(&life.value)
}

pub fn check(history: &History, complaints: &mut Vec<String>) {
    for (object, kind) in history.plan.objects.iter().enumerate() {
        match kind {
            Object::Append => appended(history, object as u32, complaints),
            kind if is_file(*kind) => overwritten(history, object as u32, complaints),
            _ => {}
        }
    }
}

/// Successful reads that went to this object and nowhere else.
fn reads<'a>(history: &'a History, object: u32) -> impl Iterator<Item = (&'a Request, &'a Life)> {
    history.complete().filter(move |(request, life)| {
        request.what == What::Read
            && life.error == 0
            && request.offset >= 0
            && history.ends(request, life).iter().all(|end| end.is_some_and(|end| end / 2 == object))
    })
}

fn overwritten(history: &History, object: u32, complaints: &mut Vec<String>) {
    let writes = writes(history, object);
    let least =
        writes.iter().filter(|write| write.must && write.end > write.start).map(|write| write.end).max();
    let most = writes.iter().filter(|write| write.end > write.start).map(|write| write.end).max();
    let file = &history.seen.files[object as usize];
    let bounds = least.unwrap_or(0).max(INITIAL_SIZE)..=most.unwrap_or(0).max(INITIAL_SIZE);
    if !bounds.contains(&file.len()) {
        complaints.push(format!("file {object} ends with {} bytes, not {bounds:?}", file.len()));
    }
    let afterwards = Look { before: u64::MAX, done: u64::MAX };
    if let Some(why) = explain(object, &writes, &afterwards, 0, file) {
        complaints.push(format!("file {object} afterwards: {why}"));
    }
    for (request, life) in reads(history, object) {
        let bytes = &history.seen.buffers[request.id as usize][..life.value as usize];
        let look = Look { before: life.submit.before, done: life.done };
        if let Some(why) = explain(object, &writes, &look, request.offset as usize, bytes) {
            complaints.push(format!("{}: {why}", history.name(request.id)));
        }
    }
}

/// Says what is wrong with the bytes that a look found from an offset on, if anything.
fn explain(object: u32, writes: &[Write], look: &Look, offset: usize, bytes: &[u8]) -> Option<String> {
    // Between two borders the same writes count.
    let mut borders = vec![offset, offset + bytes.len()];
    borders.extend(writes.iter().flat_map(|write| [write.start, write.end]));
    borders.push(INITIAL_SIZE);
    borders.retain(|border| (offset..=offset + bytes.len()).contains(border));
    borders.sort_unstable();
    borders.dedup();
    for pair in borders.windows(2) {
        let (from, to) = (pair[0], pair[1]);
        let here: Vec<&Write> = writes
            .iter()
            .filter(|write| write.start <= from && to <= write.end && write.before < look.done)
            .collect();
        let replaced = |since: u64| {
            here.iter().any(|later| later.must && since < later.before && later.done < look.before)
        };
        let sources: Vec<&&Write> = here.iter().filter(|write| !replaced(write.done)).collect();
        let old = !here.iter().any(|write| write.must && write.done < look.before);
        let before = |at: usize| if at < INITIAL_SIZE { initial(object, at) } else { 0 };
        let legal = |at: usize| {
            let byte = bytes[at - offset];
            (old && byte == before(at))
                || sources.iter().any(|write| byte == content(write.id, at - write.start))
        };
        if let Some(wrong) = (from..to).find(|at| !legal(*at)) {
            let ids: Vec<u32> = sources.iter().map(|write| write.id).collect();
            let found =
                whose(writes, object, wrong, &bytes[wrong - offset..(to - offset).min(wrong - offset + 16)]);
            return Some(format!(
                "byte {wrong} of the file is from {found}, legal are writes {ids:?}{}",
                if old { " and what was there before" } else { "" }
            ));
        }
    }
    None
}

/// For the complaint: where these bytes come from.
fn whose(writes: &[Write], object: u32, at: usize, bytes: &[u8]) -> String {
    let matches = |source: &dyn Fn(usize) -> u8| {
        bytes.iter().enumerate().all(|(step, byte)| *byte == source(at + step))
    };
    let writer =
        writes.iter().find(|write| write.start <= at && matches(&|at| content(write.id, at - write.start)));
    match writer {
        Some(write) => format!("write {}", write.id),
        None if matches(&|at| initial(object, at)) => "before the program".to_string(),
        None if matches(&|_| 0) => "nowhere (zero)".to_string(),
        None => format!("somewhere else ({bytes:02x?})"),
    }
}

/// A file with O_APPEND is what was there, and then each write whole, in the order of the calls.
fn appended(history: &History, object: u32, complaints: &mut Vec<String>) {
    let file = &history.seen.files[object as usize];
    if file.len() < INITIAL_SIZE || (0..INITIAL_SIZE).any(|at| file[at] != initial(object, at)) {
        complaints.push(format!("append file {object} does not start with what was there"));
        return;
    }
    let writes: Vec<Piece> = writes(history, object)
        .into_iter()
        .filter(|write| write.end > write.start)
        .map(|write| {
            let bytes = (0..write.end - write.start).map(|at| content(write.id, at)).collect();
            Piece { id: write.id, must: write.must, bytes, asked: 0, before: write.before, done: write.done }
        })
        .collect();
    let whole = Piece {
        id: Plan::END_OF_REQUESTS,
        must: true,
        bytes: file[INITIAL_SIZE..].to_vec(),
        asked: 0,
        before: 0,
        done: u64::MAX,
    };
    let tail = if whole.bytes.is_empty() { Vec::new() } else { vec![whole] };
    if let Err(why) = streams::explain(history, writes, tail, false, true) {
        complaints.push(format!("append file {object}: {why}"));
    }
    for (request, life) in reads(history, object) {
        let bytes = &history.seen.buffers[request.id as usize][..life.value as usize];
        let offset = request.offset as usize;
        if file.get(offset..offset + bytes.len()) != Some(bytes) && !bytes.is_empty() {
            complaints.push(format!("{}: what it read is not in the append file", history.name(request.id)));
        }
    }
}
