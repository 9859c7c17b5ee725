//! What this binary is when `lighter run` runs it: plain programs that know nothing of a mesh.

use std::net::{Ipv4Addr, TcpListener, TcpStream};

use crate::support::raw::{Body, Peer};

/// Plays the role that the first argument names, if it does, and gives the status to end with.
pub fn play() -> Option<i32> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments[..] {
        ["@serve", port] => serve(port.parse().unwrap()),
        ["@get", host] => get(host),
        _ => return None,
    }
    Some(0)
}

/// Answers each request with its own head.
fn serve(port: u16) {
    let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).unwrap();
    println!("listening");
    for stream in listener.incoming() {
        std::thread::spawn(|| {
            let mut peer = Peer::over(stream.unwrap());
            while let Some(head) = peer.head() {
                let fields = head.fields.iter().map(|(name, value)| format!("{name}: {value}\n"));
                let body = fields.collect::<String>();
                peer.send(format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len()));
            }
        });
    }
}

/// Asks the Service `host` once, and prints the status, what the mesh says of it, and the body.
fn get(host: &str) {
    let mut peer = Peer::over(TcpStream::connect((host, 80)).unwrap());
    let request = format!("GET / HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
    match peer.exchange(request) {
        (head, Body::Whole(body)) => {
            let (status, cause) = (head.status(), head.cause().unwrap_or("ok"));
            println!("{status} {cause}\n{}", String::from_utf8_lossy(&body));
        }
        (_, cut) => panic!("{cut:?}"),
    }
}
