//! Who may call what: the decision, by every AuthorizationPolicy that is about a port.
//!
//! What is refused by any `deny` rule is refused. Otherwise, where an `allow` policy is in force, what none allows is
//! refused. A policy in audit mode is asked beside, and only told of.

use std::net::IpAddr;
use std::sync::Arc;

use super::RequestParts;
use crate::identity::Spiffe;

/// What every policy says about one port.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Authorization {
    /// In force, and in audit mode.
    pub rules: Vec<AuthorizationRule>,
    /// Whether an `allow` policy is in force, so that what no rule allows is refused. The policies' names.
    pub allow: Vec<Arc<str>>,
    /// The same of `allow` policies in audit mode.
    pub audit_allow: Vec<Arc<str>>,
}

/// One rule of one policy.
#[derive(Clone, Debug, PartialEq)]
pub struct AuthorizationRule {
    /// `namespace/name/rule`, rules counted from 0: what metrics and logs call it.
    pub name: Arc<str>,
    /// Refuses what it matches; otherwise it allows it.
    pub deny: bool,
    /// Is told of only.
    pub audit: bool,
    /// Who: any of them, or anybody.
    pub sources: Vec<Source>,
    /// What: any of them, or anything.
    pub operations: Vec<Operation>,
}

/// Who calls. Everything that is said must hold.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Source {
    /// SPIFFE IDs.
    pub principals: Vec<TextMatch>,
    /// SPIFFE IDs that it is not.
    pub not_principals: Vec<TextMatch>,
    /// Namespaces of identities.
    pub namespaces: Vec<Arc<str>>,
    /// Ranges of addresses, as address and prefix length.
    pub cidrs: Vec<(IpAddr, u8)>,
}

/// What is asked. Everything that is said must hold.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Operation {
    /// Methods.
    pub methods: Vec<Arc<str>>,
    /// Paths without their queries.
    pub paths: Vec<TextMatch>,
    /// Hosts, in lower case, without ports.
    pub hosts: Vec<Arc<str>>,
    /// Lower-case name, and the whole value; none: any.
    pub headers: Vec<(Arc<str>, Option<Arc<str>>)>,
}

/// How text is matched.
#[derive(Clone, Debug, PartialEq)]
pub enum TextMatch {
    /// The whole text.
    Exact(Arc<str>),
    /// Its beginning.
    Prefix(Arc<str>),
}

/// Who called.
#[derive(Clone, Copy, Debug)]
pub struct Caller<'a> {
    /// The SPIFFE ID that it proved.
    pub identity: Option<&'a Spiffe>,
    /// The other end of its connection.
    pub address: IpAddr,
}

/// What is decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision<'a> {
    /// Let through. With the rule that allows it, if one had to.
    Allowed(Option<&'a str>),
    /// Refused by the rule; or by the policy, the first of those that would have had to allow it.
    Denied(&'a str),
}

impl Authorization {
    /// Whether nothing is ever refused or told of.
    pub fn is_empty(&self) -> bool {
        self.rules.is_empty() && self.allow.is_empty() && self.audit_allow.is_empty()
    }

    /// What this and `other` say together.
    #[must_use]
    pub fn and(&self, other: &Authorization) -> Authorization {
        let mut both = self.clone();
        both.rules.extend(other.rules.iter().cloned());
        both.allow.extend(other.allow.iter().cloned());
        both.audit_allow.extend(other.audit_allow.iter().cloned());
        both
    }

    /// Whether some rule looks at requests, so that nothing but HTTP can pass.
    pub fn needs_requests(&self) -> bool {
        self.rules.iter().any(|rule| !rule.audit && !rule.operations.is_empty())
    }

    /// Decides about a request, or about an opaque connection where there is none: then no rule that looks at requests
    /// allows it, and a `deny` rule holds whatever it would ask of a request.
    pub fn decide<'a, R: RequestParts + ?Sized>(
        &'a self,
        caller: &Caller<'_>,
        request: Option<(&R, &[u8])>,
    ) -> Decision<'a> {
        self.decision(false, &self.allow, caller, request)
    }

    /// What would be decided if the policies in audit mode were in force alone.
    pub fn audit<'a, R: RequestParts + ?Sized>(
        &'a self,
        caller: &Caller<'_>,
        request: Option<(&R, &[u8])>,
    ) -> Option<Decision<'a>> {
        let audited = !self.audit_allow.is_empty() || self.rules.iter().any(|rule| rule.audit);
        audited.then(|| self.decision(true, &self.audit_allow, caller, request))
    }

    fn decision<'a, R: RequestParts + ?Sized>(
        &'a self,
        audit: bool,
        allow: &'a [Arc<str>],
        caller: &Caller<'_>,
        request: Option<(&R, &[u8])>,
    ) -> Decision<'a> {
        let of = |deny| self.rules.iter().filter(move |rule| rule.audit == audit && rule.deny == deny);
        if let Some(rule) = of(true).find(|rule| rule.matches(caller, request, true)) {
            return Decision::Denied(&rule.name);
        }
        let Some(first) = allow.first() else { return Decision::Allowed(None) };
        match of(false).find(|rule| rule.matches(caller, request, false)) {
            Some(rule) => Decision::Allowed(Some(&rule.name)),
            None => Decision::Denied(first),
        }
    }
}

