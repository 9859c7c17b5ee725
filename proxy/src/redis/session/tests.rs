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
    assert_eq!(talk.replays(), "HELLO 3 AUTH a other\r\nCLIENT SETNAME me\r\nselect 4\r\n");
    assert!(talk.session.is_even() && talk.session.pin().is_none());
    talk.asks("RESET\r\n");
    talk.hears("+RESET\r\n");
    assert_eq!(talk.replays(), "");
}

#[test]
fn who_it_is_is_said_again_before_all_else() {
    let mut talk = Talk::default();
    talk.asks("AUTH a\r\nCLIENT SETNAME me\r\nSELECT 3\r\nAUTH b\r\n");
    talk.hears(&"+OK\r\n".repeat(4));
    assert_eq!(talk.replays(), "AUTH b\r\nCLIENT SETNAME me\r\nSELECT 3\r\n");
    // It gives no name.
    talk.asks("HELLO 3 AUTH setname setname\r\nAUTH c\r\n");
    talk.hears("%0\r\n+OK\r\n");
    let who = "HELLO 3 AUTH setname setname\r\nAUTH c\r\n";
    assert_eq!(talk.replays(), format!("{who}CLIENT SETNAME me\r\nSELECT 3\r\n"));
    // The later name is the one that counts.
    talk.asks("HELLO 3 AUTH a b SETNAME other\r\n");
    talk.hears("%0\r\n");
    assert_eq!(talk.replays(), "HELLO 3 AUTH a b SETNAME other\r\nSELECT 3\r\n");
}

