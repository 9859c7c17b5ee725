//! curl, nghttp, h2load, nginx, git and WebSockets.

use std::path::Path;

use libtest_mimic::Trial;

use crate::support::metrics::Metrics;
use crate::support::process::{find, python};
use crate::support::raw::Peer;
use crate::support::{test_where, wait_until};
use crate::world::{Served, World, script};

pub fn tests() -> Vec<Trial> {
    vec![
        test_where("web::curl_and_nginx", curl_and_nginx),
        test_where("web::nghttp_and_nginx", nghttp_and_nginx),
        test_where("web::websockets", websockets),
        test_where("web::git", git),
    ]
}

const PAGE: usize = 5_000_000;

/// nginx as a service: files, and what a request was.
fn nginx(world: &World, listen: &str) -> Result<Served, String> {
    let nginx = find("nginx")?;
    let folder = world.folder.path();
    std::fs::create_dir_all(folder.join("html")).unwrap();
    std::fs::write(folder.join("html/index.html"), "hello\n").unwrap();
    std::fs::write(folder.join("html/big"), vec![b'x'; PAGE]).unwrap();
    let config = format!(
        "daemon off; master_process off; error_log stderr; pid nginx.pid; events {{}}\n\
         http {{ access_log off; client_max_body_size 100m; client_body_temp_path body; proxy_temp_path proxy;\n\
         fastcgi_temp_path fastcgi; uwsgi_temp_path uwsgi; scgi_temp_path scgi;\n\
         server {{ listen {listen}; root html; location /post {{ proxy_pass http://127.0.0.1:81; }}\n\
         location /who {{ return 200 \"$http_host $server_protocol $http_x_forwarded_for\\n\"; }} }}\n\
         server {{ listen 127.0.0.1:81; location / {{ return 200 \"posted $content_length\\n\"; }} }} }}\n"
    );
    let file = world.path("nginx.conf");
    std::fs::write(&file, config).unwrap();
    let prefix = folder.to_str().unwrap();
    let mut served = world.serve(&nginx, &["-p", prefix, "-e", "stderr", "-c", file.to_str().unwrap()]);
    let endpoint = world.endpoint;
    served.program.wait_until("nginx answers", || {
        let ask = || {
            let mut peer = Peer::over(std::net::TcpStream::connect(endpoint).ok()?);
            peer.try_send("GET / HTTP/1.1\r\nHost: up\r\nConnection: close\r\n\r\n");
            Some(peer.head()?.status())
        };
        ask() == Some(200)
    });
    Ok(served)
}

fn curl_and_nginx() -> Result<(), String> {
    let curl = find("curl")?;
    let world = World::of("web", 80, "auto");
    let server = nginx(&world, "80")?;
    let call = |arguments: &[&str]| {
        let quiet: Vec<&str> = ["-sS", "-f", "--noproxy", "*"].iter().chain(arguments).copied().collect();
        world.must_call(&curl, &quiet)
    };
    assert_eq!(call(&["http://web/"]), "hello\n");
    assert_eq!(call(&["http://web.default.svc.cluster.local/"]), "hello\n");
    // All requests of one run share a connection of curl's.
    assert_eq!(call(&["http://web/", "http://web/", "http://web/"]), "hello\nhello\nhello\n");
    assert!(call(&["http://web/who"]).starts_with("web HTTP/1.1 127.0.0.1"), "{}", call(&["http://web/who"]));
    assert_eq!(call(&["--http1.0", "http://web/"]), "hello\n");
    assert!(call(&["-I", "http://web/big"]).contains(&format!("Content-Length: {PAGE}")));
    assert_eq!(call(&["-w", "%{size_download}", "-o", "/dev/null", "http://web/big"]), PAGE.to_string());
    assert_eq!(call(&["-r", "10-19", "http://web/big"]), "xxxxxxxxxx");
    let big = world.path("html/big");
    let upload = format!("@{}", big.display());
    assert_eq!(call(&["--data-binary", &upload, "http://web/post"]), format!("posted {PAGE}\n"));
    assert_eq!(
        call(&["-H", "Transfer-Encoding: chunked", "--data-binary", &upload, "http://web/post"]),
        format!("posted {PAGE}\n")
    );
    // What is not there is the service's own answer; a name that is no Service is nobody's.
    assert!(!world.call(&curl, &["-sf", "http://web/missing"]).success);
    assert!(!world.call(&curl, &["-s", "--max-time", "10", "http://no-such-service.invalid/"]).success);
    wait_until("the callee's sidecar has counted them", || {
        let metrics = Metrics::of(server.admin);
        metrics.sum("lighter_requests_total", &[("direction", "inbound"), ("code_class", "2xx")]) >= 12.0
            && metrics.sum("lighter_requests_total", &[("direction", "inbound"), ("code_class", "4xx")])
                >= 1.0
    });
    Ok(())
}

