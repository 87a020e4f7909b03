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
use nix::sys::socket::{MsgFlags, recv};
use protobuf::{EnumOrUnknown, Message, MessageField};
use shimtap_proto::link::{self, FromCollector, FromWrapper, from_collector, from_wrapper};
use shimtap_proto::ttrpc::wire::{put_len, put_number};
use shimtap_tests::standin::client::frame::{Frame, HEADER, header, kind, parse_header};

use crate::spread::float64;

const STREAM: u32 = 1;
const HANDLE: u32 = 1;
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
    /// Attaches, and announces container `number`.
    pub fn attach(socket: &Path, number: u32) -> Result<Feed> {
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
        feed.say(from_wrapper::Body::Open(open(number)))?;
        ensure!(matches!(feed.answer()?, from_collector::Body::Ready(_)), "not ready");
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

/// As CRI announces one: the members that every record of it carries count as much as its lines do.
fn open(number: u32) -> link::Open {
    let annotations = [
        ("io.kubernetes.cri.container-type", "container".to_owned()),
        ("io.kubernetes.cri.container-name", "server".to_owned()),
        ("io.kubernetes.cri.image-name", "registry.example/team/server:1.2.3".to_owned()),
        ("io.kubernetes.cri.sandbox-id", id(number + 1000)),
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
        created_ns: 1,
        started_ns: 2,
        pid: 77,
        ..link::Open::default()
    }
}

/// As long as containerd's.
fn id(number: u32) -> String {
    format!("{number:064x}")
}
