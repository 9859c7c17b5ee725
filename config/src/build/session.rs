//! Sessions of the rules of HTTPRoutes and GRPCRoutes.

use std::sync::Arc;

use sha2::{Digest, Sha256};

use super::{Report, check};
use crate::document::At;
use crate::error::ConfigError;
use crate::hex;
use crate::resource::Duration as Limit;
use crate::resource::session::{CookieConfig, Lifetime, SessionPersistence, SessionType};
use crate::snapshot::session::{Carrier, Persistence};
use crate::snapshot::{PathMatch, Route};

/// The sessions that are said of the rule called `label`, of which `routes` are all.
pub(super) fn of_rule<'r>(
    said: Option<&SessionPersistence>,
    label: &str,
    at_rule: &At<'_>,
    routes: impl Iterator<Item = &'r Route> + Clone,
    report: &mut Report,
) -> Option<Arc<Persistence>> {
    let said = said?;
    let at = at_rule.field("sessionPersistence");
    if routes.clone().any(|route| route.backends.is_empty()) {
        let error = at.error("there is no backend that could have sessions");
        report.error(error.hint("leave it out of a rule that redirects, or that has no `backendRefs`"));
    }
    persistence(said, label, routes.map(|route| &route.matcher.path), &at, report).map(Arc::new)
}

/// The name of a session's cookie or header.
pub(crate) fn name(name: &str, is_header: bool, at: &At<'_>) -> Result<Arc<str>, ConfigError> {
    if name.len() > MAX_NAME {
        return Err(at.error("the name is too long").hint(format!("at most {MAX_NAME} characters")));
    }
    check::header_name(at, name)?;
    if is_header {
        check::changeable_header(at, name)?;
        return Ok(name.to_ascii_lowercase().into());
    }
    Ok(name.into())
}

/// The path of a session's cookie: what all of these begin with, in whole segments.
fn common_path<'p>(paths: impl IntoIterator<Item = &'p PathMatch>) -> Arc<str> {
    let mut common: Option<Vec<&str>> = None;
    for path in paths {
        let text = match path {
            PathMatch::Exact(path) | PathMatch::Prefix(path) => &**path,
            // What such a path begins with is not told.
            PathMatch::Starts(_) | PathMatch::Regex(_) => "",
        };
        let segments = text.split('/').skip(1);
        common = Some(match common {
            None => segments.collect(),
            Some(known) => {
                known.into_iter().zip(segments).take_while(|(a, b)| a == b).map(|(a, _)| a).collect()
            }
        });
    }
    let path = common.unwrap_or_default().join("/");
    // A path is any text to a route, and part of a header's value in a cookie.
    let is_plain = path.bytes().all(|byte| byte.is_ascii_graphic() && byte != b';');
    if is_plain { format!("/{path}").into() } else { "/".into() }
}

fn persistence<'p>(
    said: &SessionPersistence,
    label: &str,
    paths: impl Iterator<Item = &'p PathMatch>,
    at: &At<'_>,
    report: &mut Report,
) -> Option<Persistence> {
    let is_header = said.kind == SessionType::Header;
    let name = match &said.session_name {
        Some(name) => report.ok(self::name(name, is_header, &at.field("sessionName"))),
        None => Some(default_name(label)),
    };
    if is_header && said.cookie_config.is_some() {
        report.error(at.field("cookieConfig").error("a header is no cookie"));
    }
    let absolute = timeout(said.absolute_timeout, &at.field("absoluteTimeout"), report);
    let idle = timeout(said.idle_timeout, &at.field("idleTimeout"), report);
    if let (Some(absolute), Some(idle)) = (absolute, idle)
        && idle > absolute
    {
        report.error(at.field("idleTimeout").error("longer than `absoluteTimeout`"));
    }
    let lifetime = said
        .cookie_config
        .as_ref()
        .map_or(Lifetime::Session, |CookieConfig { lifetime_type }| *lifetime_type);
    let permanent = lifetime == Lifetime::Permanent;
    if permanent && absolute.is_none() {
        let error =
            at.field("cookieConfig").field("lifetimeType").error("how long the client keeps it is not said");
        report.error(error.hint("say `absoluteTimeout`"));
    }
    let carrier = match said.kind {
        SessionType::Header => Carrier::Header,
        SessionType::Cookie => Carrier::Cookie { path: common_path(paths), permanent },
    };
    Some(Persistence { name: name?, carrier, absolute, idle })
}

fn timeout(said: Option<Limit>, at: &At<'_>, report: &mut Report) -> Option<std::time::Duration> {
    let limit = said?.0;
    if limit.is_zero() || limit.subsec_nanos() != 0 {
        report.error(
            at.error("not a whole number of seconds").hint("at least `1s`; leave it out for no limit"),
        );
    }
    Some(limit)
}

/// Other than that of every other rule, and the same in every sidecar.
fn default_name(label: &str) -> Arc<str> {
    let digest = Sha256::digest(label.as_bytes());
    format!("session-{}", hex::encode(&digest[..6])).into()
}

/// As the Gateway API has it.
const MAX_NAME: usize = 128;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cookie_is_of_all_paths_of_its_rule_and_of_no_more() {
        let path = |paths: &[PathMatch]| common_path(paths).to_string();
        assert_eq!(path(&[PathMatch::prefix("/a/b/")]), "/a/b");
        assert_eq!(path(&[PathMatch::prefix("/a/b"), PathMatch::Exact("/a/bc".into())]), "/a");
        assert_eq!(path(&[PathMatch::prefix("/a"), PathMatch::prefix("/b")]), "/");
        assert_eq!(path(&[PathMatch::default()]), "/");
        assert_eq!(path(&[PathMatch::prefix("/a; Domain=example.com")]), "/");
    }
}
