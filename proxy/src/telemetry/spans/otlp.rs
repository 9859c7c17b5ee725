//! Spans as OTLP says them, with the attributes of OpenTelemetry's conventions for HTTP.

use bytes::Bytes;
use prost::Message;

use super::Begun;
use crate::error::Side;
use crate::telemetry::histogram::nanos;
use crate::telemetry::{Direction, Record, Spoken};

/// The messages and the client, as compiled from their protobuf files.
#[allow(missing_docs, unreachable_pub, clippy::all)]
mod wire {
    include!(concat!(env!("OUT_DIR"), "/opentelemetry.rs"));
}

use wire::opentelemetry::proto;

pub(super) use proto::collector::trace::v1::trace_service_client::TraceServiceClient as Client;
pub(super) use proto::trace::v1::Span;

use proto::common::v1::any_value::Value;
use proto::common::v1::{AnyValue, InstrumentationScope, KeyValue};
use proto::resource::v1::Resource;
use proto::trace::v1::span::SpanKind;
use proto::trace::v1::status::StatusCode;
use proto::trace::v1::{ResourceSpans, ScopeSpans, Status};

/// Who records.
#[derive(Clone, Debug, Default)]
pub(crate) struct Named {
    /// The Service that this workload is an instance of; empty for a pure caller.
    pub(crate) service: String,
    /// Its namespace.
    pub(crate) namespace: String,
    /// The instance's name.
    pub(crate) instance: String,
}

/// The span of an exchange that has ended.
pub(super) fn span(begun: &Begun, record: &Record<'_>) -> Span {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let path = record.path.split(|byte| *byte == b'?').next().unwrap_or_default();
    let version = match record.spoken {
        Spoken::Http1 => "1.1",
        _ => "2",
    };
    let mut attributes = vec![
        words("http.request.method", text(record.method)),
        words("url.path", text(path)),
        words("server.address", text(record.authority)),
        words("network.protocol.version", version.to_owned()),
        words("lighter.service", record.metrics.key.to_string()),
        words("lighter.route", record.metrics.route.to_string()),
        number("http.request.body.size", record.bytes_in),
        number("http.response.body.size", record.bytes_out),
    ];
    if record.status != 0 {
        attributes.push(number("http.response.status_code", u64::from(record.status)));
    }
    if let Some(status) = record.grpc_status {
        attributes.push(words("rpc.system", "grpc".into()));
        attributes.push(number("rpc.grpc.status_code", u64::from(status)));
    }
    if record.retries > 0 {
        attributes.push(number("http.request.resend_count", u64::from(record.retries)));
    }
    if let Some(endpoint) = record.endpoint {
        attributes.push(words("network.peer.address", endpoint.ip().to_string()));
        attributes.push(number("network.peer.port", u64::from(endpoint.port())));
    }
    attributes.push(words("client.address", record.peer.ip().to_canonical().to_string()));
    for (name, value) in [("lighter.caller", record.caller), ("lighter.request_id", &text(record.request_id))]
    {
        if !value.is_empty() {
            attributes.push(words(name, value.to_owned()));
        }
    }
    let kind = match record.metrics.direction {
        Direction::Outbound => SpanKind::Client,
        Direction::Inbound => SpanKind::Server,
    };
    // The conventions blame a caller's fault on the caller alone.
    let failed = record.status >= if kind == SpanKind::Client { 400 } else { 500 }
        || record.cause.is_some_and(|cause| cause.side() != Side::Downstream);
    let said = record.cause.map_or("", |cause| cause.label());
    if !said.is_empty() {
        attributes.push(words("error.type", said.to_owned()));
    }
    Span {
        trace_id: begun.trace.to_vec(),
        span_id: begun.span.to_vec(),
        parent_span_id: begun.parent.map(|parent| parent.to_vec()).unwrap_or_default(),
        trace_state: String::new(),
        name: format!("{} {}", text(record.method), record.metrics.route),
        kind: kind.into(),
        start_time_unix_nano: begun.at,
        end_time_unix_nano: begun.at + nanos(record.duration),
        attributes,
        status: failed.then(|| Status { message: said.to_owned(), code: StatusCode::Error.into() }),
        flags: SAMPLED | if begun.parent.is_some() { REMOTE_PARENT } else { 0 },
    }
}

/// What a request for these spans says, encoded once however often it is sent.
///
/// The request is a message with one field, number 1, of messages; to the client it is bytes, and these are a message with
/// one field, number 1, of bytes (`google.protobuf.BytesValue`). On the wire both are the same.
pub(super) fn export(named: &Named, spans: Vec<Span>) -> Bytes {
    let name = if named.service.is_empty() { "lighter" } else { &named.service };
    let mut attributes =
        vec![words("service.name", name.to_owned()), words("service.instance.id", named.instance.clone())];
    if !named.namespace.is_empty() {
        attributes.push(words("service.namespace", named.namespace.clone()));
    }
    let scope = InstrumentationScope { name: "lighter".into(), version: env!("CARGO_PKG_VERSION").into() };
    let resource_spans = ResourceSpans {
        resource: Some(Resource { attributes }),
        scope_spans: vec![ScopeSpans { scope: Some(scope), spans }],
    };
    resource_spans.encode_to_vec().into()
}

/// Of W3C.
const SAMPLED: u32 = 1;
/// Whether the parent is of another process is known, and it is.
const REMOTE_PARENT: u32 = 0x300;

fn words(key: &str, value: String) -> KeyValue {
    KeyValue { key: key.into(), value: Some(AnyValue { value: Some(Value::StringValue(value)) }) }
}

fn number(key: &str, value: u64) -> KeyValue {
    let value = i64::try_from(value).unwrap_or(i64::MAX);
    KeyValue { key: key.into(), value: Some(AnyValue { value: Some(Value::IntValue(value)) }) }
}
