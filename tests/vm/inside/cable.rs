//! The cable between two RDMA devices: two TAP interfaces, whose packets this program carries from the one to the other. On
//! the way it hears them, and does to them what a test asks for, as a broken or hostile network, device or peer would.

use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use rustix::event::{PollFd, PollFlags, Timespec, poll};

/// See above. It is taken away when this is dropped, and the interfaces with it.
pub struct Cable {
    shared: Arc<Shared>,
    carriers: Vec<JoinHandle<()>>,
}

/// What is done to packets of RDMA.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Harm {
    /// None arrives.
    Lost,
    /// Every write names a key that the other end has not given out.
    WrongKey,
    /// Every acknowledgement says that the other end's operation failed.
    Refused,
    /// Every acknowledgement says that there was no request to receive.
    NotReady,
}

#[derive(Default)]
struct Shared {
    harm: Mutex<Option<Harm>>,
    harmed: AtomicU64,
    /// All packets of RDMA while somebody listens.
    heard: Mutex<Option<Vec<u8>>>,
    is_over: std::sync::atomic::AtomicBool,
}

impl Cable {
    /// Between two interfaces that this makes.
    pub fn between(names: [String; 2]) -> Self {
        let [one, other] = names.map(|name| tap(&name));
        let shared = Arc::new(Shared::default());
        let carrier = |from: &File, to: &File| {
            let (from, to, shared) = (from.try_clone().unwrap(), to.try_clone().unwrap(), shared.clone());
            std::thread::spawn(move || carry(from, to, &shared))
        };
        let carriers = vec![carrier(&one, &other), carrier(&other, &one)];
        Cable { shared, carriers }
    }

    /// Does this from now on.
    pub fn harm(&self, harm: Harm) {
        *self.shared.harm.lock().unwrap() = Some(harm);
    }

    /// Carries everything as it is from now on.
    pub fn heal(&self) {
        *self.shared.harm.lock().unwrap() = None;
    }

    /// How many packets were harmed so far.
    pub fn harmed(&self) -> u64 {
        self.shared.harmed.load(Relaxed)
    }

    /// Keeps what comes by.
    pub fn listen(&self) {
        *self.shared.heard.lock().unwrap() = Some(Vec::new());
    }

    /// What came by since, one packet behind the other.
    pub fn heard(&self) -> Vec<u8> {
        self.shared.heard.lock().unwrap().take().unwrap_or_default()
    }
}

impl Drop for Cable {
    fn drop(&mut self) {
        self.shared.is_over.store(true, Relaxed);
        for carrier in self.carriers.drain(..) {
            let _ = carrier.join();
        }
    }
}

fn carry(mut from: File, mut to: File, shared: &Shared) {
    let mut frame = vec![0; FRAME];
    while !shared.is_over.load(Relaxed) {
        let Ok(count) = from.read(&mut frame) else {
            let mut ready = [PollFd::new(&from, PollFlags::IN)];
            let _ = poll(&mut ready, Some(&Timespec { tv_sec: 0, tv_nsec: 20_000_000 }));
            continue;
        };
        let frame = &mut frame[..count];
        // What goes to an interface that is down goes nowhere, as with any cable.
        if !is_rdma(frame) || shared.passes(frame) {
            let _ = to.write(frame);
        }
    }
}

impl Shared {
    /// Whether a packet of RDMA is to be passed on, as it then is.
    fn passes(&self, frame: &mut [u8]) -> bool {
        if let Some(heard) = &mut *self.heard.lock().unwrap() {
            heard.extend_from_slice(frame);
        }
        // Of all that it is about, as one that was sent twice is not looked at twice.
        let (is_write, is_answer) = (KEYED.contains(&frame[BTH]), frame[BTH] == ACKNOWLEDGE);
        let passes = match *self.harm.lock().unwrap() {
            Some(Harm::Lost) => false,
            Some(Harm::WrongKey) if is_write => {
                frame[KEY] ^= 0x55;
                true
            }
            Some(Harm::Refused) if is_answer => {
                frame[SYNDROME] = OPERATION_FAILED;
                true
            }
            Some(Harm::NotReady) if is_answer => {
                frame[SYNDROME] = RECEIVER_NOT_READY;
                true
            }
            _ => return true,
        };
        self.harmed.fetch_add(1, Relaxed);
        seal(frame);
        passes
    }
}

/// Makes a TAP interface. It lives as long as the file is open anywhere.
fn tap(name: &str) -> File {
    let tun = OpenOptions::new().read(true).write(true).custom_flags(libc::O_NONBLOCK).open("/dev/net/tun");
    let tun = tun.unwrap();
    // SAFETY: all zeros is a value of it.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = from.cast_signed();
    }
    request.ifr_ifru.ifru_flags = (libc::IFF_TAP | libc::IFF_NO_PI) as i16;
    // SAFETY: the descriptor is open, and the request is one of this call's.
    assert_eq!(unsafe { libc::ioctl(tun.as_raw_fd(), libc::TUNSETIFF, &request) }, 0, "{name}");
    tun
}

/// Whether it is a packet of RoCE v2 over IPv4, without options.
fn is_rdma(frame: &[u8]) -> bool {
    frame.len() > BTH + 16
        && frame[12..15] == [8, 0, 0x45]
        && frame[ETHERNET + 9] == 17
        && frame[UDP + 2..UDP + 4] == PORT.to_be_bytes()
}

/// Writes the checksum that devices look at (ICRC): over all but what routers change.
fn seal(frame: &mut [u8]) {
    let end = ETHERNET + usize::from(u16::from_be_bytes([frame[ETHERNET + 2], frame[ETHERNET + 3]]));
    let mut covered = vec![0xff; 8];
    covered.extend_from_slice(&frame[ETHERNET..end - 4]);
    // Type of service, hops and checksum of IP; checksum of UDP; what is reserved of the header.
    for at in [1, 8, 10, 11, 26, 27, 32] {
        covered[8 + at] = 0xff;
    }
    frame[end - 4..end].copy_from_slice(&crc(&covered).to_le_bytes());
}

/// The CRC of Ethernet.
fn crc(bytes: &[u8]) -> u32 {
    let bit = |crc: u32, _| if crc & 1 == 1 { crc >> 1 ^ 0xedb8_8320 } else { crc >> 1 };
    !bytes.iter().fold(!0, |crc, &byte| (0..8).fold(crc ^ u32::from(byte), bit))
}

const FRAME: usize = 16 << 10;

/// Where things are in a frame.
const ETHERNET: usize = 14;
const UDP: usize = ETHERNET + 20;
const BTH: usize = UDP + 8;
/// In the header of a write that comes behind that.
const KEY: usize = BTH + 12 + 11;
/// In the header of an acknowledgement that comes behind that.
const SYNDROME: usize = BTH + 12;

const PORT: u16 = 4791;

/// Packets of reliable connections that name a key: first ones of a write, and such as are all of it.
const KEYED: [u8; 3] = [0x06, 0x0a, 0x0b];
const ACKNOWLEDGE: u8 = 0x11;

/// Syndromes: a negative answer; and one to wait for, 20 ms in the specification's table.
const OPERATION_FAILED: u8 = 0x63;
const RECEIVER_NOT_READY: u8 = 0x36;
