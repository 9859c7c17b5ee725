//! Filters of HTTP and gRPC routes.

use std::sync::Arc;

use super::{Drafts, Report, check, reference};
use crate::document::At;
use crate::error::ConfigError;
use crate::resource::filter::RequestMirror;
use crate::resource::meta::BackendRef;
use crate::resource::route::{
    GrpcRouteFilter, GrpcRouteFilterType, Header, HeaderModifier, HttpRouteFilter, HttpRouteFilterType,
    PathModifier, PathModifierType, RequestRedirect, Scheme, UrlRewrite,
};
use crate::snapshot::filter::{Mirror, Share};
use crate::snapshot::route::{Action, HeaderChanges, PathChange, PathMatch, Redirect, Rewrite};

/// The actions of a rule, for its match with `path`.
///
/// A prefix that is replaced is part of the action, so a rule's actions differ from match to match.
pub(super) fn for_match(actions: &[Action], path: &PathMatch) -> Vec<Action> {
    let PathMatch::Prefix(prefix) = path else { return actions.to_vec() };
    let with_prefix = |change: &Option<PathChange>| match change {
        Some(PathChange::ReplacePrefix(new, _)) => {
            Some(PathChange::ReplacePrefix(new.clone(), prefix.clone()))
        }
        other => other.clone(),
    };
    let of_match = |action: &Action| match action {
        Action::Redirect(redirect) => {
            Action::Redirect(Redirect { path: with_prefix(&redirect.path), ..redirect.clone() })
        }
        Action::Rewrite(rewrite) => {
            Action::Rewrite(Rewrite { path: with_prefix(&rewrite.path), ..rewrite.clone() })
        }
        headers => headers.clone(),
    };
    actions.iter().map(of_match).collect()
}

/// Whether the matches of the rule must all be prefixes.
pub(super) fn replaces_prefix(actions: &[Action]) -> bool {
    let path = |action: &Action| match action {
        Action::Redirect(redirect) => redirect.path.clone(),
        Action::Rewrite(rewrite) => rewrite.path.clone(),
        _ => None,
    };
    actions.iter().any(|action| matches!(path(action), Some(PathChange::ReplacePrefix(..))))
}

/// The actions of a rule's filters, each of them valid alone and beside the others, in a route in `namespace`.
pub(super) fn http(
    filters: &[HttpRouteFilter],
    at: &At<'_>,
    namespace: &str,
    drafts: &Drafts,
    report: &mut Report,
) -> Vec<Action> {
    use HttpRouteFilterType as Type;
    let mut actions = Vec::new();
    report.ok(check::at_most(at, filters.len(), check::MAX_ITEMS));
    for (index, filter) in filters.iter().enumerate().take(check::MAX_ITEMS) {
        let at = at.index(index);
        let is_twin =
            |other: &HttpRouteFilter| other.kind == filter.kind && filter.kind != Type::RequestMirror;
        if filters[..index].iter().any(is_twin) {
            report.error(at.field("type").error(format!("a rule has only one {:?}", filter.kind)));
        }
        let fields = [
            ("requestHeaderModifier", Type::RequestHeaderModifier, filter.request_header_modifier.is_some()),
            (
                "responseHeaderModifier",
                Type::ResponseHeaderModifier,
                filter.response_header_modifier.is_some(),
            ),
            ("requestRedirect", Type::RequestRedirect, filter.request_redirect.is_some()),
            ("urlRewrite", Type::URLRewrite, filter.url_rewrite.is_some()),
            ("requestMirror", Type::RequestMirror, filter.request_mirror.is_some()),
        ];
        for (field, kind, present) in fields {
            of_type(&at, field, kind == filter.kind, present, report);
        }
        let action = match filter.kind {
            Type::RequestHeaderModifier => filter.request_header_modifier.as_ref().map(|modifier| {
                Action::RequestHeaders(header_changes(modifier, &at.field("requestHeaderModifier"), report))
            }),
            Type::ResponseHeaderModifier => filter.response_header_modifier.as_ref().map(|modifier| {
                Action::ResponseHeaders(header_changes(modifier, &at.field("responseHeaderModifier"), report))
            }),
            Type::RequestRedirect => {
                let redirect = filter.request_redirect.as_ref();
                redirect.map(|to| Action::Redirect(self::redirect(to, &at.field("requestRedirect"), report)))
            }
            Type::URLRewrite => {
                let rewrite = filter.url_rewrite.as_ref();
                rewrite.map(|to| Action::Rewrite(self::rewrite(to, &at.field("urlRewrite"), report)))
            }
            Type::RequestMirror => {
                let mirror = filter.request_mirror.as_ref();
                mirror.and_then(|to| self::mirror(to, &at.field("requestMirror"), namespace, drafts, report))
            }
        };
        actions.extend(action);
    }
    let has = |kind| filters.iter().any(|filter| filter.kind == kind);
    if has(Type::RequestRedirect) && has(Type::URLRewrite) {
        report.error(at.error("a rule cannot have both RequestRedirect and URLRewrite"));
    }
    actions
}

