//! What functions answer, beside what Python makes of the same files.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;

use libtest_mimic::Trial;
use serde_json::Value;

use crate::device::{Data, Device, get, text};
use crate::parquet::{self, Column};
use crate::support::process::{find, free_address, python};
use crate::support::raw::{Body, Peer};
use crate::support::sidecar::Sidecar;
use crate::support::{http2, test, test_where};

pub fn tests() -> Vec<Trial> {
    vec![
        test_where("answers::python_finds_the_same_rows_in_every_format", same_rows),
        test_where("answers::python_finds_the_same_groups_in_every_format", same_groups),
        test_where("answers::python_makes_the_same_sums_and_unpacks_what_was_packed", same_bytes),
        test_where("answers::the_example_answers", example),
        test("answers::a_device_says_what_it_is_and_what_it_ran", discovered),
        test("answers::what_is_not_here_is_refused_with_its_reason", refused),
        test("answers::a_form_asks_for_the_same", form),
        test("answers::a_short_result_says_how_long_it_is", short),
    ]
}

const ROWS: i64 = 5000;

struct Order {
    id: i64,
    country: Option<&'static str>,
    amount: f64,
    paid: bool,
    note: String,
}

fn orders() -> Vec<Order> {
    let countries = [Some("DE"), Some("FR"), None, Some("New, \"York\"")];
    let order = |id: i64| Order {
        id,
        country: countries[(id * 3 % 7 % 4) as usize],
        // Eighths are added alike in any order.
        amount: (id * 37 % 4001) as f64 / 8.0,
        paid: id % 3 == 0,
        note: if id % 5 == 0 { format!("line\n{id}") } else { format!("ü{id}") },
    };
    (0..ROWS).map(order).collect()
}

/// The same rows in three files.
fn data() -> Data {
    let orders = orders();
    let quoted = |text: &str| format!("\"{}\"", text.replace('"', "\"\""));
    let csv: String = orders
        .iter()
        .map(|Order { id, country, amount, paid, note }| {
            format!("{id},{},{amount},{paid},{}\n", country.map(quoted).unwrap_or_default(), quoted(note))
        })
        .collect();
    let lines: String = orders
        .iter()
        .map(|Order { id, country, amount, paid, note }| {
            format!("{}\n", serde_json::json!({"id": id, "country": country, "amount": amount, "paid": paid, "note": note}))
        })
        .collect();
    let of_country = |order: &Order| order.country.map(str::to_owned);
    let columns = [
        ("id", Column::Int(orders.iter().map(|order| Some(order.id)).collect())),
        ("country", Column::Text(orders.iter().map(of_country).collect())),
        ("amount", Column::Float(orders.iter().map(|order| Some(order.amount)).collect())),
        ("paid", Column::Bool(orders.iter().map(|order| Some(order.paid)).collect())),
        ("note", Column::Text(orders.iter().map(|order| Some(order.note.clone())).collect())),
    ];
    Data::new()
        .with_text("rows.csv", format!("id,country,amount,paid,note\n{csv}"))
        .with_text("lines.jsonl", lines)
        .with("columns.parquet", |path| parquet::write(path, &columns, 700))
}

