//! The demo's services: small plain servers that know each other by name and nothing of any mesh.
//!
//! They stand for programs that nobody changed, so nothing here may use Lighter: names are resolved as the system
//! resolves them, connections are ordinary sockets, a failed call is passed on as a failure. They are in this
//! binary only so that the demo needs nothing installed.

use std::io::{self, BufReader};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};

use serde_json::{Value, json};

use crate::exit::Exit;

mod caller;
mod http;
pub mod orders;

use caller::{Caller, Connections};
use http::{Request, Response};

/// Arguments of the hidden command that runs one service.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Which service
    #[arg(value_enum)]
    role: Role,
    /// The port it listens on
    #[arg(long)]
    port: u16,
    /// The version it says it is
    #[arg(long, default_value = "v1")]
    version: String,
    /// What tells this instance from others
    #[arg(long, default_value = "a")]
    instance: String,
    /// The file that `storage` has, or where `orders` finds it, as HOST:PORT
    #[arg(long, default_value = "")]
    data: String,
}

/// What a service says when it can be called.
pub const LISTENS: &str = "listens";

/// Which service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Role {
    /// Composes a page from the two others.
    Web,
    /// Says which books there are.
    Catalog,
    /// Says what people think of them.
    Reviews,
    /// Has a file.
    Storage,
    /// Answers with rows of that file, which it reads anew for each request.
    Orders,
    /// Tells how many orders were large.
    Reports,
    /// Counts how often it was asked, in its memory, and gives and takes that when it is asked to.
    Counter,
}

/// Serves until the process is ended.
pub fn execute(args: Args) -> miette::Result<Exit> {
    serve(args).map_err(|error| miette::miette!("{error}"))
}

fn serve(args: Args) -> io::Result<Exit> {
    let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, args.port))?;
    println!("{:?} {} {LISTENS} on port {}", args.role, args.version, args.port);
    let service = Arc::new(Service::new(args));
    loop {
        let (connection, _) = listener.accept()?;
        let service = service.clone();
        std::thread::spawn(move || {
            if let Err(error) = service.converse(connection) {
                eprintln!("connection ended: {error}");
            }
        });
    }
}

/// One service process.
struct Service {
    args: Args,
    /// What all its threads did to others.
    connections: Connections,
    /// How often a counter was asked.
    count: AtomicU64,
}

impl Service {
    fn new(args: Args) -> Self {
        Service { args, connections: Connections::default(), count: AtomicU64::new(0) }
    }

    /// Answers one connection's requests, one after the other, and calls others on kept connections of its own.
    fn converse(&self, connection: TcpStream) -> io::Result<()> {
        connection.set_nodelay(true)?;
        let mut catalog = Caller::new("catalog", 80, &self.connections);
        let mut reviews = Caller::new("reviews", 80, &self.connections);
        let mut orders = Caller::new("orders", 80, &self.connections);
        let (host, port) = orders::place(&self.args.data);
        let mut storage = Caller::new(host, port, &self.connections);
        let mut reader = BufReader::new(connection);
        while let Some(request) = Request::read(&mut reader)? {
            let response = match (&*request.path, self.args.role) {
                ("/healthz", _) => Response::ok(&json!({"healthy": true})),
                (_, Role::Web) => self.page(&mut catalog, &mut reviews),
                (_, Role::Catalog) => Response::ok(&self.myself(json!({"books": ["Dubliners", "Kim"]}))),
                (_, Role::Reviews) => Response::ok(&self.myself(json!({"stars": [4, 5]}))),
                (_, Role::Storage) => Response::csv(std::fs::read(&self.args.data)?),
                (path, Role::Orders) => orders::scan(&mut storage, path),
                (_, Role::Reports) => self.report(&mut orders),
                (path, Role::Counter) => self.counter(&request.method, path, &request.body),
            };
            response.write(reader.get_mut())?;
            if request.close {
                break;
            }
        }
        Ok(())
    }

