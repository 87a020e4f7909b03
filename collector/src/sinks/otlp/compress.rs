//! Compressing request bodies.

use std::io::{self, Write};

use flate2::write::GzEncoder;
use hyper::header::HeaderValue;
use zstd::{
    stream::write::Encoder as ZstdEncoder,
    zstd_safe::{CCtx, CParameter},
};

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

/// Compresses bodies, one after another.
pub(super) struct Packer {
    how: Compression,
    /// What zstd works with, one for all bodies: there are fifty small ones a second, and to take and clear that memory for each is a
    /// good part of the work. Made for the first one, and again after a fault.
    zstd: Option<CCtx<'static>>,
}

// === impl Compression ===

impl Compression {
    /// What the request says of its body.
    pub(super) fn header(self) -> Option<HeaderValue> {
        match self {
            Self::None => None,
            some => Some(HeaderValue::from_static(some.label())),
        }
    }
}

// === impl Packer ===

impl Packer {
    pub(super) fn new(how: Compression) -> Self {
        Self { how, zstd: None }
    }

    /// Compresses `body`. What cannot be compressed (memory is refused) is given back as it was, with the header for it.
    pub(super) fn pack(&mut self, body: Body) -> (Body, Compression) {
        let packed = match self.how {
            Compression::None => return (body, Compression::None),
            Compression::Gzip => gzip(&body),
            Compression::Zstd => self.zstd(&body),
        };
        match packed {
            Ok(packed) => (vec![packed.into()].into(), self.how),
            Err(_) => (body, Compression::None),
        }
    }

    fn zstd(&mut self, body: &Body) -> io::Result<Vec<u8>> {
        let mut context = match self.zstd.take() {
            Some(context) => context,
            None => CCtx::try_create().ok_or(io::ErrorKind::OutOfMemory)?,
        };
        let mut encoder = ZstdEncoder::with_context(Vec::new(), &mut context);
        encoder.set_parameter(CParameter::CompressionLevel(ZSTD_LEVEL))?;
        // What it takes of memory is for no more than this.
        encoder.set_pledged_src_size(u64::try_from(body.len()).ok())?;
        body.pieces().iter().try_for_each(|piece| encoder.write_all(piece))?;
        let packed = encoder.finish()?;
        self.zstd = Some(context);
        Ok(packed)
    }
}

/// Another one that has packed nothing yet.
impl Clone for Packer {
    fn clone(&self) -> Self {
        Self::new(self.how)
    }
}

fn gzip(body: &Body) -> io::Result<Vec<u8>> {
    let out = Vec::with_capacity(body.len() / 8);
    let mut encoder = GzEncoder::new(out, flate2::Compression::new(GZIP_LEVEL));
    body.pieces().iter().try_for_each(|piece| encoder.write_all(piece))?;
    encoder.finish()
}
