//! The result as a drawing: operations a second by depth, one line for each side, one panel for each kind of work.

use super::cell::Side;
use super::chart::families;
use super::figures::{short, RATE};
use super::run::Row;
use crate::words::plain;
use plotters::prelude::*;
use std::fs::Permissions;
use std::io::{self, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

const PANEL: (u32, u32) = (640, 300);
/// Width at the right of a panel for the names of the lines.
const LEGEND: u32 = 100;

/// Where the drawing goes.
pub struct Drawing(PathBuf);

impl Drawing {
    /// Looks whether the drawing can be written, and makes nothing yet: the run may be interrupted.
    pub fn plan(path: &Path) -> Result<Drawing, String> {
        let check = if path.exists() {
            std::fs::OpenOptions::new().append(true).open(path).map(drop)
        } else {
            tempfile::tempfile_in(directory(path)).map(drop)
        };
        check.map_err(|error| {
            format!("the drawing {} cannot be written: {}", path.display(), plain(&error))
        })?;
        Ok(Drawing(path.to_owned()))
    }

    pub fn draw(&self, rows: &[Row]) -> Result<(), String> {
        let families = families(rows);
        let mut text = String::new();
        render(&families, &mut text).map_err(|error| format!("drawing: {error}"))?;
        self.write(text.as_bytes())
            .map_err(|error| format!("the drawing {} cannot be written: {}", self.0.display(), plain(&error)))
    }

    /// Under another name first: on a full disk no half of a drawing stays, and an older one does.
    fn write(&self, text: &[u8]) -> io::Result<()> {
        if self.0.symlink_metadata().is_ok_and(|status| !status.is_file()) {
            // A pipe, a device or a link is what the user means to write to.
            return std::fs::write(&self.0, text);
        }
        let mut file = tempfile::Builder::new()
            .permissions(Permissions::from_mode(0o666))
            .tempfile_in(directory(&self.0))?;
        file.write_all(text)?;
        file.persist(&self.0)?;
        Ok(())
    }
}

fn directory(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

fn paint(side: Side) -> RGBColor {
    match side {
        Side::Libc => RGBColor(0xC0, 0x39, 0x2B),
        Side::Library => RGBColor(0x1E, 0x8E, 0x3E),
        Side::Libaio => RGBColor(0x1F, 0x5F, 0xBF),
        Side::Uring => RGBColor(0x8E, 0x44, 0xAD),
    }
}

fn render(families: &[&[Row]], text: &mut String) -> Result<(), Box<dyn std::error::Error>> {
    let size = (PANEL.0, PANEL.1 * families.len() as u32);
    let area = SVGBackend::with_string(text, size).into_drawing_area();
    area.fill(&WHITE)?;
    for (panel, family) in area.split_evenly((families.len(), 1)).iter().zip(families) {
        panel_of(panel, family)?;
    }
    area.present()?;
    Ok(())
}

type Area<'a> = DrawingArea<SVGBackend<'a>, plotters::coord::Shift>;

fn panel_of(area: &Area<'_>, family: &[Row]) -> Result<(), Box<dyn std::error::Error>> {
    let top = family
        .iter()
        .flat_map(|row| Side::ALL.map(|side| row.value(side, RATE).unwrap_or(0.0)))
        .fold(1.0, f64::max);
    let last = (family.len() - 1) as f64;
    let mut chart = ChartBuilder::on(area)
        .caption(format!("{}: operations a second", family[0].point.cell.title), ("sans-serif", 18))
        .margin(12)
        .margin_right(LEGEND)
        .x_label_area_size(44)
        .y_label_area_size(56)
        .build_cartesian_2d(-0.1..last + 0.1, 0.0..top * 1.08)?;
    // Depths grow by factors: each has its place, evenly spaced.
    let depth = |place: &f64| {
        let near = (place - place.round()).abs() < 0.01 && *place > -0.5;
        family
            .get(place.round() as usize)
            .filter(|_| near)
            .map_or(String::new(), |row| row.point.depth.to_string())
    };
    chart
        .configure_mesh()
        .x_desc("requests in flight")
        .x_labels(family.len() * 2 + 1)
        .x_label_formatter(&depth)
        .y_label_formatter(&|value| short(*value))
        .disable_x_mesh()
        .light_line_style(TRANSPARENT)
        .bold_line_style(RGBColor(0xDD, 0xDD, 0xDD))
        .draw()?;
    for side in Side::ALL {
        let line: Vec<(f64, f64)> = family
            .iter()
            .enumerate()
            .filter_map(|(place, row)| Some((place as f64, row.value(side, RATE)?)))
            .collect();
        if line.is_empty() {
            continue;
        }
        let style = paint(side).stroke_width(if side == Side::Library { 3 } else { 2 });
        // Segments: some viewers fill a longer line with black.
        chart.draw_series(line.windows(2).map(|pair| PathElement::new(pair.to_vec(), style)))?;
        chart.draw_series(line.into_iter().map(|place| Circle::new(place, 3, paint(side).filled())))?;
    }
    legend(area, family)
}

/// The sides' names, right of the curves.
fn legend(area: &Area<'_>, family: &[Row]) -> Result<(), Box<dyn std::error::Error>> {
    let shown =
        Side::ALL.into_iter().filter(|&side| family.iter().any(|row| row.value(side, RATE).is_some()));
    let left = (PANEL.0 - LEGEND) as i32 + 8;
    for (place, side) in shown.enumerate() {
        let height = 60 + 22 * place as i32;
        area.draw(&PathElement::new([(left, height), (left + 18, height)], paint(side).stroke_width(3)))?;
        area.draw(&Text::new(side.name(), (left + 24, height - 6), ("sans-serif", 14)))?;
    }
    Ok(())
}
