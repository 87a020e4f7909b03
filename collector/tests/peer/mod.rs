//! The other end, for tests: the real binary as a child process, and a scripted wrapper on upstream's ttrpc client.
//!
//! No pauses: what is waited for is a condition or a message, with a patience.

#![allow(
    dead_code,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "each test file uses its part, and this is no test function to clippy"
)]

use std::{
    fs,
    io::{Read, Write},
    net::TcpStream,
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use protobuf::{EnumOrUnknown, MessageField};
use shimtap_proto::link::{self, from_collector::Body as Down, from_wrapper::Body as Up};
use ttrpc::r#async::{Client, ClientStream};

/// Longest wait for anything in a test.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// A running collector.
pub struct Collector {
    pub dir: tempfile::TempDir,
    child: Child,
    port: u16,
}

/// A connection of a wrapper.
pub struct Peer {
    stream: ClientStream<link::FromWrapper, link::FromCollector>,
    /// Kept: the connection ends with it.
    _client: Client,
}

/// Waits until `check` gives something.
pub fn wait<T>(what: &str, mut check: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = check() {
            return found;
        }
        assert!(Instant::now() < deadline, "not within {PATIENCE:?}: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

impl Collector {
    /// Starts one with a file sink.
    pub fn start() -> Self {
        Self::with(|dir| format!("[file]\npath = \"{}/log.json\"\n", dir.display()))
    }

    /// Starts one with more configuration.
    pub fn with(more: impl Fn(&Path) -> String) -> Self {
        let dir = tempfile::tempdir().expect("temporary directory");
        Self::start_in(dir, more)
    }

    /// Starts one in a directory that an earlier one left.
    pub fn start_in(dir: tempfile::TempDir, more: impl Fn(&Path) -> String) -> Self {
        Self::launch(dir, more, Stdio::inherit())
    }

    /// Starts one with these variables besides those of the test's environment.
    pub fn in_environment(more: impl Fn(&Path) -> String, variables: &[(&str, String)]) -> Self {
        let dir = tempfile::tempdir().expect("temporary directory");
        Self::run(dir, more, Stdio::inherit(), variables)
    }

    /// Starts one in a directory, with a standard output of its own.
    pub fn launch(dir: tempfile::TempDir, more: impl Fn(&Path) -> String, stdout: Stdio) -> Self {
        Self::run(dir, more, stdout, &[])
    }

    fn run(
        dir: tempfile::TempDir,
        more: impl Fn(&Path) -> String,
        stdout: Stdio,
        variables: &[(&str, String)],
    ) -> Self {
        // A port that was free a moment ago; nothing else on a test machine takes ports at random.
        let probe = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
        let port = probe.local_addr().expect("bound").port();
        drop(probe);
        let at = dir.path();
        let ingest_is_there = more(at).contains("[ingest]");
        let mut config = format!(
            "[metrics]\nlisten = \"127.0.0.1:{port}\"\npage_age_ms = 0\n[control]\nsocket = \"{}/control.sock\"\n",
            at.display()
        );
        let socket = format!("socket = \"{}/in/collector.sock\"\n", at.display());
        if !more(at).contains("[journal]") {
            let journal = format!("[journal]\ndir = \"{}/journal\"\n", at.display());
            // However full the disk of the machine is.
            config.push_str(&format!("{journal}reserve_percent = 0\nreserve_bytes = 0\n"));
        }
        if ingest_is_there {
            config.push_str(&more(at).replace("[ingest]\n", &format!("[ingest]\n{socket}")));
        } else {
            config.push_str(&format!("[ingest]\n{socket}{}", more(at)));
        }
        fs::write(at.join("collector.toml"), config).expect("configuration");
        let child = Command::new(env!("CARGO_BIN_EXE_shimtap"))
            .args(["collector", "--config"])
            .arg(at.join("collector.toml"))
            .envs(variables.iter().map(|(name, value)| (name, value)))
            .stderr(fs::OpenOptions::new().create(true).append(true).open(at.join("stderr")).expect("stderr"))
            .stdin(Stdio::null())
            .stdout(stdout)
            .spawn()
            .expect("the collector starts");
        let mut collector = Self { dir, child, port };
        wait("the collector is ready", || {
            if let Some(status) = collector.child.try_wait().expect("child") {
                panic!("the collector ended with {status}: {}", collector.stderr());
            }
            (collector.try_get("/readyz")?.0 == 200).then_some(())
        });
        collector
    }

    pub fn socket(&self) -> PathBuf {
        self.dir.path().join("in/collector.sock")
    }

    pub fn control(&self) -> PathBuf {
        self.dir.path().join("control.sock")
    }

    pub fn log(&self) -> PathBuf {
        self.dir.path().join("log.json")
    }

    pub fn stderr(&self) -> String {
        fs::read_to_string(self.dir.path().join("stderr")).unwrap_or_default()
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Status, headers and body.
    pub fn try_get_with(&self, path: &str, header: &str) -> Option<(u16, String, Vec<u8>)> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).ok()?;
        stream.set_read_timeout(Some(PATIENCE)).ok()?;
        write!(stream, "GET {path} HTTP/1.0\r\nHost: x\r\n{header}\r\n").ok()?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).ok()?;
        let split = answer.windows(4).position(|four| four == b"\r\n\r\n")?;
        let head = String::from_utf8_lossy(&answer[..split]).into_owned();
        let status = head.split(' ').nth(1)?.parse().ok()?;
        Some((status, head.to_lowercase(), answer[split + 4..].to_vec()))
    }

    pub fn try_get(&self, path: &str) -> Option<(u16, String)> {
        let (status, _, body) = self.try_get_with(path, "")?;
        Some((status, String::from_utf8_lossy(&body).into_owned()))
    }

    /// A page that must be there.
    pub fn get(&self, path: &str) -> String {
        let answer = self.try_get(path);
        let (status, body) = answer.unwrap_or_else(|| panic!("{path}: no answer; stderr: {}", self.stderr()));
        assert_eq!(status, 200, "{path}: {body}");
        body
    }

    /// The value of a series of `/metrics`, 0 where it is not there.
    pub fn metric(&self, series: &str) -> u64 {
        let page = self.get("/metrics");
        let line = page.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
        line.map_or(0, |value| value.parse().expect("a whole number"))
    }

    /// Waits until a series reaches a value.
    pub fn wait_metric(&self, series: &str, least: u64) {
        wait(&format!("{series} >= {least}; stderr: {}", self.stderr()), || {
            (self.metric(series) >= least).then_some(())
        });
    }

    /// Every record in the file, in order.
    pub fn records(&self) -> Vec<serde_json::Value> {
        let text = fs::read_to_string(self.log()).unwrap_or_default();
        // The last line may be on its way.
        let whole = text.rfind('\n').map_or("", |end| &text[..end]);
        whole.lines().map(|line| serde_json::from_str(line).expect("each line is JSON")).collect()
    }

    /// Every record in the file, in order, once there are `count`: the file gets them after the acknowledgement.
    pub fn records_when(&self, count: usize) -> Vec<serde_json::Value> {
        let what = format!("{count} records; stderr: {}", self.stderr());
        wait(&what, || Some(self.records()).filter(|records| records.len() >= count))
    }

    /// What `shimtap logs` prints.
    pub fn logs(&self, args: &[&str]) -> String {
        let said = self.logs_command(args).output().expect("it runs");
        assert!(said.status.success(), "{}", String::from_utf8_lossy(&said.stderr));
        String::from_utf8(said.stdout).expect("text")
    }

    /// `shimtap logs` of this collector.
    pub fn logs_command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_shimtap"));
        command.arg("logs").args(args).arg("--socket").arg(self.control());
        command
    }

    /// Sends a signal.
    pub fn signal(&self, signal: &str) {
        let pid = self.child.id().to_string();
        let sent = Command::new("kill").args([signal, &pid]).status().expect("kill runs");
        assert!(sent.success());
    }

    /// Ends it with SIGTERM; gives its exit status and what it left.
    pub fn stop(mut self) -> (Option<i32>, tempfile::TempDir) {
        self.signal("-TERM");
        let status = wait("the collector ends", || self.child.try_wait().expect("child"));
        (status.code(), std::mem::replace(&mut self.dir, tempfile::tempdir().expect("temporary directory")))
    }

    /// Ends it with SIGKILL.
    pub fn kill(mut self) -> tempfile::TempDir {
        self.child.kill().expect("child");
        self.child.wait().expect("child");
        std::mem::replace(&mut self.dir, tempfile::tempdir().expect("temporary directory"))
    }

    /// A raw connection to the wrappers' socket.
    pub fn raw(&self) -> UnixStream {
        let stream = UnixStream::connect(self.socket()).expect("the socket is there");
        stream.set_read_timeout(Some(PATIENCE)).expect("socket");
        stream
    }
}

