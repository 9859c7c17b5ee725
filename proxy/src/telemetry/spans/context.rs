//! Which trace a request belongs to, as its headers say: W3C trace context (`traceparent`, W3C Recommendation of 2021),
//! and B3 in one header or several (openzipkin/b3-propagation).

use lighter_config::hex::{self, decode_array};
use lighter_config::sidecar::Propagation;

/// What a request's headers say of a trace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Asked {
    /// Nothing that can be read.
    Nothing,
    /// That no trace is to be recorded.
    No,
    /// That it belongs to one.
    Of(Parent),
}

/// The span from which a request comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Parent {
    pub(super) trace: [u8; 16],
    pub(super) span: [u8; 8],
    /// Whether it is recorded; B3 may leave that to whoever comes next.
    pub(super) sampled: Option<bool>,
}

/// Reads what `headers` say, in the first of `formats` that is there.
pub(super) fn read<'h>(formats: &[Propagation], header: impl Fn(&str) -> Option<&'h [u8]>) -> Asked {
    let mut found = formats.iter().map(|format| match format {
        Propagation::W3c => header("traceparent").map_or(Asked::Nothing, traceparent),
        Propagation::B3 => header("b3").map_or(Asked::Nothing, b3),
        Propagation::B3Multi => b3_multi(&header),
    });
    found.find(|asked| *asked != Asked::Nothing).unwrap_or(Asked::Nothing)
}

/// Calls `set` with each header that says: this request comes from `span` of `trace`, which is recorded.
pub(super) fn write(
    formats: &[Propagation],
    (trace, span, parent): ([u8; 16], [u8; 8], Option<[u8; 8]>),
    mut set: impl FnMut(&'static str, &[u8]),
) {
    let (trace, span) = (hex::encode(&trace), hex::encode(&span));
    for format in formats {
        match format {
            Propagation::W3c => set("traceparent", format!("00-{trace}-{span}-01").as_bytes()),
            Propagation::B3 => set("b3", format!("{trace}-{span}-1").as_bytes()),
            Propagation::B3Multi => {
                set("x-b3-traceid", trace.as_bytes());
                set("x-b3-spanid", span.as_bytes());
                set("x-b3-sampled", b"1");
                if let Some(parent) = parent {
                    set("x-b3-parentspanid", hex::encode(&parent).as_bytes());
                }
            }
        }
    }
}

/// `00-<32 hex>-<16 hex>-<2 hex>`; of a later version, whatever follows these is for those who know it.
fn traceparent(value: &[u8]) -> Asked {
    let value = value.trim_ascii();
    let Some((fields, rest)) = value.split_at_checked(55) else { return Asked::Nothing };
    let (version, dashes) = (&fields[..2], [fields[2], fields[35], fields[52]]);
    let known = match version {
        b"00" => rest.is_empty(),
        b"ff" => false,
        _ => decode_array::<1>(version).is_some() && rest.first().is_none_or(|first| *first == b'-'),
    };
    let parts =
        (decode_array(&fields[3..35]), decode_array(&fields[36..52]), decode_array::<1>(&fields[53..55]));
    match parts {
        (Some(trace), Some(span), Some([flags])) if known && dashes == *b"---" => {
            of(trace, span, Some(flags & 1 == 1))
        }
        _ => Asked::Nothing,
    }
}

/// `<16 or 32 hex>-<16 hex>[-<0, 1 or d>[-<16 hex>]]`, or `0` or `1` alone.
fn b3(value: &[u8]) -> Asked {
    let mut parts = value.trim_ascii().split(|byte| *byte == b'-');
    let first = parts.next().unwrap_or_default();
    if first == b"0" {
        return Asked::No;
    }
    let (span, sampled) = (parts.next(), parts.next());
    match (trace_id(first), span.and_then(decode_array), sampled.map(decision)) {
        (Some(trace), Some(span), None) => of(trace, span, None),
        (Some(trace), Some(span), Some(Some(sampled))) => of(trace, span, Some(sampled)),
        _ => Asked::Nothing,
    }
}

fn b3_multi<'h>(header: &impl Fn(&str) -> Option<&'h [u8]>) -> Asked {
    let debug = header("x-b3-flags").is_some_and(|flags| flags.trim_ascii() == b"1");
    let sampled = if debug { Some(true) } else { header("x-b3-sampled").and_then(decision) };
    let trace = header("x-b3-traceid").and_then(trace_id);
    let span = header("x-b3-spanid").and_then(decode_array);
    match (trace, span) {
        (Some(trace), Some(span)) => of(trace, span, sampled),
        _ if sampled == Some(false) => Asked::No,
        _ => Asked::Nothing,
    }
}

fn decision(value: &[u8]) -> Option<bool> {
    match value.trim_ascii() {
        b"1" | b"d" | b"true" => Some(true),
        b"0" | b"false" => Some(false),
        _ => None,
    }
}

