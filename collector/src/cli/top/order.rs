//! What rows are sorted by. What is not known comes last, whichever way round.

use std::cmp::{Ordering, Reverse};

use clap::ValueEnum;

use super::figures::Row;

/// What rows are sorted by: the most first, names in their order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Sort {
    /// CPU time
    #[default]
    Cpu,
    /// Share of periods that were throttled
    Throttled,
    /// Memory in use
    Memory,
    /// Memory in use, of the limit
    Limit,
    /// Bytes read and written
    Io,
    /// Bytes received and sent
    Net,
    /// Bytes of output
    Logs,
    /// Lines of output
    Lines,
    /// Bytes of output that are missing
    Gaps,
    /// Youngest first
    Age,
    /// Namespace, pod and container
    Name,
}

// === impl Sort ===

impl Sort {
    /// The next one, or the one before.
    pub(super) fn step(self, back: bool) -> Self {
        let all = Self::value_variants();
        let at = all.iter().position(|one| *one == self).unwrap_or_default();
        let next = if back { at + all.len() - 1 } else { at + 1 };
        all.get(next % all.len()).copied().unwrap_or_default()
    }

    /// As on the command line.
    pub(super) fn label(self) -> String {
        self.to_possible_value().map_or_else(String::new, |value| value.get_name().to_owned())
    }

    /// Brings rows into this order.
    pub(super) fn apply(self, rows: &mut [&Row], reverse: bool) {
        rows.sort_by(|a, b| {
            let order = match (self.figure(a), self.figure(b)) {
                (Some(a), Some(b)) if reverse => a.cmp(&b),
                (Some(a), Some(b)) => Reverse(a).cmp(&Reverse(b)),
                (Some(_), None) => Ordering::Less,
                (None, Some(_)) => Ordering::Greater,
                (None, None) => Ordering::Equal,
            };
            let names = name(a).cmp(&name(b));
            order.then(if self == Self::Name && reverse { names.reverse() } else { names })
        });
    }

    fn figure(self, row: &Row) -> Option<u64> {
        match self {
            Self::Cpu => row.cpu,
            Self::Throttled => row.throttled,
            Self::Memory => row.memory,
            Self::Limit => row.of_limit(),
            Self::Io => row.io(),
            Self::Net => row.received.zip(row.sent).map(|(a, b)| a.saturating_add(b)),
            Self::Logs => row.log_bytes,
            Self::Lines => row.log_lines,
            Self::Gaps => row.gaps,
            Self::Age => Some(u64::MAX.saturating_sub(row.age_secs)),
            Self::Name => None,
        }
    }
}

fn name(row: &Row) -> [&str; 4] {
    [
        &row.namespace,
        row.pod.as_deref().unwrap_or_default(),
        row.container.as_deref().unwrap_or_default(),
        &row.id,
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(id: &str, cpu: Option<u64>) -> Row {
        Row { id: id.to_owned(), cpu, ..Row::default() }
    }

    fn sorted(sort: Sort, reverse: bool) -> String {
        let rows = [row("a", Some(1)), row("b", None), row("c", Some(7)), row("d", Some(1))];
        let mut rows: Vec<&Row> = rows.iter().collect();
        sort.apply(&mut rows, reverse);
        rows.iter().map(|row| row.id.as_str()).collect()
    }

    #[test]
    fn the_unknown_comes_last_both_ways() {
        assert_eq!(sorted(Sort::Cpu, false), "cadb");
        assert_eq!(sorted(Sort::Cpu, true), "adcb");
        assert_eq!(sorted(Sort::Name, false), "abcd");
        assert_eq!(sorted(Sort::Name, true), "dcba");
        assert_eq!(sorted(Sort::Memory, false), "abcd");
    }

    #[test]
    fn steps_go_round_and_back() {
        let all = Sort::value_variants();
        let round = all.iter().fold(Sort::Cpu, |sort, _| sort.step(false));
        assert_eq!(round, Sort::Cpu);
        assert_eq!(Sort::Cpu.step(true), Sort::Name);
        assert_eq!(Sort::Name.step(false), Sort::Cpu);
    }
}
