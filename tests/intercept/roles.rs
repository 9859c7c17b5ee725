//! What this binary is when it is run as somebody's program: plain clients and servers that know nothing of a mesh.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream, ToSocketAddrs};
use std::path::Path;
use std::time::Duration;

use lighter_config::sidecar::InterceptConfig;
use lighter_proxy::intercept::{self, Ports};
use serde_json::json;

/// Plays the role that the first argument names, if it does, and gives the status to end with.
pub fn play() -> Option<i32> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments[..] {
        ["@see", ..] => see(),
        ["@echo", port] => echo(port),
        ["@echo-once-told", port, file] => {
            println!("waiting");
            while !Path::new(file).exists() {
                std::thread::sleep(Duration::from_millis(5));
            }
            echo(port);
        }
        ["@call", address, text] => call(address, text),
        ["@resolve", name] => resolve(name),
        ["@reach", socket] => {
            return Some(i32::from(std::os::unix::net::UnixStream::connect(socket).is_err()));
        }
        ["@signals", file] => signals(Path::new(file)),
        ["@one-call", port, file, other] => one_call(port, Path::new(file), other),
        ["@pool", file, other] => pool(Path::new(file), other),
        ["@install"] => install(),
        _ => return None,
    }
    Some(0)
}

/// Prints what a program can notice of how it was started.
fn see() {
    let mut input = String::new();
    std::io::stdin().read_to_string(&mut input).unwrap();
    let mut descriptors = BTreeMap::new();
    for entry in std::fs::read_dir("/proc/self/fd").unwrap() {
        let entry = entry.unwrap();
        // The folder that is being read is gone by now.
        if let Ok(target) = std::fs::read_link(entry.path())
            && !target.starts_with("/proc")
        {
            descriptors.insert(entry.file_name().into_string().unwrap(), target);
        }
    }
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let kept = [
        "Uid",
        "Gid",
        "Groups",
        "SigBlk",
        "SigIgn",
        "SigCgt",
        "CapInh",
        "CapPrm",
        "CapEff",
        "CapAmb",
        "NoNewPrivs",
        "Threads",
    ];
    let status: BTreeMap<_, _> = status
        .lines()
        .filter_map(|line| line.split_once(':'))
        .filter(|(name, _)| kept.contains(name))
        .map(|(name, value)| (name, value.trim()))
        .collect();
    let limits = std::fs::read_to_string("/proc/self/limits").unwrap();
    let seen = json!({
        "arguments": std::env::args().collect::<Vec<_>>(),
        "environment": std::env::vars().collect::<BTreeMap<_, _>>(),
        "directory": std::env::current_dir().unwrap(),
        "input": input,
        "descriptors": descriptors,
        "status": status,
        "limits": limits,
        "umask": rustix::process::umask(rustix::fs::Mode::empty()).bits(),
        "mounts": std::fs::read_to_string("/proc/self/mountinfo").unwrap(),
        "process_group": rustix::process::getpgrp().as_raw_pid(),
        // Zero where the session's leader lives outside of this process namespace, which rustix cannot say.
        // SAFETY: a system call without pointers.
        "session": unsafe { libc::getsid(0) },
    });
    println!("{seen}");
    eprintln!("said on standard error");
}

/// Answers each line with itself, until the client has said all.
fn echo(port: &str) {
    let listener = TcpListener::bind(format!("[::]:{port}")).unwrap();
    println!("listening");
    for stream in listener.incoming() {
        let stream = stream.unwrap();
        std::thread::spawn(move || {
            let mut writer = stream.try_clone().unwrap();
            for line in BufReader::new(stream).lines().map_while(Result::ok) {
                writeln!(writer, "{line}").unwrap();
            }
        });
    }
}

/// Says `text` at `address` (a name and a port) and prints what comes back.
fn call(address: &str, text: &str) {
    print!("{}", ask(address, text));
}

