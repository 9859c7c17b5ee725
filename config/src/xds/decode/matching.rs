//! What a route matches. Whatever cannot be said by a [`Matcher`] is refused, since a match that is taken for a wider one
//! sends traffic where it does not belong.

use std::sync::Arc;

use super::{missing, unsupported};
use crate::build::check;
use crate::document::At;
use crate::error::ConfigError;
use crate::snapshot::PathMatch;
use crate::snapshot::route::{Matcher, ValueMatch};
use crate::xds::wire::envoy::config::route::v3 as wire;
use crate::xds::wire::envoy::r#type::matcher::v3::string_matcher::MatchPattern;
use crate::xds::wire::envoy::r#type::matcher::v3::{RegexMatcher, StringMatcher};
use wire::header_matcher::HeaderMatchSpecifier;
use wire::query_parameter_matcher::QueryParameterMatchSpecifier;
use wire::route_match::PathSpecifier;

/// The matcher of a route.
pub(super) fn matcher(route_match: &wire::RouteMatch, at: &At<'_>) -> Result<Matcher, ConfigError> {
    let (mut method, mut headers) = (None, Vec::new());
    let at_headers = at.field("headers");
    check::at_most(&at_headers, route_match.headers.len(), check::MAX_ITEMS)?;
    for (index, header) in route_match.headers.iter().enumerate() {
        let at = at_headers.index(index);
        let value = header_value(header, &at)?;
        match (header.name.as_str(), value) {
            (":method", ValueMatch::Exact(value)) if method.is_none() => {
                check::header_name(&at, &value)?;
                method = Some(value);
            }
            (":method", _) => return Err(unsupported(&at, "a method is matched once and exactly")),
            (name, value) => {
                check::header_name(&at.field("name"), name)?;
                headers.push((Arc::from(name.to_ascii_lowercase()), value));
            }
        }
    }
    let at_query = at.field("query_parameters");
    check::at_most(&at_query, route_match.query_parameters.len(), check::MAX_ITEMS)?;
    let parameters = route_match.query_parameters.iter().enumerate();
    let query = parameters.map(|(index, parameter)| query(parameter, &at_query.index(index)));
    Ok(Matcher { path: path(route_match, at)?, method, headers, query: query.collect::<Result<_, _>>()? })
}

fn path(route_match: &wire::RouteMatch, at: &At<'_>) -> Result<PathMatch, ConfigError> {
    let specifier = route_match.path_specifier.as_ref().ok_or_else(|| {
        at.error("the path is not matched")
            .hint("send `prefix`, `path`, `path_separated_prefix` or `safe_regex`")
    })?;
    if route_match.case_sensitive == Some(false) {
        let (expression, name) = match specifier {
            PathSpecifier::Path(path) => (regex::escape(path), "path"),
            PathSpecifier::Prefix(prefix) => (regex::escape(prefix) + ANYTHING, "prefix"),
            PathSpecifier::PathSeparatedPrefix(prefix) => {
                (format!("{}(?:/{ANYTHING})?", regex::escape(prefix)), "path_separated_prefix")
            }
            PathSpecifier::SafeRegex(_) => {
                return Err(unsupported(&at.field("case_sensitive"), "write `(?i)` into the expression"));
            }
        };
        return check::regex(&at.field(name), &format!("(?i-u:{expression})")).map(PathMatch::Regex);
    }
    Ok(match specifier {
        PathSpecifier::Path(path) => PathMatch::Exact(path.as_str().into()),
        PathSpecifier::Prefix(prefix) if matches!(prefix.as_str(), "" | "/") => PathMatch::default(),
        PathSpecifier::Prefix(prefix) => PathMatch::Starts(prefix.as_str().into()),
        PathSpecifier::PathSeparatedPrefix(prefix) => PathMatch::prefix(prefix),
        PathSpecifier::SafeRegex(regex) => PathMatch::Regex(self::regex(regex, &at.field("safe_regex"))?),
    })
}

/// The headers that something is asked of beside a match: lower-case name, and what the value must be.
pub(super) fn headers(
    asked: &[wire::HeaderMatcher],
    at: &At<'_>,
) -> Result<Vec<(Arc<str>, ValueMatch)>, ConfigError> {
    check::at_most(at, asked.len(), check::MAX_ITEMS)?;
    let one = |(index, header): (usize, &wire::HeaderMatcher)| {
        let at = at.index(index);
        check::header_name(&at.field("name"), &header.name)?;
        Ok((Arc::from(header.name.to_ascii_lowercase()), header_value(header, &at)?))
    };
    asked.iter().enumerate().map(one).collect()
}

