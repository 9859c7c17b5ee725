//! What another process of the host has of two sidecars: the memory that they share, the door where they meet, and the
//! packets between them. Only root has so much.

use std::fs::{self, File, OpenOptions};
use std::io::Read;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread::JoinHandle;
use std::time::Duration;

use socket2::{Domain, Protocol, SockFilter, Socket, Type};

/// The memory of a ring that is in use. It stays what it is when the process lets go of it.
pub struct RingMemory {
    file: File,
    pub ring_bytes: u64,
}

/// The words of the side that made the memory, and of the other one. See PROTOCOL.md beside the wire.
pub const MAKER: u64 = 0;
pub const TAKER: u64 = 512;

/// A side's words: bytes that it has written into its way out,
pub const WRITTEN: u64 = 0;
/// and consumed of its way in.
pub const CONSUMED: u64 = 128;

/// what wakes it while it sleeps,
pub const ASLEEP: u64 = 256;
/// and where it proves the memory: a probe, and an echo of the other's.
pub const SLOT: u64 = 384;

/// Where nothing has its place.
pub const UNUSED: u64 = 2048;

/// Bytes before the rings: first the maker's, then the other side's.
pub const HEADER_BYTES: u64 = 4096;

impl RingMemory {
    /// That of the only ring of a process.
    pub fn of(pid: u32) -> Self {
        let maps = fs::read_to_string(format!("/proc/{pid}/maps")).unwrap();
        let mut rings = maps.lines().filter(|line| line.contains("/memfd:lighter-link"));
        let range = rings.next().expect("it has a ring").split(' ').next().unwrap();
        assert!(rings.next().is_none(), "it has one ring");
        let path = format!("/proc/{pid}/map_files/{range}");
        RingMemory::over(OpenOptions::new().read(true).write(true).open(path).unwrap())
    }

    /// What a descriptor leads to.
    pub fn over(file: File) -> Self {
        let ring_bytes = (file.metadata().unwrap().len() - HEADER_BYTES) / 2;
        RingMemory { file, ring_bytes }
    }

    pub fn all(&self) -> Vec<u8> {
        let mut all = vec![0; (HEADER_BYTES + 2 * self.ring_bytes) as usize];
        self.file.read_exact_at(&mut all, 0).unwrap();
        all
    }

    pub fn word(&self, at: u64) -> u64 {
        let mut word = [0; 8];
        self.file.read_exact_at(&mut word, at).unwrap();
        u64::from_ne_bytes(word)
    }

    pub fn set_word(&self, at: u64, value: u64) {
        self.write(at, &value.to_ne_bytes());
    }

    pub fn write(&self, at: u64, bytes: &[u8]) {
        self.file.write_all_at(bytes, at).unwrap();
    }

    /// Changes one bit of byte `count` of the way that `side` writes.
    pub fn flip(&self, side: u64, count: u64) {
        let mut byte = [0];
        self.get(side, count, &mut byte);
        self.put(side, count, &[byte[0] ^ 1]);
    }

    /// Reads the way that `side` writes, from byte `count` on.
    pub fn get(&self, side: u64, count: u64, to: &mut [u8]) {
        let (at, fitting) = self.place(side, count, to.len());
        let (first, rest) = to.split_at_mut(fitting);
        self.file.read_exact_at(first, at).unwrap();
        self.file.read_exact_at(rest, self.place(side, 0, 0).0).unwrap();
    }

    /// Writes into it.
    pub fn put(&self, side: u64, count: u64, from: &[u8]) {
        let (at, fitting) = self.place(side, count, from.len());
        let (first, rest) = from.split_at(fitting);
        self.write(at, first);
        self.write(self.place(side, 0, 0).0, rest);
    }

    /// Where byte `count` lies, and how many of `len` bytes lie there in a row.
    fn place(&self, side: u64, count: u64, len: usize) -> (u64, usize) {
        let ring = HEADER_BYTES + if side == TAKER { self.ring_bytes } else { 0 };
        let at = count % self.ring_bytes;
        (ring + at, len.min((self.ring_bytes - at) as usize))
    }
}

/// Where the door of a process is: in the folder that it has open for that.
pub fn door(pid: u32) -> PathBuf {
    let open = fs::read_dir(format!("/proc/{pid}/fd")).unwrap();
    let folders = open.filter_map(|entry| fs::read_link(entry.ok()?.path()).ok()).filter(|to| to.is_dir());
    let is_door = |path: &PathBuf| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        name.starts_with(&format!("{pid}-")) && name.ends_with(".link")
    };
    folders
        .flat_map(|folder| fs::read_dir(folder).into_iter().flatten())
        .filter_map(|entry| Some(entry.ok()?.path()))
        .find(is_door)
        .expect("it has a door")
}

/// The packets from and to a port, as they are on loopback.
pub struct Capture {
    done: Arc<AtomicBool>,
    reading: JoinHandle<Vec<u8>>,
}

impl Capture {
    pub fn of(port: u16) -> Self {
        let protocol = Protocol::from(i32::from((libc::ETH_P_ALL as u16).to_be()));
        let mut socket = Socket::new(Domain::PACKET, Type::DGRAM, Some(protocol)).unwrap();
        socket.attach_filter(&of_port(port)).unwrap();
        socket.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
        rustix::net::sockopt::set_socket_recv_buffer_size_force(&socket, 64 << 20).unwrap();
        let done = Arc::new(AtomicBool::new(false));
        let is_done = done.clone();
        let reading = std::thread::spawn(move || {
            let (mut all, mut packet) = (Vec::new(), vec![0; 1 << 18]);
            loop {
                match socket.read(&mut packet) {
                    Ok(count) => all.extend_from_slice(&packet[..count]),
                    // What was there before the end is taken all the same.
                    Err(_) if is_done.load(Relaxed) => return all,
                    Err(_) => {}
                }
            }
        });
        Capture { done, reading }
    }

    /// All of them, one behind the other, with their headers.
    pub fn end(self) -> Vec<u8> {
        self.done.store(true, Relaxed);
        self.reading.join().unwrap()
    }
}

/// Lets IPv4 packets pass whose first or second port is this one, and among them some that have none.
fn of_port(port: u16) -> [SockFilter; 7] {
    let port_at = libc::BPF_LD | libc::BPF_H | libc::BPF_IND;
    let is = libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K;
    let step = |code: u32, yes, no, operand| SockFilter::new(code as u16, yes, no, operand);
    [
        step(libc::BPF_LDX | libc::BPF_B | libc::BPF_MSH, 0, 0, 0),
        step(port_at, 0, 0, 0),
        step(is, 2, 0, port.into()),
        step(port_at, 0, 0, 2),
        step(is, 0, 1, port.into()),
        step(libc::BPF_RET, 0, 0, u32::MAX),
        step(libc::BPF_RET, 0, 0, 0),
    ]
}
