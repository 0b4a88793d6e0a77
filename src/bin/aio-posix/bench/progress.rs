//! What runs, and how long it will take: a bar on standard error, and nothing where that is no terminal.

use super::cell::Side;
use super::figures::title;
use super::run::{Plan, Point};
use crate::words::complain;
use indicatif::{ProgressBar, ProgressStyle};
use std::cell::Cell;
use std::time::{Duration, Instant};

pub struct Progress {
    bar: ProgressBar,
    rounds: u32,
    /// When the first measurement began.
    start: Cell<Option<Instant>>,
    /// What one measurement should take, until there are enough to know.
    guess: Duration,
}

impl Progress {
    pub fn new(plan: &Plan) -> Result<Progress, String> {
        let bar = ProgressBar::new(plan.measurements());
        let style = ProgressStyle::with_template("{bar:16} {pos}/{len}  {msg}");
        bar.set_style(style.map_err(|error| format!("the progress bar: {error}"))?);
        let shown = bar.clone();
        // The files have no names and the workers die with us, so there is nothing to clean up but the screen.
        let handler = move || {
            shown.finish_and_clear();
            complain("interrupted; the test files are gone");
            std::process::exit(130);
        };
        ctrlc::set_handler(handler).map_err(|error| format!("the handler for Ctrl-C: {error}"))?;
        let guess = Duration::from_secs_f64(plan.seconds * 1.1 + 0.15);
        Ok(Progress { bar, rounds: plan.rounds, start: Cell::new(None), guess })
    }

    pub fn writing(&self) {
        self.bar.set_message("writing the test file");
    }

    /// The next measurement begins.
    pub fn show(&self, round: u32, point: &Point, side: Side) {
        let done = match self.start.get() {
            None => {
                self.start.set(Some(Instant::now()));
                0
            }
            Some(_) => self.bar.position() + 1,
        };
        self.bar.set_position(done);
        let what = title(point.cell, point.depth);
        let (round, left) = (round + 1, self.left(done));
        self.bar.set_message(format!("round {round}/{}: {what}: {}; {left} left", self.rounds, side.name()));
    }

    fn left(&self, done: u64) -> String {
        let passed = self.start.get().map_or(Duration::ZERO, |start| start.elapsed());
        let each = if done < 4 { self.guess.as_secs_f64() } else { passed.as_secs_f64() / done as f64 };
        let seconds = each * (self.bar.length().unwrap_or(done) - done) as f64;
        if seconds < 90.0 {
            format!("{seconds:.0} s")
        } else {
            format!("{:.0} min", seconds / 60.0)
        }
    }

    pub fn finish(&self) {
        self.bar.finish_and_clear();
    }
}
