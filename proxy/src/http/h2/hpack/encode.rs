//! Writing blocks of fields.

use super::static_table::{self, Found};
use super::table::Table;
use super::{DEFAULT_TABLE, FIELD_OVERHEAD};

/// Writes the blocks of one connection, in their order.
///
/// A field enters the table when it is seen the second time within a while. So values that repeat cost one byte, whoever
/// invented their names, and those that differ with each message (ids, times, lengths) push nothing out and are not
/// even looked for there.
#[derive(Debug)]
pub struct Encoder {
    table: Table,
    /// How many entries the table ever got.
    entered: u32,
    /// Fields that were seen.
    seen: Box<[[Seen; WAYS]; SETS]>,
    /// Sizes of the table that the peer must be told of: the least there was since the last block, and the current one.
    resized: Option<(usize, usize)>,
}

/// A field that was seen.
#[derive(Clone, Copy, Debug, Default)]
struct Seen {
    /// Tells it from most others.
    tag: u32,
    /// How many entries there had been with its own, if it has one. Whatever stands there, an entry is compared before
    /// it is used.
    entry: u32,
}

/// Where fields are looked for that were seen: sets of a few places, in all as many as a table has entries at most.
const SETS: usize = 16;
const WAYS: usize = 8;

/// Least length of a cookie that may be indexed: shorter ones could be guessed by who sees how long blocks are
/// (RFC 7541 §7.1.3).
const LONG_COOKIE: usize = 20;

impl Default for Encoder {
    fn default() -> Self {
        Self::new()
    }
}

impl Encoder {
    /// An encoder whose table has the default size.
    pub fn new() -> Self {
        Encoder { table: Table::new(), entered: 0, seen: Box::default(), resized: None }
    }

    /// Takes SETTINGS_HEADER_TABLE_SIZE from the peer. No more than the default is used of it.
    ///
    /// The next field must be the first of a block, as only there the peer can be told.
    pub fn resize(&mut self, max: usize) {
        let max = max.min(DEFAULT_TABLE);
        let (least, current) = self.resized.unwrap_or((self.table.max(), self.table.max()));
        if max != current {
            self.resized = Some((least.min(max), max));
        }
    }

    /// Appends a field. `sensitive`: it must never be indexed, here and on all hops that follow (RFC 7541 §7.1.3), as it
    /// must where it came so.
    pub fn field(&mut self, name: &[u8], value: &[u8], sensitive: bool, out: &mut Vec<u8>) {
        if self.resized.is_some() {
            self.tell_size(out);
        }
        if sensitive || is_secret(name, value) {
            return literal(Literal::Never, static_table::find(name, value), name, value, out);
        }
        // Most of what begins so is an entry of the static table.
        let pseudo = name.first() == Some(&b':');
        if pseudo && let Found::Field(index) = static_table::find(name, value) {
            return put_index(index, out);
        }
        let size = name.len() + value.len() + FIELD_OVERHEAD;
        if size > self.table.max() / 4 {
            // It would push out too much.
            return literal(Literal::Plain, static_table::find(name, value), name, value, out);
        }
        let hash = hash(name, value);
        // Never 0, which stands for nothing.
        let tag = (hash >> 32) as u32 | 1;
        let set = &mut self.seen[hash as usize % SETS];
        let place = set.iter().position(|seen| seen.tag == tag);
        if let Some(place) = place {
            let age = self.entered.wrapping_sub(set[place].entry) as usize;
            if self.table.get(age) == Some((name, value)) {
                return put_index(static_table::LEN + 1 + age, out);
            }
        }
        let known = static_table::find(name, value);
        if let Found::Field(index) = known {
            return put_index(index, out);
        }
        let Some(place) = place else {
            // Behind those that have entries, so that what may never come again forgets none of them.
            let entries = self.table.len() as u32;
            let lost = set.iter().position(|seen| self.entered.wrapping_sub(seen.entry) >= entries);
            let behind = &mut set[lost.unwrap_or(WAYS - 1)..];
            behind.rotate_right(1);
            behind[0] = Seen { tag, entry: 0 };
            return literal(Literal::Plain, known, name, value, out);
        };
        self.entered = self.entered.wrapping_add(1);
        set[place].entry = self.entered;
        set[..=place].rotate_right(1);
        literal(Literal::Entered, known, name, value, out);
        self.table.insert(name, value);
    }

