//! One line of the access log. Whatever a peer sends, it stays one line, and its fields stay apart.

use std::io::Write;
use std::net::SocketAddr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::telemetry::Record;

/// One JSON object and a line feed. Bytes that are not UTF-8 become U+FFFD; control characters are escaped, those
/// above U+007F too. Fields of a peer's choosing are cut to `limit` bytes.
pub(in crate::telemetry) fn json(line: &mut Vec<u8>, record: &Record<'_>, now: SystemTime, limit: usize) {
    let mut object = Object { line, first: true };
    object.key("time");
    object.line.push(b'"');
    time(object.line, now);
    object.line.push(b'"');
    object.plain("direction", record.metrics.direction.label());
    object.key("service");
    let service = &record.metrics.key.service;
    if service.name.is_empty() {
        object.line.extend_from_slice(b"\"\"");
    } else {
        put(object.line, format_args!("\"{}/{}\"", JsonSafe(&service.namespace), JsonSafe(&service.name)));
    }
    object.number("port", u64::from(record.metrics.key.port));
    object.text("route", record.metrics.route.as_bytes(), usize::MAX);
    object.plain("protocol", record.spoken.label());
    if record.spoken.is_http() {
        object.text("method", record.method, limit);
        object.text("path", record.path, limit);
        object.text("authority", record.authority, limit);
        object.number("status", u64::from(record.status));
        if let Some(status) = record.grpc_status {
            object.number("grpc_status", u64::from(status));
        }
        object.text("request_id", record.request_id, limit);
    } else if !record.authority.is_empty() {
        object.text("authority", record.authority, limit);
    }
    if let Some(cause) = record.cause {
        object.plain("cause", cause.label());
    }
    object.address("peer", record.peer);
    // Checked to be a SPIFFE ID: there is nothing to escape in it.
    if !record.caller.is_empty() {
        object.plain("caller", record.caller);
    }
    if let Some(endpoint) = record.endpoint {
        object.address("endpoint", endpoint);
    }
    object.number("bytes_in", record.bytes_in);
    object.number("bytes_out", record.bytes_out);
    if record.spoken.is_http() {
        object.seconds("latency_seconds", record.latency);
    }
    object.seconds("duration_seconds", record.duration);
    object.number("retries", u64::from(record.retries));
    line.extend_from_slice(b"}\n");
}

/// Fields with spaces between and a line feed: time, direction, service and port, route, protocol, `"method path"`,
/// authority, status, gRPC status, cause, peer, endpoint, bytes in, bytes out, latency, duration (both in seconds),
/// retries, request id, the SPIFFE ID of the caller. What is missing is `-`. Bytes that are not printable ASCII, quotes and backslashes are `\xHH`.
pub(super) fn text(line: &mut Vec<u8>, record: &Record<'_>, now: SystemTime, limit: usize) {
    let metrics = record.metrics;
    time(line, now);
    put(line, format_args!(" {} ", metrics.direction.label()));
    quoted(line, metrics.key.to_string().as_bytes(), usize::MAX);
    line.push(b' ');
    quoted(line, metrics.route.as_bytes(), usize::MAX);
    put(line, format_args!(" {} \"", record.spoken.label()));
    escaped(line, record.method, limit);
    line.push(b' ');
    escaped(line, record.path, limit);
    line.extend_from_slice(b"\" ");
    quoted(line, record.authority, limit);
    put(line, format_args!(" {} ", record.status));
    match record.grpc_status {
        Some(status) => put(line, format_args!("{status}")),
        None => line.push(b'-'),
    }
    put(line, format_args!(" {} {} ", record.cause.map_or("-", |cause| cause.label()), record.peer));
    match record.endpoint {
        Some(endpoint) => put(line, format_args!("{endpoint}")),
        None => line.push(b'-'),
    }
    put(line, format_args!(" {} {} ", record.bytes_in, record.bytes_out));
    seconds(line, record.latency);
    line.push(b' ');
    seconds(line, record.duration);
    put(line, format_args!(" {} ", record.retries));
    quoted(line, record.request_id, limit);
    line.push(b' ');
    line.extend_from_slice(if record.caller.is_empty() { b"-" } else { record.caller.as_bytes() });
    line.push(b'\n');
}

struct Object<'a> {
    line: &'a mut Vec<u8>,
    first: bool,
}

