//! Join tokens, as a workload reads them: what is in one besides a secret.

use std::fmt;

use crate::hex;
use crate::name::ServiceName;

/// What `lighter ca token` prints: `lighter-join.NAMESPACE.NAME.HEX`, where HEX is an id (8 bytes), a secret (32 bytes)
/// and the SHA-256 of each root that is trusted (32 bytes). With it a workload gets its first certificate, once.
#[derive(Clone, PartialEq, Eq)]
pub struct JoinToken {
    text: Box<str>,
    service: ServiceName,
    roots: Vec<[u8; 32]>,
}

/// Why a text is no join token. It never has a part of the text: that may be a secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// It does not begin as join tokens do.
    #[error("a join token begins with `{PREFIX}`")]
    Prefix,
    /// It does not name a service, or its last part is not as it should be.
    #[error("the join token is cut short or damaged")]
    Damaged,
}

impl JoinToken {
    /// Reads one. White space around it does not matter.
    pub fn parse(text: &str) -> Result<Self, TokenError> {
        let text = text.trim();
        let rest = text.strip_prefix(PREFIX).ok_or(TokenError::Prefix)?;
        let mut parts = rest.split('.');
        let (Some(namespace), Some(name), Some(digits), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(TokenError::Damaged);
        };
        let bytes = hex::decode(digits.as_bytes()).ok_or(TokenError::Damaged)?;
        let (roots, []) = bytes.get(BEFORE_ROOTS..).unwrap_or_default().as_chunks() else {
            return Err(TokenError::Damaged);
        };
        if roots.is_empty() || namespace.is_empty() || name.is_empty() {
            return Err(TokenError::Damaged);
        }
        Ok(JoinToken { text: text.into(), service: ServiceName::new(namespace, name), roots: roots.to_vec() })
    }

    /// The whole token, with its secret.
    pub fn secret(&self) -> &str {
        &self.text
    }

    /// For which service it says that it is. The control plane decides by its own record.
    pub fn service(&self) -> &ServiceName {
        &self.service
    }

    /// SHA-256 of each root by which the control plane may prove who it is.
    pub fn roots(&self) -> &[[u8; 32]] {
        &self.roots
    }
}

impl fmt::Debug for JoinToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JoinToken").field("service", &self.service).finish_non_exhaustive()
    }
}

const PREFIX: &str = "lighter-join.";

/// The id and the secret.
const BEFORE_ROOTS: usize = 8 + 32;

#[cfg(test)]
mod tests {
    use super::*;

    fn token(roots: usize) -> String {
        format!("lighter-join.shop.web.{}{}", "5e".repeat(40), "0a".repeat(32 * roots))
    }

    #[test]
    fn a_token_says_for_whom_it_is_and_which_roots_to_trust() {
        for roots in 1..3 {
            let parsed = JoinToken::parse(&format!(" {}\n", token(roots))).unwrap();
            assert_eq!(parsed.secret(), token(roots));
            assert_eq!(*parsed.service(), ServiceName::new("shop", "web"));
            assert_eq!(parsed.roots(), vec![[10; 32]; roots]);
        }
    }

    #[test]
    fn what_is_damaged_is_refused_and_never_repeated() {
        assert_eq!(JoinToken::parse("secret"), Err(TokenError::Prefix));
        let whole = token(1);
        for damaged in [
            whole[..whole.len() - 1].to_owned(),
            whole[..whole.len() - 2].to_owned(),
            token(0),
            whole.replace(".web", ""),
            whole.replace(".web", "."),
            whole.replace(".web", ".web.x"),
            whole.replace("0a0a", "0a0g"),
            format!("{whole}é"),
        ] {
            assert_eq!(JoinToken::parse(&damaged), Err(TokenError::Damaged), "{damaged}");
        }
        assert!(!format!("{:?}", JoinToken::parse(&whole)).contains("5e5e"));
    }
}
