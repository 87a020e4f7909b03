//! `shimtap ps --open-ended`: streams whose end nobody told, as a table; and the line below the others that says that there are some.

use super::super::cells::{UNKNOWN, age, columns, counted, size};
use crate::admin::{Ps, PsOpenEnded};

const HEAD: [&str; 10] =
    ["NAMESPACE", "POD", "CONTAINER", "ID", "PROCESS", "STREAM", "REASON", "BYTES", "GAPS", "LAST RECORD"];

/// All that the collector lists, and how many more there are.
pub(super) fn all(ps: &Ps, now_ns: u64) -> String {
    let Some(total) = ps.open_ended_total else {
        return "the collector does not say which streams ended open: it is of an older release, or its journal is not open yet\n"
            .to_owned();
    };
    if total == 0 {
        return "the end of every stream was told\n".to_owned();
    }
    let rows = ps.open_ended.iter().map(|stream| row(stream, now_ns));
    let rows: Vec<_> = [HEAD.map(str::to_owned)].into_iter().chain(rows).collect();
    let listed = u64::try_from(ps.open_ended.len()).unwrap_or(u64::MAX);
    let more = match total.saturating_sub(listed) {
        0 => String::new(),
        more => format!("\nand {more} more, whose last records are older\n"),
    };
    columns(&rows) + &more
}

/// Nothing where there are none, or nobody knows.
pub(super) fn hint(ps: &Ps) -> String {
    let total = ps.open_ended_total.and_then(|total| usize::try_from(total).ok()).unwrap_or_default();
    if total == 0 {
        return String::new();
    }
    format!(
        "\n{} ended without a word of where: shimtap ps --open-ended says which, and why\n",
        counted(total, "stream")
    )
}

fn row(stream: &PsOpenEnded, now_ns: u64) -> [String; HEAD.len()] {
    let or_dash = |text: &Option<String>| text.clone().unwrap_or_else(|| UNKNOWN.to_owned());
    let since = |ns: u64| age(now_ns.saturating_sub(ns) / 1_000_000_000) + " ago";
    [
        stream.namespace.as_ref().unwrap_or(&stream.containerd_namespace).clone(),
        or_dash(&stream.pod),
        or_dash(&stream.container),
        stream.id.chars().take(13).collect(),
        if stream.process.is_empty() { "init".to_owned() } else { stream.process.clone() },
        stream.stream.clone(),
        stream.reason.clone(),
        size(stream.bytes),
        size(stream.gap_bytes),
        stream.last_ns.map_or_else(|| UNKNOWN.to_owned(), since),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ps(total: Option<u64>, listed: usize) -> Ps {
        let stream = PsOpenEnded {
            containerd_namespace: "k8s.io".into(),
            id: "0123456789abcdef".into(),
            namespace: Some("pay".into()),
            pod: Some("web-1".into()),
            process: "probe".into(),
            stream: "stderr".into(),
            reason: "power_cut".into(),
            bytes: 2_048,
            gap_bytes: 7,
            last_ns: Some(1_000_000_000),
            ..PsOpenEnded::default()
        };
        Ps { open_ended: vec![stream; listed], open_ended_total: total, ..Ps::default() }
    }

    #[test]
    fn a_stream_is_listed_with_what_is_known_of_it_and_none_is_left_out_unsaid() {
        let said = all(&ps(Some(1), 1), 43_000_000_000);
        assert_eq!(
            said,
            "NAMESPACE  POD    CONTAINER  ID             PROCESS  STREAM  REASON     BYTES  GAPS  LAST RECORD\n\
             pay        web-1  -          0123456789abc  probe    stderr  power_cut  2.0K   7     42s ago\n"
        );
        assert!(all(&ps(Some(5), 2), 0).ends_with("\nand 3 more, whose last records are older\n"));
        assert_eq!(all(&ps(Some(0), 0), 0), "the end of every stream was told\n");
        assert!(
            all(&ps(None, 0), 0).starts_with("the collector does not say"),
            "that there are none is not known"
        );
    }

    #[test]
    fn the_table_says_that_there_are_some_and_else_nothing() {
        let line = "\n3 streams ended without a word of where: shimtap ps --open-ended says which, and why\n";
        assert_eq!(hint(&ps(Some(3), 0)), line);
        assert_eq!([hint(&ps(Some(0), 0)), hint(&ps(None, 0))], ["", ""]);
    }
}
