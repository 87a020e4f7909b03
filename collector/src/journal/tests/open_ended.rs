//! Streams whose end nobody told, as the journal's users are shown them: bounded, and never none where nobody knows.

use super::*;
use crate::{
    admin::ps,
    journal::Heads,
    metrics::{Registry, render_own},
    sinks::Backlog,
};

fn registry() -> Registry {
    Registry::new(Arc::default(), Backlog::default(), Vec::new(), Duration::from_secs(10))
}

#[test]
fn all_are_counted_and_those_of_the_newest_records_listed() {
    let registry = registry();
    assert!(!render_own(&registry).contains("shimtap_streams_open_ended"), "there is no journal to ask yet");
    assert_eq!(ps(&registry).open_ended_total, None);

    let dir = tempfile::tempdir().expect("temporary directory");
    let open = Open::new(&config(dir.path(), 8 << 20));
    let all: Vec<_> = (0..1_002).map(|n| origin(&format!("c{n}"))).collect();
    for (n, origin) in all.iter().enumerate() {
        let record = Record { time_ns: 1_000 + n as u64, ..line(0, "half") };
        open.append(origin, vec![record], Some(Ending::WrapperLost));
    }
    // Of these one is without a record, one known to the byte, and one goes on.
    open.append(&origin("nothing"), Vec::new(), Some(Ending::Unknown));
    open.append(&origin("exact"), lines(0, 1, "x"), Some(Ending::Exact));
    let last = open.append(&all[1_001], lines(5, 1, "more"), None);
    wait("the last one", || (last.durable() >= 10).then_some(()));

    registry.journal.set(Arc::new(Heads::alone(Arc::clone(&open.journal)))).expect("the only one");
    let shown = ps(&registry);
    assert_eq!((shown.open_ended_total, shown.open_ended.len()), (Some(1_002), 1_000));
    let ids: Vec<_> = shown.open_ended.iter().map(|stream| stream.id.clone()).collect();
    let newest_first: Vec<_> = (1..=1_000).rev().map(|n| format!("c{n}")).collect();
    assert_eq!(ids, newest_first);
    let page = render_own(&registry);
    for (reason, count) in [("wrapper_lost", 1_001), ("unknown", 1), ("power_cut", 0)] {
        let row = format!("shimtap_streams_open_ended{{reason=\"{reason}\"}} {count}\n");
        assert!(page.contains(&row), "{row} is not in {page}");
    }
    assert!(!page.contains("shimtap_streams_open_ended{reason=\"exact\"}"));
    open.close();
}
