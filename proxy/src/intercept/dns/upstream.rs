//! Queries that are not about the mesh: passed on as they are to the resolvers of the host.

use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::{TcpSocket, UdpSocket};
use tokio::time::timeout;

use super::answer::question_end;
use super::resolv::Resolv;
use super::{read_message, write_message};
use crate::dial::SocketFactory;
use crate::worker::Shared;

/// The resolvers of the host.
pub(super) struct Upstream {
    /// As configured; empty: those of the file.
    servers: Vec<SocketAddr>,
    /// Where this server listens itself: never asked.
    listen: Option<SocketAddr>,
    /// By which the rules know our own queries.
    mark: Option<u32>,
    outside: Arc<dyn SocketFactory>,
    file: Mutex<Option<(Instant, Arc<Resolv>)>>,
}

impl Upstream {
    pub(super) fn new(shared: &Shared) -> Self {
        let dns = shared.config.dns.as_ref();
        Upstream {
            servers: dns.map(|dns| dns.upstream.clone()).unwrap_or_default(),
            listen: dns.map(|dns| dns.listen),
            mark: shared.config.intercept.as_ref().map(|intercept| intercept.mark),
            outside: shared.outside.clone(),
            file: Mutex::new(None),
        }
    }

    /// Asks the resolvers in turn, and gives the first answer that says something. `limit`: the longest answer that
    /// the asker takes; a longer one comes cut, with the bit that makes the asker try TCP.
    pub(super) async fn ask(&self, query: &[u8], limit: Option<usize>) -> Result<Vec<u8>, &'static str> {
        let file = self.file();
        let configured = if self.servers.is_empty() { &file.servers } else { &self.servers };
        let servers: Vec<_> =
            configured.iter().copied().filter(|server| Some(*server) != self.listen).collect();
        if servers.is_empty() {
            return Err("no resolver is known: /etc/resolv.conf names none, nor does `dns.upstream`");
        }
        let mut unwilling = None;
        let rounds = servers.iter().chain(&servers);
        let deadline = Instant::now() + DEADLINE;
        for server in rounds {
            let left = deadline.saturating_duration_since(Instant::now()).min(PATIENCE);
            if left.is_zero() {
                break;
            }
            match timeout(left, self.exchange(*server, query, limit)).await {
                // Another one may know better (SERVFAIL, NOTIMP, REFUSED), as the asker itself would have tried.
                Ok(Ok(answer)) if matches!(answer.get(3).map(|flags| flags & 0x0f), Some(2 | 4 | 5)) => {
                    unwilling = Some(answer);
                }
                Ok(Ok(answer)) => return Ok(answer),
                Ok(Err(error)) => tracing::debug!(%server, %error, "a resolver failed"),
                Err(_elapsed) => tracing::debug!(%server, "a resolver did not answer"),
            }
        }
        unwilling.ok_or("no resolver answered")
    }

    async fn exchange(&self, server: SocketAddr, query: &[u8], limit: Option<usize>) -> io::Result<Vec<u8>> {
        let answer = self.over_udp(server, query).await?;
        let cut = answer.get(2).is_some_and(|flags| flags & 0x02 != 0);
        if !cut {
            return Ok(answer);
        }
        match self.over_tcp(server, query).await {
            Ok(whole) if limit.is_none_or(|limit| whole.len() <= limit) => Ok(whole),
            // The asker has to come by TCP, or to live with what there is.
            _ => Ok(answer),
        }
    }

    async fn over_udp(&self, server: SocketAddr, query: &[u8]) -> io::Result<Vec<u8>> {
        // A socket for each query: its port is as unpredictable as its number, and both are checked (RFC 5452).
        let socket = Socket::new(Domain::for_address(server), Type::DGRAM, Some(Protocol::UDP))?;
        socket.set_nonblocking(true)?;
        if let Some(mark) = self.mark {
            socket.set_mark(mark)?;
        }
        let socket = UdpSocket::from_std(socket.into())?;
        socket.connect(server).await?;
        let asked = renumbered(query);
        socket.send(&asked).await?;
        let mut buffer = vec![0; usize::from(u16::MAX)];
        loop {
            let length = socket.recv(&mut buffer).await?;
            if answers(&asked, &buffer[..length]) {
                return Ok(with_number_of(query, buffer[..length].to_vec()));
            }
        }
    }

    async fn over_tcp(&self, server: SocketAddr, query: &[u8]) -> io::Result<Vec<u8>> {
        let socket = self.outside.tcp(server)?;
        let mut stream = TcpSocket::from_std_stream(socket.into()).connect(server).await?;
        let asked = renumbered(query);
        write_message(&mut stream, &asked).await?;
        let answer = read_message(&mut stream).await?;
        if answers(&asked, &answer) {
            Ok(with_number_of(query, answer))
        } else {
            Err(io::Error::new(io::ErrorKind::InvalidData, "an answer to another question"))
        }
    }

    /// What the file says, looked at again once in a while: a laptop changes its network, and its resolvers.
    pub(super) fn file(&self) -> Arc<Resolv> {
        let mut held = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((read, resolv)) = &*held
            && read.elapsed() < FRESH
        {
            return resolv.clone();
        }
        let text = std::fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
        let resolv = Arc::new(Resolv::parse(&text));
        *held = Some((Instant::now(), resolv.clone()));
        resolv
    }
}

