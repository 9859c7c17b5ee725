//! Orders: a file that is kept apart from the service which answers with some of its rows.

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::caller::Caller;
use super::http::Response;

/// What is asked of `orders`: the rows of one order in a hundred.
pub const LARGE: &str = "/scan/orders@1?where=amount%20%3E%20989";

/// The orders. Each has a number from 0 to 999 as its amount, evenly.
pub fn table(rows: usize) -> String {
    let mut text = String::from("id,amount,note\n");
    for id in 0..rows {
        // Prime to a thousand, so that all numbers come equally often, in no order.
        text.push_str(&format!("{id},{},xxxxxxxxxxxxxxxx\n", id * 577 % 1000));
    }
    text
}

/// `HOST:PORT`.
pub fn place(text: &str) -> (&str, u16) {
    let (host, port) = text.rsplit_once(':').unwrap_or((text, ""));
    (host, port.parse().unwrap_or(80))
}

/// Reads all of the file and answers with the rows whose amount is above what the target says.
pub fn scan(storage: &mut Caller<'_>, target: &str) -> Response {
    let least = target.rsplit_once("amount%20%3E%20").and_then(|(_, least)| least.parse::<u32>().ok());
    let Some(least) = least else { return Response::failed("expected ?where=amount > NUMBER") };
    let file = match storage.read("/orders.csv") {
        Ok(file) => file,
        Err(error) => return Response::failed(&error.to_string()),
    };
    let mut lines = file.split_inclusive(|byte| *byte == b'\n');
    let mut rows = lines.next().unwrap_or_default().to_vec();
    for line in lines.filter(|line| amount(line).is_some_and(|amount| amount > least)) {
        rows.extend_from_slice(line);
    }
    Response::csv(rows)
}

fn amount(line: &[u8]) -> Option<u32> {
    std::str::from_utf8(line.split(|byte| *byte == b',').nth(1)?).ok()?.parse().ok()
}

/// How many rows came, and which: whoever answers has to say the same.
pub fn told(rows: &[u8]) -> Value {
    let count = rows.split_inclusive(|byte| *byte == b'\n').count().saturating_sub(1);
    let sum: String = Sha256::digest(rows).iter().take(6).map(|byte| format!("{byte:02x}")).collect();
    json!({ "rows": count, "sha256": sum })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_order_in_a_hundred_is_large() {
        let table = table(4_000);
        let large = table.lines().filter(|line| amount(line.as_bytes()).is_some_and(|amount| amount > 989));
        assert_eq!(large.count(), 40);
        assert_eq!(place("198.18.1.2:80"), ("198.18.1.2", 80));
        assert_eq!(told(b"id\n1\n2\n")["rows"], 2);
    }
}
