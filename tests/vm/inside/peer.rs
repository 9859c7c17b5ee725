//! The other side, in a process of its own: this program, started again. It is told what to do on its standard input, and
//! tells on its output.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use sha2::{Digest, Sha256};

use super::PEER;
use super::side::{Card, MEMORY, REQUESTS, Side, block_on};

/// How a peer behaves.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Manner {
    /// Receives, and tells of each completion.
    Receives,
    /// Connects, but has no request to receive.
    NeverReady,
}

/// A peer that is connected. It is killed when this is dropped.
pub struct Peer {
    child: Child,
    orders: ChildStdin,
    answers: BufReader<ChildStdout>,
    pub card: Card,
}

impl Peer {
    /// Starts one and connects both.
    pub fn start(side: &mut Side, manner: Manner) -> Self {
        let manner = if manner == Manner::Receives { RECEIVES } else { "never ready" };
        let mut command = Command::new("/proc/self/exe");
        command.env(PEER, manner).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut orders = child.stdin.take().unwrap();
        let mut answers = BufReader::new(child.stdout.take().unwrap());
        let card = Card::from_line(&line(&mut answers));
        writeln!(orders, "{}", side.card().to_line()).unwrap();
        side.connect(&card);
        assert_eq!(line(&mut answers), "connected");
        Peer { child, orders, answers, card }
    }

    /// Has it wait for so many completions; gives what it says of each.
    pub fn completed(&mut self, number: usize) -> Vec<String> {
        writeln!(self.orders, "{number}").unwrap();
        (0..number).map(|_| line(&mut self.answers)).collect()
    }

    /// The hash of all that is in its memory.
    pub fn hash(&mut self) -> String {
        writeln!(self.orders, "hash").unwrap();
        line(&mut self.answers)
    }

    pub fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What a peer's memory is compared by.
pub fn hash(memory: &[u8]) -> String {
    Sha256::digest(memory).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The peer's own life, until nobody gives it orders any more.
pub fn run() {
    block_on(async {
        let mut side = Side::new();
        println!("{}", side.card().to_line());
        let mut orders = std::io::stdin().lines().map(Result::unwrap);
        side.connect(&Card::from_line(&orders.next().unwrap()));
        if std::env::var(PEER).unwrap() == RECEIVES {
            (0..u64::from(REQUESTS)).for_each(|id| side.pair.receive(id, 1).unwrap());
        }
        println!("connected");
        for order in orders {
            if order == "hash" {
                let mut memory = vec![0; MEMORY];
                side.region.read(0, &mut memory);
                println!("{}", hash(&memory));
                continue;
            }
            for completion in side.completed(order.parse().unwrap()).await {
                println!("{:?} {:?} {}", completion.status, completion.immediate, completion.len);
            }
        }
    });
}

fn line(from: &mut impl BufRead) -> String {
    let mut line = String::new();
    assert!(from.read_line(&mut line).unwrap() > 0, "the peer is gone");
    line.trim_end().to_owned()
}

const RECEIVES: &str = "receives";
