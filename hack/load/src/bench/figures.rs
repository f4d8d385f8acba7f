//! Samples by row, and what is told of them.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use serde::Serialize;

use crate::goals::{GOALS, Goal, Unit, Weight};
use crate::report::table;

/// Samples in the unit of their row.
#[derive(Debug, Default)]
pub(super) struct Figures {
    warm: BTreeMap<&'static str, Vec<f64>>,
    /// After 0.2 s of quiet each.
    idle: BTreeMap<&'static str, Vec<f64>>,
}

/// One row of the JSON report.
#[derive(Debug, Serialize)]
struct Row {
    id: &'static str,
    title: &'static str,
    unit: &'static str,
    goal: f64,
    main: bool,
    median: Option<f64>,
    p99: Option<f64>,
    samples: usize,
    idle_median: Option<f64>,
    idle_p99: Option<f64>,
    times_goal: Option<f64>,
}

impl Figures {
    pub(super) fn value(&mut self, id: &'static str, value: f64) {
        self.warm.entry(id).or_default().push(value);
    }

    pub(super) fn time(&mut self, id: &'static str, time: Duration) {
        self.value(id, in_unit(id, time));
    }

    pub(super) fn idle_time(&mut self, id: &'static str, time: Duration) {
        self.idle.entry(id).or_default().push(in_unit(id, time));
    }

    pub(super) fn table(&self) -> String {
        let head = ["", "median", "p99", "idle median", "idle p99", "goal", "times goal"];
        let mut rows = vec![head.map(str::to_owned).to_vec()];
        rows.extend(GOALS.iter().map(|goal| cells(goal, &self.row(goal))));
        table(&rows)
    }

    pub(super) fn write_json(&self, path: &Path) -> Result<()> {
        let rows: Vec<Row> = GOALS.iter().map(|goal| self.row(goal)).collect();
        let text = serde_json::to_string_pretty(&rows)?;
        let mut file = std::fs::File::create(path).with_context(|| path.display().to_string())?;
        writeln!(file, "{text}").with_context(|| path.display().to_string())
    }

    pub(super) fn missed_by_twice(&self) -> Vec<&'static str> {
        let missed = |goal: &&Goal| {
            goal.weight == Weight::Main && self.row(goal).times_goal.is_some_and(|n| n > 2.0)
        };
        GOALS.iter().filter(missed).map(|goal| goal.title).collect()
    }

    fn row(&self, goal: &Goal) -> Row {
        let (warm, idle) = (self.warm.get(goal.id), self.idle.get(goal.id));
        let median = warm.and_then(|samples| quantile(samples, 50));
        Row {
            id: goal.id,
            title: goal.title,
            unit: goal.unit.name(),
            goal: goal.bound,
            main: goal.weight == Weight::Main,
            median,
            p99: warm.and_then(|samples| quantile(samples, 99)),
            samples: warm.map_or(0, Vec::len),
            idle_median: idle.and_then(|samples| quantile(samples, 50)),
            idle_p99: idle.and_then(|samples| quantile(samples, 99)),
            times_goal: median.map(|median| goal.unit.times_worse(median, goal.bound)),
        }
    }
}

fn in_unit(id: &str, time: Duration) -> f64 {
    let seconds = GOALS.iter().any(|goal| goal.id == id && goal.unit == Unit::Seconds);
    time.as_secs_f64() * if seconds { 1.0 } else { 1000.0 }
}

fn cells(goal: &Goal, row: &Row) -> Vec<String> {
    let mark = if row.main { "* " } else { "  " };
    let number = |value: Option<f64>| value.map_or_else(|| "-".to_owned(), digits);
    vec![
        format!("{mark}{}{}", row.title, unit_suffix(goal.unit)),
        number(row.median),
        number(row.p99.filter(|_| row.samples > 1)),
        number(row.idle_median),
        number(row.idle_p99),
        format!("{}", goal.bound),
        row.times_goal.map_or_else(|| "-".to_owned(), |times| format!("{times:.1}")),
    ]
}

fn unit_suffix(unit: Unit) -> String {
    if unit.name().is_empty() { String::new() } else { format!(" ({})", unit.name()) }
}

fn digits(value: f64) -> String {
    match value {
        value if value >= 100.0 => format!("{value:.0}"),
        value if value >= 1.0 => format!("{value:.2}"),
        value => format!("{value:.3}"),
    }
}

/// The smallest sample that this many percent of all do not exceed.
fn quantile(samples: &[f64], percent: usize) -> Option<f64> {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    let rank = (sorted.len() * percent).div_ceil(100).max(1);
    sorted.get(rank - 1).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_samples() {
        let samples: Vec<f64> = (1..=100).rev().map(f64::from).collect();
        assert_eq!(quantile(&samples, 50).unwrap().to_bits(), 50_f64.to_bits());
        assert_eq!(quantile(&samples, 99).unwrap().to_bits(), 99_f64.to_bits());
        assert_eq!(quantile(&[7.0], 99).unwrap().to_bits(), 7_f64.to_bits());
        assert_eq!(quantile(&[], 50), None);
    }

    #[test]
    fn only_a_main_goal_missed_by_more_than_twice_is_missed() {
        let mut figures = Figures::default();
        figures.time("to_running", Duration::from_millis(19));
        figures.time("run_pod", Duration::from_secs(1));
        assert_eq!(figures.missed_by_twice(), [""; 0]);
        figures.value("cycles", 39.0);
        assert_eq!(figures.missed_by_twice(), ["pod cycles per second, 8 at once"]);
    }

    #[test]
    fn the_table_shows_what_was_not_measured() {
        let mut figures = Figures::default();
        figures.time("pull_gzip", Duration::from_millis(1500));
        let table = figures.table();
        let line = |title| table.lines().find(|line| line.contains(title)).unwrap().to_owned();
        assert!(line("unpack, gzip (s)").contains("1.50"), "{table}");
        assert!(line("unpack, zstd (s)").contains(" - "), "{table}");
    }
}
