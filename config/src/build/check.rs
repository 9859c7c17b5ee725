//! Checks of single values: names, paths, headers, expressions.

use std::net::{IpAddr, SocketAddr};

use regex::bytes::{Regex, RegexBuilder};

use crate::document::At;
use crate::error::ConfigError;
use crate::name::is_label;
use crate::snapshot::MAX_PRIORITY;

/// Largest compiled regular expression, in bytes. Together with the engine's linear time, this bounds what a route can
/// cost.
const REGEX_BYTES: usize = 256 << 10;
/// Most items of a list within a rule. The Gateway API allows 16.
pub(crate) const MAX_ITEMS: usize = 64;
/// Most matches of one route. The Gateway API allows 128.
pub(crate) const MAX_MATCHES: usize = 1024;
/// Longest name of a dataset and of a version, in bytes.
const MAX_DATA_NAME: usize = 128;
/// Largest weight, as in the Gateway API.
pub(crate) const MAX_WEIGHT: u32 = 1_000_000;

/// A DNS label (RFC 1123): what Services and namespaces are called.
pub(crate) fn dns_label(at: &At<'_>, name: &str) -> Result<(), ConfigError> {
    if is_label(name) {
        return Ok(());
    }
    Err(at
        .error(format!("`{name}` is not a DNS label"))
        .hint("1 to 63 lower-case letters, digits and hyphens, with a letter or digit at both ends"))
}

/// DNS labels with dots between: what other resources, and hosts, are called.
pub(crate) fn dns_name(at: &At<'_>, name: &str) -> Result<(), ConfigError> {
    if name.len() <= 253 && name.split('.').all(is_label) {
        return Ok(());
    }
    Err(at
        .error(format!("`{name}` is not a DNS name"))
        .hint("labels of lower-case letters, digits and hyphens, with dots between; at most 253 characters"))
}

/// What a dataset and its version are called: this can stand in the path of a URL, and before or after an `@`.
pub(crate) fn data_name(at: &At<'_>, name: &str) -> Result<(), ConfigError> {
    if is_data_name(name) {
        return Ok(());
    }
    let error = at.error(format!("`{}` is not a name", name.escape_debug()));
    Err(error.hint(format!("up to {MAX_DATA_NAME} letters, digits, `.`, `-` and `_`")))
}

/// Whether a dataset, or a version of one, can be called so.
pub fn is_data_name(name: &str) -> bool {
    let is_of_name = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_');
    (1..=MAX_DATA_NAME).contains(&name.len()) && name.bytes().all(is_of_name)
}

/// `2026-11-26T12:00:00Z`, which can be compared as text.
pub(crate) fn timestamp(at: &At<'_>, text: &str) -> Result<(), ConfigError> {
    let form = b"0000-00-00T00:00:00Z";
    let fits = |(found, wanted): (&u8, &u8)| match wanted {
        b'0' => found.is_ascii_digit(),
        other => found == other,
    };
    if text.len() == form.len() && text.as_bytes().iter().zip(form).all(fits) {
        return Ok(());
    }
    Err(at.error(format!("`{text}` is not a time")).hint("expected for example `2026-11-26T12:00:00Z`"))
}

/// `address/length`.
pub(crate) fn cidr(at: &At<'_>, text: &str) -> Result<(IpAddr, u8), ConfigError> {
    let parse = || -> Option<(IpAddr, u8)> {
        let (address, length) = text.split_once('/')?;
        Some((address.parse().ok()?, length.parse().ok()?))
    };
    match parse() {
        Some((ip, length)) if length <= if ip.is_ipv4() { 32 } else { 128 } => Ok((ip, length)),
        _ => {
            let error = at.error(format!("`{}` is not a range of addresses", text.escape_debug()));
            Err(error.hint("expected for example `10.0.0.0/8` or `fd00::/8`"))
        }
    }
}

/// A priority of an endpoint.
pub(crate) fn priority(at: &At<'_>, priority: u32) -> Result<(), ConfigError> {
    if priority <= MAX_PRIORITY {
        return Ok(());
    }
    let error = at.error(format!("{priority} is out of range"));
    Err(error.hint(format!("from 0, which is the first choice, to {MAX_PRIORITY}")))
}

/// A list within bounds. Lists are compared item by item, so they must not be endless.
pub(crate) fn at_most(at: &At<'_>, length: usize, most: usize) -> Result<(), ConfigError> {
    if length <= most {
        return Ok(());
    }
    Err(at.error(format!("{length} items are too many")).hint(format!("at most {most}")))
}

/// A port that can be connected to.
pub(crate) fn port(at: &At<'_>, port: u16) -> Result<u16, ConfigError> {
    match port {
        0 => Err(at.error("0 is not a port").hint("ports are from 1 to 65535")),
        port => Ok(port),
    }
}

/// `address:port`.
pub(crate) fn socket_address(at: &At<'_>, text: &str) -> Result<SocketAddr, ConfigError> {
    match text.parse::<SocketAddr>() {
        Ok(address) => port(at, address.port()).map(|_| address),
        Err(_) => {
            let error = at.error(format!("`{}` is not an address with a port", text.escape_debug()));
            Err(error.hint("expected for example `127.0.0.1:15000` or `[::1]:15000`"))
        }
    }
}

