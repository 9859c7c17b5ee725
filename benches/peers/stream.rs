//! Opaque TCP: an upstream that sends without end, and clients that read.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::time::{Duration, Instant};

use crate::measure::Load;

const MIB: f64 = 1024.0 * 1024.0;

/// Sends to every caller until it goes; says on which port.
pub fn upstream() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { continue };
            std::thread::spawn(move || {
                let block = [b'x'; 64 * 1024];
                while stream.write_all(&block).is_ok() {}
            });
        }
    });
    port
}

/// Reads from `connections` at once for as long as `time`. Units are MiB.
pub fn read(port: u16, connections: usize, time: Duration) -> Load {
    let start = Instant::now();
    let readers: Vec<_> = (0..connections)
        .map(|_| {
            std::thread::spawn(move || {
                let mut stream =
                    TcpStream::connect(("127.0.0.1", port)).expect("the proxy accepts connections");
                let mut buffer = vec![0; 256 * 1024];
                let mut sum = 0;
                while start.elapsed() < time {
                    match stream.read(&mut buffer).expect("the stream goes on") {
                        0 => panic!("the proxy ended a stream that has no end"),
                        got => sum += got,
                    }
                }
                sum
            })
        })
        .collect();
    let bytes: usize = readers.into_iter().map(|reader| reader.join().expect("a reader reads")).sum();
    Load { units: bytes as f64 / MIB, time: start.elapsed(), latencies: Vec::new() }
}

/// Whether bytes come.
pub fn probe(port: u16) -> bool {
    let ask = || -> std::io::Result<bool> {
        let mut stream = TcpStream::connect(("127.0.0.1", port))?;
        stream.set_read_timeout(Some(Duration::from_secs(2)))?;
        Ok(stream.read(&mut [0; 16])? > 0)
    };
    ask().unwrap_or(false)
}
