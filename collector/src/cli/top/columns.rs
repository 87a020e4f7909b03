//! The columns of the two tables, and which of them fit.
//!
//! A narrow terminal first gets shorter names, then fewer columns, the least important ones first. A figure is never cut.

use super::{
    super::cells::{UNKNOWN, age, percent, size},
    figures::Row,
    order::Sort,
};

/// How much a figure wants to be seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Tone {
    /// As any.
    Plain,
    /// Look at it.
    Warning,
    /// It hurts.
    Fault,
}

/// One column.
#[derive(Clone, Copy)]
pub(super) struct Column {
    /// Above it.
    pub(super) head: &'static str,
    /// Sorted by this it is marked.
    pub(super) sort: Option<Sort>,
    /// Names may be cut to so many characters; figures are not, and stand on the right.
    pub(super) least: Option<usize>,
    /// Those with the highest go first where there is no room.
    pub(super) rank: u8,
    /// What stands in it.
    pub(super) cell: fn(&Row) -> String,
    /// How.
    pub(super) tone: fn(&Row) -> Tone,
    /// Of a kind of pods that most nodes do not have: it is there where something is known of one.
    pub(super) seldom: bool,
}

/// Between columns.
pub(super) const GAP: usize = 2;
/// Share of the limit, in thousandths, from where on memory is shown as a warning and as a fault: above the first the kernel
/// reclaims, at the second the next burst ends the container.
const MEMORY: [u64; 2] = [800, 950];
/// Share of throttled periods, likewise: requests get slower, and most of them are.
const THROTTLED: [u64; 2] = [50, 250];

/// Of containers.
pub(super) static CONTAINERS: &[Column] = &[
    NAMESPACE,
    Column { rank: 4, ..name("POD", |row| or_dash(row.pod.as_deref())) },
    name("CONTAINER", |row| or_dash(row.container.as_deref())),
    Column { least: Some(7), rank: 12, ..name("STATE", |row| row.state.clone()) },
    AGE,
    CPU,
    THROTTLED_PERIODS,
    MEMORY_USED,
    MEMORY_SHARE,
    READ,
    WRITTEN,
    LOG_BYTES,
    LOG_LINES,
    GAPS,
];

/// Of pods.
pub(super) static PODS: &[Column] = &[
    NAMESPACE,
    name("POD", |row| or_dash(row.pod.as_deref().or(row.container.as_deref()))),
    Column { rank: 12, ..figure("RUN", None, |row| format!("{}/{}", row.containers.0, row.containers.1)) },
    AGE,
    CPU,
    THROTTLED_PERIODS,
    MEMORY_USED,
    MEMORY_SHARE,
    READ,
    WRITTEN,
    Column { rank: 11, ..figure("RX/S", Some(Sort::Net), |row| bytes(row.received)) },
    Column { rank: 11, ..figure("TX/S", Some(Sort::Net), |row| bytes(row.sent)) },
    OVERHEAD_CPU,
    OVERHEAD_MEMORY,
    LOG_BYTES,
    LOG_LINES,
    GAPS,
];

const NAMESPACE: Column =
    Column { least: Some(6), rank: 10, ..name("NAMESPACE", |row| row.namespace.clone()) };
const AGE: Column = Column { rank: 9, ..figure("AGE", Some(Sort::Age), |row| age(row.age_secs)) };
// ns of CPU time per second; 1 % of a core is 10⁷ of them.
const CPU: Column =
    Column { rank: 1, ..figure("CPU%", Some(Sort::Cpu), |row| part(row.cpu.map(|ns| ns / 1_000_000))) };
const THROTTLED_PERIODS: Column = Column {
    rank: 7,
    tone: |row| tone(row.throttled, THROTTLED),
    ..figure("THROT%", Some(Sort::Throttled), |row| part(row.throttled))
};
const MEMORY_USED: Column =
    Column { rank: 2, ..figure("MEMORY", Some(Sort::Memory), |row| bytes(row.memory)) };
