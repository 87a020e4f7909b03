//! A disk under one head that takes nothing, and what wrappers left behind for both: files, and streams that nobody carries.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use protobuf::Message;
use shimtap_proto::{
    link::{FromWrapper, from_wrapper::Body as Up},
    spool::{Header, file_name, record},
};

use super::{
    super::noise, Collector, Mounted, Peer, TO_DISK, close, data, is_whole, journaled, lines, open, reaches,
    step, two_heads, wait,
};
use crate::peer::hello;

/// A collector whose journal has a head on a small disk that is full, with a little room on the way there.
struct Stalled {
    collector: Collector,
    spool: PathBuf,
    ballast: PathBuf,
    /// Its last lines wait for the disk.
    held: Peer,
    _disk: Mounted,
    _dir: tempfile::TempDir,
}

impl Stalled {
    async fn new() -> Option<Self> {
        let dir = tempfile::tempdir().expect("temporary directory");
        let Some(disk) = Mounted::small(&dir.path().join("small")) else {
            eprintln!("skipped: mounting a tmpfs was refused; it runs as root with CAP_SYS_ADMIN");
            return None;
        };
        let spool = dir.path().join("spool");
        fs::create_dir(&spool).expect("a folder");
        fs::set_permissions(&spool, fs::Permissions::from_mode(0o700)).expect("it is ours");
        let (on_disk, other) = (disk.0.join("journal"), dir.path().join("none"));
        let collector = Collector::with(|dir| {
            let heads = two_heads(dir, &on_disk, TO_DISK);
            let heads = heads.replace("[journal.disk]\n", "[journal.disk]\nqueue_bytes = 1048576\n");
            let (memory, disk) = (spool.display(), other.display());
            format!(
                "[ingest]\norphan_secs = 1\n[spool]\ndisk_dir = \"{disk}\"\nmemory_dir = \"{memory}\"\n{heads}"
            )
        });
        let (mut held, _) = Peer::greet(&collector, 1).await;
        held.open(open(0, "c", 1)).await;
        let ballast = disk.fill();
        held.send(data(1, 0, &lines(0, 1_000))).await;
        collector.wait_metric("shimtap_journal_stalled{store=\"disk\"}", 1);
        Some(Self { collector, spool, ballast, held, _disk: disk, _dir: dir })
    }

    /// What a wrapper has written to its file: `text` as all of a container's stdout, and its end.
    fn spooled(&self, wrapper: u64, container: &str, text: &[u8]) {
        let mut bodies = vec![Up::Hello(hello(wrapper)), Up::Open(open(0, container, wrapper))];
        let at = |piece: usize| u64::try_from(piece * (32 << 10)).expect("small");
        bodies.extend(text.chunks(32 << 10).enumerate().map(|(n, piece)| data(1, at(n), piece)));
        bodies.push(close(1, text.len() as u64));
        let header = Header { wrapper, number: 0, boot: [0; 16], created_ns: 1 };
        let mut bytes = header.encode().to_vec();
        for body in bodies {
            let message = FromWrapper { body: Some(body), ..FromWrapper::default() };
            bytes.extend(record(&message.write_to_bytes().expect("encodes")).expect("short enough"));
        }
        let making = self.spool.join("making");
        fs::write(&making, bytes).expect("writable");
        fs::set_permissions(&making, fs::Permissions::from_mode(0o600)).expect("it is ours");
        fs::rename(making, self.spool.join(file_name(wrapper, 0))).expect("in its place");
    }
}

fn whole_in_the_journal(collector: &Collector, container: &str, end: u64) {
    wait(container, || reaches(&journaled(collector), container, end).then_some(()));
    is_whole(&journaled(collector), container, end, false);
}

fn is_there(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok()
}

#[tokio::test(flavor = "multi_thread")]
async fn files_for_a_disk_that_is_full_keep_no_others_from_their_turn() {
    let Some(mut stalled) = Stalled::new().await else { return };
    let (much, little) = (noise(3 << 20), lines(0, 100));
    let end = little.len() as u64;
    // Two whose wrappers are there, and two whose wrappers are gone; of each the first is for the disk.
    let (awaited, _) = Peer::greet(&stalled.collector, 0x13).await;
    let (mut free, _) = Peer::greet(&stalled.collector, 0x14).await;
    for (wrapper, container, text) in
        [(0x11, "c", &much), (0x13, "c", &much), (0x14, "attached", &little), (0x12, "gone", &little)]
    {
        stalled.spooled(wrapper, container, text);
    }
    awaited.send(Up::Open(open(0, "c", 0x13))).await;
    assert_eq!(free.open(open(0, "attached", 0x14)).await, [(1, end), (2, 0)], "its file was taken before");
    whole_in_the_journal(&stalled.collector, "attached", end);
    whole_in_the_journal(&stalled.collector, "gone", end);
    let file = stalled.spool.join(file_name(0x12, 0));
    wait("a file whose bytes are kept to go", || (!is_there(&file)).then_some(()));
    let name = file_name(0x11, 0);
    let put_off = |line: &str| line.contains("put a spool file off") && line.contains(&name);
    wait("a line in the log", || stalled.collector.stderr().lines().any(put_off).then_some(()));
    for wrapper in [0x11, 0x13] {
        assert!(is_there(&stalled.spool.join(file_name(wrapper, 0))), "nothing of it is acknowledged");
    }
    fs::remove_file(&stalled.ballast).expect("it is ours");
    stalled.held.acked(1, 1_000 * step()).await;
    let file = stalled.spool.join(file_name(0x13, 0));
    wait("what had to wait", || (!is_there(&file)).then_some(()));
}

/// Two streams of each head, whose wrappers do not come back.
#[tokio::test(flavor = "multi_thread")]
async fn streams_that_nobody_carries_end_where_there_is_room() {
    let Some(stalled) = Stalled::new().await else { return };
    // Fills what room there is on the way to the disk, and is read no further then.
    let (filler, _) = Peer::greet(&stalled.collector, 2).await;
    tokio::spawn(async move {
        let _ = filler.try_send(Up::Open(open(0, "c", 2))).await;
        for (n, piece) in noise(3 << 20).chunks(32 << 10).enumerate() {
            let at = u64::try_from(n * (32 << 10)).expect("small");
            let _ = filler.try_send(data(1, at, piece)).await;
        }
    });
    stalled.collector.wait_metric("shimtap_journal_queue_bytes{store=\"disk\"}", 900_000);
    for wrapper in 3..7 {
        let container = if wrapper < 5 { "c".to_owned() } else { format!("lost-{wrapper}") };
        let (mut peer, _) = Peer::greet(&stalled.collector, wrapper).await;
        peer.open(open(0, &container, wrapper)).await;
        peer.send(data(1, 0, b"no end")).await;
    }
    for container in ["lost-5", "lost-6"] {
        wait("a stream to be given up", || {
            let records = journaled(&stalled.collector);
            let ended = |record: &&serde_json::Value| {
                record["container_id"] == container && record["message"] == "no end"
            };
            records.iter().find(ended).map(drop)
        });
    }
}
