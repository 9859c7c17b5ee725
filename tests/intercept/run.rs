//! `lighter run`: an unchanged program, its sidecar, and how both end.

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};

use libtest_mimic::{Completion, Trial};
use rustix::mount::{MountPropagationFlags, mount_bind, mount_change};
use rustix::process::Signal;
use rustix::thread::UnshareFlags;
use serde_json::Value;

use crate::place::{APP, Place, Who, lives, status};
use crate::support::namespace::{accept, connect, root};
use crate::support::process::free_address;
use crate::support::{test_where, wait_until};

pub fn tests() -> Vec<Trial> {
    let both: [Test; 10] = [
        ("a_run_ends_like_its_program", a_run_ends_like_its_program),
        ("a_program_sees_no_difference", a_program_sees_no_difference),
        ("programs_reach_each_other_by_name", programs_reach_each_other_by_name),
        ("callers_are_refused_until_the_program_listens", callers_are_refused_until_the_program_listens),
        ("signals_are_passed_on", signals_are_passed_on),
        ("the_sidecar_drains_before_the_program_stops", the_sidecar_drains_before_the_program_stops),
        ("a_program_has_its_network_until_it_has_stopped", a_program_has_its_network_until_it_has_stopped),
        (
            "what_a_program_leaves_behind_is_reaped_and_ended",
            what_a_program_leaves_behind_is_reaped_and_ended,
        ),
        ("a_killed_sidecar_leaves_no_process", a_killed_sidecar_leaves_no_process),
        ("a_program_is_not_started_without_its_sidecar", a_program_is_not_started_without_its_sidecar),
    ];
    let mut tests = Vec::new();
    for (name, test) in both {
        for (who, suffix) in [(Who::Same, "as_root"), (Who::Nobody, "unprivileged")] {
            tests.push(Trial::ignorable_test(format!("{name}_{suffix}"), move || {
                if let Err(reason) = Place::possible(who) {
                    return Ok(Completion::ignored_with(reason));
                }
                test(&Place::new(who));
                Ok(Completion::Completed)
            }));
        }
    }
    tests.push(test_where("no_binary_is_needed_for_rules", no_binary_is_needed_for_rules));
    tests
        .push(test_where("names_resolve_whatever_resolv_conf_says", names_resolve_whatever_resolv_conf_says));
    tests
        .push(test_where("a_name_service_of_the_host_is_not_asked", a_name_service_of_the_host_is_not_asked));
    tests
}

/// A name and what is tried, as root and as nobody.
type Test = (&'static str, fn(&Place));

fn a_run_ends_like_its_program(place: &Place) {
    for (script, expected) in [("exit 0", 0), ("exit 3", 3), ("kill -KILL $$", 137), ("kill -TERM $$", 143)] {
        let output = place.run(&[], &["sh", "-c", script]).output().unwrap();
        assert_eq!(status(&output), expected, "{script}: {}", String::from_utf8_lossy(&output.stderr));
    }
    for (program, expected) in [("/nonexistent", 127), ("/etc/passwd", 126)] {
        let output = place.run(&[], &[program]).output().unwrap();
        assert_eq!(status(&output), expected);
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(error.contains(program), "{error}");
    }
    assert_eq!(status(&place.run(&["--listen", "127.0.0.1:1"], &["true"]).output().unwrap()), 2);
}

fn a_program_sees_no_difference(place: &Place) {
    let own = place.own();
    let see = |mut command: Command| -> Value {
        command.args(["with arguments", ""]).env("SOME", "thing").stdin(Stdio::piped());
        command.stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0);
        // Some supervisors ignore the end of their children, and a program inherits that.
        // SAFETY: no handler is given.
        let ignore_children = || match unsafe { libc::signal(libc::SIGCHLD, libc::SIG_IGN) } {
            libc::SIG_ERR => Err(std::io::Error::last_os_error()),
            _ => Ok(()),
        };
        // SAFETY: one system call, which is async-signal-safe.
        unsafe { command.pre_exec(ignore_children) };
        let mut child = command.spawn().unwrap();
        child.stdin.take().unwrap().write_all(b"what is typed").unwrap();
        let group = child.id();
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        assert_eq!(String::from_utf8_lossy(&output.stderr), "said on standard error\n");
        let mut seen: Value = serde_json::from_slice(&output.stdout).unwrap();
        // Each of the two was started as the head of a process group.
        assert_eq!(seen["process_group"].take(), group);
        for (_, target) in seen["descriptors"].as_object_mut().unwrap() {
            // Pipes differ by their numbers.
            *target = target.as_str().unwrap().split(':').next().unwrap().into();
        }
        seen
    };
    let mut plain = place.program(own.clone());
    plain.arg("@see");
    let mut with_sidecar = place.run(&[], &[own.to_str().unwrap(), "@see"]);
    with_sidecar.env_remove("LIGHTER_LOG");
    let (plain, with_sidecar) = (see(plain), see(with_sidecar));
    for (name, value) in plain.as_object().unwrap() {
        assert_eq!(&with_sidecar[name], value, "{name}");
    }
}

