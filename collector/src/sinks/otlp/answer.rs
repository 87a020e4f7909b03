//! What an answer means: OTLP/HTTP's rules for status codes, partial success and Retry-After.

use std::time::{Duration, SystemTime};

use hyper::{
    HeaderMap, StatusCode,
    header::{CONTENT_TYPE, RETRY_AFTER},
};
use opentelemetry_proto::tonic::collector::logs::v1::{ExportLogsPartialSuccess, ExportLogsServiceResponse};
use prost::Message;

use crate::sinks::{Trouble, frame::Verdict};

/// Of what the other end says, as much goes into our log.
const SAID_MAX: usize = 256;

/// What became of a request that was answered with `status`.
pub(super) fn verdict(status: StatusCode, headers: &HeaderMap, body: &[u8]) -> Verdict {
    let trouble = match status.as_u16() {
        200..=299 => return Verdict::Taken { rejected: partial_success(headers, body).0 },
        413 => return Verdict::TooLarge,
        429 => Trouble::Throttled,
        408 | 502..=504 => Trouble::Unavailable,
        300..=399 => Trouble::Redirect,
        401 | 403 | 407 => Trouble::Unauthorized,
        404 | 405 => Trouble::NotFound,
        400..=499 => Trouble::ClientError,
        _ => Trouble::ServerError,
    };
    let said = said(headers, body);
    let error = format!("the endpoint answered {status}{said}");
    match trouble {
        Trouble::Throttled | Trouble::Unavailable => {
            Verdict::Later { trouble, label: None, error, after: retry_after(headers, SystemTime::now()) }
        }
        _ => Verdict::Never { trouble, error },
    }
}

/// How many records of a request that was taken were not, and what was said about it. A body that is neither form of
/// the response says nothing: receivers send what they like.
pub(super) fn partial_success(headers: &HeaderMap, body: &[u8]) -> (u64, String) {
    let partial = if is_json(headers) { from_json(body) } else { from_protobuf(body) };
    let Some(partial) = partial else { return (0, String::new()) };
    let rejected = u64::try_from(partial.rejected_log_records).unwrap_or(0);
    (rejected, clean(&partial.error_message))
}

fn from_protobuf(body: &[u8]) -> Option<ExportLogsPartialSuccess> {
    ExportLogsServiceResponse::decode(body).ok()?.partial_success
}

fn from_json(body: &[u8]) -> Option<ExportLogsPartialSuccess> {
    let value: serde_json::Value = serde_json::from_slice(body).ok()?;
    let partial = value.get("partialSuccess")?;
    // JSON has 64-bit numbers as text, says protobuf; many write a number.
    let rejected = partial.get("rejectedLogRecords");
    let rejected = rejected.and_then(|n| n.as_i64().or_else(|| n.as_str()?.parse().ok())).unwrap_or(0);
    let message = partial.get("errorMessage").and_then(serde_json::Value::as_str).unwrap_or_default();
    Some(ExportLogsPartialSuccess { rejected_log_records: rejected, error_message: message.to_owned() })
}

/// Seconds, or a date.
fn retry_after(headers: &HeaderMap, now: SystemTime) -> Option<Duration> {
    let value = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    match value.parse() {
        Ok(seconds) => Some(Duration::from_secs(seconds)),
        Err(_) => Some(httpdate::parse_http_date(value).ok()?.duration_since(now).unwrap_or_default()),
    }
}

fn is_json(headers: &HeaderMap) -> bool {
    let kind = headers.get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    kind.trim_start().starts_with("application/json")
}

/// The reason that a person should see: text as it is, of a protobuf Status its message.
fn said(headers: &HeaderMap, body: &[u8]) -> String {
    let kind = headers.get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    let text = if kind.starts_with("application/x-protobuf") {
        Status::decode(body).map(|status| status.message).unwrap_or_default()
    } else {
        String::from_utf8_lossy(body.get(..SAID_MAX).unwrap_or(body)).into_owned()
    };
    let text = clean(&text);
    if text.is_empty() { text } else { format!(": {text}") }
}

