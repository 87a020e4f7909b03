//! What an OTLP backend holds, as tapes: read from the file of an OpenTelemetry Collector, and from what VictoriaLogs
//! answers.
//!
//! A stream is known by the resource's `container.id` and by `log.record.uid`, whose form docs/configuration.md
//! promises: `<incarnation>-[<process>-]<stream>-<first offset>`.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceRequest;
use opentelemetry_proto::tonic::common::v1::{KeyValue, any_value};
use opentelemetry_proto::tonic::logs::v1::LogRecord;
use serde_json::Value;

use super::sink::{Piece, StreamKey, Tapes, base64, put};

/// Reads the file at `path`, one request per line, an unfinished last one left out. An absent file holds nothing.
pub fn otlp_file(path: &Path) -> Result<Tapes> {
    let mut tapes = Tapes::new();
    let bytes = match std::fs::read(path) {
        Err(fault) if fault.kind() == std::io::ErrorKind::NotFound => return Ok(tapes),
        read => read.with_context(|| format!("read {}", path.display()))?,
    };
    for request in bytes.split_inclusive(|byte| *byte == b'\n').filter(|line| line.ends_with(b"\n")) {
        let request: Value = serde_json::from_slice(request).context("a line is no JSON")?;
        for logs in list(&request, "/resourceLogs") {
            let container = text(attribute(list(logs, "/resource/attributes"), "container.id"))
                .context("a resource without container.id")?;
            for record in list(logs, "/scopeLogs").iter().flat_map(|scope| list(scope, "/logRecords")) {
                take(&mut tapes, &container, record).with_context(|| record.to_string())?;
            }
        }
    }
    Ok(tapes)
}

fn take(tapes: &mut Tapes, container: &str, record: &Value) -> Result<()> {
    let attributes = list(record, "/attributes");
    let offset = |key| attribute(attributes, key).and_then(|value| whole(value.get("intValue")?));
    let body = record.get("body").context("no body")?;
    let piece = if let Some(reason) = text(attribute(attributes, "shimtap.gap.reason")) {
        Piece::Gap(reason)
    } else if let Some(line) = body.get("stringValue").and_then(Value::as_str) {
        Piece::Line(line.as_bytes().to_vec())
    } else if let Some(line) = body.get("bytesValue").and_then(Value::as_str) {
        Piece::Line(base64(line).context("its base64 does not decode")?)
    } else {
        // What is empty is left out of JSON.
        Piece::Line(Vec::new())
    };
    let uid = text(attribute(attributes, "log.record.uid")).context("no log.record.uid")?;
    let from = offset("shimtap.offset.from").context("no shimtap.offset.from")?;
    let to = offset("shimtap.offset.to").context("no shimtap.offset.to")?;
    let key = key(container, &uid, from)?;
    ensure!(
        text(attribute(attributes, "log.iostream")).as_deref() == Some(key.stream.as_str()),
        "its log.iostream is not that of its log.record.uid"
    );
    put(tapes, key, from, to, piece)
}

/// Adds what a request holds, as it was sent.
pub fn otlp_request(tapes: &mut Tapes, request: &ExportLogsServiceRequest) -> Result<()> {
    for logs in &request.resource_logs {
        let resource = logs.resource.as_ref().context("logs without a resource")?;
        let container = string(&resource.attributes, "container.id")?;
        for record in logs.scope_logs.iter().flat_map(|scope| &scope.log_records) {
            sent(tapes, &container, record).with_context(|| format!("{record:?}"))?;
        }
    }
    Ok(())
}

fn sent(tapes: &mut Tapes, container: &str, record: &LogRecord) -> Result<()> {
    use any_value::Value::{BytesValue, IntValue, StringValue};
    let offset = |key| match value(&record.attributes, key) {
        Some(IntValue(offset)) => u64::try_from(*offset).context("an offset below 0"),
        other => anyhow::bail!("{key} is {other:?}"),
    };
    let piece =
        match (value(&record.attributes, "shimtap.gap.reason"), record.body.as_ref().map(|body| &body.value))
        {
            (Some(StringValue(reason)), _) => Piece::Gap(reason.clone()),
            (None, Some(Some(StringValue(line)))) => Piece::Line(line.clone().into_bytes()),
            (None, Some(Some(BytesValue(line)))) => Piece::Line(line.clone()),
            (reason, body) => anyhow::bail!("the gap is {reason:?} and the body {body:?}"),
        };
    let (from, to) = (offset("shimtap.offset.from")?, offset("shimtap.offset.to")?);
    put(tapes, key(container, &string(&record.attributes, "log.record.uid")?, from)?, from, to, piece)
}

fn value<'a>(attributes: &'a [KeyValue], key: &str) -> Option<&'a any_value::Value> {
    attributes.iter().find(|attribute| attribute.key == key)?.value.as_ref()?.value.as_ref()
}

fn string(attributes: &[KeyValue], key: &str) -> Result<String> {
    match value(attributes, key) {
        Some(any_value::Value::StringValue(text)) => Ok(text.clone()),
        other => anyhow::bail!("{key} is {other:?}"),
    }
}

/// What VictoriaLogs answers, a JSON object per line.
pub fn victoria_logs(answer: &str) -> Result<Tapes> {
    let mut tapes = Tapes::new();
    for line in answer.lines() {
        let record: Value = serde_json::from_str(line).with_context(|| format!("no JSON: {line}"))?;
        let field = |key: &str| record.get(key).and_then(Value::as_str).map(str::to_owned);
        let offset = |key: &str| field(key).and_then(|text| text.parse().ok());
        let known = || {
            let piece = match field("shimtap.gap.reason") {
                Some(reason) => Piece::Gap(reason),
                // It keeps no empty field.
                None => Piece::Line(field("_msg").unwrap_or_default().into_bytes()),
            };
            let (from, to) = (offset("shimtap.offset.from")?, offset("shimtap.offset.to")?);
            Some((field("container.id")?, field("log.record.uid")?, from, to, piece))
        };
        let (container, uid, from, to, piece) = known().with_context(|| format!("incomplete: {line}"))?;
        put(&mut tapes, key(&container, &uid, from)?, from, to, piece).with_context(|| line.to_owned())?;
    }
    Ok(tapes)
}

/// Takes a record's id apart.
pub(super) fn key(container: &str, uid: &str, from: u64) -> Result<StreamKey> {
    let parts = || {
        let (names, first) = uid.rsplit_once('-')?;
        let (names, stream) = names.rsplit_once('-')?;
        let (incarnation, process) = names.split_once('-').unwrap_or((names, ""));
        (first.parse() == Ok(from)).then(|| StreamKey {
            container: container.to_owned(),
            incarnation: incarnation.to_owned(),
            process: process.to_owned(),
            stream: stream.to_owned(),
        })
    };
    parts().with_context(|| format!("{uid} is no id of a record that begins at {from}"))
}

fn list<'a>(value: &'a Value, pointer: &str) -> &'a [Value] {
    value.pointer(pointer).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

/// The value of an attribute.
pub fn attribute<'a>(attributes: &'a [Value], key: &str) -> Option<&'a Value> {
    attributes
        .iter()
        .find(|attribute| attribute.get("key").and_then(Value::as_str) == Some(key))?
        .get("value")
}

fn text(value: Option<&Value>) -> Option<String> {
    value?.get("stringValue")?.as_str().map(str::to_owned)
}

/// JSON has 64-bit numbers as text, says protobuf.
fn whole(value: &Value) -> Option<u64> {
    value.as_u64().or_else(|| value.as_str()?.parse().ok())
}
