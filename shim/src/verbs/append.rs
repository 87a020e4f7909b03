//! The end of a container's output that is to go to a file (`file://`): what containerd's runc shim would do itself, in a process that
//! it starts as a logger.
//!
//! As there, both streams go to the end of one file, 32 KiB at most with a write, and a stream that the file takes no more of is
//! read no more (containerd's cmd/containerd-shim-runc-v2/process/io.go, `createIO` and `copyPipes`). Must never close what a
//! container writes to before it has ended: that would be a SIGPIPE that it does not get without us.

use std::{
    fs::{DirBuilder, File, OpenOptions},
    io::{self, Write},
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::fs::{DirBuilderExt, OpenOptionsExt},
    },
    path::Path,
};

use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::{signal::Signal, signalfd::SignalFd},
    unistd::read,
};

use crate::sys::{Kernel, process};

/// As containerd's buffers.
const PIECE: usize = 32 << 10;
/// The shim's Delete says that nothing more is waited for. Whoever still holds the pipes has been quiet for so long by then; most
/// releases' shims wait as long for what a grandchild has of them.
const QUIET_MS: u16 = 2_000;

/// A stream on its way into the file.
enum Stream {
    Runs(OwnedFd),
    /// The file has refused it. Held, since its container may live.
    Stuck(#[expect(dead_code, reason = "held open")] OwnedFd),
    Ended,
}

/// The file, made with its folders where they are not there.
pub(super) fn open(path: &Path) -> io::Result<File> {
    if let Some(folder) = path.parent() {
        DirBuilder::new().recursive(true).mode(0o755).create(folder)?;
    }
    OpenOptions::new().append(true).create(true).mode(0o644).open(path)
}

/// Both streams, to their ends.
pub(super) fn append(file: &File, ends: [OwnedFd; 2]) -> Kernel<()> {
    let _ = nix::sys::prctl::set_name(c"tap-logger");
    let told = process::take_by_descriptor(Signal::SIGTERM)?;
    process::ignore_signals();
    let mut streams = ends.map(Stream::Runs);
    let mut buffer = vec![0; PIECE];
    let mut is_told = false;
    while streams
        .iter()
        .any(|stream| stream.end().is_some() || !is_told && matches!(stream, Stream::Stuck(_)))
    {
        let Some(ready) = wait(&told, &streams, is_told.then_some(QUIET_MS))? else { break };
        let [said, out, err] = ready;
        is_told = is_told || said && matches!(told.read_signal(), Ok(Some(_)));
        for (stream, ready) in streams.iter_mut().zip([out, err]) {
            if ready {
                stream.pass_on(file, &mut buffer);
            }
        }
    }
    Ok(())
}

/// Who has something: the signal, and each stream; `None` where all was quiet for so long.
fn wait(told: &SignalFd, streams: &[Stream; 2], quiet_ms: Option<u16>) -> Kernel<Option<[bool; 3]>> {
    let ends = [Some(told.as_fd()), streams[0].end(), streams[1].end()];
    let mut fds: Vec<PollFd> =
        ends.iter().flatten().map(|end| PollFd::new(*end, PollFlags::POLLIN)).collect();
    match poll(&mut fds, quiet_ms.map_or(PollTimeout::NONE, PollTimeout::from)) {
        Ok(0) => return Ok(None),
        Ok(_) | Err(Errno::EINTR) => {}
        Err(errno) => return Err(errno),
    }
    let mut ready = fds.iter().map(|fd| fd.any().unwrap_or(false));
    Ok(Some(ends.map(|end| end.is_some() && ready.next().unwrap_or(false))))
}

// === impl Stream ===

impl Stream {
    /// What it is read from, as long as it is.
    fn end(&self) -> Option<BorrowedFd<'_>> {
        match self {
            Self::Runs(end) => Some(end.as_fd()),
            Self::Stuck(_) | Self::Ended => None,
        }
    }

    /// A piece of what is there.
    fn pass_on(&mut self, mut file: &File, buffer: &mut [u8]) {
        let Some(Ok(len)) = self.end().map(|end| read(end, buffer)) else { return };
        let piece = buffer.get(..len).unwrap_or_default();
        if piece.is_empty() {
            *self = Self::Ended;
        } else if file.write_all(piece).is_err()
            && let Self::Runs(end) = std::mem::replace(self, Self::Ended)
        {
            *self = Self::Stuck(end);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::fd;

    #[test]
    fn what_the_file_refuses_is_read_no_more_and_stays_open() {
        let (end, writer) = fd::pipe().unwrap();
        let mut writer = File::from(writer);
        writer.write_all(b"does not fit").unwrap();
        let mut stream = Stream::Runs(end);
        stream.pass_on(&OpenOptions::new().append(true).open("/dev/full").unwrap(), &mut [0; 64]);
        assert!(matches!(stream, Stream::Stuck(_)) && stream.end().is_none());
        writer.write_all(b"its container waits").expect("no SIGPIPE");
        drop(stream);
        writer.write_all(b"its shim has gone").unwrap_err();
    }

    #[test]
    fn a_stream_comes_to_its_end_after_all_that_was_written() {
        let path = std::env::temp_dir().join(format!("shimtap-append-{}", std::process::id()));
        let file = open(&path.join("made/log")).unwrap();
        let (end, writer) = fd::pipe().unwrap();
        File::from(writer).write_all(b"first second").unwrap();
        let mut stream = Stream::Runs(end);
        for _ in 0..2 {
            stream.pass_on(&file, &mut [0; 6]);
            assert!(stream.end().is_some(), "there may be more");
        }
        stream.pass_on(&file, &mut [0; 6]);
        assert!(matches!(stream, Stream::Ended));
        assert_eq!(std::fs::read(path.join("made/log")).unwrap(), b"first second");
        std::fs::remove_dir_all(&path).unwrap();
    }
}