/// One line of bounded length.
fn clean(text: &str) -> String {
    let text: String = text.chars().take(SAID_MAX).map(|c| if c.is_control() { ' ' } else { c }).collect();
    text.trim().to_owned()
}

/// google.rpc.Status, as far as we read it.
#[derive(Clone, PartialEq, Message)]
struct Status {
    #[prost(string, tag = "2")]
    message: String,
}

#[cfg(test)]
mod tests {
    use hyper::header::HeaderValue;

    use super::*;

    fn headers(all: &[(&'static str, &str)]) -> HeaderMap {
        all.iter()
            .map(|(name, value)| {
                (name.parse().expect("a name"), HeaderValue::from_str(value).expect("a value"))
            })
            .collect()
    }

    fn of(code: u16) -> Verdict {
        verdict(StatusCode::from_u16(code).expect("a code"), &HeaderMap::new(), b"")
    }

    #[test]
    fn only_what_otlp_lists_and_408_is_tried_again() {
        let later: Vec<u16> = (200..600).filter(|code| matches!(of(*code), Verdict::Later { .. })).collect();
        assert_eq!(later, [408, 429, 502, 503, 504]);
        let taken = (200..600).filter(|code| matches!(of(*code), Verdict::Taken { .. }));
        assert_eq!(taken.collect::<Vec<_>>(), (200..300).collect::<Vec<_>>());
        assert!(matches!(of(413), Verdict::TooLarge));
        for (code, expected) in [
            (301, Trouble::Redirect),
            (400, Trouble::ClientError),
            (401, Trouble::Unauthorized),
            (404, Trouble::NotFound),
            (500, Trouble::ServerError),
        ] {
            assert!(matches!(of(code), Verdict::Never { trouble, .. } if trouble == expected), "{code}");
        }
    }

    #[test]
    fn retry_after_is_seconds_or_a_date() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(784_111_777);
        let after = |value| retry_after(&headers(&[("retry-after", value)]), now);
        assert_eq!(after("7"), Some(Duration::from_secs(7)));
        // 784111777 is Sun, 06 Nov 1994 08:49:37 GMT.
        assert_eq!(after("Sun, 06 Nov 1994 08:50:37 GMT"), Some(Duration::from_secs(60)));
        assert_eq!(after("Sun, 06 Nov 1994 08:00:00 GMT"), Some(Duration::ZERO), "a date that is over");
        assert_eq!(after("soon"), None);
        assert_eq!(retry_after(&HeaderMap::new(), now), None);
    }

    #[test]
    fn partial_success_is_read_in_both_forms() {
        let partial = ExportLogsPartialSuccess { rejected_log_records: 3, error_message: "too\nold".into() };
        let body = ExportLogsServiceResponse { partial_success: Some(partial) }.encode_to_vec();
        let protobuf = headers(&[("content-type", "application/x-protobuf")]);
        assert_eq!(partial_success(&protobuf, &body), (3, "too old".into()));
        let json = headers(&[("content-type", "application/json; charset=utf-8")]);
        let body = br#"{"partialSuccess":{"rejectedLogRecords":"3","errorMessage":"too old"}}"#;
        assert_eq!(partial_success(&json, body), (3, "too old".into()));
        assert_eq!(partial_success(&json, b"{}"), (0, String::new()));
        assert_eq!(partial_success(&protobuf, b""), (0, String::new()));
        assert_eq!(partial_success(&HeaderMap::new(), b"<html>"), (0, String::new()));
    }

    #[test]
    fn what_was_said_is_one_short_line() {
        let plain = headers(&[("content-type", "text/plain")]);
        let error = match verdict(StatusCode::BAD_REQUEST, &plain, "bad\nrecord\u{1b}[31m".as_bytes()) {
            Verdict::Never { error, .. } => error,
            other => panic!("{other:?}"),
        };
        assert_eq!(error, "the endpoint answered 400 Bad Request: bad record [31m");
        assert!(said(&plain, &[b'x'; 10_000]).len() < 300);
        let status = Status { message: "nope".into() }.encode_to_vec();
        assert_eq!(said(&headers(&[("content-type", "application/x-protobuf")]), &status), ": nope");
    }
}
