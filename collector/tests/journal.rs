//! The journal under the real collector: deaths under load, a full disk, and what `shimtap logs` shows of it.

#![allow(
    clippy::panic,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    reason = "test code, though not all of it test functions to clippy"
)]

mod heads;
mod open_ended;
mod peer;

use std::{
    fs,
    io::{self, BufRead, BufReader, Write},
    process::{Child, Command, Stdio},
};

use peer::{Collector, Peer, close, data, gap, open, wait};
use shimtap_proto::link::{self, from_collector::Body as Down};

fn line(number: u64) -> String {
    format!("line {number:07} of a container that writes a lot\n")
}

fn step() -> u64 {
    line(0).len() as u64
}

/// Lines `from..to` in one piece.
fn lines(from: u64, to: u64) -> Vec<u8> {
    (from..to).map(line).collect::<String>().into_bytes()
}

/// Lines of text that does not become smaller.
fn noise(length: usize) -> Vec<u8> {
    let mut state = 88_172_645_463_325_252u64;
    let letter = |at: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        if at % 216 == 215 { b'\n' } else { b' ' + (state % 95) as u8 }
    };
    (0..length).map(letter).collect()
}

/// The same as a container of a pod, as CRI's annotations say.
fn of_a_pod(mut open: link::Open) -> link::Open {
    let names = [
        ("container-type", "container"),
        ("sandbox-namespace", "pay"),
        ("sandbox-name", "web-1"),
        ("container-name", "app"),
    ];
    let annotation = |(key, value): (&str, &str)| (format!("io.kubernetes.cri.{key}"), value.to_owned());
    open.annotations = names.map(annotation).into();
    open
}