impl Drop for Collector {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub fn hello(wrapper: u64) -> link::Hello {
    link::Hello {
        protocol: 1,
        version: "0.1.0".into(),
        wrapper,
        namespace: "default".into(),
        id: "c1".into(),
        generation: 1,
        worker_pid: 11,
        keeper_pid: 10,
        inner: MessageField::some(link::InnerShim {
            binary: "/usr/bin/containerd-shim-runc-v2".into(),
            task_api: 3,
            ..Default::default()
        }),
        ..Default::default()
    }
}

/// A container with stdout as handle `2 * task + 1` and stderr as the next.
pub fn open(task: u32, container: &str, incarnation: u64) -> link::Open {
    let stdio =
        |stream, handle| link::Stdio { stream: EnumOrUnknown::new(stream), handle, ..Default::default() };
    link::Open {
        task,
        namespace: "default".into(),
        container: container.into(),
        incarnation,
        cgroups_path: format!("/default/{container}"),
        created_ns: 1_000,
        started_ns: 2_000_000_000,
        pid: 77,
        stdio: vec![
            stdio(link::Stream::STREAM_STDOUT, 2 * task + 1),
            stdio(link::Stream::STREAM_STDERR, 2 * task + 2),
        ],
        ..Default::default()
    }
}

pub fn data(handle: u32, offset: u64, bytes: &[u8]) -> Up {
    Up::Data(link::Data {
        handle,
        offset,
        bytes: bytes.to_vec(),
        time_offset: vec![offset],
        time_ns: vec![1_700_000_000_000_000_000 + (offset & 0xffff_ffff)],
        ..Default::default()
    })
}

pub fn gap(handle: u32, from: u64, to: u64) -> Up {
    let reason = EnumOrUnknown::new(link::GapReason::GAP_REASON_OVERFLOW);
    Up::Gap(link::Gap { handle, from, to, reason, ..Default::default() })
}

pub fn close(handle: u32, end: u64) -> Up {
    Up::Close(link::Close { handle, end, exact: true, ..Default::default() })
}

impl Peer {
    /// Connects and opens the stream, and says nothing.
    pub async fn connect(collector: &Collector) -> Self {
        let address = format!("unix://{}", collector.socket().display());
        let client = Client::connect(&address).await.expect("the socket is there");
        let request = ttrpc::proto::Request {
            service: link::SERVICE.into(),
            method: link::METHOD.into(),
            ..Default::default()
        };
        let inner = client.new_stream(request, true, true).await.expect("a stream");
        Self { stream: ClientStream::new(inner), _client: client }
    }

