//! What was found, for people (80 columns) and for programs (JSON).

use super::host::{errno_name, Host};
use super::library::Way;
use super::probe::{Kind, Measured, NoWait, TRIES};
use super::Finding;
use serde_json::{json, Value};
use std::fmt::Write;

/// As the table shows whether the kernel works while the caller goes on.
fn kernel_word(measured: &Measured) -> String {
    match measured.in_flight {
        Err(number) => error_word(number),
        Ok(0) => "in the call".to_owned(),
        Ok(TRIES) => "asynchronous".to_owned(),
        Ok(count) => format!("async {count} of {TRIES}"),
    }
}

fn nowait_word(nowait: Option<NoWait>) -> String {
    match nowait {
        None => "-".to_owned(),
        Some(NoWait::Done) => "yes".to_owned(),
        Some(NoWait::WouldWait) => "would wait".to_owned(),
        Some(NoWait::Unsupported) => "no".to_owned(),
        Some(NoWait::Failed(number)) => error_word(number),
    }
}

fn error_word(number: i32) -> String {
    errno_name(number).unwrap_or_else(|| format!("errno {number}"))
}

pub fn text(host: &Host, findings: &[Finding]) -> String {
    let mut text = String::new();
    // Writing to a String cannot fail.
    let _ = write_text(&mut text, host, findings);
    text
}

fn write_text(text: &mut String, host: &Host, findings: &[Finding]) -> std::fmt::Result {
    match &host.context {
        Ok(requests) => {
            writeln!(text, "kernel AIO  works: Linux {}, context for {requests} requests", host.kernel)?
        }
        Err(refused) => {
            writeln!(
                text,
                "kernel AIO  refused: {} gives {} (Linux {})",
                refused.call, refused.error, host.kernel
            )?;
            writeln!(text, "            by {}", refused.by)?;
            writeln!(text, "            {}", consequence(refused.call))?;
        }
    }
    if let (Some(in_use), Some(most)) = (host.in_use, host.most) {
        writeln!(text, "contexts    aio-nr {in_use} of aio-max-nr {most}")?;
    }
    match &host.library {
        Some(path) => writeln!(text, "library     {}", path.display())?,
        None => writeln!(text, "library     none found")?,
    }
    if host.limited {
        writeln!(text, "limit       RLIMIT_FSIZE is set: writes go to helper threads")?;
    }
    for finding in findings {
        writeln!(text, "\n{} ({})", finding.path.display(), finding.file_system)?;
        writeln!(text, "  {:<17} {:<13} {:<11} the library", "operation", "the kernel", "RWF_NOWAIT")?;
        for (measured, way) in &finding.rows {
            writeln!(
                text,
                "  {:<17} {:<13} {:<11} {}",
                measured.operation.name(),
                kernel_word(measured),
                nowait_word(measured.nowait),
                way.words()
            )?;
        }
    }
    Ok(())
}

/// What the library makes of a call that is refused.
fn consequence(call: &str) -> &'static str {
    match call {
        "io_setup" | "io_submit" | "io_pgetevents" => {
            "the library hands every call to libc's own implementation"
        }
        _ => "the library needs the call: requests would fail or hang",
    }
}

pub fn json(host: &Host, findings: &[Finding], failures: &[String], status: u8) -> Value {
    let refused = host
        .context
        .as_ref()
        .err()
        .map(|refused| json!({ "call": refused.call, "error": refused.error, "by": refused.by }));
    json!({
        "kernel": host.kernel,
        "kernel_aio": { "requests": host.context.as_ref().ok(), "refused": refused },
        "aio_nr": host.in_use,
        "aio_max_nr": host.most,
        "file_size_limited": host.limited,
        "library": host.library,
        "paths": findings.iter().map(place).collect::<Vec<_>>(),
        "errors": failures,
        "status": status,
    })
}

fn place(finding: &Finding) -> Value {
    let kind = match finding.kind {
        Kind::Directory => "directory",
        Kind::File => "file",
        Kind::BlockDevice => "block device",
    };
    json!({
        "path": finding.path,
        "kind": kind,
        "file_system": finding.file_system,
        "asynchronous": finding.is_asynchronous(),
        "operations": finding.rows.iter().map(|(measured, way)| operation(measured, *way)).collect::<Vec<_>>(),
    })
}

fn operation(measured: &Measured, way: Way) -> Value {
    let nowait = measured.nowait.map(|nowait| match nowait {
        NoWait::Done => "yes".to_owned(),
        NoWait::WouldWait => "EAGAIN".to_owned(),
        NoWait::Unsupported => "EOPNOTSUPP".to_owned(),
        NoWait::Failed(number) => error_word(number),
    });
    let worked = measured.in_flight.is_ok();
    json!({
        "operation": measured.operation.name(),
        "in_flight": measured.in_flight.ok(),
        "tries": TRIES,
        "error": measured.in_flight.err().map(error_word),
        "submitting_us": worked.then_some(measured.submitting.as_micros() as u64),
        "whole_us": worked.then_some(measured.whole.as_micros() as u64),
        "rwf_nowait": nowait,
        "library": way.words(),
    })
}
