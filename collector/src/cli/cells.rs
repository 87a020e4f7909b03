//! How figures and names are written in the cells of tables, and tables.
//!
//! What is not known is a dash and never a zero: the caller has an `Option`, and here it is said.

use std::fmt::Write as _;

use crate::enrich::short_shim;

/// What is not known.
pub(super) const UNKNOWN: &str = "-";

/// A table: each column as wide as its widest cell.
pub(super) fn columns<const N: usize>(rows: &[[String; N]]) -> String {
    let mut widths = [0; N];
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = cell.chars().count().max(*width);
        }
    }
    let mut out = String::new();
    for row in rows {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(widths) {
            let _ = write!(line, "{cell:<width$}  ");
        }
        out.push_str(line.trim_end());
        out.push('\n');
    }
    out
}

/// The short name of a shim.
pub(super) fn shim(name: &str) -> String {
    match short_shim(name) {
        "" => UNKNOWN.to_owned(),
        short => short.to_owned(),
    }
}

/// `17`, `4.2K`, `1.0G`.
pub(super) fn size(bytes: u64) -> String {
    let mut unit = 1u64;
    let mut name = "";
    for next in ["K", "M", "G", "T", "P"] {
        if bytes < unit.saturating_mul(1024) {
            break;
        }
        unit = unit.saturating_mul(1024);
        name = next;
    }
    if name.is_empty() {
        return bytes.to_string();
    }
    format!("{}.{}{name}", bytes / unit, bytes % unit * 10 / unit)
}

/// Thousandths as a percentage: `12.3`.
pub(super) fn percent(thousandths: u64) -> String {
    format!("{}.{}", thousandths / 10, thousandths % 10)
}

/// `1 fault`, `2 faults`.
pub(super) fn counted(n: usize, what: &str) -> String {
    format!("{n} {what}{}", if n == 1 { "" } else { "s" })
}

/// `42s`, `7m`, `3h`, `9d`.
pub(super) fn age(seconds: u64) -> String {
    match seconds {
        0..120 => format!("{seconds}s"),
        120..7_200 => format!("{}m", seconds / 60),
        7_200..172_800 => format!("{}h", seconds / 3_600),
        _ => format!("{}d", seconds / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cells_are_short_and_true() {
        let sizes = [0, 1_023, 1_024, 1_535, 1_048_575, 1 << 20, u64::MAX].map(size);
        assert_eq!(sizes, ["0", "1023", "1.0K", "1.4K", "1023.9K", "1.0M", "16383.9P"]);
        let ages = [0, 119, 120, 7_199, 7_200, 172_799, 172_800].map(age);
        assert_eq!(ages, ["0s", "119s", "2m", "119m", "2h", "47h", "2d"]);
        assert_eq!(["containerd-shim-runc-v2", "other", ""].map(shim), ["runc-v2", "other", "-"]);
        assert_eq!([0, 4, 999, 1_000, 24_567].map(percent), ["0.0", "0.4", "99.9", "100.0", "2456.7"]);
    }
}
