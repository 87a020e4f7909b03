//! `binary://`, `binary-v2://` and `file://`: which program with which arguments, or which file, such a URI means to containerd's
//! runc shim, and the URI that Create names instead, which leads the shim to ourselves and us to the same program or file.
//!
//! The rules are those of Go's `net/url`, which the shim reads it by. What is unusual is refused and so left alone: it must
//! never come to a program or an argument that the shim would not have used.

use std::{fmt::Write, path::PathBuf};

/// Word by which the program knows that it was started as a logger.
pub const VERB: &str = "tap-logger";

/// The program that is to get a container's output.
#[derive(Debug, PartialEq, Eq)]
pub struct Logger {
    /// Where it is; absolute.
    pub program: PathBuf,
    /// What follows its name.
    pub arguments: Vec<String>,
}

/// Whoever is to get a container's output where that is no FIFO.
#[derive(Debug, PartialEq, Eq)]
pub enum Taker {
    /// A program, which the shim starts.
    Program(Logger),
    /// A file, to whose end the shim itself writes; absolute.
    File(PathBuf),
}

/// What we are told when the shim starts us as a logger.
#[derive(Debug, PartialEq, Eq)]
pub struct Given {
    /// The container's stdout.
    pub handle: u32,
    /// The wrapper's socket.
    pub socket: PathBuf,
    /// What containerd had asked for.
    pub uri: String,
}

// === impl Taker ===

impl Taker {
    /// `None` where it is no such URI, or an unusual one.
    pub fn parse(uri: &str) -> Option<Self> {
        Logger::parse(uri).map(Self::Program).or_else(|| {
            let (_, path, query) = parts(uri, &["file"])?;
            let path = decode(path, false).filter(|path| !path.ends_with('/') && query.is_none())?;
            Some(Self::File(PathBuf::from(path)))
        })
    }
}

// === impl Logger ===

impl Logger {
    /// `None` where it is no URI of a logger, or an unusual one.
    pub fn parse(uri: &str) -> Option<Self> {
        let (_, path, query) = parts(uri, &LOGGERS)?;
        let program = decode(path, false)?;
        let mut arguments: Vec<String> = Vec::new();
        let mut keys: Vec<String> = Vec::new();
        for pair in query.unwrap_or_default().split('&').filter(|pair| !pair.is_empty()) {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            let key = decode(key, true)?;
            // A key that comes twice has its first value.
            if !keys.contains(&key) {
                arguments.extend([key.clone(), decode(value, true)?]);
                keys.push(key);
            }
        }
        Some(Self { program: PathBuf::from(program), arguments })
    }
}

// === impl Given ===

impl Given {
    /// The URI that leads to `own`, our own program, with this in its one argument (several would come in any order).
    pub fn uri(&self, own: &str) -> String {
        let scheme = parts(&self.uri, &LOGGERS).map_or("binary", |(scheme, ..)| scheme);
        let told = format!("{} {} {}", self.handle, self.socket.display(), self.uri);
        format!("{scheme}://{}?{VERB}={}", encode(own), encode(&told))
    }

    /// From the argument that the shim hands over.
    pub fn from_argument(argument: &str) -> Option<Self> {
        let (handle, rest) = argument.split_once(' ')?;
        let (socket, uri) = rest.split_once(' ')?;
        Some(Self { handle: handle.parse().ok()?, socket: PathBuf::from(socket), uri: uri.to_owned() })
    }

    /// From the URI; `None` where it is not one of ours.
    pub fn from_uri(uri: &str) -> Option<Self> {
        let (_, _, query) = parts(uri, &LOGGERS)?;
        let told = query?.strip_prefix(VERB)?.strip_prefix('=')?;
        Self::from_argument(&decode(told, true)?)
    }
}

/// The schemes that name programs.
const LOGGERS: [&str; 2] = ["binary", "binary-v2"];

/// Scheme, path and query of a URI of one of these schemes.
fn parts<'a>(uri: &'a str, schemes: &[&str]) -> Option<(&'a str, &'a str, Option<&'a str>)> {
    let (scheme, rest) = uri.split_once("://")?;
    // Without a host; a fragment, and `;` in a query, are read differently by releases of Go.
    let plain =
        rest.starts_with('/') && !rest.contains(['#', ';']) && rest.bytes().all(|b| b.is_ascii_graphic());
    if !schemes.contains(&scheme) || !plain {
        return None;
    }
    let (path, query) = rest.split_once('?').map_or((rest, None), |(path, query)| (path, Some(query)));
    Some((scheme, path, query))
}