fn programs_reach_each_other_by_name(place: &Place) {
    let listen = free_address();
    let mesh = place.mesh("echo", 7000, listen);
    let (port, listen_text) = (APP.to_string(), listen.to_string());
    let mut server = place.start(
        &["--service", "echo", "--port", &port, "--listen", &listen_text, "--resources", &mesh],
        &["@echo", &port],
    );
    wait_until("the program listens", || server.program.said().contains("listening"));
    wait_until("callers are let in", || !refused(listen));
    for name in ["echo:7000", "echo.default.svc.cluster.local:7000"] {
        let mut client = place.start(&["--resources", &mesh], &["@call", name, "carried"]);
        assert!(client.program.wait().success(), "{}", client.program.said());
        assert!(client.program.said().contains("carried"), "{}", client.program.said());
        let facts = client.status();
        let rule = |name: &str| {
            let rules = facts["rules"].as_array().unwrap();
            rules.iter().find(|rule| rule["rule"] == name).unwrap()["packets"].as_u64().unwrap()
        };
        assert!(rule("dns-udp") >= 1 && rule("outbound") >= 3, "probes and one call: {facts}");
        assert_ne!(facts["netns"], facts["host_netns"]);
        assert_ne!(facts["netns"], server.status()["netns"]);
    }
    let netns = |pid: u64| std::fs::read_link(format!("/proc/{pid}/ns/net")).unwrap();
    let inode = format!("net:[{}]", server.number("netns"));
    assert_eq!(netns(server.number("app_pid")), Path::new(&inode));
    assert_eq!(netns(server.number("sidecar_pid")), netns(u64::from(std::process::id())));
    server.signal(libc::SIGTERM);
    assert_eq!(server.program.wait().code(), Some(143));
}

fn callers_are_refused_until_the_program_listens(place: &Place) {
    let listen = free_address();
    let mesh = place.mesh("late", 7000, listen);
    let file = place.path("told");
    let (port, listen_text) = (APP.to_string(), listen.to_string());
    let server = place.start(
        &["--service", "late", "--port", &port, "--listen", &listen_text, "--resources", &mesh],
        &["@echo-once-told", &port, file.to_str().unwrap()],
    );
    wait_until("the program runs", || server.program.said().contains("waiting"));
    assert!(refused(listen), "nobody would answer");
    std::fs::write(&file, "").unwrap();
    wait_until("callers are let in", || !refused(listen));
    let mut caller = connect(listen);
    caller.write_all(b"carried\n").unwrap();
    caller.shutdown(Shutdown::Write).unwrap();
    let mut answer = String::new();
    caller.read_to_string(&mut answer).unwrap();
    assert_eq!(answer, "carried\n");
}

fn signals_are_passed_on(place: &Place) {
    let file = place.path("signals");
    let mut running = place.start(&["--drain-deadline", "1s"], &["@signals", file.to_str().unwrap()]);
    let said = || std::fs::read_to_string(&file).unwrap_or_default();
    wait_until("the program is ready", || said().starts_with("ready\n"));
    let mut expected = "ready\n".to_owned();
    for signal in [
        libc::SIGHUP,
        libc::SIGINT,
        libc::SIGQUIT,
        libc::SIGUSR1,
        libc::SIGUSR2,
        libc::SIGWINCH,
        libc::SIGTERM,
    ] {
        running.signal(signal);
        expected += &format!("{signal}\n");
        wait_until("the signal arrives", || said() == expected);
    }
    assert_eq!(running.program.wait().code(), Some(9), "{}", running.program.said());
    assert_eq!(running.status()["exit_status"], 9);
}

