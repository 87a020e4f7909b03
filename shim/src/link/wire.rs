//! One ttrpc connection of our own, to the collector or to the inner shim: bytes out as far as the peer takes them, frames in as they
//! come.
//!
//! It never waits: what the peer does not take now stays here, and its owner says nothing more until it has gone. What a frame means
//! is its owner's.

use std::{
    io::{self, ErrorKind, Read, Write},
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd},
        unix::net::UnixStream,
    },
};

use nix::{
    poll::PollFlags,
    sys::socket::{AddressFamily, SockFlag, SockType, UnixAddr, connect, socket},
};
use protobuf::Message;
use shimtap_proto::ttrpc::{
    FLAG_NO_DATA, FLAG_REMOTE_CLOSED, FLAG_REMOTE_OPEN, HEADER_LEN, Header, HeaderFault, Kind, request_frame,
};

/// How much is read at once; most of what comes is an acknowledgement of some twenty bytes.
const READ: usize = 4 << 10;
/// A buffer that has grown beyond this is given back when it is empty.
const KEPT: usize = 16 << 10;

/// The connection, and what of it is on its way.
pub struct Wire {
    socket: UnixStream,
    /// Frames that the peer has not taken, from `gone` on.
    out: Vec<u8>,
    gone: usize,
    /// Bytes of frames that are not whole yet, or not asked for, from `taken` on.
    come: Vec<u8>,
    taken: usize,
    body_max: usize,
    next_stream: u32,
}

/// One frame that came.
pub struct Frame {
    pub header: Header,
    pub body: Vec<u8>,
}

// === impl Wire ===

impl Wire {
    /// To the socket at this path; a peer that does not accept is one that is not there. Bodies of more than `body_max` bytes are the peer's
    /// fault.
    ///
    /// # Errors
    /// Nobody listens there, or whoever does has too many waiting.
    pub fn connect(path: &str, body_max: usize) -> io::Result<Self> {
        let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
        let to = socket(AddressFamily::Unix, SockType::Stream, flags, None)?;
        connect(to.as_raw_fd(), &UnixAddr::new(path)?)?;
        Ok(Self::on(UnixStream::from(to), body_max))
    }

    pub(super) fn on(socket: UnixStream, body_max: usize) -> Self {
        Self { socket, out: Vec::new(), gone: 0, come: Vec::new(), taken: 0, body_max, next_stream: 1 }
    }

    /// Makes a call; the number that its answer will have. `timeout_nano` is the time that it may take, 0 = no limit.
    pub fn call(
        &mut self,
        service: &str,
        method: &str,
        payload: &[u8],
        timeout_nano: i64,
    ) -> io::Result<u32> {
        let id = self.new_stream();
        self.out.extend_from_slice(&request_frame(id, service, method, payload, timeout_nano));
        self.flush().map(|()| id)
    }

    /// Opens a stream of messages both ways; its number.
    pub fn open(&mut self, service: &str, method: &str) -> io::Result<u32> {
        let id = self.new_stream();
        let mut frame = request_frame(id, service, method, &[], 0);
        // containerd/ttrpc tells a stream of the client's from a call by these.
        if let Some(flags) = frame.get_mut(HEADER_LEN - 1) {
            *flags = FLAG_REMOTE_OPEN | FLAG_NO_DATA;
        }
        self.out.extend_from_slice(&frame);
        self.flush().map(|()| id)
    }

    fn new_stream(&mut self) -> u32 {
        let id = self.next_stream;
        self.next_stream = self.next_stream.wrapping_add(2);
        id
    }

    /// Says something on an open stream.
    ///
    /// # Errors
    /// The connection is broken.
    pub fn say(&mut self, stream_id: u32, message: &impl Message) -> io::Result<()> {
        let start = self.out.len();
        self.out.extend_from_slice(&[0; HEADER_LEN]);
        message.write_to_vec(&mut self.out).map_err(io::Error::from)?;
        let length = self.out.len().saturating_sub(start).saturating_sub(HEADER_LEN);
        let length = u32::try_from(length).map_err(io::Error::other)?;
        let header = Header { length, stream_id, kind: Kind::Data, flags: 0 };
        if let Some(room) = self.out.get_mut(start..).and_then(<[u8]>::first_chunk_mut) {
            *room = header.encode();
        }
        self.flush()
    }