    /// A page composed from both others, or the failure of either.
    fn page(&self, catalog: &mut Caller<'_>, reviews: &mut Caller<'_>) -> Response {
        let answers = catalog.get("/books").and_then(|books| Ok((books, reviews.get("/reviews")?)));
        match answers {
            Ok((catalog, reviews)) => Response::ok(&self.myself(json!({
                "catalog": catalog,
                "reviews": reviews,
                "connections": self.connections.to_json(),
            }))),
            Err(error) => Response::failed(&error.to_string()),
        }
    }

    /// How many large orders there are, or why that is not known.
    fn report(&self, orders: &mut Caller<'_>) -> Response {
        match orders.read(orders::LARGE) {
            Ok(rows) => Response::ok(&self.myself(json!({
                "orders": orders::told(&rows),
                "connections": self.connections.to_json(),
            }))),
            Err(error) => Response::failed(&error.to_string()),
        }
    }

    /// Counts, or gives the count, or takes another.
    fn counter(&self, method: &str, path: &str, body: &[u8]) -> Response {
        match (method, path) {
            ("GET", "/state") => Response::text(self.count.load(SeqCst).to_string()),
            ("PUT", "/state") => match std::str::from_utf8(body).ok().and_then(|count| count.parse().ok()) {
                Some(count) => {
                    self.count.store(count, SeqCst);
                    Response::ok(&json!({ "taken": count }))
                }
                None => Response::failed("that is no count"),
            },
            _ => Response::ok(&json!({
                "counter": {"place": self.args.instance, "count": self.count.fetch_add(1, SeqCst) + 1},
                "connections": self.connections.to_json(),
            })),
        }
    }

    /// `content`, signed by this instance.
    fn myself(&self, mut content: Value) -> Value {
        content["version"] = json!(self.args.version);
        content["instance"] = json!(self.args.instance);
        content
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};

    fn start(role: Role) -> std::net::SocketAddr {
        let args = Args { role, port: 0, version: "v2".into(), instance: "b".into(), data: String::new() };
        let service = Arc::new(Service::new(args));
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let address = listener.local_addr().unwrap();
        std::thread::spawn(move || {
            for connection in listener.incoming() {
                let _ = service.converse(connection.unwrap());
            }
        });
        address
    }

    #[test]
    fn a_service_says_its_version_and_instance_on_a_kept_connection() {
        let mut connection = TcpStream::connect(start(Role::Reviews)).unwrap();
        connection
            .write_all(
                b"GET /reviews HTTP/1.1\r\nhost: x\r\n\r\nGET /healthz HTTP/1.1\r\nconnection: close\r\n\r\n",
            )
            .unwrap();
        let mut answers = String::new();
        connection.read_to_string(&mut answers).unwrap();
        assert_eq!(answers.matches("HTTP/1.1 200 OK\r\n").count(), 2, "{answers}");
        assert!(answers.contains(r#""version":"v2""#) && answers.contains(r#""instance":"b""#), "{answers}");
        assert!(answers.ends_with(r#"{"healthy":true}"#), "{answers}");
    }

    #[test]
    fn a_counter_goes_on_from_what_it_was_given() {
        let at = start(Role::Counter);
        let asked = [
            "GET / HTTP/1.1\r\n\r\n",
            "PUT /state HTTP/1.1\r\ncontent-length: 2\r\n\r\n41",
            "PUT /state HTTP/1.1\r\ncontent-length: 1\r\n\r\nx",
            "GET / HTTP/1.1\r\n\r\n",
            "GET /state HTTP/1.1\r\nconnection: close\r\n\r\n",
        ];
        let mut connection = TcpStream::connect(at).unwrap();
        connection.write_all(asked.concat().as_bytes()).unwrap();
        let mut answers = String::new();
        connection.read_to_string(&mut answers).unwrap();
        assert!(answers.contains(r#""count":1,"#) && answers.contains(r#""count":42,"#), "{answers}");
        assert_eq!(answers.matches("HTTP/1.1 502 ").count(), 1, "{answers}");
        assert!(answers.ends_with("\r\n\r\n42"), "{answers}");
    }
}
