//! Registers that hold a number each, in the function's own memory: with `memory: kept` they are there at the next call, and move
//! from one device to another.
//!
//! `GET /ledger/NAME` answers as `registers` does, with `put=NUMBER` and `add=NUMBER`. `room=BYTES` takes so much memory more, and
//! keeps it; `break` breaks off after the number was changed; `open` leaves the dataset `where` open.

use std::cell::RefCell;
use std::collections::BTreeMap;

use lighter_example_functions::datasets::Dataset;
use lighter_example_functions::types::{IncomingRequest, ResponseOutparam};
use lighter_example_functions::{Answer, Asked, Guest};

#[derive(Default)]
struct Held {
    registers: BTreeMap<String, u64>,
    room: Vec<Vec<u8>>,
}

thread_local! {
    /// All that lasts. There is one thread.
    static HELD: RefCell<Held> = RefCell::default();
}

struct Ledger;

impl Guest for Ledger {
    fn handle(request: IncomingRequest, to: ResponseOutparam) {
        let asked = Asked::of(&request);
        let (status, said) = match HELD.with_borrow_mut(|held| held.answer(&asked)) {
            Ok(number) => (200, format!("{number} {}\n", place())),
            Err(why) => (400, format!("{why}\n")),
        };
        if asked.get("break").is_some() {
            panic!("as was asked");
        }
        if asked.get("open").is_some() {
            std::mem::forget(Dataset::open("where", None));
        }
        let answer = Answer::begin(to, status, "text/plain; charset=utf-8");
        answer.write(said.as_bytes());
        answer.end();
    }
}

impl Held {
    fn answer(&mut self, asked: &Asked) -> Result<u64, String> {
        let number = |name: &str| {
            let said = asked.get(name).map(str::parse::<u64>).transpose();
            said.map_err(|_| format!("{name} is no number"))
        };
        if let Some(bytes) = number("room")? {
            self.room.push((0..bytes).map(|at| (at / 251) as u8 | 1).collect());
        }
        if let Some(number) = number("put")? {
            return Ok(self.registers.insert(asked.dataset.clone(), number).unwrap_or(0));
        }
        match number("add")? {
            Some(number) => {
                let held = self.registers.entry(asked.dataset.clone()).or_default();
                *held = held.wrapping_add(number);
                Ok(*held)
            }
            None => Ok(self.registers.get(&asked.dataset).copied().unwrap_or(0)),
        }
    }
}

/// What the device says of where it is.
fn place() -> String {
    let Ok(dataset) = Dataset::open("where", None) else { return String::new() };
    let said = dataset.read(0, 64).unwrap_or_default();
    String::from_utf8_lossy(&said).trim().to_owned()
}

lighter_example_functions::export!(Ledger with_types_in lighter_example_functions);
