//! The clock, the phases of a measurement, and what is counted in them.

use std::sync::atomic::{AtomicU8, Ordering};
use std::time::{Duration, Instant};

/// Warming up, measuring, stopping. Only the main thread advances it; the working threads just look. Relaxed:
/// nothing else is published through it, and a few nanoseconds of delay do not matter.
static PHASE: AtomicU8 = AtomicU8::new(WARM);
const WARM: u8 = 0;
const MEASURE: u8 = 1;
const STOP: u8 = 2;

pub fn stopping() -> bool {
    PHASE.load(Ordering::Relaxed) == STOP
}

fn measuring() -> bool {
    PHASE.load(Ordering::Relaxed) == MEASURE
}

/// Makes the working threads of a process that gives up end.
pub fn stop() {
    PHASE.store(STOP, Ordering::Relaxed);
}

/// Nanoseconds of a monotonic clock; never zero.
pub fn now() -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: clock_gettime writes one timespec, to our own.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &mut time) };
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

/// The processor time of all threads of this process, ended ones too, in nanoseconds. What kernel threads do for
/// it is nobody's, on any side.
pub fn processor_time() -> u64 {
    // SAFETY: a rusage is plain integers, and getrusage fills it in.
    let usage = unsafe {
        let mut usage: libc::rusage = std::mem::zeroed();
        libc::getrusage(libc::RUSAGE_SELF, &mut usage);
        usage
    };
    [usage.ru_utime, usage.ru_stime]
        .iter()
        .map(|time| time.tv_sec as u64 * 1_000_000_000 + time.tv_usec as u64 * 1_000)
        .sum()
}

/// What the main thread saw of the measured phase.
pub struct Span {
    pub seconds: f64,
    pub cpu_ns: u64,
}

/// Leads the working threads through the phases.
pub fn conduct(seconds: f64) -> Span {
    let warm_up = Duration::from_secs_f64((seconds / 10.0).clamp(0.02, 0.2));
    std::thread::sleep(warm_up);
    let cpu = processor_time();
    let start = Instant::now();
    PHASE.store(MEASURE, Ordering::Relaxed);
    let end = start + Duration::from_secs_f64(seconds);
    // A worker that fails stops everything early.
    while measuring() {
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            break;
        }
        std::thread::sleep(left.min(Duration::from_millis(100)));
    }
    stop();
    Span { seconds: start.elapsed().as_secs_f64(), cpu_ns: processor_time() - cpu }
}

/// Latencies, in buckets one thirty-second of their value wide.
pub struct Histogram(Vec<u32>);

impl Histogram {
    const STEPS: u32 = 32;

    pub fn new() -> Histogram {
        Histogram(vec![0; 64 * Histogram::STEPS as usize])
    }

    fn bucket(nanoseconds: u64) -> usize {
        let value = nanoseconds.max(Histogram::STEPS as u64);
        let exponent = value.ilog2() - Histogram::STEPS.ilog2();
        // The top bits of the value: STEPS..2*STEPS.
        let top = (value >> exponent) as u32;
        (exponent * Histogram::STEPS + (top - Histogram::STEPS)) as usize
    }

    /// The middle of a bucket.
    fn value(bucket: usize) -> f64 {
        let (exponent, step) = (bucket as u32 / Histogram::STEPS, bucket as u32 % Histogram::STEPS);
        (f64::from(Histogram::STEPS + step) + 0.5) * 2f64.powi(exponent as i32)
    }

    pub fn add(&mut self, nanoseconds: u64) {
        self.0[Histogram::bucket(nanoseconds)] += 1;
    }

    pub fn merge(&mut self, other: &Histogram) {
        self.0.iter_mut().zip(&other.0).for_each(|(mine, theirs)| *mine += theirs);
    }

    pub fn percentile(&self, part: f64) -> Option<f64> {
        let all: u64 = self.0.iter().map(|&count| u64::from(count)).sum();
        let wanted = (all as f64 * part).ceil() as u64;
        let mut seen = 0;
        (all > 0).then(|| {
            let bucket = self.0.iter().position(|&count| {
                seen += u64::from(count);
                seen >= wanted
            });
            Histogram::value(bucket.unwrap_or(self.0.len() - 1))
        })
    }
}

/// What one working thread, or one callback's request, counts.
pub struct Tally {
    pub completed: u64,
    pub latency: Histogram,
    /// Time and processor time inside the measured phase that were not work: evicting the file.
    pub paused_ns: u64,
    pub paused_cpu_ns: u64,
    /// Latency is taken of one request in so many.
    every: u32,
    count: u32,
}

impl Tally {
    /// Where an operation takes less than a microsecond the clock would show in the result: there, only one request
    /// in eight is timed.
    pub fn new(fast: bool) -> Tally {
        let every = if fast { 8 } else { 1 };
        Tally { completed: 0, latency: Histogram::new(), paused_ns: 0, paused_cpu_ns: 0, every, count: 0 }
    }

    /// To be called before a submission; gives what `completed` wants to know.
    pub fn submitting(&mut self) -> u64 {
        self.count += 1;
        if self.count < self.every {
            return 0;
        }
        self.count = 0;
        now()
    }

    /// A request that was submitted at `started` is complete; `counts` tells whether it is one that we measure.
    pub fn completed(&mut self, started: u64, counts: bool) {
        if !measuring() || !counts {
            return;
        }
        self.completed += 1;
        if started != 0 {
            self.latency.add(now() - started);
        }
    }

    /// Does what is no part of the work.
    pub fn pause<T>(&mut self, chore: impl FnOnce() -> T) -> T {
        let (inside, time, cpu) = (measuring(), now(), processor_time());
        let result = chore();
        if inside && measuring() {
            self.paused_ns += now() - time;
            self.paused_cpu_ns += processor_time() - cpu;
        }
        result
    }

    pub fn merge(&mut self, other: &Tally) {
        self.completed += other.completed;
        self.latency.merge(&other.latency);
        self.paused_ns += other.paused_ns;
        self.paused_cpu_ns += other.paused_cpu_ns;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_percentile_is_found_within_a_bucket_of_its_value() {
        let mut histogram = Histogram::new();
        assert_eq!(histogram.percentile(0.99), None);
        (1..=1000).for_each(|microseconds| histogram.add(microseconds * 1000));
        let found = histogram.percentile(0.99).expect("there are values");
        assert!((found / 990_000.0 - 1.0).abs() < 1.0 / 32.0, "{found}");
        histogram.add(u64::MAX);
        histogram.add(0);
    }
}
