//! As much of HTTP/1.1 as the demo's services need: GET and PUT, kept connections, bodies with a length or in chunks.

use std::io::{self, BufRead, Read, Write};

use serde_json::Value;

/// A request, whole.
pub struct Request {
    /// What is to be done.
    pub method: String,
    /// Its target.
    pub path: String,
    /// What came along.
    pub body: Vec<u8>,
    /// Whether the caller wants the connection closed after the answer.
    pub close: bool,
}

/// What a service is answered.
pub struct Answer {
    /// The status.
    pub status: u16,
    /// The body.
    pub body: Vec<u8>,
}

/// What a service answers.
pub struct Response {
    /// The status.
    pub status: u16,
    /// What the body is, as a media type.
    pub media_type: &'static str,
    /// The body.
    pub body: Vec<u8>,
}

impl Request {
    /// Reads the next request; none where the caller has closed.
    pub fn read(reader: &mut impl BufRead) -> io::Result<Option<Self>> {
        let Some(head) = read_head(reader)? else { return Ok(None) };
        let mut words = head.first_line.split(' ');
        let (Some(method), Some(path), Some(version)) = (words.next(), words.next(), words.next()) else {
            return Err(malformed("no target or no version"));
        };
        let (method, path) = (method.to_owned(), path.to_owned());
        let close = version == "HTTP/1.0" || head.has("connection", "close");
        let body = match (head.has("transfer-encoding", "chunked"), head.get("content-length")) {
            (true, _) => read_chunks(reader)?,
            (false, None) => Vec::new(),
            (false, Some(length)) => {
                read_exactly(reader, length.parse().map_err(|_| malformed("a length that is no number"))?)?
            }
        };
        Ok(Some(Request { method, path, body, close }))
    }
}

impl Response {
    /// 200 with a JSON body.
    pub fn ok(body: &Value) -> Self {
        Response { status: 200, media_type: JSON, body: body.to_string().into_bytes() }
    }

    /// 200 with text.
    pub fn text(body: String) -> Self {
        Response { status: 200, media_type: "text/plain", body: body.into_bytes() }
    }

    /// 200 with rows.
    pub fn csv(body: Vec<u8>) -> Self {
        Response { status: 200, media_type: "text/csv", body }
    }

    /// 502: something that this service needs did not answer.
    pub fn failed(reason: &str) -> Self {
        let body = serde_json::json!({ "error": reason });
        Response { status: 502, media_type: JSON, body: body.to_string().into_bytes() }
    }

    /// Writes it whole.
    pub fn write(&self, to: &mut impl Write) -> io::Result<()> {
        let reason = if self.status == 200 { "OK" } else { "Bad Gateway" };
        let mut bytes = format!(
            "HTTP/1.1 {} {reason}\r\ncontent-type: {}\r\ncontent-length: {}\r\n\r\n",
            self.status,
            self.media_type,
            self.body.len()
        )
        .into_bytes();
        bytes.extend_from_slice(&self.body);
        to.write_all(&bytes)
    }
}

impl Answer {
    /// Reads one whole.
    pub fn read(reader: &mut impl BufRead) -> io::Result<Self> {
        let head = read_head(reader)?.ok_or(io::ErrorKind::UnexpectedEof)?;
        let status = head.first_line.split(' ').nth(1).and_then(|status| status.parse().ok());
        let body = match head.has("transfer-encoding", "chunked") {
            true => read_chunks(reader)?,
            false => {
                let length = head.get("content-length").and_then(|length| length.parse().ok());
                read_exactly(reader, length.ok_or_else(|| malformed("no length"))?)?
            }
        };
        Ok(Answer { status: status.ok_or_else(|| malformed("no status"))?, body })
    }
}

/// Chunks to the last one, which is empty, and the trailers behind it.
fn read_chunks(reader: &mut impl BufRead) -> io::Result<Vec<u8>> {
    let mut body = Vec::new();
    let line = |reader: &mut dyn BufRead| {
        read_line(&mut reader.take(MAX_HEAD))?.ok_or_else(|| io::Error::from(io::ErrorKind::UnexpectedEof))
    };
    loop {
        let size = line(reader)?;
        let size = size.split(';').next().unwrap_or_default().trim();
        let size = usize::from_str_radix(size, 16).map_err(|_| malformed("a chunk without a size"))?;
        body.extend(read_exactly(reader, size)?);
        if size == 0 {
            while !line(reader)?.is_empty() {}
            return Ok(body);
        }
        if !line(reader)?.is_empty() {
            return Err(malformed("a chunk that is longer than it says"));
        }
    }
}

fn read_exactly(reader: &mut impl BufRead, length: usize) -> io::Result<Vec<u8>> {
    if length > MAX_BODY {
        return Err(malformed("a body that is too long"));
    }
    let mut bytes = vec![0; length];
    reader.read_exact(&mut bytes)?;
    Ok(bytes)
}

const JSON: &str = "application/json";

/// Longest body, and longest chunk of one, that is read.
const MAX_BODY: usize = 64 << 20;

/// Longest head that is read.
const MAX_HEAD: u64 = 16 * 1024;

struct Head {
    first_line: String,
    fields: Vec<(String, String)>,
}

impl Head {
    fn get(&self, name: &str) -> Option<&str> {
        let field = self.fields.iter().find(|(field, _)| field.eq_ignore_ascii_case(name))?;
        Some(&field.1)
    }

    fn has(&self, name: &str, value: &str) -> bool {
        self.get(name).is_some_and(|found| found.eq_ignore_ascii_case(value))
    }
}

fn read_head(reader: &mut impl BufRead) -> io::Result<Option<Head>> {
    let mut reader = reader.take(MAX_HEAD);
    let Some(first_line) = read_line(&mut reader)? else { return Ok(None) };
    let mut fields = Vec::new();
    loop {
        let line = read_line(&mut reader)?.ok_or(io::ErrorKind::UnexpectedEof)?;
        if line.is_empty() {
            return Ok(Some(Head { first_line, fields }));
        }
        let (name, value) = line.split_once(':').ok_or_else(|| malformed("a field without a colon"))?;
        fields.push((name.to_owned(), value.trim().to_owned()));
    }
}

fn read_line(reader: &mut impl BufRead) -> io::Result<Option<String>> {
    let mut line = String::new();
    if reader.read_line(&mut line)? == 0 {
        return Ok(None);
    }
    let line = line.strip_suffix('\n').ok_or(io::ErrorKind::UnexpectedEof)?;
    Ok(Some(line.trim_end_matches('\r').to_owned()))
}

fn malformed(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}