fn nghttp_and_nginx() -> Result<(), String> {
    let (nghttp, h2load) = (find("nghttp")?, find("h2load")?);
    // The service speaks both versions; callers with prior knowledge get HTTP/2 by what they begin with.
    let world = World::of("web", 80, "http2");
    let server = nginx(&world, "80 http2")?;
    let said = world.must_call(&nghttp, &["-v", "http://web/who"]);
    assert!(said.contains(":status: 200") && said.contains("HTTP/2.0"), "{said}");
    let said = world.must_call(&nghttp, &["http://web/big"]);
    assert!(said.len() == PAGE && said.bytes().all(|byte| byte == b'x'), "{} bytes", said.len());
    let said = world.must_call(&h2load, &["-n", "3000", "-c", "4", "-m", "50", "http://web/"]);
    assert!(said.contains("3000 succeeded, 0 failed, 0 errored, 0 timeout"), "{said}");
    wait_until("the callee's sidecar has counted them", || {
        let labels = [("direction", "inbound"), ("protocol", "http2"), ("code_class", "2xx")];
        Metrics::of(server.admin).sum("lighter_requests_total", &labels) >= 3002.0
    });
    Ok(())
}

fn websockets() -> Result<(), String> {
    let python = python("websockets")?;
    let world = World::of("chat", 8765, "auto");
    let mut server = world.serve(&python, &[&script("websocket_server.py"), "8765"]);
    server.wait_until_it_says("ready");
    world.must_call(&python, &[&script("websocket_client.py"), "ws://chat:8765/"]);
    Ok(())
}

fn git() -> Result<(), String> {
    let (git, python) = (find("git")?, python("http.server")?);
    find("git-http-backend").or_else(|_| exec_path(&git))?;
    let world = World::of("code", 8080, "auto");
    let folder = world.folder.path();
    let run = |arguments: &[&str]| {
        let mut command = std::process::Command::new(&git);
        command
            .args(["-c", "user.name=T", "-c", "user.email=t@example.invalid", "-C"])
            .arg(folder)
            .args(arguments);
        let output = command.output().unwrap();
        assert!(output.status.success(), "git {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    run(&["init", "-q", "first"]);
    for number in 0..20 {
        // What does not compress, so that packs are of some size.
        let noise: Vec<u8> = (0..100_000u64)
            .map(|at| (at.wrapping_mul(at).wrapping_mul(2_654_435_761) + number) as u8 ^ (at >> 7) as u8)
            .collect();
        std::fs::write(folder.join(format!("first/file-{number}")), noise).unwrap();
    }
    run(&["-C", "first", "add", "."]);
    run(&["-C", "first", "commit", "-q", "-m", "Begin"]);
    std::fs::create_dir(folder.join("served")).unwrap();
    run(&["clone", "-q", "--bare", "first", "served/project.git"]);
    run(&["-C", "served/project.git", "config", "http.receivepack", "true"]);
    let served = folder.join("served");
    let mut server = world.serve(&python, &[&script("git_server.py"), "8080", served.to_str().unwrap()]);
    server.wait_until_it_says("ready");

    let copy = folder.join("copy");
    world.must_call(
        &git,
        &["-c", "http.proxy=", "clone", "-q", "http://code:8080/project.git", copy.to_str().unwrap()],
    );
    assert_eq!(run(&["-C", "copy", "rev-parse", "HEAD"]), run(&["-C", "first", "rev-parse", "HEAD"]));
    std::fs::write(folder.join("copy/more"), "more").unwrap();
    run(&["-C", "copy", "add", "."]);
    run(&["-C", "copy", "commit", "-q", "-m", "Go on"]);
    world.must_call(&git, &["-c", "http.proxy=", "-C", copy.to_str().unwrap(), "push", "-q"]);
    assert_eq!(
        run(&["-C", "copy", "rev-parse", "HEAD"]),
        run(&["-C", "served/project.git", "rev-parse", "HEAD"])
    );
    Ok(())
}

fn exec_path(git: &Path) -> Result<std::path::PathBuf, String> {
    let output =
        std::process::Command::new(git).arg("--exec-path").output().map_err(|error| error.to_string())?;
    let path = Path::new(String::from_utf8_lossy(&output.stdout).trim()).join("git-http-backend");
    if path.is_file() { Ok(path) } else { Err("git has no http-backend".into()) }
}
