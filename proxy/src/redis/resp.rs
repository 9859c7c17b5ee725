//! Where commands and answers of Redis end: RESP2, inline commands, and RESP3 as servers speak it.
//!
//! Nothing is kept of what passes but where it stands: bulk strings of any length are counted through.

/// What is no RESP.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// A length is no number, or is none that can be.
    #[error("invalid length")]
    Length,
    /// A command's part is no bulk string.
    #[error("expected '$'")]
    NoBulk,
    /// An inline command has no end.
    #[error("too big inline request")]
    Inline,
    /// An answer begins as none does.
    #[error("unknown type of answer")]
    Type,
    /// A line does not end as lines do.
    #[error("expected CRLF")]
    Line,
}

/// Finds where commands end.
#[derive(Clone, Debug, Default)]
pub struct Commands {
    /// Parts that are still to come.
    left: u64,
    at: At,
}

/// Finds where answers end.
#[derive(Clone, Debug, Default)]
pub struct Answers {
    /// Elements that are still to come.
    left: u64,
    at: At,
    /// How it begins.
    beginning: [u8; BEGINNING],
    length: usize,
}

/// Where in a message.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum At {
    /// A type comes.
    #[default]
    Type,
    /// A length of this type.
    Number { of: u8, number: Number },
    /// A line whose text does not matter. So much of it was there.
    Text { length: usize, cr: bool },
    /// So many bytes, the end of their line among them.
    Bulk(u64),
}

/// A length that is being read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Number {
    value: u64,
    digits: u8,
    is_negative: bool,
    cr: bool,
}

impl Number {
    /// Takes the next byte. Some: that was its end; a negative one is none.
    fn take(&mut self, byte: u8) -> Result<Option<Option<u64>>, Malformed> {
        match byte {
            b'\n' if self.cr && self.digits > 0 => {
                return Ok(Some(if self.is_negative { None } else { Some(self.value) }));
            }
            _ if self.cr => return Err(Malformed::Line),
            b'\r' => self.cr = true,
            b'-' if self.digits == 0 && !self.is_negative => self.is_negative = true,
            b'0'..=b'9' if self.digits < MOST_DIGITS => {
                self.value = self.value * 10 + u64::from(byte - b'0');
                self.digits += 1;
            }
            _ => return Err(Malformed::Length),
        }
        Ok(None)
    }
}

impl Commands {
    /// Whether nothing of a command was there since the last one's end.
    pub fn is_between(&self) -> bool {
        self.left == 0 && self.at == At::Type
    }

    /// Goes on through `bytes`, to the end of a command at most. Returns how many that were, and whether one has ended.
    pub fn advance(&mut self, bytes: &[u8]) -> Result<(usize, bool), Malformed> {
        let mut used = 0;
        while used < bytes.len() {
            let byte = bytes[used];
            match &mut self.at {
                At::Type if self.left > 0 && byte != b'$' => return Err(Malformed::NoBulk),
                At::Type if self.left == 0 && byte != b'*' => {
                    self.at = At::Text { length: 0, cr: false };
                    continue;
                }
                At::Type => {
                    self.at = At::Number { of: byte, number: Number::default() };
                    used += 1;
                }
                At::Number { of, number } => {
                    used += 1;
                    let Some(said) = number.take(byte)? else { continue };
                    if *of == b'*' {
                        self.at = At::Type;
                        self.left = said.unwrap_or(0);
                        if self.left > MOST_PARTS {
                            return Err(Malformed::Length);
                        }
                        if self.left == 0 {
                            return Ok((used, true));
                        }
                    } else {
                        let length = said.filter(|length| *length <= MOST_BYTES).ok_or(Malformed::Length)?;
                        self.at = At::Bulk(length + 2);
                    }
                }
                // Whatever ends a line before its feed is its server's business.
                At::Text { length, .. } => {
                    let most = bytes.len().min(used + MOST_INLINE - *length);
                    let end = memchr::memchr(b'\n', &bytes[used..most]);
                    let through = end.map_or(most, |end| used + end + 1);
                    *length += through - used;
                    used = through;
                    if end.is_some() {
                        self.at = At::Type;
                        return Ok((used, true));
                    }
                    if *length >= MOST_INLINE {
                        return Err(Malformed::Inline);
                    }
                }
                At::Bulk(left) => {
                    if !pass(left, bytes, &mut used) {
                        break;
                    }
                    self.at = At::Type;
                    self.left -= 1;
                    if self.left == 0 {
                        return Ok((used, true));
                    }
                }
            }
        }
        Ok((used, false))
    }
}

