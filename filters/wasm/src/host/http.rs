//! `wasi:http/types`, as far as one needs it who answers.

use lighter_functions::{Fault, Request, Status};
use wasmtime::component::Resource;

use super::streams::{Input, Output, Ready};
use super::wasi::http::types::{self, ErrorCode, HeaderError, Method, Scheme};
use super::{Body, Stage, State};

/// What an answer is that does not say so.
const UNSAID: &str = "application/octet-stream";
/// The longest media type, in bytes.
const LONGEST_TYPE: usize = 256;

/// Names and values of a head.
#[derive(Clone, Default)]
pub struct Fields {
    all: Vec<(String, Vec<u8>)>,
    /// Whether they belong to a head already.
    fixed: bool,
}

/// What is asked.
#[derive(Default)]
pub struct Asked {
    target: String,
    body: Option<Vec<u8>>,
    is_post: bool,
}

/// What was sent along, until it is read as a stream.
pub struct AskedBody(Option<Vec<u8>>);

/// There are none.
pub struct NoTrailers;

/// Where the answer goes.
pub struct To;

/// An answer that is being made.
pub struct Answer {
    status: u16,
    fields: Vec<(String, Vec<u8>)>,
}

/// Its body.
pub struct AnswerBody {
    is_written: bool,
}

impl Asked {
    pub(super) fn of(request: &Request<'_>) -> Self {
        let Request { function, dataset, parameters, body } = request;
        let mut target = format!("/{}/{}", encoded(function), encoded(dataset));
        if !parameters.is_empty() {
            target = format!("{target}?{parameters}");
        }
        Asked { target, body: Some(body.unwrap_or_default().to_vec()), is_post: body.is_some() }
    }
}

/// A segment of a path.
fn encoded(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'0'..=b'9' | b'a'..=b'z' | b'A'..=b'Z' | b'-' | b'.' | b'_' | b'~' | b'@' => {
                encoded.push(byte.into())
            }
            byte => encoded += &format!("%{byte:02X}"),
        }
    }
    encoded
}

impl types::Host for State {}

fn is_name(name: &str) -> bool {
    let is_token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    !name.is_empty() && name.bytes().all(is_token)
}

fn is_value(value: &[u8]) -> bool {
    value.iter().all(|&byte| byte == b'\t' || (byte >= b' ' && byte != 0x7f))
}

type Changed = wasmtime::Result<Result<(), HeaderError>>;

impl State {
    /// Changes fields that belong to no head yet; `bytes` is what that adds.
    fn change(
        &mut self,
        fields: &Resource<Fields>,
        bytes: usize,
        change: impl FnOnce(&mut Fields),
    ) -> Changed {
        if self.table.get(fields)?.fixed {
            return Ok(Err(HeaderError::Immutable));
        }
        self.hold(bytes)?;
        change(self.table.get_mut(fields)?);
        Ok(Ok(()))
    }
}

/// What a field takes, about.
fn size(name: &str, value: &[u8]) -> usize {
    64 + name.len() + value.len()
}

impl types::HostFields for State {
    fn new(&mut self) -> wasmtime::Result<Resource<Fields>> {
        self.push(Fields::default())
    }

    fn from_list(
        &mut self,
        entries: Vec<(String, Vec<u8>)>,
    ) -> wasmtime::Result<Result<Resource<Fields>, HeaderError>> {
        if !entries.iter().all(|(name, value)| is_name(name) && is_value(value)) {
            return Ok(Err(HeaderError::InvalidSyntax));
        }
        self.hold(entries.iter().map(|(name, value)| size(name, value)).sum())?;
        let all = entries.into_iter().map(|(name, value)| (name.to_ascii_lowercase(), value)).collect();
        Ok(Ok(self.push(Fields { all, fixed: false })?))
    }

    fn get(&mut self, fields: Resource<Fields>, name: String) -> wasmtime::Result<Vec<Vec<u8>>> {
        let all = &self.table.get(&fields)?.all;
        let named = all.iter().filter(|(other, _)| other.eq_ignore_ascii_case(&name));
        Ok(named.map(|(_, value)| value.clone()).collect())
    }

