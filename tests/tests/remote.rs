//! What `kubectl attach` and `kubectl exec -it` do: streams over containerd's streaming server, by websocket.
//!
//! The protocol is `v4.channel.k8s.io`: the first byte of a message is its channel (0 stdin, 1 stdout, 2 stderr, 3 status,
//! 4 size of the terminal). The same with and without the wrapper, and complete.

use std::{
    net::TcpStream,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use shimtap_tests::line::tape;
use shimtap_tests::on_each_containerd;
use shimtap_tests::oracle::cri_log;
use shimtap_tests::rig::cri::{Cri, Pod, Wanted};
use shimtap_tests::rig::{Hook, Version, eventually, same_with_and_without};
use tungstenite::{
    Message, WebSocket,
    client::IntoClientRequest,
    http::{HeaderValue, header::SEC_WEBSOCKET_PROTOCOL},
};

const LIMIT: Duration = Duration::from_secs(60);
const PROTOCOL: &str = "v4.channel.k8s.io";

on_each_containerd!(
    attach_with_stdin,
    attach_to_a_terminal,
    attach_again_after_hanging_up,
    exec_with_a_terminal,
    exec_with_much_output_and_a_status,
);

/// A client of the streaming server, and what came so far.
struct Remote {
    socket: WebSocket<TcpStream>,
    stdout: Vec<u8>,
    stderr: Vec<u8>,
    /// What the server says of the end, as JSON; empty where it says nothing.
    status: String,
    ended: bool,
}

impl Remote {
    fn open(url: &str) -> Result<Self> {
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
    fn say(&mut self, bytes: &[u8]) -> Result<()> {
        let message = [&[0], bytes].concat();
        self.socket.send(Message::binary(message)).context("send to stdin")
    }

    /// Tells the size of the terminal.
    fn resize(&mut self, width: u16, height: u16) -> Result<()> {
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
    fn hear_until(&mut self, wanted: &str) -> Result<()> {
        let until = Instant::now() + LIMIT;
        let has = |stream: &[u8]| String::from_utf8_lossy(stream).contains(wanted);
        while !has(&self.stdout) && !has(&self.stderr) {
            ensure!(!self.ended && Instant::now() < until, "no {wanted:?} in {}", self.text());
            self.ended = !self.hear()?;
        }
        Ok(())
    }

    /// Listens to the end.
    fn hear_out(&mut self) -> Result<()> {
        while !self.ended {
            self.ended = !self.hear()?;
        }
        Ok(())
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }

    /// The exit status that the server reported, as its words.
    fn verdict(&self) -> Result<(String, Option<String>)> {
        let status: serde_json::Value =
            serde_json::from_str(&self.status).with_context(|| format!("status {:?}", self.status))?;
        let word = status.get("status").and_then(|s| s.as_str()).unwrap_or_default().to_owned();
        let code = status.pointer("/details/causes/0/message").and_then(|m| m.as_str()).map(str::to_owned);
        Ok((word, code))
    }
}

/// A shell loop that answers each line, on both streams, until it is told to go. It is told once all has come: containerd
/// 1.6 may cut an attached client off at the exit, with and without us.
const ECHO: &str = "while read line; do [ \"$line\" = bye ] && exit 7; \
                    echo \"out $line\"; echo \"err $line\" >&2; done";

fn echo(cri: &Cri, pod: &Pod) -> Result<String> {
    let command = ["sh", "-c", ECHO];
    cri.run(pod, &Wanted { name: "c", command: &command, stdin: true, ..Wanted::default() })
}

fn attach_with_stdin(version: Version) -> Result<()> {
    let answer = same_with_and_without(version, Hook::Opt, |node| {
        let cri = node.cri()?;
        let pod = cri.run_pod("p")?;
        let id = echo(cri, &pod)?;
        let mut remote = Remote::open(&cri.attach_url(&id, false)?)?;
        remote.say(b"one\n")?;
        remote.hear_until("out one\n")?;
        remote.say(b"two\nend\n")?;
        remote.hear_until("out end\n")?;
        remote.hear_until("err end\n")?;
        remote.say(b"bye\n")?;
        remote.hear_out()?;
        let status = cri.await_exit(&id)?;
        let log = cri_log(&cri.log_path(&pod, "c"))?;
        ensure!(log.stdout == b"out one\nout two\nout end\n", "containerd's log has it all: {log:?}");
        ensure!(log.stderr == b"err one\nerr two\nerr end\n", "containerd's log has it all: {log:?}");
        cri.remove_pod(&pod)?;
        Ok((status.exit_code, remote.text(), String::from_utf8_lossy(&remote.stderr).into_owned()))
    })?;
    let said = |word: &str| format!("{word} one\n{word} two\n{word} end\n");
    assert_eq!(answer, (7, said("out"), said("err")));
    Ok(())
}

fn attach_to_a_terminal(version: Version) -> Result<()> {
    let answer = same_with_and_without(version, Hook::Opt, |node| {
        let cri = node.cri()?;
        let pod = cri.run_pod("p")?;
        // The size travels by itself: it may come after what was typed.
        let resized = "until [ \"$(stty size)\" = '17 91' ]; do :; done; stty size";
        let script = format!("stty -echo; echo ready; read x; {resized}; echo got $x; exit 3");
        let command = ["sh", "-c", &script];
        let wanted = Wanted { name: "c", command: &command, tty: true, stdin: true, ..Wanted::default() };
        let id = cri.create(&pod, &wanted)?;
        cri.start(&id)?;
        let log = cri.log_path(&pod, "c");
        eventually(LIMIT, "its first line", || Ok((!cri_log(&log)?.stdout.is_empty()).then_some(())))?;
        let mut remote = Remote::open(&cri.attach_url(&id, true)?)?;
        remote.resize(91, 17)?;
        remote.say(b"typed\n")?;
        remote.hear_out()?;
        let status = cri.await_exit(&id)?;
        let whole = String::from_utf8_lossy(&cri_log(&log)?.stdout).into_owned();
        cri.remove_pod(&pod)?;
        let said = ["17 91", "got typed"].map(|word| (remote.text().contains(word), whole.contains(word)));
        Ok((status.exit_code, said))
    })?;
    assert_eq!(answer, (3, [(true, true); 2]));
    Ok(())
}

/// Who hangs up takes nothing with him: the container lives on, and the next one sees what comes from then on.
fn attach_again_after_hanging_up(version: Version) -> Result<()> {
    let answer = same_with_and_without(version, Hook::Opt, |node| {
        let cri = node.cri()?;
        let pod = cri.run_pod("p")?;
        let id = echo(cri, &pod)?;
        for turn in 0..3 {
            let mut remote = Remote::open(&cri.attach_url(&id, false)?)?;
            remote.say(format!("turn {turn}\n").as_bytes())?;
            remote.hear_until(&format!("out turn {turn}\n"))?;
        }
        let mut last = Remote::open(&cri.attach_url(&id, false)?)?;
        last.say(b"end\n")?;
        last.hear_until("out end\n")?;
        last.say(b"bye\n")?;
        last.hear_out()?;
        let status = cri.await_exit(&id)?;
        let log = cri_log(&cri.log_path(&pod, "c"))?;
        cri.remove_pod(&pod)?;
        Ok((status.exit_code, String::from_utf8_lossy(&log.stdout).into_owned(), last.text()))
    })?;
    let whole = "out turn 0\nout turn 1\nout turn 2\nout end\n".to_owned();
    assert_eq!(answer, (7, whole, "out end\n".to_owned()));
    Ok(())
}

fn exec_with_a_terminal(version: Version) -> Result<()> {
    let answer = same_with_and_without(version, Hook::Opt, |node| {
        let cri = node.cri()?;
        let pod = cri.run_pod("p")?;
        let id = cri.run(&pod, &Wanted { name: "c", command: &["sleep", "1000"], ..Wanted::default() })?;
        let command =
            ["sh", "-c", "test -t 0 && test -t 1 && stty -echo && echo ready; read x; echo got $x; exit 9"];
        let mut remote = Remote::open(&cri.exec_url(&id, &command, true)?)?;
        remote.hear_until("ready")?;
        remote.say(b"typed\n")?;
        remote.hear_out()?;
        cri.remove_pod(&pod)?;
        Ok((remote.text(), remote.verdict()?))
    })?;
    assert_eq!(answer.0, "ready\r\ngot typed\r\n");
    assert_eq!(answer.1, ("Failure".to_owned(), Some("9".to_owned())));
    Ok(())
}

fn exec_with_much_output_and_a_status(version: Version) -> Result<()> {
    same_with_and_without(version, Hook::Opt, |node| {
        let cri = node.cri()?;
        let pod = cri.run_pod("p")?;
        let id = cri.run(&pod, &Wanted { name: "c", command: &["sleep", "1000"], ..Wanted::default() })?;
        let command = ["speaker", "lines=20000", "batch=10", "to=both", "exit=0"];
        let mut remote = Remote::open(&cri.exec_url(&id, &command, false)?)?;
        remote.hear_out()?;
        let (out, err) = (remote.stdout.len(), remote.stderr.len());
        let expected = tape(1, 20_000, 64);
        ensure!(remote.stdout == expected && remote.stderr == expected, "{out} and {err} bytes came");
        cri.remove_pod(&pod)?;
        remote.verdict()
    })
    .map(drop)
}
