//! A client of containerd's streaming server: what `kubectl attach` and `kubectl exec -it` do, by websocket.
//!
//! The protocol is `v4.channel.k8s.io`: the first byte of a message is its channel (0 stdin, 1 stdout, 2 stderr, 3 status,
//! 4 size of the terminal).

use std::{
    net::TcpStream,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use tungstenite::{
    Message, WebSocket,
    client::IntoClientRequest,
    http::{HeaderValue, header::SEC_WEBSOCKET_PROTOCOL},
};

const LIMIT: Duration = Duration::from_secs(60);
const PROTOCOL: &str = "v4.channel.k8s.io";

/// A client of the streaming server, and what came so far.
#[derive(Debug)]
pub struct Remote {
    socket: WebSocket<TcpStream>,
    /// What came on stdout; with a terminal everything.
    pub stdout: Vec<u8>,
    /// What came on stderr.
    pub stderr: Vec<u8>,
    /// What the server says of the end, as JSON; empty where it says nothing.
    status: String,
    ended: bool,
}

impl Remote {
    /// Comes for the streams at `url`.
    pub fn open(url: &str) -> Result<Self> {
        let url = url.replacen("http://", "ws://", 1);
        let mut request = url.as_str().into_client_request().with_context(|| url.clone())?;
        request.headers_mut().insert(SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(PROTOCOL));
        let host = request.uri().authority().context("an address without a host")?.to_string();
        let stream = TcpStream::connect(&host).with_context(|| format!("connect to {host}"))?;
        stream.set_read_timeout(Some(LIMIT)).context("set a limit")?;
        let (socket, answer) = tungstenite::client(request, stream)
            .map_err(|error| anyhow::anyhow!("the streaming server does not speak websocket: {error}"))?;
        let spoken = answer.headers().get(SEC_WEBSOCKET_PROTOCOL).map(HeaderValue::as_bytes);
        ensure!(spoken == Some(PROTOCOL.as_bytes()), "it speaks {spoken:?}");
        Ok(Self { socket, stdout: Vec::new(), stderr: Vec::new(), status: String::new(), ended: false })
    }

    /// Sends to stdin.
    pub fn say(&mut self, bytes: &[u8]) -> Result<()> {
        let message = [&[0], bytes].concat();
        self.socket.send(Message::binary(message)).context("send to stdin")
    }

    /// Tells the size of the terminal.
    pub fn resize(&mut self, width: u16, height: u16) -> Result<()> {
        let size = format!("\u{4}{{\"Width\":{width},\"Height\":{height}}}");
        self.socket.send(Message::binary(size.into_bytes())).context("send a size")
    }

    /// Takes one message; false after the last one.
    fn hear(&mut self) -> Result<bool> {
        let message = match self.socket.read() {
            Ok(message) => message,
            // Some releases end without a goodbye.
            Err(tungstenite::Error::ConnectionClosed | tungstenite::Error::AlreadyClosed) => {
                return Ok(false);
            }
            Err(tungstenite::Error::Protocol(_)) => return Ok(false),
            Err(error) => return Err(error).context("read from the streaming server"),
        };
        let bytes = match message {
            Message::Binary(bytes) => bytes,
            Message::Text(text) => text.into(),
            Message::Close(_) | Message::Ping(_) | Message::Pong(_) | Message::Frame(_) => return Ok(true),
        };
        match bytes.split_first() {
            Some((1, rest)) => self.stdout.extend_from_slice(rest),
            Some((2, rest)) => self.stderr.extend_from_slice(rest),
            Some((3, rest)) => self.status.push_str(&String::from_utf8_lossy(rest)),
            None => {}
            Some((channel, _)) => bail!("a message on channel {channel}"),
        }
        Ok(true)
    }

    /// Listens until one of the two streams holds `wanted`.
    pub fn hear_until(&mut self, wanted: &str) -> Result<()> {
        let until = Instant::now() + LIMIT;
        let has = |stream: &[u8]| String::from_utf8_lossy(stream).contains(wanted);
        while !has(&self.stdout) && !has(&self.stderr) {
            let so_far = || {
                format!(
                    "{:?}, {:?}, status {:?}",
                    self.text(),
                    String::from_utf8_lossy(&self.stderr),
                    self.status
                )
            };
            ensure!(!self.ended && Instant::now() < until, "no {wanted:?} in {}", so_far());
            self.ended = !self.hear()?;
        }
        Ok(())
    }

    /// Listens to the end.
    pub fn hear_out(&mut self) -> Result<()> {
        while !self.ended {
            self.ended = !self.hear()?;
        }
        Ok(())
    }

    /// stdout as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }

    /// The exit status that the server reported, as its words.
    pub fn verdict(&self) -> Result<(String, Option<String>)> {
        let status: serde_json::Value =
            serde_json::from_str(&self.status).with_context(|| format!("status {:?}", self.status))?;
        let word = status.get("status").and_then(|s| s.as_str()).unwrap_or_default().to_owned();
        let code = status.pointer("/details/causes/0/message").and_then(|m| m.as_str()).map(str::to_owned);
        Ok((word, code))
    }
}
