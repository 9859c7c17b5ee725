//! How a command reaches the control plane: where it is, whom to trust, and what to show.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{AUTHORIZATION, CONTENT_TYPE, HOST};
use http::{HeaderValue, Method, Request, StatusCode, Uri};
use http_body_util::{BodyExt, Full};
use hyper_util::rt::TokioIo;
use miette::{Context, IntoDiagnostic, miette};
use rustls::pki_types::ServerName;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::trust;
use crate::api::message::Refused;

/// How long it may take until the control plane has taken the connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// How long it may take until it has answered.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(120);
/// The port where none is said.
const PORT: u16 = 15020;

/// Where the control plane is, and how it is spoken to.
#[derive(Debug, clap::Args)]
pub struct Access {
    /// Where the control plane's API is
    #[arg(long, value_name = "URL", env = "LIGHTER_SERVER", default_value = "https://127.0.0.1:15020")]
    server: Uri,
    /// The file with the operator's token
    #[arg(
        long,
        value_name = "FILE",
        env = "LIGHTER_TOKEN_FILE",
        default_value = "lighter-state/operator-token"
    )]
    token_file: PathBuf,
    /// The file with an operator's certificate, as `lighter ca operator` makes it: then no token is shown
    #[arg(long, value_name = "FILE", env = "LIGHTER_CERT_FILE", requires = "key_file")]
    cert_file: Option<PathBuf>,
    /// The file with its key
    #[arg(long, value_name = "FILE", env = "LIGHTER_KEY_FILE", requires = "cert_file")]
    key_file: Option<PathBuf>,
    /// The file with the certificate by which the control plane is known, or with those that sign it
    #[arg(long, value_name = "FILE", env = "LIGHTER_CA_FILE", default_value = "lighter-state/api.pem")]
    ca_file: PathBuf,
}

/// What the control plane answered.
pub enum Answered<T> {
    /// It has done what was asked.
    Done(T),
    /// It has not, and says why.
    Refused(StatusCode, Refused),
}

impl Access {
    /// To the control plane whose API is at `address` and whose state is in the folder `state`.
    pub fn of(address: SocketAddr, state: &Path) -> Self {
        // An address is a good URL.
        let server = Uri::try_from(format!("https://{address}")).unwrap_or_default();
        Access {
            server,
            token_file: state.join("operator-token"),
            cert_file: None,
            key_file: None,
            ca_file: state.join("api.pem"),
        }
    }

    /// Asks, and waits for the answer.
    pub fn ask<T: DeserializeOwned>(
        &self,
        method: Method,
        target: &str,
        body: Option<&impl Serialize>,
    ) -> miette::Result<Answered<T>> {
        let body = body.map(serde_json::to_vec).transpose().into_diagnostic()?;
        let (status, answer) = self.ask_bytes(method, target, body.unwrap_or_default())?;
        let strange =
            || format!("{} answered {status}, and not as Lighter's control plane does", self.server);
        if status == StatusCode::UNAUTHORIZED {
            if let Some(certificate) = &self.cert_file {
                return Err(miette!(
                    help =
                        "`lighter ca operator NAME --out DIR` makes one, where the control plane's state is",
                    "the control plane does not take the certificate in {}",
                    certificate.display()
                ));
            }
            return Err(miette!(
                help = "the right token is in the file `operator-token` of the control plane's state; name a copy with \
                        --token-file or LIGHTER_TOKEN_FILE",
                "the control plane does not know the token in {}",
                self.token_file.display()
            ));
        }
        if status.is_success() {
            let done = serde_json::from_slice(&answer).into_diagnostic().wrap_err_with(strange)?;
            return Ok(Answered::Done(done));
        }
        let refused = serde_json::from_slice(&answer).into_diagnostic().wrap_err_with(strange)?;
        Ok(Answered::Refused(status, refused))
    }

