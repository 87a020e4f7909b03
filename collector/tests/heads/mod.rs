//! A journal of two heads under the real collector: rules decide which one has a stream, and what becomes of one does not
//! touch the other.

mod left_behind;

use std::{
    io::{BufRead, BufReader},
    path::Path,
    process::{Command, Stdio},
    sync::mpsc,
};

use serde_json::Value;

use super::{
    Mounted, journaled, line, lines,
    peer::{Collector, PATIENCE, Peer, close, data, gap, open, wait},
    step,
};

const TO_DISK: &str = "[[rule]]\nname = \"keep\"\ncontainer = \"c\"\nstore = \"disk\"\n";
const NO_RULE: &str = "# none\n";

/// A file sink, and a journal with a head at `disk`.
fn two_heads(dir: &Path, disk: &Path, rule: &str) -> String {
    let (at, disk) = (dir.display(), disk.display());
    let reserve = "reserve_percent = 0\nreserve_bytes = 0\n";
    format!(
        "[file]\npath = \"{at}/log.json\"\n[journal]\ndir = \"{at}/journal\"\n{reserve}\
         [journal.disk]\ndir = \"{disk}\"\n{reserve}{rule}"
    )
}

/// Other rules from here on.
fn reload(collector: &Collector, from: &str, to: &str) {
    let path = collector.dir.path().join("collector.toml");
    let text = std::fs::read_to_string(&path).expect("its configuration");
    assert!(text.contains(from), "{text}");
    std::fs::write(&path, text.replace(from, to)).expect("writable");
    let said = shimtap(collector, &["reload"]);
    assert!(said.contains("the configuration holds"), "{said}");
}

fn shimtap(collector: &Collector, args: &[&str]) -> String {
    let mut command = Command::new(env!("CARGO_BIN_EXE_shimtap"));
    let said = command.args(args).arg("--socket").arg(collector.control()).output().expect("it runs");
    assert!(said.status.success(), "{}", String::from_utf8_lossy(&said.stderr));
    String::from_utf8(said.stdout).expect("text")
}

/// Checks that what there is of stdout of a container is all of it up to `end`, each line once and in its place; a sink may get
/// again what it had before a death.
fn is_whole<'r>(records: impl IntoIterator<Item = &'r Value>, container: &str, end: u64, again: bool) {
    let mut at = 0;
    let of = |record: &&Value| record["container_id"] == container && record["stream"] == "stdout";
    for record in records.into_iter().filter(of) {
        let to = record["offset"]["to"].as_u64().expect("an offset");
        if again && to <= at {
            continue;
        }
        assert_eq!(record["offset"]["from"], at, "neither a hole, nor a repeat, nor out of order: {record}");
        assert_eq!(record["message"], line(at / step()).trim_end(), "{record}");
        at = to;
    }
    assert_eq!(at, end, "of {container}");
}

/// True where the last that there is of a container ends there.
fn reaches(records: &[Value], container: &str, end: u64) -> bool {
    let last = records.iter().rfind(|record| record["container_id"] == container);
    last.is_some_and(|last| last["offset"]["to"] == end)
}

