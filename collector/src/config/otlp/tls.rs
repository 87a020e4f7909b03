//! `[otlp.tls]`: whom to trust, and who we are.

use std::path::PathBuf;

use crate::config::{
    fault::Faults,
    section::{At, Section},
};

/// Resolved.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tls {
    /// PEM certificates of the authorities that are trusted; `None` = the system's.
    pub ca_file: Option<PathBuf>,
    /// Our own certificate chain and its key, both PEM.
    pub identity: Option<(PathBuf, PathBuf)>,
    /// The name that the other end's certificate must have, where it is not the endpoint's host.
    pub server_name: Option<String>,
}

/// As the file has it.
#[derive(Default)]
pub(super) struct Raw {
    ca_file: Option<At<String>>,
    cert_file: Option<At<String>>,
    key_file: Option<At<String>>,
    server_name: Option<At<String>>,
}

// === impl Raw ===

impl Raw {
    pub(super) fn read(section: &mut Section<'_, '_>) -> Self {
        let Some(mut tls) = section.section("tls") else { return Self::default() };
        let raw = Self {
            ca_file: tls.string("ca_file"),
            cert_file: tls.string("cert_file"),
            key_file: tls.string("key_file"),
            server_name: tls.string("server_name"),
        };
        tls.finish();
        raw
    }

    pub(super) fn resolve(self, faults: &mut Faults) -> Tls {
        let ca_file = path(self.ca_file, "otlp.tls.ca_file", faults);
        let cert = path(self.cert_file, "otlp.tls.cert_file", faults);
        let key = path(self.key_file, "otlp.tls.key_file", faults);
        let identity = match (cert, key) {
            (Some(cert), Some(key)) => Some((cert, key)),
            (None, None) => None,
            (Some(_), None) => {
                faults.push(None, "otlp.tls.key_file", "is missing; cert_file needs its key");
                None
            }
            (None, Some(_)) => {
                faults.push(None, "otlp.tls.cert_file", "is missing; key_file needs its certificate");
                None
            }
        };
        if let Some(At { line, value }) = &self.server_name
            && rustls::pki_types::ServerName::try_from(value.as_str()).is_err()
        {
            faults.push(Some(*line), "otlp.tls.server_name", "must be the name of a host, or an IP address");
        }
        Tls { ca_file, identity, server_name: self.server_name.map(|at| at.value) }
    }
}

fn path(raw: Option<At<String>>, key: &str, faults: &mut Faults) -> Option<PathBuf> {
    let At { line, value } = raw?;
    if !value.starts_with('/') {
        faults.push(Some(line), key, "must be the absolute path of a file");
    }
    Some(PathBuf::from(value))
}