    /// Asks with these bytes, and returns those of the answer.
    pub fn ask_bytes(
        &self,
        method: Method,
        target: &str,
        body: Vec<u8>,
    ) -> miette::Result<(StatusCode, Bytes)> {
        let host = self.host()?;
        let tls =
            trust::client_config(&self.ca_file, self.cert_file.as_deref().zip(self.key_file.as_deref()))?;
        let request = self.request(method, target, body)?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().into_diagnostic()?;
        runtime.block_on(async {
            let connecting = tokio::time::timeout(CONNECT_TIMEOUT, self.connect(host, tls));
            let stream =
                connecting.await.map_err(|_| self.away("it did not take the connection in time"))??;
            tokio::time::timeout(ANSWER_TIMEOUT, exchange(stream, request))
                .await
                .map_err(|_| self.away("it did not answer in time"))?
                .map_err(|error| self.away(error))
        })
    }

    async fn connect(
        &self,
        host: &str,
        tls: Arc<rustls::ClientConfig>,
    ) -> miette::Result<tokio_rustls::client::TlsStream<TcpStream>> {
        let name = ServerName::try_from(host.to_owned()).into_diagnostic()?;
        let port = self.server.port_u16().unwrap_or(PORT);
        let stream = TcpStream::connect((host, port)).await.map_err(|error| self.away(error))?;
        let peer = stream.peer_addr().map_err(|error| self.away(error))?;
        TlsConnector::from(tls).connect(name, stream).await.map_err(|error| self.distrusted(peer, &error))
    }

    /// The host, without the brackets of an IPv6 address.
    fn host(&self) -> miette::Result<&str> {
        let (scheme, host) = (self.server.scheme_str(), self.server.host());
        match (scheme, host) {
            (None | Some("https"), Some(host)) => Ok(host.trim_matches(['[', ']'])),
            _ => Err(miette!(
                help = "expected for example `https://127.0.0.1:15020`; the API speaks nothing but TLS",
                "`{}` is no address of a control plane",
                self.server
            )),
        }
    }

    fn request(&self, method: Method, target: &str, body: Vec<u8>) -> miette::Result<Request<Full<Bytes>>> {
        let host = self.server.authority().map(|authority| authority.as_str()).unwrap_or_default();
        let mut request = Request::builder()
            .method(method)
            .uri(target)
            .header(HOST, host)
            .header(CONTENT_TYPE, "application/json");
        if self.cert_file.is_none() {
            request = request.header(AUTHORIZATION, self.bearer()?);
        }
        request.body(Full::new(body.into())).into_diagnostic()
    }

    /// The operator's token.
    fn bearer(&self) -> miette::Result<HeaderValue> {
        let path = &self.token_file;
        let token = std::fs::read_to_string(path).map_err(|error| {
            miette!(
                help = "name a copy of the control plane's `operator-token` with --token-file or LIGHTER_TOKEN_FILE",
                "the operator's token in {} cannot be read: {error}",
                path.display()
            )
        })?;
        let mut bearer = HeaderValue::try_from(format!("Bearer {}", token.trim()))
            .map_err(|_| miette!("{} has no token in it", path.display()))?;
        bearer.set_sensitive(true);
        Ok(bearer)
    }

    fn away(&self, error: impl std::fmt::Display) -> miette::Report {
        miette!(
            help = "is `lighter control` running there? --server or LIGHTER_SERVER say where it is",
            "the control plane at {} cannot be reached: {error}",
            self.server
        )
    }

    fn distrusted(&self, peer: SocketAddr, error: &std::io::Error) -> miette::Report {
        miette!(
            help = "--ca-file or LIGHTER_CA_FILE name a copy of `api.pem` of the control plane's state",
            "what answers at {peer} cannot be trusted to be the control plane: {error}"
        )
    }
}

async fn exchange(
    stream: tokio_rustls::client::TlsStream<TcpStream>,
    request: Request<Full<Bytes>>,
) -> hyper::Result<(StatusCode, Bytes)> {
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    let connection = tokio::spawn(connection);
    let answer = sender.send_request(request).await?;
    let status = answer.status();
    let body = answer.into_body().collect().await?.to_bytes();
    connection.abort();
    Ok((status, body))
}