fn the_sidecar_drains_before_the_program_stops(place: &Place) {
    let (listen, other) = (free_address(), std::net::TcpListener::bind("127.0.0.1:0").unwrap());
    place.mesh("one", 7000, listen);
    let mesh = place.mesh("other", 7000, other.local_addr().unwrap());
    let file = place.path("events");
    let (port, listen_text) = (APP.to_string(), listen.to_string());
    let mut running = place.start(
        &["--service", "one", "--port", &port, "--listen", &listen_text, "--resources", &mesh],
        &["@one-call", &port, file.to_str().unwrap(), "other:7000"],
    );
    let said = || std::fs::read_to_string(&file).unwrap_or_default();
    wait_until("the program is ready", || said() == "ready\n");
    // The program takes one call, so its caller must not be announced by another.
    let mut caller = None;
    wait_until("callers are let in", || {
        caller = TcpStream::connect(listen).ok();
        caller.is_some()
    });
    let mut caller = caller.unwrap();
    caller.write_all(b"a long story").unwrap();
    wait_until("the call came", || said() == "ready\ncame\n");
    running.signal(libc::SIGTERM);
    wait_until("nobody is accepted any more", || refused(listen));
    assert_eq!(said(), "ready\ncame\n", "the program was told to stop while it had a caller");
    // To finish, the program has to call somebody itself.
    caller.shutdown(Shutdown::Write).unwrap();
    let (_, mut called) = accept(&[other]);
    called.read_exact(&mut [0; "a question\n".len()]).unwrap();
    called.write_all(b"answered\n").unwrap();
    drop(called);
    let mut end = String::new();
    caller.read_to_string(&mut end).unwrap();
    assert_eq!(end, "the end");
    assert!(running.program.wait().success(), "{}", running.program.said());
    assert_eq!(said(), "ready\ncame\ndone\nanswered\nterm\n");
}

fn a_program_has_its_network_until_it_has_stopped(place: &Place) {
    let other = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let mesh = place.mesh("other", 7000, other.local_addr().unwrap());
    let file = place.path("events");
    // A stop that waited for the kept connection would take longer than any test.
    let mut running = place.start(
        &["--drain-deadline", "1h", "--resources", &mesh],
        &["@pool", file.to_str().unwrap(), "other:7000"],
    );
    let said = || std::fs::read_to_string(&file).unwrap_or_default();
    let others = [other];
    let (_, mut kept) = accept(&others);
    wait_until("the program is ready", || said() == "ready\n");
    running.signal(libc::SIGTERM);
    let (_, mut last) = accept(&others);
    last.read_exact(&mut [0; "last words\n".len()]).unwrap();
    last.write_all(b"heard\n").unwrap();
    drop(last);
    let mut all = String::new();
    kept.read_to_string(&mut all).unwrap();
    assert_eq!(all, "hello and bye");
    drop(kept);
    assert!(running.program.wait().success(), "{}", running.program.said());
    assert_eq!(said(), "ready\nheard\n");
}

fn refused(address: std::net::SocketAddr) -> bool {
    TcpStream::connect(address).is_err()
}

fn what_a_program_leaves_behind_is_reaped_and_ended(place: &Place) {
    let file = place.path("left");
    // The first orphan ends by itself, the second does not; the program waits to be told.
    let script = format!(
        "(true & exec true); sh -c 'sleep 1000 & echo $!' > {0}.new; mv {0}.new {0}; exec cat",
        file.display()
    );
    let status_file = place.path("status.json");
    let mut command = place.run(&["--status-file", status_file.to_str().unwrap()], &["sh", "-c", &script]);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
    wait_until("it left something behind", || file.exists() && status_file.exists());
    let left: u64 = std::fs::read_to_string(&file).unwrap().trim().parse().unwrap();
    let facts: Value = serde_json::from_slice(&std::fs::read(&status_file).unwrap()).unwrap();
    let inside = facts["inside_pid"].as_u64().unwrap();
    wait_until("the orphan was adopted", || children(inside).contains(&left));
    wait_until("no zombie is left", || children(inside).iter().all(|child| lives(*child)));
    drop(child.stdin.take());
    assert_eq!(child.wait().unwrap().code(), Some(0));
    assert!(!lives(left), "it outlived its namespace");
    assert!(!lives(inside));
}

fn a_killed_sidecar_leaves_no_process(place: &Place) {
    let file = place.path("signals");
    let mut running = place.start(&[], &["@signals", file.to_str().unwrap()]);
    wait_until("the program is ready", || std::fs::read_to_string(&file).is_ok_and(|said| said == "ready\n"));
    let (inside, app) = (running.number("inside_pid"), running.number("app_pid"));
    assert!(lives(inside) && lives(app));
    running.program.signal(Signal::KILL);
    running.program.wait();
    wait_until("all of it has ended", || !lives(inside) && !lives(app));
    let said = std::fs::read_to_string(&file).unwrap();
    assert_eq!(said, format!("ready\n{}\n", libc::SIGTERM), "it was asked before it was killed");

    // And the other way round: the process inside is killed.
    let mut running = place.start(&[], &["@signals", file.to_str().unwrap()]);
    wait_until("the program is ready", || std::fs::read_to_string(&file).is_ok_and(|said| said == "ready\n"));
    let (inside, app) = (running.number("inside_pid"), running.number("app_pid"));
    let pid = rustix::process::Pid::from_raw(inside as i32).unwrap();
    rustix::process::kill_process(pid, Signal::KILL).unwrap();
    assert_eq!(running.program.wait().code(), Some(70), "{}", running.program.said());
    wait_until("all of it has ended", || !lives(app));
}

