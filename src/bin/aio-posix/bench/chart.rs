//! Bars for the terminal: how a kind of work gains with depth, on each side.

use super::cell::Side;
use super::figures::{short, title, RATE};
use super::run::Row;

const WIDTH: usize = 44;
/// Bars grow by eighths of a character.
const EIGHTHS: [&str; 8] = ["", "▏", "▎", "▍", "▌", "▋", "▊", "▉"];

/// Terminal colour of a side, as the number of an SGR sequence.
fn paint(side: Side) -> u8 {
    match side {
        Side::Libc => 31,
        Side::Library => 32,
        Side::Libaio => 34,
        Side::Uring => 35,
    }
}

/// One block of bars for each cell that was measured at several depths.
pub fn bars(rows: &[Row], colour: bool) -> String {
    families(rows).into_iter().map(|family| block(family, colour)).collect()
}

/// The rows of one kind of work each, where there are several depths to compare.
pub fn families(rows: &[Row]) -> Vec<&[Row]> {
    rows.chunk_by(|one, other| std::ptr::eq(one.point.cell, other.point.cell))
        .filter(|family| family.len() > 1 && family[0].point.cell.is_rate())
        .collect()
}

fn block(family: &[Row], colour: bool) -> String {
    let top = family
        .iter()
        .flat_map(|row| Side::ALL.map(|side| row.value(side, RATE).unwrap_or(0.0)))
        .fold(0.0, f64::max);
    let mut text = String::new();
    for row in family {
        text += &format!("{}\n", title(row.point.cell, row.point.depth));
        for side in Side::ALL {
            if let Some(value) = row.value(side, RATE) {
                let bar = bar(value / top);
                let bar = if colour { format!("\x1b[{}m{bar}\x1b[0m", paint(side)) } else { bar };
                text += &format!("  {:8} {bar} {}\n", side.name(), short(value));
            }
        }
    }
    text + "\n"
}

fn bar(part: f64) -> String {
    let eighths = (part * WIDTH as f64 * 8.0).round() as usize;
    "█".repeat(eighths / 8) + EIGHTHS[eighths % 8]
}
