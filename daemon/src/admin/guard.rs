//! What browsers can be made to send: requests of foreign pages, and of names that were rebound to our address.
//!
//! Nothing here knows who asks. A page of another site can make a browser send a request that carries the
//! browser's certificate; it cannot send JSON without asking first, and nobody answers that question here: there
//! are no cookies and no CORS headers. A name that an attacker points at our address still stands in `Host`.

use super::{AdminError, ErrorCode};
use hyper::header::{CONTENT_TYPE, HOST, HeaderMap, HeaderName, ORIGIN};
use hyper::http::request::Parts;
use std::net::IpAddr;

const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");
const JSON: &str = "application/json";

/// How a listener is spoken to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scheme {
    Http,
    Https,
}

impl Scheme {
    pub const fn name(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Https => "https",
        }
    }
}

/// The host of an authority, without its port, in small letters; `None` for what is none.
fn host_of(authority: &str) -> Option<String> {
    let host = match authority.strip_prefix('[') {
        Some(rest) => {
            let (host, port) = rest.split_once(']')?;
            (port.is_empty() || port.strip_prefix(':').is_some_and(is_port)).then_some(host)?
        }
        None => match authority.split_once(':') {
            Some((host, port)) => is_port(port).then_some(host)?,
            None => authority,
        },
    };
    let host = host.strip_suffix('.').unwrap_or(host);
    (!host.is_empty() && !host.contains('@')).then(|| host.to_ascii_lowercase())
}

fn is_port(text: &str) -> bool {
    !text.is_empty() && text.len() <= 5 && text.bytes().all(|byte| byte.is_ascii_digit())
}

/// Whether a name is meant by an entry; `*.example` means one label before it, as in certificates.
fn means(entry: &str, host: &str) -> bool {
    match entry.strip_prefix("*.") {
        Some(parent) => host.split_once('.').is_some_and(|(label, rest)| !label.is_empty() && rest == parent),
        None => entry == host,
    }
}

/// The one value of a header that may stand once.
fn only<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Result<Option<&'a str>, AdminError> {
    let mut values = headers.get_all(name).iter();
    let first = values.next();
    let wrong = || AdminError::new(ErrorCode::Malformed, &format!("{name} stands twice, or is no text"));
    if values.next().is_some() {
        return Err(wrong());
    }
    first.map(|value| value.to_str().map_err(|_| wrong())).transpose()
}

/// Refuses a request that is meant for another host. `names` are those of the listener; the address that the
/// connection came to is one, since no name can be rebound that is none.
pub fn check_host(head: &Parts, names: &[String], local: IpAddr) -> Result<(), AdminError> {
    let said = only(&head.headers, &HOST)?.map(str::to_owned);
    // An absolute request target goes before the header (ref: RFC 9112, 3.2.2).
    let target = head.uri.authority().map(|authority| authority.as_str().to_owned());
    let host = target.or(said).and_then(|authority| host_of(&authority));
    let Some(host) = host else {
        return Err(AdminError::new(ErrorCode::Malformed, &"the request has no Host, or one that is none"));
    };
    let is_local = host.parse::<IpAddr>().is_ok_and(|address| address.to_canonical() == local.to_canonical());
    if is_local || names.iter().any(|entry| means(entry, &host)) {
        return Ok(());
    }
    let why = format!("{host} is no name of this listener; add it to admin.allowed.hosts if it is");
    Err(AdminError::new(ErrorCode::WrongHost, &why))
}

