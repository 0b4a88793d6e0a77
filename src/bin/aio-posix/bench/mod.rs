//! `aio-posix bench`: the same work on libc's POSIX AIO, on the library, and on the kernel's own interfaces, side by side.

pub mod cell;
mod chart;
mod figures;
mod files;
pub mod job;
pub mod machine;
pub mod output;
mod progress;
mod run;
mod svg;
mod table;

use crate::library;
use crate::words::say;
use cell::{Cell, CELLS};
use files::Files;
use job::Failure;
use progress::Progress;
use run::{Plan, Point, Row};
use std::path::PathBuf;
use std::process::ExitCode;

/// Measure POSIX AIO as libc does it, as libaio_posix does it, and the kernel's own interfaces.
///
/// Each measurement runs in a fresh process; the sides alternate, and the median of the rounds is shown. Without
/// options: direct and cached reads of 4 KiB, about a minute.
#[derive(clap::Args)]
pub struct Options {
    /// Directory to work in; needs 256 MiB, and nothing stays there
    #[arg(long, value_name = "DIR", default_value = ".")]
    path: PathBuf,
    /// Measure all cells (about ten minutes)
    #[arg(long)]
    full: bool,
    /// Measure this cell; may be repeated (--list names them)
    #[arg(long, value_name = "NAME", conflicts_with = "full")]
    cell: Vec<String>,
    /// Measure at this depth instead of the cells' own; may be repeated, or a list: 1,32
    #[arg(long, value_name = "N", value_delimiter = ',', value_parser = clap::value_parser!(u32).range(1..=65_536))]
    depth: Vec<u32>,
    /// Rounds, whose median is shown [default: 3, with --full 5]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1000))]
    rounds: Option<u32>,
    /// Length of one measurement, in seconds
    #[arg(long, value_name = "S", default_value_t = 0.6, value_parser = seconds)]
    seconds: f64,
    /// Let libaio and io_uring submit all that is ready in one call, not one call a request
    #[arg(long)]
    batch: bool,
    /// The libaio_posix.so to measure [default: beside this command, in ../lib, or where the dynamic linker looks]
    #[arg(long, value_name = "FILE")]
    library: Option<PathBuf>,
    /// Print the result as JSON
    #[arg(long)]
    json: bool,
    /// Also draw the result into an SVG file
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,
    /// List the cells and their depths
    #[arg(long)]
    list: bool,
}

fn seconds(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(seconds) if (0.05..=3600.0).contains(&seconds) => Ok(seconds),
        _ => Err("a number of seconds from 0.05 to 3600".to_owned()),
    }
}

pub fn run(options: &Options) -> Result<ExitCode, String> {
    if options.list {
        output::end_with_reader();
        let line = |cell: &Cell| format!("{:18} {:22} depth {:?}\n", cell.name, cell.title, cell.depths);
        say(&CELLS.iter().map(line).collect::<String>())?;
        return Ok(ExitCode::SUCCESS);
    }
    let library = library::find(options.library.as_deref())?;
    let rounds = options.rounds.unwrap_or(if options.full { 5 } else { 3 });
    let plan = Plan {
        points: points(options)?,
        rounds,
        seconds: options.seconds,
        batch: options.batch,
        library: &library,
    };
    // Found out now rather than after ten minutes.
    let svg = options.svg.as_deref().map(svg::Drawing::plan).transpose()?;
    if svg.is_some() && !plan.has_curves() {
        return Err(
            "--svg has nothing to draw: choose work that is measured at more than one depth".to_owned()
        );
    }
    let progress = Progress::new(&plan)?;
    let rows = measure(options, &plan, &progress)?;
    progress.finish();
    let drawn = svg.map_or(Ok(()), |drawing| drawing.draw(&rows));
    output::end_with_reader();
    if options.json {
        say(&format!("{}\n", output::json(&rows, &plan, &options.path)))?;
    } else {
        say(&output::text(&rows, &plan, &options.path))?;
    }
    // Said last: the figures of ten minutes are not lost with the drawing.
    drawn?;
    let failed = rows
        .iter()
        .flat_map(|row| &row.series)
        .any(|series| matches!(series.failure, Some(Failure::Failed(_))));
    if failed {
        return Err("some measurements failed; see the lines that say why".to_owned());
    }
    Ok(ExitCode::SUCCESS)
}

fn measure(options: &Options, plan: &Plan, progress: &Progress) -> Result<Vec<Row>, String> {
    let mut cells: Vec<&Cell> = plan.points.iter().map(|point| point.cell).collect();
    cells.dedup_by_key(|cell| cell.name);
    let files = Files::prepare(&options.path, &cells, &mut || progress.writing())?;
    plan.run(&files, &mut |round, point, side| progress.show(round, point, side))
}

fn points(options: &Options) -> Result<Vec<Point>, String> {
    let chosen =
        |cell: &&'static Cell| options.cell.is_empty() || options.cell.iter().any(|name| name == cell.name);
    if let Some(unknown) = options.cell.iter().find(|name| Cell::find(name).is_none()) {
        return Err(format!("there is no cell {unknown}; --list shows those that there are"));
    }
    let short = options.cell.is_empty() && !options.full;
    let mut points = Vec::new();
    for cell in CELLS.iter().filter(chosen) {
        let own = if short { cell.short } else { cell.depths };
        // The short run keeps to its cells, whatever the depth.
        let depths = if options.depth.is_empty() || own.is_empty() || !cell.has_depth() {
            own
        } else {
            &options.depth
        };
        points.extend(depths.iter().map(|&depth| Point { cell, depth }));
    }
    Ok(points)
}
