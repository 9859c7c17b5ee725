//! The self-probe: a connection to an address that only interception can lead to us. It is made like any of the
//! workload's, and answered by the outbound port with a word that only this process knows.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::LazyLock;
use std::time::Duration;

use lighter_config::sidecar::InterceptConfig;
use tokio::io::{AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpSocket;

use super::InterceptError;

/// Where the probe connects to: the last address of each range of virtual addresses, and a port that nobody uses.
pub const ADDRESSES: [SocketAddr; 2] = [
    SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::new(198, 19, 255, 254)), 1),
    SocketAddr::new(
        std::net::IpAddr::V6(Ipv6Addr::new(0xfd00, 0x11, 0x6874, 0xe5, 0xffff, 0xffff, 0xffff, 0xfffe)),
        1,
    ),
];

/// Whether a connection with this original destination is a probe; [`answer`] takes it.
pub fn is_probe(original: SocketAddr) -> bool {
    ADDRESSES.contains(&original)
}

/// Answers a probe.
pub async fn answer(mut probe: impl AsyncWrite + Unpin) -> io::Result<()> {
    probe.write_all(&*TOKEN).await?;
    probe.shutdown().await
}

/// Connects through interception over IPv4 and IPv6, as far as this network namespace has them, and fails unless it
/// was this process that answered. `socket` makes a socket in the workload's network namespace that has nothing by
/// which the rules would leave it alone. The outbound port must be served meanwhile.
pub async fn run(
    config: &InterceptConfig,
    socket: impl Fn(SocketAddr) -> io::Result<socket2::Socket>,
) -> Result<(), InterceptError> {
    if !config.outbound {
        return Ok(());
    }
    let mut absent = None;
    let mut proved = false;
    for address in ADDRESSES {
        let failed = |detail: String| InterceptError::Probe { address, detail };
        match tokio::time::timeout(TIMEOUT, ask(&socket, address)).await {
            Ok(Ok(token)) if token == *TOKEN => proved = true,
            Ok(Ok(_)) => return Err(failed("another process answered".into())),
            Ok(Err(error)) if is_absence(&error) => absent = Some(failed(error.to_string())),
            Ok(Err(error)) => return Err(failed(error.to_string())),
            Err(_) => return Err(failed(format!("no answer within {TIMEOUT:?}"))),
        }
    }
    match absent {
        Some(error) if !proved => Err(error),
        _ => Ok(()),
    }
}

async fn ask(
    socket: &impl Fn(SocketAddr) -> io::Result<socket2::Socket>,
    address: SocketAddr,
) -> io::Result<[u8; 16]> {
    let socket = socket(address)?;
    socket.set_nonblocking(true)?;
    let mut stream = TcpSocket::from_std_stream(socket.into()).connect(address).await?;
    let mut token = [0; 16];
    stream.read_exact(&mut token).await?;
    Ok(token)
}

/// Without an address or a route of the family a connection fails before it meets any rule, and so would the
/// workload's.
fn is_absence(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::EAFNOSUPPORT | libc::EADDRNOTAVAIL | libc::ENETUNREACH | libc::EHOSTUNREACH)
    )
}

/// Tells this process from another that may hold the port. Not a secret.
static TOKEN: LazyLock<[u8; 16]> = LazyLock::new(|| fastrand::u128(..).to_ne_bytes());

const TIMEOUT: Duration = Duration::from_secs(5);