    /// Connects and shakes hands; gives the welcome.
    pub async fn greet(collector: &Collector, wrapper: u64) -> (Self, link::Welcome) {
        let mut peer = Self::connect(collector).await;
        peer.send(Up::Hello(hello(wrapper))).await;
        match peer.recv().await {
            Some(Down::Welcome(welcome)) => (peer, welcome),
            other => panic!("no welcome but {other:?}; {}", collector.stderr()),
        }
    }

    pub async fn send(&self, body: Up) {
        self.try_send(body).await.expect("the collector takes messages");
    }

    pub async fn try_send(&self, body: Up) -> ttrpc::Result<()> {
        self.stream.send(&link::FromWrapper { body: Some(body), ..Default::default() }).await
    }

    /// The next message; `None` when the connection was closed. Settings may come at any time: how many peers there are
    /// changes them.
    pub async fn recv(&mut self) -> Option<Down> {
        loop {
            let received = tokio::time::timeout(PATIENCE, self.stream.recv()).await;
            match received.expect("a message within the patience").ok()?.body {
                Some(Down::Settings(_)) => {}
                other => return other,
            }
        }
    }

    /// The next word on what this wrapper may keep in spool files.
    pub async fn spool_share(&mut self) -> u64 {
        loop {
            let received = tokio::time::timeout(PATIENCE, self.stream.recv()).await;
            let message = received.expect("a share within the patience").expect("the connection is there");
            match message.body {
                Some(Down::Settings(settings)) if settings.spool_bytes != 0 => return settings.spool_bytes,
                _ => {}
            }
        }
    }

