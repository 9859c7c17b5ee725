//! What a route does to a request: changes of headers, rewrites, redirects.

use std::sync::Arc;

use super::{missing, port, unsupported};
use crate::build::check;
use crate::document::At;
use crate::error::ConfigError;
use crate::snapshot::route::{PathChange, Redirect, Rewrite};
use crate::snapshot::{HeaderChanges, PathMatch};
use crate::xds::encode::WHOLE_PATH;
use crate::xds::wire::envoy::config::core::v3::HeaderValueOption;
use crate::xds::wire::envoy::config::core::v3::header_value_option::HeaderAppendAction;
use crate::xds::wire::envoy::config::route::v3 as wire;
use crate::xds::wire::envoy::r#type::matcher::v3::RegexMatchAndSubstitute;
use wire::redirect_action::{PathRewriteSpecifier, RedirectResponseCode, SchemeRewriteSpecifier};
use wire::route_action::HostRewriteSpecifier;

/// Changes of headers at one place of the configuration, and where it is.
pub(super) struct Changes<'m, 'd> {
    pub(super) add: &'m [HeaderValueOption],
    pub(super) remove: &'m [String],
    /// What `add` and `remove` are called there.
    pub(super) at: (At<'d>, At<'d>),
}

/// One set of changes that does what `places` do one after the other, which in each place is: first take away, then set
/// and add in their order.
pub(super) fn headers(places: &[&Changes<'_, '_>]) -> Result<HeaderChanges, ConfigError> {
    let mut all = HeaderChanges::default();
    let is = |name: &str| {
        let name = name.to_string();
        move |(other, _): &(Arc<str>, Arc<str>)| !other.eq_ignore_ascii_case(&name)
    };
    for Changes { add, remove, at: (at_add, at_remove) } in places {
        check::at_most(at_add, add.len(), check::MAX_ITEMS)?;
        check::at_most(at_remove, remove.len(), check::MAX_ITEMS)?;
        for (index, name) in remove.iter().enumerate() {
            check::changeable_header(&at_remove.index(index), name)?;
            all.set.retain(is(name));
            all.add.retain(is(name));
            if !all.remove.iter().any(|other| other.eq_ignore_ascii_case(name)) {
                all.remove.push(name.as_str().into());
            }
        }
        for (index, option) in add.iter().enumerate() {
            let (name, value, replaces) = header(option, &at_add.index(index))?;
            if replaces {
                all.set.retain(is(&name));
                all.add.retain(is(&name));
                all.set.push((name, value));
            } else {
                all.add.push((name, value));
            }
        }
    }
    Ok(all)
}

/// Name, value, and whether it replaces what is there.
fn header(option: &HeaderValueOption, at: &At<'_>) -> Result<(Arc<str>, Arc<str>, bool), ConfigError> {
    let replaces = match (option.append, HeaderAppendAction::try_from(option.append_action)) {
        (Some(append), _) => !append,
        (None, Ok(HeaderAppendAction::AppendIfExistsOrAdd)) => false,
        (None, Ok(HeaderAppendAction::OverwriteIfExistsOrAdd)) => true,
        _ => {
            let hint = "write `APPEND_IF_EXISTS_OR_ADD` or `OVERWRITE_IF_EXISTS_OR_ADD`";
            return Err(unsupported(&at.field("append_action"), hint));
        }
    };
    let at = at.field("header");
    let header = option.header.as_ref().ok_or_else(|| missing(&at))?;
    check::changeable_header(&at.field("key"), &header.key)?;
    let (value, at) = match header.raw_value.is_empty() {
        true => (header.value.as_str(), at.field("value")),
        false => {
            let at = at.field("raw_value");
            (std::str::from_utf8(&header.raw_value).map_err(|_| at.error("not a text"))?, at)
        }
    };
    let value = plain(value, &at)?;
    check::header_value(&at, &value)?;
    Ok((header.key.as_str().into(), value.into(), replaces))
}

/// The text of a value in which two percent signs stand for one.
fn plain(value: &str, at: &At<'_>) -> Result<String, ConfigError> {
    let without = value.replace("%%", "");
    if without.contains('%') {
        return Err(unsupported(at, "a value is a plain text; write `%%` for a percent sign"));
    }
    Ok(value.replace("%%", "%"))
}

