//! What commands of Redis do to the session in which they are said.

use super::Pin;
use crate::redis::resp::Command;

/// What the server was told: the last of each counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Slot {
    Auth,
    Hello,
    HelloAuth,
    Select,
    Name,
    Library,
    LibraryVersion,
    Evict,
    Touch,
}

/// What a command is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Plain,
    Blocks,
    Multi,
    Exec,
    Watch,
    Unwatch,
    Keep(Slot),
    Confirms {
        subscribes: bool,
        which: usize,
    },
    Quit,
    Reset,
    /// What follows can be understood.
    Pins(Pin),
    /// Or not.
    Raw(Pin),
}

/// What a command is by its name, and what it says next.
pub(super) fn kind(command: &Command<'_>) -> Option<Kind> {
    let mut parts = command.parts();
    let Some(name) = parts.next() else {
        // Of a whole one: it has no parts.
        return (!command.is_whole).then_some(Kind::Raw(Pin::Unknown));
    };
    let mut upper = [0; LONGEST];
    let Some(upper) = uppercase(name, &mut upper) else { return Some(Kind::Plain) };
    let blocks = |blocks: bool| if blocks { Kind::Blocks } else { Kind::Plain };
    Some(match upper {
        b"BLPOP" | b"BRPOP" | b"BRPOPLPUSH" | b"BLMOVE" | b"BLMPOP" | b"BZPOPMIN" | b"BZPOPMAX"
        | b"BZMPOP" | b"WAIT" | b"WAITAOF" => Kind::Blocks,
        b"XREAD" | b"XREADGROUP" => {
            let mut options = parts.take_while(|part| !part.eq_ignore_ascii_case(b"STREAMS"));
            blocks(options.any(|part| part.eq_ignore_ascii_case(b"BLOCK")))
        }
        b"MULTI" => Kind::Multi,
        b"EXEC" | b"DISCARD" => Kind::Exec,
        b"WATCH" => Kind::Watch,
        b"UNWATCH" => Kind::Unwatch,
        b"AUTH" => Kind::Keep(Slot::Auth),
        b"SELECT" => Kind::Keep(Slot::Select),
        // Without an argument it asks how things are.
        b"HELLO" => match parts.clone().next() {
            None => Kind::Plain,
            Some(_) if parts.any(|part| part.eq_ignore_ascii_case(b"AUTH")) => Kind::Keep(Slot::HelloAuth),
            Some(_) => Kind::Keep(Slot::Hello),
        },
        b"CLIENT" => of_client(parts),
        b"SUBSCRIBE" => Kind::Confirms { subscribes: true, which: 0 },
        b"PSUBSCRIBE" => Kind::Confirms { subscribes: true, which: 1 },
        b"SSUBSCRIBE" => Kind::Confirms { subscribes: true, which: 2 },
        b"UNSUBSCRIBE" => Kind::Confirms { subscribes: false, which: 0 },
        b"PUNSUBSCRIBE" => Kind::Confirms { subscribes: false, which: 1 },
        b"SUNSUBSCRIBE" => Kind::Confirms { subscribes: false, which: 2 },
        b"QUIT" => Kind::Quit,
        b"RESET" => Kind::Reset,
        b"MONITOR" => Kind::Raw(Pin::Monitor),
        b"SYNC" | b"PSYNC" | b"REPLCONF" => Kind::Raw(Pin::Replication),
        b"SCRIPT" if parts.next().is_some_and(|part| part.eq_ignore_ascii_case(b"DEBUG")) => {
            Kind::Raw(Pin::Debug)
        }
        // One instance is no cluster, so that it makes no difference; if it were, it would.
        b"READONLY" | b"READWRITE" | b"ASKING" => Kind::Pins(Pin::Unknown),
        _ => Kind::Plain,
    })
}

fn of_client<'a>(mut parts: impl Iterator<Item = &'a [u8]>) -> Kind {
    let mut upper = [0; LONGEST];
    let Some(upper) = parts.next().and_then(|part| uppercase(part, &mut upper)) else { return Kind::Plain };
    match upper {
        b"SETNAME" => Kind::Keep(Slot::Name),
        b"SETINFO" => match parts.next() {
            Some(what) if what.eq_ignore_ascii_case(b"LIB-NAME") => Kind::Keep(Slot::Library),
            Some(what) if what.eq_ignore_ascii_case(b"LIB-VER") => Kind::Keep(Slot::LibraryVersion),
            _ => Kind::Plain,
        },
        b"NO-EVICT" => Kind::Keep(Slot::Evict),
        b"NO-TOUCH" => Kind::Keep(Slot::Touch),
        b"TRACKING" | b"CACHING" => Kind::Pins(Pin::Tracking),
        b"REPLY" => Kind::Raw(Pin::Replies),
        b"ID" | b"INFO" | b"LIST" | b"GETNAME" | b"KILL" | b"UNBLOCK" | b"PAUSE" | b"UNPAUSE" | b"HELP"
        | b"GETREDIR" | b"TRACKINGINFO" => Kind::Plain,
        _ => Kind::Pins(Pin::Unknown),
    }
}

/// Whether this HELLO names the connection.
pub(super) fn gives_name(bytes: &[u8]) -> bool {
    let mut parts = Command { bytes, is_whole: true }.parts().skip(2);
    while let Some(part) = parts.next() {
        if part.eq_ignore_ascii_case(b"SETNAME") {
            return true;
        }
        if part.eq_ignore_ascii_case(b"AUTH") {
            // A user and a password may be any words.
            parts.nth(1);
        }
    }
    false
}

/// In capitals, unless it is longer than every name that is known here.
fn uppercase<'a>(name: &[u8], into: &'a mut [u8; LONGEST]) -> Option<&'a [u8]> {
    let into = into.get_mut(..name.len())?;
    into.copy_from_slice(name);
    into.make_ascii_uppercase();
    Some(into)
}

/// The longest name that matters.
const LONGEST: usize = 16;
