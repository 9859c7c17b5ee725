//! What a function remembers, as it moves to another device: keys and values.
//!
//! The form is canonical: the same keys and values of the same program are the same bytes. Numbers are big-endian.
//!
//! | bytes | |
//! |---|---|
//! | 4 | `LKV` and 1, which is this form |
//! | 1 | 0: all that there is; 1: what has changed |
//! | 32 | SHA-256 of the program |
//! | 8 | how many entries follow, in the order of their keys, none twice, and nothing behind them |
//!
//! | an entry's bytes | |
//! |---|---|
//! | 1 | 1: it is there; 0, of what has changed: it is gone, and there is no value |
//! | 4, and so many | how long the key is, and the key, in UTF-8 |
//! | 4, and so many | the same of the value |

/// What moves with a Service: the keys and values that a function has at its device, and its memory where it keeps that.
pub trait Contents: Send + Sync {
    /// SHA-256 of the function's program, in hexadecimal, behind [`KEPT`](crate::memory::KEPT) where it keeps its memory. Only the
    /// same one knows what its keys mean.
    fn digest(&self) -> &str;

    /// What [`Contents::replace`] takes is no longer, in bytes.
    fn most_bytes(&self) -> u64;

    /// All of them, at the version that they have. Waits for a run that may change the memory.
    fn read(&self) -> Result<At, NotGiven>;

    /// What has changed since that version. None: nobody knows any more, or never did.
    fn changes(&self, since: u64) -> Result<Option<At>, NotGiven>;

    /// Puts these in the place of all that there are, or what has changed into them. Either all of that is done or nothing. `gone`
    /// tells whether whoever asked has left: what waited for a run until then is not done.
    fn replace(&self, with: &[u8], gone: &dyn Fn() -> bool) -> Result<(), NotReplaced>;

    /// From now on nothing but [`Contents::replace`] changes them: a run that would ends. Or that ends, though whoever asked may have
    /// left.
    fn freeze(&self, is_frozen: bool, gone: &dyn Fn() -> bool);

    /// How many memories have ended while they were given or replaced, since this was asked last.
    fn lost(&self) -> u64 {
        0
    }
}

/// Keys and values in their form.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct At {
    /// It grows with each change, and is never the same in another life of the device.
    pub version: u64,
    /// They themselves.
    pub bytes: Vec<u8>,
}

/// Why what a function remembers cannot be given now.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("its memory cannot be read: {0}")]
pub struct NotGiven(pub String);

/// Why keys and values are not taken. Nothing has changed then, but where a memory is said to be lost.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotReplaced {
    /// They are not in their form.
    #[error("not what a function remembers: {0}")]
    Malformed(&'static str),
    /// They are another program's.
    #[error("they are of the program {theirs}, and the function here is {ours}")]
    OtherProgram {
        /// Whose they are, in hexadecimal.
        theirs: String,
        /// Which one is here.
        ours: String,
    },
    /// A key is longer than any may be.
    #[error("a key is longer than {0} bytes")]
    LongKey(usize),
    /// They would take more room than there is for them.
    #[error("more than the {0} bytes that there are for what a tenant remembers (`limits.keyBytes`)")]
    NoRoom(u64),
    /// The memory is larger than a run may have here.
    #[error("a memory of {0} bytes, where a run may hold {1} (`limits.memoryBytes`)")]
    Memory(u64, u64),
    /// There is no instance to which they could be given, or it broke off.
    #[error("the function cannot take them: {0}")]
    Failed(String),
}

/// Why what a function remembers cannot be moved.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotMovable {
    /// There is none of this name.
    #[error("the device has no function `{0}`")]
    Unknown(String),
    /// It keeps nothing from one run to the next.
    #[error("`{0}` is built in, and remembers nothing")]
    BuiltIn(String),
    /// It keeps what nobody else can read.
    #[error("`{0}` is a program of its own, whose memory is its own affair")]
    Native(String),
    /// It keeps its memory, and not all that lasts can be read.
    #[error("`{function}` keeps its memory, and the component {why}")]
    Memory {
        /// Its name.
        function: String,
        /// What it has that cannot be moved, as an end of a sentence.
        why: String,
    },
}

/// Keys and values of a program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entries<'a> {
    /// Those that have changed, and not all.
    pub are_changes: bool,
    /// SHA-256 of the program.
    pub digest: [u8; 32],
    /// In the order of the keys. Without a value: it is gone.
    pub entries: Vec<(&'a str, Option<&'a [u8]>)>,
}