/// Refuses a change that is not JSON, or that the page of another site sends.
pub fn check_change(head: &Parts, scheme: Scheme) -> Result<(), AdminError> {
    let kind = only(&head.headers, &CONTENT_TYPE)?.unwrap_or_default();
    let kind = kind.split(';').next().expect("a first part").trim();
    if !kind.eq_ignore_ascii_case(JSON) {
        let why = format!("{} needs Content-Type: {JSON}", head.method);
        return Err(AdminError::new(ErrorCode::WrongContentType, &why));
    }
    let foreign = |what: &str| {
        let why = format!(
            "{what} is another site's; changes are taken from this one's own pages and from programs"
        );
        Err(AdminError::new(ErrorCode::CrossSite, &why))
    };
    match only(&head.headers, &SEC_FETCH_SITE)? {
        None | Some("same-origin" | "none") => {}
        Some(_) => return foreign("Sec-Fetch-Site"),
    }
    let Some(origin) = only(&head.headers, &ORIGIN)? else { return Ok(()) };
    let ours = only(&head.headers, &HOST)?.map(|host| format!("{}://{host}", scheme.name()));
    if ours.is_some_and(|ours| ours.eq_ignore_ascii_case(origin)) { Ok(()) } else { foreign("Origin") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hyper::Request;

    fn head(target: &str, headers: &[(&str, &str)]) -> Parts {
        let request =
            headers.iter().fold(Request::builder().method("POST").uri(target), |request, (name, value)| {
                request.header(*name, *value)
            });
        request.body(()).unwrap().into_parts().0
    }

    fn code(outcome: Result<(), AdminError>) -> u32 {
        outcome.map_or_else(|error| error.code.number(), |()| 0)
    }

    #[test]
    fn only_names_of_the_listener_are_its_hosts() {
        let names = ["twinlog.example".to_owned(), "localhost".to_owned(), "*.ops.example".to_owned()];
        let ask = |host: &str| code(check_host(&head("/", &[("host", host)]), &names, [10, 0, 0, 5].into()));
        for good in [
            "twinlog.example",
            "TWINLOG.example:8443",
            "twinlog.example.",
            "localhost:1",
            "10.0.0.5",
            "10.0.0.5:8443",
            "a.ops.example",
            "[::ffff:10.0.0.5]:1",
        ] {
            assert_eq!(ask(good), 0, "{good}");
        }
        for bad in [
            "evil.example",
            "twinlog.example.evil",
            "xlocalhost",
            "10.0.0.6",
            "[::1]",
            "ops.example",
            "a.b.ops.example",
            ".ops.example",
            "127.0.0.1",
        ] {
            assert_eq!(ask(bad), 42101, "{bad}");
        }
        for none in ["", ":80", "[::1", "a:b", "u@localhost", "localhost:123456"] {
            assert_eq!(ask(none), 40001, "{none}");
        }
        let local = [127, 0, 0, 1].into();
        assert_eq!(code(check_host(&head("/", &[]), &names, local)), 40001);
        let two = head("/", &[("host", "localhost"), ("host", "evil.example")]);
        assert_eq!(code(check_host(&two, &names, local)), 40001);
        let absolute = head("http://evil.example/", &[("host", "localhost")]);
        assert_eq!(code(check_host(&absolute, &names, local)), 42101);
    }

    #[test]
    fn a_change_is_json_and_no_other_sites() {
        let host = ("host", "localhost:8443");
        let json = ("content-type", "application/json; charset=utf-8");
        let ask = |headers: &[(&str, &str)]| code(check_change(&head("/", headers), Scheme::Https));
        assert_eq!(ask(&[host, json]), 0);
        assert_eq!(
            ask(&[host, json, ("origin", "https://localhost:8443"), ("sec-fetch-site", "same-origin")]),
            0
        );
        for kind in
            ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data", "application/jsonx"]
        {
            assert_eq!(ask(&[host, ("content-type", kind)]), 41501, "{kind}");
        }
        assert_eq!(ask(&[host]), 41501);
        assert_eq!(ask(&[host, json, ("content-type", "text/plain")]), 40001);
        for origin in ["https://evil.example", "null", "http://localhost:8443", "https://localhost", ""] {
            assert_eq!(ask(&[host, json, ("origin", origin)]), 40302, "{origin}");
        }
        for site in ["cross-site", "same-site", "new-word"] {
            assert_eq!(ask(&[host, json, ("sec-fetch-site", site)]), 40302, "{site}");
        }
    }
}
