//! Who is who in a mesh: SPIFFE IDs, and which certificates prove them.
//!
//! [`Spiffe`] is a name, [`Trust`] decides whether a chain of certificates proves one, and [`Verifier`] puts that
//! decision into a TLS handshake. Nothing here opens a socket or looks at a clock.

use std::fmt;
use std::sync::Arc;

use crate::name::ServiceName;

mod pinned;
mod token;
mod trust;
mod verifier;

pub use pinned::Pinned;
pub use token::{JoinToken, TokenError};
pub use trust::{Peer, Refusal, Trust, TrustError, Usage, id_of};
pub use verifier::{Judge, Verifier, provider};

/// The trust domain of a mesh that names none.
pub const DEFAULT_TRUST_DOMAIN: &str = "mesh.lighter";

/// A SPIFFE ID with a path: who a workload is (SPIFFE-ID §2). Cheap to clone.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Spiffe {
    text: Arc<str>,
    /// Where the path begins, with its slash.
    path: usize,
}

/// The name of a trust domain: who vouches for the workloads in it (SPIFFE-ID §2.1). Cheap to clone.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TrustDomain(Arc<str>);

/// Why a text is no SPIFFE ID, or no trust domain.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SpiffeError {
    /// It is longer than 2048 bytes.
    #[error("it is longer than {MOST_BYTES} bytes")]
    TooLong,
    /// It does not begin with `spiffe://`.
    #[error("it does not begin with `{SCHEME}`")]
    Scheme,
    /// The trust domain is empty or longer than 255 bytes.
    #[error("its trust domain has no bytes, or more than {MOST_DOMAIN_BYTES}")]
    DomainLength,
    /// The trust domain has other characters than lower-case letters, digits, `.`, `-` and `_`.
    #[error("its trust domain has characters other than a-z, 0-9, `.`, `-` and `_`")]
    DomainCharacter,
    /// There is no path: it names a whole trust domain.
    #[error("it has no path")]
    NoPath,
    /// A segment of the path is empty, `.` or `..`, or the path ends with a slash.
    #[error("a segment of its path is empty, `.` or `..`")]
    Segment,
    /// The path has other characters than letters, digits, `.`, `-`, `_` and `/`.
    #[error("its path has characters other than letters, digits, `.`, `-` and `_`")]
    PathCharacter,
}

impl Spiffe {
    /// Reads a SPIFFE ID. Nothing is normalized: what is not written as the specification wants it is refused, so that
    /// two IDs are the same exactly if their bytes are.
    pub fn parse(text: &str) -> Result<Self, SpiffeError> {
        if text.len() > MOST_BYTES {
            return Err(SpiffeError::TooLong);
        }
        let rest = text.strip_prefix(SCHEME).ok_or(SpiffeError::Scheme)?;
        let (domain, path) = match rest.find('/') {
            Some(slash) => rest.split_at(slash),
            None => (rest, ""),
        };
        check_domain(domain)?;
        let segments = path.strip_prefix('/').ok_or(SpiffeError::NoPath)?;
        segments.split('/').try_for_each(check_segment)?;
        Ok(Spiffe { text: text.into(), path: SCHEME.len() + domain.len() })
    }

    /// The identity of a service's workloads: `spiffe://DOMAIN/ns/NAMESPACE/sa/NAME`.
    pub fn service(domain: &TrustDomain, service: &ServiceName) -> Result<Self, SpiffeError> {
        Self::parse(&format!("{SCHEME}{domain}/ns/{}/sa/{}", service.namespace, service.name))
    }

    /// The identity of the control plane itself. No service can have it, whatever it is called.
    pub fn control_plane(domain: &TrustDomain) -> Self {
        let text = format!("{SCHEME}{domain}/lighter/control");
        Spiffe { path: SCHEME.len() + domain.0.len(), text: text.into() }
    }

    /// The identity of an operator, who is no workload: `spiffe://DOMAIN/lighter/operator/NAME`.
    pub fn operator(domain: &TrustDomain, name: &str) -> Result<Self, SpiffeError> {
        check_segment(name)?;
        Self::parse(&format!("{SCHEME}{domain}{OPERATOR}{name}"))
    }

    /// The operator's name, where this is one's identity.
    pub fn operator_name(&self) -> Option<&str> {
        self.path().strip_prefix(OPERATOR).filter(|name| !name.contains('/'))
    }

    /// The whole ID.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The trust domain: `mesh.lighter` of `spiffe://mesh.lighter/ns/shop/sa/web`.
    pub fn trust_domain(&self) -> &str {
        &self.text[SCHEME.len()..self.path]
    }

    /// The path with its slash: `/ns/shop/sa/web`.
    pub fn path(&self) -> &str {
        &self.text[self.path..]
    }

    /// `shop` of `/ns/shop/sa/web`; none where the path has another form.
    pub fn namespace(&self) -> Option<&str> {
        self.parts().map(|(namespace, _)| namespace)
    }

    /// The service's name, or the service account as Kubernetes calls it: `web` of `/ns/shop/sa/web`; none where the
    /// path has another form.
    pub fn account(&self) -> Option<&str> {
        self.parts().map(|(_, account)| account)
    }

    /// The service of this identity, none where the path has another form.
    pub fn service_name(&self) -> Option<ServiceName> {
        self.parts().map(|(namespace, account)| ServiceName::new(namespace, account))
    }

    fn parts(&self) -> Option<(&str, &str)> {
        let (namespace, account) = self.path().strip_prefix("/ns/")?.split_once("/sa/")?;
        (!namespace.contains('/') && !account.contains('/')).then_some((namespace, account))
    }
}

