//! A compiled `match`: what is compared with every request is prepared once.

use firebreak_crds::spec::{HttpMatch, PathMatch, ValueMatch};
use http::{HeaderName, Method, request::Parts};

/// A condition on a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Matcher {
    path: Option<Text>,
    methods: Box<[Method]>,
    headers: Box<[(HeaderName, Text)]>,
    /// A header or method that cannot occur in HTTP: the match never holds.
    impossible: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Text {
    Exact(Box<[u8]>),
    Prefix(Box<[u8]>),
    /// A prefix that ends at a path element, without its closing slash.
    Elements(Box<[u8]>),
}

impl From<&HttpMatch> for Matcher {
    fn from(written: &HttpMatch) -> Self {
        let methods: Vec<_> = written.methods.iter().map(|method| Method::from_bytes(method.as_bytes()).ok()).collect();
        let headers: Vec<_> = written
            .headers
            .iter()
            .map(|(name, value)| Some((name.parse().ok()?, Text::try_from(value).ok()?)))
            .collect();
        Self {
            impossible: methods.contains(&None) || headers.contains(&None),
            path: written.path.as_ref().map(Text::from),
            methods: methods.into_iter().flatten().collect(),
            headers: headers.into_iter().flatten().collect(),
        }
    }
}

impl Matcher {
    /// Whether the condition holds.
    pub fn matches(&self, request: &Parts) -> bool {
        !self.impossible
            && (self.methods.is_empty() || self.methods.contains(&request.method))
            && self.path.as_ref().is_none_or(|path| path.matches(request.uri.path().as_bytes()))
            && self
                .headers
                .iter()
                .all(|(name, text)| request.headers.get_all(name).iter().any(|value| text.matches(value.as_bytes())))
    }
}

impl From<&PathMatch> for Text {
    fn from(path: &PathMatch) -> Self {
        match (&path.exact, &path.prefix) {
            (Some(exact), _) => Self::Exact(exact.as_bytes().into()),
            (None, prefix) => Self::Elements(prefix.as_deref().unwrap_or("/").trim_end_matches('/').as_bytes().into()),
        }
    }
}

impl TryFrom<&ValueMatch> for Text {
    type Error = ();

    fn try_from(value: &ValueMatch) -> Result<Self, Self::Error> {
        match (&value.exact, &value.prefix) {
            (Some(exact), _) => Ok(Self::Exact(exact.as_bytes().into())),
            (None, Some(prefix)) => Ok(Self::Prefix(prefix.as_bytes().into())),
            (None, None) => Err(()),
        }
    }
}

impl Text {
    fn matches(&self, text: &[u8]) -> bool {
        match self {
            Self::Exact(exact) => text == &**exact,
            Self::Prefix(prefix) => text.starts_with(prefix),
            Self::Elements(prefix) => {
                text.strip_prefix(&**prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with(b"/"))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use http::Request;

    use super::*;

    fn matches(written: &str, method: &str, path: &str, headers: &[(&str, &str)]) -> bool {
        let written: HttpMatch = serde_json::from_str(written).unwrap();
        let request = headers.iter().fold(Request::builder().method(method).uri(path), |b, (k, v)| b.header(*k, *v));
        Matcher::from(&written).matches(&request.body(()).unwrap().into_parts().0)
    }

    #[test]
    fn a_prefix_ends_at_a_path_element() {
        for (prefix, path, expected) in [
            ("/reports", "/reports", true),
            ("/reports", "/reports/2026?x=1", true),
            ("/reports", "/reportsnot", false),
            ("/reports/", "/reports/a", true),
            ("/reports/", "/reports", true),
            ("/", "/anything", true),
        ] {
            let written = format!(r#"{{"path":{{"prefix":"{prefix}"}}}}"#);
            assert_eq!(matches(&written, "GET", path, &[]), expected, "{prefix} {path}");
        }
        assert!(matches(r#"{"path":{"exact":"/a"}}"#, "GET", "/a?b", &[]));
        assert!(!matches(r#"{"path":{"exact":"/a"}}"#, "GET", "/a/", &[]));
    }

    #[test]
    fn all_parts_must_hold() {
        let written = r#"{"methods":["GET"],"headers":{"X-Test-User":{"prefix":"qa-"}}}"#;
        assert!(matches(written, "GET", "/", &[("x-test-user", "qa-7")]));
        assert!(matches(written, "GET", "/", &[("x-test-user", "me"), ("x-test-user", "qa-7")]));
        assert!(!matches(written, "POST", "/", &[("x-test-user", "qa-7")]));
        assert!(!matches(written, "GET", "/", &[("x-test-user", "prod")]));
        assert!(!matches(written, "GET", "/", &[]));
        assert!(matches("{}", "PATCH", "/", &[]));
    }

    #[test]
    fn a_header_that_cannot_exist_matches_nothing() {
        assert!(!matches(r#"{"headers":{"not a header":{"exact":"x"}}}"#, "GET", "/", &[]));
    }
}
