//! Asks an application whether it is well, as a [`Probe`] says, and what its answers mean together.
//!
//! A sidecar asks its own application, and the endpoints of Services whose policy says so; the control plane those that no
//! sidecar speaks for.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::process::{ExitStatus, Stdio};

use bytes::Bytes;
use http_body_util::Full;
use hyper::rt::bounds::Http2ClientConnExec;
use hyper_util::rt::{TokioExecutor, TokioIo};
use lighter_config::probe::{How, Probe};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::process::Command;

mod grpc;
mod http1;
mod judge;

pub use judge::Judge;

/// Why an application is not taken for well this time.
#[derive(Debug, thiserror::Error)]
pub enum Fault {
    /// It did not answer in time.
    #[error("no answer in time")]
    Late,
    /// It cannot be connected to, or the command cannot be run.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// What it said is not HTTP.
    #[error("{0}")]
    Protocol(#[from] hyper::Error),
    /// It answered that it is not.
    #[error("{0}")]
    Unwell(String),
}

/// Asks once, within the probe's timeout. `connect` makes a connection to the application, where one is needed: `at`, or
/// the same host at the probe's port.
pub async fn ask<C>(probe: &Probe, at: SocketAddr, connect: impl FnOnce(SocketAddr) -> C) -> Result<(), Fault>
where
    C: Future<Output = io::Result<TcpStream>>,
{
    ask_over(probe, at, connect, TokioExecutor::new()).await
}

/// The same over any kind of connection. `executor` runs what one of HTTP/2 has to do beside.
pub async fn ask_over<C, S, E>(
    probe: &Probe,
    at: SocketAddr,
    connect: impl FnOnce(SocketAddr) -> C,
    executor: E,
) -> Result<(), Fault>
where
    C: Future<Output = io::Result<S>>,
    S: AsyncRead + AsyncWrite + Unpin + 'static,
    E: Http2ClientConnExec<Full<Bytes>, TokioIo<S>> + Unpin + Clone,
{
    let at = SocketAddr::new(at.ip(), probe.port.unwrap_or(at.port()));
    let asking = async {
        match &probe.how {
            How::Tcp => connect(at).await.map(drop).map_err(Fault::from),
            How::Http(path) => http1::ask(connect(at).await?, at, path).await,
            How::Grpc(service) => grpc::ask(connect(at).await?, at, service, executor).await,
            How::Exec(command) => exec(command).await,
        }
    };
    tokio::time::timeout(probe.timeout, asking).await.unwrap_or(Err(Fault::Late))
}

/// Runs a command. It is killed if nobody waits for it any more.
async fn exec(command: &[String]) -> Result<(), Fault> {
    let (program, arguments) = command.split_first().ok_or(Fault::Unwell("no command".to_owned()))?;
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let status: ExitStatus = command.kill_on_drop(true).status().await?;
    if status.success() { Ok(()) } else { Err(Fault::Unwell(status.to_string())) }
}

/// Drives a connection until `asked` has its answer: the answer comes through the connection, which may end first.
async fn through<T>(
    asked: impl Future<Output = T>,
    connection: impl Future<Output = hyper::Result<()>>,
) -> T {
    let driven = async {
        // Whoever asks is told.
        let _ = connection.await;
        std::future::pending::<Infallible>().await
    };
    tokio::select! {
        biased;
        answer = asked => answer,
        never = driven => match never {},
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;

    fn probe(how: How) -> Probe {
        Probe { how, timeout: Duration::from_secs(30), ..Probe::default() }
    }

    fn asked(how: How, answer: Option<&'static str>) -> Result<(), Fault> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let at = listener.local_addr().unwrap();
            tokio::spawn(async move {
                let (mut socket, _) = listener.accept().await.unwrap();
                let Some(answer) = answer else { return };
                let mut head = Vec::new();
                while !head.ends_with(b"\r\n\r\n") {
                    head.push(socket.read_u8().await.unwrap());
                }
                let begins = format!("GET /healthz HTTP/1.1\r\nhost: {at}\r\n");
                assert!(head.starts_with(begins.as_bytes()), "{}", String::from_utf8_lossy(&head));
                socket.write_all(answer.as_bytes()).await.unwrap();
            });
            ask(&probe(how), at, TcpStream::connect).await
        })
    }

    fn http() -> How {
        How::Http("/healthz".to_owned())
    }

    #[test]
    fn an_answer_below_400_is_well() {
        for (status, is_well) in
            [("200 OK", true), ("399 x", true), ("404 Not Found", false), ("503 x", false)]
        {
            let answer = format!("HTTP/1.1 {status}\r\ncontent-length: 5\r\n\r\nhello");
            let found = asked(http(), Some(answer.leak()));
            assert_eq!(found.is_ok(), is_well, "{status}: {found:?}");
        }
        assert!(matches!(asked(http(), Some("SSH-2.0-x\r\n")), Err(Fault::Protocol(_))));
        assert!(matches!(asked(http(), None), Err(Fault::Protocol(_))));
    }

    #[test]
    fn whoever_listens_is_well_by_tcp() {
        assert!(asked(How::Tcp, None).is_ok());
    }

    #[test]
    fn a_command_is_well_that_succeeds() {
        let exec =
            |command: &[&str]| asked(How::Exec(command.iter().map(ToString::to_string).collect()), None);
        assert!(exec(&["true"]).is_ok());
        assert!(matches!(exec(&["false"]), Err(Fault::Unwell(_))));
        assert!(matches!(exec(&["/nonexistent/command"]), Err(Fault::Io(_))));
    }
}
