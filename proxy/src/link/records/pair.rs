//! Two ends of a session in memory, for tests and fuzzers: the record layer of a link, and rustls.

#![expect(clippy::unwrap_used, reason = "what fails here fails a test")]

use std::io::{IoSlice, Read, Write};
use std::sync::{Arc, LazyLock};

use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{
    ClientConfig, ClientConnection, Connection, Error, RootCertStore, ServerConfig, ServerConnection,
};
use tokio::io::ReadBuf;

use super::keys::{TAG_BYTES, Way, Ways, caught, provider};
use super::session::Session;
use crate::link::carrier::Walk;

/// This side, and rustls. The provider of both is the same, so that a test has the keys of both.
pub(crate) struct Pair {
    pub(super) ours: Session,
    pub(super) theirs: Connection,
    pub(super) their_ways: Ways,
    /// Sealed by them, and not opened here.
    pub(crate) to_us: Vec<u8>,
    /// Sealed here, and not opened by them.
    pub(super) to_them: Vec<u8>,
    /// What either has opened.
    pub(crate) we_got: Vec<u8>,
    pub(crate) they_got: Vec<u8>,
}

/// A certificate, and its key.
static OWN: LazyLock<(CertificateDer<'static>, Vec<u8>)> = LazyLock::new(|| {
    let own = rcgen::generate_simple_self_signed(vec!["link.test".into()]).unwrap();
    (own.cert.der().clone(), own.signing_key.serialize_der())
});

fn ends(suite: usize) -> [Connection; 2] {
    let mut provider = rustls::crypto::CryptoProvider::clone(&provider());
    provider.cipher_suites.retain(|suite| suite.tls13().is_some());
    provider.cipher_suites = vec![provider.cipher_suites[suite % 3]];
    let provider = Arc::new(provider);
    let versions = &[&rustls::version::TLS13];
    let (certificate, key) = &*OWN;
    let mut roots = RootCertStore::empty();
    roots.add(certificate.clone()).unwrap();
    let client = ClientConfig::builder_with_provider(provider.clone()).with_protocol_versions(versions);
    let client = client.unwrap().with_root_certificates(roots).with_no_client_auth();
    let server = ServerConfig::builder_with_provider(provider).with_protocol_versions(versions).unwrap();
    let key = PrivateKeyDer::try_from(key.clone()).unwrap();
    let server = server.with_no_client_auth().with_single_cert(vec![certificate.clone()], key).unwrap();
    let name = ServerName::try_from("link.test").unwrap();
    [
        ClientConnection::new(Arc::new(client), name).unwrap().into(),
        ServerConnection::new(Arc::new(server)).unwrap().into(),
    ]
}

impl Pair {
    /// Their first content, `early`, comes with the end of the handshake where they are the client, cut `cut` bytes short.
    pub(crate) fn new(we_dial: bool, suite: usize, early: &[u8], cut: usize) -> Self {
        let [client, server] = ends(suite);
        let [mut ours, mut theirs] = if we_dial { [client, server] } else { [server, client] };
        let (mut our_ways, mut their_ways, mut walk) = (Ways::default(), Ways::default(), Walk::default());
        // What is to go out waits in memory.
        theirs.set_buffer_limit(None);
        let mut said = false;
        let mut late = Vec::new();
        while ours.is_handshaking() || theirs.is_handshaking() || theirs.wants_write() || !said {
            let mut bytes = Vec::new();
            while ours.wants_write() {
                ours.write_tls(&mut bytes).unwrap();
            }
            give(&mut theirs, &mut their_ways, &bytes).unwrap();
            if !theirs.is_handshaking() && !said {
                theirs.writer().write_all(early).unwrap();
                said = true;
            }
            bytes.clear();
            while theirs.wants_write() {
                theirs.write_tls(&mut bytes).unwrap();
            }
            if said {
                late.extend(bytes.split_off(bytes.len().saturating_sub(cut)));
            }
            walk.pass(&bytes);
            give(&mut ours, &mut our_ways, &bytes).unwrap();
            if said && ours.is_handshaking() {
                // It needs all of that.
                walk.pass(&late);
                give(&mut ours, &mut our_ways, &std::mem::take(&mut late)).unwrap();
            }
        }
        Pair {
            ours: Session::new(ours, our_ways.both().unwrap(), walk),
            theirs,
            their_ways,
            to_us: late,
            to_them: Vec::new(),
            we_got: Vec::new(),
            they_got: Vec::new(),
        }
    }

    /// What they have sealed is on its way.
    pub(crate) fn flush(&mut self) {
        let Pair { theirs, their_ways, to_us, .. } = self;
        // If they have failed they say why.
        let _ = caught(their_ways, || theirs.writer().write(&[]));
        while theirs.wants_write() {
            theirs.write_tls(to_us).unwrap();
        }
    }

    /// Opens what came, into room for `room` bytes at a time.
    pub(crate) fn open(&mut self, room: usize) -> Result<(), Error> {
        let mut memory = vec![0; room];
        loop {
            let mut to = ReadBuf::new(&mut memory);
            self.ours.take(&mut to);
            let done = self.ours.open(&self.to_us, &mut to, false)?;
            self.to_us.drain(..done);
            self.we_got.extend_from_slice(to.filled());
            if done == 0 && to.filled().is_empty() {
                return Ok(());
            }
        }
    }

    /// They open what came.
    pub(crate) fn they_open(&mut self) -> Result<(), Error> {
        let came = std::mem::take(&mut self.to_them);
        // It takes no more than a record beyond what was read of it.
        for part in came.chunks(1024) {
            give(&mut self.theirs, &mut self.their_ways, part)?;
            let mut content = [0; 8192];
            while let Ok(read @ 1..) = self.theirs.reader().read(&mut content) {
                self.they_got.extend_from_slice(&content[..read]);
            }
        }
        Ok(())
    }

    pub(crate) fn seal(&mut self, content: &[u8]) {
        let mut left = content;
        while !left.is_empty() {
            let (one, other) = left.split_at(left.len() / 3);
            let slices = [IoSlice::new(one), IoSlice::new(&[]), IoSlice::new(other)];
            let sealed = self.ours.seal(&slices, &mut self.to_them).unwrap();
            left = &left[sealed..];
        }
    }

    /// A record of theirs with any content.
    pub(crate) fn their_record(&mut self, content: &[u8]) {
        record(self.their_ways.out.as_ref().unwrap(), content, &mut self.to_us);
    }
}

fn give(tls: &mut Connection, ways: &mut Ways, mut bytes: &[u8]) -> Result<(), Error> {
    while !bytes.is_empty() && matches!(tls.read_tls(&mut bytes), Ok(1..)) {
        caught(ways, || tls.process_new_packets())?;
    }
    Ok(())
}

fn record(way: &Way, content: &[u8], to: &mut Vec<u8>) {
    let [high, low] = ((content.len() + TAG_BYTES) as u16).to_be_bytes();
    let header = [23, 3, 3, high, low];
    let mut sealed = content.to_vec();
    let tag = way.seal(header, &mut sealed).unwrap();
    to.extend_from_slice(&header);
    to.extend_from_slice(&sealed);
    to.extend_from_slice(&tag);
}
