//! `lighter tap`: exchanges of a sidecar as they end.

use std::net::SocketAddr;
use std::pin::pin;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::header::HOST;
use http::{Request, StatusCode};
use http_body_util::{BodyExt, Empty, Limited};
use hyper_util::rt::TokioIo;
use miette::{IntoDiagnostic, Report, miette};
use serde_json::Value;
use tokio::net::TcpStream;

use crate::exit::Exit;
use crate::{ask, output};

/// Arguments of `lighter tap`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The sidecar's admin port
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "127.0.0.1:15000")]
    admin: SocketAddr,
    /// Only requests to Services (`outbound`), or only those of callers (`inbound`)
    #[arg(long, value_parser = ["outbound", "inbound"])]
    direction: Option<String>,
    /// Only those to this Service: `NAME` or `NAMESPACE/NAME`
    #[arg(long)]
    service: Option<String>,
    /// Only those by this route, as metrics name it
    #[arg(long)]
    route: Option<String>,
    /// Only those with this method
    #[arg(long)]
    method: Option<String>,
    /// Only those whose path begins so
    #[arg(long, value_name = "PREFIX")]
    path: Option<String>,
    /// Only those with this Host or `:authority`
    #[arg(long)]
    authority: Option<String>,
    /// Only those of callers whose SPIFFE ID begins so
    #[arg(long, value_name = "PREFIX")]
    caller: Option<String>,
    /// Only those with this status: `503`, or `5xx`
    #[arg(long)]
    status: Option<String>,
    /// Only what failed: with a cause, or with a status from 500 on
    #[arg(long)]
    failed: bool,
    /// End after so many
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    count: Option<u64>,
    /// Lines of JSON, with all the fields of the access log
    #[arg(long)]
    json: bool,
}

/// How long the sidecar may take until it has answered.
const PATIENCE: Duration = Duration::from_secs(5);

/// A longer line is none of a sidecar's.
const LONGEST_LINE: usize = 1 << 20;

/// Runs the command.
pub fn execute(args: &Args) -> miette::Result<Exit> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().into_diagnostic()?;
    runtime.block_on(tap(args))
}

async fn tap(args: &Args) -> miette::Result<Exit> {
    let mut left = args.count;
    let opened = tokio::time::timeout(PATIENCE, open(args)).await;
    let mut body = pin!(opened.map_err(|_| away(args, &"it did not answer in time"))??);
    let mut unread = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| away(args, &error))?;
        let Ok(data) = frame.into_data() else { continue };
        unread.extend_from_slice(&data);
        while let Some(end) = unread.iter().position(|byte| *byte == b'\n') {
            let line = unread.split_to(end + 1);
            let is_exchange = show(&line[..end], args.json)?;
            left = left.map(|left| left - u64::from(is_exchange));
            if left == Some(0) {
                return Ok(Exit::Ok);
            }
        }
        if unread.len() > LONGEST_LINE {
            return Err(away(args, &"a line has no end"));
        }
    }
    Err(away(args, &"it ended the connection"))
}

/// The answer's body.
async fn open(args: &Args) -> miette::Result<hyper::body::Incoming> {
    let stream = TcpStream::connect(args.admin).await.map_err(|error| away(args, &error))?;
    let io = TokioIo::new(stream);
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(io).await.map_err(|error| away(args, &error))?;
    // It ends with the runtime.
    tokio::spawn(connection);
    let request = Request::get(target(args)).header(HOST, args.admin.to_string());
    let request = request.body(Empty::<Bytes>::new()).into_diagnostic()?;
    let answer = sender.send_request(request).await.map_err(|error| away(args, &error))?;
    let status = answer.status();
    if status == StatusCode::OK {
        return Ok(answer.into_body());
    }
    let said = Limited::new(answer.into_body(), LONGEST_LINE).collect().await.map(|body| body.to_bytes());
    let said = said.unwrap_or_default();
    let said = String::from_utf8_lossy(&said);
    Err(miette!("the sidecar at {} answered {status}: {}", args.admin, said.trim().escape_debug()))
}

fn target(args: &Args) -> String {
    let said = [
        ("direction", &args.direction),
        ("service", &args.service),
        ("route", &args.route),
        ("method", &args.method),
        ("path", &args.path),
        ("authority", &args.authority),
        ("caller", &args.caller),
        ("status", &args.status),
    ];
    let failed = args.failed.then(|| "failed=true".to_owned());
    let pairs = said.iter().filter_map(|(name, value)| Some(format!("{name}={}", encoded(value.as_ref()?))));
    let pairs: Vec<String> = pairs.chain(failed).collect();
    format!("/tap?{}", pairs.join("&"))
}