    fn has(&mut self, fields: Resource<Fields>, name: String) -> wasmtime::Result<bool> {
        Ok(self.table.get(&fields)?.all.iter().any(|(other, _)| other.eq_ignore_ascii_case(&name)))
    }

    fn set(&mut self, fields: Resource<Fields>, name: String, values: Vec<Vec<u8>>) -> Changed {
        if !is_name(&name) || !values.iter().all(|value| is_value(value)) {
            return Ok(Err(HeaderError::InvalidSyntax));
        }
        let bytes = values.iter().map(|value| size(&name, value)).sum();
        self.change(&fields, bytes, |fields| {
            let name = name.to_ascii_lowercase();
            fields.all.retain(|(other, _)| *other != name);
            fields.all.extend(values.into_iter().map(|value| (name.clone(), value)));
        })
    }

    fn delete(&mut self, fields: Resource<Fields>, name: String) -> Changed {
        self.change(&fields, 0, |fields| fields.all.retain(|(other, _)| !other.eq_ignore_ascii_case(&name)))
    }

    fn append(&mut self, fields: Resource<Fields>, name: String, value: Vec<u8>) -> Changed {
        if !is_name(&name) || !is_value(&value) {
            return Ok(Err(HeaderError::InvalidSyntax));
        }
        let bytes = size(&name, &value);
        self.change(&fields, bytes, |fields| fields.all.push((name.to_ascii_lowercase(), value)))
    }

    fn entries(&mut self, fields: Resource<Fields>) -> wasmtime::Result<Vec<(String, Vec<u8>)>> {
        Ok(self.table.get(&fields)?.all.clone())
    }

    fn clone(&mut self, fields: Resource<Fields>) -> wasmtime::Result<Resource<Fields>> {
        let all = self.table.get(&fields)?.all.clone();
        self.hold(all.iter().map(|(name, value)| size(name, value)).sum())?;
        self.push(Fields { all, fixed: false })
    }

    fn drop(&mut self, fields: Resource<Fields>) -> wasmtime::Result<()> {
        self.take(fields).map(drop)
    }
}

impl types::HostIncomingRequest for State {
    fn method(&mut self, asked: Resource<Asked>) -> wasmtime::Result<Method> {
        Ok(if self.table.get(&asked)?.is_post { Method::Post } else { Method::Get })
    }

    fn path_with_query(&mut self, asked: Resource<Asked>) -> wasmtime::Result<Option<String>> {
        Ok(Some(self.table.get(&asked)?.target.clone()))
    }

    fn scheme(&mut self, _: Resource<Asked>) -> wasmtime::Result<Option<Scheme>> {
        Ok(Some(Scheme::Http))
    }

    fn authority(&mut self, _: Resource<Asked>) -> wasmtime::Result<Option<String>> {
        Ok(None)
    }

    /// None of the caller's fields: who it is and what it carries is its affair and the sidecar's.
    fn headers(&mut self, _: Resource<Asked>) -> wasmtime::Result<Resource<Fields>> {
        self.push(Fields { all: Vec::new(), fixed: true })
    }

    fn consume(&mut self, asked: Resource<Asked>) -> wasmtime::Result<Result<Resource<AskedBody>, ()>> {
        match self.table.get_mut(&asked)?.body.take() {
            Some(body) => Ok(Ok(self.push(AskedBody(Some(body)))?)),
            None => Ok(Err(())),
        }
    }

    fn drop(&mut self, asked: Resource<Asked>) -> wasmtime::Result<()> {
        self.take(asked).map(drop)
    }
}

impl types::HostIncomingBody for State {
    fn stream(&mut self, body: Resource<AskedBody>) -> wasmtime::Result<Result<Resource<Input>, ()>> {
        match self.table.get_mut(&body)?.0.take() {
            Some(bytes) => Ok(Ok(self.push(Input { bytes, read: 0 })?)),
            None => Ok(Err(())),
        }
    }

    fn finish(&mut self, body: Resource<AskedBody>) -> wasmtime::Result<Resource<NoTrailers>> {
        self.take(body)?;
        self.push(NoTrailers)
    }

