//! A raw gRPC call with streams both ways, in plain text or as somebody who proves who it is.

use std::fmt::Debug;
use std::marker::PhantomData;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use h2::{RecvStream, SendStream};
use lighter_config::identity::{Spiffe, Trust, TrustDomain, Verifier, provider};
use prost::Message;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::runtime::Runtime;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use crate::support::PATIENCE;
use crate::support::sidecar::LIGHTER;

/// A call that is open.
pub struct Call<Q, A> {
    runtime: Runtime,
    requests: SendStream<Bytes>,
    answers: RecvStream,
    read: BytesMut,
    of: PhantomData<(Q, A)>,
}

impl<Q: Message, A: Message + Default + Debug> Call<Q, A> {
    /// Opens one of `method`, `package.Service/Method`.
    pub fn open(server: SocketAddr, method: &str, identity: Option<&Identity>) -> Self {
        Self::over(server, method, identity.map(Identity::connector))
    }

    /// The same with what an identity connects by.
    pub fn over(server: SocketAddr, method: &str, connector: Option<TlsConnector>) -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let opened = async {
            let socket = TcpStream::connect(server).await.unwrap();
            match connector {
                None => call(socket, method).await,
                Some(connector) => {
                    let name = ServerName::from(server.ip());
                    call(connector.connect(name, socket).await.unwrap(), method).await
                }
            }
        };
        let (requests, answers) = runtime.block_on(async { timeout(PATIENCE, opened).await.unwrap() });
        Call { runtime, requests, answers, read: BytesMut::new(), of: PhantomData }
    }

    /// Sends a message.
    pub fn send(&mut self, message: &Q) {
        let message = message.encode_to_vec();
        let mut frame = vec![0];
        frame.extend((message.len() as u32).to_be_bytes());
        frame.extend(message);
        self.requests.send_data(frame.into(), false).unwrap();
        // The connection's task has to run for it to leave.
        self.runtime.block_on(tokio::task::yield_now());
    }

    /// The next answer. Fails if it does not come.
    pub fn next(&mut self) -> A {
        self.answer().expect("an answer, not the end")
    }

    /// Waits for the end; gives the gRPC status.
    pub fn end(&mut self) -> String {
        let answer = self.answer();
        assert!(answer.is_none(), "an answer instead of the end: {answer:?}");
        let trailers = self.runtime.block_on(async { timeout(PATIENCE, self.answers.trailers()).await });
        trailers.unwrap().unwrap().unwrap()["grpc-status"].to_str().unwrap().to_owned()
    }

    /// The next answer; none at the end.
    pub fn answer(&mut self) -> Option<A> {
        self.within(Some(PATIENCE))
    }

    /// The same, however long it takes.
    #[allow(dead_code)] // For the benchmark of the control plane.
    pub fn wait(&mut self) -> Option<A> {
        self.within(None)
    }

    fn within(&mut self, patience: Option<Duration>) -> Option<A> {
        loop {
            if let Some(length) =
                self.read.get(1..5).map(|length| u32::from_be_bytes(length.try_into().unwrap()))
                && self.read.len() >= 5 + length as usize
            {
                self.read.advance(5);
                return Some(A::decode(self.read.split_to(length as usize)).unwrap());
            }
            let data = self.answers.data();
            let data = self.runtime.block_on(async {
                match patience {
                    Some(patience) => timeout(patience, data).await.expect("an answer in time"),
                    None => data.await,
                }
            });
            let data = data?.unwrap();
            self.answers.flow_control().release_capacity(data.len()).unwrap();
            self.read.extend_from_slice(&data);
        }
    }
}

async fn call(
    io: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    method: &str,
) -> (SendStream<Bytes>, RecvStream) {
    let (mut client, connection) = h2::client::handshake(io).await.unwrap();
    tokio::spawn(connection);
    let request = http::Request::post(format!("http://control/{method}"))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(())
        .unwrap();
    let (response, requests) = client.send_request(request, false).unwrap();
    let response = response.await.unwrap();
    assert_eq!(response.status(), 200);
    (requests, response.into_body())
}

/// A key and a certificate, and who else is trusted.
pub struct Identity {
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
    roots: Vec<CertificateDer<'static>>,
}

impl Identity {
    /// Has the authority under `state` make one for `service`.
    pub fn of(service: &str, state: &Path) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut command = Command::new(LIGHTER);
        command
            .args(["ca", "issue", "--state"])
            .arg(state)
            .arg("--out")
            .arg(folder.path())
            .args(["--service", service]);
        let output = command.output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let certificates = |name: &str| {
            let read = CertificateDer::pem_file_iter(folder.path().join(name)).unwrap();
            read.collect::<Result<_, _>>().unwrap()
        };
        Identity {
            chain: certificates("certificate.pem"),
            key: PrivateKeyDer::from_pem_file(folder.path().join("key.pem")).unwrap(),
            roots: certificates("bundle.pem"),
        }
    }

    /// What connects as it.
    pub fn connector(&self) -> TlsConnector {
        let domain = TrustDomain::parse("mesh.lighter").unwrap();
        let expected = Spiffe::control_plane(&domain);
        let trust = Arc::new(Trust::new(domain, self.roots.clone()).unwrap());
        let verifier = Arc::new(Verifier::server(trust, expected, |refusal| panic!("{refusal}")));
        let mut config = rustls::ClientConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .unwrap()
            .dangerous()
            .with_custom_certificate_verifier(verifier)
            .with_client_auth_cert(self.chain.clone(), self.key.clone_key())
            .unwrap();
        config.alpn_protocols = vec![b"h2".to_vec()];
        TlsConnector::from(Arc::new(config))
    }
}
