//! The result as tables for people, 80 columns wide.

use super::cell::Side;
use super::figures::{duration, percent, short, times, title, Metric, CALL, LATENCY, PROCESSOR, RATE};
use super::job::Failure;
use super::run::Row;
use comfy_table::{presets, Attribute, Cell, CellAlignment, Color, Table, TableComponent};
use std::collections::BTreeMap;

/// What a table shows, and what its last column says of the rounds behind a median.
struct Look {
    heading: &'static str,
    metric: Metric,
    write: fn(f64) -> String,
    last: &'static str,
    last_of: fn(&Row, Metric) -> Option<String>,
}

const LOOKS: [Look; 3] = [
    Look { heading: "Operations a second", metric: RATE, write: short, last: "noise", last_of: noise },
    Look {
        heading: "Latency that 99 % of requests stay below",
        metric: LATENCY,
        write: duration,
        last: "noise",
        last_of: noise,
    },
    Look {
        heading: "Processor time of the process for an operation",
        metric: PROCESSOR,
        write: duration,
        last: "noise",
        last_of: noise,
    },
];

const CALLS: Look = Look {
    heading: "Time in a submitting call: the longest of five; of many at once, the mean",
    metric: CALL,
    write: duration,
    last: "at most",
    // Such a call must never be long, so the library's worst round counts.
    last_of: |row, metric| row.of(Side::Library).most(metric).map(duration),
};

fn noise(row: &Row, metric: Metric) -> Option<String> {
    row.noise(metric).map(percent)
}

/// All tables that have rows, one after the other.
pub fn tables(rows: &[Row], colour: bool) -> String {
    let (rates, calls): (Vec<&Row>, Vec<&Row>) = rows.iter().partition(|row| row.point.cell.is_rate());
    let mut text = String::new();
    if !rates.is_empty() {
        LOOKS.iter().for_each(|look| text += &table(look, &rates, colour));
    }
    if !calls.is_empty() {
        text += &table(&CALLS, &calls, colour);
    }
    text
}

fn table(look: &Look, rows: &[&Row], colour: bool) -> String {
    let &Look { heading, metric, write, last, last_of } = look;
    let mut table = Table::new();
    table.load_preset(presets::UTF8_HORIZONTAL_ONLY);
    table.remove_style(TableComponent::HorizontalLines).remove_style(TableComponent::MiddleIntersections);
    table.set_header(["work, depth", "libc", "library", "libaio", "io_uring", "x libc", "x raw", last]);
    if colour {
        table.enforce_styling();
    }
    for (index, column) in table.column_iter_mut().enumerate() {
        let alignment = if index == 0 { CellAlignment::Left } else { CellAlignment::Right };
        column.set_padding((0, u16::from(index < 7))).set_cell_alignment(alignment);
    }
    for row in rows {
        let mut cells = vec![Cell::new(title(row.point.cell, row.point.depth))];
        for side in Side::ALL {
            let cell = Cell::new(row.value(side, metric).map_or(missing(row, side), write));
            cells.push(if colour && side == Side::Library {
                cell.add_attribute(Attribute::Bold)
            } else {
                cell
            });
        }
        for (ratio, good) in [(row.to_libc(metric), 0.98), (row.to_raw(metric), 0.95)] {
            let cell = Cell::new(ratio.map_or(String::new(), times));
            cells.push(match ratio {
                Some(ratio) if colour => cell.fg(if ratio >= good { Color::Green } else { Color::Yellow }),
                _ => cell,
            });
        }
        cells.push(Cell::new(last_of(row, metric).unwrap_or_default()));
        table.add_row(cells);
    }
    format!("\n{heading}\n{table}\n")
}

fn missing(row: &Row, side: Side) -> String {
    match row.of(side).failure {
        Some(Failure::Refused(_)) => "none".to_owned(),
        Some(Failure::Failed(_)) => "failed".to_owned(),
        None => String::new(),
    }
}

/// One sentence for each reason why a figure is missing, with the cells that it is missing from.
pub fn reasons(rows: &[Row]) -> Vec<String> {
    let mut reasons: BTreeMap<(usize, &str), Vec<String>> = BTreeMap::new();
    for row in rows {
        for side in Side::ALL {
            if let Some(Failure::Refused(reason) | Failure::Failed(reason)) = &row.of(side).failure {
                let cells = reasons.entry((side as usize, reason)).or_default();
                cells.push(title(row.point.cell, row.point.depth));
            }
        }
    }
    reasons
        .into_iter()
        .map(|((side, reason), cells)| {
            let place = if cells.len() > 3 { format!("{} cells", cells.len()) } else { cells.join("; ") };
            format!("{} ({place}): {reason}", Side::ALL[side].name())
        })
        .collect()
}
