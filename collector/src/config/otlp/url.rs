//! Where to: the endpoint and the proxy.

use std::fmt;

use hyper::Uri;

use super::ProxyName;
use crate::{
    closed::Closed,
    config::{
        option::{Given, Text},
        section::{At, Section},
    },
};

/// Where log records are posted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// http or https, with a host; ends in `/v1/logs`.
    pub uri: Uri,
}

/// What stands between.
#[derive(Clone, PartialEq, Eq)]
pub enum Proxy {
    /// What the environment says.
    Environment,
    /// Nothing.
    None,
    /// This one; may hold a password.
    Url(String),
}

/// Where OTLP receivers take log records.
const PATH: &str = "/v1/logs";

/// The URL that requests go to: the path that OTLP prescribes is appended where it is not there.
pub(super) fn endpoint(section: &mut Section<'_, '_>, option: &Given) -> Option<Endpoint> {
    let key = option.key;
    let Some(At { line, value }) = section.given(option) else {
        section.lacks(key, "is missing; the OTLP sink needs a URL, as \"http://127.0.0.1:4318\"");
        return None;
    };
    let Some(uri) = parse(&value, &["http", "https"]) else {
        section.refuse(line, key, "must be a URL, as \"https://collector.example:4318\"");
        return None;
    };
    if uri.authority().is_some_and(|authority| authority.as_str().contains('@')) {
        section.refuse(line, key, "must not hold a name or password; use otlp.headers for credentials");
        return None;
    }
    let path = uri.path().trim_end_matches('/');
    let path = if path.ends_with(PATH) { path.to_owned() } else { format!("{path}{PATH}") };
    let path = match uri.query() {
        Some(query) => format!("{path}?{query}"),
        None => path,
    };
    let mut parts = uri.into_parts();
    parts.path_and_query = path.parse().ok();
    // All of it was part of a URL before.
    Some(Endpoint { uri: Uri::from_parts(parts).ok()? })
}

pub(super) fn proxy(section: &mut Section<'_, '_>, option: &Text) -> Option<Proxy> {
    let At { line, value } = section.text(option);
    match ProxyName::named(&value) {
        Some(ProxyName::Environment) => return Some(Proxy::Environment),
        Some(ProxyName::None) => return Some(Proxy::None),
        None => {}
    }
    if parse(&value, &["http"]).is_none() {
        let what = "must be \"environment\", \"none\" or a URL, as \"http://proxy.example:3128\"";
        section.refuse(line, option.key, what);
        return None;
    }
    Some(Proxy::Url(value))
}

fn parse(text: &str, schemes: &[&str]) -> Option<Uri> {
    let uri: Uri = text.parse().ok()?;
    let scheme = uri.scheme_str().is_some_and(|scheme| schemes.contains(&scheme));
    let host = uri.host().is_some_and(|host| !host.is_empty());
    (scheme && host).then_some(uri)
}

/// Never the URL: it may hold a password.
impl fmt::Debug for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Environment => "Environment",
            Self::None => "None",
            Self::Url(_) => "Url",
        })
    }
}
