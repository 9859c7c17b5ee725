//! WebAssembly components beside the built-in functions, with hostile ones among them. Only where `lighter` was built with
//! their runtime.

use std::path::Path;

use libtest_mimic::Trial;

use crate::device::{Data, Device, get, text};
use crate::support::process::free_address;
use crate::support::raw::{Body, Peer};
use crate::support::{test_where, wait_until};

pub fn tests() -> Vec<Trial> {
    vec![
        test_where("components::one_digest_gives_the_same_bytes_on_every_class", || {
            with_runtime(every_class)
        }),
        test_where("components::a_hostile_one_harms_its_own_run_and_is_counted", || with_runtime(hostile)),
        test_where("components::the_limits_of_one_cut_it_and_no_other", || with_runtime(own_limits)),
        test_where("components::a_tenant_sees_neither_data_nor_keys_of_another", || with_runtime(tenants)),
        test_where("components::what_is_none_is_told_at_the_start", || with_runtime(faulty)),
    ]
}

pub fn with_runtime(test: fn()) -> Result<(), String> {
    if !cfg!(feature = "wasm") {
        return Err("this `lighter` was built without components (`--features wasm`)".into());
    }
    test();
    Ok(())
}

const ORDERS: &str = "id,country,amount\n1,DE,10\n2,FR,2.5\n3,DE,4\n";

pub fn file(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/functions").join(name);
    path.canonicalize().unwrap().display().to_string()
}

/// Fields of a device with these components, `name: tenant`.
fn components(all: &[(&str, &str)]) -> String {
    let component = |(name, tenant): &(&str, &str)| {
        let file = file(&format!("{}.wasm", name.split('-').next().unwrap()));
        format!("{{name: {name}, path: {file}, tenant: {tenant}}}")
    };
    // Machine code of all of them: an unoptimized compiler takes seconds for each.
    let cache = concat!(env!("CARGO_TARGET_TMPDIR"), "/components");
    let all: Vec<String> = all.iter().map(component).collect();
    format!(", componentCache: {cache}, components: [{}]", all.join(", "))
}

fn ended(device: &Device, function: &str, status: &str) -> f64 {
    device.counted("lighter_device_runs_total", &[("function", function), ("status", status)])
}

fn every_class() {
    let sum = std::process::Command::new("sha256sum").arg(file("tally.wasm")).output().unwrap().stdout;
    let digest = format!("\"digest\": \"{}\"", String::from_utf8(sum).unwrap().split(' ').next().unwrap());
    for class in ["host", "csd", "cpm", "dpu", "gpu"] {
        let data = Data::new().with_text("orders.csv", ORDERS);
        let device = data.start_as(class, &components(&[("tally", "default")]));
        let (head, body) = device.get("/tally/orders@7?by=country&sum=amount");
        assert_eq!((head.status(), head.get("content-type")), (200, Some("application/x-ndjson")));
        let expected = "{\"country\":\"DE\",\"rows\":2,\"sum(amount)\":14}\n{\"country\":\"FR\",\"rows\":1,\"sum(amount)\":2.5}\n";
        assert_eq!(text(body), expected, "{class}");
        let posted =
            "POST /tally/orders HTTP/1.1\r\nHost: data\r\nContent-Length: 21\r\n\r\nby=country&sum=amount";
        assert_eq!(text(Peer::connect(device.at).exchange(posted).1), expected, "{class}");
        let told = text(device.get("/").1);
        assert!(told.contains(&digest) && told.contains(&format!("\"class\": \"{class}\"")), "{told}");
        assert_eq!(device.get("/tally/orders").0.status(), 400, "what the component answers is passed on");
        assert_eq!(device.get("/tally/orders@8?by=id").0.status(), 409);
        assert_eq!(ended(&device, "tally", "CS_SUCCESS"), 4.0);
        let of = [("function", "tally"), ("dataset", "orders")];
        assert_eq!(device.counted("lighter_device_read_bytes_total", &of), 2.0 * ORDERS.len() as f64);
    }
}

