//! `wasi:io`: a body that was sent along, and the body of the answer. Both are there at once, or block the run's thread.

use wasmtime::component::Resource;

use super::State;
use super::wasi::io::streams::StreamError;
use super::wasi::io::{error, poll, streams};

/// Most bytes that are moved by one call.
pub(super) const MOST_AT_ONCE: usize = 64 << 10;

/// Nothing here makes one: what goes wrong with a stream ends the run.
pub struct Failure;

/// Ready at any time.
pub struct Ready;

/// What was sent along.
pub struct Input {
    pub(super) bytes: Vec<u8>,
    pub(super) read: usize,
}

/// The body of the answer.
pub struct Output;

type Streamed<T> = wasmtime::Result<Result<T, StreamError>>;

impl error::Host for State {}

impl error::HostError for State {
    fn to_debug_string(&mut self, failure: Resource<Failure>) -> wasmtime::Result<String> {
        self.table.get(&failure)?;
        Ok("a stream failed".into())
    }

    fn drop(&mut self, failure: Resource<Failure>) -> wasmtime::Result<()> {
        self.take(failure).map(drop)
    }
}

impl poll::Host for State {
    fn poll(&mut self, all: Vec<Resource<Ready>>) -> wasmtime::Result<Vec<u32>> {
        self.meter.check()?;
        Ok((0..).zip(all).map(|(at, _)| at).collect())
    }
}

impl poll::HostPollable for State {
    fn ready(&mut self, _: Resource<Ready>) -> wasmtime::Result<bool> {
        Ok(true)
    }

    fn block(&mut self, _: Resource<Ready>) -> wasmtime::Result<()> {
        Ok(self.meter.check()?)
    }

    fn drop(&mut self, ready: Resource<Ready>) -> wasmtime::Result<()> {
        self.take(ready).map(drop)
    }
}

impl streams::Host for State {}

impl streams::HostInputStream for State {
    fn read(&mut self, input: Resource<Input>, length: u64) -> Streamed<Vec<u8>> {
        let input = self.table.get_mut(&input)?;
        let rest = input.bytes.get(input.read..).unwrap_or_default();
        if rest.is_empty() {
            return Ok(Err(StreamError::Closed));
        }
        let length = usize::try_from(length).unwrap_or(usize::MAX).min(rest.len()).min(MOST_AT_ONCE);
        let read = rest[..length].to_vec();
        input.read += length;
        Ok(Ok(read))
    }

    fn blocking_read(&mut self, input: Resource<Input>, length: u64) -> Streamed<Vec<u8>> {
        streams::HostInputStream::read(self, input, length)
    }

    fn skip(&mut self, input: Resource<Input>, length: u64) -> Streamed<u64> {
        Ok(streams::HostInputStream::read(self, input, length)?.map(|read| read.len() as u64))
    }

    fn blocking_skip(&mut self, input: Resource<Input>, length: u64) -> Streamed<u64> {
        streams::HostInputStream::skip(self, input, length)
    }

    fn subscribe(&mut self, _: Resource<Input>) -> wasmtime::Result<Resource<Ready>> {
        self.push(Ready)
    }

    fn drop(&mut self, input: Resource<Input>) -> wasmtime::Result<()> {
        self.take(input).map(drop)
    }
}

impl streams::HostOutputStream for State {
    fn check_write(&mut self, _: Resource<Output>) -> Streamed<u64> {
        Ok(Ok(MOST_AT_ONCE as u64))
    }

    fn write(&mut self, output: Resource<Output>, bytes: Vec<u8>) -> Streamed<()> {
        self.table.get(&output)?;
        self.give(bytes)?;
        Ok(Ok(()))
    }

    fn blocking_write_and_flush(&mut self, output: Resource<Output>, bytes: Vec<u8>) -> Streamed<()> {
        streams::HostOutputStream::write(self, output, bytes)
    }

    fn flush(&mut self, _: Resource<Output>) -> Streamed<()> {
        Ok(Ok(()))
    }

    fn blocking_flush(&mut self, _: Resource<Output>) -> Streamed<()> {
        Ok(Ok(()))
    }

    fn subscribe(&mut self, _: Resource<Output>) -> wasmtime::Result<Resource<Ready>> {
        self.push(Ready)
    }

    fn write_zeroes(&mut self, output: Resource<Output>, length: u64) -> Streamed<()> {
        let mut left = usize::try_from(length).unwrap_or(usize::MAX);
        self.table.get(&output)?;
        while left > 0 {
            let piece = left.min(MOST_AT_ONCE);
            self.give(vec![0; piece])?;
            left -= piece;
        }
        Ok(Ok(()))
    }

    fn blocking_write_zeroes_and_flush(&mut self, output: Resource<Output>, length: u64) -> Streamed<()> {
        streams::HostOutputStream::write_zeroes(self, output, length)
    }

    fn splice(&mut self, output: Resource<Output>, input: Resource<Input>, length: u64) -> Streamed<u64> {
        let read = match streams::HostInputStream::read(self, input, length)? {
            Ok(read) => read,
            Err(error) => return Ok(Err(error)),
        };
        let length = read.len() as u64;
        Ok(streams::HostOutputStream::write(self, output, read)?.map(|()| length))
    }

    fn blocking_splice(
        &mut self,
        output: Resource<Output>,
        input: Resource<Input>,
        length: u64,
    ) -> Streamed<u64> {
        streams::HostOutputStream::splice(self, output, input, length)
    }

    fn drop(&mut self, output: Resource<Output>) -> wasmtime::Result<()> {
        self.take(output).map(drop)
    }
}
