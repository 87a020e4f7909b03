//! Wall-clock time: reading it and writing it as people do. Durations are `tokio::time`'s business.

use std::{
    fmt::{self, Write},
    time::{SystemTime, UNIX_EPOCH},
};

const NS_PER_SEC: u64 = 1_000_000_000;
const SECS_PER_DAY: u64 = 86_400;

/// Unix nanoseconds now; 0 on a machine whose clock stands before 1970.
#[must_use]
pub fn now_ns() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

/// Writes Unix nanoseconds as RFC 3339 in UTC with nine digits: `2026-11-21T02:12:41.000000001Z`.
pub fn write_rfc3339(out: &mut impl Write, unix_ns: u64) -> fmt::Result {
    let secs = unix_ns / NS_PER_SEC;
    let (year, month, day) = civil(secs / SECS_PER_DAY);
    let of_day = secs % SECS_PER_DAY;
    let (hour, minute, second) = (of_day / 3600, of_day / 60 % 60, of_day % 60);
    let ns = unix_ns % NS_PER_SEC;
    write!(out, "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{ns:09}Z")
}

/// Year, month and day of a day counted from 1970-01-01, in the proleptic Gregorian calendar: 400 years are
/// 146 097 days, and a year that begins in March has its leap day at the end.
fn civil(days: u64) -> (u64, u64, u64) {
    // 719 468 days lie between 0000-03-01 and 1970-01-01.
    let z = days + 719_468;
    let (era, of_era) = (z / 146_097, z % 146_097);
    let year_of_era = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let from_march = (5 * of_year + 2) / 153;
    let day = of_year - (153 * from_march + 2) / 5 + 1;
    let month = if from_march < 10 { from_march + 3 } else { from_march - 9 };
    (year_of_era + era * 400 + u64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::write_rfc3339;

    #[test]
    fn dates_are_the_calendars() {
        for (ns, text) in [
            (0, "1970-01-01T00:00:00.000000000Z"),
            (951_782_399_999_999_999, "2000-02-28T23:59:59.999999999Z"),
            (951_782_400_000_000_000, "2000-02-29T00:00:00.000000000Z"),
            (951_868_800_000_000_001, "2000-03-01T00:00:00.000000001Z"),
            (1_767_225_599_000_000_000, "2025-12-31T23:59:59.000000000Z"),
            (4_107_542_400_000_000_000, "2100-03-01T00:00:00.000000000Z"),
            (u64::MAX, "2554-07-21T23:34:33.709551615Z"),
        ] {
            let mut out = String::new();
            write_rfc3339(&mut out, ns).expect("strings take everything");
            assert_eq!(out, text);
        }
    }
}