    /// Tells the peer of the table's size, for its least first if that was less (RFC 7541 §4.2).
    #[cold]
    fn tell_size(&mut self, out: &mut Vec<u8>) {
        let Some((least, current)) = self.resized.take() else { return };
        let shrunk = least < self.table.max();
        self.table.resize(least);
        self.table.resize(current);
        if shrunk && least < current {
            put_number(0x20, 5, least, out);
        }
        put_number(0x20, 5, current, out);
    }
}

/// What else is said with a field that goes out as it is (RFC 7541 §6.2).
#[derive(Clone, Copy)]
enum Literal {
    /// It enters the table.
    Entered,
    /// It does not.
    Plain,
    /// Nor does it on any hop that follows.
    Never,
}

/// Whether a field is a secret that someone could guess who has this connection carry other fields of his choice.
#[inline]
fn is_secret(name: &[u8], value: &[u8]) -> bool {
    match name.len() {
        6 => name == b"cookie" && value.len() < LONG_COOKIE,
        13 => name == b"authorization",
        19 => name == b"proxy-authorization",
        _ => false,
    }
}

/// Appends a field that is an entry of a table (RFC 7541 §6.1).
#[inline(always)]
fn put_index(index: usize, out: &mut Vec<u8>) {
    match u8::try_from(index) {
        Ok(index @ 0..0x7f) => out.push(0x80 | index),
        _ => put_number(0x80, 7, index, out),
    }
}

/// Appends a field as it is, but for its name if the static table has that.
fn literal(kind: Literal, known: Found, name: &[u8], value: &[u8], out: &mut Vec<u8>) {
    // What a field takes that is not its name or value.
    out.reserve(name.len() + value.len() + 16);
    let (first, prefix) = match kind {
        Literal::Entered => (0x40, 6),
        Literal::Plain => (0x00, 4),
        Literal::Never => (0x10, 4),
    };
    match known {
        Found::Name(index) | Found::Field(index) => put_number(first, prefix, index, out),
        Found::Nothing => {
            out.push(first);
            put_string(name, out);
        }
    }
    put_string(value, out);
}

/// Appends a string (RFC 7541 §5.2).
#[inline]
fn put_string(text: &[u8], out: &mut Vec<u8>) {
    put_number(0, 7, text.len(), out);
    out.extend_from_slice(text);
}

/// Appends a number whose first `prefix` bits are in a byte with `first` (RFC 7541 §5.1).
fn put_number(first: u8, prefix: u32, number: usize, out: &mut Vec<u8>) {
    let most = (1 << prefix) - 1;
    if number < most {
        out.push(first | number as u8);
    } else {
        out.push(first | most as u8);
        put_more(number - most, out);
    }
}

/// Appends what a first byte could not hold.
fn put_more(mut number: usize, out: &mut Vec<u8>) {
    while number >= 0x80 {
        out.push(number as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}

/// Tells fields apart. Who makes two of them alike has them sent as they are.
#[inline]
fn hash(name: &[u8], value: &[u8]) -> u64 {
    mix(mix(name.len() as u64, name), value)
}

/// Mixes bytes into a hash, eight at a time.
#[inline]
fn mix(mut hash: u64, bytes: &[u8]) -> u64 {
    let (words, rest) = bytes.as_chunks();
    for word in words {
        hash = fold(hash ^ u64::from_le_bytes(*word));
    }
    // What is left, for which some bytes may be taken twice.
    let tail = match (bytes.last_chunk::<8>(), rest.first_chunk::<4>(), rest.last_chunk::<4>()) {
        (Some(last), _, _) => u64::from_le_bytes(*last),
        (None, Some(first), Some(last)) => {
            u64::from(u32::from_le_bytes(*first)) << 32 | u64::from(u32::from_le_bytes(*last))
        }
        _ => rest.iter().fold(0, |tail, byte| tail << 8 | u64::from(*byte)),
    };
    fold(hash ^ tail ^ (bytes.len() as u64) << 56)
}

/// Multiplies, and folds the product.
#[inline]
fn fold(word: u64) -> u64 {
    let product = u128::from(word) * 0x9e37_79b9_7f4a_7c15;
    product as u64 ^ (product >> 64) as u64
}