fn ask(address: &str, text: &str) -> String {
    let stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    writeln!(&stream, "{text}").unwrap();
    stream.shutdown(std::net::Shutdown::Write).unwrap();
    let mut answer = String::new();
    (&stream).read_to_string(&mut answer).unwrap();
    answer
}

/// Prints the addresses of `name`.
fn resolve(name: &str) {
    for address in (name, 0).to_socket_addrs().unwrap() {
        println!("{}", address.ip());
    }
}

/// Writes the number of each signal that comes to `file`, and ends after SIGTERM.
fn signals(file: &Path) {
    let mut file = File::create(file).unwrap();
    let caught = [
        libc::SIGHUP,
        libc::SIGINT,
        libc::SIGQUIT,
        libc::SIGUSR1,
        libc::SIGUSR2,
        libc::SIGWINCH,
        libc::SIGTERM,
    ];
    // SAFETY: the set is initialised before it is read, and lives for the calls.
    unsafe {
        let mut set = std::mem::zeroed();
        libc::sigemptyset(&mut set);
        for signal in caught {
            libc::sigaddset(&mut set, signal);
        }
        libc::pthread_sigmask(libc::SIG_BLOCK, &set, std::ptr::null_mut());
        writeln!(file, "ready").unwrap();
        let mut signal = 0;
        while signal != libc::SIGTERM {
            libc::sigwait(&set, &mut signal);
            writeln!(file, "{signal}").unwrap();
        }
    }
    std::process::exit(9);
}

/// Takes one connection, and writes to `file` when it came, when its client was done, when `other` had answered what is
/// asked of it then, and when SIGTERM came.
fn one_call(port: &str, file: &Path, other: &str) {
    let mut file = File::create(file).unwrap();
    let listener = TcpListener::bind(format!("0.0.0.0:{port}")).unwrap();
    // SAFETY: the set is initialised before it is read, and lives for the calls.
    let set = unsafe {
        let mut set = std::mem::zeroed();
        libc::sigemptyset(&mut set);
        libc::sigaddset(&mut set, libc::SIGTERM);
        libc::pthread_sigmask(libc::SIG_BLOCK, &set, std::ptr::null_mut());
        set
    };
    let mut events = file.try_clone().unwrap();
    let other = other.to_owned();
    std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        writeln!(events, "came").unwrap();
        std::io::copy(&mut stream, &mut std::io::sink()).unwrap();
        writeln!(events, "done").unwrap();
        writeln!(events, "{}", ask(&other, "a question").trim()).unwrap();
        stream.write_all(b"the end").unwrap();
    });
    writeln!(file, "ready").unwrap();
    // SAFETY: as above.
    unsafe { libc::sigwait(&set, &mut 0) };
    writeln!(file, "term").unwrap();
}

/// Keeps a connection to `other`, and when SIGTERM comes asks it something over another; writes the answer to `file`.
fn pool(file: &Path, other: &str) {
    let mut file = File::create(file).unwrap();
    // SAFETY: the set is initialised before it is read, and lives for the calls.
    let set = unsafe {
        let mut set = std::mem::zeroed();
        libc::sigemptyset(&mut set);
        libc::sigaddset(&mut set, libc::SIGTERM);
        libc::pthread_sigmask(libc::SIG_BLOCK, &set, std::ptr::null_mut());
        set
    };
    let mut kept = TcpStream::connect(other).unwrap();
    kept.write_all(b"hello").unwrap();
    writeln!(file, "ready").unwrap();
    // SAFETY: as above.
    unsafe { libc::sigwait(&set, &mut 0) };
    // What is kept is as good as it was.
    kept.write_all(b" and bye").unwrap();
    writeln!(file, "{}", ask(other, "last words").trim()).unwrap();
}

/// Prints why the rules cannot be set.
fn install() {
    match intercept::install(&InterceptConfig::default(), &Ports::default()) {
        Ok(_) => println!("set"),
        Err(error) => println!("{error}"),
    }
}