impl AuthorizationRule {
    /// `unclear`: what is said of a request that is not known, or can be read in more than one way.
    fn matches<R: RequestParts + ?Sized>(
        &self,
        caller: &Caller<'_>,
        request: Option<(&R, &[u8])>,
        unclear: bool,
    ) -> bool {
        let source = self.sources.is_empty() || self.sources.iter().any(|source| source.matches(caller));
        source
            && (self.operations.is_empty()
                || match request {
                    Some((request, host)) => {
                        self.operations.iter().any(|operation| operation.matches(request, host, unclear))
                    }
                    None => unclear,
                })
    }
}

impl Source {
    fn matches(&self, caller: &Caller<'_>) -> bool {
        let any = |matches: &[TextMatch]| {
            caller
                .identity
                .is_some_and(|id| matches.iter().any(|wanted| wanted.matches(id.as_str().as_bytes())))
        };
        let namespace = caller.identity.and_then(Spiffe::namespace);
        (self.principals.is_empty() || any(&self.principals))
            && !any(&self.not_principals)
            && (self.namespaces.is_empty()
                || namespace
                    .is_some_and(|namespace| self.namespaces.iter().any(|wanted| **wanted == *namespace)))
            && (self.cidrs.is_empty() || self.cidrs.iter().any(|range| contains(*range, caller.address)))
    }
}

impl Operation {
    /// `unclear`: what is said of paths that can be read in more than one way.
    fn matches<R: RequestParts + ?Sized>(&self, request: &R, host: &[u8], unclear: bool) -> bool {
        (self.methods.is_empty() || self.methods.iter().any(|method| method.as_bytes() == request.method()))
            && (self.paths.is_empty()
                || if is_plain(request.path()) {
                    self.paths.iter().any(|path| path.matches(request.path()))
                } else {
                    unclear
                })
            && (self.hosts.is_empty() || self.hosts.iter().any(|wanted| is_host(host, wanted.as_bytes())))
            && self.headers.iter().all(|(name, value)| has(request, name, value.as_deref(), unclear))
    }
}

/// Whether a request has field `name` with `value`, if one is wanted. Where it has several values, the application may go
/// by any of them: then `unclear` says whether one that fits is enough, or all would have to.
fn has<R: RequestParts + ?Sized>(request: &R, name: &str, value: Option<&str>, unclear: bool) -> bool {
    let Some(wanted) = value.map(str::as_bytes) else { return request.header(name).is_some() };
    let (mut whole, mut fitting, mut all) = (false, false, true);
    request.header_values(name, &mut |found| {
        whole |= found == wanted;
        let parts = found.split(|byte| *byte == b',');
        fitting |= found == wanted || parts.map(<[u8]>::trim_ascii).any(|part| part == wanted);
        all &= found == wanted;
    });
    if unclear { fitting } else { whole && all }
}

impl TextMatch {
    fn matches(&self, text: &[u8]) -> bool {
        match self {
            TextMatch::Exact(wanted) => wanted.as_bytes() == text,
            TextMatch::Prefix(wanted) => text.starts_with(wanted.as_bytes()),
        }
    }
}