/// A collector with a head on `disk`, and two containers: `c`, whose output goes there, and `other`, whose output stays in memory.
async fn one_for_each(disk: &Mounted) -> (Collector, Peer, Peer) {
    let on_disk = disk.0.join("journal");
    let collector = Collector::with(|dir| two_heads(dir, &on_disk, TO_DISK));
    let (mut held, _) = Peer::greet(&collector, 1).await;
    let (mut free, _) = Peer::greet(&collector, 2).await;
    held.open(open(0, "c", 1)).await;
    free.open(open(0, "other", 2)).await;
    (collector, held, free)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_rules_move_to_and_fro_stays_whole_and_in_order() {
    let whose = |dir: &Path| two_heads(dir, &dir.join("disk"), NO_RULE);
    let mut collector = Collector::with(whose);
    let mut child =
        collector.logs_command(&["--follow", "-o", "json"]).stdout(Stdio::piped()).spawn().expect("it runs");
    let (sender, followed) = mpsc::channel::<Value>();
    let out = BufReader::new(child.stdout.take().expect("piped"));
    std::thread::spawn(move || {
        for line in out.lines().map_while(Result::ok) {
            let _ = sender.send(serde_json::from_str(&line).expect("JSON"));
        }
    });

    let (mut peer, _) = Peer::greet(&collector, 1).await;
    peer.open(open(0, "c", 1)).await;
    peer.open(open(1, "other", 2)).await;
    let (mut sent, mut rule) = (0, NO_RULE);
    for round in 0..6 {
        let next = if rule == NO_RULE { TO_DISK } else { NO_RULE };
        reload(&collector, rule, next);
        rule = next;
        let end = sent + 400 * step();
        let text = lines(sent / step(), end / step());
        // Cuts lines anywhere, and does not wait for anything: most of it is on its way when the next rules come.
        for (i, piece) in text.chunks(1_117).enumerate() {
            let at = sent + i as u64 * 1_117;
            peer.send(data(1, at, piece)).await;
            peer.send(data(3, at, piece)).await;
        }
        sent = end;
        if round == 2 {
            let explained = shimtap(&collector, &["explain", "c"]);
            assert!(explained.contains("kept in    disk: rule \"keep\""), "{explained}");
        }
    }
    peer.acked_all(&[(1, sent), (3, sent)]).await;
    let (mut seen, mut awaited) = (Vec::new(), vec!["c", "other"]);
    while !awaited.is_empty() {
        let record = followed.recv_timeout(PATIENCE).expect("what is followed comes");
        awaited.retain(|id| record["container_id"] != **id || record["offset"]["to"] != sent);
        seen.push(record);
    }
    is_whole(&seen, "c", sent, false);
    is_whole(&seen, "other", sent, false);
    wait("the sink to have it", || {
        let records = collector.records();
        ["c", "other"].iter().all(|id| reaches(&records, id, sent)).then_some(())
    });
    is_whole(&collector.records(), "c", sent, false);
    for head in ["", "{store=\"disk\"}"] {
        assert!(collector.metric(&format!("shimtap_journal_frames_total{head}")) > 0, "{head:?} has nothing");
    }

    // Neither a death nor a place that a sink has in each of the heads changes any of that.
    collector = Collector::start_in(collector.kill(), |dir| two_heads(dir, &dir.join("disk"), TO_DISK));
    let _ = child.wait();
    let (mut peer, _) = Peer::greet(&collector, 1).await;
    assert_eq!(peer.open(open(0, "c", 1)).await, [(1, sent), (2, 0)]);
    let end = sent + 100 * step();
    peer.send(data(1, sent, &lines(sent / step(), end / step()))).await;
    peer.send(close(1, end)).await;
    peer.acked(1, end).await;
    let records = journaled(&collector);
    is_whole(&records, "c", end, false);
    is_whole(&records, "other", sent, false);
    let has_all = || collector.records().last().filter(|last| last["offset"]["to"] == end).map(|_| ());
    wait("the sink to have the rest", has_all);
    is_whole(&collector.records(), "c", end, true);
    // Counted once, though two heads know of it, and nothing of it as missing.
    assert_eq!(collector.metric("shimtap_log_lines_total{stream=\"stdout\"}"), (end + sent) / step());
    let page = collector.get("/metrics");
    let missing = page.lines().filter(|line| line.starts_with("shimtap_log_gap_bytes_total{"));
    assert!(missing.clone().count() > 0 && missing.clone().all(|line| line.ends_with(" 0")), "{page}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_holds_what_goes_there_and_nothing_else() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let Some(disk) = Mounted::small(&dir.path().join("small")) else {
        eprintln!("skipped: mounting a tmpfs was refused; it runs as root with CAP_SYS_ADMIN");
        return;
    };
    let (collector, mut held, mut free) = one_for_each(&disk).await;
    let ballast = disk.fill();
    let text = lines(0, 2_000);
    let end = text.len() as u64;
    for peer in [&held, &free] {
        for (i, piece) in text.chunks(32 << 10).enumerate() {
            peer.send(data(1, (i as u64) << 15, piece)).await;
        }
    }
    free.acked(1, end).await;
    collector.wait_metric("shimtap_journal_stalled{store=\"disk\"}", 1);
    assert_eq!(collector.metric("shimtap_journal_stalled"), 0);
    assert!(collector.metric("shimtap_journal_errors_total{store=\"disk\",error=\"ENOSPC\"}") > 0);
    // A page may have had room left.
    assert!(held.acked_by_now(1).await < Some(end), "it is not written");
    // What was not written does not follow its rule away: an acknowledgement would speak of it.
    reload(&collector, TO_DISK, NO_RULE);
    let more = lines(2_000, 2_100);
    held.send(data(1, end, &more)).await;
    free.send(data(1, end, &more)).await;
    let all = end + more.len() as u64;
    free.acked(1, all).await;
    assert!(held.acked_by_now(1).await < Some(end));
    std::fs::remove_file(ballast).expect("it is ours");
    held.acked(1, all).await;
    let records = journaled(&collector);
    is_whole(&records, "c", all, false);
    is_whole(&records, "other", all, false);
}

/// A disk on which every write hangs in the kernel as long as this is there.
struct Frozen<'a>(&'a Mounted);

