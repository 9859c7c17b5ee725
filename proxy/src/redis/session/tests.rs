use super::super::resp::{Answers, Commands};
use super::*;

/// A session, and what its client and its server say.
#[derive(Default)]
struct Talk {
    session: Session,
    commands: Commands,
    answers: Answers,
}

impl Talk {
    /// The client says this, in inline commands or others.
    fn asks(&mut self, said: &str) {
        let mut rest = said.as_bytes();
        while !rest.is_empty() {
            let (used, ended) = self.commands.advance(rest).unwrap();
            assert!(ended, "{said}");
            let command = Command { bytes: &rest[..used], is_whole: true };
            if let Some(look) = self.session.look(&command) {
                self.session.sent(look, &command);
            }
            rest = &rest[used..];
        }
    }

    /// The server says this.
    fn hears(&mut self, said: &str) {
        let mut rest = said.as_bytes();
        while !rest.is_empty() {
            let (used, ended) = self.answers.advance(rest).unwrap();
            assert!(ended, "{said}");
            self.session.answered(self.answers.last());
            rest = &rest[used..];
        }
    }

    fn replays(&self) -> String {
        String::from_utf8(self.session.replay().bytes).unwrap()
    }
}

fn confirmed(word: &str, channel: &str) -> String {
    format!("*3\r\n${}\r\n{word}\r\n${}\r\n{channel}\r\n:1\r\n", word.len(), channel.len())
}

#[test]
fn what_was_answered_well_is_said_again_in_its_order() {
    let mut talk = Talk::default();
    talk.asks("AUTH a secret\r\nSELECT 3\r\nCLIENT SETNAME me\r\nSELECT 99\r\nGET a\r\n");
    assert_eq!(talk.replays(), "", "nothing is answered yet");
    talk.hears("+OK\r\n+OK\r\n+OK\r\n-ERR DB index is out of range\r\n$-1\r\n");
    assert_eq!(talk.replays(), "AUTH a secret\r\nSELECT 3\r\nCLIENT SETNAME me\r\n");
    assert_eq!(talk.session.name().as_deref(), Some("me"));
    talk.asks("select 4\r\nHELLO 3 AUTH a other\r\n");
    talk.hears("+OK\r\n%1\r\n+proto\r\n:3\r\n");
    assert_eq!(talk.replays(), "CLIENT SETNAME me\r\nselect 4\r\nHELLO 3 AUTH a other\r\n");
    assert!(talk.session.is_even() && talk.session.pin().is_none());
    talk.asks("RESET\r\n");
    talk.hears("+RESET\r\n");
    assert_eq!(talk.replays(), "");
}

#[test]
fn channels_are_those_that_were_confirmed_and_messages_are_no_answers() {
    let mut talk = Talk::default();
    talk.asks("SUBSCRIBE a b\r\nPING\r\n");
    talk.hears(&confirmed("subscribe", "a"));
    talk.hears("*3\r\n$7\r\nmessage\r\n$1\r\na\r\n$1\r\nx\r\n");
    assert!(!talk.session.is_even());
    talk.hears(&confirmed("subscribe", "b"));
    talk.hears("*2\r\n$4\r\npong\r\n$0\r\n\r\n");
    assert!(talk.session.is_even());
    assert_eq!(talk.session.subscriptions(), 2);
    talk.asks("PSUBSCRIBE p*\r\nUNSUBSCRIBE\r\n");
    talk.hears(&confirmed("psubscribe", "p*"));
    talk.hears(&confirmed("unsubscribe", "a"));
    assert!(!talk.session.is_even(), "one more is to come");
    talk.hears(&confirmed("unsubscribe", "b"));
    assert!(talk.session.is_even());
    assert_eq!(talk.replays(), "*2\r\n$10\r\npsubscribe\r\n$2\r\np*\r\n");
    assert_eq!(talk.session.replay().answers, 1);
    // Nobody may listen there.
    talk.asks("SUBSCRIBE x y\r\n");
    talk.hears("-NOPERM no\r\n");
    assert!(talk.session.is_even());
    assert_eq!(talk.session.subscriptions(), 1);
}