/// The same for gRPC.
pub(super) fn grpc(
    filters: &[GrpcRouteFilter],
    at: &At<'_>,
    namespace: &str,
    drafts: &Drafts,
    report: &mut Report,
) -> Vec<Action> {
    use GrpcRouteFilterType as Type;
    let mut actions = Vec::new();
    report.ok(check::at_most(at, filters.len(), check::MAX_ITEMS));
    for (index, filter) in filters.iter().enumerate().take(check::MAX_ITEMS) {
        let at = at.index(index);
        let is_twin =
            |other: &GrpcRouteFilter| other.kind == filter.kind && filter.kind != Type::RequestMirror;
        if filters[..index].iter().any(is_twin) {
            report.error(at.field("type").error(format!("a rule has only one {:?}", filter.kind)));
        }
        let (request, response) = (&filter.request_header_modifier, &filter.response_header_modifier);
        let fields = [
            ("requestHeaderModifier", Type::RequestHeaderModifier, request.is_some()),
            ("responseHeaderModifier", Type::ResponseHeaderModifier, response.is_some()),
            ("requestMirror", Type::RequestMirror, filter.request_mirror.is_some()),
        ];
        for (field, kind, present) in fields {
            of_type(&at, field, kind == filter.kind, present, report);
        }
        let action = match filter.kind {
            Type::RequestHeaderModifier => request.as_ref().map(|modifier| {
                Action::RequestHeaders(header_changes(modifier, &at.field("requestHeaderModifier"), report))
            }),
            Type::ResponseHeaderModifier => response.as_ref().map(|modifier| {
                Action::ResponseHeaders(header_changes(modifier, &at.field("responseHeaderModifier"), report))
            }),
            Type::RequestMirror => {
                let mirror = filter.request_mirror.as_ref();
                mirror.and_then(|to| self::mirror(to, &at.field("requestMirror"), namespace, drafts, report))
            }
        };
        actions.extend(action);
    }
    actions
}

/// The Services to which filters of rules send copies.
pub(super) fn mirrors<'r>(filters: impl Iterator<Item = Option<&'r RequestMirror>>) -> Vec<&'r BackendRef> {
    filters.flatten().map(|mirror| &mirror.backend_ref).collect()
}

fn mirror(
    to: &RequestMirror,
    at: &At<'_>,
    namespace: &str,
    drafts: &Drafts,
    report: &mut Report,
) -> Option<Action> {
    let at_backend = at.field("backendRef");
    if to.backend_ref.weight.is_some() {
        report.error(at_backend.field("weight").error("a mirror has no weight").hint("use `percent`"));
    }
    let share = report.ok(mirrored(to, at));
    let backend = reference::backend(&to.backend_ref, &at_backend, namespace, drafts, report)?;
    Some(Action::Mirror(Mirror { target: backend.target, share: share? }))
}

fn mirrored(to: &RequestMirror, at: &At<'_>) -> Result<Share, ConfigError> {
    let (numerator, denominator, at) = match (to.percent, &to.fraction) {
        (None, None) => return Ok(Share::ALL),
        (Some(_), Some(_)) => return Err(at.field("fraction").error("there is `percent` already")),
        (Some(percent), None) => (percent, 100, at.field("percent")),
        (None, Some(fraction)) => {
            (fraction.numerator, fraction.denominator.unwrap_or(100), at.field("fraction"))
        }
    };
    if denominator == 0 || numerator > denominator {
        let error = at.error(format!("{numerator} of {denominator} is no share"));
        return Err(error.hint("from none to all of them"));
    }
    // Below a million, so it fits.
    Ok(Share((u64::from(numerator) * 1_000_000 / u64::from(denominator)) as u32))
}

/// A filter has the field that its type names, and no other.
fn of_type(at: &At<'_>, field: &str, wanted: bool, present: bool, report: &mut Report) {
    match (wanted, present) {
        (true, false) => report.error(at.error(format!("missing field `{field}`"))),
        (false, true) => {
            report.error(at.field(field).error("this field does not go with the filter's `type`"))
        }
        _ => {}
    }
}

