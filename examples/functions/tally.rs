//! Counts the rows of a CSV dataset by the cells of a column, and adds another column up.
//!
//! `GET /tally/DATASET?by=COLUMN[&sum=COLUMN][&as=KEY]` answers with a JSON object a line, in the order of the cells. With
//! `as` the rows are remembered under that key, and those of every run before are counted too.

use std::collections::BTreeMap;

use lighter_example_functions::datasets::{Dataset, Error};
use lighter_example_functions::types::{IncomingRequest, ResponseOutparam};
use lighter_example_functions::{Answer, Asked, Guest, keyvalue};

struct Tally;

#[derive(Default)]
struct Group {
    rows: u64,
    sum: f64,
}

impl Guest for Tally {
    fn handle(request: IncomingRequest, to: ResponseOutparam) {
        let asked = Asked::of(&request);
        match tally(&asked) {
            Ok(lines) => {
                let answer = Answer::begin(to, 200, "application/x-ndjson");
                let _ = lines.iter().all(|line| answer.write(line.as_bytes()));
                answer.end();
            }
            Err((status, why)) => {
                let answer = Answer::begin(to, status, "text/plain; charset=utf-8");
                answer.write(format!("{why}\n").as_bytes());
                answer.end();
            }
        }
    }
}

fn tally(asked: &Asked) -> Result<Vec<String>, (u16, String)> {
    let by = asked.get("by").ok_or((400, "expected by=COLUMN".to_owned()))?;
    let (name, version) = asked.dataset.split_once('@').map_or((&*asked.dataset, None), |(n, v)| (n, Some(v)));
    let dataset = Dataset::open(name, version).map_err(|error| match error {
        Error::NoSuchDataset => (404, format!("there is no dataset {name}")),
        Error::OtherVersion(here) => (409, format!("{name} is here at version {here}")),
        Error::Unreadable(why) => (500, why),
    })?;
    let mut rows = Rows { dataset, at: 0, bytes: Vec::new(), next: 0 };
    let head = rows.next()?.ok_or((422, format!("{name} is empty")))?;
    let column = |column: &str| {
        head.iter().position(|cell| cell == column).ok_or((400, format!("there is no column {column}")))
    };
    let by_at = column(by)?;
    let sum_at = asked.get("sum").map(column).transpose()?;
    let mut groups = BTreeMap::<String, Group>::new();
    while let Some(mut row) = rows.next()? {
        let value = sum_at.and_then(|at| row.get(at)).and_then(|cell| cell.parse::<f64>().ok());
        let Some(cell) = row.get_mut(by_at) else { continue };
        let group = groups.entry(std::mem::take(cell)).or_default();
        group.rows += 1;
        group.sum += value.unwrap_or(0.0);
    }
    let line = |(cell, group): (&String, &Group)| {
        let sum = asked.get("sum").map_or(String::new(), |sum| format!(",{}:{}", quoted(&format!("sum({sum})")), group.sum));
        format!("{{{}:{},\"rows\":{}{sum}}}\n", quoted(by), quoted(cell), group.rows)
    };
    let mut lines: Vec<String> = groups.iter().map(line).collect();
    if let Some(key) = asked.get("as") {
        let before = keyvalue::get(key).and_then(|value| value.try_into().ok()).map_or(0, u64::from_le_bytes);
        let all = before + groups.values().map(|group| group.rows).sum::<u64>();
        keyvalue::set(key, &all.to_le_bytes()).map_err(|error| (507, format!("{key}: {error:?}")))?;
        lines.push(format!("{{\"all\":{all}}}\n"));
    }
    Ok(lines)
}

fn quoted(text: &str) -> String {
    let mut quoted = String::from('"');
    for letter in text.chars() {
        match letter {
            '"' | '\\' => quoted.extend(['\\', letter]),
            letter if letter < ' ' => quoted += &format!("\\u{:04x}", u32::from(letter)),
            letter => quoted.push(letter),
        }
    }
    quoted + "\""
}

/// The records of a CSV dataset, of which one is held at a time.
struct Rows {
    dataset: Dataset,
    at: u64,
    bytes: Vec<u8>,
    next: usize,
}

impl Rows {
    fn byte(&mut self) -> Result<Option<u8>, (u16, String)> {
        if self.next == self.bytes.len() {
            self.bytes = self.dataset.read(self.at, 64 << 10).map_err(|error| (500, format!("{error:?}")))?;
            self.at += self.bytes.len() as u64;
            self.next = 0;
        }
        let byte = self.bytes.get(self.next).copied();
        self.next += usize::from(byte.is_some());
        Ok(byte)
    }

    fn next(&mut self) -> Result<Option<Vec<String>>, (u16, String)> {
        let (mut row, mut cell, mut inside, mut any) = (Vec::new(), Vec::new(), false, false);
        loop {
            let byte = self.byte()?;
            any |= byte.is_some();
            match byte {
                // Two of them within a pair are one of the cell: the first one ends it, the second one goes on.
                Some(b'"') => {
                    inside = !inside;
                    if inside && !cell.is_empty() {
                        cell.push(b'"');
                    }
                }
                Some(b'\r') if !inside => {}
                Some(b',') if !inside => row.push(text(&mut cell)),
                Some(byte) if inside || byte != b'\n' => cell.push(byte),
                _ if !any => return Ok(None),
                _ => {
                    row.push(text(&mut cell));
                    return Ok(Some(row));
                }
            }
        }
    }
}

fn text(cell: &mut Vec<u8>) -> String {
    String::from_utf8_lossy(&std::mem::take(cell)).into_owned()
}

lighter_example_functions::export!(Tally with_types_in lighter_example_functions);