/// Whether a path means the same to everybody: an application may resolve dots, take two slashes for one, or decode
/// what is encoded, and so read another path than a policy would.
fn is_plain(path: &[u8]) -> bool {
    let odd = |part: &[u8]| part.is_empty() || part == b"." || part == b"..";
    let mut parts = path.strip_prefix(b"/").unwrap_or(path).split(|byte| *byte == b'/').peekable();
    while let Some(part) = parts.next() {
        // A slash at the end leaves an empty part, which is nothing odd.
        if odd(part) && (parts.peek().is_some() || !part.is_empty()) {
            return false;
        }
    }
    !path.contains(&b'\\') && !path.contains(&b';') && !hides_something(path)
}

/// Whether a percent sign stands for a byte that need not be encoded, or that changes where a path leads.
fn hides_something(path: &[u8]) -> bool {
    let digit = |byte: u8| (byte as char).to_digit(16);
    path.iter().enumerate().filter(|(_, byte)| **byte == b'%').any(|(at, _)| {
        let byte = path.get(at + 1..at + 3).and_then(|two| Some(digit(two[0])? * 16 + digit(two[1])?));
        byte.is_none_or(|byte| {
            let byte = byte as u8;
            byte.is_ascii_alphanumeric() || byte < b' ' || b"-._~/\\;%".contains(&byte)
        })
    })
}

/// Whether an authority's host is `wanted`; its port does not matter.
fn is_host(authority: &[u8], wanted: &[u8]) -> bool {
    let host = match authority.iter().rposition(|byte| *byte == b':') {
        // The colons of an IPv6 address stand before its bracket.
        Some(colon) if !authority[colon..].contains(&b']') => &authority[..colon],
        _ => authority,
    };
    host.eq_ignore_ascii_case(wanted)
}

