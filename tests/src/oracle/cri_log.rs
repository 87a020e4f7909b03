//! containerd's own log files, back to the bytes that the container wrote.

use std::path::Path;

use anyhow::{Context, Result, bail};

/// What a CRI log holds of each stream.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CriLog {
    /// Bytes of stdout. Every full line ends in a newline; an unfinished one at the end does not.
    pub stdout: Vec<u8>,
    /// Bytes of stderr.
    pub stderr: Vec<u8>,
}

/// Reads the log file at `path`.
pub fn cri_log(path: &Path) -> Result<CriLog> {
    let bytes = std::fs::read(path).with_context(|| format!("read {}", path.display()))?;
    parse(&bytes).with_context(|| format!("in {}", path.display()))
}

/// `<time> <stream> <F|P> <content>`, one record a line; P means that the line goes on.
fn parse(bytes: &[u8]) -> Result<CriLog> {
    let mut log = CriLog::default();
    for (number, record) in bytes.split_inclusive(|byte| *byte == b'\n').enumerate() {
        let Some(record) = record.strip_suffix(b"\n") else {
            bail!("record {number} has no end");
        };
        let mut parts = record.splitn(4, |byte| *byte == b' ');
        let (_time, stream, tag) = (parts.next(), parts.next(), parts.next());
        let content = parts.next().with_context(|| format!("record {number} has no content"))?;
        let tape = match stream {
            Some(b"stdout") => &mut log.stdout,
            Some(b"stderr") => &mut log.stderr,
            _ => bail!("record {number} belongs to no stream"),
        };
        tape.extend_from_slice(content);
        match tag {
            Some(b"F") => tape.push(b'\n'),
            Some(b"P") => {}
            _ => bail!("record {number} is neither full nor partial"),
        }
    }
    Ok(log)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn partial_records_are_joined_and_streams_kept_apart() {
        let text = b"t stdout P ab\nt stderr F no\nt stdout F c d\nt stdout F \nt stdout P tail\n";
        let log = parse(text).expect("it is a log");
        assert_eq!(log.stdout, b"abc d\n\ntail");
        assert_eq!(log.stderr, b"no\n");
    }

    #[test]
    fn what_is_no_record_is_an_error() {
        assert!(parse(b"t stdout F cut").is_err());
        assert!(parse(b"t stdout F\n").is_err());
        assert!(parse(b"t neither F x\n").is_err());
        assert!(parse(b"t stdout X x\n").is_err());
    }
}
