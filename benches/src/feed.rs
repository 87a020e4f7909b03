//! A wrapper's end of the link without a wrapper: what a collector costs is asked with a peer that costs little.
//!
//! It keeps to docs/protocol.md (window, order, offsets) and counts what a wrapper would feel: how often the window
//! was full when it had something to send, and how often it was woken for an acknowledgement. It must never send
//! ahead of its window, or the figures are of a wrapper that cannot exist.

use std::io::{Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use containerd_shim_protos::cgroups::metrics as v1;
use nix::sys::socket::{MsgFlags, recv};
use protobuf::{EnumOrUnknown, Message, MessageField};
use shimtap_proto::link::{self, FromCollector, FromWrapper, from_collector, from_wrapper};
use shimtap_proto::ttrpc::wire::{put_len, put_number};
use shimtap_tests::standin::client::frame::{Frame, HEADER, header, kind, parse_header};

use crate::spread::float64;

const STREAM: u32 = 1;
const HANDLE: u32 = 1;
/// From a container's number to its sandbox's.
const SANDBOX: u32 = 1000;
/// A collector that says nothing for this long does not live.
const LIMIT: Duration = Duration::from_secs(30);
/// `FromWrapper.data`.
const DATA_FIELD: u32 = 3;

/// One wrapper with one container that writes to stdout.
#[derive(Debug)]
pub struct Feed {
    socket: UnixStream,
    inbox: Vec<u8>,
    frame: Vec<u8>,
    body: Vec<u8>,
    sent: u64,
    acked: u64,
    messages: u64,
    acks: u64,
    stalls: u64,
}

/// The processes that a container claims to be on this host.
#[derive(Debug, Clone, Copy)]
pub struct Pids {
    /// The container's first.
    pub container: u32,
    /// That of its pod's sandbox, which is announced as well and has a network of its own; without one there is no sandbox.
    pub sandbox: Option<u32>,
}

/// What feeds have sent and felt.
#[derive(Debug, Clone, Copy, Default)]
pub struct Felt {
    /// Data messages.
    pub messages: u64,
    /// Acknowledgements: times that a wrapper was woken.
    pub acks: u64,
    /// Messages that had to wait for the window.
    pub stalls: u64,
    /// Bytes of output.
    pub bytes: u64,
}

// === impl Felt ===

impl Felt {
    /// Of all of these feeds.
    pub fn of(feeds: &[Feed]) -> Felt {
        feeds.iter().fold(Felt::default(), |sum, feed| Felt {
            messages: sum.messages + feed.messages,
            acks: sum.acks + feed.acks,
            stalls: sum.stalls + feed.stalls,
            bytes: sum.bytes + feed.sent,
        })
    }

    /// What came after `before`.
    pub fn since(self, before: Felt) -> Felt {
        Felt {
            messages: self.messages - before.messages,
            acks: self.acks - before.acks,
            stalls: self.stalls - before.stalls,
            bytes: self.bytes - before.bytes,
        }
    }

    /// Acknowledgements per message.
    pub fn acks_per_message(&self) -> f64 {
        float64(self.acks) / float64(self.messages)
    }

    /// Of the messages, which share had to wait.
    pub fn stalled(&self) -> f64 {
        float64(self.stalls) / float64(self.messages)
    }
}

// === impl Feed ===

impl Feed {
    /// Attaches, and announces container `number`, of which this host knows nothing.
    pub fn attach(socket: &Path, number: u32) -> Result<Feed> {
        Feed::attach_as(socket, number, Pids { container: 77, sandbox: None })
    }

    /// The same with processes on this host.
    pub fn attach_as(socket: &Path, number: u32, pids: Pids) -> Result<Feed> {
        let socket =
            UnixStream::connect(socket).with_context(|| format!("connect to {}", socket.display()))?;
        socket.set_read_timeout(Some(LIMIT)).context("limit reads")?;
        socket.set_write_timeout(Some(LIMIT)).context("limit writes")?;
        let (inbox, frame, body) = (Vec::new(), Vec::new(), Vec::new());
        let mut feed =
            Feed { socket, inbox, frame, body, sent: 0, acked: 0, messages: 0, acks: 0, stalls: 0 };
        let request = Frame::request(STREAM, link::SERVICE, link::METHOD, Vec::new())?.bytes();
        feed.socket.write_all(&request).context("open the stream")?;
        feed.say(from_wrapper::Body::Hello(hello(number)))?;
        ensure!(matches!(feed.answer()?, from_collector::Body::Welcome(_)), "no welcome");
        for open in
            pids.sandbox.map(|pid| sandbox(number, pid)).into_iter().chain([open(number, pids.container)])
        {
            feed.say(from_wrapper::Body::Open(open))?;
            ensure!(matches!(feed.answer()?, from_collector::Body::Ready(_)), "not ready");
        }
        Ok(feed)
    }

    /// Sends whole lines, as soon as the window has room for them.
    pub fn send(&mut self, lines: &[u8], now_ns: u64) -> Result<()> {
        let length = u64::try_from(lines.len()).context("a length")?;
        self.hear()?;
        if self.sent + length > self.acked + link::WINDOW {
            self.stalls += 1;
            while self.sent + length > self.acked + link::WINDOW {
                self.listen()?;
            }
        }
        self.body.clear();
        put_number(&mut self.body, 1, u64::from(HANDLE));
        put_number(&mut self.body, 2, self.sent);
        put_len(&mut self.body, 3, lines);
        put_number(&mut self.body, 4, self.sent);
        put_len(&mut self.body, 5, &now_ns.to_le_bytes());
        self.frame.clear();
        put_len(&mut self.frame, DATA_FIELD, &self.body);
        let size = u32::try_from(self.frame.len()).context("a message's size")?;
        self.socket.write_all(&header(size, STREAM, kind::DATA, 0)).context("send a header")?;
        self.socket.write_all(&self.frame).context("send a message")?;
        self.sent += length;
        self.messages += 1;
        Ok(())
    }

    /// Sends a Stats answer of the first version, as runc's shim gives one, of a container that has worked `much`.
    pub fn sample(&mut self, much: u64, now_ns: u64) -> Result<()> {
        let value = stats(much).write_to_bytes().context("encode statistics")?;
        self.say(from_wrapper::Body::Stats(link::Stats {
            time_ns: now_ns,
            type_url: "io.containerd.cgroups.v1.Metrics".to_owned(),
            value,
            source: EnumOrUnknown::new(link::StatsSource::STATS_SOURCE_SNOOPED),
            ..link::Stats::default()
        }))
    }

    /// Sends what the wrapper counts of itself.
    pub fn report(&mut self, report: link::Report) -> Result<()> {
        self.say(from_wrapper::Body::Report(report))
    }

    /// Waits until everything is acknowledged.
    pub fn settle(&mut self) -> Result<()> {
        while self.acked < self.sent {
            self.listen()?;
        }
        Ok(())
    }

    /// Says that the container's output has ended: the rest is acknowledged as soon as it is durable.
    pub fn close(&mut self) -> Result<()> {
        self.say(from_wrapper::Body::Close(link::Close {
            handle: HANDLE,
            end: self.sent,
            exact: true,
            ..link::Close::default()
        }))
    }

    /// Takes the acknowledgements that are there.
    pub fn hear(&mut self) -> Result<()> {
        let mut bytes = [0; 4096];
        loop {
            match recv(self.socket.as_raw_fd(), &mut bytes, MsgFlags::MSG_DONTWAIT) {
                Ok(0) => anyhow::bail!("the collector closed the connection"),
                Ok(count) => self.inbox.extend(bytes.iter().take(count)),
                Err(nix::errno::Errno::EAGAIN) => break,
                Err(errno) => return Err(errno).context("read acknowledgements"),
            }
        }
        self.take_acks()
    }

    /// Waits for bytes, and takes the acknowledgements in them.
    fn listen(&mut self) -> Result<()> {
        let mut bytes = [0; 4096];
        let count = self.socket.read(&mut bytes).context("wait for an acknowledgement")?;
        ensure!(count > 0, "the collector closed the connection");
        self.inbox.extend(bytes.iter().take(count));
        self.take_acks()
    }

    fn take_acks(&mut self) -> Result<()> {
        while let Some(message) = self.whole()? {
            let Some(from_collector::Body::Ack(ack)) = message.body else { continue };
            self.acks += 1;
            for stream in &ack.streams {
                self.acked = self.acked.max(stream.offset);
            }
        }
        Ok(())
    }

    /// Takes a message off the inbox, where one is whole.
    fn whole(&mut self) -> Result<Option<FromCollector>> {
        let Some(head) = self.inbox.first_chunk::<HEADER>() else { return Ok(None) };
        let (length, ..) = parse_header(*head);
        let end = HEADER + usize::try_from(length).context("a length")?;
        let Some(body) = self.inbox.get(HEADER..end) else { return Ok(None) };
        let message = FromCollector::parse_from_bytes(body).context("decode an answer")?;
        self.inbox.drain(..end);
        Ok(Some(message))
    }

    fn say(&mut self, body: from_wrapper::Body) -> Result<()> {
        let message = FromWrapper { body: Some(body), ..FromWrapper::default() };
        let bytes = message.write_to_bytes().context("encode a message")?;
        self.socket.write_all(&Frame::data(STREAM, 0, bytes).bytes()).context("send a message")
    }

    fn answer(&mut self) -> Result<from_collector::Body> {
        loop {
            if let Some(message) = self.whole()? {
                match message.body.context("an answer without a body")? {
                    // How many feeds there are changes them.
                    from_collector::Body::Settings(_) => continue,
                    body => return Ok(body),
                }
            }
            let mut bytes = [0; 4096];
            let count = self.socket.read(&mut bytes).context("wait for an answer")?;
            ensure!(count > 0, "the collector closed the connection");
            self.inbox.extend(bytes.iter().take(count));
        }
    }
}

fn hello(number: u32) -> link::Hello {
    let inner =
        link::InnerShim { binary: "/usr/bin/containerd-shim-runc-v2".to_owned(), ..Default::default() };
    link::Hello {
        protocol: link::PROTOCOL,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        wrapper: u64::from(number) + 1,
        namespace: "k8s.io".to_owned(),
        id: id(number),
        generation: 1,
        inner: MessageField::some(inner),
        ..link::Hello::default()
    }
}

/// As CRI announces a pod's pause container: no output, and where its network is.
fn sandbox(number: u32, pid: u32) -> link::Open {
    let mut open = open(number, pid);
    open.task = 1;
    open.container = id(number + SANDBOX);
    open.annotations.insert("io.kubernetes.cri.container-type".to_owned(), "sandbox".to_owned());
    open.annotations.remove("io.kubernetes.cri.container-name");
    open.annotations.remove("io.kubernetes.cri.image-name");
    open.stdio.clear();
    open.cgroups_path = cgroups_path(number, &open.container);
    open.network_namespace = format!("/var/run/netns/cni-{number}");
    open
}

fn cgroups_path(number: u32, id: &str) -> String {
    format!("{}:cri-containerd:{id}", slice(number))
}

fn slice(number: u32) -> String {
    format!("kubepods-burstable-pod5d1f2c3a_0b1c_4d2e_8f3a_{number:012}.slice")
}

/// The cgroup of container `number`, below the root of a hierarchy, as systemd nests it.
pub fn cgroup(number: u32) -> String {
    let (pod, id) = (slice(number), id(number));
    format!("kubepods.slice/kubepods-burstable.slice/{pod}/cri-containerd-{id}.scope")
}

/// As CRI announces one: the members that every record of it carries count as much as its lines do.
fn open(number: u32, pid: u32) -> link::Open {
    let annotations = [
        ("io.kubernetes.cri.container-type", "container".to_owned()),
        ("io.kubernetes.cri.container-name", "server".to_owned()),
        ("io.kubernetes.cri.image-name", "registry.example/team/server:1.2.3".to_owned()),
        ("io.kubernetes.cri.sandbox-id", id(number + SANDBOX)),
        ("io.kubernetes.cri.sandbox-name", format!("server-7c5ddbdf54-{number:05}")),
        ("io.kubernetes.cri.sandbox-namespace", "production".to_owned()),
        ("io.kubernetes.cri.sandbox-uid", format!("5d1f2c3a-0b1c-4d2e-8f3a-{number:012}")),
    ];
    let stdout = link::Stdio {
        stream: EnumOrUnknown::new(link::Stream::STREAM_STDOUT),
        handle: HANDLE,
        ..link::Stdio::default()
    };
    link::Open {
        namespace: "k8s.io".to_owned(),
        container: id(number),
        incarnation: u64::from(number) + 77,
        annotations: annotations.into_iter().map(|(key, value)| (key.to_owned(), value)).collect(),
        stdio: vec![stdout],
        cgroups_path: cgroups_path(number, &id(number)),
        cpu_quota_us: Some(50_000),
        cpu_period_us: Some(100_000),
        cpu_shares: Some(512),
        memory_limit_bytes: Some(1 << 30),
        created_ns: 1,
        started_ns: 2,
        pid,
        ..link::Open::default()
    }
}

/// Everything that is shown, with two block devices.
fn stats(much: u64) -> v1::Metrics {
    let n = |base: u64| base + much * 7_919;
    let usage = v1::CPUUsage {
        total: n(1_234_567_890_123),
        user: n(834_567_890_123),
        kernel: n(400_000_000_000),
        ..Default::default()
    };
    let throttling = v1::Throttle {
        periods: n(90_000),
        throttled_periods: n(700),
        throttled_time: n(5_123_456_789),
        ..Default::default()
    };
    let cpu = v1::CPUStat {
        usage: MessageField::some(usage),
        throttling: MessageField::some(throttling),
        ..Default::default()
    };
    let entry =
        |usage, max| v1::MemoryEntry { limit: 1 << 30, usage, max, failcnt: much, ..Default::default() };
    let memory = v1::MemoryStat {
        total_cache: n(40_960_000),
        total_rss: n(204_800_000),
        total_mapped_file: n(8_192_000),
        total_inactive_file: n(12_288_000),
        total_pg_fault: n(1_000_000),
        total_pg_maj_fault: n(100),
        pg_fault: n(900_000),
        pg_maj_fault: n(90),
        total_pg_pg_in: n(800_000),
        usage: MessageField::some(entry(n(250_000_000), n(300_000_000))),
        swap: MessageField::some(entry(n(250_001_000), n(300_001_000))),
        ..Default::default()
    };
    let io = |op: &str, minor, value| v1::BlkIOEntry {
        op: op.to_owned(),
        major: 259,
        minor,
        value,
        ..Default::default()
    };
    let both =
        |value| (0..2).flat_map(move |minor| [io("Read", minor, value), io("Write", minor, value * 2)]);
    v1::Metrics {
        cpu: MessageField::some(cpu),
        memory: MessageField::some(memory),
        pids: MessageField::some(v1::PidsStat { current: 20 + much, limit: 4_096, ..Default::default() }),
        memory_oom_control: MessageField::some(v1::MemoryOomControl::default()),
        blkio: MessageField::some(v1::BlkIOStat {
            io_service_bytes_recursive: both(n(73_400_320)).collect(),
            io_serviced_recursive: both(n(4_480)).collect(),
            ..Default::default()
        }),
        ..Default::default()
    }
}

/// As long as containerd's.
fn id(number: u32) -> String {
    format!("{number:064x}")
}