impl<'a> Entries<'a> {
    /// Reads what [`Entries::write`] wrote, and nothing else.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, NotReplaced> {
        let mut rest = Rest(bytes);
        if rest.take(FORM.len())? != FORM {
            return Err(NotReplaced::Malformed("it does not begin like that"));
        }
        let are_changes = match rest.array()? {
            [0] => false,
            [1] => true,
            _ => return Err(NotReplaced::Malformed("neither all nor what has changed")),
        };
        let digest = rest.array()?;
        let count = u64::from_be_bytes(rest.array()?);
        let mut entries: Vec<(&str, Option<&[u8]>)> = Vec::new();
        for _ in 0..count {
            let is_there = match rest.array()? {
                [1] => true,
                [0] if are_changes => false,
                _ => return Err(NotReplaced::Malformed("an entry is neither there nor gone")),
            };
            let key = std::str::from_utf8(rest.text()?);
            let key = key.map_err(|_| NotReplaced::Malformed("a key is not UTF-8"))?;
            if entries.last().is_some_and(|(before, _)| *before >= key) {
                return Err(NotReplaced::Malformed("the keys are not in order"));
            }
            entries.push((key, if is_there { Some(rest.text()?) } else { None }));
        }
        match rest.0 {
            [] => Ok(Entries { are_changes, digest, entries }),
            _ => Err(NotReplaced::Malformed("there is more behind it")),
        }
    }

    /// As they move.
    pub fn write(&self) -> Vec<u8> {
        let size = |(key, value): &(&str, Option<&[u8]>)| 9 + key.len() + value.map_or(0, <[u8]>::len);
        let mut bytes = Vec::with_capacity(HEAD + self.entries.iter().map(size).sum::<usize>());
        bytes.extend(FORM);
        bytes.push(u8::from(self.are_changes));
        bytes.extend(self.digest);
        bytes.extend((self.entries.len() as u64).to_be_bytes());
        // A value comes out of the memory of a run, which has 4 GiB at most.
        let length = |text: &[u8]| (text.len() as u32).to_be_bytes();
        for (key, value) in &self.entries {
            bytes.push(u8::from(value.is_some()));
            bytes.extend(length(key.as_bytes()));
            bytes.extend(key.as_bytes());
            if let Some(value) = value {
                bytes.extend(length(value));
                bytes.extend(*value);
            }
        }
        bytes
    }
}

/// What is still to be read.
pub(crate) struct Rest<'a>(pub(crate) &'a [u8]);

impl<'a> Rest<'a> {
    pub(crate) fn take(&mut self, count: usize) -> Result<&'a [u8], NotReplaced> {
        let (taken, rest) =
            self.0.split_at_checked(count).ok_or(NotReplaced::Malformed("it ends too early"))?;
        self.0 = rest;
        Ok(taken)
    }

    pub(crate) fn array<const N: usize>(&mut self) -> Result<[u8; N], NotReplaced> {
        let (taken, rest) = self.0.split_first_chunk().ok_or(NotReplaced::Malformed("it ends too early"))?;
        self.0 = rest;
        Ok(*taken)
    }

    fn text(&mut self) -> Result<&'a [u8], NotReplaced> {
        let length = u32::from_be_bytes(self.array()?);
        self.take(length as usize)
    }
}

const FORM: &[u8] = b"LKV\x01";
/// What is before the entries, in bytes.
const HEAD: usize = FORM.len() + 1 + 32 + 8;

#[cfg(test)]
mod tests {
    use super::*;

    fn entries<'a>(are_changes: bool, entries: &[(&'a str, Option<&'a [u8]>)]) -> Entries<'a> {
        Entries { are_changes, digest: [7; 32], entries: entries.to_vec() }
    }

    #[test]
    fn what_is_read_is_what_was_written() {
        let some = [("", Some(&b""[..])), ("a", Some(b"1")), ("b\u{e9}", Some(b"22"))];
        for written in [entries(false, &[]), entries(false, &some), entries(true, &[("a", None), some[2]])] {
            let bytes = written.write();
            assert_eq!(Entries::parse(&bytes), Ok(written));
            assert!((0..bytes.len()).all(|end| Entries::parse(&bytes[..end]).is_err()), "a part is not all");
        }
        let bytes = entries(false, &some[..2]).write();
        let expected = [
            b"LKV\x01\0",
            &[7; 32][..],
            b"\0\0\0\0\0\0\0\x02",
            b"\x01\0\0\0\0\0\0\0\0",
            b"\x01\0\0\0\x01a\0\0\0\x011",
        ];
        assert_eq!(bytes, expected.concat());
    }

    #[test]
    fn there_is_one_form_of_everything() {
        let malformed = |entries: &Entries<'_>, change: fn(&mut Vec<u8>)| {
            let mut bytes = entries.write();
            change(&mut bytes);
            assert!(matches!(Entries::parse(&bytes), Err(NotReplaced::Malformed(_))), "{bytes:?}");
        };
        let value = Some(&b""[..]);
        let one = entries(false, &[("a", value)]);
        malformed(&entries(false, &[("b", value), ("a", value)]), |_| {});
        malformed(&entries(false, &[("a", value), ("a", value)]), |_| {});
        malformed(&entries(false, &[("a", None)]), |_| {});
        malformed(&one, |bytes| bytes.push(0));
        malformed(&one, |bytes| bytes[3] = 2);
        malformed(&one, |bytes| bytes[4] = 2);
        malformed(&one, |bytes| bytes[HEAD] = 2);
        malformed(&one, |bytes| bytes[HEAD + 5] = 0xff);
        // So many entries take no memory before they are there.
        malformed(&one, |bytes| bytes[37..45].fill(0xff));
        malformed(&one, |bytes| bytes[HEAD + 6..].fill(0xff));
    }
}
