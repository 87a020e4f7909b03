//! Headers of requests, with secrets that may change while we run.
//!
//! A value is marked as sensitive and never logged.

use std::{fs, io, path::PathBuf, time::Duration};

use hyper::{HeaderMap, header::HeaderName, header::HeaderValue};
use tokio::time::Instant;
use tracing::warn;

use super::OtlpFault;
use crate::config;

/// Files are looked at again after this: Kubernetes replaces a token an hour before it expires.
const REREAD: Duration = Duration::from_secs(30);
/// More than any token; what is larger was named by mistake.
const SECRET_MAX: u64 = 64 << 10;

/// The headers of every request.
#[derive(Debug)]
pub(super) struct Headers {
    map: HeaderMap,
    files: Vec<Secret>,
    read: Instant,
}

/// A header whose value is in a file.
#[derive(Debug)]
struct Secret {
    name: HeaderName,
    prefix: String,
    path: PathBuf,
}

// === impl Headers ===

impl Headers {
    /// Reads the secrets for the first time.
    ///
    /// # Errors
    /// One of them is not there, or not what a header may hold.
    pub(super) fn read(config: &[config::Header]) -> Result<Self, OtlpFault> {
        let (mut map, mut files) = (HeaderMap::new(), Vec::new());
        for header in config {
            let name = header.name.clone();
            match &header.value {
                config::HeaderValue::Text(text) => {
                    // `check` has tried it.
                    if let Ok(value) = HeaderValue::from_str(text) {
                        map.append(name, sensitive(value));
                    }
                }
                config::HeaderValue::File { prefix, path } => {
                    let secret = Secret { name, prefix: prefix.clone(), path: path.clone() };
                    map.append(secret.name.clone(), secret.value()?);
                    files.push(secret);
                }
            }
        }
        Ok(Self { map, files, read: Instant::now() })
    }

    /// The headers now. A secret that cannot be read at this moment stays what it was.
    pub(super) fn current(&mut self) -> &HeaderMap {
        if !self.files.is_empty() && self.read.elapsed() >= REREAD {
            self.read = Instant::now();
            for secret in &self.files {
                match secret.value() {
                    Ok(value) => drop(self.map.insert(secret.name.clone(), value)),
                    Err(fault) => warn!(error = %fault, "secret cannot be read; keeping the last one"),
                }
            }
        }
        &self.map
    }
}

// === impl Secret ===

impl Secret {
    fn value(&self) -> Result<HeaderValue, OtlpFault> {
        let key = || format!("otlp.headers.{}", self.name);
        let unreadable = |source| OtlpFault::Unreadable { key: key(), path: self.path.clone(), source };
        if fs::metadata(&self.path).map_err(unreadable)?.len() > SECRET_MAX {
            return Err(unreadable(io::Error::from(io::ErrorKind::FileTooLarge)));
        }
        let text = fs::read_to_string(&self.path).map_err(unreadable)?;
        let value = format!("{}{}", self.prefix, text.trim());
        match HeaderValue::from_str(&value) {
            Ok(value) if !text.trim().is_empty() => Ok(sensitive(value)),
            _ => Err(OtlpFault::Unusable { key: key(), path: self.path.clone(), what: "value for a header" }),
        }
    }
}

fn sensitive(mut value: HeaderValue) -> HeaderValue {
    value.set_sensitive(true);
    value
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;

    /// The clock stands still but for what the test lets pass.
    #[tokio::test(start_paused = true)]
    async fn a_secret_is_read_again_and_one_that_cannot_be_stays_what_it_was() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let path = dir.path().join("token");
        let write = |text: &str| fs::write(&path, text).expect("writable");
        write("first\n");
        let name = HeaderName::from_static;
        let value = config::HeaderValue::File { prefix: "Bearer ".to_owned(), path: path.clone() };
        let text = config::HeaderValue::Text("tenant".to_owned());
        let mut headers = Headers::read(&[
            config::Header { name: name("authorization"), value },
            config::Header { name: name("x-scope-orgid"), value: text },
        ])
        .expect("a secret");
        let mut current = || {
            let map = headers.current();
            assert_eq!(map.get_all("x-scope-orgid").iter().collect::<Vec<_>>(), ["tenant"]);
            let mut values = map.get_all("authorization").iter();
            let value = values.next().expect("a value");
            assert!(value.is_sensitive() && values.next().is_none(), "one, and never logged");
            value.to_str().expect("text").to_owned()
        };
        assert_eq!(current(), "Bearer first");

        write("second\n");
        advance(REREAD.mul_f64(0.9)).await;
        assert_eq!(current(), "Bearer first", "not for each request");
        advance(REREAD.mul_f64(0.1)).await;
        assert_eq!(current(), "Bearer second");

        // Emptied, no value for a header, larger than any, gone.
        let large = "x".repeat(usize::try_from(SECRET_MAX).expect("it fits") + 1);
        for unusable in [Some("\n"), Some("a\nb"), Some(large.as_str()), None] {
            match unusable {
                Some(text) => write(text),
                None => fs::remove_file(&path).expect("it is there"),
            }
            advance(REREAD).await;
            assert_eq!(current(), "Bearer second", "{:?}", unusable.map(str::len));
        }
        write("third");
        advance(REREAD).await;
        assert_eq!(current(), "Bearer third");
    }
}
