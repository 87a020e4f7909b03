//! TLS 1.2 and 1.3 by rustls, with the system's authorities or one's own, and with a certificate of ours where asked.

use std::{path::Path, sync::Arc};

use hyper_rustls::ConfigBuilderExt;
use rustls::{
    ClientConfig, RootCertStore,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, pem, pem::PemObject},
};

use super::OtlpFault;
use crate::config;

/// What a connection is encrypted with. For a plain endpoint nothing is read and nobody is trusted.
pub(super) fn config(tls: &config::Tls, is_https: bool) -> Result<ClientConfig, OtlpFault> {
    let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()));
    let builder =
        builder.with_safe_default_protocol_versions().map_err(|source| OtlpFault::Certificate { source })?;
    let builder = match &tls.ca_file {
        Some(path) => builder.with_root_certificates(roots(path)?),
        None if is_https => builder.with_native_roots().map_err(|source| OtlpFault::Roots { source })?,
        None => builder.with_root_certificates(RootCertStore::empty()),
    };
    let Some((cert, key)) = &tls.identity else { return Ok(builder.with_no_client_auth()) };
    let chain = certificates(cert, "otlp.tls.cert_file")?;
    let key = PrivateKeyDer::from_pem_file(key).map_err(|fault| unusable(fault, key, "otlp.tls.key_file"))?;
    builder.with_client_auth_cert(chain, key).map_err(|source| OtlpFault::Certificate { source })
}

fn roots(path: &Path) -> Result<RootCertStore, OtlpFault> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(path, "otlp.tls.ca_file")? {
        roots.add(certificate).map_err(|source| OtlpFault::Certificate { source })?;
    }
    Ok(roots)
}

fn certificates(path: &Path, key: &str) -> Result<Vec<CertificateDer<'static>>, OtlpFault> {
    let fault = |fault| unusable(fault, path, key);
    let all: Vec<_> =
        CertificateDer::pem_file_iter(path).map_err(fault)?.collect::<Result<_, _>>().map_err(fault)?;
    if all.is_empty() {
        return Err(fault(pem::Error::NoItemsFound));
    }
    Ok(all)
}

fn unusable(fault: pem::Error, path: &Path, key: &str) -> OtlpFault {
    let (key, path) = (key.to_owned(), path.to_owned());
    match fault {
        pem::Error::Io(source) => OtlpFault::Unreadable { key, path, source },
        _ => OtlpFault::Unusable { key, path, what: "certificate or key in PEM" },
    }
}