/// The rewrite of a route that matches `path`; none: it changes nothing.
pub(super) fn rewrite(
    action: &wire::RouteAction,
    path: &PathMatch,
    at: &At<'_>,
) -> Result<Option<Rewrite>, ConfigError> {
    let hostname = match &action.host_rewrite_specifier {
        None => None,
        Some(HostRewriteSpecifier::HostRewriteLiteral(host)) => {
            check::dns_name(&at.field("host_rewrite_literal"), host)?;
            Some(host.as_str().into())
        }
        // Only names that are resolved have a host; so it stays.
        Some(HostRewriteSpecifier::AutoHostRewrite(_)) => None,
        Some(_) => return Err(unsupported(&at.field("host_rewrite"), "write `host_rewrite_literal`")),
    };
    let at_regex = at.field("regex_rewrite");
    let new_path = match (&action.regex_rewrite, action.prefix_rewrite.as_str()) {
        (None, "") => None,
        (None, new) => Some(prefix_change(new, path, &at.field("prefix_rewrite"))?),
        (Some(change), "") => Some(full_change(change, &at_regex)?),
        (Some(_), _) => return Err(at_regex.error("there is `prefix_rewrite` already")),
    };
    let changes = hostname.is_some() || new_path.is_some();
    Ok(changes.then_some(Rewrite { hostname, path: new_path }))
}

/// What a route that matches `path` answers.
pub(super) fn redirect(
    to: &wire::RedirectAction,
    path: &PathMatch,
    at: &At<'_>,
) -> Result<Redirect, ConfigError> {
    if to.strip_query {
        return Err(unsupported(&at.field("strip_query"), "the query stays"));
    }
    let scheme = match &to.scheme_rewrite_specifier {
        None | Some(SchemeRewriteSpecifier::HttpsRedirect(false)) => None,
        Some(SchemeRewriteSpecifier::HttpsRedirect(true)) => Some("https".into()),
        Some(SchemeRewriteSpecifier::SchemeRedirect(scheme)) => match scheme.as_str() {
            "" => None,
            "http" | "https" => Some(scheme.as_str().into()),
            _ => return Err(unsupported(&at.field("scheme_redirect"), "write `http` or `https`")),
        },
    };
    let hostname = Some(to.host_redirect.as_str()).filter(|host| !host.is_empty());
    hostname.map(|host| check::dns_name(&at.field("host_redirect"), host)).transpose()?;
    let port = Some(to.port_redirect).filter(|number| *number != 0);
    let port = port.map(|number| self::port(number, &at.field("port_redirect"))).transpose()?;
    let new_path = match &to.path_rewrite_specifier {
        None => None,
        Some(PathRewriteSpecifier::PathRedirect(new)) => {
            check::path(&at.field("path_redirect"), new)?;
            Some(PathChange::ReplaceFull(new.as_str().into()))
        }
        Some(PathRewriteSpecifier::PrefixRewrite(new)) => {
            Some(prefix_change(new, path, &at.field("prefix_rewrite"))?)
        }
    };
    let status = match RedirectResponseCode::try_from(to.response_code) {
        Ok(RedirectResponseCode::MovedPermanently) => 301,
        Ok(RedirectResponseCode::Found) => 302,
        Ok(RedirectResponseCode::SeeOther) => 303,
        Ok(RedirectResponseCode::TemporaryRedirect) => 307,
        Ok(RedirectResponseCode::PermanentRedirect) => 308,
        Err(_) => return Err(unsupported(&at.field("response_code"), "301, 302, 303, 307 or 308")),
    };
    Ok(Redirect { scheme, hostname: hostname.map(Arc::from), port, path: new_path, status })
}

/// What is matched is replaced: the prefix, or the whole path where that was matched. Two slashes that would meet become
/// one, as everywhere here.
fn prefix_change(new: &str, path: &PathMatch, at: &At<'_>) -> Result<PathChange, ConfigError> {
    check::path(at, new)?;
    Ok(match path {
        PathMatch::Prefix(prefix) | PathMatch::Starts(prefix) => {
            PathChange::ReplacePrefix(new.into(), prefix.clone())
        }
        PathMatch::Exact(_) | PathMatch::Regex(_) => PathChange::ReplaceFull(new.into()),
    })
}

/// A path may be replaced whole; an expression for a part of it is more than can be done here.
fn full_change(change: &RegexMatchAndSubstitute, at: &At<'_>) -> Result<PathChange, ConfigError> {
    let expression = change.pattern.as_ref().map_or("", |pattern| &pattern.regex);
    if ![WHOLE_PATH, "^.*$", "/.*", "^/.*$"].contains(&expression) {
        return Err(unsupported(&at.field("pattern"), "only `.*`, the whole path, can be replaced"));
    }
    let at = at.field("substitution");
    let without = change.substitution.replace(r"\\", "");
    if without.contains('\\') {
        return Err(unsupported(&at, r"a plain text; write `\\` for a backslash"));
    }
    let path = change.substitution.replace(r"\\", r"\");
    check::path(&at, &path)?;
    Ok(PathChange::ReplaceFull(path.into()))
}