/// Python reads these files by its own modules. `{}` stands for what is printed as JSON.
fn by_python(python: &Path, files: &[&Path], what: &str) -> Value {
    let program = format!(
        "import csv, gzip, hashlib, json, sys\n\
         rows = list(csv.DictReader(open(sys.argv[1], newline='', encoding='utf-8')))\n\
         lines = [json.loads(line) for line in open(sys.argv[2], encoding='utf-8')]\n\
         assert [int(row['id']) for row in rows] == [line['id'] for line in lines]\n\
         print(json.dumps({what}))\n"
    );
    let output = Command::new(python).arg("-c").arg(program).args(files).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

/// What curl gets.
fn curl(curl: &Path, at: SocketAddr, path: &str, parameters: &[&str]) -> Vec<u8> {
    let mut command = Command::new(curl);
    command.args(["-sSfG", &format!("http://{at}{path}")]);
    for parameter in parameters {
        command.args(["--data-urlencode", parameter]);
    }
    let output = command.output().unwrap();
    assert!(output.status.success(), "{path}: {}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}

fn json_lines(bytes: &[u8]) -> Vec<Value> {
    let text = std::str::from_utf8(bytes).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

const DATASETS: [&str; 3] = ["rows", "lines", "columns@7"];

struct World {
    device: Device,
    curl: PathBuf,
    python: PathBuf,
    csv: PathBuf,
    lines: PathBuf,
}

fn world() -> Result<World, String> {
    let (curl, python) = (find("curl")?, python("csv, gzip, hashlib, json")?);
    let data = data();
    let (csv, lines) = (data.path("rows.csv"), data.path("lines.jsonl"));
    Ok(World { device: data.start("", ""), curl, python, csv, lines })
}

impl World {
    fn by_python(&self, what: &str) -> Value {
        by_python(&self.python, &[&self.csv, &self.lines], what)
    }

    fn curl(&self, path: &str, parameters: &[&str]) -> Vec<u8> {
        curl(&self.curl, self.device.at, path, parameters)
    }
}

fn same_rows() -> Result<(), String> {
    let world = world()?;
    for (condition, in_python) in [
        ("amount < 10", "float(row['amount']) < 10"),
        (
            "country = 'New, \"York\"' and id >= 100",
            "row['country'] == 'New, \"York\"' and int(row['id']) >= 100",
        ),
        (
            "not (country = DE or amount >= 250.5)",
            "row['country'] not in ('', 'DE') and float(row['amount']) < 250.5",
        ),
        ("country is null and id < 2000", "row['country'] == '' and int(row['id']) < 2000"),
        ("paid = true and amount <= 50", "row['paid'] == 'true' and float(row['amount']) <= 50"),
        ("id < 0", "False"),
    ] {
        let rows =
            format!("[[row['note'], int(row['id']), row['country'] or None] for row in rows if {in_python}]");
        let expected = world.by_python(&rows);
        let where_is = format!("where={condition}");
        for dataset in DATASETS {
            let asked = [where_is.as_str(), "select=note,id,country", "format=jsonl"];
            let found = json_lines(&world.curl(&format!("/scan/{dataset}"), &asked));
            // In CSV nothing has a type.
            let number = |value: &Value| value.as_i64().or_else(|| value.as_str()?.parse().ok()).unwrap();
            let found: Value = found
                .iter()
                .map(|row| serde_json::json!([row["note"], number(&row["id"]), row["country"]]))
                .collect();
            assert_eq!(found, expected, "{dataset}: {condition}");
            let csv =
                world.curl(&format!("/scan/{dataset}"), &[&where_is, "select=note,id,country", "format=csv"]);
            let file = world.device.sidecar.path("result.csv");
            std::fs::write(&file, csv).unwrap();
            let read = "[[row['note'], int(row['id']), row['country'] or None] for row in rows]";
            let program = format!(
                "import csv, json, sys\nrows = csv.DictReader(open(sys.argv[1], newline='', encoding='utf-8'))\nprint(json.dumps({read}))\n"
            );
            let output = Command::new(&world.python).arg("-c").arg(program).arg(&file).output().unwrap();
            let found: Value = serde_json::from_slice(&output.stdout).unwrap();
            assert_eq!(found, expected, "{dataset} as CSV: {condition}");
        }
    }
    Ok(())
}

fn same_groups() -> Result<(), String> {
    let world = world()?;
    let in_python = "(lambda groups: [[country or None, len(of), sum(int(r['id']) for r in of), \
                     sum(float(r['amount']) for r in of), sum(float(r['amount']) for r in of) / len(of), \
                     min(float(r['amount']) for r in of), max(int(r['id']) for r in of)] for country, of in groups.items()])\
                     ({c: [r for r in rows if r['country'] == c and float(r['amount']) > 100] \
                     for c in dict.fromkeys(r['country'] for r in rows if float(r['amount']) > 100)})";
    let expected = world.by_python(in_python);
    assert_eq!(expected.as_array().unwrap().len(), 4);
    for dataset in DATASETS {
        let asked = [
            "by=country",
            "compute=count,sum(id),sum(amount),avg(amount),min(amount),max(id)",
            "where=amount > 100",
            "format=jsonl",
        ];
        let found = json_lines(&world.curl(&format!("/aggregate/{dataset}"), &asked));
        let number = |value: &Value| value.as_f64().or_else(|| value.as_str()?.parse().ok()).unwrap();
        let plain = |rows: &[Value], expected: bool| -> Vec<(Value, Vec<f64>)> {
            let names = ["count", "sum(id)", "sum(amount)", "avg(amount)", "min(amount)", "max(id)"];
            rows.iter()
                .map(|row| match expected {
                    true => (row[0].clone(), (1..7).map(|at| number(&row[at])).collect()),
                    false => (row["country"].clone(), names.iter().map(|name| number(&row[*name])).collect()),
                })
                .collect()
        };
        assert_eq!(plain(&found, false), plain(expected.as_array().unwrap(), true), "{dataset}");
    }
    Ok(())
}

fn same_bytes() -> Result<(), String> {
    let world = world()?;
    let sha = world.by_python("hashlib.sha256(open(sys.argv[1], 'rb').read()).hexdigest()");
    let found = json_lines(&world.curl("/checksum/rows", &[]));
    assert_eq!((&found[0]["digest"], &found[0]["algorithm"]), (&sha, &"sha256".into()));
    assert_eq!(found[0]["bytes"], std::fs::metadata(&world.csv).unwrap().len());
    let packed = world.device.sidecar.path("rows.gz");
    let bytes = world.curl("/compress/rows", &["codec=gzip"]);
    assert_eq!(bytes, world.curl("/compress/rows", &[]), "the same bytes each time");
    std::fs::write(&packed, &bytes).unwrap();
    let same = "gzip.open(sys.argv[3]).read() == open(sys.argv[1], 'rb').read()";
    let same = by_python(&world.python, &[&world.csv, &world.lines, &packed], same);
    assert_eq!(same, true);
    assert!((bytes.len() as u64) < std::fs::metadata(&world.csv).unwrap().len() / 2);
    Ok(())
}

/// `examples/device.yaml`, with ports that are free, asked as it says itself.
fn example() -> Result<(), String> {
    let program = find("curl")?;
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples");
    let (at, app) = (free_address(), free_address());
    let file = std::fs::read_to_string(folder.join("device.yaml")).unwrap();
    let file = file
        .replace("127.0.0.1:8080", &at.to_string())
        .replace("127.0.0.1:9300", &app.to_string())
        .replace("path: data/", &format!("path: {}/data/", folder.display()));
    let sidecar = Sidecar::start("", &file);
    let found = curl(&program, at, "/scan/orders@7", &["where=amount > 100", "select=id,amount"]);
    let rows = String::from_utf8(found).unwrap();
    let amounts: Vec<f64> =
        rows.lines().skip(1).map(|row| row.split_once(',').unwrap().1.parse().unwrap()).collect();
    assert_eq!(rows.lines().next(), Some("id,amount"));
    assert!(amounts.len() > 10 && amounts.iter().all(|amount| *amount > 100.0), "{rows}");
    assert_eq!(sidecar.metrics().sum("lighter_device_rows_total", &[("way", "out")]), amounts.len() as f64);
    Ok(())
}

fn discovered() {
    let device = Data::new().with_text("a.csv", "x\n1\n").start(", functions: [scan]", "");
    let found: Value = serde_json::from_str(&text(device.get("/").1)).unwrap();
    assert_eq!(found["class"], "csd");
    assert_eq!(found["datasets"], serde_json::json!([["a", "7", "csv"]]));
    let states: Vec<(&str, &str)> = found["functions"]
        .as_array()
        .unwrap()
        .iter()
        .map(|function| (function["name"].as_str().unwrap(), function["state"].as_str().unwrap()))
        .collect();
    assert_eq!(states[..2], [("scan", "active"), ("filter", "available")]);
    assert_eq!(text(device.get("/scan/a").1), "x\n1\n");
    device.get("/scan/b");
    let log = text(device.get("/log").1);
    let log: Vec<Value> = log.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let runs: Vec<&str> = log.iter().map(|entry| entry["status"].as_str().unwrap()).collect();
    assert_eq!(runs, ["CS_SUCCESS", "CS_NO_SUCH_ENTITY_EXISTS"]);
    assert_eq!(log[0]["usage"]["rowsOut"], 1);
}

fn refused() {
    let device = Data::new().with_text("a.csv", "x\n1\n").start(", functions: [scan, project]", "");
    for (target, status, name, part) in [
        ("/scan/b", 404, "CS_NO_SUCH_ENTITY_EXISTS", "no dataset `b`"),
        ("/scan/a@8", 409, "CS_ENTITY_NOT_ON_DEVICE", "here at version `7`, not `8`"),
        ("/sort/a", 404, "CS_INVALID_FUNCTION_NAME", "no function `sort`"),
        ("/checksum/a", 404, "CS_INVALID_FUNCTION", "not active"),
        ("/scan/a?where=x%3C", 400, "CS_INVALID_ARG", "expected a value"),
        ("/scan/a?select=y", 400, "CS_INVALID_ARG", "no column `y`; there are `x`"),
        ("/project/a", 400, "CS_INVALID_ARG", "`project` needs `select`"),
    ] {
        let (head, body) = device.get(target);
        assert_eq!(head.status(), status, "{target}");
        assert_eq!(head.get("x-lighter-status"), Some(name), "{target}");
        let said = text(body);
        assert!(said.starts_with(name) && said.contains(part), "{target}: {said}");
    }
    for (target, status) in [("/scan", 404), ("/scan/a/b", 404), ("/scan/", 404), ("//a", 404)] {
        assert_eq!(device.get(target).0.status(), status, "{target}");
    }
    assert_eq!(text(device.get("/scan/a%407").1), "x\n1\n");
    let (head, _) =
        Peer::connect(device.at).exchange("PUT /scan/a HTTP/1.1\r\nHost: data\r\nContent-Length: 0\r\n\r\n");
    assert_eq!(head.status(), 405);
    // Labels are what the configuration knows, whatever is asked for.
    let runs = |labels: &[(&str, &str)]| device.counted("lighter_device_runs_total", labels);
    assert_eq!(runs(&[("dataset", "unknown"), ("status", "CS_NO_SUCH_ENTITY_EXISTS")]), 1.0);
    assert_eq!(runs(&[("function", "unknown"), ("dataset", "a")]), 2.0);
    assert_eq!(runs(&[("function", "scan"), ("dataset", "a"), ("status", "CS_INVALID_ARG")]), 2.0);
    assert_eq!(runs(&[("status", "CS_SUCCESS")]), 1.0);
    // To one who comes by HTTP/2 as well.
    http2::run(async {
        let client = http2::connect(device.at).await;
        let answer = http2::get(&client, "/scan/a@8").await.unwrap();
        assert_eq!(
            (answer.head.status.as_u16(), &answer.head.headers["x-lighter-status"]),
            (409, &"CS_ENTITY_NOT_ON_DEVICE".parse().unwrap())
        );
        assert_eq!(http2::get(&client, "/scan/a").await.unwrap().body, b"x\n1\n");
    });
}

fn form() {
    let device = Data::new().with_text("a.csv", "x,y\n1,2\n3,4\n").start("", "");
    let post = |target: &str, body: &str| {
        let length = body.len();
        let request =
            format!("POST {target} HTTP/1.1\r\nHost: data\r\nContent-Length: {length}\r\n\r\n{body}");
        Peer::connect(device.at).exchange(request)
    };
    assert_eq!(post("/scan/a", "where=x<2&select=y").1, Body::Whole(b"y\n2\n".to_vec()));
    assert_eq!(post("/scan/a?select=y", "where=x+>+2").1, Body::Whole(b"y\n4\n".to_vec()));
    assert_eq!(post("/scan/a", &"x".repeat(20_000)).0.status(), 413);
    let mut kept = Peer::connect(device.at);
    assert_eq!(kept.exchange(get("/scan/a?select=y")).0.status(), 200);
    assert_eq!(
        kept.exchange(get("/scan/a?select=x&format=jsonl")).1,
        Body::Whole(b"{\"x\":\"1\"}\n{\"x\":\"3\"}\n".to_vec())
    );
}

/// It goes out at once, so that nothing can cut it. A long one goes out while it is made.
fn short() {
    let lines: String = (0..10_000).map(|id| format!("{id},{}\n", "x".repeat(20))).collect();
    let device = Data::new().with_text("rows.csv", format!("id,note\n{lines}")).start("", "");
    let (head, body) = device.get("/scan/rows?limit=3&select=id");
    assert_eq!((head.get("content-length"), text(body)), (Some("9"), "id\n0\n1\n2\n".to_owned()));
    let (head, body) = device.get("/scan/rows");
    assert_eq!(head.get("content-length"), None);
    assert_eq!(text(body).lines().count(), 10_001);
}
