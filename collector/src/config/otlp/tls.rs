//! `[otlp.tls]`: whom to trust, and who we are.

use std::path::PathBuf;

use crate::config::{
    option::{Given, Heading},
    section::{At, Section},
};

/// As it stands in the file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tls {
    /// PEM certificates of the authorities that are trusted; `None` = the system's.
    pub ca_file: Option<PathBuf>,
    /// Our own certificate chain and its key, both PEM.
    pub identity: Option<(PathBuf, PathBuf)>,
    /// The name that the other end's certificate must have, where it is not the endpoint's host.
    pub server_name: Option<String>,
}

const CA_FILE: Given = Given {
    key: "ca_file",
    says: "PEM certificates of the authorities that are trusted, instead of the system's.",
    example: "/etc/shimtap/ca.pem",
};
const CERT_FILE: Given = Given {
    key: "cert_file",
    says: "Our own certificate chain, for endpoints that want one; with key_file.",
    example: "/etc/shimtap/cert.pem",
};
const KEY_FILE: Given =
    Given { key: "key_file", says: "Its key; with cert_file.", example: "/etc/shimtap/key.pem" };
const SERVER_NAME: Given = Given {
    key: "server_name",
    says: "The name in the endpoint's certificate, where it is not the host of the URL.",
    example: "logs.example",
};

pub(super) const HEADING: Heading = Heading {
    name: "otlp.tls",
    says: "",
    is_comment: true,
    options: &[&CA_FILE, &CERT_FILE, &KEY_FILE, &SERVER_NAME],
};

// === impl Tls ===

impl Tls {
    pub(super) fn read(section: &mut Section<'_, '_>) -> Self {
        let Some(mut tls) = section.section("tls") else { return Self::default() };
        let ca_file = tls.given_path(&CA_FILE);
        let identity = match (tls.given_path(&CERT_FILE), tls.given_path(&KEY_FILE)) {
            (Some(cert), Some(key)) => Some((cert, key)),
            (None, None) => None,
            (Some(_), None) => {
                tls.lacks(KEY_FILE.key, "is missing; cert_file needs its key");
                None
            }
            (None, Some(_)) => {
                tls.lacks(CERT_FILE.key, "is missing; key_file needs its certificate");
                None
            }
        };
        let server_name = tls.given(&SERVER_NAME);
        if let Some(At { line, value }) = &server_name
            && rustls::pki_types::ServerName::try_from(value.as_str()).is_err()
        {
            tls.refuse(*line, SERVER_NAME.key, "must be the name of a host, or an IP address");
        }
        tls.finish();
        Self { ca_file, identity, server_name: server_name.map(|at| at.value) }
    }
}
