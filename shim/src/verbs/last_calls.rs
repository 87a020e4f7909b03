//! The last calls to an inner shim whose wrapper is gone: Kill, Wait, Delete of every task, and Shutdown, on one connection.
//!
//! All tasks at once, so that one that does not answer costs the others nothing; and all within a time, since containerd waits.

use std::{
    collections::HashMap,
    io::{self, Read, Write},
    os::unix::net::UnixStream,
    time::{Duration, Instant},
};

use shimtap_proto::ttrpc::{
    HEADER_LEN, Header, Kind, TaskApi, request_frame,
    task::{Kill, TaskRef},
};

use super::wrap::Description;

/// containerd gives the whole `delete`, the inner shim's part included, five seconds.
const PATIENCE: Duration = Duration::from_millis(3000);
/// What of it is the shim's to end in, once it was told to.
const END: Duration = Duration::from_secs(1);

/// Ends these tasks and their shim. An error where it did not answer all of it, or did not end.
pub fn end_tasks(description: &Description, ids: &[String]) -> io::Result<()> {
    let mut inner = match Inner::connect(description) {
        Ok(inner) => inner,
        // It has ended by itself, as a shim whose last container is gone does.
        Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused) => {
            return Ok(());
        }
        Err(e) => return Err(e),
    };
    let mut waits = HashMap::new();
    for id in ids {
        inner.send("Kill", &Kill { id, exec_id: "", signal: 9, all: true }.encode())?;
        // Delete is refused as long as the exit is not known to the shim.
        waits.insert(inner.send("Wait", &TaskRef { id, exec_id: "" }.encode())?, id);
    }
    let mut deletes = ids.len();
    let mut deleted = HashMap::new();
    while deletes > 0 {
        let answered = inner.next_answer()?;
        if let Some(id) = waits.remove(&answered) {
            deleted.insert(inner.send("Delete", &TaskRef { id, exec_id: "" }.encode())?, id);
        } else if deleted.remove(&answered).is_some() {
            deletes = deletes.saturating_sub(1);
        }
    }
    let down = inner.send("Shutdown", &TaskRef { id: &description.id, exec_id: "" }.encode());
    down.map(drop).or_else(gone)?;
    inner.await_end()
}

/// A shim that closes the connection has ended, which is what is wanted.
fn gone(error: io::Error) -> io::Result<()> {
    match error.kind() {
        io::ErrorKind::UnexpectedEof | io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset => Ok(()),
        _ => Err(error),
    }
}

struct Inner {
    stream: UnixStream,
    until: Instant,
    service: &'static str,
    next_stream: u32,
}

// === impl Inner ===

impl Inner {
    fn connect(description: &Description) -> io::Result<Self> {
        let stream = UnixStream::connect(&description.inner_socket)?;
        let api = if description.task_api == 3 { TaskApi::V3 } else { TaskApi::V2 };
        Ok(Self { stream, until: Instant::now() + PATIENCE, service: api.service(), next_stream: 1 })
    }

    fn left(&self) -> Duration {
        self.until.saturating_duration_since(Instant::now()).max(Duration::from_millis(1))
    }

    /// A request; gives the number that its answer will have.
    fn send(&mut self, method: &str, payload: &[u8]) -> io::Result<u32> {
        self.stream.set_write_timeout(Some(self.left()))?;
        let stream_id = self.next_stream;
        self.next_stream = self.next_stream.wrapping_add(2);
        self.stream.write_all(&request_frame(stream_id, self.service, method, payload, 0))?;
        Ok(stream_id)
    }

    /// Which request was answered next; what the shim says (NotFound is fine) does not matter, only that it answers.
    fn next_answer(&mut self) -> io::Result<u32> {
        loop {
            self.stream.set_read_timeout(Some(self.left()))?;
            let mut header = [0u8; HEADER_LEN];
            self.stream.read_exact(&mut header)?;
            let header = Header::decode(&header).map_err(io::Error::other)?;
            io::copy(&mut (&self.stream).take(u64::from(header.length)), &mut io::sink())?;
            if header.kind == Kind::Response {
                return Ok(header.stream_id);
            }
        }
    }

    /// Until the shim closes the connection, or the time is over.
    fn await_end(&mut self) -> io::Result<()> {
        self.stream.set_read_timeout(Some(self.left().min(END)))?;
        io::copy(&mut self.stream, &mut io::sink()).map(drop).or_else(gone)
    }
}
