//! What went through a pipe or socket: the reads, put in some legal order, are the writes, put in some legal order.
//! The search tries all orders that the calls allow; as every write's bytes are its own, few fit. A write that is too
//! long to be atomic may have others between its parts, but none that is ordered before or after it.
//!
//! A request whose descriptor was replaced meanwhile may have gone here or elsewhere. Mostly its bytes tell ([`settle`]);
//! what they leave open is tried last.

use std::collections::{HashMap, HashSet};
use std::hash::{DefaultHasher, Hash, Hasher};

use super::history::History;
use super::plan::{content, is_file, is_read, is_write, Plan};
use super::program::Object;

/// Bytes that one request moved.
#[derive(Clone)]
pub struct Piece {
    pub id: u32,
    /// It cannot have gone anywhere else.
    pub must: bool,
    pub bytes: Vec<u8>,
    /// How many bytes it asked for.
    pub asked: usize,
    pub before: u64,
    pub done: u64,
}

/// A search that takes longer than this is given up, which is a complaint as well: it has not happened.
const STEPS: usize = 200_000;
/// Up to this length writes to pipes and sockets are not divided (PIPE_BUF).
const ATOMIC: usize = 4096;
/// So many bytes are of one request only.
const TELLING: usize = 8;

pub fn check(history: &History, complaints: &mut Vec<String>) {
    let plan = history.plan;
    for writer in (0..plan.ends()).filter(|end| !is_file(plan.object_of(*end)) && plan.writes_to(*end)) {
        let reader = Plan::other_end(writer);
        let messages = plan.object_of(writer) == Object::Packets;
        let writes = pieces(history, writer, true);
        let reads = pieces(history, reader, false);
        if let Err(why) = explain(history, writes, reads, messages, false) {
            complaints.push(format!("from end {writer} to end {reader}: {why}"));
        }
    }
}

fn pieces(history: &History, end: u32, writing: bool) -> Vec<Piece> {
    let moved = history.complete().filter(|(request, life)| {
        let right = if writing { is_write(request.what) } else { is_read(request.what) };
        right && life.error == 0 && life.value > 0
    });
    moved
        .filter_map(|(request, life)| {
            let ends = history.ends(request, life);
            let length = life.value as usize;
            let bytes = if writing {
                (0..length).map(|at| content(request.id, at)).collect()
            } else {
                history.seen.buffers[request.id as usize][..length].to_vec()
            };
            ends.contains(&Some(end)).then_some(Piece {
                id: request.id,
                must: ends.len() == 1,
                bytes,
                asked: request.length,
                before: life.submit.before,
                done: life.done,
            })
        })
        .collect()
}

struct Search {
    writes: Vec<Piece>,
    reads: Vec<Piece>,
    /// For each piece those that must come before it, the latest first.
    before_write: Vec<Vec<usize>>,
    before_read: Vec<Vec<usize>>,
    /// How much of each write was read.
    progress: Vec<usize>,
    read_placed: Vec<bool>,
    messages: bool,
    /// Long writes may be divided.
    divisible: bool,
    /// The write that was read from last.
    current: Option<usize>,
    steps: usize,
    /// Hashes of what was placed where nothing more can be: many ways lead there, if many pieces may be elsewhere.
    dead_ends: HashSet<u64>,
    /// For the complaint: the most reads that fitted, and what was left then.
    best: (usize, String),
}

/// Finds an order, or says how far it got.
pub fn explain(
    history: &History,
    mut writes: Vec<Piece>,
    mut reads: Vec<Piece>,
    messages: bool,
    by_file: bool,
) -> Result<(), String> {
    let is_open = |piece: &Piece| !piece.must;
    if writes.iter().any(is_open) || reads.iter().any(is_open) {
        settle(&mut writes, &mut reads);
        // What still need not have come here mostly did not come here, and the search is far shorter without it.
        let sure = |pieces: &[Piece]| pieces.iter().filter(|piece| piece.must).cloned().collect::<Vec<_>>();
        let (writes, reads) = (sure(&writes), sure(&reads));
        if Search::new(history, writes, reads, messages, by_file).run().is_ok() {
            return Ok(());
        }
    }
    Search::new(history, writes, reads, messages, by_file).run()
}

/// Marks what must have come here because its bytes met with what must: they are in no other request.
fn settle(writes: &mut [Piece], reads: &mut [Piece]) {
    let mut places: HashMap<&[u8], Vec<usize>> = HashMap::new();
    for (write, piece) in writes.iter().enumerate() {
        for run in piece.bytes.chunks_exact(TELLING) {
            places.entry(run).or_default().push(write);
        }
    }
    let mut meetings: Vec<(usize, usize)> = Vec::new();
    for (read, piece) in reads.iter().enumerate() {
        let met: HashSet<usize> =
            piece.bytes.windows(TELLING).filter_map(|run| places.get(run)).flatten().copied().collect();
        meetings.extend(met.into_iter().map(|write| (read, write)));
    }
    let mut is_settled = false;
    while !is_settled {
        is_settled = true;
        for (read, write) in &meetings {
            if reads[*read].must != writes[*write].must {
                (reads[*read].must, writes[*write].must) = (true, true);
                is_settled = false;
            }
        }
    }
}