impl fmt::Display for Spiffe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl std::str::FromStr for Spiffe {
    type Err = SpiffeError;

    fn from_str(text: &str) -> Result<Self, SpiffeError> {
        Self::parse(text)
    }
}

impl TrustDomain {
    /// Reads a name such as `mesh.lighter`, without a scheme.
    pub fn parse(text: &str) -> Result<Self, SpiffeError> {
        check_domain(text)?;
        Ok(TrustDomain(text.into()))
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for TrustDomain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

fn check_domain(domain: &str) -> Result<(), SpiffeError> {
    if domain.is_empty() || domain.len() > MOST_DOMAIN_BYTES {
        return Err(SpiffeError::DomainLength);
    }
    // No user, no port, no percent: their characters are not among these.
    let allowed = |byte: u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'.' | b'-' | b'_');
    if domain.bytes().all(allowed) { Ok(()) } else { Err(SpiffeError::DomainCharacter) }
}

fn check_segment(segment: &str) -> Result<(), SpiffeError> {
    if matches!(segment, "" | "." | "..") {
        return Err(SpiffeError::Segment);
    }
    // Neither a query nor a fragment: their characters are not among these.
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_');
    if segment.bytes().all(allowed) { Ok(()) } else { Err(SpiffeError::PathCharacter) }
}

const SCHEME: &str = "spiffe://";

/// What paths of operators begin with.
const OPERATOR: &str = "/lighter/operator/";

/// Longest ID that everyone must support, and so the longest here (SPIFFE-ID §2.3).
const MOST_BYTES: usize = 2048;

/// Longest trust domain (SPIFFE-ID §2.3).
const MOST_DOMAIN_BYTES: usize = 255;

#[cfg(test)]
#[path = "identity/tests.rs"]
mod certificates;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn an_id_says_who_and_in_which_domain() {
        let id = Spiffe::parse("spiffe://mesh.lighter/ns/shop/sa/web").unwrap();
        assert_eq!(id.trust_domain(), "mesh.lighter");
        assert_eq!((id.namespace(), id.account()), (Some("shop"), Some("web")));
        assert_eq!(id.to_string(), "spiffe://mesh.lighter/ns/shop/sa/web");
        let domain = TrustDomain::parse("mesh.lighter").unwrap();
        assert_eq!(Spiffe::service(&domain, &ServiceName::new("shop", "web")), Ok(id));
        let control = Spiffe::control_plane(&domain);
        assert_eq!(Spiffe::parse(control.as_str()), Ok(control.clone()));
        assert_eq!(control.service_name(), None);
        let operator = Spiffe::operator(&domain, "alice").unwrap();
        assert_eq!((operator.operator_name(), operator.service_name()), (Some("alice"), None));
        assert_eq!(Spiffe::operator(&domain, "a/b"), Err(SpiffeError::PathCharacter));
        assert_eq!(control.operator_name(), None);
    }

    #[test]
    fn another_form_of_path_names_no_service() {
        for path in ["/web", "/ns/shop", "/ns/shop/sa/web/x", "/ns/a/b/sa/web", "/ns/shop/svc/web"] {
            let id = Spiffe::parse(&format!("spiffe://d{path}")).unwrap();
            assert_eq!(id.service_name(), None, "{path}");
        }
    }

    #[test]
    fn what_the_specification_forbids_is_refused() {
        use SpiffeError::*;
        for (text, error) in [
            ("", Scheme),
            ("https://mesh.lighter/web", Scheme),
            ("SPIFFE://mesh.lighter/web", Scheme),
            ("spiffe:///web", DomainLength),
            ("spiffe://Mesh/web", DomainCharacter),
            ("spiffe://user@mesh/web", DomainCharacter),
            ("spiffe://mesh:443/web", DomainCharacter),
            ("spiffe://m%65sh/web", DomainCharacter),
            ("spiffe://mesh?q/web", DomainCharacter),
            ("spiffe://mésh/web", DomainCharacter),
            ("spiffe://mesh", NoPath),
            ("spiffe://mesh/", Segment),
            ("spiffe://mesh/web/", Segment),
            ("spiffe://mesh//web", Segment),
            ("spiffe://mesh/./web", Segment),
            ("spiffe://mesh/a/../web", Segment),
            ("spiffe://mesh/we%62", PathCharacter),
            ("spiffe://mesh/web?q", PathCharacter),
            ("spiffe://mesh/web#f", PathCharacter),
            ("spiffe://mesh/wéb", PathCharacter),
            ("spiffe://mesh/a b", PathCharacter),
            ("spiffe://mesh/a\0", PathCharacter),
        ] {
            assert_eq!(Spiffe::parse(text), Err(error), "{text}");
        }
    }

    #[test]
    fn lengths_have_limits() {
        let domain = |length: usize| Spiffe::parse(&format!("spiffe://{}/w", "d".repeat(length)));
        assert!(domain(255).is_ok());
        assert_eq!(domain(256), Err(SpiffeError::DomainLength));
        let id = |length: usize| Spiffe::parse(&format!("spiffe://d/{}", "p".repeat(length - 11)));
        assert!(id(2048).is_ok());
        assert_eq!(id(2049), Err(SpiffeError::TooLong));
    }

    proptest! {
        #[test]
        fn no_text_breaks_it_and_what_is_read_is_kept(text in "(spiffe://)?[a-zA-Z0-9./:_@%?#é-]{0,40}") {
            if let Ok(id) = Spiffe::parse(&text) {
                prop_assert_eq!(id.as_str(), &text);
                prop_assert_eq!(format!("spiffe://{}{}", id.trust_domain(), id.path()), text);
            }
        }
    }
}