/// Without its %XX, and in a query without its `+`. `None` where Go would refuse it, or no text comes out.
fn decode(text: &str, is_query: bool) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'%' => nibble(rest.next()?)? << 4 | nibble(rest.next()?)?,
            b'+' if is_query => b' ',
            other => other,
        });
    }
    String::from_utf8(bytes).ok().filter(|text| !text.contains('\0'))
}

fn nibble(digit: u8) -> Option<u8> {
    char::from(digit).to_digit(16).and_then(|n| u8::try_from(n).ok())
}

fn encode(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"/-._~".contains(&byte) {
            encoded.push(char::from(byte));
        } else {
            let _ = write!(encoded, "%{byte:02X}");
        }
    }
    encoded
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_go_makes_of_it() {
        let of = |uri| Logger::parse(uri).map(|l| (l.program.display().to_string(), l.arguments.join("|")));
        let is = |program: &str, arguments: &str| Some((program.to_owned(), arguments.to_owned()));
        let cases = [
            ("binary:///usr/bin/logger", is("/usr/bin/logger", "")),
            ("binary-v2:///l?a=b&c=d", is("/l", "a|b|c|d")),
            ("binary:///l?_X=%2Fvar%2Flib&_X=again", is("/l", "_X|/var/lib")),
            ("binary:///l?flag", is("/l", "flag|")),
            ("binary:///l?a=b=c&&d=e+f%2B", is("/l", "a|b=c|d|e f+")),
            ("binary:///a+b%20c", is("/a+b c", "")),
            ("binary:///l?", is("/l", "")),
        ];
        for (uri, want) in cases {
            assert_eq!(of(uri), want, "{uri}");
        }
    }

    #[test]
    fn what_is_unusual_is_nobody_s() {
        for uri in [
            "",
            "/run/fifo",
            "file:///x",
            "binary:/l",
            "binary://host/l",
            "binary:///l#f",
            "binary:///l?a;b",
            "binary:///l%2",
            "binary:///l?a=%zz",
            "binary:///l?a=%ff",
            "binary:///l%00",
            "binary:///a b",
        ] {
            assert_eq!(Logger::parse(uri), None, "{uri}");
        }
    }

    #[test]
    fn a_file_is_its_path() {
        let of = |uri| match Taker::parse(uri)? {
            Taker::File(path) => Some(path.display().to_string()),
            Taker::Program(logger) => panic!("{logger:?}"),
        };
        assert_eq!(of("file:///var/log/a%20b+c").as_deref(), Some("/var/log/a b+c"));
        for uri in [
            "file:///",
            "file:///d/",
            "file://host/x",
            "file:/x",
            "file:///x?y",
            "file:///x#y",
            "file:///%00",
            "/x",
        ] {
            assert_eq!(of(uri), None, "{uri}");
        }
        assert!(matches!(Taker::parse("binary:///l"), Some(Taker::Program(_))));
    }

    #[test]
    fn our_own_leads_back_to_what_was_asked_for() {
        for (uri, scheme) in [
            ("binary:///usr/bin/nerdctl?_NERDCTL_INTERNAL_LOGGING=%2Fvar%2Flib", "binary"),
            ("binary-v2:///l?a=b&c=+d%25", "binary-v2"),
            ("file:///var/log/a%20b", "binary"),
        ] {
            let given =
                Given { handle: 77, socket: PathBuf::from("/run/shimtap-shim/s/1-2-3"), uri: uri.to_owned() };
            let ours = given.uri("/opt/my tools/containerd-shim-tap-v2");
            assert_eq!(ours.split_once("://").map(|p| p.0), Some(scheme));
            assert_eq!(Given::from_uri(&ours).as_ref(), Some(&given), "{ours}");
            let started = Logger::parse(&ours).unwrap();
            assert_eq!(started.program, PathBuf::from("/opt/my tools/containerd-shim-tap-v2"));
            let [verb, argument] = started.arguments.as_slice() else { panic!("{started:?}") };
            assert_eq!((verb.as_str(), Given::from_argument(argument)), (VERB, Some(given)));
            assert_eq!(Given::from_uri(uri), None);
        }
    }
}