    /// Announces a container; gives the positions by handle.
    pub async fn open(&mut self, open: link::Open) -> Vec<(u32, u64)> {
        let task = open.task;
        self.send(Up::Open(open)).await;
        loop {
            match self.recv().await {
                Some(Down::Ready(ready)) => {
                    assert_eq!(ready.task, task);
                    return ready.streams.iter().map(|s| (s.handle, s.next.expect("a position"))).collect();
                }
                Some(Down::Ack(_)) => {}
                other => panic!("no ready but {other:?}"),
            }
        }
    }

    /// Reads acknowledgements until the stream's reaches `offset`.
    pub async fn acked(&mut self, handle: u32, offset: u64) {
        loop {
            match self.recv().await {
                Some(Down::Ack(ack)) => {
                    if ack.streams.iter().any(|s| s.handle == handle && s.offset >= offset) {
                        return;
                    }
                }
                other => panic!("no ack of {offset} but {other:?}"),
            }
        }
    }

    /// How far the stream is acknowledged by what has come and was not read yet; `None` = nothing of it was.
    pub async fn acked_by_now(&mut self, handle: u32) -> Option<u64> {
        let mut reached = None;
        // Without patience: what is there, is there.
        while let Ok(received) = tokio::time::timeout(Duration::ZERO, self.stream.recv()).await {
            if let Some(Down::Ack(ack)) = received.expect("the connection is there").body {
                let of_it = ack.streams.iter().filter(|stream| stream.handle == handle);
                reached =
                    of_it.map(|stream| stream.offset).fold(reached, |most, offset| most.max(Some(offset)));
            }
        }
        reached
    }

    /// Reads acknowledgements until each stream's reaches its offset.
    pub async fn acked_all(&mut self, wanted: &[(u32, u64)]) {
        let mut wanted = wanted.to_vec();
        while !wanted.is_empty() {
            match self.recv().await {
                Some(Down::Ack(ack)) => {
                    let reached = |handle: u32, offset: u64| {
                        ack.streams.iter().any(|s| s.handle == handle && s.offset >= offset)
                    };
                    wanted.retain(|(handle, offset)| !reached(*handle, *offset));
                }
                other => panic!("no ack of {wanted:?} but {other:?}"),
            }
        }
    }

    /// Reads until the collector closes the connection.
    pub async fn closed(&mut self) {
        while self.recv().await.is_some() {}
    }
}
