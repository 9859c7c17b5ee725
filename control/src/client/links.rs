//! `lighter get links`: the links of every sidecar that reports, and the wires that carry them.

use serde_json::{Value, json};

use super::access::Access;
use super::get::{Form, yaml};
use super::{sidecars, table};
use crate::exit::Exit;
use crate::output;

/// Runs the command.
pub fn execute(access: &Access, form: Form) -> miette::Result<Exit> {
    let Some(answer) = sidecars::ask(access)? else { return Ok(Exit::Fault) };
    let sidecars = sidecars::listed(&answer)?;
    let links: Vec<Value> = sidecars.iter().flat_map(of).collect();
    match form {
        Form::Json => output::json(&json!({ "links": links }))?,
        Form::Yaml => output::line(yaml(&json!({ "links": links }))?.trim_end())?,
        Form::Table | Form::Wide if links.is_empty() => eprintln!("no link is reported"),
        Form::Table | Form::Wide => {
            let titles =
                ["SIDECAR", "PEER", "ADDRESS", "SIDE", "WIRE", "STREAMS", "TCP", "SHM", "RDMA", "GENERATION"];
            output::line(table::write(&titles, &links.iter().map(row).collect::<Vec<_>>()))?;
        }
    }
    Ok(Exit::Ok)
}

/// The links that a sidecar reports, each with whose it is.
fn of(sidecar: &Value) -> Vec<Value> {
    let links = sidecar["links"].as_array().cloned().unwrap_or_default();
    let with = |mut link: Value| {
        link["sidecar"] = sidecar["id"].clone();
        link
    };
    links.into_iter().map(with).collect()
}

fn row(link: &Value) -> Vec<String> {
    // Sidecars choose their words: they stay on their line.
    let text = |field: &str| match link[field].as_str().unwrap_or_default() {
        "" => "-".to_string(),
        text => text.escape_debug().to_string(),
    };
    let number = |field: &str| link[field].as_u64().unwrap_or_default().to_string();
    let (sends, receives) = (text("sendsOver"), text("receivesOver"));
    let wire = if sends == receives { sends } else { format!("{sends} out, {receives} in") };
    let side = if link["opened"] == true { "opener" } else { "acceptor" };
    let carried = |wire: &str| {
        let of = link["bytes"].as_array().into_iter().flatten().find(|bytes| bytes["wire"] == wire);
        let bytes = |field: &str| of.and_then(|bytes| bytes[field].as_u64()).unwrap_or_default();
        format!("{} out, {} in", bytes("sent"), bytes("received"))
    };
    let mut row = vec![text("sidecar"), text("identity"), text("address"), side.to_string(), wire];
    row.extend([number("streams"), carried("tcp"), carried("shm"), carried("rdma"), number("generation")]);
    row
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_is_a_line_whatever_its_sidecar_calls_itself() {
        let sidecar = json!({"id": "shop/web/host-1", "links": [{
            "identity": "spiffe://a\n", "address": "192.0.2.1:15008", "opened": true, "streams": 2, "generation": 3,
            "sendsOver": "shm", "receivesOver": "tcp",
            "bytes": [{"wire": "tcp", "sent": 1, "received": 2}, {"wire": "shm", "sent": 30, "received": 0}],
        }]});
        let [link] = of(&sidecar).try_into().unwrap();
        let expected = [
            "shop/web/host-1",
            "spiffe://a\\n",
            "192.0.2.1:15008",
            "opener",
            "shm out, tcp in",
            "2",
            "1 out, 2 in",
            "30 out, 0 in",
            "0 out, 0 in",
            "3",
        ];
        assert_eq!(row(&link), expected.map(str::to_string));
        assert!(of(&json!({"id": null})).is_empty());
    }
}
