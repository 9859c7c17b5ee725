//! A refresh as a table for people, and as JSON for scripts.

use std::net::SocketAddr;

use serde_json::{Map, Value, json};

use super::refresh::{Refresh, Row};
use crate::client::table::{self, size, time};

/// A table under lines about the sidecar as a whole.
pub fn text(admin: SocketAddr, refresh: &Refresh) -> String {
    let rows: Vec<_> = refresh.rows.iter().map(|row| cells(row, refresh.interval)).collect();
    let body =
        if rows.is_empty() { "no route carries anything".to_owned() } else { table::write(&TITLES, &rows) };
    format!("{}\n\n{body}", head(admin, refresh))
}

/// As much of `text` as fits on a screen, and how many lines do not.
pub fn fit(text: &str, columns: usize, rows: usize) -> String {
    let cut = |line: &str| line.chars().take(columns).collect::<String>();
    let lines: Vec<_> = text.lines().collect();
    // The cursor rests on a line of its own.
    let room = rows.saturating_sub(1);
    if lines.len() <= room {
        return lines.into_iter().map(cut).collect::<Vec<_>>().join("\n");
    }
    let shown = room.saturating_sub(1);
    let more = format!("and {} more", lines.len() - shown);
    lines.into_iter().take(shown).map(cut).chain([cut(&more)]).collect::<Vec<_>>().join("\n")
}

/// One object.
pub fn json(admin: SocketAddr, refresh: &Refresh) -> Value {
    json!({
        "admin": admin.to_string(),
        "interval_seconds": refresh.interval,
        "uptime_seconds": refresh.uptime,
        "cpu": refresh.cpu,
        "resident_bytes": refresh.now.resident_bytes,
        "connections_open": refresh.now.connections_open,
        "links": refresh.now.links.iter().map(|(wire, links)| (wire.clone(), json!(links))).collect::<Map<_, _>>(),
        "routes": refresh.rows.iter().map(|row| one(row, refresh.interval)).collect::<Vec<_>>(),
    })
}

fn one(row: &Row, interval: f64) -> Value {
    let counts = &row.counts;
    let rate = |count| per_second(count, interval);
    json!({
        "direction": row.route.direction,
        "service": row.route.service,
        "port": row.route.port.parse::<u16>().map_or_else(|_| json!(row.route.port), |port| json!(port)),
        "route": row.route.route,
        "ended": counts.ended,
        "failed": counts.failed,
        "success": row.success(),
        "open": counts.open,
        "retries": counts.retries,
        "bytes_in": counts.bytes_in,
        "bytes_out": counts.bytes_out,
        "per_second": {
            "ended": rate(counts.ended),
            "failed": rate(counts.failed),
            "retries": rate(counts.retries),
            "bytes_in": rate(counts.bytes_in),
            "bytes_out": rate(counts.bytes_out),
        },
        "latency_seconds": {"p50": row.p50, "p99": row.p99},
    })
}

fn head(admin: SocketAddr, refresh: &Refresh) -> String {
    let unknown = || "unknown".to_owned();
    let now = &refresh.now;
    let up = refresh.uptime.map_or_else(unknown, |seconds| table::age(seconds as u64));
    let cpu = refresh.cpu.map_or_else(unknown, |share| format!("{:.1}%", share * 100.0));
    let memory = now.resident_bytes.map_or_else(unknown, |bytes| size(bytes as f64));
    let links: Vec<_> =
        now.links.iter().map(|(wire, links)| format!("{links} {}", wire.escape_debug())).collect();
    let links = if links.is_empty() { "none".to_owned() } else { links.join(", ") };
    format!(
        "sidecar {admin}, up {up}: cpu {cpu}, memory {memory}\nconnections open: {}; links: {links}",
        now.connections_open
    )
}

fn cells(row: &Row, interval: f64) -> Vec<String> {
    let counts = &row.counts;
    // Names come from configuration, which others may have written: they stay on their line, and are text.
    let name = |name: &str| name.escape_debug().to_string();
    let absent = || "-".to_owned();
    let rate = |count| per_second(count, interval);
    vec![
        name(&row.route.direction),
        name(&row.route.service),
        name(&row.route.port),
        name(&row.route.route),
        format!("{:.1}", rate(counts.ended)),
        // Never rounded up: 100% is all of them.
        row.success().map_or_else(absent, |share| format!("{:.1}%", (share * 1000.0).floor() / 10.0)),
        row.p50.map_or_else(absent, time),
        row.p99.map_or_else(absent, time),
        counts.open.to_string(),
        format!("{:.1}", rate(counts.retries)),
        size(rate(counts.bytes_in)),
        size(rate(counts.bytes_out)),
    ]
}