    fn drop(&mut self, body: Resource<AskedBody>) -> wasmtime::Result<()> {
        self.take(body).map(drop)
    }
}

impl types::HostFutureTrailers for State {
    fn subscribe(&mut self, _: Resource<NoTrailers>) -> wasmtime::Result<Resource<Ready>> {
        self.push(Ready)
    }

    fn get(
        &mut self,
        _: Resource<NoTrailers>,
    ) -> wasmtime::Result<Option<Result<Result<Option<Resource<Fields>>, ErrorCode>, ()>>> {
        Ok(Some(Ok(Ok(None))))
    }

    fn drop(&mut self, trailers: Resource<NoTrailers>) -> wasmtime::Result<()> {
        self.take(trailers).map(drop)
    }
}

impl types::HostResponseOutparam for State {
    fn set(&mut self, to: Resource<To>, answer: Result<Resource<Answer>, ErrorCode>) -> wasmtime::Result<()> {
        self.take(to)?;
        let Ok(answer) = answer else {
            self.answer = Stage::Failed;
            return Ok(());
        };
        let answer = self.take(answer)?;
        let media_type = answer.fields.iter().find(|(name, _)| name == "content-type");
        let media_type = media_type.and_then(|(_, value)| std::str::from_utf8(value).ok());
        let media_type = media_type.filter(|text| !text.is_empty() && text.len() <= LONGEST_TYPE);
        self.say(answer.status, media_type.unwrap_or(UNSAID).to_owned())
    }

    fn drop(&mut self, to: Resource<To>) -> wasmtime::Result<()> {
        self.take(to).map(drop)
    }
}

impl types::HostOutgoingResponse for State {
    fn new(&mut self, fields: Resource<Fields>) -> wasmtime::Result<Resource<Answer>> {
        let fields = self.take(fields)?.all;
        self.push(Answer { status: 200, fields })
    }

    fn status_code(&mut self, answer: Resource<Answer>) -> wasmtime::Result<u16> {
        Ok(self.table.get(&answer)?.status)
    }

    fn set_status_code(&mut self, answer: Resource<Answer>, status: u16) -> wasmtime::Result<Result<(), ()>> {
        if !(200..600).contains(&status) {
            return Ok(Err(()));
        }
        self.table.get_mut(&answer)?.status = status;
        Ok(Ok(()))
    }

    fn headers(&mut self, answer: Resource<Answer>) -> wasmtime::Result<Resource<Fields>> {
        let all = self.table.get(&answer)?.fields.clone();
        self.hold(all.iter().map(|(name, value)| size(name, value)).sum())?;
        self.push(Fields { all, fixed: true })
    }

    fn body(&mut self, answer: Resource<Answer>) -> wasmtime::Result<Result<Resource<AnswerBody>, ()>> {
        // A run has one answer, and its bytes go where that goes.
        self.table.get(&answer)?;
        if self.body != Body::None {
            return Ok(Err(()));
        }
        self.body = Body::Open;
        Ok(Ok(self.push(AnswerBody { is_written: false })?))
    }

    fn drop(&mut self, answer: Resource<Answer>) -> wasmtime::Result<()> {
        self.take(answer).map(drop)
    }
}

impl types::HostOutgoingBody for State {
    fn write(&mut self, body: Resource<AnswerBody>) -> wasmtime::Result<Result<Resource<Output>, ()>> {
        if std::mem::replace(&mut self.table.get_mut(&body)?.is_written, true) {
            return Ok(Err(()));
        }
        Ok(Ok(self.push(Output)?))
    }

    fn finish(
        &mut self,
        body: Resource<AnswerBody>,
        trailers: Option<Resource<Fields>>,
    ) -> wasmtime::Result<Result<(), ErrorCode>> {
        self.take(body)?;
        self.body = Body::Whole;
        match trailers {
            None => Ok(Ok(())),
            Some(_) => Err(Fault::new(Status::Unsupported, "answers of functions have no trailers").into()),
        }
    }

    fn drop(&mut self, body: Resource<AnswerBody>) -> wasmtime::Result<()> {
        // Whoever lets go of a body that it did not finish leaves it cut.
        self.take(body).map(drop)
    }
}