fn contains((network, length): (IpAddr, u8), address: IpAddr) -> bool {
    let shifted = |bits: u128, width: u32| bits.checked_shr(width - u32::from(length)).unwrap_or(0);
    match (network, address.to_canonical()) {
        (IpAddr::V4(network), IpAddr::V4(address)) => {
            shifted(u32::from(network).into(), 32) == shifted(u32::from(address).into(), 32)
        }
        (IpAddr::V6(network), IpAddr::V6(address)) => {
            shifted(u128::from(network), 128) == shifted(u128::from(address), 128)
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Asked<'a>(&'a str, &'a str, &'a [(&'a str, &'a str)]);

    impl RequestParts for Asked<'_> {
        fn method(&self) -> &[u8] {
            self.0.as_bytes()
        }

        fn path(&self) -> &[u8] {
            self.1.as_bytes()
        }

        fn query(&self) -> Option<&[u8]> {
            None
        }

        fn header(&self, name: &str) -> Option<&[u8]> {
            self.2.iter().find(|(found, _)| *found == name).map(|(_, value)| value.as_bytes())
        }

        fn header_values(&self, name: &str, see: &mut dyn FnMut(&[u8])) {
            let values = self.2.iter().filter(|(found, _)| *found == name);
            values.for_each(|(_, value)| see(value.as_bytes()));
        }
    }

    const GET: Asked<'_> = Asked("GET", "/a/b", &[("x-team", "red")]);

    fn caller(identity: Option<&str>) -> Caller<'static> {
        // It lives as long as the test.
        let identity = identity.map(|id| &*Box::leak(Box::new(Spiffe::parse(id).unwrap())));
        Caller { identity, address: IpAddr::from([192, 0, 2, 7]) }
    }

    const WEB: Option<&str> = Some("spiffe://mesh.lighter/ns/shop/sa/web");

    fn rule(deny: bool, sources: Vec<Source>, operations: Vec<Operation>) -> AuthorizationRule {
        AuthorizationRule { name: "ns/p/0".into(), deny, audit: false, sources, operations }
    }

    fn decides(
        rules: Vec<AuthorizationRule>,
        allow: bool,
        caller: &Caller<'_>,
        request: Option<&Asked<'_>>,
    ) -> bool {
        let allow = if allow { vec!["ns/p".into()] } else { Vec::new() };
        let authorization = Authorization { rules, allow, audit_allow: Vec::new() };
        let asked = request.map(|request| (request, &b"web:80"[..]));
        matches!(authorization.decide(caller, asked), Decision::Allowed(_))
    }

    #[test]
    fn without_policies_everything_is_allowed() {
        assert!(Authorization::default().is_empty());
        assert!(decides(Vec::new(), false, &caller(None), Some(&GET)));
        assert!(decides(Vec::new(), false, &caller(None), None));
    }

    #[test]
    fn an_allow_policy_without_a_rule_allows_nobody() {
        assert!(!decides(Vec::new(), true, &caller(WEB), Some(&GET)));
    }

    #[test]
    fn deny_is_stronger_than_allow() {
        let everyone = rule(false, Vec::new(), Vec::new());
        let team = Operation { headers: vec![("x-team".into(), Some("red".into()))], ..Operation::default() };
        assert!(decides(vec![everyone.clone()], true, &caller(None), Some(&GET)));
        assert!(!decides(
            vec![everyone, rule(true, Vec::new(), vec![team])],
            true,
            &caller(None),
            Some(&GET)
        ));
    }

    #[test]
    fn a_caller_without_an_identity_is_nobody() {
        let of = |source| vec![rule(false, vec![source], Vec::new())];
        let named = |text: TextMatch| Source { principals: vec![text], ..Source::default() };
        let exact = || named(TextMatch::Exact(WEB.unwrap_or_default().into()));
        assert!(decides(of(exact()), true, &caller(WEB), None));
        assert!(!decides(of(exact()), true, &caller(None), None));
        assert!(decides(of(named(TextMatch::Prefix("".into()))), true, &caller(WEB), None));
        assert!(!decides(of(named(TextMatch::Prefix("".into()))), true, &caller(None), None));
        let others = Source {
            not_principals: vec![TextMatch::Exact(WEB.unwrap_or_default().into())],
            ..Source::default()
        };
        assert!(!decides(of(others.clone()), true, &caller(WEB), None));
        assert!(decides(of(others), true, &caller(None), None));
        let shop = Source { namespaces: vec!["shop".into()], ..Source::default() };
        assert!(decides(of(shop.clone()), true, &caller(WEB), None));
        assert!(!decides(
            of(shop.clone()),
            true,
            &caller(Some("spiffe://mesh.lighter/ns/shopping/sa/web")),
            None
        ));
        assert!(!decides(of(shop), true, &caller(None), None));
    }

    #[test]
    fn addresses_are_matched_by_prefix_in_their_family() {
        let range = |network: &str, length| {
            vec![rule(
                false,
                vec![Source { cidrs: vec![(network.parse().unwrap(), length)], ..Source::default() }],
                Vec::new(),
            )]
        };
        for (network, length, expected) in [
            ("192.0.2.0", 24, true),
            ("192.0.2.7", 32, true),
            ("192.0.2.6", 32, false),
            ("0.0.0.0", 0, true),
            ("::", 0, false),
            ("198.51.100.0", 24, false),
        ] {
            assert_eq!(
                decides(range(network, length), true, &caller(None), None),
                expected,
                "{network}/{length}"
            );
        }
        let mapped = Caller { identity: None, address: "::ffff:192.0.2.7".parse().unwrap() };
        assert!(decides(range("192.0.2.0", 24), true, &mapped, None));
    }

    #[test]
    fn what_looks_at_requests_never_allows_opaque_bytes_and_always_denies_them() {
        let get = || Operation { methods: vec!["GET".into()], ..Operation::default() };
        assert!(decides(vec![rule(false, Vec::new(), vec![get()])], true, &caller(None), Some(&GET)));
        assert!(!decides(vec![rule(false, Vec::new(), vec![get()])], true, &caller(None), None));
        let put = Operation { methods: vec!["PUT".into()], ..Operation::default() };
        assert!(decides(vec![rule(true, Vec::new(), vec![put.clone()])], false, &caller(None), Some(&GET)));
        assert!(!decides(vec![rule(true, Vec::new(), vec![put])], false, &caller(None), None));
    }

    #[test]
    fn every_part_of_an_operation_must_hold() {
        let operation = |paths: Vec<TextMatch>, hosts: Vec<Arc<str>>, headers| {
            vec![rule(
                false,
                Vec::new(),
                vec![Operation { methods: vec!["GET".into()], paths, hosts, headers }],
            )]
        };
        let path = || vec![TextMatch::Prefix("/a/".into())];
        let allowed = |rules| decides(rules, true, &caller(None), Some(&GET));
        assert!(allowed(operation(path(), vec!["WEB".into()], vec![("x-team".into(), None)])));
        assert!(!allowed(operation(path(), vec!["other".into()], Vec::new())));
        assert!(!allowed(operation(vec![TextMatch::Exact("/a".into())], Vec::new(), Vec::new())));
        assert!(!allowed(operation(path(), Vec::new(), vec![("x-other".into(), None)])));
        assert!(!allowed(operation(path(), Vec::new(), vec![("x-team".into(), Some("blue".into()))])));
    }

    #[test]
    fn a_path_that_can_be_read_in_two_ways_is_not_allowed_and_is_denied() {
        for plain in ["/", "/a", "/a/", "/a.b/..c", "/a%20b", "/%C3%A9"] {
            assert!(is_plain(plain.as_bytes()), "{plain}");
        }
        for odd in [
            "//",
            "/a//b",
            "/a/../b",
            "/..",
            "/.",
            "/a/./b",
            "/%61",
            "/a%2Fb",
            "/%2e%2e/b",
            "/%5c",
            "/a\\b",
            "/a;b",
            "/%",
            "/%zz",
            "/a%00",
        ] {
            assert!(!is_plain(odd.as_bytes()), "{odd}");
        }
        let admin = || Operation { paths: vec![TextMatch::Prefix("/admin".into())], ..Operation::default() };
        let all = Operation { paths: vec![TextMatch::Prefix("/".into())], ..Operation::default() };
        let odd = Asked("GET", "//admin", &[]);
        assert!(!decides(vec![rule(true, Vec::new(), vec![admin()])], false, &caller(None), Some(&odd)));
        assert!(!decides(vec![rule(false, Vec::new(), vec![all])], true, &caller(None), Some(&odd)));
    }

    #[test]
    fn a_second_value_of_a_field_hides_nothing() {
        let prod =
            || Operation { headers: vec![("x-env".into(), Some("prod".into()))], ..Operation::default() };
        let decides = |deny, values: &[&str]| {
            let fields: Vec<_> = values.iter().map(|value| ("x-env", *value)).collect();
            let rules = vec![rule(deny, Vec::new(), vec![prod()])];
            let allow = if deny { Vec::new() } else { vec!["ns/p".into()] };
            let authorization = Authorization { rules, allow, audit_allow: Vec::new() };
            let decision =
                authorization.decide(&caller(None), Some((&Asked("GET", "/", &fields), &b"web"[..])));
            matches!(decision, Decision::Allowed(_))
        };
        for (values, denied, allowed) in [
            (&["prod"][..], true, true),
            (&["test", "prod"], true, false),
            (&["prod", "test"], true, false),
            (&["test, prod"], true, false),
            (&["test"], false, false),
            (&[], false, false),
        ] {
            assert_eq!(decides(true, values), !denied, "{values:?}");
            assert_eq!(decides(false, values), allowed, "{values:?}");
        }
    }

    #[test]
    fn audit_is_told_of_and_decides_nothing() {
        let mut denies = rule(true, Vec::new(), Vec::new());
        denies.audit = true;
        let authorization = Authorization { rules: vec![denies], ..Authorization::default() };
        let asked = Some((&GET, &b"web"[..]));
        assert_eq!(authorization.decide(&caller(None), asked), Decision::Allowed(None));
        assert_eq!(authorization.audit(&caller(None), asked), Some(Decision::Denied("ns/p/0")));
        assert_eq!(Authorization::default().audit(&caller(None), asked), None);
    }

    #[test]
    fn hosts_are_compared_without_their_ports() {
        assert!(is_host(b"Web.Example:8080", b"web.example"));
        assert!(is_host(b"[::1]:80", b"[::1]"));
        assert!(is_host(b"[::1]", b"[::1]"));
        assert!(!is_host(b"web.example.org", b"web.example"));
    }
}