/// `query` under a number that nobody can guess.
fn renumbered(query: &[u8]) -> Vec<u8> {
    // SipHash under a key from the system.
    let number = RandomState::new().hash_one(0u8) as u16;
    let mut renumbered = query.to_vec();
    renumbered.splice(..2, number.to_be_bytes());
    renumbered
}

fn with_number_of(query: &[u8], mut answer: Vec<u8>) -> Vec<u8> {
    answer.splice(..2, query[..2].iter().copied());
    answer
}

/// Whether `answer` is one, and to the question in `asked`.
fn answers(asked: &[u8], answer: &[u8]) -> bool {
    let Some(end) = question_end(asked) else { return false };
    if answer.len() < 12 || answer[..2] != asked[..2] || answer[2] & 0x80 == 0 {
        return false;
    }
    let refused = answer[3] & 0x0f != 0 && answer[4..6] == [0, 0];
    let name = 12..end - 4;
    let kind = end - 4..end;
    refused
        || answer.get(name.clone()).is_some_and(|echoed| echoed.eq_ignore_ascii_case(&asked[name]))
            && answer.get(kind.clone()) == asked.get(kind)
}

/// For one resolver. As long as most resolvers wait themselves before they ask the next.
const PATIENCE: Duration = Duration::from_secs(2);

/// For all of them: less than the five seconds after which askers ask again.
const DEADLINE: Duration = Duration::from_millis(4500);

/// How long the file's contents are believed.
const FRESH: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests {
    use super::*;

    const QUERY: &[u8] =
        b"\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x01a\x07example\x00\x00\x01\x00\x01";

    fn answer_to(query: &[u8]) -> Vec<u8> {
        let mut answer = query.to_vec();
        answer[2] |= 0x80;
        answer
    }

    #[test]
    fn only_an_answer_to_this_question_under_this_number_is_taken() {
        let good = answer_to(QUERY);
        assert!(answers(QUERY, &good));
        assert!(answers(QUERY, &good.to_ascii_uppercase()));
        assert!(!answers(QUERY, QUERY), "a query is no answer");
        let mut other = good.clone();
        other[0] ^= 1;
        assert!(!answers(QUERY, &other), "another number");
        let mut other = good.clone();
        other[13] = b'b';
        assert!(!answers(QUERY, &other), "another name");
        let mut other = good.clone();
        let kind = other.len() - 3;
        other[kind] = 28;
        assert!(!answers(QUERY, &other), "another type");
        assert!(!answers(QUERY, &good[..20]));
        let refusal = b"\x12\x34\x81\x05\0\0\0\0\0\0\0\0";
        assert!(answers(QUERY, refusal), "some servers refuse without the question");
    }

    #[test]
    fn the_asker_gets_its_own_number_back() {
        let asked = renumbered(QUERY);
        assert_eq!(asked[2..], QUERY[2..]);
        assert_eq!(with_number_of(QUERY, answer_to(&asked)), answer_to(QUERY));
    }
}