fn per_second(count: u64, interval: f64) -> f64 {
    if interval > 0.0 { count as f64 / interval } else { 0.0 }
}

const TITLES: [&str; 12] = [
    "DIRECTION",
    "SERVICE",
    "PORT",
    "ROUTE",
    "ENDED/S",
    "SUCCESS",
    "P50",
    "P99",
    "OPEN",
    "RETRIES/S",
    "IN/S",
    "OUT/S",
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::top::reading::{Counts, Reading, Route};

    fn admin() -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], 15000))
    }

    fn refresh(route: &str) -> Refresh {
        let route = Route {
            direction: "outbound".to_owned(),
            service: "default/up".to_owned(),
            port: "80".to_owned(),
            route: route.to_owned(),
        };
        let counts = Counts {
            ended: 2001,
            failed: 1,
            retries: 3,
            bytes_in: 100,
            bytes_out: 3 << 20,
            open: 4,
            ..Counts::default()
        };
        let now = Reading {
            resident_bytes: Some(18 << 20),
            connections_open: 64,
            links: [("shm".to_owned(), 2), ("tcp".to_owned(), 1)].into(),
            ..Reading::default()
        };
        let rows = vec![Row { route, counts, p50: Some(0.00085), p99: Some(0.0123) }];
        Refresh { interval: 2.0, uptime: Some(720.5), cpu: Some(0.313), now, rows }
    }

    #[test]
    fn a_table_stands_below_what_the_sidecar_is_like() {
        let expected = "\
sidecar 127.0.0.1:15000, up 12m: cpu 31.3%, memory 18.0MiB
connections open: 64; links: 2 shm, 1 tcp

DIRECTION   SERVICE      PORT   ROUTE          ENDED/S   SUCCESS   P50     P99      OPEN   RETRIES/S   IN/S   OUT/S
outbound    default/up   80     default/up/0   1000.5    99.9%     850us   12.3ms   4      1.5         50B    1.5MiB";
        assert_eq!(text(admin(), &refresh("default/up/0")), expected);
    }

    #[test]
    fn what_is_not_known_is_said_to_be() {
        let nothing =
            Refresh { interval: 1.0, uptime: None, cpu: None, now: Reading::default(), rows: Vec::new() };
        let expected = "\
sidecar 127.0.0.1:15000, up unknown: cpu unknown, memory unknown
connections open: 0; links: none

no route carries anything";
        assert_eq!(text(admin(), &nothing), expected);
        assert_eq!(json(admin(), &nothing)["cpu"], Value::Null);
    }

    #[test]
    fn a_name_cannot_act_on_the_terminal() {
        let mut refresh = refresh("a\u{1b}[2J\nb\u{202e}");
        refresh.now.links = [("\u{7}".to_owned(), 1)].into();
        let text = text(admin(), &refresh);
        assert!(text.contains("a\\u{1b}[2J\\nb\\u{202e}") && text.contains("1 \\u{7}"), "{text}");
        assert!(text.chars().all(|c| c == '\n' || !c.is_control()), "{text:?}");
        assert_eq!(json(admin(), &refresh)["routes"][0]["route"], "a\u{1b}[2J\nb\u{202e}");
    }

    #[test]
    fn a_script_finds_counts_and_rates() {
        let json = json(admin(), &refresh("r"));
        assert_eq!((&json["interval_seconds"], &json["links"]["shm"]), (&json!(2.0), &json!(2)));
        let route = &json["routes"][0];
        assert_eq!(
            (&route["ended"], &route["failed"], &route["port"]),
            (&json!(2001), &json!(1), &json!(80))
        );
        assert_eq!(route["per_second"]["ended"], json!(1000.5));
        assert_eq!(route["latency_seconds"]["p99"], json!(0.0123));
    }

    #[test]
    fn a_table_is_cut_to_the_screen() {
        let text = "one line\n2\n3\n4";
        assert_eq!(fit(text, 80, 5), text);
        assert_eq!(fit(text, 3, 4), "one\n2\nand");
        assert_eq!(fit(text, 80, 4), "one line\n2\nand 2 more");
        assert_eq!((fit(text, 80, 1), fit("", 0, 0)), ("and 4 more".to_owned(), String::new()));
    }
}
