//! The proof that a wire works both ways: each side sends a probe in its slot of the memory, and has it echoed in the
//! other's. Outside the rings, so that nothing of it counts.

use std::io;
use std::sync::atomic::Ordering;

use tokio::net::UnixStream;

use super::AttachFault;
use super::door::pause;
use super::memory::Shared;
use super::wire::ring_bell;
use crate::link::wire::ring::Side;

/// Ends once this side's probe came back, and the peer's was echoed.
pub(super) async fn prove(memory: &mut Shared, socket: &UnixStream, side: Side) -> Result<(), AttachFault> {
    let probe = [fastrand::u64(..), fastrand::u64(..)];
    post(memory, side, PROBE, probe);
    ring_bell(socket);
    let mut echoed = false;
    loop {
        // In this order: an honest peer sends its probe before it echoes.
        let back = posted(memory, side.other(), ECHO);
        if !echoed && let Some(theirs) = posted(memory, side.other(), PROBE) {
            post(memory, side, ECHO, theirs);
            ring_bell(socket);
            echoed = true;
        }
        match back {
            Some(back) if back == probe && echoed => return Ok(()),
            Some(_) => return Err(AttachFault::Probe),
            None => {
                await_bell(socket).await?;
                // Whoever was echoed may go over at once, and what it writes waits for this side.
                if !echoed {
                    pause().await;
                }
            }
        }
    }
}

async fn await_bell(socket: &UnixStream) -> io::Result<()> {
    loop {
        socket.readable().await?;
        match socket.try_read(&mut [0; 64]) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(_) => return Ok(()),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
    }
}

/// Writes a value into a slot of this side's, and then that it is there.
fn post(memory: &Shared, side: Side, at: usize, value: [u64; 2]) {
    memory.slot(side, at).store(value[0], Ordering::Relaxed);
    memory.slot(side, at + 1).store(value[1], Ordering::Relaxed);
    memory.slot(side, at + 2).store(1, Ordering::Release);
}

/// The value that the peer wrote, once it is there.
fn posted(memory: &Shared, side: Side, at: usize) -> Option<[u64; 2]> {
    let there = memory.slot(side, at + 2).load(Ordering::Acquire) != 0;
    there.then(|| [at, at + 1].map(|at| memory.slot(side, at).load(Ordering::Relaxed)))
}

/// The first word of the probe in a slot, two of value and one that says that they are there,
const PROBE: usize = 0;

/// and that of the echo.
const ECHO: usize = 4;
