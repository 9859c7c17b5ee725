//! A caller and a workload with a sidecar each, and a root that says who is who.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, KeyUsagePurpose, SanType,
};
use tempfile::TempDir;

use crate::support::process::free_address;
use crate::support::sidecar::Sidecar;

pub const WEB: &str = "spiffe://mesh.lighter/ns/default/sa/web";
pub const REVIEWS: &str = "spiffe://mesh.lighter/ns/default/sa/reviews";
pub const RATINGS: &str = "spiffe://mesh.lighter/ns/default/sa/ratings";

/// A root of trust, and a folder for what it issues.
pub struct Root {
    issuer: CertifiedIssuer<'static, KeyPair>,
    folder: TempDir,
}

impl Root {
    pub fn new() -> Self {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, "root");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let root = Root { issuer, folder: tempfile::tempdir().unwrap() };
        std::fs::write(root.bundle(), root.issuer.pem()).unwrap();
        root
    }

    /// The root itself, as a file.
    pub fn bundle(&self) -> PathBuf {
        self.folder.path().join("roots.pem")
    }

    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Files that prove to be `id`: certificate and key.
    pub fn issue(&self, id: &str) -> (PathBuf, PathBuf) {
        self.issue_for(id, Duration::from_secs(24 * 3600))
    }

    /// The same, of a certificate that lives so long.
    pub fn issue_for(&self, id: &str, life: Duration) -> (PathBuf, PathBuf) {
        let name = id.rsplit('/').next().unwrap();
        let mut params = CertificateParams::default();
        // Another name than the root's, or some would take it for one that has signed itself.
        params.distinguished_name.push(DnType::CommonName, name);
        params.subject_alt_names = vec![SanType::URI(id.try_into().unwrap())];
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.not_after = (SystemTime::now() + life).into();
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        let files = [("pem", certificate.pem()), ("key", key.serialize_pem())].map(|(kind, pem)| {
            let path = self.folder.path().join(format!("{name}.{kind}"));
            std::fs::write(&path, pem).unwrap();
            path
        });
        files.into()
    }

    /// What a sidecar's file says of `id`.
    pub fn identity(&self, id: &str) -> String {
        let (certificate, key) = self.issue(id);
        let [certificate, key, bundle] =
            [certificate, key, self.bundle()].map(|path| path.display().to_string());
        format!("identity: {{certificate: {certificate}, key: {key}, bundle: {bundle}}}\n")
    }
}

/// The Service `reviews` with one endpoint, which has to be `identity`.
pub fn reviews(protocol: &str, endpoint: SocketAddr, identity: &str) -> String {
    format!(
        "apiVersion: mesh.lighter.dev/v1\nkind: Service\nmetadata: {{name: reviews}}\nspec:\n  ports: [{{port: 80, \
         targetPort: 8080, appProtocol: {protocol}}}]\n  endpoints: [{{address: {}, port: {}, secure: {{identity: \
         '{identity}'}}}}]\n",
        endpoint.ip(),
        endpoint.port()
    )
}

/// A MeshPolicy that lets only callers in who prove who they are.
pub const STRICT: &str =
    "---\napiVersion: mesh.lighter.dev/v1\nkind: MeshPolicy\nmetadata: {name: mesh}\nspec: {mtls: strict}\n";

/// The sidecar of `reviews` before `app`, and where callers reach it.
pub fn workload(root: &Root, protocol: &str, app: SocketAddr, more: &str) -> (Sidecar, SocketAddr) {
    let listen = free_address();
    let resources = reviews(protocol, listen, REVIEWS) + more;
    let log = root.folder().join("reviews.log");
    let own = format!(
        "service: reviews\nworkers: 1\ninbound: [{{listen: '{listen}', app: '{app}', port: 80}}]\naccessLog: {{path: \
         {}}}\n{}",
        log.display(),
        root.identity(REVIEWS)
    );
    (Sidecar::start(&resources, &own), listen)
}

/// The sidecar of `web`, which calls what `resources` say of `reviews`, and where it is reached. `identity` is what its
/// file says of that.
pub fn caller(resources: &str, identity: &str) -> (Sidecar, SocketAddr) {
    let listen = free_address();
    let own =
        format!("listeners: [{{listen: '{listen}', service: reviews, port: 80}}]\nworkers: 1\n{identity}");
    (Sidecar::start(resources, &own), listen)
}

/// Both, with everything as it should be: the caller's sidecar and its listener, and the workload's.
pub struct Pair {
    pub root: Root,
    pub web: Sidecar,
    pub listen: SocketAddr,
    pub reviews: Sidecar,
}

impl Pair {
    pub fn before(protocol: &str, app: SocketAddr) -> Self {
        let root = Root::new();
        let (sidecar, endpoint) = workload(&root, protocol, app, "");
        let (web, listen) = caller(&reviews(protocol, endpoint, REVIEWS), &root.identity(WEB));
        Pair { root, web, listen, reviews: sidecar }
    }

    /// Connections on which `web` proved who it is.
    pub fn proved(&self) -> f64 {
        let labels = [("security", "mtls"), ("caller", WEB), ("outcome", "served")];
        self.reviews.metrics().sum("lighter_inbound_connections_total", &labels)
    }

    /// Connections in plain text that the workload's sidecar served.
    pub fn plain(&self) -> f64 {
        let labels = [("security", "plaintext"), ("outcome", "served")];
        self.reviews.metrics().sum("lighter_inbound_connections_total", &labels)
    }
}
