//! Registers that hold a number each, and are remembered: what to move from one device to another.
//!
//! `GET /registers/NAME` answers what the register holds, which is 0 at first. With `put=NUMBER` it holds that from now on, and
//! the answer is what it held; `add=NUMBER` adds to it, and the answer is the sum. However many ask at once, each is done once.
//! Where the device has a dataset `where`, its text follows behind the number.

use lighter_example_functions::datasets::Dataset;
use lighter_example_functions::types::{IncomingRequest, ResponseOutparam};
use lighter_example_functions::{Answer, Asked, Guest, keyvalue};

struct Registers;

impl Guest for Registers {
    fn handle(request: IncomingRequest, to: ResponseOutparam) {
        let asked = Asked::of(&request);
        let (status, said) = match registers(&asked) {
            Ok(number) => (200, format!("{number} {}\n", place())),
            Err((status, why)) => (status, format!("{why}\n")),
        };
        let answer = Answer::begin(to, status, "text/plain; charset=utf-8");
        answer.write(said.as_bytes());
        answer.end();
    }
}

fn registers(asked: &Asked) -> Result<u64, (u16, String)> {
    let number = |name: &str| {
        let said = asked.get(name).map(str::parse::<u64>).transpose();
        said.map_err(|_| (400, format!("{name} is no number")))
    };
    let key = format!("register/{}", asked.dataset);
    if let Some(number) = number("put")? {
        return change(&key, |_| number).map(|(before, _)| before);
    }
    match number("add")? {
        Some(number) => change(&key, |before| before.wrapping_add(number)).map(|(_, after)| after),
        None => Ok(held(keyvalue::get(&key).as_deref())),
    }
}

/// What it held, and what it holds from now on.
fn change(key: &str, to: impl Fn(u64) -> u64) -> Result<(u64, u64), (u16, String)> {
    loop {
        let before = keyvalue::get(key);
        let (had, has) = (held(before.as_deref()), to(held(before.as_deref())));
        let swapped = keyvalue::swap(key, before.as_deref(), &has.to_be_bytes());
        if swapped.map_err(|error| (507, format!("{key}: {error:?}")))? {
            return Ok((had, has));
        }
    }
}

fn held(value: Option<&[u8]>) -> u64 {
    value.and_then(|value| value.try_into().ok()).map_or(0, u64::from_be_bytes)
}

/// What the device says of where it is.
fn place() -> String {
    let Ok(dataset) = Dataset::open("where", None) else { return String::new() };
    let said = dataset.read(0, 64).unwrap_or_default();
    String::from_utf8_lossy(&said).trim().to_owned()
}

lighter_example_functions::export!(Registers with_types_in lighter_example_functions);
