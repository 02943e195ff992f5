//! What the measurements say: medians and 95th percentiles, as a table and as CSV.

use std::fmt::Write as _;

use crate::join::Join;

/// Median and 95th percentile, in milliseconds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Spread {
    pub(crate) median: f64,
    pub(crate) p95: f64,
}

impl Spread {
    fn of(mut micros: Vec<u64>) -> Spread {
        micros.sort_unstable();
        // The smallest that at least this part of all does not exceed.
        let at = |part: f64| micros[((micros.len() as f64 * part).ceil() as usize).max(1) - 1] as f64 / 1000.0;
        Spread { median: at(0.5), p95: at(0.95) }
    }
}

/// One size of the group.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Summary {
    pub(crate) routers: usize,
    pub(crate) discovery: Spread,
    pub(crate) agreement: Spread,
    pub(crate) installation: Spread,
    pub(crate) activation: Spread,
    /// From the first hello until all have installed, and until all send.
    pub(crate) installed: Spread,
    pub(crate) activated: Spread,
    /// Processor time of all routers together.
    pub(crate) work: Spread,
}

pub(crate) fn summaries(measured: &[(usize, Vec<Join>)]) -> Vec<Summary> {
    let summary = |(routers, joins): &(usize, Vec<Join>)| {
        let of = |part: fn(&Join) -> u64| Spread::of(joins.iter().map(part).collect());
        Summary {
            routers: *routers,
            discovery: of(|join| join.discovered),
            agreement: of(|join| join.keyed.saturating_sub(join.discovered)),
            installation: of(|join| join.installed.saturating_sub(join.keyed)),
            activation: of(|join| join.activated.saturating_sub(join.installed)),
            installed: of(|join| join.installed),
            activated: of(|join| join.activated),
            work: of(|join| join.work),
        }
    };
    measured.iter().map(summary).collect()
}

/// In Markdown.
pub(crate) fn table(measured: &[(usize, Vec<Join>)]) -> String {
    let mut text = String::from(
        "| routers | discovery | key agreement | SA installation | activation | first hello to `installed` on all | \
         first hello to `activated` on all | processor time of all |\n|---|---|---|---|---|---|---|---|\n",
    );
    for summary in summaries(measured) {
        let Summary { routers, discovery, agreement, installation, activation, installed, activated, work } = summary;
        let cell = |spread: Spread| format!("{:.1} / {:.1}", spread.median, spread.p95);
        let cells = [discovery, agreement, installation, activation, installed, activated, work].map(cell);
        writeln!(text, "| {routers} | {} |", cells.join(" | ")).expect("a string takes everything");
    }
    text
}

pub(crate) fn csv(measured: &[(usize, Vec<Join>)]) -> String {
    let mut text = String::from("routers,join,discovered_us,keyed_us,installed_us,activated_us,work_us\n");
    for (routers, joins) in measured {
        for (number, join) in joins.iter().enumerate() {
            let Join { discovered, keyed, installed, activated, work } = join;
            writeln!(text, "{routers},{},{discovered},{keyed},{installed},{activated},{work}", number + 1)
                .expect("a string takes everything");
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    /// README tells what docs/measurements holds.
    #[test]
    fn readme_has_the_table_of_the_csv() {
        let project = concat!(env!("CARGO_MANIFEST_DIR"), "/..");
        let read = |name: &str| std::fs::read_to_string(format!("{project}/{name}")).unwrap();
        let mut measured: Vec<(usize, Vec<Join>)> = Vec::new();
        for line in read("docs/measurements/join.csv").lines().skip(1) {
            let numbers: Vec<u64> = line.split(',').map(|number| number.parse().unwrap()).collect();
            let [routers, _, discovered, keyed, installed, activated, work] = numbers[..] else { panic!("{line}") };
            if measured.last().is_none_or(|(size, _)| *size != routers as usize) {
                measured.push((routers as usize, Vec::new()));
            }
            measured.last_mut().unwrap().1.push(Join { discovered, keyed, installed, activated, work });
        }
        let readme = read("README.md");
        let rows = table(&measured);
        assert_eq!(rows.lines().count(), 2 + 5);
        for row in rows.lines().skip(2) {
            assert!(readme.contains(row), "README lacks {row}");
        }
    }

    #[test]
    fn median_and_percentile_are_values_that_occurred() {
        assert_eq!(Spread::of(vec![3000, 1000, 2000]), Spread { median: 2.0, p95: 3.0 });
        assert_eq!(Spread::of((1..=20).map(|n| n * 1000).collect()), Spread { median: 10.0, p95: 19.0 });
        assert_eq!(Spread::of(vec![7000]), Spread { median: 7.0, p95: 7.0 });
    }
}
