//! Compressing request bodies.

use std::io::{self, Write};

use flate2::write::GzEncoder;
use hyper::header::HeaderValue;

use super::body::Body;
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
    pub(super) fn compress(self, body: Body) -> (Body, Self) {
        let compressed = match self {
            Self::None => return (body, Self::None),
            Self::Gzip => gzip(&body),
            Self::Zstd => zstd(&body),
        };
        match compressed {
            Ok(compressed) => (vec![compressed.into()].into(), self),
            Err(_) => (body, Self::None),
        }
    }
}

fn gzip(body: &Body) -> io::Result<Vec<u8>> {
    let out = Vec::with_capacity(body.len() / 8);
    let mut encoder = GzEncoder::new(out, flate2::Compression::new(GZIP_LEVEL));
    body.pieces().iter().try_for_each(|piece| encoder.write_all(piece))?;
    encoder.finish()
}

fn zstd(body: &Body) -> io::Result<Vec<u8>> {
    let mut encoder = zstd::Encoder::new(Vec::new(), ZSTD_LEVEL)?;
    // What it takes of memory is for no more than this.
    encoder.set_pledged_src_size(u64::try_from(body.len()).ok())?;
    body.pieces().iter().try_for_each(|piece| encoder.write_all(piece))?;
    encoder.finish()
}
