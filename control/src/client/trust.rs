//! Whom a command takes for the control plane: the certificates of one file, and what they have signed.

use std::path::Path;
use std::sync::Arc;

use miette::{Context, IntoDiagnostic, miette};
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme};

/// Trusts what is in the file, and nothing else of the world. `own`: the files with a certificate to show, and its key.
pub fn client_config(path: &Path, own: Option<(&Path, &Path)>) -> miette::Result<Arc<ClientConfig>> {
    let pinned = certificates(path)?;
    let mut roots = RootCertStore::empty();
    for certificate in &pinned {
        roots
            .add(certificate.clone())
            .into_diagnostic()
            .wrap_err_with(|| format!("{} has a certificate that cannot be used", path.display()))?;
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let signed = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider.clone());
    let verifier = Verifier { pinned, signed: signed.build().into_diagnostic()? };
    let config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .into_diagnostic()?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier));
    let Some((certificate, key)) = own else { return Ok(Arc::new(config.with_no_client_auth())) };
    let fault = |path: &Path, error: &dyn std::fmt::Display| {
        miette!("the operator's certificate cannot be used: {}: {error}", path.display())
    };
    let chain = CertificateDer::pem_file_iter(certificate)
        .and_then(Iterator::collect)
        .map_err(|error| fault(certificate, &error))?;
    let secret = PrivateKeyDer::from_pem_file(key).map_err(|error| fault(key, &error))?;
    let config = config.with_client_auth_cert(chain, secret).map_err(|error| fault(certificate, &error))?;
    Ok(Arc::new(config))
}

/// The certificates of a file in PEM; at least one.
fn certificates(path: &Path) -> miette::Result<Vec<CertificateDer<'static>>> {
    let fault = |error: &dyn std::fmt::Display| {
        miette!(
            help = "name a copy of `api.pem` of the control plane's state with --ca-file or LIGHTER_CA_FILE",
            "the control plane's certificate in {} cannot be read: {error}",
            path.display()
        )
    };
    let found: Result<Vec<_>, _> = CertificateDer::pem_file_iter(path).and_then(Iterator::collect);
    match found {
        Ok(found) if found.is_empty() => Err(fault(&"there is no certificate in it")),
        Ok(found) => Ok(found),
        Err(error) => Err(fault(&error)),
    }
}

/// A server whose certificate is one of the file needs no name and no date: whoever has its key is who was meant. Any
/// other needs both, and a signature by one of the file. That the server has its certificate's key is proved always.
#[derive(Debug)]
struct Verifier {
    pinned: Vec<CertificateDer<'static>>,
    signed: Arc<WebPkiServerVerifier>,
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        if self.pinned.iter().any(|pinned| pinned == end_entity) {
            return Ok(ServerCertVerified::assertion());
        }
        self.signed.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.signed.verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.signed.verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.signed.supported_verify_schemes()
    }
}
