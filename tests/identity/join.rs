//! The first certificate, the ones after it, and what is refused.

use std::io::{BufRead, BufReader, ErrorKind, Read};
use std::net::TcpStream;
use std::process::Stdio;
use std::sync::mpsc;
use std::time::Duration;

use libtest_mimic::Trial;
use serde_json::Value;

use crate::support::{test_where, wait_until};
use crate::world::{World, ca};

pub fn tests() -> Vec<Trial> {
    vec![
        test_where("join::a_workload_gets_the_attested_name_once", gets_the_attested_name_once),
        test_where("join::a_foreign_token_is_refused", a_foreign_token_is_refused),
        test_where("join::a_certificate_leads_to_the_next", a_certificate_leads_to_the_next),
        test_where("join::new_roots_reach_who_watches", new_roots_reach_who_watches),
        test_where("join::silence_keeps_nobody_away", silence_keeps_nobody_away),
    ]
}

fn gets_the_attested_name_once() -> Result<(), String> {
    let world = World::new()?;
    let token = world.ca(&["token", "--service", "shop/web"]);
    world.request("web", "URI:spiffe://mesh.lighter/ns/shop/sa/db,DNS:shop.example");
    let signed = world.sign("web", &["--token", &token]);
    assert_eq!(signed["ok"], true, "{signed}");
    assert_eq!((&signed["trust_domain"], &signed["count"]), (&Value::from("mesh.lighter"), &Value::from(1)));
    let verified = world.openssl(&["verify", "-x509_strict", "-CAfile", "bundle.pem"], "web");
    assert!(verified.ends_with("OK\n"), "{verified}");
    let names = world.openssl(&["x509", "-noout", "-ext", "subjectAltName", "-subject", "-in"], "web");
    assert!(names.contains("URI:spiffe://mesh.lighter/ns/shop/sa/web\n"), "{names}");
    assert!(
        !names.contains("db") && !names.contains("shop.example") && !names.contains("somebody"),
        "{names}"
    );

    // The same key again: its answer might have been lost. Another key: a replay.
    assert_eq!(world.sign("web", &["--token", &token])["ok"], true);
    world.request("thief", "DNS:thief");
    let refused = world.sign("thief", &["--token", &token]);
    assert_eq!((&refused["ok"], &refused["code"]), (&Value::from(false), &Value::from("UNAUTHENTICATED")));
    let said = world.program.said();
    assert!(said.contains("token_refused") && said.contains("a replay"), "{said}");
    assert!(world.ca(&["list"]).contains("spent    shop/web"));
    assert_eq!((world.certificates("joined"), world.certificates("token_refused")), (2.0, 1.0));
    Ok(())
}

fn a_foreign_token_is_refused() -> Result<(), String> {
    let world = World::new()?;
    let elsewhere = world.path("elsewhere");
    ca(&elsewhere, &["init"]);
    let token = ca(&elsewhere, &["token", "--service", "shop/web"]);
    world.request("web", "DNS:web");
    let refused = world.sign("web", &["--token", &token]);
    assert_eq!(refused["code"], "UNAUTHENTICATED", "{refused}");
    assert!(world.program.said().contains("foreign"), "{}", world.program.said());
    // Nothing at all is no better.
    assert_eq!(world.sign("web", &[])["code"], "UNAUTHENTICATED");
    assert_eq!(world.sign("web", &["--token", "lighter-join.shop.web.00"])["code"], "UNAUTHENTICATED");
    Ok(())
}

fn a_certificate_leads_to_the_next() -> Result<(), String> {
    let world = World::new()?;
    let token = world.ca(&["token", "--service", "web"]);
    world.request("web", "DNS:web");
    assert_eq!(world.sign("web", &["--token", &token])["ok"], true);
    world.request("next", "DNS:next");
    let with = world.with("web");
    let next = world.sign("next", &with.each_ref().map(String::as_str));
    assert_eq!(next["ok"], true, "{next}");
    let names = world.openssl(&["x509", "-noout", "-ext", "subjectAltName", "-in"], "next");
    assert!(names.contains("URI:spiffe://mesh.lighter/ns/default/sa/web\n"), "{names}");

    // Of the same name, by another authority.
    let elsewhere = world.path("elsewhere");
    ca(&elsewhere, &["init"]);
    let out = world.path("forged");
    ca(&elsewhere, &["issue", "--service", "web", "--out", &out.display().to_string()]);
    let forged = ["--with", "certificate.pem", "key.pem"].map(|name| match name.strip_prefix("--") {
        Some(_) => name.to_owned(),
        None => out.join(name).display().to_string(),
    });
    let refused = world.sign("next", &forged.each_ref().map(String::as_str));
    assert_eq!(refused["ok"], false, "{refused}");
    assert!(world.program.said().contains("reason=\"foreign\""), "{}", world.program.said());
    Ok(())
}

fn new_roots_reach_who_watches() -> Result<(), String> {
    let world = World::new()?;
    let token = world.ca(&["token", "--service", "web"]);
    world.request("web", "DNS:web");
    assert_eq!(world.sign("web", &["--token", &token])["ok"], true);
    let mut watching = world.client("watch").args(world.with("web")).stdout(Stdio::piped()).spawn().unwrap();
    let (sender, said) = mpsc::channel();
    let lines = BufReader::new(watching.stdout.take().unwrap()).lines();
    std::thread::spawn(move || lines.map_while(Result::ok).try_for_each(|line| sender.send(line)));
    let next = || -> Value {
        let line = said.recv_timeout(LONGEST_SILENCE).expect("the watching client says something");
        serde_json::from_str(&line).unwrap()
    };
    let roots = || next()["count"].clone();
    assert_eq!(roots(), 1);
    world.ca(&["rotate"]);
    assert_eq!(roots(), 2);
    world.ca(&["rotate", "--hurry"]);
    assert_eq!(roots(), 2);
    // Signed by the new root now, and the control plane shows a certificate of it too.
    std::fs::write(world.path("bundle.pem"), world.ca(&["bundle"])).unwrap();
    let with = world.with("web");
    assert_eq!(world.sign("web", &with.each_ref().map(String::as_str))["ok"], true);
    world.ca(&["rotate", "--hurry"]);
    assert_eq!(roots(), 1);
    std::fs::write(world.path("bundle.pem"), world.ca(&["bundle"])).unwrap();
    let with = world.with("web");
    wait_until("the certificate of the new root leads on", || {
        world.sign("web", &with.each_ref().map(String::as_str))["ok"] == true
    });
    // Who watches showed a certificate of the root that is gone.
    assert_eq!(next()["ok"], false);
    let _ = watching.kill();
    let _ = watching.wait();
    Ok(())
}

fn silence_keeps_nobody_away() -> Result<(), String> {
    let world = World::new()?;
    let token = world.ca(&["token", "--service", "web"]);
    world.request("web", "DNS:web");
    let mut silent: Vec<_> = (0..300).map(|_| TcpStream::connect(world.ads).unwrap()).collect();
    assert_eq!(world.sign("web", &["--token", &token])["ok"], true);
    // The oldest had to go.
    silent[0].set_read_timeout(Some(LONGEST_SILENCE)).unwrap();
    match silent[0].read(&mut [0]) {
        Ok(read) => assert_eq!(read, 0),
        Err(error) => assert_eq!(error.kind(), ErrorKind::ConnectionReset),
    }
    Ok(())
}

/// When a client that says nothing is given up.
const LONGEST_SILENCE: Duration = Duration::from_secs(60);