fn header_changes(modifier: &HeaderModifier, at: &At<'_>, report: &mut Report) -> HeaderChanges {
    let remove = at.field("remove");
    report.ok(check::at_most(&remove, modifier.remove.len(), check::MAX_ITEMS));
    for (index, name) in modifier.remove.iter().enumerate().take(check::MAX_ITEMS) {
        report.ok(check::changeable_header(&remove.index(index), name));
        if modifier.remove[..index].iter().any(|other| other.eq_ignore_ascii_case(name)) {
            report.error(remove.index(index).error(format!("the header `{name}` is there already")));
        }
    }
    HeaderChanges {
        set: headers(&modifier.set, &at.field("set"), report),
        add: headers(&modifier.add, &at.field("add"), report),
        remove: modifier.remove.iter().map(|name| Arc::from(name.as_str())).collect(),
    }
}

fn headers(headers: &[Header], at: &At<'_>, report: &mut Report) -> Vec<(Arc<str>, Arc<str>)> {
    let mut changes = Vec::new();
    report.ok(check::at_most(at, headers.len(), check::MAX_ITEMS));
    for (index, header) in headers.iter().enumerate().take(check::MAX_ITEMS) {
        let at = at.index(index);
        report.ok(check::changeable_header(&at.field("name"), &header.name));
        report.ok(check::header_value(&at.field("value"), &header.value));
        if headers[..index].iter().any(|other| other.name.eq_ignore_ascii_case(&header.name)) {
            report.error(at.field("name").error(format!("the header `{}` is there already", header.name)));
        }
        changes.push((header.name.as_str().into(), header.value.as_str().into()));
    }
    changes
}

fn redirect(to: &RequestRedirect, at: &At<'_>, report: &mut Report) -> Redirect {
    let status = to.status_code.unwrap_or(302);
    if !matches!(status, 301 | 302 | 303 | 307 | 308) {
        let error = at.field("statusCode").error(format!("{status} is not the status of a redirect"));
        report.error(error.hint("301, 302, 303, 307 or 308"));
    }
    if let Some(port) = to.port {
        report.ok(check::port(&at.field("port"), port));
    }
    Redirect {
        scheme: to.scheme.map(|scheme| match scheme {
            Scheme::Http => "http".into(),
            Scheme::Https => "https".into(),
        }),
        hostname: hostname(to.hostname.as_deref(), at, report),
        port: to.port,
        path: path_change(to.path.as_ref(), at, report),
        status,
    }
}

fn rewrite(to: &UrlRewrite, at: &At<'_>, report: &mut Report) -> Rewrite {
    if to.hostname.is_none() && to.path.is_none() {
        report.error(at.error("the rewrite changes nothing").hint("give it `hostname` or `path`"));
    }
    Rewrite {
        hostname: hostname(to.hostname.as_deref(), at, report),
        path: path_change(to.path.as_ref(), at, report),
    }
}

fn hostname(name: Option<&str>, at: &At<'_>, report: &mut Report) -> Option<Arc<str>> {
    let name = name?;
    report.ok(check::dns_name(&at.field("hostname"), name));
    Some(name.into())
}

fn path_change(modifier: Option<&PathModifier>, at: &At<'_>, report: &mut Report) -> Option<PathChange> {
    let at = at.field("path");
    report.ok(changed_path(modifier?, &at))
}

fn changed_path(modifier: &PathModifier, at: &At<'_>) -> Result<PathChange, ConfigError> {
    let (full, prefix) = (modifier.replace_full_path.as_deref(), modifier.replace_prefix_match.as_deref());
    let surplus = |field| Err(at.field(field).error("this field does not go with the path's `type`"));
    match (modifier.kind, full, prefix) {
        (PathModifierType::ReplaceFullPath, Some(path), None) => {
            check::path(&at.field("replaceFullPath"), path)?;
            Ok(PathChange::ReplaceFull(path.into()))
        }
        (PathModifierType::ReplacePrefixMatch, None, Some(new)) => {
            if !new.is_empty() {
                check::path(&at.field("replacePrefixMatch"), new)?;
            }
            // The prefix is filled in for each match.
            Ok(PathChange::ReplacePrefix(new.into(), "".into()))
        }
        (PathModifierType::ReplaceFullPath, None, _) => Err(at.error("missing field `replaceFullPath`")),
        (PathModifierType::ReplacePrefixMatch, _, None) => {
            Err(at.error("missing field `replacePrefixMatch`"))
        }
        (PathModifierType::ReplaceFullPath, ..) => surplus("replacePrefixMatch"),
        (PathModifierType::ReplacePrefixMatch, ..) => surplus("replaceFullPath"),
    }
}