#[test]
fn in_resp3_only_confirmations_are_answers_among_pushes() {
    let mut talk = Talk::default();
    talk.asks("HELLO 3\r\nSUBSCRIBE a\r\nGET k\r\n");
    talk.hears("%0\r\n>3\r\n$10\r\ninvalidate\r\n:1\r\n:2\r\n");
    talk.hears(">3\r\n$9\r\nsubscribe\r\n$1\r\na\r\n:1\r\n");
    talk.hears(">3\r\n$7\r\nmessage\r\n$1\r\na\r\n$1\r\nx\r\n");
    assert!(!talk.session.is_even());
    talk.hears("*3\r\n$7\r\nmessages\r\n+x\r\n+y\r\n".replace("$7\r\nmessages", "$8\r\nmessages").as_str());
    assert!(talk.session.is_even());
    assert_eq!(talk.session.subscriptions(), 1);
}

#[test]
fn a_session_stays_while_something_is_open_and_no_longer() {
    let mut talk = Talk::default();
    talk.asks("WATCH k\r\n");
    assert_eq!(talk.session.pin(), Some(Pin::Watch));
    talk.asks("MULTI\r\nSET k 1\r\n");
    assert_eq!(talk.session.pin(), Some(Pin::Transaction));
    talk.hears("+OK\r\n+OK\r\n+QUEUED\r\n");
    talk.asks("EXEC\r\n");
    assert!(talk.session.pin().is_some());
    talk.hears("*1\r\n+OK\r\n");
    assert_eq!(talk.session.pin(), None);
    // One that is begun behind the end of another one stays.
    talk.asks("MULTI\r\nEXEC\r\nMULTI\r\n");
    talk.hears("+OK\r\n*0\r\n");
    assert_eq!(talk.session.pin(), None, "it is known of the first of two only");
    talk.hears("+OK\r\n");
    talk.asks("BLPOP k 0\r\n");
    assert_eq!(talk.session.pin(), Some(Pin::Blocking));
    talk.hears("*-1\r\n");
    assert_eq!(talk.session.pin(), None);
    talk.asks("XREAD COUNT 1 STREAMS block 0\r\n");
    assert_eq!(talk.session.pin(), None);
    talk.asks("XREADGROUP GROUP g c BLOCK 0 STREAMS s >\r\n");
    assert_eq!(talk.session.pin(), Some(Pin::Blocking));
}

#[test]
fn what_may_change_a_session_in_an_unknown_way_keeps_it_where_it_is() {
    for (said, pin, is_raw) in [
        ("MONITOR\r\n", Pin::Monitor, true),
        ("CLIENT TRACKING on\r\n", Pin::Tracking, false),
        ("CLIENT REPLY off\r\n", Pin::Replies, true),
        ("PSYNC ? -1\r\n", Pin::Replication, true),
        ("SCRIPT DEBUG yes\r\n", Pin::Debug, true),
        ("CLIENT SOMETHING new\r\n", Pin::Unknown, false),
        ("SUBSCRIBE \"a b\"\r\n", Pin::Unknown, true),
        ("MULTI\r\nSELECT 1\r\n", Pin::Transaction, false),
    ] {
        let mut talk = Talk::default();
        talk.asks(said);
        talk.hears("+OK\r\n");
        assert_eq!((talk.session.pin(), talk.session.is_raw()), (Some(pin), is_raw), "{said}");
    }
    let mut talk = Talk::default();
    talk.asks("CLIENT INFO\r\nSCRIPT LOAD x\r\nOBJECT HELP\r\n\r\n");
    assert_eq!(talk.session.pin(), None);
    talk.asks(&format!("SELECT {}\r\n", "1".repeat(60_000)).repeat(5));
    talk.hears(&"+OK\r\n".repeat(8));
    assert_eq!(talk.session.pin(), None, "the last one takes the place of those before");
    talk.hears("+what nobody asked for\r\n");
    assert_eq!(talk.session.pin(), Some(Pin::Unknown));
}

#[test]
fn what_had_no_answer_when_the_server_left_is_said_to_be_unknown_each_for_itself() {
    let mut talk = Talk::default();
    talk.asks("SET a 1\r\nSELECT 2\r\n");
    talk.session.owe("-ERR refused\r\n");
    talk.hears("+OK\r\n");
    assert_eq!(talk.session.broken("-ERR unknown\r\n"), 1);
    assert!(talk.session.is_local_next());
    assert_eq!(talk.session.local(), Some("-ERR unknown\r\n"));
    assert_eq!(talk.session.local(), Some("-ERR refused\r\n"));
    assert_eq!((talk.session.local(), talk.session.is_even()), (None, true));
    assert_eq!(talk.replays(), "");
}
