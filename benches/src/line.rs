//! A raw connection to a shim that carries one request at a time, and says how long each took.
//!
//! It notes nothing and starts no thread, unlike the connection that tests use: what it measures is microseconds.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use protobuf::Message;
use shimtap_tests::standin::client::frame::{Frame, HEADER, parse_header};
use shimtap_tests::standin::client::pod::state;

/// A request that is not answered by then is lost: a hung worker is found out in 5.5 s.
const LIMIT: Duration = Duration::from_secs(30);

/// The connection.
#[derive(Debug)]
pub struct Line {
    stream: UnixStream,
    service: String,
    socket: PathBuf,
}

impl Line {
    /// To the one of these sockets behind which the task is known.
    ///
    /// # Errors
    /// None knows it.
    pub fn to_shim_of(sockets: &[PathBuf], id: &str) -> Result<Line> {
        let payload = state(id, "").write_to_bytes().context("encode a request")?;
        for socket in sockets {
            for version in [3, 2] {
                let line = Line::open(socket, &format!("containerd.task.v{version}.Task"))?;
                if line.ask(1, "State", &payload).is_ok() {
                    return Ok(line);
                }
            }
        }
        bail!("no shim behind {sockets:?} knows {id}")
    }

    /// Another one to the same socket.
    ///
    /// # Errors
    /// Nobody listens there.
    pub fn another(&self) -> Result<Line> {
        Line::open(&self.socket, &self.service)
    }

    fn open(socket: &Path, service: &str) -> Result<Line> {
        let stream =
            UnixStream::connect(socket).with_context(|| format!("connect to {}", socket.display()))?;
        stream.set_read_timeout(Some(LIMIT)).context("set a limit")?;
        Ok(Line { stream, service: service.to_owned(), socket: socket.to_owned() })
    }

    /// Microseconds from the request to its whole answer. Stream ids are odd and rise.
    ///
    /// # Errors
    /// It is refused, or the connection ends.
    pub fn ask(&self, stream: u32, method: &str, payload: &[u8]) -> Result<f64> {
        let bytes = Frame::request(stream, &self.service, method, payload.to_vec())?.bytes();
        let mut header = [0; HEADER];
        let start = Instant::now();
        (&self.stream).write_all(&bytes).context("send")?;
        (&self.stream).read_exact(&mut header).context("read a header")?;
        let (length, answered, kind, flags) = parse_header(header);
        let mut body = vec![0; usize::try_from(length)?];
        (&self.stream).read_exact(&mut body).context("read an answer")?;
        let took = start.elapsed().as_secs_f64() * 1e6;
        ensure!(answered == stream, "an answer on stream {answered}, asked on {stream}");
        let answer = Frame { stream: answered, kind, flags, body }.answer()?;
        ensure!(answer.code() == 0, "{method} was refused: {answer:?}");
        Ok(took)
    }
}

/// The sockets in a folder.
///
/// # Errors
/// It cannot be listed.
pub fn sockets(dir: &Path) -> Result<Vec<PathBuf>> {
    let entries = fs::read_dir(dir).with_context(|| format!("list {}", dir.display()))?;
    let found = entries.flatten().filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_socket()));
    Ok(found.map(|entry| entry.path()).collect())
}