/// Of 16 digits, the rest is zero.
fn trace_id(digits: &[u8]) -> Option<[u8; 16]> {
    if digits.len() != 16 {
        return decode_array(digits);
    }
    let mut trace = [0; 16];
    trace[8..].copy_from_slice(&decode_array::<8>(digits)?);
    Some(trace)
}

/// No id is all zeros.
fn of(trace: [u8; 16], span: [u8; 8], sampled: Option<bool>) -> Asked {
    let is_valid = trace != [0; 16] && span != [0; 8];
    if is_valid { Asked::Of(Parent { trace, span, sampled }) } else { Asked::Nothing }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
    const SPAN: &str = "00f067aa0ba902b7";

    fn parent(sampled: Option<bool>) -> Asked {
        let (trace, span) = (decode_array(TRACE.as_bytes()).unwrap(), decode_array(SPAN.as_bytes()).unwrap());
        Asked::Of(Parent { trace, span, sampled })
    }

    fn asked(format: Propagation, headers: &[(&str, String)]) -> Asked {
        read(&[format], |name| headers.iter().find(|(is, _)| *is == name).map(|(_, value)| value.as_bytes()))
    }

    #[test]
    fn traceparent_is_read_as_its_specification_says() {
        let said = |value: String| asked(Propagation::W3c, &[("traceparent", value)]);
        assert_eq!(said(format!("00-{TRACE}-{SPAN}-01")), parent(Some(true)));
        assert_eq!(said(format!("00-{TRACE}-{SPAN}-00")), parent(Some(false)));
        // Other flags mean other things; what a later version adds is passed over.
        assert_eq!(said(format!("00-{TRACE}-{SPAN}-03")), parent(Some(true)));
        assert_eq!(said(format!("cc-{TRACE}-{SPAN}-01-what-the-future-says")), parent(Some(true)));
        for bad in [
            String::new(),
            format!("ff-{TRACE}-{SPAN}-01"),
            format!("00-{TRACE}-{SPAN}-01-more"),
            format!("00-{TRACE}-{SPAN}-0"),
            format!("00-{TRACE}-{SPAN}_01"),
            format!("00-{}-{SPAN}-01", "0".repeat(32)),
            format!("00-{TRACE}-{}-01", "0".repeat(16)),
            format!("00-{}-{SPAN}-01", "g".repeat(32)),
        ] {
            assert_eq!(said(bad.clone()), Asked::Nothing, "{bad}");
        }
    }

    #[test]
    fn b3_is_read_in_both_of_its_forms() {
        let one = |value: String| asked(Propagation::B3, &[("b3", value)]);
        assert_eq!(one(format!("{TRACE}-{SPAN}-1-{SPAN}")), parent(Some(true)));
        assert_eq!(one(format!("{TRACE}-{SPAN}-d")), parent(Some(true)));
        assert_eq!(one(format!("{TRACE}-{SPAN}-0")), parent(Some(false)));
        assert_eq!(one(format!("{TRACE}-{SPAN}")), parent(None));
        assert_eq!(one("0".into()), Asked::No);
        assert_eq!(one("1".into()), Asked::Nothing);
        assert_eq!(one(format!("{TRACE}-{SPAN}-maybe")), Asked::Nothing);
        let Asked::Of(short) = one(format!("{SPAN}-{SPAN}-1")) else { panic!("64 bits are enough") };
        assert_eq!(hex::encode(&short.trace), format!("{}{SPAN}", "0".repeat(16)));

        let ids = [("x-b3-traceid", TRACE.to_owned()), ("x-b3-spanid", SPAN.to_owned())];
        let many = |more: &[(&'static str, &str)]| {
            let more = more.iter().map(|(name, value)| (*name, (*value).to_owned()));
            asked(Propagation::B3Multi, &ids.clone().into_iter().chain(more).collect::<Vec<_>>())
        };
        assert_eq!(many(&[]), parent(None));
        assert_eq!(many(&[("x-b3-sampled", "1")]), parent(Some(true)));
        assert_eq!(many(&[("x-b3-sampled", "0"), ("x-b3-flags", "1")]), parent(Some(true)));
        assert_eq!(asked(Propagation::B3Multi, &[("x-b3-sampled", "0".into())]), Asked::No);
        assert_eq!(asked(Propagation::B3Multi, &ids[..1]), Asked::Nothing);
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(trace: [u8; 16], span: [u8; 8], parent: Option<[u8; 8]>) {
            prop_assume!(trace != [0; 16] && span != [0; 8]);
            for format in [Propagation::W3c, Propagation::B3, Propagation::B3Multi] {
                let mut headers = Vec::new();
                write(&[format], (trace, span, parent), |name, value| {
                    headers.push((name, String::from_utf8(value.to_vec()).unwrap()));
                });
                prop_assert_eq!(asked(format, &headers), Asked::Of(Parent { trace, span, sampled: Some(true) }));
            }
        }

        #[test]
        fn nothing_that_a_caller_says_is_a_fault(value: Vec<u8>) {
            for format in [Propagation::W3c, Propagation::B3, Propagation::B3Multi] {
                read(&[format], |_| Some(&value[..]));
            }
        }
    }
}
