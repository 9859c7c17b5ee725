//! HTTP/2 peers over the `h2` crate.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use h2::client::{Builder, SendRequest};
use h2::server::SendResponse;
use h2::{Reason, RecvStream};
use http::{HeaderMap, Request, Response};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::LocalSet;

use super::PATIENCE;

/// An answer as far as it came.
#[derive(Debug)]
pub struct Answer {
    pub head: http::response::Parts,
    pub body: Vec<u8>,
    pub trailers: Option<HeaderMap>,
    /// Why the stream did not end as it should.
    pub cut: Option<Option<Reason>>,
}

/// Runs a client's story on this thread; fails when it takes too long.
pub fn run<T>(story: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let limited =
        async { tokio::time::timeout(PATIENCE * 3, story).await.expect("an HTTP/2 story comes to its end") };
    LocalSet::new().block_on(&runtime, limited)
}

/// A connection with prior knowledge.
pub async fn connect(address: SocketAddr) -> SendRequest<Bytes> {
    connect_with(address, &Builder::new()).await
}

pub async fn connect_with(address: SocketAddr, builder: &Builder) -> SendRequest<Bytes> {
    let tcp = TcpStream::connect(address).await.unwrap();
    tcp.set_nodelay(true).unwrap();
    let (client, connection) = builder.handshake(tcp).await.unwrap();
    tokio::task::spawn_local(connection);
    client
}

/// One request with its body, and its answer to the end.
pub async fn exchange(client: &SendRequest<Bytes>, request: Request<Vec<u8>>) -> Result<Answer, h2::Error> {
    let mut client = client.clone().ready().await?;
    let (head, body) = request.into_parts();
    let (answer, mut stream) = client.send_request(Request::from_parts(head, ()), body.is_empty())?;
    if !body.is_empty() {
        stream.send_data(body.into(), true)?;
    }
    let (head, body) = answer.await?.into_parts();
    Ok(read(head, body).await)
}

pub async fn get(client: &SendRequest<Bytes>, path: &str) -> Result<Answer, h2::Error> {
    exchange(client, Request::get(format!("http://up{path}")).body(Vec::new()).unwrap()).await
}

/// Reads an answer's body to its end, whichever way it ends.
pub async fn read(head: http::response::Parts, mut body: RecvStream) -> Answer {
    let mut answer = Answer { head, body: Vec::new(), trailers: None, cut: None };
    while let Some(data) = body.data().await {
        match data {
            Ok(data) => {
                let _ = body.flow_control().release_capacity(data.len());
                answer.body.extend_from_slice(&data);
            }
            Err(error) => {
                answer.cut = Some(error.reason());
                return answer;
            }
        }
    }
    match body.trailers().await {
        Ok(trailers) => answer.trailers = trailers,
        Err(error) => answer.cut = Some(error.reason()),
    }
    answer
}

/// A server on a thread of its own; each request is given to a closure.
pub struct Upstream {
    pub address: SocketAddr,
    connections: Arc<AtomicUsize>,
}

impl Upstream {
    pub fn start<F>(serve: impl Fn(Request<RecvStream>, SendResponse<Bytes>) -> F + Send + 'static) -> Self
    where
        F: Future<Output = ()> + 'static,
    {
        Self::start_with(h2::server::Builder::new(), serve)
    }

    pub fn start_with<F>(
        builder: h2::server::Builder,
        serve: impl Fn(Request<RecvStream>, SendResponse<Bytes>) -> F + Send + 'static,
    ) -> Self
    where
        F: Future<Output = ()> + 'static,
    {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        let connections = Arc::new(AtomicUsize::new(0));
        let count = connections.clone();
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            let serve = std::rc::Rc::new(serve);
            LocalSet::new().block_on(&runtime, async {
                let listener = TcpListener::from_std(listener).unwrap();
                while let Ok((tcp, _)) = listener.accept().await {
                    count.fetch_add(1, Ordering::Relaxed);
                    tcp.set_nodelay(true).unwrap();
                    let (builder, serve) = (builder.clone(), serve.clone());
                    tokio::task::spawn_local(async move {
                        let Ok(mut connection) = builder.handshake(tcp).await else { return };
                        while let Some(Ok((request, respond))) = connection.accept().await {
                            tokio::task::spawn_local(serve(request, respond));
                        }
                    });
                }
            });
        });
        Upstream { address, connections }
    }

    /// Answers with the request's own body, and its path as a header.
    pub fn echo() -> Self {
        Self::start(|request, mut respond| async move {
            let (head, body) = request.into_parts();
            let answer = read(Response::new(()).into_parts().0, body).await;
            let path = head.uri.path().to_owned();
            let head = Response::builder().header("x-path", path).body(()).unwrap();
            let Ok(mut stream) = respond.send_response(head, false) else { return };
            let _ = stream.send_data(answer.body.into(), false);
            let mut trailers = HeaderMap::new();
            trailers.insert("x-end", http::HeaderValue::from_static("whole"));
            let _ = stream.send_trailers(trailers);
        })
    }

    pub fn connections(&self) -> usize {
        self.connections.load(Ordering::Relaxed)
    }
}

/// A frame by hand, since no library sends what is forbidden.
pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut frame = (payload.len() as u32).to_be_bytes()[1..].to_vec();
    frame.extend([kind, flags]);
    frame.extend(stream.to_be_bytes());
    frame.extend(payload);
    frame
}

/// A header block of literals that are in no table (RFC 7541 §6.2.2), without Huffman coding.
pub fn literals(fields: &[(&str, &str)]) -> Vec<u8> {
    let mut block = Vec::new();
    for (name, value) in fields {
        block.push(0);
        for text in [name, value] {
            assert!(text.len() < 127);
            block.push(text.len() as u8);
            block.extend(text.bytes());
        }
    }
    block
}
