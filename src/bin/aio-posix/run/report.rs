//! What `run --stats` says: the counters as a table, and what they mean for the program.

use super::counters::get;
use super::page::{end_of, Page, Way, WAYS};
use serde_json::{json, Value};
use std::fmt::Write;

/// In the order of the library's operations.
const OPERATIONS: [&str; 5] = ["read", "write", "fsync", "fdatasync", "mlock"];

/// In the order of `Way`.
const NAMES: [(&str, &str); WAYS] = [
    ("kernel", "given to the kernel by the submitting call"),
    ("at_once", "complete when the submitting call returned"),
    ("helper", "done by a helper thread"),
    ("waiter", "done by the thread that waited for it"),
    ("polled", "tried, and polled for (pipes, sockets)"),
    ("cancelled", "cancelled before it started"),
];

/// Of how many in a hundred one may say "nearly all" and "most".
const NEARLY_ALL: u64 = 90;
const MOST: u64 = 51;

/// The counters, taken once.
pub struct Report {
    operations: Vec<(String, u64)>,
    submitted: u64,
    ways: [u64; WAYS],
    completed: u64,
    errors: u64,
    fallback: u64,
    engines: u64,
    refused: u64,
    deepest: u64,
    helpers: u64,
    signals: u64,
    threads: u64,
    eventfds: u64,
    unnotified: u64,
    mean: u64,
    percentile: u64,
}

impl Report {
    pub fn new(page: &Page) -> Report {
        let operations: Vec<(String, u64)> = page
            .operations
            .iter()
            .enumerate()
            .map(|(at, count)| {
                let name =
                    OPERATIONS.get(at).map_or_else(|| format!("operation {at}"), |name| (*name).to_owned());
                (name, get(count))
            })
            .collect();
        let ways = std::array::from_fn(|way| get(&page.ways[way]));
        let completed = ways.iter().sum();
        Report {
            submitted: operations.iter().map(|(_, count)| count).sum(),
            operations,
            ways,
            completed,
            errors: get(&page.errors),
            fallback: get(&page.fallback),
            engines: get(&page.engines),
            refused: get(&page.refused),
            deepest: get(&page.deepest),
            helpers: get(&page.helpers),
            signals: get(&page.signals),
            threads: get(&page.threads),
            eventfds: get(&page.eventfds),
            unnotified: get(&page.unnotified),
            mean: get(&page.nanoseconds).checked_div(completed).unwrap_or(0),
            percentile: percentile(page, 99),
        }
    }

    fn way(&self, way: Way) -> u64 {
        self.ways[way as usize]
    }

    /// Whether at least so many in a hundred of the completed requests went this way.
    fn share(&self, way: Way, percent: u64) -> bool {
        self.way(way) * 100 >= self.completed * percent
    }

    pub fn text(&self, program: &str) -> String {
        let mut text = format!("\naio-posix: what {program} asked of POSIX AIO, and who answered\n\n");
        self.rows(&mut text).expect("writing to a string cannot fail");
        text.push('\n');
        text.push_str(&textwrap(&self.verdict(program)));
        text
    }

    fn rows(&self, text: &mut String) -> std::fmt::Result {
        let line = |text: &mut String, name: &str, count: u64| {
            writeln!(text, "  {name:<44} {:>14}", thousands(count))
        };
        writeln!(text, "{:<46} {:>14}", "requests", thousands(self.submitted))?;
        for (name, count) in self.operations.iter().filter(|(_, count)| *count != 0) {
            line(text, name, *count)?;
        }
        if self.fallback != 0 {
            writeln!(text, "{:<46} {:>14}", "given to libc's implementation", thousands(self.fallback))?;
        }
        if self.completed != 0 {
            writeln!(text, "{:<46} {:>14}", "completed", thousands(self.completed))?;
            for (at, (_, name)) in NAMES.iter().enumerate().filter(|(at, _)| self.ways[*at] != 0) {
                let share = 100.0 * self.ways[at] as f64 / self.completed as f64;
                writeln!(text, "  {name:<44} {:>14} {share:>5.1} %", thousands(self.ways[at]))?;
            }
            let left = self.submitted.saturating_sub(self.completed + self.fallback);
            if left != 0 {
                line(text, "not complete at the program's end", left)?;
            }
            line(text, "with an error", self.errors)?;
            writeln!(text, "{:<46} {:>14}", "time from submission to completion, mean", duration(self.mean))?;
            writeln!(text, "{:<46} {:>14}", "  99 of 100 took at most", duration(self.percentile))?;
            writeln!(text, "{:<46} {:>14}", "most requests in flight at once", thousands(self.deepest))?;
            writeln!(text, "{:<46} {:>14}", "most helper threads at work at once", thousands(self.helpers))?;
            for (how, count) in
                [("signal", self.signals), ("thread", self.threads), ("eventfd", self.eventfds)]
            {
                if count != 0 {
                    writeln!(text, "{:<46} {:>14}", format!("notifications by {how}"), thousands(count))?;
                }
            }
            writeln!(text, "{:<46} {:>14}", "requests without notification", thousands(self.unnotified))?;
        }
        if self.engines + self.refused > 1 {
            let processes = self.engines + self.refused;
            writeln!(text, "{:<46} {:>14}", "processes, forked ones too", thousands(processes))?;
        }
        Ok(())
    }

