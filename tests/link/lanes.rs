//! A link over QUIC that says whatever it is told to.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use lighter_proxy::link::frame::{HEADER_BYTES, Type};
use quinn::crypto::rustls::QuicClientConfig;
use quinn::{Connection, RecvStream, SendStream};
use tokio::runtime::{Builder, Runtime};

use crate::support::PATIENCE;

/// A connection on which the frames of a session go as those of a link over QUIC do: each stream's by a stream of its own,
/// where they do not say which one that is.
pub struct Lanes {
    runtime: Runtime,
    connection: Connection,
    control: SendStream,
    open: HashMap<u32, (SendStream, RecvStream)>,
}

const HEADER: usize = HEADER_BYTES;

impl Lanes {
    pub fn to(address: SocketAddr, tls: Arc<rustls::ClientConfig>) -> Self {
        let runtime = Builder::new_current_thread().enable_all().build().unwrap();
        let (connection, control) = runtime.block_on(async {
            let endpoint = quinn::Endpoint::client("127.0.0.1:0".parse().unwrap()).unwrap();
            let config = quinn::ClientConfig::new(Arc::new(QuicClientConfig::try_from(tls).unwrap()));
            let connection = endpoint.connect_with(config, address, "127.0.0.1").unwrap().await.unwrap();
            let control = connection.open_bi().await.unwrap().0;
            (connection, control)
        });
        Lanes { runtime, connection, control, open: HashMap::new() }
    }

    /// Sends whole `frames`.
    pub fn send(&mut self, mut frames: &[u8]) {
        let Lanes { runtime, connection, control, open } = self;
        runtime.block_on(async {
            while let Some((header, _)) = frames.split_first_chunk::<HEADER>() {
                let [a, b, c, kind, _, x, y, z] = *header;
                let length = HEADER + u32::from_be_bytes([0, a, b, c]) as usize;
                let mut frame = frames[..length].to_vec();
                frames = &frames[length..];
                frame[5..HEADER].fill(0);
                let stream = u32::from_be_bytes([0, x, y, z]);
                // It is not granted here.
                if kind == Type::Credit as u8 {
                    continue;
                }
                if stream == 0 {
                    control.write_all(&frame).await.unwrap();
                    continue;
                }
                let lane = match open.entry(stream) {
                    Entry::Occupied(known) => known.into_mut(),
                    Entry::Vacant(new) => new.insert(connection.open_bi().await.unwrap()),
                };
                // Who was refused is not listened to any more.
                let _ = lane.0.write_all(&frame).await;
            }
        });
    }

    /// The next frame that comes by the lane of `stream`, as it would be on another link.
    pub fn frame(&mut self, stream: u32) -> Bytes {
        let Lanes { runtime, open, .. } = self;
        let recv = &mut open.get_mut(&stream).unwrap().1;
        let frame = async {
            let mut header = [0; HEADER];
            recv.read_exact(&mut header).await.expect("the link stands");
            let [a, b, c, ..] = header;
            let mut frame = vec![0; HEADER + u32::from_be_bytes([0, a, b, c]) as usize];
            recv.read_exact(&mut frame[HEADER..]).await.expect("the link stands");
            frame[..HEADER].copy_from_slice(&header);
            frame[5..HEADER].copy_from_slice(&stream.to_be_bytes()[1..]);
            Bytes::from(frame)
        };
        runtime.block_on(async { tokio::time::timeout(PATIENCE, frame).await.expect("an answer comes") })
    }
}
