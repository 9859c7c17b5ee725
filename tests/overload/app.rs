//! A service that works on some requests at once, each for some time, and has all others wait in order.

use std::net::{Ipv4Addr, SocketAddr};
use std::process::Command;
use std::rc::Rc;
use std::time::Duration;

use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::{LocalSet, spawn_local};

use crate::support::process::{Program, free_port};
use crate::support::{full, process};

/// One that runs on this host.
pub struct App {
    pub address: SocketAddr,
    _program: Program,
    _folder: TempDir,
}

/// How many requests it works on at once.
const PLACES: usize = 10;

/// How long one takes, in milliseconds.
fn millis() -> u64 {
    if full() { 20 } else { 50 }
}

impl App {
    pub fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let port = free_port();
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["@work", &port.to_string(), &millis().to_string()]);
        let mut program = Program::start(command, folder.path());
        program.wait_until_it_says("listening");
        App { address: SocketAddr::from((Ipv4Addr::LOCALHOST, port)), _program: program, _folder: folder }
    }

    /// Requests that it can answer in a second.
    pub fn capacity(&self) -> f64 {
        PLACES as f64 * 1000.0 / millis() as f64
    }
}

/// Plays the service if the first argument says so, and gives the status to end with.
pub fn play() -> Option<i32> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let ["@work", port, millis] = arguments[..] else { return None };
    process::raise_descriptor_limit();
    let work = Duration::from_millis(millis.parse().unwrap());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    LocalSet::new().block_on(&runtime, async {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port.parse().unwrap())).await.unwrap();
        println!("listening");
        let places = Rc::new(Semaphore::new(PLACES));
        while let Ok((tcp, _)) = listener.accept().await {
            tcp.set_nodelay(true).unwrap();
            spawn_local(serve(tcp, places.clone(), work));
        }
    });
    Some(0)
}

async fn serve(mut tcp: TcpStream, places: Rc<Semaphore>, work: Duration) {
    let mut head = Vec::new();
    while let Ok(1..) = tcp.read_buf(&mut head).await {
        if !head.ends_with(b"\r\n\r\n") {
            continue;
        }
        head.clear();
        let place = places.acquire().await.unwrap();
        tokio::time::sleep(work).await;
        drop(place);
        if tcp.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\ndone").await.is_err() {
            return;
        }
    }
}