impl<'a> Frozen<'a> {
    fn freeze(disk: &'a Mounted) -> Self {
        let said = Command::new("fsfreeze").arg("-f").arg(&disk.0).output().expect("fsfreeze is there");
        assert!(said.status.success(), "{}", String::from_utf8_lossy(&said.stderr));
        Self(disk)
    }
}

impl Drop for Frozen<'_> {
    fn drop(&mut self) {
        let _ = Command::new("fsfreeze").arg("-u").arg(&self.0.0).output();
    }
}

/// A disk that hangs gives no error: nobody who writes comes back to say so.
#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_hangs_holds_what_goes_there_and_nothing_else_and_is_named() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let Some(disk) = Mounted::on_loop(&[], &dir.path().join("image"), &dir.path().join("disk")) else {
        eprintln!(
            "skipped: mounting an ext4 on a loop device was refused; it runs as root where loop devices are"
        );
        return;
    };
    let (collector, mut held, mut free) = one_for_each(&disk).await;
    let text = lines(0, 1_000);
    let end = text.len() as u64;
    held.send(data(1, 0, &text)).await;
    free.send(data(1, 0, &text)).await;
    held.acked(1, end).await;
    let frozen = Frozen::freeze(&disk);
    held.send(data(1, end, &lines(1_000, 1_100))).await;
    collector.wait_metric("shimtap_journal_stalled{store=\"disk\"}", 1);
    assert_eq!(collector.metric("shimtap_journal_stalled"), 0);
    let said = |what: &str| {
        let log = collector.stderr();
        let dir = disk.0.display().to_string();
        log.lines().any(|line| line.contains(what) && line.contains(&dir)).then_some(())
    };
    wait("a line in the log", || said("a write of the journal does not come back"));
    // What goes to memory is acknowledged and delivered as ever, and everybody is answered.
    free.send(data(1, end, &lines(1_000, 2_000))).await;
    free.acked(1, 2 * end).await;
    wait("the file to have it", || reaches(&collector.records(), "other", 2 * end).then_some(()));
    is_whole(&journaled(&collector), "other", 2 * end, false);
    let reached = 1_100 * step();
    assert!(held.acked_by_now(1).await < Some(reached), "it is not written");
    reload(&collector, TO_DISK, NO_RULE);
    drop(frozen);
    // What its wrapper had no room for meanwhile it says now, and that is counted.
    held.send(gap(1, reached, reached + 30 * step())).await;
    held.send(data(1, reached + 30 * step(), &lines(1_130, 1_200))).await;
    held.acked(1, 1_200 * step()).await;
    wait("the disk to be well", || {
        (collector.metric("shimtap_journal_stalled{store=\"disk\"}") == 0).then_some(())
    });
    wait("a line in the log", || said("answers again"));
    let dropped = "shimtap_log_gap_bytes_total{stream=\"stdout\",reason=\"overflow\"}";
    assert_eq!(collector.metric(dropped), 30 * step());
}