impl Answers {
    /// Whether nothing of an answer was there since the last one's end.
    pub fn is_between(&self) -> bool {
        self.left == 0 && self.at == At::Type
    }

    /// Goes on through `bytes`, to the end of an answer at most. Returns how many that were, and whether one has ended.
    pub fn advance(&mut self, bytes: &[u8]) -> Result<(usize, bool), Malformed> {
        if bytes.is_empty() {
            return Ok((0, false));
        }
        if self.is_between() {
            self.left = 1;
            self.length = 0;
        }
        let (used, ended) = self.through(bytes)?;
        let kept = used.min(BEGINNING - self.length);
        self.beginning[self.length..self.length + kept].copy_from_slice(&bytes[..kept]);
        self.length += kept;
        Ok((used, ended))
    }

    /// What is known of the answer that has ended last.
    pub fn last(&self) -> Answer<'_> {
        Answer { beginning: &self.beginning[..self.length] }
    }

    fn through(&mut self, bytes: &[u8]) -> Result<(usize, bool), Malformed> {
        let mut used = 0;
        while used < bytes.len() {
            let byte = bytes[used];
            match &mut self.at {
                At::Type => {
                    used += 1;
                    self.at = match byte {
                        b'+' | b'-' | b':' | b',' | b'#' | b'(' | b'_' => At::Text { length: 0, cr: false },
                        b'$' | b'=' | b'!' | b'*' | b'~' | b'>' | b'%' | b'|' => {
                            At::Number { of: byte, number: Number::default() }
                        }
                        _ => return Err(Malformed::Type),
                    };
                }
                At::Number { of, number } => {
                    used += 1;
                    let Some(said) = number.take(byte)? else { continue };
                    let of = *of;
                    self.at = At::Type;
                    match (of, said) {
                        (b'$' | b'=' | b'!', Some(length)) if length <= MOST_BYTES => {
                            self.at = At::Bulk(length + 2);
                            continue;
                        }
                        (b'*' | b'~' | b'>', Some(more)) => self.more(more)?,
                        (b'%', Some(pairs)) => self.more(pairs.saturating_mul(2))?,
                        // What it is of follows.
                        (b'|', Some(pairs)) => self.more(pairs.saturating_mul(2).saturating_add(1))?,
                        (b'$' | b'*', None) => {}
                        _ => return Err(Malformed::Length),
                    }
                    self.left -= 1;
                }
                At::Text { cr, .. } => {
                    if *cr {
                        used += 1;
                        if byte != b'\n' {
                            return Err(Malformed::Line);
                        }
                        self.at = At::Type;
                        self.left -= 1;
                    } else {
                        match memchr::memchr(b'\r', &bytes[used..]) {
                            Some(end) => (*cr, used) = (true, used + end + 1),
                            None => used = bytes.len(),
                        }
                        continue;
                    }
                }
                At::Bulk(left) => {
                    if !pass(left, bytes, &mut used) {
                        break;
                    }
                    self.at = At::Type;
                    self.left -= 1;
                }
            }
            if self.left == 0 && self.at == At::Type {
                return Ok((used, true));
            }
        }
        Ok((used, false))
    }

    fn more(&mut self, elements: u64) -> Result<(), Malformed> {
        self.left = self.left.checked_add(elements).ok_or(Malformed::Length)?;
        Ok(())
    }
}

/// Passes what is there of so many bytes. Returns whether that was all.
fn pass(left: &mut u64, bytes: &[u8], used: &mut usize) -> bool {
    let there = (bytes.len() - *used) as u64;
    let passed = there.min(*left);
    *used += passed as usize;
    *left -= passed;
    *left == 0
}

