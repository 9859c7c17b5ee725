//! `counters`: numbers by name, that are added to and remembered. What it remembers moves with a Service from one device to another.

use std::sync::Arc;

use crate::device::{Format, Out, Request};
use crate::encode::Rows;
use crate::keys::{Frozen, Keys, LONGEST_KEY, NotKept};
use crate::meter::Meter;
use crate::query::Query;
use crate::status::{Fault, Status};
use crate::value::Value;

/// What requests call it, and the tenant of what it remembers.
pub(super) const NAME: &str = "counters";

/// Says what the counter has that the request names. One with a body, empty or not, adds to it before.
pub(super) fn counters(
    keys: &Keys,
    request: &Request<'_>,
    query: &Query,
    meter: &Arc<Meter>,
    out: &mut dyn Out,
) -> Result<(), Fault> {
    let name = request.dataset;
    let columns = ["counter", "value"].map(str::to_owned);
    let mut rows = Rows::new(out, meter, query.format.unwrap_or(Format::Jsonl), &columns)?;
    // Whoever has left, or came too late, changes nothing.
    meter.check()?;
    let value = match (request.body, query.add) {
        (Some(_), add) => added(keys, name, add.unwrap_or(1))?,
        (None, None) => held(keys.get(NAME, name).as_deref()),
        (None, Some(_)) => return Err(Fault::argument("`add` changes the counter: say it in a POST")),
    };
    rows.row([Value::Text(name), Value::Int(value)].into_iter())?;
    rows.end()
}

/// Adds to a counter, once, however many do at the same time. What it has then.
fn added(keys: &Keys, name: &str, add: i64) -> Result<i64, Fault> {
    loop {
        let before = keys.get(NAME, name);
        let sum = held(before.as_deref()).checked_add(add);
        let sum = sum.ok_or_else(|| Fault::argument("the counter has no room for such a number"))?;
        let swapped = keys.swap(NAME, name.to_owned(), before.as_deref(), sum.to_be_bytes().to_vec());
        match swapped {
            Ok(true) => return Ok(sum),
            Ok(false) => {}
            Err(NotKept::Frozen) => return Err(Frozen.into()),
            Err(NotKept::LongKey) => {
                return Err(Fault::argument(format!("a counter's name has {LONGEST_KEY} bytes at most")));
            }
            Err(NotKept::NoRoom(most)) => {
                let why = format!("counters would take more than {most} bytes (`limits.keyBytes`)");
                return Err(Fault::new(Status::NotEnoughMemory, why));
            }
        }
    }
}

/// One that nobody has added to has 0.
fn held(value: Option<&[u8]>) -> i64 {
    value.and_then(|value| value.try_into().ok()).map_or(0, i64::from_be_bytes)
}