fn hostile() {
    let more = components(&[("tally", "default"), ("hostile", "default")])
        + ", limits: {deadline: 3s, memoryBytes: 8388608, resultBytes: 1000000}";
    let device = Data::new().with_text("orders.csv", ORDERS).start(&more, "");
    let beside = || {
        assert_eq!(text(device.get("/scan/orders?limit=1&select=id").1), "id\n1\n");
        assert_eq!(text(device.get("/tally/orders?by=country").1).lines().count(), 2);
    };
    // While one loops, others answer.
    let mut looping = Peer::connect(device.at);
    looping.send(get("/hostile/loop"));
    wait_until("it loops", || device.in_flight() == 1.0);
    beside();
    for (way, status, name) in [
        ("loop", 504, "CS_IO_TIMEOUT"),
        ("memory", 507, "CS_NOT_ENOUGH_MEMORY"),
        ("stack", 500, "CS_ERROR_IN_EXECUTION"),
        ("silent", 500, "CS_ERROR_IN_EXECUTION"),
    ] {
        let before = ended(&device, "hostile", name);
        let (head, _) = device.get(&format!("/hostile/{way}"));
        assert_eq!((head.status(), head.get("x-lighter-status")), (status, Some(name)), "{way}");
        assert!(ended(&device, "hostile", name) > before, "{way} is counted");
        beside();
    }
    // What is above the limit is cut, and so is what breaks off in the middle.
    let (head, body) = device.get("/hostile/endless");
    assert_eq!(head.status(), 200);
    assert!(matches!(body, Body::Cut(bytes) if bytes.len() <= 1_000_000 && bytes.len() > 500_000));
    assert_eq!(ended(&device, "hostile", "CS_OUT_OF_RESOURCES"), 1.0);
    assert!(matches!(device.get("/hostile/half").1, Body::Cut(_)));
    // One who leaves takes the loop along.
    let mut leaves = Peer::connect(device.at);
    leaves.send(get("/hostile/endless"));
    drop(leaves);
    wait_until("all have ended", || device.in_flight() == 0.0);
    beside();
}

/// Each way in which one takes more than it may, and another that may take what the device lets any of them does not.
fn own_limits() {
    let rows: String = (0..60_000).map(|id| format!("{id},C{id},1\n")).collect();
    let data = Data::new().with_text("orders.csv", format!("id,country,amount\n{rows}"));
    let bytes = data.path("orders.csv").metadata().unwrap().len();
    let limited = |name: &str, limits: &str| {
        let from = format!("{{name: {name}, ");
        (from.clone(), format!("{from}limits: {{{limits}}}, "))
    };
    let all = ["tally", "tally-memory", "tally-deadline", "tally-result"].map(|name| (name, "default"));
    let mut more = components(&all);
    for (from, to) in [
        limited("tally-memory", "memoryBytes: 2097152"),
        limited("tally-deadline", "deadline: 300ms"),
        limited("tally-result", "resultBytes: 1000"),
    ] {
        assert!(more.contains(&from));
        more = more.replacen(&from, &to, 1);
    }
    // To read the data alone takes three times as long as one of them may take.
    more += &format!(", mediaBytesPerSecond: {}, limits: {{memoryBytes: 134217728, deadline: 5m}}", bytes);
    let device = data.start(&more, "");
    let ask = |function: &str| device.get(&format!("/{function}/orders?by=id"));
    let (head, body) = ask("tally");
    assert_eq!((head.status(), text(body).lines().count()), (200, 60_000));
    for (function, http, status, why) in [
        ("tally-memory", 507, "CS_NOT_ENOUGH_MEMORY", "2097152"),
        ("tally-deadline", 504, "CS_IO_TIMEOUT", "300ms"),
    ] {
        let (head, body) = ask(function);
        assert_eq!((head.status(), head.get("x-lighter-status")), (http, Some(status)), "{function}");
        let said = text(body);
        assert!(said.contains(why), "{function}: {said}");
        assert_eq!(ended(&device, function, status), 1.0);
    }
    // Of this one something had gone out.
    let (head, body) = ask("tally-result");
    assert_eq!(head.status(), 200);
    assert!(matches!(&body, Body::Cut(bytes) if bytes.len() <= 1000), "{body:?}");
    assert_eq!(ended(&device, "tally-result", "CS_OUT_OF_RESOURCES"), 1.0);
    for (function, _) in &all[1..] {
        assert_eq!(ended(&device, function, "CS_SUCCESS"), 0.0);
    }
    let (head, _) = ask("tally");
    assert_eq!(head.status(), 200, "the others' limits are not its own");
    assert_eq!(ended(&device, "tally", "CS_SUCCESS"), 2.0);
    // The device says what each may take.
    let told: serde_json::Value = serde_json::from_str(&text(device.get("/").1)).unwrap();
    let of = |name: &str| {
        let functions = told["functions"].as_array().unwrap();
        functions.iter().find(|function| function["name"] == name).unwrap()["limits"].clone()
    };
    assert_eq!(
        (&of("tally-memory")["memoryBytes"], &of("tally")),
        (&2_097_152.into(), &serde_json::Value::Null)
    );
    assert_eq!(of("tally-result")["bytesOut"], 1000);
}