/// A value as a query has it: all but letters, digits and `-._~/` is encoded (RFC 3986 §3.4).
pub fn encoded(value: &str) -> String {
    value.bytes().fold(String::new(), |mut text, byte| {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' | b'/' => {
                text.push(byte.into())
            }
            _ => text.push_str(&format!("%{byte:02X}")),
        }
        text
    })
}

/// Shows a line. Returns whether it is an exchange.
fn show(line: &[u8], as_it_is: bool) -> miette::Result<bool> {
    let value: Value =
        serde_json::from_slice(line).map_err(|error| miette!("the sidecar said what is no JSON: {error}"))?;
    let missed = value["missed"].as_u64();
    match missed {
        _ if as_it_is => output::line(String::from_utf8_lossy(line))?,
        Some(missed) => eprintln!("{missed} were missed: they came faster than they were read"),
        None => output::line(text(&value))?,
    }
    Ok(missed.is_none())
}

/// An exchange for people, on one line.
fn text(value: &Value) -> String {
    // Peers choose their words: they stay on their line, and move no cursor.
    let word = |field: &str| {
        value[field].as_str().filter(|text| !text.is_empty()).map(|text| text.escape_debug().to_string())
    };
    let or_none = |field: &str| word(field).unwrap_or_else(|| "-".to_owned());
    let time = or_none("time");
    // The day is known to who looks.
    let time = time.split_once('T').map_or(time.as_str(), |(_, time)| time);
    let mut line = format!("{} {} {}:{}", time, or_none("direction"), or_none("service"), value["port"]);
    line.push_str(&format!(" {} {}", or_none("route"), or_none("protocol")));
    if let Some(method) = word("method") {
        let status = value["status"].as_u64().unwrap_or_default();
        line.push_str(&format!(" {method} {} {status}", or_none("path")));
    }
    if let Some(status) = value["grpc_status"].as_u64() {
        line.push_str(&format!(" grpc {status}"));
    }
    let took = value["duration_seconds"].as_f64().unwrap_or_default() * 1000.0;
    line.push_str(&format!(
        " {took:.1} ms, {} in, {} out, from {}",
        value["bytes_in"],
        value["bytes_out"],
        or_none("peer")
    ));
    if let Some(caller) = word("caller") {
        line.push_str(&format!(" ({caller})"));
    }
    line.push_str(&format!(" to {}", or_none("endpoint")));
    if let Some(cause) = word("cause") {
        line.push_str(&format!(", {cause}"));
    }
    match value["retries"].as_u64() {
        None | Some(0) => {}
        Some(retries) => line.push_str(&format!(", tried {} times", retries + 1)),
    }
    line
}

fn away(args: &Args, error: &dyn std::fmt::Display) -> Report {
    miette!(help = ask::IS_IT_THERE, "the sidecar at {} cannot be tapped: {error}", args.admin)
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        args: Args,
    }

    #[test]
    fn what_is_asked_for_is_in_the_query() {
        let line = ["tap", "--path", "/a b&c", "--status", "5xx", "--failed", "--service", "shop/web"];
        let Line { args } = Line::try_parse_from(line).unwrap();
        assert_eq!(target(&args), "/tap?service=shop/web&path=/a%20b%26c&status=5xx&failed=true");
        let Line { args } = Line::try_parse_from(["tap"]).unwrap();
        assert_eq!(target(&args), "/tap?");
    }

    #[test]
    fn an_exchange_is_a_line_whatever_its_peers_say() {
        let value = serde_json::json!({
            "time": "2026-11-26T10:00:00.000001Z", "direction": "inbound", "service": "shop/web", "port": 80,
            "route": "split", "protocol": "http1", "method": "GET", "path": "/a\u{1b}[2J\n", "status": 503,
            "cause": "no_endpoint", "peer": "192.0.2.1:5000", "caller": "spiffe://a", "bytes_in": 3, "bytes_out": 17,
            "duration_seconds": 0.0025, "retries": 1
        });
        assert_eq!(
            text(&value),
            "10:00:00.000001Z inbound shop/web:80 split http1 GET /a\\u{1b}[2J\\n 503 2.5 ms, 3 in, 17 out, from \
             192.0.2.1:5000 (spiffe://a) to -, no_endpoint, tried 2 times"
        );
        // Another sidecar may say something else.
        assert_eq!(text(&serde_json::json!([])), "- - -:null - - 0.0 ms, null in, null out, from - to -");
    }
}
