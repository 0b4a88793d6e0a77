//! One measurement in a process of its own. The job comes on standard input, its result goes to standard output.

mod callback;
mod extensions;
mod file;
mod flow;
mod identity;
mod kernel;
mod large;
mod many;
mod measure;
mod posix;
mod socket;
mod uring;

use crate::bench::cell::{Flow, Learn, Side, Way, Work};
use crate::bench::job::{outcome_to_line, Failure, Job, Sample};
use crate::words::say;
use flow::Sequence;
use measure::{Span, Tally};
use std::process::ExitCode;

pub fn run() -> Result<ExitCode, String> {
    // SAFETY: plain numbers. A worker must not outlive the command that wants its result.
    unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) };
    let mut line = String::new();
    std::io::stdin().read_line(&mut line).map_err(|error| format!("no job on standard input: {error}"))?;
    let job = Job::from_line(&line)
        .ok_or("the worker does not understand its job; `aio-posix bench` starts workers")?;
    say(&format!("{}\n", outcome_to_line(&measure(&job))))?;
    Ok(ExitCode::SUCCESS)
}

fn measure(job: &Job) -> Result<Sample, Failure> {
    let object = identity::check(job)?;
    let sample = match job.cell.work {
        Work::Flow(flow) if flow.learn == Learn::Thread => callback::measure(job, flow)?,
        Work::Flow(flow) => measure_flow(job, flow)?,
        Work::LongestSubmission(kind) => large::measure(job, kind)?,
        Work::PingPong => socket::measure(job)?,
        Work::Burst => many::measure(job)?,
    };
    Ok(Sample { object, ..sample })
}

/// What of the file is worked on: cached reads need no more than defeats the processor's caches.
fn extent(job: &Job, flow: Flow) -> u64 {
    match flow.way {
        Way::Cached => job.size.min(64 << 20),
        _ => job.size,
    }
}

fn is_fast(flow: Flow) -> bool {
    matches!(flow.way, Way::Cached | Way::Tmpfs) && flow.fsync_every.is_none()
}

/// The sides and the ways of completion that one loop serves, in as many threads as the cell has.
fn measure_flow(job: &Job, flow: Flow) -> Result<Sample, Failure> {
    if flow.learn == Learn::Signal || flow.learn == Learn::LioNowait {
        // Before there are threads, so that no thread takes the signal away.
        posix::block_signal();
    }
    let size = extent(job, flow);
    let writes = flow.action != crate::bench::cell::Action::Read;
    let target = file::Target::open(&job.file, size, flow.way, writes)?;
    let (span, tallies) = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..flow.threads as u64)
            .map(|lane| {
                let target = &target;
                scope.spawn(move || {
                    let tally = work(job, flow, Sequence::new(flow, size, lane), target);
                    if tally.is_err() {
                        measure::stop();
                    }
                    tally
                })
            })
            .collect();
        let span = measure::conduct(job.seconds);
        let tallies = threads.into_iter().map(|thread| thread.join().expect("a panic ends the process"));
        (span, tallies.collect::<Result<Vec<Tally>, Failure>>())
    });
    summary(span, tallies?.iter())
}

fn work(job: &Job, flow: Flow, mut sequence: Sequence, target: &file::Target) -> Result<Tally, Failure> {
    let (fd, depth, block) = (target.fd(), job.depth as usize, flow.block);
    let buffers = || file::Buffers::new(depth, block);
    let mut tally = Tally::new(is_fast(flow));
    match job.side {
        Side::Libc | Side::Library => {
            let queue = posix::Posix::new(fd, depth, block, flow.learn)?.shaped(flow)?;
            flow::with(queue, |queue| flow::drive(queue, depth, &mut sequence, &mut tally, target))?;
        }
        Side::Libaio => {
            let queue = kernel::Kernel::new(fd, depth, block, buffers()?, job.batch)?.shaped(flow)?;
            flow::with(queue, |queue| flow::drive(queue, depth, &mut sequence, &mut tally, target))?;
        }
        Side::Uring => {
            let queue = uring::Uring::new(fd, depth, block, buffers()?, job.batch)?;
            flow::with(queue, |queue| flow::drive(queue, depth, &mut sequence, &mut tally, target))?;
        }
    }
    Ok(tally)
}

fn summary<'a>(span: Span, tallies: impl Iterator<Item = &'a Tally>) -> Result<Sample, Failure> {
    let mut all = Tally::new(false);
    tallies.for_each(|tally| all.merge(tally));
    if all.completed == 0 {
        return Err(Failure::Failed(
            "no operation completed in the measured time (--seconds makes it longer)".to_owned(),
        ));
    }
    let seconds = span.seconds - all.paused_ns as f64 / 1e9;
    let cpu = span.cpu_ns.saturating_sub(all.paused_cpu_ns) as f64;
    Ok(Sample {
        value: all.completed as f64 / seconds,
        p99_ns: all.latency.percentile(0.99),
        cpu_ns: Some(cpu / all.completed as f64),
        object: None,
    })
}
