//! The TCP listener: expositions and health. It never shows log content, configuration or commands.

use std::io::Write;

use bytes::Bytes;
use flate2::{Compression, write::GzEncoder};
use hyper::{
    Method, Request, Response, StatusCode,
    body::Incoming,
    header::{ACCEPT_ENCODING, ALLOW, CONTENT_ENCODING, CONTENT_TYPE, HeaderValue, VARY},
};

use super::{body::Answer, server::State};
use crate::{
    config::{Profile, Scope},
    metrics::{self, CONTENT_TYPE as EXPOSITION, Wanted},
};

/// Bodies below this are not worth compressing.
const COMPRESS_FROM: usize = 1_024;

/// Answers one request.
pub(super) fn answer(state: &State, request: &Request<Incoming>) -> Response<Answer> {
    if request.method() != Method::GET && request.method() != Method::HEAD {
        let mut refused = plain(StatusCode::METHOD_NOT_ALLOWED, "only GET\n");
        refused.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
        return refused;
    }
    match request.uri().path() {
        "/metrics" => exposition(request, metrics::render_own(&state.registry)),
        "/metrics/cadvisor" => cadvisor(state, request),
        "/healthz" => plain(StatusCode::OK, "ok\n"),
        "/readyz" if *state.ready.borrow() => plain(StatusCode::OK, "ok\n"),
        "/readyz" => plain(StatusCode::SERVICE_UNAVAILABLE, "wrappers cannot connect\n"),
        "/" => plain(StatusCode::OK, "shimtap: /metrics /metrics/cadvisor /healthz /readyz\n"),
        _ => plain(StatusCode::NOT_FOUND, "no such page\n"),
    }
}

fn cadvisor(state: &State, request: &Request<Incoming>) -> Response<Answer> {
    let mut wanted = Wanted { scope: state.scope, profile: Profile::Full, times: true };
    for pair in request.uri().query().unwrap_or_default().split('&').filter(|pair| !pair.is_empty()) {
        match pair.split_once('=').unwrap_or((pair, "")) {
            ("scope", name) => match Scope::named(name) {
                Some(named) => wanted.scope = named,
                None => return plain(StatusCode::BAD_REQUEST, "scope must be vm or all\n"),
            },
            ("profile", name) => match Profile::named(name) {
                Some(named) => wanted.profile = named,
                None => return plain(StatusCode::BAD_REQUEST, "profile must be full or minimal\n"),
            },
            ("timestamps", "0") => wanted.times = false,
            ("timestamps", "1") => wanted.times = true,
            ("timestamps", _) => return plain(StatusCode::BAD_REQUEST, "timestamps must be 0 or 1\n"),
            // Scrapers add parameters of their own.
            _ => {}
        }
    }
    exposition(request, metrics::render_cadvisor(&state.registry, wanted))
}

fn exposition(request: &Request<Incoming>, text: String) -> Response<Answer> {
    let mut body = text.into_bytes();
    let mut encoding = None;
    if body.len() >= COMPRESS_FROM && accepts_gzip(request) {
        let mut encoder = GzEncoder::new(Vec::with_capacity(body.len() / 8), Compression::fast());
        // Writing to memory does not fail; if it did, the plain text would be as good.
        if encoder.write_all(&body).is_ok()
            && let Ok(packed) = encoder.finish()
        {
            body = packed;
            encoding = Some(HeaderValue::from_static("gzip"));
        }
    }
    let mut response = Response::new(Answer::from(Bytes::from(body)));
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(EXPOSITION));
    headers.insert(VARY, HeaderValue::from_static("accept-encoding"));
    if let Some(encoding) = encoding {
        headers.insert(CONTENT_ENCODING, encoding);
    }
    response
}

/// True where the client names gzip and does not give it the weight 0.
fn accepts_gzip(request: &Request<Incoming>) -> bool {
    request.headers().get_all(ACCEPT_ENCODING).iter().filter_map(|value| value.to_str().ok()).any(|value| {
        value.split(',').any(|item| {
            let mut parts = item.split(';').map(str::trim);
            let refused = |part: &str| matches!(part, "q=0" | "q=0.0" | "q=0.00" | "q=0.000");
            parts.next().is_some_and(|name| name.eq_ignore_ascii_case("gzip")) && !parts.any(refused)
        })
    })
}

/// A short text.
pub(super) fn plain(status: StatusCode, text: impl Into<Bytes>) -> Response<Answer> {
    let mut response = Response::new(Answer::from(text.into()));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    response
}