/// A SPIFFE ID (SPIFFE-ID §2): a trust domain of lower-case letters, digits, dots, hyphens and underscores, and a path.
pub(crate) fn spiffe_id(at: &At<'_>, text: &str) -> Result<(), ConfigError> {
    let is_domain = |byte: u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'.' | b'-' | b'_');
    let is_path = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_');
    let is_segment = |segment: &str| !matches!(segment, "" | "." | "..") && segment.bytes().all(is_path);
    let rest = text.strip_prefix("spiffe://").filter(|_| text.len() <= 2048);
    let fits = rest.and_then(|rest| rest.split_once('/')).is_some_and(|(domain, path)| {
        (1..=255).contains(&domain.len()) && domain.bytes().all(is_domain) && path.split('/').all(is_segment)
    });
    if fits {
        return Ok(());
    }
    Err(at
        .error(format!("`{}` is not a SPIFFE ID", text.escape_debug()))
        .hint("expected for example `spiffe://mesh.lighter/ns/default/sa/reviews`"))
}

/// A share among siblings.
pub(crate) fn weight(at: &At<'_>, weight: u32) -> Result<u32, ConfigError> {
    if weight <= MAX_WEIGHT {
        return Ok(weight);
    }
    Err(at
        .error(format!("the weight {weight} is too large"))
        .hint(format!("weights are from 0 to {MAX_WEIGHT}")))
}

/// A path without query, as the Gateway API restricts it.
pub(crate) fn path(at: &At<'_>, path: &str) -> Result<(), ConfigError> {
    let reason = if !path.starts_with('/') {
        "a path starts with `/`"
    } else if path.contains(['?', '#']) {
        "a path has neither query nor fragment"
    } else if !path.bytes().all(|byte| byte.is_ascii_graphic()) {
        "a path is printable ASCII without spaces; write other characters as `%XX`"
    } else if path.contains("//") {
        "a path has no empty segment (`//`)"
    } else if path.split('/').any(|segment| matches!(segment, "." | "..")) {
        "a path has no `.` or `..` segment"
    } else {
        return Ok(());
    };
    Err(at.error(format!("`{}` is not a path", path.escape_debug())).hint(reason))
}

/// A header's name (RFC 9110 §5.1).
pub(crate) fn header_name(at: &At<'_>, name: &str) -> Result<(), ConfigError> {
    if !name.is_empty() && name.bytes().all(is_token_byte) {
        return Ok(());
    }
    Err(at
        .error(format!("`{}` is not a header name", name.escape_debug()))
        .hint("letters, digits and any of !#$%&'*+-.^_`|~"))
}

fn is_token_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

/// A header's name that a filter may change.
pub(crate) fn changeable_header(at: &At<'_>, name: &str) -> Result<(), ConfigError> {
    header_name(at, name)?;
    let lower = name.to_ascii_lowercase();
    let reason = match lower.as_str() {
        "host" => "use a URLRewrite filter with `hostname`",
        // RFC 9110 §7.6.1, and what says where a message ends.
        "connection" | "proxy-connection" | "keep-alive" | "te" | "trailer" | "transfer-encoding"
        | "upgrade" => "it is about one connection, not about the message",
        "content-length" => "it says where the message ends",
        "expect" => "it says how the message is sent",
        ours if ours.starts_with("x-lighter-") => "headers that start with `x-lighter-` are Lighter's own",
        _ => return Ok(()),
    };
    Err(at.error(format!("the header `{name}` cannot be changed")).hint(reason))
}

/// A header's value (RFC 9110 §5.5).
pub(crate) fn header_value(at: &At<'_>, value: &str) -> Result<(), ConfigError> {
    let reason = if value.is_empty() {
        "a value has at least one character; a filter takes a header away by `remove`"
    } else if value.contains(['\r', '\n']) {
        "a line end in a value would start another header"
    } else if value.bytes().any(|byte| byte.is_ascii_control() && byte != b'\t') {
        "a value has no control characters"
    } else if value.trim_matches([' ', '\t']) != value {
        "a value has no white space at its ends"
    } else {
        return Ok(());
    };
    Err(at.error(format!("`{}` is not a header value", value.escape_debug())).hint(reason))
}

/// A regular expression, anchored at both ends.
pub(crate) fn regex(at: &At<'_>, expression: &str) -> Result<Regex, ConfigError> {
    // Alone first: `a)(b` is no expression, though it is one between parentheses.
    let build = |expression: &str| {
        RegexBuilder::new(expression).size_limit(REGEX_BYTES).dfa_size_limit(REGEX_BYTES).build()
    };
    build(expression).and_then(|_| build(&format!("^(?:{expression})$"))).map_err(|error| match error {
        regex::Error::CompiledTooBig(_) => {
            at.error("the regular expression is too large").hint("repeat less, or match less")
        }
        error => {
            // The last line of the parser's text is the reason; those before draw the place.
            let text = error.to_string();
            let reason = text.lines().last().unwrap_or_default().trim_start_matches("error: ").to_string();
            at.error(format!("not a regular expression: {reason}"))
        }
    })
}