#[test]
fn a_client_that_does_not_read_is_not_heard_any_more_until_it_does() {
    let mut talk = Talk::default();
    talk.asks(&"PING\r\n".repeat(MOST_OWED - 1));
    assert!(!talk.session.is_full());
    talk.asks("PING\r\n");
    assert!(talk.session.is_full());
    talk.hears("+PONG\r\n");
    assert!(!talk.session.is_full());
    talk.session.owe("-ERR refused\r\n");
    assert!(talk.session.is_full(), "what is said here counts as well");

    for said in
        [format!("CLIENT SETNAME {}\r\n", "x".repeat(60_000)), format!("SUBSCRIBE{}\r\n", " x".repeat(2000))]
    {
        let mut talk = Talk::default();
        let mut count = 0;
        while !talk.session.is_full() {
            talk.asks(&said);
            count += 1;
        }
        assert!((3..=5).contains(&count), "{count}");
        // Whether it was taken or not.
        talk.hears("-ERR no\r\n");
        assert!(!talk.session.is_full());
        talk.asks(&said);
        assert!(talk.session.is_full());
        talk.session.broken("-ERR unknown\r\n");
        assert!(!talk.session.is_full());
    }
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
fn in_resp3_an_array_is_an_answer_whatever_it_begins_with() {
    let message = "*3\r\n$7\r\nmessage\r\n$1\r\na\r\n$1\r\nx\r\n";
    let mut talk = Talk::default();
    talk.asks("HELLO 3\r\nSUBSCRIBE a\r\nLRANGE k 0 -1\r\n");
    talk.hears("%0\r\n>3\r\n$9\r\nsubscribe\r\n$1\r\na\r\n:1\r\n");
    talk.hears(message);
    assert!(talk.session.is_even());
    assert_eq!(talk.session.pin(), None);
    // One that fails changes nothing.
    talk.asks("HELLO 4\r\nLRANGE k 0 -1\r\n");
    talk.hears(&format!("-NOPROTO no\r\n{message}"));
    assert!(talk.session.is_even());
    talk.asks("HELLO 2\r\nPING\r\n");
    talk.hears(&format!("*0\r\n{message}"));
    assert!(!talk.session.is_even());
    talk.hears("+PONG\r\n");
    // So does what sets all back.
    talk.asks("HELLO 3\r\nRESET\r\nSUBSCRIBE a\r\nPING\r\n");
    talk.hears(&format!("%0\r\n+RESET\r\n{}{message}", confirmed("subscribe", "a")));
    assert!(!talk.session.is_even());
}

#[test]
fn what_is_begun_behind_the_end_of_another_one_is_open() {
    for (said, answers, pin) in [
        ("MULTI\r\nEXEC\r\nMULTI\r\n", "+OK\r\n*0\r\n", Pin::Transaction),
        ("MULTI\r\nDISCARD\r\nWATCH k\r\n", "+OK\r\n+OK\r\n", Pin::Watch),
        ("WATCH k\r\nMULTI\r\nEXEC\r\nWATCH l\r\n", "+OK\r\n+OK\r\n*0\r\n", Pin::Watch),
        ("WATCH k\r\nUNWATCH\r\nWATCH l\r\n", "+OK\r\n+OK\r\n", Pin::Watch),
        ("WATCH k\r\nWATCH l\r\n", "-NOPERM no\r\n", Pin::Watch),
        ("RESET\r\nMULTI\r\n", "+RESET\r\n", Pin::Transaction),
        ("MULTI\r\nRESET\r\nMULTI\r\n", "+OK\r\n+RESET\r\n", Pin::Transaction),
        ("RESET\r\nWATCH k\r\n", "+RESET\r\n", Pin::Watch),
        ("RESET\r\nCLIENT TRACKING on\r\n", "+RESET\r\n", Pin::Tracking),
        ("CLIENT TRACKING on\r\nRESET\r\nCLIENT TRACKING on\r\n", "+OK\r\n+RESET\r\n", Pin::Tracking),
        ("MULTI\r\nMULTI\r\n", "-NOPERM no\r\n", Pin::Transaction),
    ] {
        let mut talk = Talk::default();
        talk.asks(said);
        talk.hears(answers);
        assert_eq!(talk.session.pin(), Some(pin), "{said}");
        talk.hears("+OK\r\n");
        assert_eq!(talk.session.pin(), Some(pin), "{said}");
        talk.asks(match pin {
            Pin::Watch => "UNWATCH\r\n",
            Pin::Tracking => "RESET\r\n",
            _ => "EXEC\r\n",
        });
        talk.hears("+OK\r\n");
        assert_eq!(talk.session.pin(), None, "{said}");
    }
}

#[test]
fn what_is_sent_behind_the_end_of_a_transaction_is_not_in_it() {
    for end in ["EXEC\r\n", "DISCARD\r\n", "RESET\r\n"] {
        let mut talk = Talk::default();
        talk.asks(&format!("MULTI\r\n{end}SELECT 3\r\nBLPOP k 0\r\n"));
        talk.hears("+OK\r\n+OK\r\n+OK\r\n");
        assert_eq!(talk.session.pin(), Some(Pin::Blocking), "{end}");
        talk.hears("*-1\r\n");
        assert_eq!(talk.session.pin(), None, "{end}");
        assert_eq!(talk.replays(), "SELECT 3\r\n");
    }
    // One that is refused is none, and one within another one makes no difference.
    let mut talk = Talk::default();
    talk.asks("MULTI\r\n");
    talk.hears("-NOPERM no\r\n");
    talk.asks("SELECT 3\r\n");
    talk.hears("+OK\r\n");
    assert_eq!(talk.session.pin(), None);
    talk.asks("MULTI\r\nMULTI\r\n");
    talk.hears("+OK\r\n-ERR MULTI calls can not be nested\r\n");
    talk.asks("SELECT 4\r\nEXEC\r\n");
    talk.hears("+QUEUED\r\n*1\r\n+OK\r\n");
    assert_eq!(talk.session.pin(), Some(Pin::Transaction));
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
    assert_eq!(talk.session.pin(), Some(Pin::Transaction));
    talk.hears("+OK\r\n");
    talk.asks("EXEC\r\n");
    talk.hears("*0\r\n");
    assert_eq!(talk.session.pin(), None);
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
