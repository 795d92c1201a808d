//! What of a request names its endpoint.

use firebreak_crds::spec::HashKey;
use http::{HeaderMap, HeaderName, HeaderValue, header::COOKIE};

use super::ring::scatter;
use crate::policy::fault::id_hash;

/// A header or a cookie.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Key {
    /// The value of this header, the first where there are several.
    Header(HeaderName),
    /// The value of this cookie.
    Cookie(Box<str>),
}

impl Key {
    /// The key as a policy says it; nothing where it names nothing that can be sent.
    pub fn new(key: &HashKey) -> Option<Self> {
        let header = key.header.as_ref().and_then(|name| HeaderName::from_bytes(name.as_bytes()).ok());
        header.map(Self::Header).or_else(|| key.cookie.as_deref().map(|name| Self::Cookie(name.into())))
    }

    /// Where on the ring a request belongs, if it has the key.
    pub fn of(&self, headers: &HeaderMap) -> Option<u64> {
        let value = match self {
            Self::Header(name) => headers.get(name).map(HeaderValue::as_bytes),
            Self::Cookie(name) => headers.get_all(COOKIE).iter().find_map(|line| cookie(line.as_bytes(), name)),
        };
        value.filter(|value| !value.is_empty()).map(|value| scatter(id_hash(value)))
    }
}

/// The value of a cookie in one line (RFC 6265, 4.2.1).
fn cookie<'a>(line: &'a [u8], name: &str) -> Option<&'a [u8]> {
    let pairs = line.split(|byte| *byte == b';').map(<[u8]>::trim_ascii);
    pairs.filter_map(|pair| pair.strip_prefix(name.as_bytes())).find_map(|rest| rest.strip_prefix(b"="))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(lines: &[(&'static str, &'static str)]) -> HeaderMap {
        let line = |(name, value): &(&'static str, &'static str)| {
            (HeaderName::from_static(name), HeaderValue::from_static(value))
        };
        lines.iter().map(line).collect()
    }

    fn key(header: Option<&str>, cookie: Option<&str>) -> Option<Key> {
        Key::new(&HashKey { header: header.map(Into::into), cookie: cookie.map(Into::into) })
    }

    #[test]
    fn the_value_decides_and_nothing_else() {
        let user = key(Some("X-User"), None).unwrap();
        let of = |lines: &[(&'static str, &'static str)]| user.of(&headers(lines));
        assert_eq!(of(&[("x-user", "ann"), ("cookie", "a=1")]), of(&[("x-user", "ann")]));
        assert_ne!(of(&[("x-user", "ann")]), of(&[("x-user", "bob")]));
        assert_eq!((of(&[]), of(&[("x-user", "")])), (None, None));
        assert_eq!(key(Some("no name"), None), None);
    }

    #[test]
    fn a_cookie_is_found_by_its_whole_name_in_any_line() {
        let session = key(None, Some("session")).unwrap();
        let of = |line: &'static str| session.of(&headers(&[("cookie", line)]));
        assert_eq!(of("session=7"), of("a=1; xsession=3;  session=7"));
        assert_eq!(session.of(&headers(&[("cookie", "a=1"), ("cookie", "session=7")])), of("session=7"));
        assert_ne!(of("session=7"), of("session=8"));
        assert_eq!([of("session2=7"), of("session"), of("Session=7")], [None; 3]);
    }
}
