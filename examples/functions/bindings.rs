//! What a function of a device is given, and what it gives: `filters/wasm/wit`.

wit_bindgen::generate!({ path: "../../filters/wasm/wit", world: "function", pub_export_macro: true, generate_all });

pub use exports::wasi::http::incoming_handler::Guest;
pub use lighter::device::{datasets, keyvalue};
pub use wasi::http::types;
pub use wasi::io::streams;

use types::{Fields, IncomingRequest, OutgoingBody, OutgoingResponse, ResponseOutparam};
use streams::OutputStream;

/// What is asked: the path's second part, and its parameters in their order.
pub struct Asked {
    pub dataset: String,
    pub parameters: Vec<(String, String)>,
}

impl Asked {
    pub fn of(request: &IncomingRequest) -> Self {
        let target = request.path_with_query().unwrap_or_default();
        let (path, query) = target.split_once('?').unwrap_or((&target, ""));
        let dataset = path.trim_start_matches('/').split_once('/').map_or("", |(_, dataset)| dataset);
        let body = body_of(request);
        let pairs = query.split('&').chain(body.split('&')).filter(|pair| !pair.is_empty());
        let parameters = pairs.map(|pair| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            (decoded(name), decoded(value))
        });
        Asked { dataset: decoded(dataset), parameters: parameters.collect() }
    }

    pub fn get(&self, name: &str) -> Option<&str> {
        self.parameters.iter().find(|(other, _)| other == name).map(|(_, value)| value.as_str())
    }
}

fn body_of(request: &IncomingRequest) -> String {
    let Ok(body) = request.consume() else { return String::new() };
    let Ok(stream) = body.stream() else { return String::new() };
    let mut bytes = Vec::new();
    while let Ok(more) = stream.blocking_read(4096) {
        bytes.extend(more);
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

fn decoded(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        let mut digit = || rest.next().and_then(|byte| (byte as char).to_digit(16)).unwrap_or(0) as u8;
        bytes.push(match byte {
            b'%' => digit() << 4 | digit(),
            b'+' => b' ',
            byte => byte,
        });
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// An answer under way.
pub struct Answer {
    stream: Option<OutputStream>,
    body: OutgoingBody,
}

impl Answer {
    pub fn begin(to: ResponseOutparam, status: u16, media_type: &str) -> Self {
        let fields = Fields::new();
        let _ = fields.set("content-type", &[media_type.as_bytes().to_vec()]);
        let response = OutgoingResponse::new(fields);
        let _ = response.set_status_code(status);
        let body = response.body().unwrap();
        ResponseOutparam::set(to, Ok(response));
        let stream = body.write().unwrap();
        Answer { stream: Some(stream), body }
    }

    /// False where nobody takes any more.
    pub fn write(&self, bytes: &[u8]) -> bool {
        let Some(stream) = &self.stream else { return false };
        bytes.chunks(4096).all(|piece| stream.blocking_write_and_flush(piece).is_ok())
    }

    pub fn end(mut self) {
        drop(self.stream.take());
        let _ = OutgoingBody::finish(self.body, None);
    }
}
