//! Reading blocks of fields.

use std::ops::Range;

use super::huffman;
use super::static_table;
use super::table::Table;
use super::{DEFAULT_TABLE, FIELD_OVERHEAD, Malformed, Refusal};

/// Reads the blocks of one connection, in their order.
#[derive(Debug)]
pub struct Decoder {
    table: Table,
    /// What the peer may make of the table.
    max: usize,
    /// The strings of the current field that were coded.
    scratch: Vec<u8>,
}

/// Capacity of the scratch buffer that is kept for the next block.
const KEPT_SCRATCH: usize = 4096;

impl Decoder {
    /// A decoder that announces `max_table` as SETTINGS_HEADER_TABLE_SIZE. Until the peer has acknowledged that, it may
    /// use the default of 4096 bytes, so that much can be held in any case.
    pub fn new(max_table: usize) -> Self {
        Decoder { table: Table::new(), max: max_table.max(DEFAULT_TABLE), scratch: Vec::new() }
    }

    /// Reads a whole block, and gives each field to `sink`: its name, its value, and whether it must never be indexed
    /// on any hop (RFC 7541 §7.1.3). Names and values are any bytes: what they may be is not decided here.
    ///
    /// The fields may count `limit` bytes, each with an overhead of 32 (RFC 9113 §6.5.2). After what passes that, or what
    /// `sink` refuses, it gets no more, but the block is read on to its end, so that the table stays what the peer takes
    /// it for.
    pub fn block<E>(
        &mut self,
        mut block: &[u8],
        limit: usize,
        sink: &mut impl FnMut(&[u8], &[u8], bool) -> Result<(), E>,
    ) -> Result<(), Refusal<E>> {
        let mut taken = Taken { left: limit, result: Ok(()), sink };
        let mut begun = false;
        while let [first, ..] = block {
            let first = *first;
            if first & 0xe0 == 0x20 {
                let size = take_number(&mut block, 5).map_err(Refusal::Malformed)?;
                if begun || size > self.max {
                    return Err(Refusal::Malformed(Malformed::Resize));
                }
                self.table.resize(size);
                continue;
            }
            begun = true;
            if first & 0x80 != 0 {
                let index = take_number(&mut block, 7).map_err(Refusal::Malformed)?;
                let (name, value) = self.at(index).map_err(Refusal::Malformed)?;
                taken.field(name, value, false);
            } else {
                self.literal(first, &mut block, &mut taken).map_err(Refusal::Malformed)?;
            }
        }
        if self.scratch.capacity() > KEPT_SCRATCH {
            self.scratch = Vec::new();
        }
        taken.result
    }

    /// Reads a field that is not an index alone.
    #[inline]
    fn literal<E, S>(
        &mut self,
        first: u8,
        block: &mut &[u8],
        taken: &mut Taken<'_, E, S>,
    ) -> Result<(), Malformed>
    where
        S: FnMut(&[u8], &[u8], bool) -> Result<(), E>,
    {
        let indexed = first & 0x40 != 0;
        let index = take_number(block, if indexed { 6 } else { 4 })?;
        self.scratch.clear();
        let named = if index == 0 { Some(self.take_string(block)?) } else { None };
        let value = self.take_string(block)?;
        let value = value.of(&self.scratch);
        let name = match &named {
            Some(name) => name.of(&self.scratch),
            None => self.at(index)?.0,
        };
        taken.field(name, value, !indexed && first & 0x10 != 0);
        if indexed {
            match (named, static_table::field(index)) {
                (Some(name), _) => self.table.insert(name.of(&self.scratch), value),
                (None, Some((name, _))) => self.table.insert(name, value),
                (None, None) => self.table.insert_named(index - static_table::LEN - 1, value),
            }
        }
        Ok(())
    }

    /// The field at an index of both tables (RFC 7541 §2.3.3).
    #[inline]
    fn at(&self, index: usize) -> Result<(&[u8], &[u8]), Malformed> {
        let field = match index.checked_sub(static_table::LEN + 1) {
            Some(index) => self.table.get(index),
            None => static_table::field(index),
        };
        field.ok_or(Malformed::Index)
    }

    /// Takes a string off the front of `block` (RFC 7541 §5.2).
    #[inline]
    fn take_string<'a>(&mut self, block: &mut &'a [u8]) -> Result<Text<'a>, Malformed> {
        let coded = *block.first().ok_or(Malformed::Cut)? & 0x80 != 0;
        let length = take_number(block, 7)?;
        let (bytes, rest) = block.split_at_checked(length).ok_or(Malformed::Cut)?;
        *block = rest;
        if !coded {
            return Ok(Text::Plain(bytes));
        }
        let start = self.scratch.len();
        huffman::decode(bytes, &mut self.scratch)?;
        Ok(Text::Decoded(start..self.scratch.len()))
    }
}

/// A string of the current field.
enum Text<'a> {
    /// As it came.
    Plain(&'a [u8]),
    /// Decoded, at this place in the scratch buffer.
    Decoded(Range<usize>),
}

impl<'a> Text<'a> {
    #[inline]
    fn of<'s>(&self, scratch: &'s [u8]) -> &'s [u8]
    where
        'a: 's,
    {
        match self {
            Text::Plain(bytes) => bytes,
            Text::Decoded(range) => &scratch[range.clone()],
        }
    }
}

/// What became of a block's fields.
struct Taken<'s, E, S> {
    left: usize,
    result: Result<(), Refusal<E>>,
    sink: &'s mut S,
}

impl<E, S: FnMut(&[u8], &[u8], bool) -> Result<(), E>> Taken<'_, E, S> {
    #[inline]
    fn field(&mut self, name: &[u8], value: &[u8], never_indexed: bool) {
        if self.result.is_err() {
            return;
        }
        match self.left.checked_sub(name.len() + value.len() + FIELD_OVERHEAD) {
            Some(left) => {
                self.left = left;
                self.result = (self.sink)(name, value, never_indexed).map_err(Refusal::Field);
            }
            None => self.result = Err(Refusal::TooLarge),
        }
    }
}

/// Takes a number off the front of `block`, which is not empty: the low `prefix` bits of the first byte and, if they are
/// all ones, what the bytes after it add (RFC 7541 §5.1).
#[inline]
fn take_number(block: &mut &[u8], prefix: u32) -> Result<usize, Malformed> {
    let (first, rest) = block.split_first().ok_or(Malformed::Cut)?;
    *block = rest;
    let most = (1 << prefix) - 1;
    let number = usize::from(*first) & most;
    if number < most { Ok(number) } else { take_more(block, most) }
}

/// Takes what is added to `number`. Four bytes say more than any length or index that is taken.
fn take_more(block: &mut &[u8], mut number: usize) -> Result<usize, Malformed> {
    for shift in [0, 7, 14, 21] {
        let (byte, rest) = block.split_first().ok_or(Malformed::Cut)?;
        *block = rest;
        number += usize::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Ok(number);
        }
    }
    Err(Malformed::Number)
}