fn header_value(header: &wire::HeaderMatcher, at: &At<'_>) -> Result<ValueMatch, ConfigError> {
    use HeaderMatchSpecifier as Wanted;
    if header.invert_match {
        return Err(unsupported(&at.field("invert_match"), "put the routes for the other values first"));
    }
    match header.header_match_specifier.as_ref() {
        Some(Wanted::StringMatch(matcher)) => string(matcher, &at.field("string_match")),
        Some(Wanted::ExactMatch(whole)) => Ok(ValueMatch::Exact(whole.as_str().into())),
        Some(Wanted::SafeRegexMatch(regex)) => {
            self::regex(regex, &at.field("safe_regex_match")).map(ValueMatch::Regex)
        }
        Some(Wanted::PrefixMatch(front)) => around("", front, ANYTHING, false, &at.field("prefix_match")),
        Some(Wanted::SuffixMatch(end)) => around(ANYTHING, end, "", false, &at.field("suffix_match")),
        Some(Wanted::ContainsMatch(part)) => {
            around(ANYTHING, part, ANYTHING, false, &at.field("contains_match"))
        }
        // A header alone need only be there.
        None | Some(Wanted::PresentMatch(true)) => around("", "", ANYTHING, false, at),
        Some(Wanted::PresentMatch(false)) => Err(unsupported(
            &at.field("present_match"),
            "put the routes for those that have the header first",
        )),
    }
}

fn query(
    parameter: &wire::QueryParameterMatcher,
    at: &At<'_>,
) -> Result<(Arc<str>, ValueMatch), ConfigError> {
    if parameter.name.is_empty() {
        return Err(missing(&at.field("name")));
    }
    let value = match parameter.query_parameter_match_specifier.as_ref() {
        Some(QueryParameterMatchSpecifier::StringMatch(matcher)) => {
            string(matcher, &at.field("string_match"))?
        }
        None | Some(QueryParameterMatchSpecifier::PresentMatch(true)) => around("", "", ANYTHING, false, at)?,
        Some(QueryParameterMatchSpecifier::PresentMatch(false)) => {
            let hint = "put the routes for those that have the parameter first";
            return Err(unsupported(&at.field("present_match"), hint));
        }
    };
    Ok((parameter.name.as_str().into(), value))
}

fn string(matcher: &StringMatcher, at: &At<'_>) -> Result<ValueMatch, ConfigError> {
    let case = matcher.ignore_case;
    match matcher.match_pattern.as_ref() {
        Some(MatchPattern::Exact(whole)) if case => around("", whole, "", case, &at.field("exact")),
        Some(MatchPattern::Exact(whole)) => Ok(ValueMatch::Exact(whole.as_str().into())),
        Some(MatchPattern::Prefix(front)) => around("", front, ANYTHING, case, &at.field("prefix")),
        Some(MatchPattern::Suffix(end)) => around(ANYTHING, end, "", case, &at.field("suffix")),
        Some(MatchPattern::Contains(part)) => around(ANYTHING, part, ANYTHING, case, &at.field("contains")),
        // As everywhere, the expression itself says whether case counts.
        Some(MatchPattern::SafeRegex(regex)) => {
            self::regex(regex, &at.field("safe_regex")).map(ValueMatch::Regex)
        }
        None => Err(at.error("nothing is asked of the value").hint("send `exact` or `safe_regex`")),
    }
}

/// A text within what may stand around it.
fn around(
    before: &str,
    text: &str,
    after: &str,
    ignore_case: bool,
    at: &At<'_>,
) -> Result<ValueMatch, ConfigError> {
    let flags = if ignore_case { "i-u" } else { "-u" };
    let expression = format!("(?{flags}:{before}{}{after})", regex::escape(text));
    check::regex(at, &expression).map(ValueMatch::Regex)
}

fn regex(matcher: &RegexMatcher, at: &At<'_>) -> Result<regex::bytes::Regex, ConfigError> {
    check::regex(&at.field("regex"), &matcher.regex)
}

/// Any bytes, as a regular expression.
const ANYTHING: &str = r"(?s-u:.*)";
