//! An application with a state of pages, of which every write changes one.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

/// The header by which its answers say who gave them.
pub const INSTANCE: &str = "x-instance";

const PAGE: usize = 4096;

/// Plays the role that the first argument names, if it does, and gives the status to end with.
pub fn play() -> Option<i32> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let ["@state", port, name, mib] = arguments[..] else { return None };
    serve(port.parse().unwrap(), name, mib.parse().unwrap());
    Some(0)
}

struct App {
    name: String,
    memory: Mutex<Memory>,
}

#[derive(Default)]
struct Memory {
    /// Each with the version in which it was written. Whoever reads one keeps it as it is.
    pages: Vec<(u64, Arc<[u8]>)>,
    version: u64,
}

fn serve(port: u16, name: &str, mib: usize) {
    let mut random = fastrand::Rng::with_seed(1);
    let mut page = || (0, (0..PAGE).map(|_| random.u8(..)).collect());
    let pages = (0..(mib << 20) / PAGE).map(|_| page()).collect();
    let memory = Mutex::new(Memory { pages, version: 1 });
    let app = Arc::new(App { name: name.to_owned(), memory });
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).unwrap();
    println!("listening");
    while let Ok((tcp, _)) = listener.accept() {
        tcp.set_nodelay(true).unwrap();
        let app = app.clone();
        // Whoever is gone is gone.
        std::thread::spawn(move || drop(app.connection(tcp)));
    }
}

impl App {
    fn connection(&self, tcp: TcpStream) -> std::io::Result<()> {
        let mut reader = BufReader::with_capacity(256 << 10, tcp.try_clone()?);
        let mut writer = tcp;
        loop {
            let mut line = String::new();
            if reader.read_line(&mut line)? == 0 {
                return Ok(());
            }
            let mut length = 0;
            loop {
                let mut field = String::new();
                reader.read_line(&mut field)?;
                let Some((name, value)) = field.split_once(':') else { break };
                if name.eq_ignore_ascii_case("content-length") {
                    length = value.trim().parse().unwrap();
                }
            }
            let mut body = vec![0; length];
            reader.read_exact(&mut body)?;
            let mut words = line.split(' ');
            let (method, path) = (words.next().unwrap(), words.next().unwrap());
            self.answer(&mut writer, method, path, &body)?;
        }
    }

    fn answer(&self, to: &mut TcpStream, method: &str, path: &str, body: &[u8]) -> std::io::Result<()> {
        let since = path.strip_prefix("/changes?since=").and_then(|since| since.parse::<u64>().ok());
        let mut memory = self.memory.lock().unwrap();
        match (method, path) {
            ("GET", "/state") => {
                let (pages, version) = (memory.pages.clone(), memory.version);
                drop(memory);
                let parts = pages.iter().map(|(_, page)| &**page);
                self.say(to, version, (pages.len() * PAGE, parts))
            }
            ("PUT", "/state") => {
                memory.version += 1;
                let version = memory.version;
                memory.pages = body.chunks(PAGE).map(|page| (version, page.into())).collect();
                drop(memory);
                self.say(to, version, (0, []))
            }
            ("PATCH", "/state") => {
                memory.version += 1;
                let version = memory.version;
                for entry in body.chunks(8 + PAGE) {
                    let at = u64::from_le_bytes(entry[..8].try_into().unwrap()) as usize;
                    memory.pages[at] = (version, entry[8..].into());
                }
                drop(memory);
                self.say(to, version, (0, []))
            }
            ("POST", "/write") => {
                memory.version += 1;
                let version = memory.version;
                // One that keeps nothing is asked for the same.
                if !memory.pages.is_empty() {
                    let at = fastrand::usize(..memory.pages.len());
                    let page = version.to_le_bytes().into_iter().cycle().take(PAGE).collect();
                    memory.pages[at] = (version, page);
                }
                drop(memory);
                self.say(to, version, (0, []))
            }
            _ => {
                let version = memory.version;
                let changed: Vec<_> = match since {
                    Some(since) => {
                        let pages =
                            memory.pages.iter().enumerate().filter(|(_, (version, _))| *version > since);
                        pages.map(|(at, (_, page))| ((at as u64).to_le_bytes(), page.clone())).collect()
                    }
                    None => Vec::new(),
                };
                drop(memory);
                let parts = changed.iter().flat_map(|(at, page)| [&at[..], &**page]);
                self.say(to, version, (changed.len() * (8 + PAGE), parts))
            }
        }
    }

    fn say<'p>(
        &self,
        to: &mut TcpStream,
        version: u64,
        (bytes, parts): (usize, impl IntoIterator<Item = &'p [u8]>),
    ) -> std::io::Result<()> {
        let mut said = format!(
            "HTTP/1.1 200 OK\r\n{INSTANCE}: {}\r\nx-lighter-state-version: {version}\r\ncontent-length: {bytes}\r\n\r\n",
            self.name
        )
        .into_bytes();
        for part in parts {
            said.extend(part);
            if said.len() >= 256 << 10 {
                to.write_all(&said)?;
                said.clear();
            }
        }
        to.write_all(&said)
    }
}
