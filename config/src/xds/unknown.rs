//! Fields that are not known, where they must not be overlooked.
//!
//! A decoder skips the numbers that it does not know. In most messages that is right: what is said there can be left
//! out. In a message that decides who may talk, or what a route matches, it is not: a later version's restriction would
//! be taken for none at all. So the tags of such messages are walked before they are believed.

use std::fmt;

/// The fields of a message, as compiled from `config/proto`.
#[derive(Debug)]
pub struct Shape {
    /// Every field counts, here and in all that lies within.
    strict: bool,
    /// By number.
    fields: &'static [Field],
}

#[derive(Debug)]
struct Field {
    number: u32,
    name: &'static str,
    /// The fields of what lies in it, if that is a message.
    inner: Option<&'static Shape>,
}

/// The shapes of all messages by their full names: `LIGHTER_CONFIG_V1_WORKLOAD`.
#[allow(missing_docs, unreachable_pub)]
pub mod shapes {
    use super::{Field, Shape};
    include!(concat!(env!("OUT_DIR"), "/shapes.rs"));
}

/// What is wrong with the fields of a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnknownField {
    /// The fields on the way there: `ports.rules`. Empty: the message itself.
    pub path: String,
    /// The number that is not known. None: what stands there is no field at all.
    pub number: Option<u32>,
}

impl fmt::Display for UnknownField {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.number {
            Some(number) => write!(f, "field number {number} is not known"),
            None => f.write_str("not a message"),
        }
    }
}

impl std::error::Error for UnknownField {}

/// Walks the tags of `message`. An unknown number is an error in messages that are strict and in all that lies in them.
pub fn check(message: &[u8], shape: &'static Shape) -> Result<(), UnknownField> {
    walk(message, shape, shape.strict, MAX_DEPTH).map_err(|(mut path, number)| {
        path.reverse();
        UnknownField { path: path.join("."), number }
    })
}

/// As deep as the decoder goes.
const MAX_DEPTH: usize = 100;

/// The way to a fault, innermost field first, and the number.
type Fault = (Vec<&'static str>, Option<u32>);

fn walk(mut rest: &[u8], shape: &'static Shape, strict: bool, depth: usize) -> Result<(), Fault> {
    let broken = || (Vec::new(), None);
    let depth = depth.checked_sub(1).ok_or_else(broken)?;
    while !rest.is_empty() {
        let tag = u32::try_from(varint(&mut rest).ok_or_else(broken)?).map_err(|_| broken())?;
        let number = tag >> 3;
        let content = content(&mut rest, tag & 7).ok_or_else(broken)?;
        let known = shape.fields.binary_search_by_key(&number, |field| field.number);
        match known.ok().and_then(|place| shape.fields.get(place)) {
            Some(Field { name, inner: Some(inner), .. }) => {
                walk(content, inner, strict || inner.strict, depth).map_err(|(mut path, number)| {
                    path.push(name);
                    (path, number)
                })?;
            }
            Some(_) => {}
            None if strict => return Err((Vec::new(), Some(number))),
            None => {}
        }
    }
    Ok(())
}

/// What a field of this wire type has; empty for numbers. None: cut off, or a group, which nobody has used for long.
fn content<'m>(rest: &mut &'m [u8], wire_type: u32) -> Option<&'m [u8]> {
    let length = match wire_type {
        0 => {
            varint(rest)?;
            return Some(&[]);
        }
        1 => 8,
        2 => usize::try_from(varint(rest)?).ok()?,
        5 => 4,
        _ => return None,
    };
    let (content, after) = rest.split_at_checked(length)?;
    *rest = after;
    Some(if wire_type == 2 { content } else { &[] })
}

fn varint(rest: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for place in 0..10 {
        let (byte, after) = rest.split_first()?;
        *rest = after;
        value |= u64::from(byte & 0x7f) << (7 * place);
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use prost::Message;

    use super::*;
    use crate::xds::wire::lighter::config::v1 as lighter;

    fn workload() -> lighter::Workload {
        let source = lighter::Source { principals: vec!["spiffe://a/b".into()], ..Default::default() };
        let rule = lighter::Rule { action: "deny".into(), sources: vec![source], ..Default::default() };
        let port = lighter::InboundPort { port: 80, rules: vec![rule], ..Default::default() };
        lighter::Workload { service: "default/a".into(), ports: vec![port], ..Default::default() }
    }

    fn check_workload(bytes: &[u8]) -> Result<(), UnknownField> {
        check(bytes, &shapes::LIGHTER_CONFIG_V1_WORKLOAD)
    }

    /// `outer` as field `number` around `inner`.
    fn wrapped(number: u8, inner: &[u8]) -> Vec<u8> {
        [&[number << 3 | 2, inner.len() as u8], inner].concat()
    }

    #[test]
    fn what_decides_who_may_talk_has_no_field_that_is_not_known() {
        assert_eq!(check_workload(&workload().encode_to_vec()), Ok(()));
        let unknown = [15 << 3, 1];
        for (path, wire) in [
            ("", unknown.to_vec()),
            ("ports", wrapped(4, &unknown)),
            ("ports.rules", wrapped(4, &wrapped(3, &unknown))),
            ("ports.rules.sources", wrapped(4, &wrapped(3, &wrapped(4, &unknown)))),
            ("ports.rules.operations.headers", wrapped(4, &wrapped(3, &wrapped(5, &wrapped(4, &unknown))))),
        ] {
            let bytes = [workload().encode_to_vec(), wire].concat();
            let expected = UnknownField { path: path.to_string(), number: Some(15) };
            assert_eq!(check_workload(&bytes), Err(expected));
        }
    }

    #[test]
    fn elsewhere_what_is_not_known_is_passed_over() {
        let unknown = [wrapped(15, b"text"), vec![14 << 3 | 1, 1, 2, 3, 4, 5, 6, 7, 8]].concat();
        assert_eq!(check(&unknown, &shapes::LIGHTER_CONFIG_V1_SERVICE), Ok(()));
        // A route may say more; what it matches may not.
        let in_match = wrapped(2, &wrapped(3, &wrapped(1, &unknown)));
        let shape = &shapes::ENVOY_CONFIG_ROUTE_V3_ROUTECONFIGURATION;
        assert_eq!(check(&wrapped(2, &wrapped(3, &unknown)), shape), Ok(()));
        let found = check(&in_match, shape).unwrap_err();
        assert_eq!((found.path.as_str(), found.number), ("virtual_hosts.routes.match", Some(15)));
    }

    #[test]
    fn what_is_cut_off_is_no_message() {
        let whole = workload().encode_to_vec();
        let ends: Vec<usize> =
            (0..whole.len()).filter(|end| check_workload(&whole[..*end]).is_ok()).collect();
        // Between the outer fields a cut leaves a message.
        assert_eq!(ends.len(), 2);
        assert!(check_workload(&[0xff; 11]).is_err());
        assert!(check_workload(&[1 << 3 | 3]).is_err(), "a group");
        // Lists in lists, without end.
        let deep = (0..100).fold(Vec::new(), |inner, _| {
            let list = |tag: u8, inner: &[u8]| {
                let mut outer = vec![tag << 3 | 2];
                prost::encoding::encode_varint(inner.len() as u64, &mut outer);
                [outer, inner.to_vec()].concat()
            };
            list(1, &list(6, &inner))
        });
        assert!(check(&deep, &shapes::GOOGLE_PROTOBUF_LISTVALUE).is_err());
    }
}
