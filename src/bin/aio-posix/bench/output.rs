//! The whole result: what was compared and where, then the figures; for people or as JSON.

use super::cell::Side;
use super::figures::{Metric, LATENCY, PROCESSOR};
use super::job::Failure;
use super::run::{Plan, Row, Series};
use super::{chart, machine, table};
use serde_json::{json, Value};
use std::io::IsTerminal;
use std::path::Path;

pub fn text(rows: &[Row], plan: &Plan, directory: &Path) -> String {
    let colour = std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    let mut lines = vec![
        machine::describe(directory),
        format!("Each figure: the median of {} of {} s", rounds(plan.rounds), plan.seconds),
    ];
    if let Some(object) = object(rows, Side::Libc) {
        lines.push(format!("libc     checked: POSIX AIO is that of {object},"));
        lines.push("         and libaio_posix is not there".to_owned());
    }
    if let Some(object) = object(rows, Side::Library) {
        lines.push(format!("library  checked: POSIX AIO is that of {object}"));
    }
    let calls = if plan.batch { "all that is ready" } else { "one request, as POSIX AIO does" };
    lines.extend([
        "libaio   its system calls, called directly; io_uring: the io-uring crate".to_owned(),
        format!("         one call of these two submits {calls}"),
        table::tables(rows, colour),
        format!(
            "{}x libc, x raw: how many times as good as libc, and as the better of libaio and",
            chart::bars(rows, colour)
        ),
        "io_uring, the library is. noise: from the worst to the best round, of the least".to_owned(),
        "steady side.".to_owned(),
    ]);
    lines.extend(table::reasons(rows));
    lines.join("\n") + "\n"
}

fn rounds(count: u32) -> String {
    format!("{count} round{}", if count == 1 { "" } else { "s" })
}

/// A reader that has seen enough, such as `head`, ends us without a word.
pub fn end_with_reader() {
    // SAFETY: restores a default action; no handler is involved.
    unsafe { libc::signal(libc::SIGPIPE, libc::SIG_DFL) };
}

/// Where the POSIX calls of a side went.
fn object(rows: &[Row], side: Side) -> Option<&str> {
    rows.iter().flat_map(|row| &row.of(side).samples).find_map(|sample| sample.object.as_deref())
}

pub fn json(rows: &[Row], plan: &Plan, directory: &Path) -> String {
    let cells: Vec<Value> = rows.iter().map(row).collect();
    let whole = json!({
        "machine": machine::describe(directory),
        "rounds": plan.rounds,
        "seconds": plan.seconds,
        "batch": plan.batch,
        "libc": object(rows, Side::Libc),
        "library": object(rows, Side::Library),
        "cells": cells,
    });
    format!("{whole:#}")
}

fn row(row: &Row) -> Value {
    let unit = if row.point.cell.is_rate() { "operations/s" } else { "ns" };
    let mut value = json!({
        "cell": row.point.cell.name, "depth": row.point.depth, "unit": unit,
        "to_libc": row.to_libc(row.main()), "to_raw": row.to_raw(row.main()),
    });
    for &side in row.point.cell.sides {
        value[side.name()] = series(row.of(side), row.main());
    }
    value
}

fn series(series: &Series, main: Metric) -> Value {
    match &series.failure {
        Some(Failure::Refused(reason)) => json!({ "refused": reason }),
        Some(Failure::Failed(reason)) => json!({ "failed": reason }),
        None => json!({
            "median": series.median(main), "min": series.least(main), "max": series.most(main),
            "rounds": series.samples.iter().map(|sample| sample.value).collect::<Vec<f64>>(),
            "p99_ns": series.median(LATENCY), "cpu_ns": series.median(PROCESSOR),
        }),
    }
}
