//! Two routes that mean whole segments together become one again; see [`encode`](crate::xds::encode).

use std::sync::Arc;

use crate::snapshot::route::{Action, Matcher, PathChange, PathMatch, Redirect, Rewrite, Route};

/// `routes`, in which neighbours that are one match of whole segments are joined.
pub(super) fn neighbours(routes: Vec<Route>) -> Vec<Route> {
    let mut joined: Vec<Route> = Vec::with_capacity(routes.len());
    for route in routes {
        match joined.last().and_then(|last| pair(last, &route)) {
            Some(both) => {
                joined.pop();
                joined.push(both);
            }
            None => joined.push(route),
        }
    }
    joined
}

/// The route that takes what `exact` takes, which is a path, and what `below` takes, which is what lies below it.
fn pair(exact: &Route, below: &Route) -> Option<Route> {
    let (PathMatch::Exact(path), PathMatch::Starts(front)) = (&exact.matcher.path, &below.matcher.path)
    else {
        return None;
    };
    if path.is_empty() || front.strip_suffix('/') != Some(path) {
        return None;
    }
    let prefix = PathMatch::Prefix(path.clone());
    let with_prefix = |matcher: &Matcher| Matcher { path: prefix.clone(), ..matcher.clone() };
    let is_alike = exact.name == below.name
        && exact.backends == below.backends
        && exact.request_timeout == below.request_timeout
        && exact.retry == below.retry
        && exact.priority == below.priority
        && exact.session == below.session
        && exact.offload == below.offload
        && exact.actions.len() == below.actions.len()
        && with_prefix(&exact.matcher) == with_prefix(&below.matcher);
    if !is_alike {
        return None;
    }
    let both = exact.actions.iter().zip(&below.actions).map(|(exact, below)| action(exact, below, path));
    Some(Route {
        matcher: with_prefix(&exact.matcher),
        actions: both.collect::<Option<_>>()?,
        ..exact.clone()
    })
}

fn action(exact: &Action, below: &Action, prefix: &Arc<str>) -> Option<Action> {
    match (exact, below) {
        (Action::Rewrite(exact), Action::Rewrite(below)) if exact.hostname == below.hostname => {
            let path = change(exact.path.as_ref(), below.path.as_ref(), prefix)?;
            Some(Action::Rewrite(Rewrite { path, ..exact.clone() }))
        }
        (Action::Redirect(exact), Action::Redirect(below)) => {
            let path = change(exact.path.as_ref(), below.path.as_ref(), prefix)?;
            let to = |redirect: &Redirect| Redirect { path: path.clone(), ..redirect.clone() };
            (to(exact) == to(below)).then(|| Action::Redirect(to(exact)))
        }
        (exact, below) => (exact == below).then(|| exact.clone()),
    }
}

/// The change of a path with `prefix`. None: the two have none in common.
fn change(
    exact: Option<&PathChange>,
    below: Option<&PathChange>,
    prefix: &Arc<str>,
) -> Option<Option<PathChange>> {
    match (exact, below) {
        (Some(PathChange::ReplaceFull(whole)), Some(PathChange::ReplacePrefix(new, _))) => {
            let bare = whole.strip_suffix('/').unwrap_or(whole);
            let fits = new.strip_suffix('/') == Some(bare);
            fits.then(|| Some(PathChange::ReplacePrefix(whole.clone(), prefix.clone())))
        }
        (exact, below) => (exact == below).then(|| exact.cloned()),
    }
}
