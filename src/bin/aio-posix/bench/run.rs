//! Runs the measurements: in each round each cell on each side in turn, every one in a fresh process.

use super::cell::{Cell, Side};
use super::files::Files;
use super::job::{outcome_from_line, Failure, Job, Sample};
use std::io::{Read, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

/// One cell at one depth.
#[derive(Clone, Copy)]
pub struct Point {
    pub cell: &'static Cell,
    pub depth: u32,
}

/// What one side gave at one point, round by round, until it failed.
#[derive(Default, Clone)]
pub struct Series {
    pub samples: Vec<Sample>,
    pub failure: Option<Failure>,
}

/// What was measured at one point: a series for each side of `Side::ALL`, empty for those that the cell leaves out.
pub struct Row {
    pub point: Point,
    pub series: [Series; 4],
}

impl Row {
    pub fn of(&self, side: Side) -> &Series {
        &self.series[side as usize]
    }
}

pub struct Plan<'a> {
    pub points: Vec<Point>,
    pub rounds: u32,
    pub seconds: f64,
    pub batch: bool,
    pub library: &'a Path,
}

impl Plan<'_> {
    pub fn measurements(&self) -> u64 {
        self.points.iter().map(|point| point.cell.sides.len() as u64).sum::<u64>() * u64::from(self.rounds)
    }

    /// Is some kind of work measured at more than one depth?
    pub fn has_curves(&self) -> bool {
        self.points.windows(2).any(|pair| pair[0].cell.is_rate() && std::ptr::eq(pair[0].cell, pair[1].cell))
    }

    /// `step` is told before each measurement what comes, and how far we are.
    pub fn run(&self, files: &Files, step: &mut dyn FnMut(u32, &Point, Side)) -> Result<Vec<Row>, String> {
        let mut rows: Vec<Row> =
            self.points.iter().map(|&point| Row { point, series: Default::default() }).collect();
        for round in 0..self.rounds {
            for row in &mut rows {
                for &side in row.point.cell.sides {
                    step(round, &row.point, side);
                    let series = &mut row.series[side as usize];
                    // What failed once is not tried again: it may have taken a minute to fail.
                    if series.failure.is_none() {
                        match self.measure(files, &row.point, side)? {
                            Ok(sample) => series.samples.push(sample),
                            Err(failure) => series.failure = Some(failure),
                        }
                    }
                }
            }
        }
        Ok(rows)
    }

    fn measure(&self, files: &Files, point: &Point, side: Side) -> Result<Result<Sample, Failure>, String> {
        let Some((file, size)) = files.of(point.cell) else {
            return Ok(Err(Failure::Refused("/dev/shm is no tmpfs that takes O_DIRECT".to_owned())));
        };
        let job = Job {
            side,
            cell: point.cell,
            depth: point.depth,
            seconds: self.seconds,
            file,
            size,
            batch: self.batch,
            library: self.library.display().to_string(),
        };
        // A rotating disk needs minutes for twenty thousand reads.
        let patience = if point.cell.is_rate() { 60.0 } else { 300.0 };
        let limit = Duration::from_secs_f64(self.seconds + patience);
        start(&job)
            .and_then(|child| finish(child, &job, limit))
            .map_err(|error| format!("no worker process can be run: {error}"))
    }
}

fn start(job: &Job) -> std::io::Result<Child> {
    let mut command = Command::new(std::env::current_exe()?);
    command.arg("worker").stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    // Whatever the user preloads, each side gets what it is measured with and nothing else.
    command.env_remove("LD_PRELOAD");
    if job.side == Side::Library {
        command.env("LD_PRELOAD", &job.library);
    }
    command.spawn()
}

/// Gives the worker its job and waits for the answer, but not for ever.
fn finish(mut child: Child, job: &Job, limit: Duration) -> std::io::Result<Result<Sample, Failure>> {
    let (mut input, mut output) = (child.stdin.take(), child.stdout.take());
    let mut complaints = child.stderr.take();
    if let Some(input) = &mut input {
        // A worker that is already dead says so by its silence below.
        let _ = writeln!(input, "{}", job.to_line());
    }
    let (sender, receiver) = mpsc::channel();
    let reader = std::thread::spawn(move || {
        let mut text = String::new();
        let _ = output.as_mut().map(|output| output.read_to_string(&mut text));
        let _ = sender.send(());
        let mut words = String::new();
        let _ = complaints.as_mut().map(|complaints| complaints.read_to_string(&mut words));
        (text, words)
    });
    let hung = receiver.recv_timeout(limit).is_err();
    if hung {
        child.kill()?;
    }
    let status = child.wait()?;
    let (text, words) = reader.join().unwrap_or_default();
    if hung {
        return Ok(Err(Failure::Failed(format!("no result in {} s: the worker hung", limit.as_secs()))));
    }
    let answer = text.lines().last().and_then(outcome_from_line);
    Ok(answer.unwrap_or_else(|| {
        let last = words.lines().last().map(|line| format!(": {line}")).unwrap_or_default();
        Err(Failure::Failed(format!("the worker ended without a result ({status}){last}")))
    }))
}
