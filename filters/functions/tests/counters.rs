//! `counters`: what it is told is remembered, and moves to another device.

#![allow(clippy::unwrap_used, missing_docs)] // A test may.

use std::collections::BTreeSet;
use std::sync::Arc;

use lighter_functions::{
    Builtins, Class, Contents, Device, Limits, NotMovable, NotReplaced, Request, Setup, Status,
};

mod common;

use common::{LIMITS, Taken};

/// A device that has it, and so many bytes for it.
fn device(class: Class, key_bytes: u64) -> Builtins {
    let limits = Limits { rows_out: 10, ..LIMITS };
    let setup = Setup { class, datasets: Vec::new(), limits, media_bytes_per_second: None, key_bytes };
    let device = Builtins::new(setup);
    device.activate(device.load("counters").unwrap()).unwrap();
    device
}

/// What the counter has, or why it did not say.
fn ask(
    device: &Builtins,
    counter: &str,
    parameters: &str,
    body: Option<&[u8]>,
) -> Result<i64, (Status, String)> {
    let mut taken = Taken::default();
    let request = Request { function: "counters", dataset: counter, parameters, body };
    let outcome = device.run(&request, &mut taken);
    if let Some(fault) = outcome.fault {
        return Err((fault.status, fault.message));
    }
    assert_eq!((outcome.usage.rows_out, taken.media_type), (1, "application/jsonl"));
    let row: serde_json::Value = serde_json::from_slice(&taken.bytes).unwrap();
    assert_eq!(row["counter"], counter);
    Ok(row["value"].as_i64().unwrap())
}

fn add(device: &Builtins, counter: &str, body: &str) -> Result<i64, (Status, String)> {
    ask(device, counter, "", Some(body.as_bytes()))
}

fn contents(device: &Builtins) -> Arc<dyn Contents> {
    device.contents("counters").unwrap()
}

#[test]
fn what_is_added_is_remembered_by_name() {
    let device = device(Class::Csd, 1 << 20);
    assert_eq!(ask(&device, "hits", "", None), Ok(0), "nobody has added to it");
    assert_eq!(add(&device, "hits", ""), Ok(1));
    assert_eq!(add(&device, "hits", "add=41"), Ok(42));
    assert_eq!(ask(&device, "hits", "add=-2", Some(b"")), Ok(40), "by the query as well");
    assert_eq!(add(&device, "other hits@7", "add=5"), Ok(5), "a name is taken as it is said");
    assert_eq!((ask(&device, "hits", "", None), ask(&device, "other hits@7", "", None)), (Ok(40), Ok(5)));
    let mut taken = Taken::default();
    let request = Request { function: "counters", dataset: "hits", parameters: "format=csv", body: None };
    assert!(device.run(&request, &mut taken).fault.is_none());
    assert_eq!(String::from_utf8(taken.bytes).unwrap(), "counter,value\nhits,40\n");
}

#[test]
fn what_cannot_be_added_changes_nothing() {
    let device = device(Class::Csd, 400);
    let status = |answer: Result<i64, (Status, String)>| answer.unwrap_err().0;
    assert_eq!(add(&device, "hits", &format!("add={}", i64::MAX)), Ok(i64::MAX));
    assert_eq!(status(add(&device, "hits", "")), Status::InvalidArg, "more than a number has room for");
    assert_eq!(status(add(&device, "hits", "add=1.5")), Status::InvalidArg);
    assert_eq!(status(add(&device, "hits", "where=a = 1")), Status::InvalidArg, "no parameter of it");
    assert_eq!(status(ask(&device, "hits", "add=1", None)), Status::InvalidArg, "a GET changes nothing");
    assert_eq!(status(add(&device, &"x".repeat(1025), "")), Status::InvalidArg);
    assert_eq!(add(&device, "a", ""), Ok(1));
    let full = add(&device, "b", "").unwrap_err();
    assert_eq!(
        full,
        (Status::NotEnoughMemory, "counters would take more than 400 bytes (`limits.keyBytes`)".into())
    );
    assert_eq!((ask(&device, "hits", "", None), add(&device, "a", "")), (Ok(i64::MAX), Ok(2)));
}

#[test]
fn each_of_many_who_add_at_once_is_told_another_number() {
    let device = device(Class::Csd, 1 << 20);
    let told: Vec<i64> = std::thread::scope(|scope| {
        let adds = || (0..200).map(|_| add(&device, "hits", "").unwrap()).collect::<Vec<_>>();
        let callers: Vec<_> = (0..4).map(|_| scope.spawn(adds)).collect();
        callers.into_iter().flat_map(|caller| caller.join().unwrap()).collect()
    });
    assert_eq!(told.into_iter().collect::<BTreeSet<_>>(), (1..=800).collect());
}

#[test]
fn what_it_remembers_moves_to_a_device_of_another_class() {
    let (from, to) = (device(Class::Csd, 1 << 20), device(Class::Dpu, 400));
    assert_eq!(contents(&from).digest(), contents(&to).digest());
    add(&from, "hits", "add=7").unwrap();
    add(&to, "old", "").unwrap();
    let all = contents(&from).read().unwrap();
    add(&from, "hits", "").unwrap();
    contents(&from).freeze(true, &|| false);
    let late = add(&from, "hits", "").unwrap_err();
    assert_eq!(late.0, Status::DeviceNotAvailable, "it would be forgotten");
    assert_eq!(ask(&from, "hits", "", None), Ok(8), "it can be read");
    let changes = contents(&from).changes(all.version).unwrap().unwrap();
    contents(&to).replace(&all.bytes, &|| false).unwrap();
    contents(&to).replace(&changes.bytes, &|| false).unwrap();
    assert_eq!((ask(&to, "hits", "", None), ask(&to, "old", "", None)), (Ok(8), Ok(0)));
    assert_eq!(add(&to, "hits", ""), Ok(9));
    // What is too much is not taken.
    contents(&from).freeze(false, &|| false);
    for name in ["a", "b", "c"] {
        add(&from, name, "").unwrap();
    }
    let all = contents(&from).read().unwrap();
    assert_eq!(contents(&to).replace(&all.bytes, &|| false), Err(NotReplaced::NoRoom(400)));
    assert_eq!(ask(&to, "hits", "", None), Ok(9));
}

#[test]
fn what_remembers_nothing_cannot_be_moved() {
    let device = device(Class::Csd, 1 << 20);
    assert!(matches!(device.contents("scan"), Err(NotMovable::BuiltIn(name)) if name == "scan"));
    assert!(matches!(device.contents("nobodys"), Err(NotMovable::Unknown(name)) if name == "nobodys"));
}