    /// Says that nothing more will be said on an open stream.
    ///
    /// # Errors
    /// The connection is broken.
    pub fn end(&mut self, stream_id: u32) -> io::Result<()> {
        let flags = FLAG_REMOTE_CLOSED | FLAG_NO_DATA;
        let header = Header { length: 0, stream_id, kind: Kind::Data, flags };
        self.out.extend_from_slice(&header.encode());
        self.flush()
    }

    /// Hands over what the peer takes now, and takes in what has come: whenever the connection has something.
    ///
    /// # Errors
    /// The connection is broken, or the peer has ended it.
    pub fn exchange(&mut self) -> io::Result<()> {
        self.flush()?;
        self.listen()
    }

    fn flush(&mut self) -> io::Result<()> {
        while let Some(rest) = self.out.get(self.gone..).filter(|rest| !rest.is_empty()) {
            match self.socket.write(rest) {
                Ok(count) => self.gone = self.gone.saturating_add(count),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        self.out.clear();
        self.gone = 0;
        give_back(&mut self.out);
        Ok(())
    }

    /// Has the peer not taken all that was said?
    pub fn is_held_up(&self) -> bool {
        !self.out.is_empty()
    }

    fn listen(&mut self) -> io::Result<()> {
        let had = self.come.len();
        self.come.resize(had.saturating_add(READ), 0);
        let read = self.socket.read(self.come.get_mut(had..).unwrap_or_default());
        self.come.truncate(had.saturating_add(*read.as_ref().unwrap_or(&0)));
        match read {
            Ok(0) => Err(ErrorKind::UnexpectedEof.into()),
            Ok(_) => Ok(()),
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// The next frame that has come whole.
    ///
    /// # Errors
    /// What came is not ttrpc, or larger than anything that the peer has to say.
    pub fn frame(&mut self) -> io::Result<Option<Frame>> {
        let rest = self.come.get(self.taken..).unwrap_or_default();
        let header = match Header::decode(rest) {
            Err(HeaderFault::Incomplete) => return Ok(self.no_frame()),
            header => header.map_err(io::Error::other)?,
        };
        let length = usize::try_from(header.length).unwrap_or(usize::MAX);
        if length > self.body_max {
            return Err(ErrorKind::InvalidData.into());
        }
        let end = HEADER_LEN.saturating_add(length);
        let Some(body) = rest.get(HEADER_LEN..end) else { return Ok(self.no_frame()) };
        let body = body.to_vec();
        self.taken = self.taken.saturating_add(end);
        Ok(Some(Frame { header, body }))
    }

    /// What was taken makes room for what will come.
    fn no_frame(&mut self) -> Option<Frame> {
        self.come.drain(..self.taken);
        self.taken = 0;
        give_back(&mut self.come);
        None
    }

    /// What it waits for.
    pub fn wants(&self) -> PollFlags {
        if self.is_held_up() { PollFlags::POLLIN | PollFlags::POLLOUT } else { PollFlags::POLLIN }
    }

    /// To wait for it.
    pub fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// An empty buffer keeps no more than it mostly needs.
fn give_back(buffer: &mut Vec<u8>) {
    if buffer.is_empty() && buffer.capacity() > KEPT {
        *buffer = Vec::new();
    }
}

#[cfg(test)]
mod tests {
    use shimtap_proto::{
        link::{Ack, Data, FromWrapper, from_wrapper},
        ttrpc::RequestView,
    };

    use super::*;

    const MAX: usize = 1 << 20;

    fn two() -> (Wire, Wire) {
        let (ours, theirs) = UnixStream::pair().expect("a pair");
        for end in [&ours, &theirs] {
            end.set_nonblocking(true).expect("a socket");
        }
        (Wire::on(ours, MAX), Wire::on(theirs, MAX))
    }

    fn data(len: usize) -> FromWrapper {
        let data = Data { handle: 7, bytes: vec![b'x'; len], ..Data::default() };
        FromWrapper { body: Some(from_wrapper::Body::Data(data)), ..FromWrapper::default() }
    }

    #[test]
    fn what_the_peer_does_not_take_stays_and_goes_later_in_order() {
        let (mut ours, mut theirs) = two();
        let stream = ours.open("a.Service", "Method").expect("it is said");
        let mut said = Vec::new();
        while !ours.is_held_up() {
            let message = data(10_000 + said.len());
            ours.say(stream, &message).expect("it is said");
            said.push(message);
        }
        assert!(ours.wants().contains(PollFlags::POLLOUT) && said.len() > 1);
        let mut heard = Vec::new();
        while heard.len() <= said.len() {
            theirs.listen().expect("it comes");
            while let Some(frame) = theirs.frame().expect("ttrpc") {
                heard.push(frame);
            }
            ours.flush().expect("it goes");
        }
        assert!(!ours.is_held_up() && !ours.wants().contains(PollFlags::POLLOUT));
        let opening = heard.remove(0);
        assert_eq!(opening.header.flags, FLAG_REMOTE_OPEN | FLAG_NO_DATA);
        let request = RequestView::decode(&opening.body).expect("a request");
        assert_eq!((request.service, request.method), ("a.Service", "Method"));
        for (frame, message) in heard.iter().zip(&said) {
            assert_eq!((frame.header.kind, frame.header.stream_id), (Kind::Data, stream));
            assert_eq!(&FromWrapper::parse_from_bytes(&frame.body).expect("a message"), message);
        }
        assert!(theirs.listen().is_ok() && theirs.frame().expect("nothing").is_none(), "and nothing else");
    }

    #[test]
    fn a_frame_that_comes_byte_by_byte_is_one_frame_and_two_at_once_are_two() {
        let (mut ours, mut theirs) = two();
        theirs.say(3, &Ack::default()).expect("it is said");
        theirs.say(5, &data(5)).expect("it is said");
        let mut bytes = vec![0; 4096];
        let count = ours.socket.read(&mut bytes).expect("they come");
        for (at, byte) in bytes.iter().take(count).enumerate() {
            assert!(ours.frame().expect("ttrpc").is_none(), "{at}");
            if at == HEADER_LEN {
                break;
            }
            ours.come.push(*byte);
            if at + 1 == HEADER_LEN {
                let frame = ours.frame().expect("ttrpc").expect("an empty message is a header");
                assert_eq!((frame.header.stream_id, frame.body.len()), (3, 0));
            }
        }
        ours.come.extend_from_slice(bytes.get(HEADER_LEN..count).expect("the second"));
        assert_eq!(ours.frame().expect("ttrpc").map(|frame| frame.header.stream_id), Some(5));
        assert!(ours.frame().expect("ttrpc").is_none() && ours.come.is_empty());
    }

    #[test]
    fn what_is_no_frame_or_too_large_ends_the_connection_and_so_does_its_end() {
        for bytes in
            [*b"HTTP/1.1 4", Header { length: 2 << 20, stream_id: 1, kind: Kind::Data, flags: 0 }.encode()]
        {
            let (mut ours, mut theirs) = two();
            theirs.socket.write_all(&bytes).expect("it is said");
            ours.listen().expect("it comes");
            assert!(ours.frame().is_err(), "{bytes:?}");
        }
        let (mut ours, theirs) = two();
        drop(theirs);
        assert!(ours.listen().is_err_and(|error| error.kind() == ErrorKind::UnexpectedEof));
        assert!(ours.say(1, &Ack::default()).is_err());
    }

    #[test]
    fn memory_for_much_is_given_back() {
        let (mut ours, mut theirs) = two();
        ours.say(1, &data(100_000)).expect("it is said");
        theirs.listen().expect("it comes");
        while theirs.frame().expect("ttrpc").is_none() {
            theirs.listen().expect("it comes");
            ours.flush().expect("it goes");
        }
        assert!(theirs.frame().expect("ttrpc").is_none());
        assert!(ours.out.capacity() <= KEPT && theirs.come.capacity() <= KEPT);
    }
}
