//! Protocols that are none of ours: Redis, MariaDB, and one that lives by half-close.

use std::process::Command;

use libtest_mimic::Trial;

use crate::support::metrics::Metrics;
use crate::support::process::{Program, find, free_address, listens, python};
use crate::support::{test_where, wait_until};
use crate::world::{World, script};

pub fn tests() -> Vec<Trial> {
    vec![
        test_where("databases::redis", redis),
        test_where("databases::mariadb", mariadb),
        test_where("databases::half_close", half_close),
    ]
}

fn redis() -> Result<(), String> {
    let (server, benchmark, cli) = (find("redis-server")?, find("redis-benchmark")?, find("redis-cli")?);
    let world = World::of("cache", 6379, "auto");
    let folder = world.folder.path().to_str().unwrap().to_owned();
    let arguments =
        ["--port", "6379", "--bind", "0.0.0.0", "--protected-mode", "no", "--save", "", "--dir", &folder];
    let mut server = world.serve(&server, &arguments);
    server.wait_until_it_says("Ready to accept connections");
    let said = world.must_call(&cli, &["-h", "cache", "set", "key", "some value"]);
    assert_eq!(said.trim(), "OK");
    // Inline commands are lines of words, and `GET key` could be the beginning of a request line.
    let inline = "exec 3<>/dev/tcp/cache/6379; printf 'GET key\\r\\n' >&3; read -r size <&3; read -r value <&3; \
                  printf 'PING\\r\\n' >&3; read -r pong <&3; echo \"$value $pong\"";
    let said = world.must_call(&find("bash")?, &["-c", inline]);
    assert_eq!(said.replace('\r', "").trim(), "some value +PONG");
    let said = world.must_call(
        &benchmark,
        &[
            "-h",
            "cache",
            "-n",
            "10000",
            "-c",
            "20",
            "-P",
            "4",
            "-q",
            "-t",
            "ping_inline,ping_mbulk,set,get,lrange_100",
        ],
    );
    assert_eq!(said.matches("requests per second").count(), 6, "{said}");
    wait_until("the callee's sidecar has counted opaque connections", || {
        let metrics = Metrics::of(server.admin);
        metrics.sum("lighter_connections_total", &[("direction", "inbound"), ("protocol", "tcp")]) >= 22.0
            && metrics.sum("lighter_detections_total", &[("direction", "inbound"), ("outcome", "opaque")])
                >= 22.0
    });
    Ok(())
}

/// The server speaks first, and nobody told the sidecar.
fn mariadb() -> Result<(), String> {
    let (server, install) = (find("mariadbd")?, find("mariadb-install-db")?);
    let (client, python) = (find("mariadb")?, python("socket")?);
    let endpoint = free_address();
    let world = World::with_endpoint("db", 3306, "auto", endpoint);
    let data = world.path("data");
    let datadir = format!("--datadir={}", data.display());
    let made = Command::new(install)
        .args([
            "--no-defaults",
            "--user=root",
            "--auth-root-authentication-method=normal",
            "--skip-test-db",
            &datadir,
        ])
        .output()
        .unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let mut command = Command::new(server);
    command
        .args([
            "--no-defaults",
            "--user=root",
            "--skip-name-resolve",
            "--skip-grant-tables",
            "--skip-log-bin",
            &datadir,
        ])
        .args(["--bind-address=127.0.0.1", &format!("--port={}", endpoint.port())])
        .arg(format!("--socket={}", world.path("socket").display()))
        .arg("--innodb-buffer-pool-size=16M")
        .arg("--skip-networking=0");
    let mut database = Program::start(command, world.folder.path());
    database.wait_until("it listens", || listens(endpoint));

    let said = world.must_call(
        &client,
        &[
            "--no-defaults",
            "--skip-ssl",
            "-h",
            "db",
            "-P",
            "3306",
            "--protocol=tcp",
            "-N",
            "-e",
            "select 6 * 7",
        ],
    );
    assert_eq!(said.trim(), "42");

    // The sidecar waits 10 ms for a caller that knows its protocol to speak, once; then it knows the port. The counters
    // decide; the time is shown.
    let greeting = script("greeting.py");
    let direct =
        Command::new(&python).args([&greeting, "127.0.0.1", &endpoint.port().to_string()]).output().unwrap();
    let direct: f64 = String::from_utf8_lossy(&direct.stdout).trim().parse().unwrap();
    let admin = free_address();
    let mut held = world.hold(admin, &python, &[&greeting, "db", "3306", "stay"]);
    held.wait_until_it_says("\n");
    let through: f64 = held.said().trim().parse().unwrap();
    println!("MariaDB greets after {direct:.2} ms directly, {through:.2} ms through a sidecar");
    let outbound = |more: &[(&str, &str)]| {
        let labels = [&[("direction", "outbound")], more].concat();
        Metrics::of(admin).sum("lighter_detections_total", &labels)
    };
    let greeted = |connections: f64| outbound(&[("outcome", "server_first")]) == connections;
    wait_until("every connection was found to be one where the server speaks first", || greeted(GREETINGS));
    assert_eq!(outbound(&[]), GREETINGS, "none of them was taken for anything else");
    drop(held);
    Ok(())
}

/// Connections that `greeting.py` makes.
const GREETINGS: f64 = 15.0;

fn half_close() -> Result<(), String> {
    let python = python("socketserver")?;
    for protocol in ["tcp", "auto"] {
        let world = World::of("sum", 7000, protocol);
        let mut server = world.serve(&python, &[&script("half_close.py"), "serve", "7000"]);
        server.wait_until_it_says("ready");
        world.must_call(&python, &[&script("half_close.py"), "call", "sum", "7000"]);
    }
    Ok(())
}
