//! `[otlp]`: the OTLP/HTTP sink. Without this section there is none.

mod headers;
mod tls;
mod url;

use std::time::Duration;

use super::{
    option::{Choice, Given, Heading, Number, Text},
    section::Document,
};
use crate::{closed::closed, sinks::Compression};

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

/// As it stands in the file.
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

const ENDPOINT: Given = Given {
    key: "endpoint",
    says: "A URL; /v1/logs is appended where it does not end so.",
    example: "http://127.0.0.1:4318",
};
const COMPRESSION: Choice<Compression> =
    Choice { key: "compression", says: "How requests are compressed.", default: Compression::Gzip };
// Receivers take 20 MiB over HTTP as a rule and 4 MiB where gRPC stands behind them.
const BATCH_BYTES: Number = Number {
    key: "batch_bytes",
    says: "Largest request before compression; a single record that is larger has one to itself.",
    range: 64 << 10..=64 << 20,
    default: 4 << 20,
};
const BATCH_RECORDS: Number =
    Number { key: "batch_records", says: "Most records in a request.", range: 1..=1_000_000, default: 8_192 };
const BATCH_WAIT_MS: Number = Number {
    key: "batch_wait_ms",
    says: "How long the first record of a request waits for others while few come.",
    range: 0..=10_000,
    default: 20,
};
const TIMEOUT_SECS: Number = Number {
    key: "timeout_secs",
    says: "From the beginning of a request, connecting included, to the end of its answer.",
    range: 1..=600,
    default: 30,
};
const RETRY_MOST_SECS: Number = Number {
    key: "retry_most_secs",
    says: "Longest pause between attempts, unless the endpoint asks for a longer one.",
    range: 1..=3_600,
    default: 30,
};
const PROXY: Text = Text {
    key: "proxy",
    says: "A proxy's URL (http, with a name and password where it needs them), \"none\", or \"environment\": HTTPS_PROXY, \
           HTTP_PROXY, ALL_PROXY and NO_PROXY.",
    default: "environment",
};

const HEADING: Heading = Heading {
    name: "otlp",
    says: "The OTLP/HTTP sink is there where this section is.",
    is_comment: true,
    options: &[
        &ENDPOINT,
        &COMPRESSION,
        &BATCH_BYTES,
        &BATCH_RECORDS,
        &BATCH_WAIT_MS,
        &TIMEOUT_SECS,
        &RETRY_MOST_SECS,
        &PROXY,
    ],
};
/// The section and those within it.
pub(super) const HEADINGS: [&Heading; 3] = [&HEADING, &headers::HEADING, &tls::HEADING];

// === impl Otlp ===

impl Otlp {
    pub(super) fn read(document: &mut Document<'_>) -> Option<Self> {
        let mut section = document.optional(&HEADING)?;
        let endpoint = url::endpoint(&mut section, &ENDPOINT);
        let proxy = url::proxy(&mut section, &PROXY);
        let headers = Header::read_all(&mut section);
        let tls = Tls::read(&mut section);
        let compression = section.choice(&COMPRESSION);
        let (timeout, retry_most) = (section.seconds(&TIMEOUT_SECS), section.seconds(&RETRY_MOST_SECS));
        let (batch_bytes, batch_records) = (section.size(&BATCH_BYTES), section.size(&BATCH_RECORDS));
        let batch_wait = section.millis(&BATCH_WAIT_MS);
        section.finish();
        Some(Self {
            endpoint: endpoint?,
            compression,
            headers,
            tls,
            proxy: proxy?,
            timeout,
            batch_bytes,
            batch_records,
            batch_wait,
            retry_most,
        })
    }
}
