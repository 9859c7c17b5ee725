//! How Redis gives its state and takes it: as a master gives it to a replica that has nothing. To the one this sidecar is the
//! replica, to the other the master, for a moment.
//!
//! It is asked once the place is frozen: whoever changes something comes through this sidecar, and waits. So what Redis has then is
//! all of it, and nothing follows.

use std::io;
use std::net::SocketAddr;

use http_body_util::BodyExt;
use tokio::io::{AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{Instant, timeout_at};

use super::copies::{Gathering, State};
use super::hooks::{Application, HookFault};
use crate::dial;
use crate::redis::resp::{Command, Commands};

/// Redis did not do what it was asked for.
#[derive(Debug, thiserror::Error)]
pub enum RedisFault {
    /// It says that it does not, and why.
    #[error("answered {asked} by `{said}`")]
    Refused {
        /// What it was asked for.
        asked: &'static str,
        /// What it said.
        said: String,
    },
    /// What came is not what a master or a replica says.
    #[error("said something else than {0}")]
    Other(&'static str),
    /// The connection was lost.
    #[error("lost the connection: {0}")]
    Lost(#[source] io::Error),
    /// It left after it was given everything, most likely since its version cannot read it.
    #[error("did not load what it was given")]
    NotLoaded,
}

impl From<io::Error> for RedisFault {
    fn from(error: io::Error) -> Self {
        RedisFault::Lost(error)
    }
}

/// All that it has.
pub(super) async fn snapshot(app: &Application<'_>) -> Result<State, HookFault> {
    match given(app, false).await {
        // It may have nowhere to write a file; in one stream it waits for other replicas first.
        Err(HookFault::Redis(RedisFault::Refused { .. } | RedisFault::Lost(_))) => given(app, true).await,
        given => given,
    }
}

/// The same, as one stream or by a file of its own.
async fn given(app: &Application<'_>, in_stream: bool) -> Result<State, HookFault> {
    let mut stream = BufReader::new(connect(app).await?);
    if in_stream {
        let capable: &[&[u8]] = &[b"REPLCONF", b"capa", b"eof", b"capa", b"psync2"];
        ask(&mut stream, "REPLCONF", capable).await?;
    }
    stream.write_all(&written(&[b"PSYNC", b"?", b"-1"])).await.map_err(RedisFault::from)?;
    let said = line(&mut stream).await?;
    if !said.starts_with("+FULLRESYNC ") {
        return Err(RedisFault::Refused { asked: "PSYNC", said }.into());
    }
    let head = line(&mut stream).await?;
    let head = head.strip_prefix('$').ok_or(RedisFault::Other("how long its state is"))?;
    let most = app.stateful.max_bytes;
    let mut gathering = Gathering::new(most);
    if let Some(end) = head.strip_prefix("EOF:") {
        until(&mut stream, end.as_bytes(), &mut gathering).await?;
    } else {
        let mut left: u64 = head.parse().map_err(|_| RedisFault::Other("how long its state is"))?;
        if left > most {
            return Err(HookFault::TooLarge(super::copies::TooLarge(most)));
        }
        let mut piece = vec![0; PIECE];
        while left > 0 {
            let wanted = usize::try_from(left).unwrap_or(PIECE).min(PIECE);
            let came = some(&mut stream, &mut piece[..wanted]).await?;
            gathering.push(&piece[..came]).map_err(HookFault::TooLarge)?;
            left -= came as u64;
        }
    }
    Ok(gathering.finish())
}

/// Gathers what comes before `end`, behind which nothing comes that matters.
async fn until(stream: &mut BufReader<TcpStream>, end: &[u8], into: &mut Gathering) -> Result<(), HookFault> {
    if end.len() != END {
        return Err(RedisFault::Other("how its state ends").into());
    }
    let mut held = Vec::with_capacity(PIECE + END);
    let mut piece = vec![0; PIECE];
    loop {
        let came = some(stream, &mut piece).await?;
        held.extend_from_slice(&piece[..came]);
        if let Some(at) = memchr::memmem::find(&held, end) {
            return into.push(&held[..at]).map_err(HookFault::TooLarge);
        }
        // As much as may be the beginning of it stays.
        let sure = held.len().saturating_sub(END);
        into.push(&held[..sure]).map_err(HookFault::TooLarge)?;
        held.drain(..sure);
    }
}

/// Has it take `state` in place of all that it has.
pub(super) async fn restore(app: &Application<'_>, state: &State) -> Result<(), HookFault> {
    // The rest of the time is for what has to follow.
    let until = Instant::now() + app.stateful.timeout.mul_f32(0.75);
    let mut stream = BufReader::new(connect(app).await?);
    let own = stream.get_ref().local_addr().map_err(RedisFault::from)?;
    let listener = listen(app, SocketAddr::new(own.ip(), 0)).map_err(RedisFault::from)?;
    let master = listener.local_addr().map_err(RedisFault::from)?;
    let (ip, port) = (master.ip().to_string(), master.port().to_string());
    ask(&mut stream, "REPLICAOF", &[b"REPLICAOF", ip.as_bytes(), port.as_bytes()]).await?;
    let taken = timeout_at(until, taken(&listener, app.at, state)).await;
    // Whatever came of it, it is nobody's replica any more.
    let freed = ask(&mut stream, NO_ONE, FREE).await;
    taken.map_err(|_| RedisFault::Other("that it has loaded what it was given, in time"))??;
    Ok(freed?)
}

/// Sees to it that it is nobody's replica: a sidecar that ended in the middle of a restore left it one.
pub(super) async fn free(app: &Application<'_>) -> Result<(), HookFault> {
    Ok(ask(&mut BufReader::new(connect(app).await?), NO_ONE, FREE).await?)
}

/// Where the application lives, which may be another network namespace than this sidecar's.
fn listen(app: &Application<'_>, at: SocketAddr) -> io::Result<TcpListener> {
    let socket = app.sockets.tcp(at)?;
    socket.bind(&at.into())?;
    socket.listen(16)?;
    TcpListener::from_std(socket.into())
}

const NO_ONE: &str = "REPLICAOF NO ONE";
const FREE: &[&[u8]] = &[b"REPLICAOF", b"NO", b"ONE"];

/// Waits until the application has come as a replica, and has all of `state`.
async fn taken(listener: &TcpListener, app: SocketAddr, state: &State) -> Result<(), RedisFault> {
    let mut is_given = false;
    loop {
        let (replica, from) = listener.accept().await?;
        if from.ip() != app.ip() {
            continue;
        }
        match as_master(replica, state, &mut is_given).await {
            Ok(()) => return Ok(()),
            Err(RedisFault::Lost(_)) if !is_given => {}
            Err(RedisFault::Lost(_)) => return Err(RedisFault::NotLoaded),
            Err(fault) => return Err(fault),
        }
    }
}

/// Answers a replica as a master does whose replica has nothing, until it says how far it is.
async fn as_master(mut replica: TcpStream, state: &State, is_given: &mut bool) -> Result<(), RedisFault> {
    let (mut commands, mut heard, mut scanned) = (Commands::default(), Vec::new(), 0);
    loop {
        let mut piece = [0; 1024];
        let came = replica.read(&mut piece).await?;
        if came == 0 {
            return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
        }
        heard.extend_from_slice(&piece[..came]);
        if heard.len() > MOST_HEARD {
            return Err(RedisFault::Other("what a replica says"));
        }
        while scanned < heard.len() {
            let advanced = commands.advance(&heard[scanned..]);
            let (used, ended) = advanced.map_err(|_| RedisFault::Other("what a replica says"))?;
            scanned += used;
            if !ended {
                continue;
            }
            let command = Command { bytes: &heard[..scanned], is_whole: true };
            let mut words = command.parts().map(<[u8]>::to_ascii_uppercase);
            match (words.next().as_deref(), words.next().as_deref()) {
                // Only that it is still there.
                (None, _) => {}
                (Some(b"PING"), _) => replica.write_all(b"+PONG\r\n").await?,
                (Some(b"REPLCONF"), Some(b"ACK")) if *is_given => return Ok(()),
                (Some(b"REPLCONF"), Some(b"ACK")) => {}
                (Some(b"REPLCONF" | b"AUTH"), _) => replica.write_all(b"+OK\r\n").await?,
                (Some(b"PSYNC"), _) => {
                    // A name that no other history has.
                    let name: String =
                        (0..END).map(|_| char::from(b"0123456789abcdef"[fastrand::usize(..16)])).collect();
                    let head = format!("+FULLRESYNC {name} 0\r\n${}\r\n", state.bytes());
                    replica.write_all(head.as_bytes()).await?;
                    let mut reading = state.read(0);
                    while let Some(Ok(frame)) = reading.frame().await {
                        if let Ok(bytes) = frame.into_data() {
                            replica.write_all(&bytes).await?;
                        }
                    }
                    *is_given = true;
                    replica.write_all(&written(&[b"REPLCONF", b"GETACK", b"*"])).await?;
                }
                _ => replica.write_all(b"-ERR nothing else is known here\r\n").await?,
            }
            heard.drain(..scanned);
            scanned = 0;
        }
    }
}

async fn connect(app: &Application<'_>) -> Result<TcpStream, HookFault> {
    dial::connect(app.sockets, app.at, app.stateful.timeout).await.map_err(HookFault::Unreached)
}

/// Asks for something that is answered by OK.
async fn ask(
    stream: &mut BufReader<TcpStream>,
    asked: &'static str,
    parts: &[&[u8]],
) -> Result<(), RedisFault> {
    stream.write_all(&written(parts)).await?;
    let said = line(stream).await?;
    if said.starts_with("+OK") { Ok(()) } else { Err(RedisFault::Refused { asked, said }) }
}

/// A command of these parts.
fn written(parts: &[&[u8]]) -> Vec<u8> {
    let mut bytes = format!("*{}\r\n", parts.len()).into_bytes();
    for part in parts {
        bytes.extend_from_slice(format!("${}\r\n", part.len()).as_bytes());
        bytes.extend_from_slice(part);
        bytes.extend_from_slice(b"\r\n");
    }
    bytes
}

/// The next line that is not empty: such ones say only that it is still there.
async fn line(stream: &mut BufReader<TcpStream>) -> Result<String, RedisFault> {
    let mut line = Vec::new();
    loop {
        match stream.read_u8().await? {
            b'\n' if line.iter().all(|byte| *byte == b'\r') => line.clear(),
            b'\n' => break,
            byte if line.len() < MOST_LINE => line.push(byte),
            _ => return Err(RedisFault::Other("a line")),
        }
    }
    Ok(String::from_utf8_lossy(&line).trim_end().to_owned())
}

/// Some bytes, at least one.
async fn some(stream: &mut BufReader<TcpStream>, into: &mut [u8]) -> Result<usize, RedisFault> {
    match stream.read(into).await? {
        0 => Err(io::Error::from(io::ErrorKind::UnexpectedEof).into()),
        came => Ok(came),
    }
}

/// So much is read at once.
const PIECE: usize = 64 * 1024;

/// How long what ends a stream is, and the name of a history.
const END: usize = 40;

const MOST_LINE: usize = 1024;

const MOST_HEARD: usize = 64 * 1024;
