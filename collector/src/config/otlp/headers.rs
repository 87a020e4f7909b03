//! `[otlp.headers]`: headers of every request, the secret ones from a file or the environment.
//!
//! A value never appears in a fault, in a log or in `Debug`.

use std::{fmt, path::PathBuf};

use hyper::header::{self, HeaderName};

use crate::config::{
    option::{Heading, Shown},
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

enum Raw {
    Text(String),
    Table { file: Option<At<String>>, env: Option<At<String>>, prefix: Option<At<String>> },
}

pub(super) const HEADING: Heading = Heading {
    name: "otlp.headers",
    says: "Headers of every request: a value, or where it is. A file is read again when it changes.",
    is_comment: true,
    options: &[&Shown(concat!(
        "x-scope-orgid = \"tenant\"\n",
        "authorization = { prefix = \"Bearer \", file = \"/run/secrets/token\" }\n",
        "api-key = { env = \"API_KEY\" }",
    ))],
};

/// What the sink itself says.
const OURS: [HeaderName; 6] = [
    header::CONNECTION,
    header::CONTENT_ENCODING,
    header::CONTENT_LENGTH,
    header::CONTENT_TYPE,
    header::HOST,
    header::TRANSFER_ENCODING,
];

// === impl Header ===

impl Header {
    pub(super) fn read_all(section: &mut Section<'_, '_>) -> Vec<Self> {
        let Some(mut headers) = section.section("headers") else { return Vec::new() };
        let mut all = Vec::new();
        for (line, name) in headers.keys() {
            let raw = if let Some(text) = headers.take_text(&name) {
                Raw::Text(text)
            } else if let Some(mut table) = headers.table(&name) {
                let (file, env) = (table.string("file"), table.string("env"));
                let prefix = table.string("prefix");
                table.finish();
                Raw::Table { file, env, prefix }
            } else {
                continue;
            };
            match resolve(&name, raw) {
                Ok(header) => all.push(header),
                Err(message) => headers.refuse(line, &name, &message),
            }
        }
        headers.finish();
        all
    }
}

/// The header, or what is wrong with it.
fn resolve(name: &str, raw: Raw) -> Result<Header, String> {
    let Ok(name) = HeaderName::try_from(name) else { return Err("is no name of a header".to_owned()) };
    if OURS.contains(&name) {
        return Err("is set by the sink itself".to_owned());
    }
    let value = match raw {
        Raw::Text(text) => HeaderValue::Text(text),
        Raw::Table { file: Some(At { value, .. }), env: None, prefix } => {
            if !value.starts_with('/') {
                return Err("needs the absolute path of a file".to_owned());
            }
            HeaderValue::File { prefix: text(prefix), path: PathBuf::from(value) }
        }
        Raw::Table { file: None, env: Some(At { value: variable, .. }), prefix } => {
            let value = std::env::var(&variable).map_err(|_| {
                format!("names the environment variable {variable}, which is not set (or is no text)")
            })?;
            HeaderValue::Text(text(prefix) + value.trim())
        }
        Raw::Table { .. } => return Err("needs either file or env".to_owned()),
    };
    if let HeaderValue::Text(text) = &value
        && hyper::header::HeaderValue::from_str(text).is_err()
    {
        return Err("has a value that no header may have (a line break, or a control character)".to_owned());
    }
    Ok(Header { name, value })
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