impl Object<'_> {
    fn key(&mut self, key: &str) {
        self.line.push(if std::mem::take(&mut self.first) { b'{' } else { b',' });
        put(self.line, format_args!("\"{key}\":"));
    }

    /// A value that needs no escaping.
    fn plain(&mut self, key: &str, value: &str) {
        self.key(key);
        put(self.line, format_args!("\"{value}\""));
    }

    fn text(&mut self, key: &str, value: &[u8], limit: usize) {
        if value.is_empty() {
            return;
        }
        self.key(key);
        self.line.push(b'"');
        let cut = &value[..value.len().min(limit)];
        for chunk in cut.utf8_chunks() {
            put(self.line, format_args!("{}", JsonSafe(chunk.valid())));
            if !chunk.invalid().is_empty() {
                self.line.extend_from_slice("\u{fffd}".as_bytes());
            }
        }
        self.line.push(b'"');
    }

    fn number(&mut self, key: &str, value: u64) {
        self.key(key);
        self.line.extend_from_slice(itoa::Buffer::new().format(value).as_bytes());
    }

    fn address(&mut self, key: &str, address: SocketAddr) {
        self.key(key);
        put(self.line, format_args!("\"{address}\""));
    }

    fn seconds(&mut self, key: &str, value: Duration) {
        self.key(key);
        seconds(self.line, value);
    }
}

/// Text within a JSON string.
struct JsonSafe<'a>(&'a str);

impl std::fmt::Display for JsonSafe<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Controls must be escaped below U+0020 (RFC 8259 §7). Those above, and what turns the direction of writing
        // or ends a line for some readers, are escaped too, so that a log read in a terminal says what it seems to say.
        let special = |c: char| {
            c.is_control()
                || matches!(c, '"' | '\\' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{200e}' | '\u{200f}')
        };
        let mut rest = self.0;
        while let Some((at, c)) = rest.char_indices().find(|(_, c)| special(*c)) {
            f.write_str(&rest[..at])?;
            match c {
                '"' => f.write_str("\\\"")?,
                '\\' => f.write_str("\\\\")?,
                // All of them are in the basic plane.
                c => write!(f, "\\u{:04x}", u32::from(c))?,
            }
            rest = &rest[at + c.len_utf8()..];
        }
        f.write_str(rest)
    }
}

fn quoted(line: &mut Vec<u8>, value: &[u8], limit: usize) {
    if value.is_empty() {
        line.push(b'-');
        return;
    }
    line.push(b'"');
    escaped(line, value, limit);
    line.push(b'"');
}

fn escaped(line: &mut Vec<u8>, value: &[u8], limit: usize) {
    if value.is_empty() {
        line.push(b'-');
    }
    for byte in &value[..value.len().min(limit)] {
        match byte {
            b'"' | b'\\' => put(line, format_args!("\\x{byte:02x}")),
            b' '..=b'~' => line.push(*byte),
            _ => put(line, format_args!("\\x{byte:02x}")),
        }
    }
}

fn seconds(line: &mut Vec<u8>, value: Duration) {
    put(line, format_args!("{}.{:06}", value.as_secs(), value.subsec_micros()));
}

/// RFC 3339 in UTC, to the microsecond.
fn time(line: &mut Vec<u8>, now: SystemTime) {
    let since = now.duration_since(UNIX_EPOCH).unwrap_or_default();
    let (days, second) = (since.as_secs() / 86_400, since.as_secs() % 86_400);
    let (year, month, day) = civil(days);
    put(
        line,
        format_args!(
            "{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}.{:06}Z",
            second / 3600,
            second / 60 % 60,
            second % 60,
            since.subsec_micros()
        ),
    );
}

/// The date that is `days` after 1970-01-01, in the Gregorian calendar.
fn civil(days: u64) -> (u64, u64, u64) {
    // Counted from 0000-03-01, so that the day that leap years add is the last of a year.
    let days = days + 719_468;
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    // Months from March have 31, 30, 31, 30, 31 days, over and over: 153 in five.
    let month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    (year, month, day)
}

fn put(line: &mut Vec<u8>, what: std::fmt::Arguments<'_>) {
    // Writing to a Vec does not fail.
    let _ = line.write_fmt(what);
}

#[cfg(test)]
pub(super) fn time_text(now: SystemTime) -> String {
    let mut line = Vec::new();
    time(&mut line, now);
    String::from_utf8_lossy(&line).into_owned()
}