    /// What this means for the program, in a sentence or two.
    fn verdict(&self, program: &str) -> String {
        if self.engines + self.refused == 0 {
            return format!(
                "{program} made no POSIX AIO call that reached the library: the library changes nothing for it. (A \
                 program that closes the descriptors it inherited before its first call is not counted either.)"
            );
        }
        if self.fallback != 0 || self.refused != 0 {
            return "The kernel refused this program an AIO context, so libc's own implementation answered: nothing \
                    gained, nothing lost. `aio-posix check` says who refuses."
                .to_owned();
        }
        if self.submitted == 0 {
            return format!("{program} called POSIX AIO, but submitted no request: it gains nothing.");
        }
        if self.deepest <= 1 {
            return format!(
                "Never more than one request was in flight: {program} waits for each before the next, and gains only \
                 what libc's threads would have cost. More requests at once would gain more."
            );
        }
        if self.share(Way::AtOnce, NEARLY_ALL) {
            return format!(
                "Nearly all was answered in the submitting call, from memory: {program} gains the thread switches that \
                 libc would have made for it, and no disk had to be waited for."
            );
        }
        if self.share(Way::Kernel, MOST) {
            return format!(
                "Most went straight to the kernel, up to {} in flight at once: this is what the library is for. libc \
                 would have run one after the other for each descriptor.",
                thousands(self.deepest)
            );
        }
        if self.share(Way::Polled, MOST) {
            return "Most were on pipes, sockets or terminals: none of them held a thread while it waited."
                .to_owned();
        }
        let threads = self.way(Way::Helper) + self.way(Way::Waiter);
        if threads * 100 >= self.completed * MOST {
            return format!(
                "Most had to be done by a thread, as with libc (buffered writes, reads that were not cached): {program} \
                 gains little. With O_DIRECT they would go to the kernel, and run at the same time."
            );
        }
        if self.way(Way::Kernel) == 0 {
            return "No one way had most of them, and none went to the kernel: for much more than libc gives they would \
                    have to be direct (O_DIRECT)."
                .to_owned();
        }
        "No one way had most of them; what went to the kernel ran at the same time, which libc's threads do not do \
         for one descriptor."
            .to_owned()
    }

    pub fn json(&self) -> String {
        let mut operations = Value::Object(serde_json::Map::new());
        for (at, (name, count)) in self.operations.iter().enumerate() {
            if at < OPERATIONS.len() || *count != 0 {
                operations[name] = json!(count);
            }
        }
        let mut ways = Value::Object(serde_json::Map::new());
        for ((name, _), count) in NAMES.iter().zip(self.ways) {
            ways[*name] = json!(count);
        }
        let whole = json!({
            "requests": self.submitted, "operations": operations, "ways": ways, "completed": self.completed,
            "errors": self.errors, "fallback": self.fallback, "processes": self.engines + self.refused,
            "deepest": self.deepest, "helpers": self.helpers, "signals": self.signals, "threads": self.threads, "eventfds": self.eventfds,
            "unnotified": self.unnotified, "mean_ns": self.mean, "p99_ns": self.percentile,
        });
        format!("{whole}\n")
    }
}

/// The end of the class that the percentile lies in.
fn percentile(page: &Page, percent: u64) -> u64 {
    let counts: Vec<u64> = page.latency.iter().map(get).collect();
    let wanted = (counts.iter().sum::<u64>() * percent).div_ceil(100);
    let mut seen = 0;
    let class = counts.iter().position(|count| {
        seen += count;
        seen >= wanted && seen != 0
    });
    class.map_or(0, end_of)
}

fn thousands(count: u64) -> String {
    let digits = count.to_string();
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at != 0 && (digits.len() - at) % 3 == 0 {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// With three digits.
fn duration(nanoseconds: u64) -> String {
    let (value, unit) = match nanoseconds {
        0..1_000 => return format!("{nanoseconds} ns"),
        1_000..1_000_000 => (nanoseconds as f64 / 1e3, "us"),
        1_000_000..1_000_000_000 => (nanoseconds as f64 / 1e6, "ms"),
        _ => (nanoseconds as f64 / 1e9, "s"),
    };
    match value {
        0.0..9.995 => format!("{value:.2} {unit}"),
        9.995..99.95 => format!("{value:.1} {unit}"),
        _ => format!("{value:.0} {unit}"),
    }
}

/// Lines of at most 80 columns.
fn textwrap(text: &str) -> String {
    let mut lines = String::new();
    let mut column = 0;
    for word in text.split_whitespace() {
        let length = word.chars().count();
        if column != 0 && column + 1 + length > 80 {
            lines.push('\n');
            column = 0;
        } else if column != 0 {
            lines.push(' ');
            column += 1;
        }
        lines.push_str(word);
        column += length;
    }
    lines.push('\n');
    lines
}

#[cfg(test)]
mod tests {
    use super::{duration, textwrap, thousands};

    #[test]
    fn numbers_are_grouped_and_times_have_three_digits() {
        assert_eq!(
            (thousands(0), thousands(999), thousands(1_234_567)),
            ("0".into(), "999".into(), "1,234,567".into())
        );
        for (nanoseconds, text) in [
            (999, "999 ns"),
            (1_500, "1.50 us"),
            (99_960, "100 us"),
            (12_345_678, "12.3 ms"),
            (2_000_000_000, "2.00 s"),
        ] {
            assert_eq!(duration(nanoseconds), text);
        }
    }

    #[test]
    fn sentences_fit_a_terminal() {
        let text = textwrap(&"word ".repeat(100));
        assert!(
            text.lines().all(|line| line.len() <= 80 && line.len() > 70 || line.len() % 5 == 4),
            "{text}"
        );
    }
}
