//! What it gives for memory.

use super::*;

pub fn wrong_memory() {
    let root = Root::new();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let link = listener.local_addr().unwrap();
    let listen = free_address();
    let resources = resources("http", free_address(), link, REVIEWS) + &should();
    let web = Sidecar::start(&resources, &caller_file(listen, &root.identity(WEB)));
    let folder = door(web.program.pid()).parent().unwrap().to_owned();
    let attacks = attacks(root.folder());
    let wrong = attacks.len() as f64;
    let done = Arc::new(AtomicBool::new(false));
    let is_done = done.clone();
    let rogue = std::thread::spawn(move || {
        let mut rogue = Rogue::answer(&listener, &root);
        let mut attacks = attacks.into_iter().map(Given::Descriptors).chain([Given::Nothing, Given::Right]);
        while !is_done.load(Relaxed) {
            rogue.turn();
            while let Some(event) = rogue.events.pop_front() {
                match event {
                    Event::Opened { stream, .. } => {
                        rogue.session.send_head(stream, 200, [], &[b'x'; 1000], true).unwrap();
                    }
                    Event::Control { kind: 1, bytes } => {
                        let offer = Offer::decode(bytes).unwrap();
                        rogue.hands_out(&folder, &offer, attacks.next().expect("it asks no more"));
                    }
                    _ => {}
                }
            }
        }
    });
    let mut peer = Peer::connect(listen);
    let mut request = || {
        let (head, body) = peer.exchange("GET / HTTP/1.1\r\nHost: reviews\r\n\r\n");
        assert_eq!((head.status(), body), (200, Body::Whole(vec![b'x'; 1000])));
    };
    let before = web.program.resident();
    let missed = |cause| web.metrics().sum("lighter_link_attach_failures_total", &[("cause", cause)]);
    let began = Instant::now();
    while on_shm(&web) == 0.0 {
        assert!(began.elapsed() < PATIENCE, "{} of {wrong} failed, {}", missed("memory"), web.program.said());
        request();
    }
    // None of them was taken; each cost the wire, and the link nothing; and the right one was as good as any.
    assert_eq!((missed("memory"), missed("timed_out")), (wrong, 1.0));
    assert_eq!((fallbacks(&web, "fault"), fallbacks(&web, "deadline")), (wrong, 1.0));
    let over_shm = bytes(&web, "shm");
    for _ in 0..100 {
        request();
    }
    assert!(bytes(&web, "shm") > over_shm + 1e5);
    assert_eq!(web.metrics().sum("lighter_link_opened_total", &[("side", "opener")]), 1.0);
    assert!(!web.metrics().has("lighter_link_faults_total", &[]));
    assert_eq!(descriptors_of_memory(web.program.pid()), Vec::<PathBuf>::new(), "all were closed");
    let grown = at_rest(Duration::from_millis(50), || web.program.resident()).saturating_sub(before);
    assert!(grown < 16 * 1024, "{grown} KiB more");
    does_not_spin(&web);
    done.store(true, Relaxed);
    rogue.join().unwrap();
}

/// What comes with the token.
enum Given {
    Descriptors(Vec<OwnedFd>),
    /// Nobody opens.
    Nothing,
    /// As it should be.
    Right,
}

impl Rogue {
    /// Accepts an offer, and gives what is to be given at the door.
    fn hands_out(&mut self, folder: &Path, offer: &Offer, given: Given) {
        let (generation, nonce) = (offer.generation, vec![9; 16]);
        let name = format!("{}-{:x}.link", std::process::id(), fastrand::u64(..));
        let door = UnixListener::bind(folder.join(&name)).unwrap();
        let accept = Accept {
            generation,
            nonce: nonce.clone(),
            door: name.clone(),
            ring_bytes: RING_BYTES,
            rdma: None,
        };
        assert!(self.carrier.open(generation));
        self.session.send_control(2, &accept.encode_to_vec());
        self.send();
        let nonces = [&offer.nonce[..], &nonce];
        let own = self.token(Side::Acceptor, generation, nonces);
        let meet = || {
            let (guest, shown) = take_in(&door);
            assert_eq!(shown, self.token(Side::Opener, generation, nonces));
            guest
        };
        match given {
            Given::Descriptors(descriptors) => {
                let descriptors: Vec<BorrowedFd<'_>> = descriptors.iter().map(AsFd::as_fd).collect();
                let guest = meet();
                give(&guest, &own, &descriptors);
                // It sees what it was given before this end is gone.
                self.is_left(generation);
            }
            Given::Nothing => self.is_left(generation),
            Given::Right => {
                let guest = meet();
                let memory = memory(0, SealFlags::SHRINK | SealFlags::GROW);
                give(&guest, &own, &[memory.as_fd()]);
                self.goes_over(generation, RingMemory::over(memory.into()), guest);
            }
        }
        std::fs::remove_file(folder.join(name)).unwrap();
    }

    fn is_left(&mut self, generation: u32) {
        self.until("the wire is left", |rogue| (rogue.carrier.next() == Some(generation + 1)).then_some(()));
    }
}

/// Memory of the agreed size and so much more, or less.
fn memory(more: i64, seals: SealFlags) -> OwnedFd {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let memory = rustix::fs::memfd_create("lighter-link", flags).unwrap();
    let size = HEADER_BYTES + 2 * u64::from(RING_BYTES);
    rustix::fs::ftruncate(&memory, size.checked_add_signed(more).unwrap()).unwrap();
    rustix::fs::fcntl_add_seals(&memory, seals).unwrap();
    memory
}

/// What is not memory of the agreed size that stays so.
fn attacks(folder: &Path) -> Vec<Vec<OwnedFd>> {
    let both = SealFlags::SHRINK | SealFlags::GROW;
    let file = File::options().read(true).write(true).create_new(true).open(folder.join("memory")).unwrap();
    file.set_len(HEADER_BYTES + 2 * u64::from(RING_BYTES)).unwrap();
    vec![
        vec![memory(0, SealFlags::empty())],
        vec![memory(0, SealFlags::SHRINK)],
        vec![memory(0, SealFlags::GROW)],
        vec![memory(0, SealFlags::SEAL)],
        vec![memory(4096, both)],
        vec![memory(-4096, both)],
        vec![memory(-i64::from(RING_BYTES), both)],
        vec![file.into()],
        vec![File::options().read(true).write(true).open("/dev/zero").unwrap().into()],
        vec![memory(0, both), memory(0, both)],
        vec![],
    ]
}

/// The descriptors of a process that lead to memory, or to what it was given instead.
fn descriptors_of_memory(pid: u32) -> Vec<PathBuf> {
    let open = std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap();
    let leads = open.filter_map(|entry| std::fs::read_link(entry.ok()?.path()).ok());
    let is_memory = |path: &PathBuf| {
        let path = path.to_string_lossy();
        path.contains("memfd:") || path.ends_with("/memory") || path == "/dev/zero"
    };
    leads.filter(is_memory).collect()
}
