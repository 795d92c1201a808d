//! Where a message's body ends (RFC 9112, 6.3).

use http::{HeaderMap, HeaderValue, Method, StatusCode, Version, header};

/// How a body is delimited.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    /// There is none.
    None,
    /// By its length in bytes.
    Length(u64),
    /// By chunks.
    Chunked,
    /// By the end of the connection: responses only.
    UntilClose,
}

/// The head does not say clearly where the body ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("it is not clear where the body ends")]
pub struct Ambiguous;

/// Of a request.
///
/// # Errors
/// When two readers could disagree.
pub fn of_request(version: Version, headers: &HeaderMap) -> Result<Framing, Ambiguous> {
    let length = length(headers)?;
    match (coding(headers), length) {
        (Coding::None, None | Some(0)) => Ok(Framing::None),
        (Coding::None, Some(length)) => Ok(Framing::Length(length)),
        (Coding::Chunked, None) if version == Version::HTTP_11 => Ok(Framing::Chunked),
        // A length beside a coding, or a coding in HTTP/1.0, is how requests are smuggled (RFC 9112, 6.1).
        (Coding::Chunked | Coding::Other, _) => Err(Ambiguous),
    }
}

/// Of the response with `status` to a request with `method`. A length beside chunks is removed, as it is not the body's.
///
/// # Errors
/// When two readers could disagree.
pub fn of_response(method: &Method, status: StatusCode, headers: &mut HeaderMap) -> Result<Framing, Ambiguous> {
    let length = length(headers)?;
    if has_no_body(method, status) {
        return Ok(Framing::None);
    }
    match coding(headers) {
        Coding::Chunked => {
            headers.remove(header::CONTENT_LENGTH);
            Ok(Framing::Chunked)
        }
        Coding::Other => Err(Ambiguous),
        Coding::None => Ok(match length {
            Some(0) => Framing::None,
            Some(length) => Framing::Length(length),
            None => Framing::UntilClose,
        }),
    }
}

/// Whether a response has no body, whatever its fields say. What follows an agreement to change the protocol is none.
pub fn has_no_body(method: &Method, status: StatusCode) -> bool {
    *method == Method::HEAD
        || status.is_informational()
        || status == StatusCode::NO_CONTENT
        || status == StatusCode::NOT_MODIFIED
        || *method == Method::CONNECT && status.is_success()
}

/// Whether the connection goes on after a message with these fields (RFC 9112, 9.3).
pub fn is_persistent(version: Version, headers: &HeaderMap) -> bool {
    if version == Version::HTTP_11 {
        !says(headers, "close")
    } else {
        says(headers, "keep-alive") && !says(headers, "close")
    }
}

fn says(headers: &HeaderMap, token: &str) -> bool {
    let mut values = headers.get_all(header::CONNECTION).iter();
    values.any(|value| tokens(value).any(|said| said.eq_ignore_ascii_case(token.as_bytes())))
}

