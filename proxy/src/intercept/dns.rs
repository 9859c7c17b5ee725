//! The sidecar's DNS server: names of Services are answered with their virtual addresses, everything else by the
//! resolvers of the host (RFC 1035, RFC 6891, RFC 7766).

mod answer;
mod resolv;
mod upstream;

pub use answer::{Decision, decide};

use std::io;
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::discover::Lookup;
use crate::worker::Shared;
use answer::failure;
use upstream::Upstream;

/// Serves DNS on one pair of sockets until the future is dropped. For the control runtime.
///
/// An answer leaves by the socket that its query came in by, from the address that the socket is bound to: only so
/// does the kernel recognise it as the answer to a redirected query. See [`super::listen::dns`].
pub async fn serve(udp: UdpSocket, tcp: TcpListener, shared: Arc<Shared>) -> io::Result<()> {
    udp.set_nonblocking(true)?;
    tcp.set_nonblocking(true)?;
    let udp = Arc::new(tokio::net::UdpSocket::from_std(udp)?);
    let tcp = tokio::net::TcpListener::from_std(tcp)?;
    let server = Arc::new(Server { upstream: Upstream::new(&shared), outcomes: Outcomes::new(), shared });
    let mut tasks = JoinSet::new();
    let mut buffer = vec![0; LARGEST_UDP_QUERY];
    loop {
        tokio::select! {
            received = udp.recv_from(&mut buffer) => match received {
                Ok((length, peer)) => server.datagram(&buffer[..length], peer, &udp, &mut tasks),
                // An earlier answer found nobody (ICMP). That is for its asker to notice.
                Err(error) => tracing::debug!(%error, "DNS over UDP"),
            },
            accepted = tcp.accept() => match accepted {
                Ok((stream, _)) => {
                    if tasks.len() < MOST_AT_ONCE {
                        tasks.spawn(server.clone().stream(stream));
                    }
                }
                Err(error) => {
                    tracing::warn!(%error, "cannot accept DNS over TCP");
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
            },
            Some(_) = tasks.join_next() => {}
        }
    }
}

struct Server {
    shared: Arc<Shared>,
    upstream: Upstream,
    outcomes: Outcomes,
}

impl Server {
    /// Answers at once what it can, and hands the rest to a task.
    fn datagram(
        self: &Arc<Self>,
        query: &[u8],
        peer: SocketAddr,
        socket: &Arc<tokio::net::UdpSocket>,
        tasks: &mut JoinSet<()>,
    ) {
        match self.decide(query) {
            Decision::Answer(answer) => send(socket, &answer, peer),
            Decision::Forward if tasks.len() < MOST_AT_ONCE => {
                let (server, query, socket) = (self.clone(), query.to_vec(), socket.clone());
                tasks.spawn(async move {
                    let answer = server.find(&query, Some(answer::udp_limit(&query))).await;
                    send(&socket, &answer, peer);
                });
            }
            Decision::Forward => {
                self.outcomes.overloaded.increment(1);
                send(socket, &failure(query), peer);
            }
            Decision::Ignore => {}
        }
    }

    /// Answers the queries of one connection, one after the other.
    async fn stream(self: Arc<Self>, mut stream: TcpStream) {
        while let Ok(Ok(query)) = timeout(TCP_IDLE, read_message(&mut stream)).await {
            let answer = match self.decide(&query) {
                Decision::Answer(answer) => answer,
                Decision::Forward => self.find(&query, None).await,
                Decision::Ignore => return,
            };
            if !matches!(timeout(TCP_IDLE, write_message(&mut stream, &answer)).await, Ok(Ok(()))) {
                return;
            }
        }
    }

    fn decide(&self, query: &[u8]) -> Decision {
        let mesh = self.shared.mesh.load();
        let host = self.upstream.file();
        let decision = decide(query, &mesh, &self.shared.config.namespace, &host.search);
        match &decision {
            Decision::Answer(answer) => self.outcomes.of(answer).increment(1),
            Decision::Forward => {}
            Decision::Ignore => self.outcomes.ignored.increment(1),
        }
        decision
    }

    /// Asks the control plane about a name that was not asked for before, and then the resolvers of the host.
    async fn find(&self, query: &[u8], limit: Option<usize>) -> Vec<u8> {
        if let Some(discover) = &self.shared.discover {
            let host = self.upstream.file();
            let names = answer::asked(query, &self.shared.config.namespace, &host.search);
            match discover.names(&self.shared, &names).await {
                Lookup::Held => {
                    if let Decision::Answer(answer) = self.decide(query) {
                        return answer;
                    }
                }
                // It is a Service's, so nobody else knows better.
                Lookup::Late => {
                    self.outcomes.failed.increment(1);
                    return failure(query);
                }
                Lookup::Nothing => {}
            }
        }
        self.forward(query, limit).await
    }

    /// Asks the resolvers of the host. `limit`: the longest answer that the asker takes.
    async fn forward(&self, query: &[u8], limit: Option<usize>) -> Vec<u8> {
        match self.upstream.ask(query, limit).await {
            Ok(answer) => {
                self.outcomes.forwarded.increment(1);
                answer
            }
            Err(reason) => {
                self.outcomes.failed.increment(1);
                tracing::debug!(reason, "a DNS query could not be forwarded");
                failure(query)
            }
        }
    }
}

/// `lighter_dns_queries_total{outcome}`, resolved once.
struct Outcomes {
    mesh: metrics::Counter,
    empty: metrics::Counter,
    absent: metrics::Counter,
    malformed: metrics::Counter,
    ignored: metrics::Counter,
    forwarded: metrics::Counter,
    failed: metrics::Counter,
    overloaded: metrics::Counter,
}

impl Outcomes {
    fn new() -> Self {
        metrics::describe_counter!("lighter_dns_queries_total", "DNS queries of the workload, by outcome.");
        let outcome =
            |outcome: &'static str| metrics::counter!("lighter_dns_queries_total", "outcome" => outcome);
        Outcomes {
            mesh: outcome("mesh"),
            empty: outcome("empty"),
            absent: outcome("absent"),
            malformed: outcome("malformed"),
            ignored: outcome("ignored"),
            forwarded: outcome("forwarded"),
            failed: outcome("upstream_failed"),
            overloaded: outcome("overloaded"),
        }
    }

    /// Which one an answer of our own belongs to, by its header: the code of the response, and whether it says
    /// anything.
    fn of(&self, answer: &[u8]) -> &metrics::Counter {
        match (answer.get(3).map(|flags| flags & 0x0f), answer.get(6..8)) {
            (Some(NOERROR), Some([0, 0])) => &self.empty,
            (Some(NOERROR), _) => &self.mesh,
            (Some(NXDOMAIN), _) => &self.absent,
            _ => &self.malformed,
        }
    }
}

/// Answers are small and the socket's buffer is large: one that does not fit is lost like any datagram, and asked for
/// again.
fn send(socket: &tokio::net::UdpSocket, answer: &[u8], peer: SocketAddr) {
    if let Err(error) = socket.try_send_to(answer, peer) {
        tracing::debug!(%error, %peer, "a DNS answer was lost");
    }
}

/// A message with its length before it (RFC 1035 §4.2.2).
async fn read_message(stream: &mut TcpStream) -> io::Result<Vec<u8>> {
    let length = stream.read_u16().await?;
    let mut message = vec![0; usize::from(length)];
    stream.read_exact(&mut message).await?;
    Ok(message)
}

/// Fails for a message longer than its length can say.
async fn write_message(stream: &mut TcpStream, message: &[u8]) -> io::Result<()> {
    let length = u16::try_from(message.len()).map_err(io::Error::other)?;
    let mut framed = Vec::with_capacity(2 + message.len());
    framed.extend_from_slice(&length.to_be_bytes());
    framed.extend_from_slice(message);
    stream.write_all(&framed).await
}

/// Queries being forwarded and TCP connections, together. Resolvers keep a handful; more is a fault or a flood.
const MOST_AT_ONCE: usize = 1024;

/// Longer queries come by TCP.
const LARGEST_UDP_QUERY: usize = 4096;

/// RFC 7766 §6.2.3 asks for seconds.
const TCP_IDLE: Duration = Duration::from_secs(10);

const NOERROR: u8 = 0;
const NXDOMAIN: u8 = 3;