/// Every record of the journal, as it lies there.
fn journaled(collector: &Collector) -> Vec<serde_json::Value> {
    let text = collector.logs(&["-o", "json"]);
    text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn deaths_under_load_lose_nothing_acknowledged_and_double_nothing() {
    let nothing = |_: &std::path::Path| String::new();
    let mut collector = Collector::with(nothing);
    let (mut sent, mut acked) = (0u64, 0u64);
    for round in 0..6u64 {
        let (mut peer, _) = Peer::greet(&collector, 1).await;
        let next = peer.open(open(0, "c", 1)).await[0].1;
        assert!((acked..=sent).contains(&next), "{acked} acknowledged, {sent} sent, {next} wanted");
        // Cuts lines anywhere.
        let cut = next;
        let end = sent + 3_000 * step();
        let text = lines(0, end / step());
        for (i, piece) in text[cut as usize..].chunks(1_117).enumerate() {
            peer.send(data(1, cut + i as u64 * 1_117, piece)).await;
        }
        sent = end;
        // Dies with much of it on its way.
        for _ in 0..=round {
            if acked == sent {
                break;
            }
            let Some(Down::Ack(ack)) = peer.recv().await else { panic!("an ack; {}", collector.stderr()) };
            acked = ack.streams.iter().map(|stream| stream.offset).fold(acked, u64::max);
        }
        collector = Collector::start_in(collector.kill(), nothing);
        assert_eq!(collector.metric("shimtap_journal_unclean"), 1);
    }
    let (mut peer, _) = Peer::greet(&collector, 1).await;
    let next = peer.open(open(0, "c", 1)).await[0].1;
    assert!(next >= acked);
    let text = lines(0, sent / step());
    for (i, piece) in text[next as usize..].chunks(60_000).enumerate() {
        peer.send(data(1, next + i as u64 * 60_000, piece)).await;
    }
    peer.send(close(1, sent)).await;
    peer.acked(1, sent).await;
    let mut at = 0;
    for record in journaled(&collector) {
        assert_eq!(record["offset"]["from"], at, "neither a hole nor a repeat: {record}");
        assert_eq!(record["message"], line(at / step()).trim_end(), "{record}");
        at = record["offset"]["to"].as_u64().expect("an offset");
    }
    assert_eq!(at, sent);
    // What earlier processes counted is in the counters.
    assert_eq!(collector.metric("shimtap_log_lines_total{stream=\"stdout\"}"), sent / step());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gap_is_counted_over_restarts_and_only_beyond_what_is_there() {
    let nothing = |_: &std::path::Path| String::new();
    let collector = Collector::with(nothing);
    let (mut peer, _) = Peer::greet(&collector, 1).await;
    peer.open(open(0, "c", 1)).await;
    peer.send(data(1, 0, b"0123456789\n")).await;
    peer.send(gap(1, 4, 20)).await;
    peer.acked(1, 20).await;
    let collector = Collector::start_in(collector.kill(), nothing);
    let lost = "shimtap_log_gap_bytes_total{stream=\"stdout\",reason=\"overflow\"}";
    assert_eq!(collector.metric(lost), 9);
    let (mut peer, _) = Peer::greet(&collector, 1).await;
    assert_eq!(peer.open(open(0, "c", 1)).await, [(1, 20), (2, 0)]);
    // What is kept is acknowledged anew, without a word of the wrapper's.
    peer.acked(1, 20).await;
    peer.send(gap(1, 0, 25)).await;
    peer.send(data(1, 25, b"tail\n")).await;
    peer.send(close(1, 30)).await;
    peer.acked(1, 30).await;
    assert_eq!(collector.metric(lost), 14);
    let flags: Vec<_> = journaled(&collector).iter().map(|record| record["flags"].clone()).collect();
    assert_eq!(flags[3], serde_json::json!(["cut_head"]));
    assert_eq!(collector.metric("shimtap_log_lines_total{stream=\"stdout\"}"), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_whose_wrapper_does_not_come_back_is_open_ended() {
    let orphan = |_: &std::path::Path| "[ingest]\norphan_secs = 1\n".to_owned();
    let collector = Collector::with(orphan);
    let (mut peer, _) = Peer::greet(&collector, 1).await;
    peer.open(open(0, "c", 1)).await;
    peer.send(data(1, 0, b"half")).await;
    peer.acked(1, 4).await;
    let collector = Collector::start_in(collector.kill(), orphan);
    let records = wait("the ending", || Some(journaled(&collector)).filter(|records| !records.is_empty()));
    assert_eq!((&records[0]["message"], &records[0]["flags"]), (&"half".into(), &serde_json::json!(["cut"])));
    // It comes back after all, and is said to have been thought ended.
    let (mut peer, _) = Peer::greet(&collector, 1).await;
    assert_eq!(peer.open(open(0, "c", 1)).await, [(1, 4), (2, 0)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn logs_shows_what_was_asked_for() {
    let collector = Collector::with(|_| String::new());
    let (mut peer, _) = Peer::greet(&collector, 1).await;
    peer.open(open(0, "web", 1)).await;
    peer.open(open(1, "job", 1)).await;
    peer.open(of_a_pod(open(2, "5f0c", 1))).await;
    peer.send(data(5, 0, b"of a pod\n")).await;
    peer.send(data(1, 0, b"GET /\nPOST /x\n")).await;
    peer.send(data(2, 0, b"error: GET\n")).await;
    peer.send(data(3, 0, b"working\n")).await;
    peer.send(gap(3, 8, 20)).await;
    peer.acked_all(&[(1, 14), (2, 11), (3, 20), (5, 9)]).await;
    let messages = |args: &[&str]| {
        let text = collector.logs(&[args, &["-o", "json"]].concat());
        let message = |line: &str| {
            let record: serde_json::Value = serde_json::from_str(line).expect("JSON");
            record["message"].as_str().unwrap_or("-").to_owned()
        };
        text.lines().map(message).collect::<Vec<_>>()
    };
    assert_eq!(messages(&["--container", "web"]), ["GET /", "POST /x", "error: GET"]);
    assert_eq!(messages(&["--container", "web", "--stream", "stderr"]), ["error: GET"]);
    assert_eq!(messages(&["--grep", "^GET|ing$"]), ["GET /", "working", "-"]);
    assert_eq!(messages(&["--namespace", "default", "--tail", "2"]), ["working", "-"]);
    assert!(messages(&["--pod", "none"]).is_empty());
    // A pod's container by Kubernetes' names, not by containerd's alone.
    for asked in [&["--namespace", "pay"][..], &["--pod", "web-1"], &["--namespace", "pay", "--pod", "web-1"]]
    {
        assert_eq!(messages(asked), ["of a pod"], "{asked:?}");
    }
    assert!(messages(&["--namespace", "pay", "--pod", "web-2"]).is_empty());
    assert!(messages(&["--namespace", "pay", "--stream", "stderr"]).is_empty());
    let text = collector.logs(&["--pod", "web-1"]);
    assert_eq!(text, "2023-11-14T22:13:20.000000000Z pay/web-1/app stdout of a pod\n");
    let text = collector.logs(&["--container", "job"]);
    let lines: Vec<_> = text.lines().collect();
    assert_eq!(lines[0], "2023-11-14T22:13:20.000000000Z default/job stdout working");
    assert!(lines[1].ends_with(" default/job stdout [12 bytes are missing here: overflow]"), "{text}");
    let cri = collector.logs(&["--container", "web", "--tail", "1", "-o", "cri"]);
    assert_eq!(cri, "2023-11-14T22:13:20.000000002Z stderr F error: GET\n");
    let refused = collector.logs_command(&["--grep", "("]).output().expect("it runs");
    assert_eq!(refused.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&refused.stderr).contains("grep is no expression"), "{refused:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn logs_follows() {
    let collector = Collector::with(|_| String::new());
    let (mut peer, _) = Peer::greet(&collector, 1).await;
    peer.open(open(0, "c", 1)).await;
    peer.send(data(1, 0, b"before\n")).await;
    peer.acked(1, 7).await;
    let mut logs = collector.logs_command(&["-f", "-o", "cri"]);
    let mut child = logs.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("it runs");
    let mut shown = BufReader::new(child.stdout.take().expect("piped")).lines();
    let mut next = || shown.next().expect("a line").expect("text");
    assert!(next().ends_with(" F before"));
    peer.send(data(1, 7, b"after\nunfini")).await;
    assert!(next().ends_with(" F after"));
    peer.acked(1, 19).await;
    peer.send(data(1, 19, b"shed\n")).await;
    assert!(next().ends_with(" F unfinished"));
    // It ends with the collector, and says so: what was followed goes on elsewhere.
    let (status, dir) = collector.stop();
    assert_eq!(status, Some(0));
    ended_with_the_collector(child);

    let collector = Collector::start_in(dir, |_| String::new());
    let mut logs = collector.logs_command(&["-f", "-o", "cri"]);
    let mut child = logs.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("it runs");
    let mut shown = BufReader::new(child.stdout.take().expect("piped")).lines();
    assert!(shown.next().expect("a line").expect("text").ends_with(" F before"));
    drop(collector.kill());
    ended_with_the_collector(child);
}

/// `shimtap logs` failed, since its collector is gone.
fn ended_with_the_collector(child: Child) {
    let ended = child.wait_with_output().expect("it ends");
    let said = String::from_utf8_lossy(&ended.stderr);
    assert_eq!(ended.status.code(), Some(1), "{said}");
    assert!(said.contains("stopped") && said.contains("ask again when it runs"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn logs_that_cannot_be_written_are_a_failure_and_a_reader_that_has_enough_is_none() {
    let collector = Collector::with(|_| String::new());
    let (mut peer, _) = Peer::greet(&collector, 1).await;
    peer.open(open(0, "c", 1)).await;
    peer.send(data(1, 0, b"line\n")).await;
    peer.acked(1, 5).await;
    let full = fs::OpenOptions::new().write(true).open("/dev/full").expect("Linux has it");
    let ended = collector.logs_command(&[]).stdout(full).output().expect("it runs");
    let said = String::from_utf8_lossy(&ended.stderr);
    assert_eq!(ended.status.code(), Some(1), "{said}");
    assert!(said.contains("No space left on device") && said.contains("not all"), "{said}");
    let (reader, writer) = io::pipe().expect("a pipe");
    drop(reader);
    let ended = collector.logs_command(&[]).stdout(writer).output().expect("it runs");
    assert!(ended.status.success() && ended.stderr.is_empty(), "{ended:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_stops_following_gives_their_place_to_another() {
    let collector = Collector::with(|_| String::new());
    let (mut peer, _) = Peer::greet(&collector, 1).await;
    peer.open(open(0, "c", 1)).await;
    peer.send(data(1, 0, b"line\n")).await;
    peer.acked(1, 5).await;
    let followers: Vec<_> = (0..8)
        .map(|_| {
            let mut child = collector.logs_command(&["-f"]).stdout(Stdio::piped()).spawn().expect("it runs");
            let mut line = String::new();
            let stdout = child.stdout.as_mut().expect("piped");
            BufReader::new(stdout).read_line(&mut line).expect("text");
            assert!(line.ends_with(" line\n"), "{line}");
            child
        })
        .collect();
    let said = collector.logs_command(&[]).output().expect("it runs").stderr;
    assert!(String::from_utf8_lossy(&said).contains("too many clients read logs"), "{said:?}");
    // Nothing is written meanwhile, so that nothing is sent to those who went away.
    for mut follower in followers {
        follower.kill().expect("it runs");
        follower.wait().expect("it ends");
    }
    wait("a place", || collector.logs_command(&[]).output().expect("it runs").status.success().then_some(()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_is_behind_gets_a_counted_hole() {
    let collector = Collector::with(|dir| {
        let _ = std::os::unix::fs::symlink("/dev/full", dir.join("log.json"));
        let dir = dir.display();
        format!(
            "[file]\npath = \"{dir}/log.json\"\n[journal]\ndir = \"{dir}/journal\"\nmax_bytes = 4194304\n\
             reserve_percent = 0\nreserve_bytes = 0\n"
        )
    });
    let (mut peer, _) = Peer::greet(&collector, 1).await;
    peer.open(open(0, "c", 1)).await;
    let text = noise(16 << 20);
    for (i, piece) in text.chunks(32 << 10).enumerate() {
        peer.send(data(1, (i as u64) << 15, piece)).await;
    }
    let end = text.len() as u64;
    peer.send(close(1, end)).await;
    // A slow sink holds no wrapper, and the journal its size.
    peer.acked(1, end).await;
    assert!(collector.metric("shimtap_journal_bytes") <= 5 << 20);
    assert!(collector.metric("shimtap_journal_dropped_bytes_total{reason=\"size\"}") > 8 << 20);
    assert!(collector.metric("shimtap_sink_lag_bytes{sink=\"file\"}") > 14 << 20);
    fs::remove_file(collector.log()).expect("the link is ours");
    fs::write(collector.log(), "").expect("writable");
    let is_last = |record: &serde_json::Value| record["offset"]["to"] == end;
    let records =
        wait("the last line", || Some(collector.records()).filter(|all| all.last().is_some_and(is_last)));
    let (mut at, mut lost) = (0, 0);
    for record in &records {
        assert_eq!(record["offset"]["from"], at, "the file's records tile the stream");
        at = record["offset"]["to"].as_u64().expect("an offset");
        if record["gap"].is_object() {
            assert_eq!(record["gap"]["reason"], "retention");
            lost += record["gap"]["bytes"].as_u64().expect("bytes");
        }
    }
    assert_eq!(at, end);
    assert!(lost > 4 << 20, "{lost}");
    let counted = "shimtap_sink_gap_bytes_total{sink=\"file\",reason=\"retention\"}";
    assert_eq!(collector.metric(counted), lost);
}

/// A file system that is gone with the test.
struct Mounted(std::path::PathBuf);

impl Mounted {
    /// `what` at `at`; `None` where the system does not let us mount, which only root may.
    fn mount(options: &[&str], what: &std::path::Path, at: &std::path::Path) -> Option<Self> {
        fs::create_dir_all(at).expect("a folder");
        let mount = Command::new("mount").args(options).arg(what).arg(at).output();
        mount.is_ok_and(|said| said.status.success()).then(|| Self(at.to_owned()))
    }

    /// Of a few MiB, in memory.
    fn small(at: &std::path::Path) -> Option<Self> {
        Self::mount(&["-t", "tmpfs", "-o", "size=6m"], "none".as_ref(), at)
    }

    /// An ext4 of 64 MiB that lies in `image`, made with these options.
    fn on_loop(options: &[&str], image: &std::path::Path, at: &std::path::Path) -> Option<Self> {
        fs::File::create(image).and_then(|file| file.set_len(64 << 20)).expect("an image");
        let made = Command::new("/sbin/mkfs.ext4").args(["-q", "-F"]).args(options).arg(image).output();
        made.is_ok_and(|made| made.status.success())
            .then(|| Self::mount(&["-o", "loop"], image, at))
            .flatten()
    }

    /// Takes all the room it has left.
    fn fill(&self) -> std::path::PathBuf {
        let ballast = self.0.join("ballast");
        let mut file = fs::File::create(&ballast).expect("a file");
        while file.write_all(&[0; 4096]).is_ok() {}
        ballast
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).output();
    }
}

/// A disk that takes what is written and cannot bring it to the disk once the one it lies on is full: it believes in ten times
/// as much room.
struct Thin {
    /// Goes first.
    disk: Mounted,
    under: Mounted,
}

impl Thin {
    fn mount(dir: &std::path::Path) -> Option<Self> {
        let under = Mounted::small(&dir.join("under"))?;
        // Without a journal of its own, which would give up at the first fault.
        let options = ["-N", "64", "-b", "4096", "-O", "^has_journal"];
        let disk = Mounted::on_loop(&options, &under.0.join("image"), &dir.join("disk"))?;
        Some(Self { disk, under })
    }
}

impl Thin {
    /// Lets nothing be brought to it any more; the file that is to be removed for it to have room again.
    fn fill(&self) -> std::path::PathBuf {
        let ballast = self.under.fill();
        // Pages that the image had already take what comes first.
        let mut filler = fs::File::create(self.disk.0.join("filler")).expect("a file");
        let mut refused = 0;
        while refused < 3 {
            filler.write_all(&[1; 64 << 10]).expect("it believes in room");
            refused += usize::from(filler.sync_data().is_err());
        }
        ballast
    }
}

/// What tells the two policies apart is a disk on which write(2) succeeds and fdatasync(2) does not.
#[tokio::test(flavor = "multi_thread")]
async fn with_fsync_always_nothing_is_acknowledged_that_is_not_on_the_disk() {
    const SYNCS: &str = "shimtap_journal_fsync_seconds_count";
    const REFUSED: &str = "shimtap_journal_errors_total{error=\"ENOSPC\"}";
    // Whole lines, so that all of it is in one frame.
    const PIECE: usize = 216 * 220;
    let dir = tempfile::tempdir().expect("temporary directory");
    let Some(thin) = Thin::mount(dir.path()) else {
        eprintln!(
            "skipped: mounting an ext4 on a loop device was refused; it runs as root where loop devices are"
        );
        return;
    };
    // Ten minutes: nobody but an append asks for anything to be brought to the disk.
    let told = |fsync: &str| {
        format!(
            "[journal]\ndir = \"{}/{fsync}\"\nfsync = \"{fsync}\"\nfsync_interval_ms = 600000\n\
             reserve_percent = 0\nreserve_bytes = 0\n",
            thin.disk.0.display()
        )
    };
    let first = lines(0, 100);
    let middle = first.len() as u64;
    let always = Collector::with(|_| told("always"));
    let interval = Collector::with(|_| told("interval"));
    let (mut to_always, _) = Peer::greet(&always, 1).await;
    let (mut to_interval, _) = Peer::greet(&interval, 1).await;
    for peer in [&mut to_always, &mut to_interval] {
        peer.open(open(0, "c", 1)).await;
        peer.send(data(1, 0, &first)).await;
        peer.acked(1, middle).await;
    }
    let synced = always.metric(SYNCS);
    assert!(synced > 0, "an acknowledgement without an fdatasync before it");
    assert_eq!(interval.metric(SYNCS), 0);

    // One that acknowledges first as well, and finds out soon.
    let soon = Collector::with(|_| told("interval").replace("/interval", "/soon").replace("600000", "50"));
    let (mut to_soon, _) = Peer::greet(&soon, 1).await;
    to_soon.open(open(0, "c", 1)).await;
    // Its file begins with that.
    to_soon.send(data(1, 0, &first)).await;
    to_soon.acked(1, middle).await;

    let ballast = thin.fill();
    let more = noise(1 << 20);
    // A page or two have room left.
    to_soon.send(data(1, middle, &more[..4 * PIECE / 3])).await;
    wait("word of it", || soon.stderr().contains("the journal was not brought to its disk").then_some(()));
    to_interval.send(data(1, middle, &more[..PIECE])).await;
    to_interval.acked(1, middle + PIECE as u64).await;
    let mut end = middle;
    loop {
        let (synced, refused) = (always.metric(SYNCS), always.metric(REFUSED));
        let from = (end - middle) as usize;
        to_always.send(data(1, end, &more[from..from + PIECE])).await;
        end += PIECE as u64;
        // Attempts are 100 ms apart: what a first one had let be acknowledged would be here by the second.
        wait("an fdatasync, or two that failed", || {
            (always.metric(SYNCS) > synced || always.metric(REFUSED) >= refused + 2).then_some(())
        });
        let by_now = to_always.acked_by_now(1).await;
        let is_synced = always.metric(SYNCS) > synced;
        assert!(is_synced || by_now.is_none(), "{by_now:?} is acknowledged, and not on the disk");
        if !is_synced {
            break;
        }
        // A page or two had room left.
        if by_now < Some(end) {
            to_always.acked(1, end).await;
        }
    }

    fs::remove_file(ballast).expect("it is ours");
    to_always.acked(1, end).await;
}

/// A disk takes a part of a frame and then no more, and will not have that cut off either: what comes behind it would not be found by
/// a later start, so that nothing is acknowledged before the part is gone.
#[tokio::test(flavor = "multi_thread")]
async fn nothing_goes_behind_a_torn_frame_that_cannot_be_cut_off() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let Some(disk) = Mounted::small(&dir.path().join("small")) else {
        eprintln!("skipped: mounting a tmpfs was refused; it runs as root with CAP_SYS_ADMIN");
        return;
    };
    let at = disk.0.join("journal");
    let journal = format!("[journal]\ndir = \"{}\"\nreserve_percent = 0\nreserve_bytes = 0\n", at.display());
    let collector = Collector::with(|_| journal.clone());
    let (mut peer, _) = Peer::greet(&collector, 1).await;
    peer.open(open(0, "c", 1)).await;
    let first = lines(0, 100);
    let middle = first.len() as u64;
    peer.send(data(1, 0, &first)).await;
    peer.acked(1, middle).await;
    let part = fs::read_dir(&at).expect("there").map(|entry| entry.expect("readable").path());
    let part = part.into_iter().find(|path| path.extension().is_some_and(|end| end == "sj")).expect("a part");
    let change = |flag: &str| Command::new("chattr").arg(flag).arg(&part).output();
    if !change("+a").is_ok_and(|said| said.status.success()) {
        eprintln!("skipped: chattr +a on a tmpfs was refused; it runs where the kernel has that (Linux 6.0)");
        return;
    }
    let ballast = disk.fill();
    let room = fs::metadata(&ballast).expect("there").len() - 16_384;
    fs::File::options()
        .write(true)
        .open(&ballast)
        .and_then(|file| file.set_len(room))
        .expect("a little room");
    let size = fs::metadata(&part).expect("there").len();
    let more = noise(60_000);
    let end = middle + more.len() as u64;
    peer.send(data(1, middle, &more)).await;
    peer.send(close(1, end)).await;
    wait("a part of the frame", || (fs::metadata(&part).ok()?.len() > size).then_some(()));
    fs::remove_file(&ballast).expect("it is ours");
    collector.wait_metric("shimtap_journal_errors_total{error=\"EPERM\"}", 2);
    assert_eq!(
        peer.acked_by_now(1).await.filter(|acked| *acked > middle),
        None,
        "it stands behind a torn frame"
    );
    assert!(change("-a").expect("it was there").status.success());
    peer.acked(1, end).await;

    let collector = Collector::start_in(collector.kill(), |_| journal.clone());
    assert_eq!(collector.metric("shimtap_log_bytes_total{stream=\"stdout\"}"), end, "all of it is found");
    drop(collector);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_under_the_journal_costs_its_oldest_part() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let Some(disk) = Mounted::small(&dir.path().join("small")) else {
        eprintln!("skipped: mounting a tmpfs was refused; it runs as root with CAP_SYS_ADMIN");
        return;
    };
    let at = disk.0.display();
    let journal = format!("[journal]\ndir = \"{at}/journal\"\nreserve_percent = 0\nreserve_bytes = 0\n");
    let collector = Collector::with(|_| journal.clone());
    let (mut peer, _) = Peer::greet(&collector, 1).await;
    peer.open(open(0, "c", 1)).await;
    let text = noise(12 << 20);
    for (i, piece) in text.chunks(32 << 10).enumerate() {
        peer.send(data(1, (i as u64) << 15, piece)).await;
    }
    let end = text.len() as u64;
    peer.send(close(1, end)).await;
    peer.acked(1, end).await;
    assert_eq!(collector.metric("shimtap_journal_stalled"), 0);
    assert!(collector.metric("shimtap_journal_dropped_bytes_total{reason=\"disk_reserve\"}") > 4 << 20);
    let last = collector.logs(&["--tail", "1", "-o", "json"]);
    let last: serde_json::Value = serde_json::from_str(&last).expect("JSON");
    assert_eq!(last["offset"]["to"], end);
    drop(collector);
}
