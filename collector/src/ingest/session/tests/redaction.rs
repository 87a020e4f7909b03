//! What something is taken out of: whole lines, never on a wrapper's disk, and room in the window all the same.

use super::*;

#[tokio::test]
async fn what_a_rule_takes_something_out_of_may_not_be_spooled_to_the_disk() {
    let (ingest, _exit, sender) = ruled();
    let mut now = session(&ingest, 1);
    let body = Some(Up::Open(open(0)));
    let ready = now.take(link::FromWrapper { body, ..Default::default() }).await.expect("open");
    let streams = |message: link::FromCollector| match message.body {
        Some(Down::Ready(ready)) => ready.streams,
        other => panic!("a ready: {other:?}"),
    };
    assert!(streams(ready.expect("an answer")).iter().all(|stream| stream.spool_to_disk));
    sender.send_replace(rules(3));
    let told = now.judge_again().pop().expect("that is news");
    for stream in streams(told) {
        // Without a place: it goes on where it is.
        assert_eq!((stream.next, stream.capture, stream.spool_to_disk), (None, true, false));
    }
    sender.send_replace(rules(2));
    let told = now.judge_again().pop().expect("and so is this");
    assert!(streams(told).iter().all(|stream| stream.next.is_none() && stream.spool_to_disk));
}

/// What has come of a container's stdout, pieces joined.
fn text(exit: &mut Exit, container: &str) -> String {
    let mut text = Vec::new();
    while let Some(waiting) = exit.try_recv() {
        let name = &waiting.batch.origin.name;
        if name.container == container && name.stream == StreamKind::Stdout {
            for record in &waiting.batch.records {
                let Body::Line(line) = &record.body else { panic!("nothing is missing") };
                text.extend_from_slice(line);
            }
        }
        waiting.batch.done();
    }
    String::from_utf8(text).expect("text")
}

fn taking_out(what: &str) -> Arc<Rules> {
    let redact = Redactor::of(what).expect("a preset or a pattern");
    Arc::new(Rules::new(vec![Rule { line: 1, redact, ..Rule::default() }]))
}

/// What is taken out of a line because nobody had the time to look at it is counted apart from secrets.
#[tokio::test]
async fn the_end_of_a_line_that_was_not_searched_is_counted() {
    let (ingest, mut exit, sender) = ruled();
    // Each find is one digit, and behind each all others are looked at.
    sender.send_replace(taking_out("[0-9]+x|[0-9]"));
    let mut now = session(&ingest, 1);
    say(&mut now, Up::Open(open(0))).await;
    write(&mut now, 1, 0, &[vec![b'7'; 255 << 10], b"\n7\n".to_vec()].concat()).await;
    let text = text(&mut exit, "c0");
    let totals = &ingest.registry.totals;
    assert_eq!(totals.redacted_unsearched.get(), 1);
    assert_eq!(text.matches("[redacted:the rest").count(), 1);
    assert_eq!(totals.redactions.get(), text.matches("[redacted:pattern]").count() as u64);
}

#[tokio::test(start_paused = true)]
async fn a_secret_is_found_wherever_it_stands_in_a_line_that_comes_in_messages() {
    let (ingest, mut exit, sender) = ruled();
    sender.send_replace(taking_out("email"));
    let mut now = session(&ingest, 1);
    say(&mut now, Up::Open(open(0))).await;
    // 64 KiB end inside of it, and so does what came when the line has waited.
    let line = [vec![b'x'; (64 << 10) - 9], b" joe@example.org ".to_vec(), vec![b'y'; 40 << 10]].concat();
    write(&mut now, 1, 0, &line).await;
    tokio::time::sleep(Duration::from_secs(5)).await;
    now.fragments().await.expect("its stream");
    assert_eq!(text(&mut exit, "c0"), "", "what waits for its end is in memory alone");
    write(&mut now, 1, line.len() as u64, b"joe@exam").await;
    write(&mut now, 1, line.len() as u64 + 8, b"ple.org\n").await;
    let text = text(&mut exit, "c0");
    assert!(!text.contains("example"), "{text:?}");
    assert_eq!(text.matches("[redacted:email]").count(), 2);
}

#[tokio::test]
async fn long_lines_that_are_to_stay_whole_leave_room_in_the_window_and_the_longest_pays() {
    let (ingest, mut exit, sender) = ruled();
    sender.send_replace(taking_out("email"));
    let mut now = session(&ingest, 1);
    say(&mut now, Up::Open(open(0))).await;
    say(&mut now, Up::Open(open(1))).await;
    write(&mut now, 1, 0, b"joe@exam").await;
    for round in 0..3u64 {
        for handle in 2..5 {
            write(&mut now, handle, round * (60 << 10), &[b'x'; 60 << 10]).await;
            let free = link::WINDOW - u64::try_from(now.held).expect("small");
            assert!(free >= 192 << 10, "{free} bytes are free");
        }
    }
    write(&mut now, 1, 8, b"ple.org\n").await;
    assert_eq!(text(&mut exit, "c0"), "[redacted:email]");
}