const MEMORY_SHARE: Column = Column {
    rank: 5,
    tone: |row| tone(row.of_limit(), MEMORY),
    ..figure("LIMIT%", Some(Sort::Limit), |row| part(row.of_limit()))
};
const READ: Column = Column { rank: 13, ..figure("READ/S", Some(Sort::Io), |row| bytes(row.read)) };
const WRITTEN: Column = Column { rank: 13, ..figure("WRITE/S", Some(Sort::Io), |row| bytes(row.written)) };
const LOG_BYTES: Column = Column { rank: 3, ..figure("LOG/S", Some(Sort::Logs), |row| bytes(row.log_bytes)) };
const LOG_LINES: Column = Column {
    rank: 14,
    ..figure("LINES/S", Some(Sort::Lines), |row| row.log_lines.map_or_else(unknown, |n| n.to_string()))
};
const OVERHEAD_CPU: Column = Column {
    rank: 8,
    seldom: true,
    ..figure("OVH-CPU%", None, |row| signed(row.overhead_cpu.map(|ns| ns / 1_000_000), percent))
};
const OVERHEAD_MEMORY: Column =
    Column { rank: 8, seldom: true, ..figure("OVH-MEM", None, |row| signed(row.overhead_memory, size)) };
const GAPS: Column = Column {
    rank: 6,
    tone: |row| if row.gaps.unwrap_or_default() > 0 { Tone::Fault } else { Tone::Plain },
    ..figure("GAPS", Some(Sort::Gaps), |row| bytes(row.gaps))
};

const fn name(head: &'static str, cell: fn(&Row) -> String) -> Column {
    Column {
        head,
        sort: Some(Sort::Name),
        least: Some(10),
        rank: 0,
        cell,
        tone: |_| Tone::Plain,
        seldom: false,
    }
}

const fn figure(head: &'static str, sort: Option<Sort>, cell: fn(&Row) -> String) -> Column {
    Column { head, sort, least: None, rank: 0, cell, tone: |_| Tone::Plain, seldom: false }
}

fn unknown() -> String {
    UNKNOWN.to_owned()
}

fn or_dash(name: Option<&str>) -> String {
    name.map_or_else(unknown, str::to_owned)
}

fn bytes(figure: Option<u64>) -> String {
    figure.map_or_else(unknown, size)
}

fn part(thousandths: Option<u64>) -> String {
    thousandths.map_or_else(unknown, percent)
}

fn signed(figure: Option<i64>, cell: fn(u64) -> String) -> String {
    figure.map_or_else(unknown, |figure| {
        let sign = if figure < 0 { "-" } else { "" };
        format!("{sign}{}", cell(figure.unsigned_abs()))
    })
}

/// Those of `all` that say something of these rows.
pub(super) fn of_rows(all: &[Column], rows: &[&Row]) -> Vec<Column> {
    let known = |column: &Column| rows.iter().any(|row| (column.cell)(row) != UNKNOWN);
    all.iter().filter(|column| !column.seldom || known(column)).copied().collect()
}

fn tone(figure: Option<u64>, [warning, fault]: [u64; 2]) -> Tone {
    match figure {
        Some(figure) if figure >= fault => Tone::Fault,
        Some(figure) if figure >= warning => Tone::Warning,
        _ => Tone::Plain,
    }
}

/// Which columns have room in `width`, and how much each gets, where they want to have `wanted`.
pub(super) fn fit<'a>(
    columns: &'a [Column],
    wanted: &[usize],
    width: usize,
) -> Vec<(usize, &'a Column, usize)> {
    let mut kept: Vec<(usize, &Column, usize)> =
        columns.iter().zip(wanted).enumerate().map(|(at, (column, wanted))| (at, column, *wanted)).collect();
    loop {
        let gaps = GAP * kept.len().saturating_sub(1);
        let all = kept.iter().fold(gaps, |sum, (_, _, width)| sum + width);
        let Some(mut over) = all.checked_sub(width).filter(|over| *over > 0) else { return kept };
        // The widest name gives first, so that short ones stay whole.
        while over > 0 {
            let widest =
                kept.iter_mut().filter(|(_, column, width)| column.least.is_some_and(|least| *width > least));
            let Some((_, _, width)) = widest.max_by_key(|(_, _, width)| *width) else { break };
            *width -= 1;
            over -= 1;
        }
        if over == 0 {
            return kept;
        }
        if kept.len() == 1 {
            kept.iter_mut().for_each(|(_, _, its)| *its = width);
            return kept;
        }
        let least = kept.iter().enumerate().max_by_key(|(_, (_, column, _))| column.rank);
        let least = least.map_or(0, |(at, _)| at);
        kept.remove(least);
        // Names may have their room back.
        for (at, _, its) in &mut kept {
            *its = wanted.get(*at).copied().unwrap_or_default();
        }
    }
}

