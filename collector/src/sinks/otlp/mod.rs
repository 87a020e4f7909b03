//! The OTLP sink: log records over HTTP, as protobuf, to an OpenTelemetry Collector or whatever speaks its protocol.
//!
//! At least once: an answer that is lost means that a request goes again, with the same `log.record.uid`s. What is
//! tried again and what is refused for good is OTLP's own rule, kept in `answer`.

mod answer;
mod body;
mod compress;
mod connect;
mod deliver;
mod encode;
mod headers;
mod proxy;
mod resource;
mod tls;

use std::{io, path::PathBuf, sync::Arc, time::Duration};

pub use compress::Compression;

use super::{
    Source, Worker,
    frame::{Frame, Limits, Pace},
};
use crate::{config, metrics::SinkTotals};
use connect::Connect;
use deliver::ToOtlp;
use encode::Encoder;

/// Ceiling of the first pause after a failure.
const FIRST_PAUSE: Duration = Duration::from_millis(500);

/// Why the OTLP sink cannot be started. The configuration, or a file that it names, is at fault.
#[derive(Debug, thiserror::Error)]
pub enum OtlpFault {
    /// A file cannot be read.
    #[error("reading {path} for {key}: {source}; check that it is there and readable")]
    Unreadable {
        /// The option that names it.
        key: String,
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A file does not hold what it should.
    #[error("{path}, named by {key}, holds no {what}")]
    Unusable {
        /// The option that names it.
        key: String,
        /// The file.
        path: PathBuf,
        /// What is wanted.
        what: &'static str,
    },
    /// The system's own certificates of authorities.
    #[error(
        "reading the system's trusted certificates: {source}; install ca-certificates or name otlp.tls.ca_file"
    )]
    Roots {
        /// What was found instead.
        source: io::Error,
    },
    /// Certificate and key, or a certificate and what TLS demands of it.
    #[error("using the certificates that otlp.tls names: {source}")]
    Certificate {
        /// What is wrong with them.
        source: rustls::Error,
    },
    /// The proxy that the environment names.
    #[error(
        "the environment variable {variable} names a proxy by a URL of the scheme {scheme}; the OTLP sink speaks only \
         http to a proxy: name another in otlp.proxy, or \"none\" there"
    )]
    ProxyScheme {
        /// Where it is named.
        variable: &'static str,
        /// Its scheme.
        scheme: String,
    },
    /// What the environment has in the place of one. It is not shown: it may hold a password.
    #[error(
        "the environment variable {variable} holds no URL of a proxy, as http://proxy.example:3128; correct it, or \
         name one in otlp.proxy, or \"none\" there"
    )]
    ProxyUrl {
        /// Where it is named.
        variable: &'static str,
    },
    /// The thread cannot be started.
    #[error("starting the OTLP sink's thread: {source}")]
    Thread {
        /// What the system said.
        source: io::Error,
    },
}

/// Reads certificates and secrets as a start does, and does nothing with them.
///
/// # Errors
/// As [`start`].
pub fn check(config: &config::Otlp) -> Result<(), OtlpFault> {
    Connect::new(config)?;
    headers::Headers::read(&config.headers).map(drop)
}

/// Reads certificates and secrets and starts the sink. Nobody is connected to yet.
///
/// # Errors
/// A file is not there or not usable; the configuration is at fault.
pub fn start(
    config: &config::Otlp,
    node: &config::Node,
    source: impl Source + 'static,
    sink: Arc<SinkTotals>,
) -> Result<Worker, OtlpFault> {
    let connect = Connect::new(config)?;
    let headers = headers::Headers::read(&config.headers)?;
    let deliver = ToOtlp::new(config, connect, headers, Arc::clone(&sink));
    let limits = Limits { bytes: config.batch_bytes, records: config.batch_records, wait: config.batch_wait };
    let pace = Pace { first: FIRST_PAUSE.min(config.retry_most), most: config.retry_most };
    let frame = Frame { source, limits, pace, sink, network: true };
    let encoder = Encoder::new(node, config.compression);
    frame.start(encoder, deliver).map_err(|source| OtlpFault::Thread { source })
}