/// What is known of an answer: how it begins.
#[derive(Clone, Copy, Debug)]
pub struct Answer<'a> {
    beginning: &'a [u8],
}

impl<'a> Answer<'a> {
    /// Whether it says that the command failed.
    pub fn is_error(&self) -> bool {
        matches!(self.beginning.first(), Some(b'-' | b'!'))
    }

    /// Whether it answers no command, by its type alone.
    pub fn is_push(&self) -> bool {
        self.beginning.first() == Some(&b'>')
    }

    /// Whether it is a map, which RESP3 alone has.
    pub fn is_map(&self) -> bool {
        self.beginning.first() == Some(&b'%')
    }

    /// Its first element, where it has elements and that one is a short string.
    pub fn word(&self) -> Option<&'a [u8]> {
        let rest = self.beginning;
        if !matches!(rest.first(), Some(b'*' | b'>')) {
            return None;
        }
        let (_, rest) = line(rest)?;
        if rest.first() != Some(&b'$') {
            return None;
        }
        let (head, rest) = line(rest)?;
        rest.get(..length(&head[1..])?)
    }
}

/// A command, as much of it as is there: whole, or its beginning.
#[derive(Clone, Copy, Debug)]
pub struct Command<'a> {
    /// Its bytes.
    pub bytes: &'a [u8],
    /// Whether that is all of it.
    pub is_whole: bool,
}

impl<'a> Command<'a> {
    /// Its parts that are all there: its name first.
    pub fn parts(&self) -> Parts<'a> {
        match line(self.bytes) {
            Some((head, rest)) if head.first() == Some(&b'*') => Parts { rest, is_inline: false },
            _ if self.bytes.first() == Some(&b'*') => Parts { rest: &[], is_inline: false },
            _ => Parts { rest: self.bytes, is_inline: true },
        }
    }

    /// Whether it is a line of words in which quotes may join some.
    pub fn is_quoted(&self) -> bool {
        self.bytes.first() != Some(&b'*') && self.bytes.iter().any(|byte| matches!(byte, b'"' | b'\''))
    }
}

/// The parts of a command.
#[derive(Clone, Debug)]
pub struct Parts<'a> {
    rest: &'a [u8],
    is_inline: bool,
}

impl<'a> Iterator for Parts<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        if self.is_inline {
            let is_space = |byte: &u8| matches!(byte, b' ' | b'\t' | b'\r' | b'\n' | 0x0b | 0x0c);
            let start = self.rest.iter().position(|byte| !is_space(byte))?;
            let word = &self.rest[start..];
            let end = word.iter().position(is_space).unwrap_or(word.len());
            self.rest = &word[end..];
            return Some(&word[..end]);
        }
        let (head, rest) = line(self.rest)?;
        let length = length(head.strip_prefix(b"$")?)?;
        let part = rest.get(..length)?;
        self.rest = rest.get(length + 2..).unwrap_or_default();
        Some(part)
    }
}

/// The first line, and what follows it.
fn line(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let end = memchr::memchr(b'\r', bytes)?;
    (bytes.get(end + 1) == Some(&b'\n')).then(|| (&bytes[..end], &bytes[end + 2..]))
}

fn length(digits: &[u8]) -> Option<usize> {
    std::str::from_utf8(digits).ok()?.parse().ok()
}

/// As much of an answer is looked at.
const BEGINNING: usize = 32;

/// Of lengths and counts.
const MOST_DIGITS: u8 = 18;

/// Parts of a command. Redis has the same limit.
const MOST_PARTS: u64 = i32::MAX as u64;

/// Bytes of one string: far above what servers take.
const MOST_BYTES: u64 = 1 << 40;

/// Bytes of an inline command. Redis has the same limit.
const MOST_INLINE: usize = 64 * 1024;

#[cfg(test)]
mod tests {
    use super::*;

