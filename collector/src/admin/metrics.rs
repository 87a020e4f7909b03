//! The TCP listener: expositions and health. It never shows log content, configuration or commands.

use bytes::Bytes;
use hyper::{
    Method, Request, Response, StatusCode,
    body::Incoming,
    header::{ACCEPT_ENCODING, ALLOW, CONTENT_ENCODING, CONTENT_TYPE, HeaderValue, VARY},
};

use super::{body::Answer, copies::Page, server::State};
use crate::{
    closed::Closed,
    config::{Profile, Scope},
    metrics::{CONTENT_TYPE as EXPOSITION, ContainerdState, Packing, Wanted},
};

/// Answers one request.
pub(super) fn answer(state: &State, request: &Request<Incoming>) -> Response<Answer> {
    if request.method() != Method::GET && request.method() != Method::HEAD {
        let mut refused = plain(StatusCode::METHOD_NOT_ALLOWED, "only GET\n");
        refused.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
        return refused;
    }
    match request.uri().path() {
        "/metrics" => exposition(state, request, Page::Own),
        "/metrics/cadvisor" => cadvisor(state, request),
        "/healthz" => plain(StatusCode::OK, "ok\n"),
        "/readyz" if *state.ready.borrow() => plain(StatusCode::OK, ready(state)),
        "/readyz" => plain(StatusCode::SERVICE_UNAVAILABLE, "wrappers cannot connect\n"),
        "/" => plain(StatusCode::OK, "shimtap: /metrics /metrics/cadvisor /healthz /readyz\n"),
        _ => plain(StatusCode::NOT_FOUND, "no such page\n"),
    }
}

/// What is degraded does not make us unready: pods must not wait for it.
fn ready(state: &State) -> &'static str {
    match state.registry.totals.containerd.state().0 {
        ContainerdState::Down => {
            "ok\ncontainerd's API does not answer: names come from OCI annotations alone\n"
        }
        _ => "ok\n",
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
    exposition(state, request, Page::Cadvisor(wanted))
}

fn exposition(state: &State, request: &Request<Incoming>, page: Page) -> Response<Answer> {
    let packing = if accepts_gzip(request) { Packing::Gzip } else { Packing::Plain };
    let body = match state.copies.get(&state.registry, page, packing) {
        Ok(body) => body,
        Err(error) => {
            return plain(
                StatusCode::INTERNAL_SERVER_ERROR,
                format!("cannot make the exposition: {error}\n"),
            );
        }
    };
    let encoding = (packing == Packing::Gzip).then(|| HeaderValue::from_static("gzip"));
    let mut response = Response::new(Answer::from(body));
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
