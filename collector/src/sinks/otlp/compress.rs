//! Compressing request bodies.

use std::io::Write;

use flate2::write::GzEncoder;
use hyper::header::HeaderValue;

use crate::closed::closed;

closed! {
    /// How bodies are compressed.
    pub enum Compression {
        /// What every OTLP receiver must take.
        Gzip => "gzip",
        /// Less work for better results, where the receiver takes it.
        Zstd => "zstd",
        /// Not at all.
        None => "none",
    }
}

/// Beyond the fastest levels, lines of text hardly shrink further and cost a multiple.
const GZIP_LEVEL: u32 = 1;
const ZSTD_LEVEL: i32 = 1;

// === impl Compression ===

impl Compression {
    /// What the request says of its body.
    pub(super) fn header(self) -> Option<HeaderValue> {
        match self {
            Self::None => None,
            some => Some(HeaderValue::from_static(some.label())),
        }
    }

    /// Compresses `body`. What cannot be compressed (memory is refused) is given back as it was, with the header for it.
    pub(super) fn compress(self, body: Vec<u8>) -> (Vec<u8>, Self) {
        let compressed = match self {
            Self::None => return (body, Self::None),
            Self::Gzip => gzip(&body).ok(),
            Self::Zstd => zstd::bulk::compress(&body, ZSTD_LEVEL).ok(),
        };
        match compressed {
            Some(compressed) => (compressed, self),
            None => (body, Self::None),
        }
    }
}

fn gzip(body: &[u8]) -> std::io::Result<Vec<u8>> {
    let out = Vec::with_capacity(body.len() / 8);
    let mut encoder = GzEncoder::new(out, flate2::Compression::new(GZIP_LEVEL));
    encoder.write_all(body)?;
    encoder.finish()
}
