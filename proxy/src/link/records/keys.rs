//! The keys of a TLS session, which rustls derives, and both it and the record layer of a link use.
//!
//! The cryptography is the provider's: rustls makes each key by its own schedule and hands it to the AEAD of the cipher suite.
//! That of [`provider`] is the provider's own, but counts the records of a key in one place, so that it does not matter
//! which of the two seals or opens the next one.

use std::cell::RefCell;
use std::future::poll_fn;
use std::pin::pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock};

use aws_lc_rs::aead::{AES_128_GCM, AES_256_GCM, Aad, Algorithm, CHACHA20_POLY1305, LessSafeKey, UnboundKey};
use lighter_config::identity;
use rustls::crypto::CryptoProvider;
use rustls::crypto::cipher::{
    AeadKey, InboundOpaqueMessage, InboundPlainMessage, Iv, MessageDecrypter, MessageEncrypter, Nonce,
    OutboundOpaqueMessage, OutboundPlainMessage, PrefixedPayload, Tls13AeadAlgorithm,
    UnsupportedOperationError, make_tls13_aad,
};
use rustls::{
    CipherSuite, CipherSuiteCommon, ConnectionTrafficSecrets, ContentType, Error, ProtocolVersion,
    SupportedCipherSuite, Tls13CipherSuite,
};

/// The provider for configurations under which links are made. Connections that are no links work with it as with any.
pub(crate) fn provider() -> Arc<CryptoProvider> {
    static PROVIDER: LazyLock<Arc<CryptoProvider>> = LazyLock::new(|| {
        let mut provider = CryptoProvider::clone(&identity::provider());
        provider.cipher_suites.iter_mut().for_each(|suite| *suite = shared(*suite));
        Arc::new(provider)
    });
    PROVIDER.clone()
}

/// The newest keys of a session, each way. They are given up with it.
#[derive(Default)]
pub(crate) struct Ways {
    pub(super) out: Option<Arc<Way>>,
    pub(super) inward: Option<Arc<Way>>,
}

impl Ways {
    /// Those out and in, if both are there.
    pub(super) fn both(self) -> Option<[Arc<Way>; 2]> {
        Some([self.out?, self.inward?])
    }
}

/// Does a handshake, and keeps the keys that come of it.
pub(crate) async fn catch<F: Future>(handshake: F) -> (F::Output, Ways) {
    let mut ways = Ways::default();
    let mut handshake = pin!(handshake);
    let done = poll_fn(|cx| caught(&mut ways, || handshake.as_mut().poll(cx))).await;
    (done, ways)
}

/// Has rustls do something with a session, and keeps the keys that come of it.
pub(super) fn caught<T>(ways: &mut Ways, does: impl FnOnce() -> T) -> T {
    /// Gives the keys to whose they are, also where rustls panics: another session of this thread is not to have them.
    struct Scope<'a>(&'a mut Ways, Option<Ways>);

    impl Drop for Scope<'_> {
        fn drop(&mut self) {
            *self.0 = SCOPE.replace(self.1.take()).unwrap_or_default();
        }
    }

    let outer = SCOPE.replace(Some(std::mem::take(ways)));
    let _scope = Scope(ways, outer);
    does()
}

thread_local! {
    /// Of the session that rustls is at work on in this thread. It says for no key to which session that belongs.
    static SCOPE: RefCell<Option<Ways>> = const { RefCell::new(None) };
}

/// The key of one direction, and how many records it has sealed or opened.
pub(super) struct Way {
    /// None: it was of the wrong length, which rustls never makes.
    key: Option<LessSafeKey>,
    iv: Iv,
    /// Atomic, as rustls wants to be able to send its half from thread to thread.
    sequence: AtomicU64,
}

impl Way {
    fn new(algorithm: &'static Algorithm, key: &AeadKey, iv: Iv) -> Arc<Self> {
        let key = UnboundKey::new(algorithm, key.as_ref()).ok().map(LessSafeKey::new);
        Arc::new(Way { key, iv, sequence: AtomicU64::new(0) })
    }

    /// Seals a record in place: `content` is what is in it and its type, `header` what stands before it. Gives the tag that
    /// goes behind it.
    pub(super) fn seal(
        &self,
        header: [u8; HEADER_BYTES],
        content: &mut [u8],
    ) -> Result<[u8; TAG_BYTES], Error> {
        let key = self.key.as_ref().ok_or(Error::EncryptError)?;
        let sequence = self.sequence.fetch_add(1, Ordering::Relaxed);
        if sequence >= MOST_SEALED {
            return Err(Error::EncryptError);
        }
        let sealed = key.seal_in_place_separate_tag(self.nonce(sequence), Aad::from(header), content);
        let tag = sealed.map_err(|_| Error::EncryptError)?;
        tag.as_ref().try_into().map_err(|_| Error::EncryptError)
    }

    /// Opens a record behind `header` into `to`, which is as long as `sealed` without its tag. True: it is what the peer has sealed. It counts
    /// only once [`opened`](Way::opened) says so, and can be opened again until then.
    pub(super) fn open(&self, header: [u8; HEADER_BYTES], sealed: &[u8], to: &mut [u8]) -> bool {
        let Some((key, (content, tag))) = self.key.as_ref().zip(sealed.split_at_checked(to.len())) else {
            return false;
        };
        let nonce = self.nonce(self.count());
        key.open_separate_gather(nonce, Aad::from(header), content, tag, to).is_ok()
    }