fn a_program_is_not_started_without_its_sidecar(place: &Place) {
    let file = place.path("started");
    let script = format!("touch {}", file.display());
    let faulty = place.path("faulty.yaml");
    std::fs::write(&faulty, "kind: Nothing\n").unwrap();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = taken.local_addr().map(|address| (taken, address.to_string())).unwrap();
    for options in [&["--resources", faulty.to_str().unwrap()][..], &["--admin", &taken.1]] {
        let output = place.run(options, &["sh", "-c", &script]).output().unwrap();
        assert_eq!(status(&output), 70, "{options:?}");
        assert!(!output.stderr.is_empty());
        assert!(!file.exists(), "{options:?}");
    }
}

fn no_binary_is_needed_for_rules() -> Result<(), String> {
    root()?;
    let place = Place::new(Who::Same);
    let mut command = place.run_role(&[], &["@resolve", "localhost"]);
    let output = command.env("PATH", place.path("empty")).output().unwrap();
    assert_eq!(status(&output), 0, "{}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}

fn names_resolve_whatever_resolv_conf_says() -> Result<(), String> {
    root()?;
    if !Path::new("/etc/resolv.conf").exists() {
        return Err("there is no /etc/resolv.conf to cover".into());
    }
    let place = Place::new(Who::Same);
    let mesh = place.mesh("echo", 7000, free_address());
    let texts = [
        "",
        "nameserver 192.0.2.53\n",
        "nameserver ::1\n",
        "nameserver fe80::1%nothing0\n",
        "nameserver 192.0.2.53\nsearch a.example echo.example\noptions ndots:3\n",
    ];
    for text in texts {
        let file = place.path("resolv.conf");
        std::fs::write(&file, text).unwrap();
        let mut command = place.run_role(&["--resources", &mesh], &["@resolve", "echo"]);
        let cover = move || {
            // SAFETY: descriptors stay shared.
            unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNS) }?;
            mount_change("/", MountPropagationFlags::REC | MountPropagationFlags::PRIVATE)?;
            Ok(mount_bind(&file, "/etc/resolv.conf")?)
        };
        // SAFETY: only system calls are made between fork and exec.
        unsafe { command.pre_exec(cover) };
        let output = command.output().unwrap();
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        let addresses: BTreeSet<&str> = said.lines().collect();
        let is_virtual =
            |address: &&str| address.starts_with("198.19.") || address.starts_with("fd00:11:6874:e5:");
        assert!(
            !addresses.is_empty() && addresses.iter().all(is_virtual),
            "{text:?}: {said} {}",
            String::from_utf8_lossy(&output.stderr)
        );
    }
    Ok(())
}

fn a_name_service_of_the_host_is_not_asked() -> Result<(), String> {
    root()?;
    let place = Place::new(Who::Same);
    let mesh = place.mesh("echo", 7000, free_address());
    // A host with nscd, for those who see this folder as /run.
    let run = place.path("run");
    std::fs::create_dir_all(run.join("nscd")).unwrap();
    let service = std::os::unix::net::UnixListener::bind(run.join("nscd/socket")).unwrap();
    service.set_nonblocking(true).unwrap();
    let as_run = move |mut command: Command| {
        let run = run.clone();
        let cover = move || {
            // SAFETY: descriptors stay shared.
            unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNS) }?;
            mount_change("/", MountPropagationFlags::REC | MountPropagationFlags::PRIVATE)?;
            Ok(mount_bind(&run, "/run")?)
        };
        // SAFETY: only system calls are made between fork and exec.
        unsafe { command.pre_exec(cover) };
        command.output().unwrap()
    };
    let mut plain = place.program(place.own());
    plain.args(["@reach", "/run/nscd/socket"]);
    assert_eq!(status(&as_run(plain)), 0, "the test's own service is there");
    assert!(service.accept().is_ok());
    assert_eq!(status(&as_run(place.run_role(&[], &["@reach", "/run/nscd/socket"]))), 1);
    let output = as_run(place.run_role(&["--resources", &mesh], &["@resolve", "echo"]));
    assert_eq!(status(&output), 0, "{}", String::from_utf8_lossy(&output.stderr));
    assert!(service.accept().is_err(), "the program asked the host's name service");
    Ok(())
}

/// The children of a process, ended or not.
fn children(pid: u64) -> Vec<u64> {
    let file = format!("/proc/{pid}/task/{pid}/children");
    let text = std::fs::read_to_string(file).unwrap_or_default();
    text.split_whitespace().filter_map(|child| child.parse().ok()).collect()
}