fn tenants() {
    let all = [("tally", "default"), ("hostile", "default"), ("tally-x", "x"), ("hostile-x", "x")];
    let data = Data::new().with_text("orders.csv", ORDERS).of_tenant("x").with_text("theirs.csv", ORDERS);
    let device = data.start(&components(&all), "");
    let ask = |target: &str| text(device.get(target).1);
    assert_eq!(ask("/hostile/read?dataset=orders"), "Ok(42)\n");
    assert_eq!(ask("/hostile/read?dataset=theirs"), "Error::NoSuchDataset\n");
    assert_eq!(ask("/hostile-x/read?dataset=theirs"), "Ok(42)\n");
    assert_eq!(ask("/hostile-x/read?dataset=orders"), "Error::NoSuchDataset\n");
    assert_eq!(ask("/hostile/read?dataset=nobodys"), "Error::NoSuchDataset\n");
    for function in ["hostile", "hostile-x"] {
        assert_eq!(device.counted("lighter_device_denied_total", &[("function", function)]), 1.0);
    }
    assert!(ask("/tally/orders?by=id&as=seen").ends_with("{\"all\":3}\n"));
    assert!(ask("/tally/orders?by=id&as=seen").ends_with("{\"all\":6}\n"));
    assert_eq!(ask("/hostile-x/keys?dataset=seen"), "[] None\n");
    assert!(ask("/tally-x/theirs?by=id&as=seen").ends_with("{\"all\":3}\n"));
}

fn faulty() {
    let folder = tempfile::tempdir().unwrap();
    let (wasm, sidecar) = (folder.path().join("a.wasm"), folder.path().join("sidecar.yaml"));
    std::fs::write(&wasm, "(module)").unwrap();
    let (at, app) = (free_address(), free_address());
    let text = format!(
        "service: data\ninbound: [{{listen: '{at}', app: '{app}', protocol: http}}]\ndevice: {{class: csd, listen: '{app}', \
         datasets: [], components: [{{name: a, path: a.wasm}}]}}\n"
    );
    std::fs::write(&sidecar, text).unwrap();
    let mut lighter = std::process::Command::new(env!("CARGO_BIN_EXE_lighter"));
    let ended = lighter.args(["proxy", "--config"]).arg(&sidecar).output().unwrap();
    let said = String::from_utf8_lossy(&ended.stderr).into_owned();
    assert!(!ended.status.success() && said.contains("`a`") && said.contains("a.wasm"), "{said}");
}