impl Search {
    fn new(
        history: &History,
        mut writes: Vec<Piece>,
        mut reads: Vec<Piece>,
        messages: bool,
        by_file: bool,
    ) -> Search {
        writes.sort_by_key(|piece| (piece.before, piece.id));
        reads.sort_by_key(|piece| (piece.before, piece.id));
        let before = |pieces: &[Piece]| -> Vec<Vec<usize>> {
            (0..pieces.len())
                .map(|index| {
                    let first = |other: &usize| {
                        *other != index
                            && pieces[*other].must
                            && history.ordered(pieces[*other].id, pieces[index].id, by_file)
                    };
                    (0..pieces.len()).rev().filter(first).collect()
                })
                .collect()
        };
        Search {
            before_write: before(&writes),
            before_read: if by_file { vec![Vec::new(); reads.len()] } else { before(&reads) },
            progress: vec![0; writes.len()],
            read_placed: vec![false; reads.len()],
            writes,
            reads,
            messages,
            divisible: !messages && !by_file,
            current: None,
            steps: 0,
            dead_ends: HashSet::new(),
            best: (0, String::new()),
        }
    }

    fn run(mut self) -> Result<(), String> {
        if self.next_read(0) {
            return Ok(());
        }
        let (placed, left) = &self.best;
        let effort = if self.steps > STEPS { " (search given up)" } else { "" };
        Err(format!("no legal order{effort}; {placed} pieces fit, {left}"))
    }

    /// Places the remaining reads and writes, if that can be done.
    fn next_read(&mut self, placed: usize) -> bool {
        let reads: Vec<u32> = (0..self.reads.len())
            .filter(|read| self.reads[*read].must && !self.read_placed[*read])
            .map(|read| self.reads[read].id)
            .collect();
        let writes: Vec<(u32, usize, usize)> = (0..self.writes.len())
            .filter(|write| !self.is_read(*write) && (self.writes[*write].must || self.progress[*write] > 0))
            .map(|write| (self.writes[write].id, self.progress[write], self.writes[write].bytes.len()))
            .collect();
        // Also with fewer pieces than in the best attempt: what need not have gone here may have gone elsewhere.
        if reads.is_empty() && writes.is_empty() {
            return true;
        }
        if placed >= self.best.0 || self.best.1.is_empty() {
            self.best =
                (placed, format!("left are reads {reads:?}, writes (number, read, length) {writes:?}"));
        }
        let mut hasher = DefaultHasher::new();
        (&self.read_placed, &self.progress, self.current).hash(&mut hasher);
        let state = hasher.finish();
        if self.dead_ends.contains(&state) {
            return false;
        }
        for read in 0..self.reads.len() {
            if !self.read_placed[read] && self.before_read[read].iter().all(|first| self.read_placed[*first])
            {
                self.read_placed[read] = true;
                if self.consume(read, 0, placed) {
                    return true;
                }
                self.read_placed[read] = false;
            }
        }
        self.dead_ends.insert(state);
        false
    }

    fn is_read(&self, write: usize) -> bool {
        self.progress[write] == self.writes[write].bytes.len()
    }

    fn may_be_divided(&self, write: usize) -> bool {
        self.divisible && self.writes[write].bytes.len() > ATOMIC
    }

    /// Takes the bytes of a read, from `at` on, out of the writes.
    fn consume(&mut self, read: usize, at: usize, placed: usize) -> bool {
        self.steps += 1;
        if self.steps > STEPS {
            return false;
        }
        if at == self.reads[read].bytes.len() {
            return self.next_read(placed + 1);
        }
        match self.current.filter(|write| !self.is_read(*write)) {
            Some(write) => self.go_on(read, at, placed, write),
            None => self.turn(read, at, placed, None),
        }
    }

    /// The next bytes are from the write that was read from last, or others came between its parts.
    fn go_on(&mut self, read: usize, at: usize, placed: usize, write: usize) -> bool {
        let (common, all) = self.common(read, at, write);
        // The first byte of another part may by chance be the next of this one, hardly more.
        for taken in (common.saturating_sub(2)..=common).rev() {
            if taken < all && !self.may_be_divided(write) {
                break;
            }
            self.progress[write] += taken;
            let found = if taken == all && taken > 0 {
                self.consume(read, at + taken, placed)
            } else {
                self.turn(read, at + taken, placed, Some(write))
            };
            if found {
                return true;
            }
            self.progress[write] -= taken;
            self.current = Some(write);
        }
        false
    }

    /// The next bytes are from another write than the last.
    fn turn(&mut self, read: usize, at: usize, placed: usize, last: Option<usize>) -> bool {
        let saved = self.current;
        for write in 0..self.writes.len() {
            let free = !self.is_read(write)
                && Some(write) != last
                && self.writes[write].before < self.reads[read].done
                && self.before_write[write].iter().all(|first| self.is_read(*first));
            if !free {
                continue;
            }
            let found = if self.messages {
                self.take_message(read, write, placed)
            } else {
                self.current = Some(write);
                self.common(read, at, write).0 > 0 && self.go_on(read, at, placed, write)
            };
            if found {
                return true;
            }
            self.current = saved;
        }
        false
    }

    /// A read takes one message; what is too long for it is dropped.
    fn take_message(&mut self, read: usize, write: usize, placed: usize) -> bool {
        let message = &self.writes[write].bytes;
        let length = message.len().min(self.reads[read].asked);
        if self.reads[read].bytes != message[..length] {
            return false;
        }
        self.progress[write] = message.len();
        let found = self.next_read(placed + 1);
        if !found {
            self.progress[write] = 0;
        }
        found
    }

    /// How many bytes the rest of a read has in common with the rest of a write, and how many it could have.
    fn common(&self, read: usize, at: usize, write: usize) -> (usize, usize) {
        let wanted = &self.reads[read].bytes[at..];
        let there = &self.writes[write].bytes[self.progress[write]..];
        let all = wanted.len().min(there.len());
        (wanted.iter().zip(there).take_while(|(wanted, there)| wanted == there).count(), all)
    }
}
