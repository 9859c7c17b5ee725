//! What clients and servers of Redis say.

use crate::redis::resp::{Answers, Command, Commands, Malformed};
use crate::redis::session::Session;

/// Where commands and answers end does not depend on how they come, and what a session is told again makes the same session.
pub(super) fn sessions(bytes: &[u8]) {
    let Some((step, bytes)) = bytes.split_first() else { return };
    let step = usize::from(*step).max(1);
    let commands = || {
        let mut framer = Commands::default();
        move |bytes: &[u8]| framer.advance(bytes)
    };
    let answers = || {
        let mut framer = Answers::default();
        move |bytes: &[u8]| framer.advance(bytes)
    };
    assert_eq!(ends(bytes, step, commands()), ends(bytes, bytes.len(), commands()), "commands");
    assert_eq!(ends(bytes, step, answers()), ends(bytes, bytes.len(), answers()), "answers");
    // The one half is the client's, the other the server's.
    let (asked, answered) = bytes.split_at(bytes.len() / 2);
    let mut session = Session::default();
    ask(&mut session, asked);
    let (mut framer, mut at) = (Answers::default(), 0);
    while at < answered.len() && !session.is_raw() {
        let Ok((used, ended)) = framer.advance(&answered[at..]) else { break };
        at += used;
        if ended {
            session.answered(framer.last());
        }
    }
    again(&session);
    let owed = session.broken("-ERR unknown\r\n");
    let told = std::iter::from_fn(|| session.local()).count() as u64;
    assert_eq!(told, owed, "each is told once");
    assert!(session.is_even());
}

/// A session that is told the same is the same.
fn again(session: &Session) {
    let replay = session.replay();
    let mut other = Session::default();
    assert_eq!(ask(&mut other, &replay.bytes), replay.commands);
    assert!(!other.is_raw() && other.pin().is_none());
    for _ in 0..replay.answers {
        let mut framer = Answers::default();
        let _ = framer.advance(b"+OK\r\n");
        other.answered(framer.last());
    }
    assert!(other.is_even(), "it has as many answers as are said");
    assert_eq!(other.replay().bytes, replay.bytes);
}

/// Has a client say this. Returns how many commands went to the server.
fn ask(session: &mut Session, bytes: &[u8]) -> u32 {
    let (mut framer, mut begun, mut at, mut count) = (Commands::default(), 0, 0, 0);
    while at < bytes.len() && !session.is_raw() {
        let Ok((used, ended)) = framer.advance(&bytes[at..]) else { break };
        at += used;
        if ended {
            let command = Command { bytes: &bytes[begun..at], is_whole: true };
            begun = at;
            if let Some(look) = session.look(&command) {
                session.sent(look, &command);
                count += 1;
            }
        }
    }
    count
}

/// Where messages end in `bytes`, which come in such steps, up to what is none.
fn ends(
    bytes: &[u8],
    step: usize,
    mut advance: impl FnMut(&[u8]) -> Result<(usize, bool), Malformed>,
) -> (Vec<usize>, Option<Malformed>) {
    let (mut ends, mut at) = (Vec::new(), 0);
    while at < bytes.len() {
        match advance(&bytes[at..bytes.len().min(at + step)]) {
            Ok((used, ended)) => {
                assert!(used > 0 && used <= step, "it goes on");
                at += used;
                if ended {
                    ends.push(at);
                }
            }
            Err(malformed) => return (ends, Some(malformed)),
        }
    }
    (ends, None)
}
