//! What `bench` and its workers say to each other: one line of JSON each way.

use super::cell::{Cell, Side};
use serde_json::{json, Value};

/// One measurement for a worker.
pub struct Job {
    pub side: Side,
    pub cell: &'static Cell,
    pub depth: u32,
    /// How long to measure; a little warm-up comes on top.
    pub seconds: f64,
    /// The file to work on. It has no name of its own: this is the parent's descriptor under /proc.
    pub file: String,
    /// Bytes in the file: a power of two.
    pub size: u64,
    /// Let the raw interfaces submit all that was just reaped in one call, which POSIX AIO has no words for.
    pub batch: bool,
    /// The library that must, or must not, answer the POSIX calls.
    pub library: String,
}

impl Job {
    pub fn to_line(&self) -> String {
        json!({
            "side": self.side.name(), "cell": self.cell.name, "depth": self.depth, "seconds": self.seconds,
            "file": self.file, "size": self.size, "batch": self.batch, "library": self.library,
        })
        .to_string()
    }

    pub fn from_line(line: &str) -> Option<Job> {
        let value: Value = serde_json::from_str(line).ok()?;
        Some(Job {
            side: Side::from_name(value["side"].as_str()?)?,
            cell: Cell::find(value["cell"].as_str()?)?,
            depth: u32::try_from(value["depth"].as_u64()?).ok()?,
            seconds: value["seconds"].as_f64()?,
            file: value["file"].as_str()?.to_owned(),
            size: value["size"].as_u64()?,
            batch: value["batch"].as_bool()?,
            library: value["library"].as_str()?.to_owned(),
        })
    }
}

/// What one measurement gave.
#[derive(Clone, Debug)]
pub struct Sample {
    /// Operations a second or nanoseconds, as the cell says.
    pub value: f64,
    /// From submission until the program knew of the completion.
    pub p99_ns: Option<f64>,
    /// Of the whole process, user and system, for each operation.
    pub cpu_ns: Option<f64>,
    /// The object that answers the POSIX calls in the worker, for the sides that make them.
    pub object: Option<String>,
}

/// Why there is no sample.
#[derive(Clone, Debug)]
pub enum Failure {
    /// The kernel does not offer this here; nothing is wrong.
    Refused(String),
    Failed(String),
}

impl From<String> for Failure {
    fn from(reason: String) -> Failure {
        Failure::Failed(reason)
    }
}

pub fn outcome_to_line(outcome: &Result<Sample, Failure>) -> String {
    match outcome {
        Ok(sample) => json!({
            "value": sample.value, "p99_ns": sample.p99_ns, "cpu_ns": sample.cpu_ns, "object": sample.object,
        }),
        Err(Failure::Refused(reason)) => json!({ "refused": reason }),
        Err(Failure::Failed(reason)) => json!({ "failed": reason }),
    }
    .to_string()
}

pub fn outcome_from_line(line: &str) -> Option<Result<Sample, Failure>> {
    let value: Value = serde_json::from_str(line).ok()?;
    if let Some(reason) = value["refused"].as_str() {
        return Some(Err(Failure::Refused(reason.to_owned())));
    }
    if let Some(reason) = value["failed"].as_str() {
        return Some(Err(Failure::Failed(reason.to_owned())));
    }
    Some(Ok(Sample {
        value: value["value"].as_f64()?,
        p99_ns: value["p99_ns"].as_f64(),
        cpu_ns: value["cpu_ns"].as_f64(),
        object: value["object"].as_str().map(str::to_owned),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_job_arrives_as_it_was_sent() {
        let cell = Cell::find("cold-read").expect("a cell of the table");
        let job = Job {
            side: Side::Uring,
            cell,
            depth: 17,
            seconds: 0.25,
            file: "/proc/1/fd/3".to_owned(),
            size: 1 << 28,
            batch: true,
            library: "/a \"b\".so".to_owned(),
        };
        let line = job.to_line();
        assert!(!line.contains('\n'));
        assert_eq!(Job::from_line(&line).map(|arrived| arrived.to_line()), Some(line));
        assert!(Job::from_line("{}").is_none());
    }

    #[test]
    fn a_failure_is_not_taken_for_a_result() {
        let line = outcome_to_line(&Err(Failure::Refused("no\nway".to_owned())));
        assert!(!line.contains('\n'));
        assert!(
            matches!(outcome_from_line(&line), Some(Err(Failure::Refused(reason))) if reason == "no\nway")
        );
        assert!(outcome_from_line("warning").is_none());
    }
}