    /// The commands in `bytes`, however they come.
    fn commands(bytes: &[u8], step: usize) -> Result<Vec<usize>, Malformed> {
        let (mut framer, mut ends, mut at) = (Commands::default(), Vec::new(), 0);
        while at < bytes.len() {
            let (used, ended) = framer.advance(&bytes[at..bytes.len().min(at + step)])?;
            at += used;
            if ended {
                ends.push(at);
            }
        }
        Ok(ends)
    }

    fn answers(bytes: &[u8], step: usize) -> Result<Vec<usize>, Malformed> {
        let (mut framer, mut ends, mut at) = (Answers::default(), Vec::new(), 0);
        while at < bytes.len() {
            let (used, ended) = framer.advance(&bytes[at..bytes.len().min(at + step)])?;
            at += used;
            if ended {
                ends.push(at);
            }
        }
        assert!(framer.is_between());
        Ok(ends)
    }

    #[test]
    fn commands_end_where_they_end_however_they_come() {
        let all = b"*2\r\n$3\r\nGET\r\n$1\r\na\r\nPING\r\n*0\r\n\r\n*3\r\n$3\r\nSET\r\n$4\r\n\r\n\r\n\r\n$0\r\n\r\n";
        for step in 1..=all.len() {
            assert_eq!(commands(all, step).unwrap(), [20, 26, 30, 32, all.len()], "in steps of {step}");
        }
        for (wrong, because) in [
            (&b"*x\r\n"[..], Malformed::Length),
            (b"*1\r\n:1\r\n", Malformed::NoBulk),
            (b"*1\r\n$-1\r\n", Malformed::Length),
            (b"*1\r\n$9999999999999\r\n", Malformed::Length),
            (b"*1\rx", Malformed::Line),
            (b"*3000000000\r\n", Malformed::Length),
        ] {
            for step in 1..=wrong.len() {
                assert_eq!(commands(wrong, step), Err(because));
            }
        }
        let endless = vec![b'x'; MOST_INLINE];
        assert_eq!(commands(&endless, 1000), Err(Malformed::Inline));
    }

    #[test]
    fn answers_end_where_they_end_however_they_come() {
        let each: [&[u8]; 12] = [
            b"+OK\r\n",
            b"-ERR no\r\n",
            b":-12\r\n",
            b"$-1\r\n",
            b"*-1\r\n",
            b"$5\r\na\r\nbc\r\n",
            b"*0\r\n",
            b"*3\r\n:1\r\n*2\r\n$1\r\na\r\n$-1\r\n+x\r\n",
            b"%2\r\n+a\r\n:1\r\n+b\r\n~1\r\n#t\r\n",
            b">3\r\n$7\r\nmessage\r\n$1\r\nc\r\n$0\r\n\r\n",
            b"|1\r\n+ttl\r\n:3\r\n_\r\n",
            b"=7\r\ntxt:abc\r\n",
        ];
        let whole = each.concat();
        let mut ends = Vec::new();
        each.iter().fold(0, |at, answer| {
            ends.push(at + answer.len());
            at + answer.len()
        });
        for step in 1..=whole.len() {
            assert_eq!(answers(&whole, step).unwrap(), ends, "in steps of {step}");
        }
        for wrong in [&b"x\r\n"[..], b"$?\r\n", b"+a\rb", b"%-1\r\n"] {
            let mut framer = Answers::default();
            assert!(framer.advance(wrong).is_err(), "{wrong:?}");
        }
        let mut framer = Answers::default();
        framer.advance(each[9]).unwrap();
        assert!(framer.last().is_push());
        assert_eq!(framer.last().word(), Some(&b"message"[..]));
    }

    #[test]
    fn parts_are_those_that_are_all_there() {
        let parts = |bytes: &'static [u8]| {
            let command = Command { bytes, is_whole: false };
            command.parts().map(|part| part.escape_ascii().to_string()).collect::<Vec<_>>()
        };
        assert_eq!(parts(b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$9\r\nvalu"), ["SET", "k"]);
        assert_eq!(parts(b"  select   3\r\n"), ["select", "3"]);
        assert!(parts(b"*3\r").is_empty());
    }
}
