//! Medians, spreads and ratios, and how they are written.

use super::cell::{Cell, Side};
use super::job::Sample;
use super::run::{Row, Series};

pub fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values.len() {
        0 => None,
        count if count % 2 == 1 => Some(values[middle]),
        _ => Some((values[middle - 1] + values[middle]) / 2.0),
    }
}

/// One of the things that a measurement tells.
#[derive(Clone, Copy)]
pub struct Metric {
    pub of: fn(&Sample) -> Option<f64>,
    /// Otherwise less is.
    pub more_is_better: bool,
}

/// Operations a second.
pub const RATE: Metric = Metric { of: |sample| Some(sample.value), more_is_better: true };
/// Time of a submitting call.
pub const CALL: Metric = Metric { of: |sample| Some(sample.value), more_is_better: false };
pub const LATENCY: Metric = Metric { of: |sample| sample.p99_ns, more_is_better: false };
pub const PROCESSOR: Metric = Metric { of: |sample| sample.cpu_ns, more_is_better: false };

impl Series {
    fn values(&self, metric: Metric) -> Vec<f64> {
        // A side that failed in one round has no figure.
        let samples = if self.failure.is_some() { &[] } else { &self.samples[..] };
        samples.iter().filter_map(metric.of).collect()
    }

    /// The median of the rounds.
    pub fn median(&self, metric: Metric) -> Option<f64> {
        median(self.values(metric))
    }

    pub fn least(&self, metric: Metric) -> Option<f64> {
        self.values(metric).into_iter().min_by(f64::total_cmp)
    }

    pub fn most(&self, metric: Metric) -> Option<f64> {
        self.values(metric).into_iter().max_by(f64::total_cmp)
    }

    /// From the worst to the best round, as a part of the median. One round says nothing of it.
    fn spread(&self, metric: Metric) -> Option<f64> {
        (self.samples.len() > 1).then_some(())?;
        Some((self.most(metric)? - self.least(metric)?) / self.median(metric)?)
    }
}

impl Row {
    /// The metric of `Sample::value` in this row.
    pub fn main(&self) -> Metric {
        if self.point.cell.is_rate() {
            RATE
        } else {
            CALL
        }
    }

    pub fn value(&self, side: Side, metric: Metric) -> Option<f64> {
        self.of(side).median(metric)
    }

    /// How many times as good as libc the library is.
    pub fn to_libc(&self, metric: Metric) -> Option<f64> {
        self.ratio(self.value(Side::Libc, metric)?, metric)
    }

    /// How many times as good as the better of the raw interfaces the library is.
    pub fn to_raw(&self, metric: Metric) -> Option<f64> {
        let raw =
            Side::ALL.into_iter().filter(|side| side.is_raw()).filter_map(|side| self.value(side, metric));
        let best =
            if metric.more_is_better { raw.max_by(f64::total_cmp) } else { raw.min_by(f64::total_cmp) };
        self.ratio(best?, metric)
    }

    fn ratio(&self, other: f64, metric: Metric) -> Option<f64> {
        let library = self.value(Side::Library, metric)?;
        Some(if metric.more_is_better { library / other } else { other / library })
    }

    /// The spread of the least steady side.
    pub fn noise(&self, metric: Metric) -> Option<f64> {
        Side::ALL.into_iter().filter_map(|side| self.of(side).spread(metric)).max_by(f64::total_cmp)
    }
}

/// What cell and depth are called in tables.
pub fn title(cell: &Cell, depth: u32) -> String {
    if cell.has_depth() {
        format!("{}, {depth}", cell.title)
    } else {
        cell.title.to_owned()
    }
}

/// Three significant digits, with k and M.
pub fn short(value: f64) -> String {
    let (scaled, unit) = match value {
        value if value >= 999_500.0 => (value / 1e6, "M"),
        value if value >= 999.5 => (value / 1e3, "k"),
        value => (value, ""),
    };
    format!("{}{unit}", digits(scaled))
}

/// A duration of some nanoseconds.
pub fn duration(nanoseconds: f64) -> String {
    let (scaled, unit) = match nanoseconds {
        value if value >= 999_500_000.0 => (value / 1e9, "s"),
        value if value >= 999_500.0 => (value / 1e6, "ms"),
        value if value >= 999.5 => (value / 1e3, "us"),
        value => (value, "ns"),
    };
    format!("{}{unit}", digits(scaled))
}

pub fn times(ratio: f64) -> String {
    if ratio < 9.995 {
        format!("{ratio:.2}x")
    } else {
        format!("{}x", digits(ratio))
    }
}

pub fn percent(part: f64) -> String {
    format!("{:.0} %", part * 100.0)
}

fn digits(value: f64) -> String {
    match value {
        value if value >= 99.95 => format!("{value:.0}"),
        value if value >= 9.995 => format!("{value:.1}"),
        value => format!("{value:.2}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_median_is_the_middle_value_or_the_mean_of_two() {
        assert_eq!(median(vec![3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(vec![4.0, 1.0, 2.0, 3.0]), Some(2.5));
        assert_eq!(median(vec![]), None);
    }

    #[test]
    fn numbers_keep_three_digits() {
        assert_eq!(short(66_432.0), "66.4k");
        assert_eq!(short(999_700.0), "1.00M");
        assert_eq!(duration(1_234.0), "1.23us");
        assert_eq!(duration(999_600.0), "1.00ms");
        assert_eq!(times(0.987), "0.99x");
        assert_eq!(times(12.34), "12.3x");
    }
}
