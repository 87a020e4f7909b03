//! `[otlp]`: the OTLP/HTTP sink. Without this section there is none.

mod headers;
mod tls;
mod url;

use std::time::Duration;

use super::{
    fault::Faults,
    ingest::{seconds, size},
    section::{At, Document},
};
use crate::{
    closed::{Closed, closed},
    sinks::Compression,
};

pub use headers::{Header, HeaderValue};
pub use tls::Tls;
pub use url::{Endpoint, Proxy};

closed! {
    /// Names that `proxy` takes instead of a URL.
    enum ProxyName {
        /// HTTPS_PROXY, HTTP_PROXY, ALL_PROXY and NO_PROXY.
        Environment => "environment",
        /// Straight to the endpoint.
        None => "none",
    }
}

/// Resolved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Otlp {
    /// Where log records are posted.
    pub endpoint: Endpoint,
    /// How bodies are compressed.
    pub compression: Compression,
    /// Headers of every request.
    pub headers: Vec<Header>,
    /// Certificates.
    pub tls: Tls,
    /// What stands between.
    pub proxy: Proxy,
    /// From the beginning of a request, connecting included, to the end of its answer.
    pub timeout: Duration,
    /// Largest request before compression, in bytes.
    pub batch_bytes: usize,
    /// Most records in a request.
    pub batch_records: usize,
    /// How long the first record of a request waits for others.
    pub batch_wait: Duration,
    /// Longest pause of our own choosing between attempts.
    pub retry_most: Duration,
}

/// As the file has it.
pub(super) struct Raw {
    endpoint: Option<At<String>>,
    compression: Option<At<String>>,
    headers: Vec<headers::Raw>,
    tls: tls::Raw,
    proxy: Option<At<String>>,
    timeout_secs: Option<At<u64>>,
    batch_bytes: Option<At<u64>>,
    batch_records: Option<At<u64>>,
    batch_wait_ms: Option<At<u64>>,
    retry_most_secs: Option<At<u64>>,
}

// === impl Raw ===

impl Raw {
    pub(super) fn read(document: &mut Document<'_>) -> Option<Self> {
        let mut section = document.section("otlp")?;
        let raw = Self {
            endpoint: section.string("endpoint"),
            compression: section.string("compression"),
            headers: headers::Raw::read(&mut section),
            tls: tls::Raw::read(&mut section),
            proxy: section.string("proxy"),
            timeout_secs: section.number("timeout_secs", 1..=600),
            batch_bytes: section.number("batch_bytes", 64 << 10..=64 << 20),
            batch_records: section.number("batch_records", 1..=1_000_000),
            batch_wait_ms: section.number("batch_wait_ms", 0..=10_000),
            retry_most_secs: section.number("retry_most_secs", 1..=3_600),
        };
        section.finish();
        Some(raw)
    }

    pub(super) fn resolve(self, faults: &mut Faults) -> Option<Otlp> {
        let endpoint = url::endpoint(self.endpoint, faults);
        let headers = self.headers.into_iter().filter_map(|raw| raw.resolve(faults)).collect();
        let tls = self.tls.resolve(faults);
        let proxy = url::proxy(self.proxy, faults);
        let compression = compression(self.compression, faults);
        Some(Otlp {
            endpoint: endpoint?,
            compression,
            headers,
            tls,
            proxy: proxy?,
            timeout: seconds(self.timeout_secs, 30),
            // Receivers take 20 MiB over HTTP as a rule and 4 MiB where gRPC stands behind them.
            batch_bytes: size(self.batch_bytes, 4 << 20),
            batch_records: size(self.batch_records, 8_192),
            batch_wait: Duration::from_millis(self.batch_wait_ms.map_or(100, |at| at.value)),
            retry_most: seconds(self.retry_most_secs, 30),
        })
    }
}

fn compression(raw: Option<At<String>>, faults: &mut Faults) -> Compression {
    let Some(At { line, value }) = raw else { return Compression::Gzip };
    let known = Compression::ALL.iter().copied().find(|known| known.name() == value);
    known.unwrap_or_else(|| {
        faults.push(Some(line), "otlp.compression", "must be \"gzip\", \"zstd\" or \"none\"");
        Compression::Gzip
    })
}