/// `text` in `width` characters; what was cut off is said by a tilde.
pub(super) fn cut(text: &str, width: usize) -> String {
    if text.chars().count() <= width {
        return text.to_owned();
    }
    text.chars().take(width.saturating_sub(1)).chain(['~']).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn heads(columns: &[Column], wanted: &[usize], width: usize) -> Vec<String> {
        fit(columns, wanted, width)
            .iter()
            .map(|(_, column, width)| format!("{} {width}", column.head))
            .collect()
    }

    #[test]
    fn a_narrow_terminal_gets_shorter_names_then_fewer_columns() {
        let columns = [NAMESPACE, name("CONTAINER", |_| String::new()), AGE, CPU];
        let wanted = [11, 20, 3, 5];
        assert_eq!(heads(&columns, &wanted, 45), ["NAMESPACE 11", "CONTAINER 20", "AGE 3", "CPU% 5"]);
        assert_eq!(heads(&columns, &wanted, 40), ["NAMESPACE 11", "CONTAINER 15", "AGE 3", "CPU% 5"]);
        assert_eq!(heads(&columns, &wanted, 30), ["NAMESPACE 6", "CONTAINER 10", "AGE 3", "CPU% 5"]);
        assert_eq!(heads(&columns, &wanted, 29), ["CONTAINER 17", "AGE 3", "CPU% 5"]);
        assert_eq!(heads(&columns, &wanted, 17), ["CONTAINER 10", "CPU% 5"]);
        assert_eq!(heads(&columns, &wanted, 16), ["CONTAINER 16"]);
        assert_eq!(heads(&columns, &wanted, 3), ["CONTAINER 3"]);
    }

    #[test]
    fn what_was_cut_off_is_said() {
        assert_eq!(
            [cut("coredns", 7), cut("coredns", 4), cut("x", 0), cut("", 0)],
            ["coredns", "cor~", "~", ""]
        );
    }

    #[test]
    fn what_a_vm_costs_is_there_where_there_is_one() {
        let row = |overhead_memory| Row { overhead_memory, ..Row::default() };
        let heads = |rows: &[&Row]| -> Vec<&str> {
            of_rows(PODS, rows)
                .iter()
                .map(|column| column.head)
                .filter(|head| head.starts_with("OVH"))
                .collect()
        };
        assert_eq!(heads(&[&row(None)]), [""; 0]);
        assert_eq!(heads(&[&row(None), &row(Some(0))]), ["OVH-MEM"]);
        let cells = [Some(-(3 << 20)), Some(0), None].map(|bytes| (OVERHEAD_MEMORY.cell)(&row(bytes)));
        assert_eq!(cells, ["-3.0M", "0", "-"]);
        let cpu = |overhead_cpu| (OVERHEAD_CPU.cell)(&Row { overhead_cpu, ..Row::default() });
        assert_eq!([cpu(Some(-25_000_000)), cpu(Some(1_234_000_000)), cpu(None)], ["-2.5", "123.4", "-"]);
    }

    #[test]
    fn the_unknown_is_a_dash_and_zero_is_zero() {
        let row = Row { cpu: Some(0), gaps: Some(0), ..Row::default() };
        let shown: Vec<_> = CONTAINERS.iter().map(|column| (column.head, (column.cell)(&row))).collect();
        let of = |head: &str| shown.iter().find(|(its, _)| *its == head).map(|(_, cell)| cell.as_str());
        assert_eq!(
            [of("CPU%"), of("GAPS"), of("MEMORY"), of("LIMIT%")],
            [Some("0.0"), Some("0"), Some("-"), Some("-")]
        );
    }
}
