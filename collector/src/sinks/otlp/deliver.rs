//! One attempt: a request over HTTP, and what its answer means.

use std::{error::Error, fmt::Write, io, sync::Arc, time::Duration};

use bytes::Bytes;
use http_body_util::{BodyExt, Limited as LimitedBody};
use hyper::{
    HeaderMap, Request, StatusCode, Uri,
    header::{CONTENT_ENCODING, CONTENT_TYPE, HeaderValue, USER_AGENT},
};
use tokio::time::timeout;
use tracing::warn;

use super::{
    answer,
    body::Body,
    connect::{Connect, Http, NameFault},
    encode::Parcel,
    headers::Headers,
};
use crate::{
    config,
    limited::Limited,
    metrics::{SinkTotals, Status},
    sinks::{
        Trouble,
        frame::{Deliver, Verdict},
    },
};

/// More than an answer needs; the rest is not read, and the connection not used again.
const ANSWER_MAX: usize = 64 << 10;
const AGENT: &str = concat!("shimtap/", env!("CARGO_PKG_VERSION"));

/// The endpoint.
pub(super) struct ToOtlp {
    /// Made on the sink's own runtime, at the first request.
    connect: Option<Connect>,
    http: Option<Http>,
    uri: Uri,
    headers: Headers,
    patience: Duration,
    sink: Arc<SinkTotals>,
    partial: Limited,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
enum Unanswered {
    #[error("asking the endpoint: {}", chain(.0))]
    Http(#[source] hyper_util::client::legacy::Error),
    #[error("reading the endpoint's answer: {}", chain(&**.0))]
    Answer(#[source] Box<dyn Error + Send + Sync>),
    #[error("the endpoint did not answer within {}s", .0.as_secs())]
    Late(Duration),
}

// === impl ToOtlp ===

impl ToOtlp {
    pub(super) fn new(
        config: &config::Otlp,
        connect: Connect,
        headers: Headers,
        sink: Arc<SinkTotals>,
    ) -> Self {
        Self {
            connect: Some(connect),
            http: None,
            uri: config.endpoint.uri.clone(),
            headers,
            patience: config.timeout,
            sink,
            partial: Limited::new(),
        }
    }

    fn request(&mut self, parcel: &Parcel) -> Request<Body> {
        let mut request = Request::new(parcel.body());
        *request.method_mut() = hyper::Method::POST;
        *request.uri_mut() = self.uri.clone();
        let headers = request.headers_mut();
        headers.insert(USER_AGENT, HeaderValue::from_static(AGENT));
        headers.extend(self.headers.current().clone());
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/x-protobuf"));
        if let Some(value) = parcel.compression().header() {
            headers.insert(CONTENT_ENCODING, value);
        }
        request
    }

    /// Asks and reads the answer.
    async fn ask(&mut self, parcel: &Parcel) -> Result<(StatusCode, HeaderMap, Bytes), Unanswered> {
        let request = self.request(parcel);
        let connect = &mut self.connect;
        let http = self.http.get_or_insert_with(|| {
            connect.take().expect("it is taken here, once, where there is no client yet").client()
        });
        let asking = async {
            let answer = http.request(request).await.map_err(Unanswered::Http)?;
            let (head, body) = answer.into_parts();
            let body = match LimitedBody::new(body, ANSWER_MAX).collect().await {
                Ok(body) => body.to_bytes(),
                // The status says all that counts.
                Err(fault) if fault.is::<http_body_util::LengthLimitError>() => Bytes::new(),
                Err(fault) => return Err(Unanswered::Answer(fault)),
            };
            Ok((head.status, head.headers, body))
        };
        timeout(self.patience, asking).await.unwrap_or(Err(Unanswered::Late(self.patience)))
    }

    fn say_partial(&self, headers: &HeaderMap, body: &[u8]) {
        let (records, error) = answer::partial_success(headers, body);
        if records > 0 || !error.is_empty() {
            let sink = self.sink.name;
            self.partial.say(|hidden| {
                warn!(sink, records, %error, hidden, "endpoint took a request in part; what it refused is counted");
            });
        }
    }
}

impl Deliver<Parcel> for ToOtlp {
    async fn deliver(&mut self, parcel: &mut Parcel) -> Verdict {
        self.sink.bytes.add(u64::try_from(parcel.body().len()).unwrap_or(u64::MAX));
        match self.ask(parcel).await {
            Ok((status, headers, body)) => {
                self.sink.requests.add(Status::of(status.as_u16()), 1);
                if status.is_success() {
                    self.say_partial(&headers, &body);
                }
                answer::verdict(status, &headers, &body)
            }
            Err(fault) => {
                self.sink.requests.add(Status::None, 1);
                Verdict::Later {
                    trouble: fault.trouble(),
                    label: None,
                    error: fault.to_string(),
                    after: None,
                }
            }
        }
    }
}

// === impl Unanswered ===

impl Unanswered {
    fn trouble(&self) -> Trouble {
        let (cause, connecting): (&(dyn Error + 'static), _) = match self {
            Self::Late(_) => return Trouble::Timeout,
            Self::Http(fault) => (fault, fault.is_connect()),
            Self::Answer(fault) => (&**fault, false),
        };
        if find::<NameFault>(cause) {
            Trouble::Dns
        } else if find::<rustls::Error>(cause) {
            Trouble::Tls
        } else if connecting {
            Trouble::Connect
        } else {
            Trouble::ConnectionLost
        }
    }
}

/// True where an error of that type is among the causes. An io::Error hides what it wraps from `source`.
fn find<E: Error + 'static>(top: &(dyn Error + 'static)) -> bool {
    let mut next = Some(top);
    while let Some(error) = next {
        if error.is::<E>() {
            return true;
        }
        next = match error.downcast_ref::<io::Error>().and_then(io::Error::get_ref) {
            Some(wrapped) => Some(wrapped),
            None => error.source(),
        };
    }
    false
}

/// An error with its causes, for a person: those of an HTTP client say little by themselves.
fn chain(top: &(dyn Error + 'static)) -> String {
    let mut text = top.to_string();
    let mut next = top.source();
    while let Some(error) = next {
        let more = error.to_string();
        if !text.ends_with(&more) {
            // Writing to a string cannot fail.
            let _ = write!(text, ": {more}");
        }
        next = error.source();
    }
    text
}
