//! SOCKS5 without authentication: the greeting, a CONNECT request, and the replies (RFC 1928).

use std::net::{Ipv4Addr, Ipv6Addr};

use super::Parsed;
use super::ask::{Ask, Host};
use crate::error::Cause;

/// The first byte of everything.
pub(super) const VERSION: u8 = 5;

/// The reply to a request that stands. The bound address is not told: nobody uses it.
pub(super) const ESTABLISHED: &[u8] = &reply(0);

/// Reads the greeting: which ways to authenticate the client knows. What it is told to use is "none".
pub(crate) fn greeting(prefix: &[u8]) -> Parsed<Vec<u8>> {
    match prefix {
        [] | [VERSION] => Parsed::More,
        [VERSION, count, rest @ ..] => match rest.get(..usize::from(*count)) {
            None => Parsed::More,
            Some(methods) if methods.contains(&NO_AUTHENTICATION) => {
                Parsed::Whole(vec![VERSION, NO_AUTHENTICATION], 2 + methods.len())
            }
            Some(_) => Parsed::Bad(vec![VERSION, NONE_ACCEPTABLE]),
        },
        _ => Parsed::Bad(Vec::new()),
    }
}

/// Reads a request.
pub(crate) fn request(prefix: &[u8]) -> Parsed<Ask> {
    let (kind, rest) = match prefix {
        [VERSION, CONNECT, _reserved, kind, rest @ ..] => (*kind, rest),
        [VERSION, command, ..] if *command != CONNECT => return bad(COMMAND_NOT_SUPPORTED),
        [VERSION, ..] | [] => return Parsed::More,
        _ => return bad(GENERAL_FAILURE),
    };
    let (host, rest, length) = match kind {
        1 => match rest.split_first_chunk::<4>() {
            Some((v4, rest)) => (Host::Address(Ipv4Addr::from(*v4).into()), rest, 4),
            None => return Parsed::More,
        },
        4 => match rest.split_first_chunk::<16>() {
            Some((v6, rest)) => (Host::Address(Ipv6Addr::from(*v6).into()), rest, 16),
            None => return Parsed::More,
        },
        3 => {
            let Some((length, rest)) = rest.split_first() else { return Parsed::More };
            let Some((name, rest)) = rest.split_at_checked(usize::from(*length)) else {
                return Parsed::More;
            };
            match std::str::from_utf8(name).ok().and_then(Host::parse) {
                Some(host) => (host, rest, 1 + name.len()),
                None => return bad(GENERAL_FAILURE),
            }
        }
        _ => return bad(ADDRESS_NOT_SUPPORTED),
    };
    match rest {
        [0, 0, ..] => bad(GENERAL_FAILURE),
        [high, low, ..] => {
            Parsed::Whole(Ask { host, port: u16::from_be_bytes([*high, *low]) }, 4 + length + 2)
        }
        _ => Parsed::More,
    }
}

/// The reply to a request that was refused.
pub(super) fn refused(cause: Cause) -> [u8; 10] {
    reply(match cause {
        Cause::NotInRegistry | Cause::Loop => NOT_ALLOWED,
        Cause::ConnectRefused => CONNECTION_REFUSED,
        Cause::ConnectTimeout => TTL_EXPIRED,
        Cause::ConnectFailed | Cause::NoEndpoint | Cause::NoConfig => HOST_UNREACHABLE,
        _ => GENERAL_FAILURE,
    })
}

const fn reply(code: u8) -> [u8; 10] {
    [VERSION, code, 0, 1, 0, 0, 0, 0, 0, 0]
}

fn bad(code: u8) -> Parsed<Ask> {
    Parsed::Bad(reply(code).to_vec())
}

const NO_AUTHENTICATION: u8 = 0;
const NONE_ACCEPTABLE: u8 = 0xff;
const CONNECT: u8 = 1;
const GENERAL_FAILURE: u8 = 1;
const NOT_ALLOWED: u8 = 2;
const HOST_UNREACHABLE: u8 = 4;
const CONNECTION_REFUSED: u8 = 5;
const TTL_EXPIRED: u8 = 6;
const COMMAND_NOT_SUPPORTED: u8 = 7;
const ADDRESS_NOT_SUPPORTED: u8 = 8;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn requests() -> impl Strategy<Value = (Vec<u8>, Ask)> {
        let port = 1u16..;
        let v4 = (any::<[u8; 4]>(), port.clone()).prop_map(|(ip, port)| {
            let bytes = [&[5, 1, 0, 1][..], &ip, &port.to_be_bytes()].concat();
            (bytes, Ask { host: Host::Address(ip.into()), port })
        });
        let v6 = (any::<[u8; 16]>(), port.clone()).prop_map(|(ip, port)| {
            let bytes = [&[5, 1, 0, 4][..], &ip, &port.to_be_bytes()].concat();
            (bytes, Ask { host: Host::Address(ip.into()), port })
        });
        let name = ("[a-z]{1,30}(\\.[a-z]{1,30}){0,3}", port).prop_map(|(name, port)| {
            let bytes = [&[5, 1, 0, 3, name.len() as u8][..], name.as_bytes(), &port.to_be_bytes()].concat();
            (bytes, Ask { host: Host::parse(&name).unwrap(), port })
        });
        prop_oneof![v4, v6, name]
    }

    proptest! {
        #[test]
        fn segmentation_changes_nothing((bytes, ask) in requests(), beyond in any::<[u8; 3]>()) {
            for upto in 0..bytes.len() {
                prop_assert_eq!(request(&bytes[..upto]), Parsed::More);
            }
            let whole = Parsed::Whole(ask, bytes.len());
            prop_assert_eq!(request(&bytes), whole.clone());
            prop_assert_eq!(request(&[&bytes[..], &beyond].concat()), whole);
        }

        #[test]
        fn any_bytes_are_judged(bytes in prop::collection::vec(any::<u8>(), 0..40)) {
            for parsed in [matches!(request(&bytes), Parsed::Whole(_, taken) if taken > bytes.len()),
                           matches!(greeting(&bytes), Parsed::Whole(_, taken) if taken > bytes.len())] {
                prop_assert!(!parsed);
            }
        }
    }

    #[test]
    fn only_connections_without_authentication_are_served() {
        assert_eq!(greeting(&[5, 2, 2, 0, 9]), Parsed::Whole(vec![5, 0], 4));
        assert_eq!(greeting(&[5, 2, 2]), Parsed::More);
        assert_eq!(greeting(&[5, 1, 2]), Parsed::Bad(vec![5, 0xff]));
        assert_eq!(request(&[5, 2, 0, 1]), bad(COMMAND_NOT_SUPPORTED));
        assert_eq!(request(&[5, 1, 0, 9]), bad(ADDRESS_NOT_SUPPORTED));
        assert_eq!(request(&[5, 1, 0, 3, 1, b' ', 0, 1]), bad(GENERAL_FAILURE));
    }
}