fn tokens(value: &HeaderValue) -> impl Iterator<Item = &[u8]> {
    value.as_bytes().split(|byte| *byte == b',').map(<[u8]>::trim_ascii)
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Coding {
    None,
    Chunked,
    Other,
}

/// Codings other than `chunked` would have to be undone here, since they are for one hop only.
fn coding(headers: &HeaderMap) -> Coding {
    let mut values = headers.get_all(header::TRANSFER_ENCODING).iter();
    match (values.next(), values.next()) {
        (None, _) => Coding::None,
        (Some(one), None) if one.as_bytes().eq_ignore_ascii_case(b"chunked") => Coding::Chunked,
        _ => Coding::Other,
    }
}

/// One length, however often it is said.
fn length(headers: &HeaderMap) -> Result<Option<u64>, Ambiguous> {
    let mut found = None;
    for value in headers.get_all(header::CONTENT_LENGTH) {
        for said in tokens(value) {
            let length = number(said).ok_or(Ambiguous)?;
            if found.is_some_and(|found| found != length) {
                return Err(Ambiguous);
            }
            found = Some(length);
        }
    }
    Ok(found)
}

/// Digits and nothing else.
fn number(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() {
        return None;
    }
    digits.iter().try_fold(0u64, |number, digit| {
        let digit = digit.is_ascii_digit().then(|| u64::from(digit - b'0'))?;
        number.checked_mul(10)?.checked_add(digit)
    })
}

#[cfg(test)]
mod tests {
    use http::HeaderName;

    use super::*;

    fn fields(fields: &[(&str, &str)]) -> HeaderMap {
        let field = |(name, value): &(&str, &str)| {
            (HeaderName::try_from(*name).unwrap(), HeaderValue::from_str(value).unwrap())
        };
        let mut map = HeaderMap::new();
        fields.iter().map(field).for_each(|(name, value)| {
            map.append(name, value);
        });
        map
    }

    #[test]
    fn a_request_has_one_end_or_is_refused() {
        let of = |given: &[(&str, &str)]| of_request(Version::HTTP_11, &fields(given));
        assert_eq!(of(&[]), Ok(Framing::None));
        assert_eq!(of(&[("content-length", "0")]), Ok(Framing::None));
        assert_eq!(of(&[("content-length", "5")]), Ok(Framing::Length(5)));
        assert_eq!(of(&[("content-length", "5"), ("content-length", "5, 5")]), Ok(Framing::Length(5)));
        assert_eq!(of(&[("transfer-encoding", "Chunked")]), Ok(Framing::Chunked));
        for ambiguous in [
            &[("content-length", "5"), ("content-length", "6")][..],
            &[("content-length", "5, 6")],
            &[("content-length", "+5")],
            &[("content-length", "0x5")],
            &[("content-length", "-1")],
            &[("content-length", "")],
            &[("content-length", "5 5")],
            &[("content-length", "99999999999999999999")],
            &[("content-length", "5"), ("transfer-encoding", "chunked")],
            &[("transfer-encoding", "gzip, chunked")],
            &[("transfer-encoding", "chunked, identity")],
            &[("transfer-encoding", "xchunked")],
            &[("transfer-encoding", "chunked"), ("transfer-encoding", "chunked")],
        ] {
            assert_eq!(of(ambiguous), Err(Ambiguous), "{ambiguous:?}");
        }
        assert_eq!(of_request(Version::HTTP_10, &fields(&[("transfer-encoding", "chunked")])), Err(Ambiguous));
    }

    #[test]
    fn a_response_ends_by_its_status_its_chunks_its_length_or_its_connection() {
        let of = |method: Method, status: u16, given: &[(&str, &str)]| {
            of_response(&method, StatusCode::from_u16(status).unwrap(), &mut fields(given))
        };
        let length = &[("content-length", "5")][..];
        for (method, status) in
            [(Method::HEAD, 200), (Method::GET, 204), (Method::GET, 304), (Method::GET, 101), (Method::CONNECT, 200)]
        {
            assert_eq!(of(method, status, length), Ok(Framing::None));
        }
        assert_eq!(of(Method::CONNECT, 403, length), Ok(Framing::Length(5)));
        assert_eq!(of(Method::GET, 200, &[]), Ok(Framing::UntilClose));
        assert_eq!(of(Method::GET, 200, &[("transfer-encoding", "gzip")]), Err(Ambiguous));
        let mut both = fields(&[("transfer-encoding", "chunked"), ("content-length", "5")]);
        assert_eq!(of_response(&Method::GET, StatusCode::OK, &mut both), Ok(Framing::Chunked));
        assert!(!both.contains_key("content-length"));
    }

    #[test]
    fn connections_persist_by_version_and_word() {
        let is = |version, said: &str| is_persistent(version, &fields(&[("connection", said)]));
        assert!(
            is_persistent(Version::HTTP_11, &HeaderMap::new()) && !is_persistent(Version::HTTP_10, &HeaderMap::new())
        );
        assert!(!is(Version::HTTP_11, "upgrade, Close") && is(Version::HTTP_11, "closed"));
        assert!(is(Version::HTTP_10, "Keep-Alive") && !is(Version::HTTP_10, "keep-alive, close"));
    }
}
