//! What comes next, and the loop that keeps a queue full: the same for every side.

use super::file;
use super::measure::{stopping, Tally};
use crate::bench::cell::{Action, Flow, Way};

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    Read,
    Write,
    Fsync,
}

#[derive(Clone, Copy)]
pub struct Operation {
    pub kind: Kind,
    pub offset: u64,
}

/// Which operation follows which. Random order is a permutation, so that a pass over the file touches each block once.
pub struct Sequence {
    flow: Flow,
    blocks: u64,
    seed: u64,
    index: u64,
    writes: u32,
}

impl Sequence {
    /// `size` is a power of two; `lane` sets the threads of one process apart.
    pub fn new(flow: Flow, size: u64, lane: u64) -> Sequence {
        Sequence { flow, blocks: size / flow.block as u64, seed: 0x5eed + lane * 0x1357, index: 0, writes: 0 }
    }

    /// Is there something left in this pass? Only reading what is not cached must end after a pass.
    pub fn more(&self) -> bool {
        self.flow.way != Way::Cold || self.index < self.blocks
    }

    pub fn begin_pass(&mut self) {
        self.index = 0;
        self.seed += 1;
    }

    pub fn next(&mut self) -> Operation {
        if self.flow.fsync_every.is_some_and(|every| self.writes == every) {
            self.writes = 0;
            return Operation { kind: Kind::Fsync, offset: 0 };
        }
        let kind = match self.flow.action {
            Action::Read => Kind::Read,
            Action::Write => Kind::Write,
            Action::Mixed if self.index % 2 == 0 => Kind::Read,
            Action::Mixed => Kind::Write,
        };
        self.writes += u32::from(kind == Kind::Write);
        let block = if self.flow.sequential { self.index % self.blocks } else { self.shuffled() };
        self.index += 1;
        Operation { kind, offset: block * self.flow.block as u64 }
    }

    /// A one-to-one map of the block numbers: odd factors and shifted xors can be undone.
    fn shuffled(&self) -> u64 {
        let mask = self.blocks - 1;
        let half = self.blocks.ilog2().div_ceil(2);
        let mut block = (self.index ^ self.seed) & mask;
        for factor in [0x9E37_79B1, 0x85EB_CA6B, 0xC2B2_AE35_u64] {
            block = block.wrapping_mul(factor) & mask;
            block ^= block >> half;
        }
        block
    }
}

/// One way to have requests done. A slot is one request's place: 0..depth.
pub trait Queue {
    fn submit(&mut self, slot: usize, operation: Operation) -> Result<(), String>;

    /// Waits until something is complete; appends (slot, result), where the result is a count or -errno.
    fn reap(&mut self, done: &mut Vec<(usize, i64)>) -> Result<(), String>;
}

/// Works with a queue. Where that fails, requests may be in flight, so the memory that they use stays.
pub fn with<Q: Queue, T>(mut queue: Q, work: impl FnOnce(&mut Q) -> Result<T, String>) -> Result<T, String> {
    let outcome = work(&mut queue);
    if outcome.is_err() {
        std::mem::forget(queue);
    }
    outcome
}

/// Keeps `depth` requests in flight until the measurement ends, and then waits for the last of them.
pub fn drive<Q: Queue>(
    queue: &mut Q,
    depth: usize,
    sequence: &mut Sequence,
    tally: &mut Tally,
    evict: &file::Target,
) -> Result<(), String> {
    let block = sequence.flow.block as i64;
    let mut started = vec![(0u64, Kind::Read); depth];
    let mut done = Vec::with_capacity(depth);
    loop {
        let mut in_flight = 0;
        while in_flight < depth && sequence.more() {
            start(queue, in_flight, sequence, tally, &mut started)?;
            in_flight += 1;
        }
        while in_flight > 0 {
            done.clear();
            queue.reap(&mut done)?;
            for &(slot, result) in &done {
                let (time, kind) = started[slot];
                check(kind, result, block)?;
                tally.completed(time, kind != Kind::Fsync);
                if stopping() || !sequence.more() {
                    in_flight -= 1;
                } else {
                    start(queue, slot, sequence, tally, &mut started)?;
                }
            }
        }
        if stopping() {
            return Ok(());
        }
        sequence.begin_pass();
        tally.pause(|| evict.evict())?;
    }
}

fn start<Q: Queue>(
    queue: &mut Q,
    slot: usize,
    sequence: &mut Sequence,
    tally: &mut Tally,
    started: &mut [(u64, Kind)],
) -> Result<(), String> {
    let operation = sequence.next();
    started[slot] = (tally.submitting(), operation.kind);
    queue.submit(slot, operation)
}

/// Did a request do what it should? A benchmark of failing requests would be a fine one.
pub fn check(kind: Kind, result: i64, block: i64) -> Result<(), String> {
    let expected = if kind == Kind::Fsync { 0 } else { block };
    if result == expected {
        return Ok(());
    }
    if result < 0 {
        let error = std::io::Error::from_raw_os_error(-result as i32);
        return Err(format!("a {kind:?} request failed: {error}"));
    }
    Err(format!("a {kind:?} request of {expected} bytes transferred {result}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::cell::Learn;

    const COLD: Flow = Flow {
        action: Action::Read,
        way: Way::Cold,
        block: 4096,
        sequential: false,
        threads: 1,
        fsync_every: None,
        learn: Learn::Suspend,
        vectored: false,
    };

    #[test]
    fn a_pass_touches_each_block_once_and_then_ends() {
        for size in [1 << 20, 1 << 21, 1 << 24_u64] {
            let mut sequence = Sequence::new(COLD, size, 3);
            let blocks = size / 4096;
            let mut seen: Vec<u64> = (0..blocks).map(|_| sequence.next().offset / 4096).collect();
            assert!(!sequence.more());
            assert_ne!(seen[1], seen[0] + 1, "random order is not ascending");
            seen.sort_unstable();
            assert!(seen.into_iter().eq(0..blocks));
        }
    }

    #[test]
    fn an_fsync_follows_each_so_many_writes() {
        let flow = Flow { action: Action::Write, way: Way::Cached, fsync_every: Some(16), ..COLD };
        let mut sequence = Sequence::new(flow, 1 << 20, 0);
        let kinds: Vec<Kind> = (0..34).map(|_| sequence.next().kind).collect();
        let fsyncs = kinds.iter().enumerate().filter(|(_, kind)| **kind == Kind::Fsync);
        assert_eq!(fsyncs.map(|(index, _)| index).collect::<Vec<_>>(), [16, 33]);
    }

    #[test]
    fn a_wrong_result_is_an_error() {
        assert!(check(Kind::Read, 4096, 4096).is_ok());
        assert!(check(Kind::Fsync, 0, 4096).is_ok());
        assert!(check(Kind::Read, 512, 4096).is_err());
        assert!(check(Kind::Write, -i64::from(libc::EIO), 4096).is_err());
    }
}
