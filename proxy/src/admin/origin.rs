//! Who may ask the admin port: everyone on this machine, but not a web page of another site.

use std::net::IpAddr;

use http::{HeaderMap, Method, Request, Version, header};

/// Refuses what a browser would send for a page that has no business here.
pub(super) fn check<B>(request: &Request<B>) -> Result<(), &'static str> {
    let host = match single(request.headers(), header::HOST) {
        Ok(Some(host)) => host,
        // Programs may leave it out in HTTP/1.0; a browser never does.
        Ok(None) if request.version() < Version::HTTP_11 => "",
        _ => return Err("there must be one Host header\n"),
    };
    if !host.is_empty() && !is_here(host) {
        return Err("Host must be an address or localhost: a name could have been made to lead here\n");
    }
    if *request.method() == Method::GET || *request.method() == Method::HEAD {
        return Ok(());
    }
    match single(request.headers(), header::ORIGIN) {
        Ok(None) => Ok(()),
        Ok(Some(origin)) if origin.strip_prefix("http://") == Some(host) => Ok(()),
        _ => Err("a page of another origin must not change anything here\n"),
    }
}

/// Whether a page in a browser sent this: of all clients only browsers tell so.
pub(super) fn is_page<B>(request: &Request<B>) -> bool {
    let headers = request.headers();
    headers.contains_key(header::ORIGIN) || headers.contains_key("sec-fetch-site")
}

fn single(headers: &HeaderMap, name: header::HeaderName) -> Result<Option<&str>, ()> {
    let mut values = headers.get_all(name).iter();
    match (values.next(), values.next()) {
        (None, _) => Ok(None),
        (Some(value), None) => value.to_str().map(Some).map_err(drop),
        (Some(_), Some(_)) => Err(()),
    }
}

/// Whether a Host is an address or `localhost`, with or without a port.
fn is_here(host: &str) -> bool {
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) && !name.ends_with(':') => name,
        _ => host,
    };
    match name.strip_prefix('[').and_then(|name| name.strip_suffix(']')) {
        Some(v6) => v6.parse::<std::net::Ipv6Addr>().is_ok(),
        None => name.parse::<IpAddr>().is_ok() || name.eq_ignore_ascii_case("localhost"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(method: &str, headers: &[(&str, &str)]) -> Request<()> {
        let builder = Request::builder().method(method).uri("/drain");
        headers.iter().fold(builder, |builder, (name, value)| builder.header(*name, *value)).body(()).unwrap()
    }

    #[test]
    fn a_name_that_was_made_to_lead_here_is_refused() {
        for good in [
            "127.0.0.1:15000",
            "127.0.0.1",
            "localhost:15000",
            "LOCALHOST",
            "[::1]:15000",
            "[::1]",
            "10.1.2.3",
        ] {
            assert!(check(&request("GET", &[("host", good)])).is_ok(), "{good}");
        }
        for bad in [
            "",
            "evil.example",
            "evil.example:15000",
            "localhost.evil.example",
            "127.0.0.1.evil.example",
            "[::1",
            "[x]",
        ] {
            let refused = check(&request("GET", &[("host", bad)])).is_err();
            assert!(refused || bad.is_empty(), "{bad}");
        }
        assert!(check(&request("GET", &[])).is_err());
        assert!(check(&request("GET", &[("host", "::1"), ("host", "::1")])).is_err());
    }

    #[test]
    fn a_page_of_another_origin_changes_nothing() {
        let host = ("host", "127.0.0.1:15000");
        assert!(check(&request("POST", &[host])).is_ok());
        assert!(check(&request("POST", &[host, ("origin", "http://127.0.0.1:15000")])).is_ok());
        for bad in ["http://evil.example", "null", "https://127.0.0.1:15000", "http://127.0.0.1:8080"] {
            assert!(check(&request("POST", &[host, ("origin", bad)])).is_err(), "{bad}");
        }
    }
}