    /// What was opened last counts.
    pub(super) fn opened(&self) {
        self.sequence.store(self.count() + 1, Ordering::Relaxed);
    }

    /// Records that it has sealed or opened.
    pub(super) fn count(&self) -> u64 {
        self.sequence.load(Ordering::Relaxed)
    }

    /// As if it had sealed or opened so many.
    #[cfg(test)]
    pub(super) fn skip_to(&self, count: u64) {
        self.sequence.store(count, Ordering::Relaxed);
    }

    fn nonce(&self, sequence: u64) -> aws_lc_rs::aead::Nonce {
        aws_lc_rs::aead::Nonce::assume_unique_for_key(Nonce::new(&self.iv, sequence).0)
    }
}

/// Rustls's half of a [`Way`].
struct Half(Arc<Way>);

impl MessageEncrypter for Half {
    fn encrypt(
        &mut self,
        message: OutboundPlainMessage<'_>,
        _sequence: u64,
    ) -> Result<OutboundOpaqueMessage, Error> {
        let length = self.encrypted_payload_len(message.payload.len());
        let mut payload = PrefixedPayload::with_capacity(length);
        payload.extend_from_chunks(&message.payload);
        payload.extend_from_slice(&[message.typ.into()]);
        let tag = self.0.seal(make_tls13_aad(length), payload.as_mut())?;
        payload.extend_from_slice(&tag);
        Ok(OutboundOpaqueMessage::new(ContentType::ApplicationData, ProtocolVersion::TLSv1_2, payload))
    }

    fn encrypted_payload_len(&self, payload: usize) -> usize {
        payload + 1 + TAG_BYTES
    }
}

impl MessageDecrypter for Half {
    fn decrypt<'a>(
        &mut self,
        mut message: InboundOpaqueMessage<'a>,
        _sequence: u64,
    ) -> Result<InboundPlainMessage<'a>, Error> {
        let Way { key, .. } = &*self.0;
        let key = key.as_ref().ok_or(Error::DecryptError)?;
        let aad = Aad::from(make_tls13_aad(message.payload.len()));
        let opened = key.open_in_place(self.0.nonce(self.0.count()), aad, &mut message.payload);
        let length = opened.map_err(|_| Error::DecryptError)?.len();
        self.0.opened();
        message.payload.truncate(length);
        message.into_tls13_unpadded_message()
    }
}

/// The AEAD of a cipher suite, whose keys can be had.
struct Shared {
    algorithm: &'static Algorithm,
    own: &'static dyn Tls13AeadAlgorithm,
}

impl Tls13AeadAlgorithm for Shared {
    fn encrypter(&self, key: AeadKey, iv: Iv) -> Box<dyn MessageEncrypter> {
        let way = Way::new(self.algorithm, &key, iv);
        SCOPE.with_borrow_mut(|ways| ways.iter_mut().for_each(|ways| ways.out = Some(way.clone())));
        Box::new(Half(way))
    }

    fn decrypter(&self, key: AeadKey, iv: Iv) -> Box<dyn MessageDecrypter> {
        let way = Way::new(self.algorithm, &key, iv);
        SCOPE.with_borrow_mut(|ways| ways.iter_mut().for_each(|ways| ways.inward = Some(way.clone())));
        Box::new(Half(way))
    }

    fn key_len(&self) -> usize {
        self.own.key_len()
    }

    fn extract_keys(
        &self,
        key: AeadKey,
        iv: Iv,
    ) -> Result<ConnectionTrafficSecrets, UnsupportedOperationError> {
        self.own.extract_keys(key, iv)
    }

    fn fips(&self) -> bool {
        self.own.fips()
    }
}

/// The same suite with an AEAD whose keys can be had; one of TLS 1.2, or that is not known, as it is.
fn shared(suite: SupportedCipherSuite) -> SupportedCipherSuite {
    let algorithm = match suite.suite() {
        CipherSuite::TLS13_AES_128_GCM_SHA256 => &AES_128_GCM,
        CipherSuite::TLS13_AES_256_GCM_SHA384 => &AES_256_GCM,
        CipherSuite::TLS13_CHACHA20_POLY1305_SHA256 => &CHACHA20_POLY1305,
        _ => return suite,
    };
    let Some(own) = suite.tls13() else { return suite };
    let common = CipherSuiteCommon {
        suite: own.common.suite,
        hash_provider: own.common.hash_provider,
        confidentiality_limit: own.common.confidentiality_limit,
    };
    // Rustls keeps suites for ever. There are three, made once.
    let aead_alg = Box::leak(Box::new(Shared { algorithm, own: own.aead_alg }));
    let suite = Tls13CipherSuite { common, hkdf_provider: own.hkdf_provider, aead_alg, quic: own.quic };
    SupportedCipherSuite::Tls13(Box::leak(Box::new(suite)))
}

/// Of a record: its type, a version, its length.
pub(super) const HEADER_BYTES: usize = 5;

/// Of a tag, of each AEAD that TLS 1.3 has.
pub(super) const TAG_BYTES: usize = 16;

/// A key seals no more than so many records, whatever happens. It is replaced long before.
const MOST_SEALED: u64 = 1 << 48;
