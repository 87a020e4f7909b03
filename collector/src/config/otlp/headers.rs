//! `[otlp.headers]`: headers of every request, the secret ones from a file or the environment.
//!
//! A value never appears in a fault, in a log or in `Debug`.

use std::{fmt, path::PathBuf};

use hyper::header::{self, HeaderName};

use crate::config::{
    fault::Faults,
    section::{At, Section},
};

/// One header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    /// Its name.
    pub name: HeaderName,
    /// Its value, or where that is.
    pub value: HeaderValue,
}

/// A header's value, or where that is.
#[derive(Clone, PartialEq, Eq)]
pub enum HeaderValue {
    /// Itself.
    Text(String),
    /// In a file, which is read again and again: tokens are replaced there.
    File {
        /// Stands before what the file holds, as `Bearer `.
        prefix: String,
        /// The file.
        path: PathBuf,
    },
}

/// As the file has it.
pub(super) struct Raw {
    line: usize,
    name: String,
    value: RawValue,
}

enum RawValue {
    Text(String),
    Table { file: Option<At<String>>, env: Option<At<String>>, prefix: Option<At<String>> },
}

/// What the sink itself says.
const OURS: [HeaderName; 6] = [
    header::CONNECTION,
    header::CONTENT_ENCODING,
    header::CONTENT_LENGTH,
    header::CONTENT_TYPE,
    header::HOST,
    header::TRANSFER_ENCODING,
];

// === impl Raw ===

impl Raw {
    pub(super) fn read(section: &mut Section<'_, '_>) -> Vec<Self> {
        let Some(mut headers) = section.section("headers") else { return Vec::new() };
        let mut all = Vec::new();
        for (line, name) in headers.keys() {
            if let Some(text) = headers.take_text(&name) {
                all.push(Self { line, name, value: RawValue::Text(text) });
            } else if let Some(mut table) = headers.table(&name) {
                let (file, env) = (table.string("file"), table.string("env"));
                let prefix = table.string("prefix");
                table.finish();
                all.push(Self { line, name, value: RawValue::Table { file, env, prefix } });
            }
        }
        headers.finish();
        all
    }

    pub(super) fn resolve(self, faults: &mut Faults) -> Option<Header> {
        let key = format!("otlp.headers.{}", self.name);
        let mut fault = |message: &str| faults.push(Some(self.line), key.clone(), message);
        let Ok(name) = HeaderName::try_from(self.name.as_str()) else {
            fault("is no name of a header");
            return None;
        };
        if OURS.contains(&name) {
            fault("is set by the sink itself");
            return None;
        }
        let value = match self.value {
            RawValue::Text(text) => HeaderValue::Text(text),
            RawValue::Table { file: Some(At { value, .. }), env: None, prefix } => {
                if !value.starts_with('/') {
                    fault("needs the absolute path of a file");
                }
                HeaderValue::File { prefix: text(prefix), path: PathBuf::from(value) }
            }
            RawValue::Table { file: None, env: Some(At { value: variable, .. }), prefix } => {
                let Ok(value) = std::env::var(&variable) else {
                    fault(&format!(
                        "names the environment variable {variable}, which is not set (or is no text)"
                    ));
                    return None;
                };
                HeaderValue::Text(text(prefix) + value.trim())
            }
            RawValue::Table { .. } => {
                fault("needs either file or env");
                return None;
            }
        };
        if let HeaderValue::Text(text) = &value
            && hyper::header::HeaderValue::from_str(text).is_err()
        {
            fault("has a value that no header may have (a line break, or a control character)");
            return None;
        }
        Some(Header { name, value })
    }
}

fn text(prefix: Option<At<String>>) -> String {
    prefix.map_or_else(String::new, |at| at.value)
}

/// Never the value.
impl fmt::Debug for HeaderValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Text(_) => f.write_str("Text"),
            Self::File { path, .. } => f.debug_struct("File").field("path", path).finish_non_exhaustive(),
        }
    }
}
