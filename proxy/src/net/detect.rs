//! What a connection speaks, told by its first bytes.

/// HTTP/2's preface (RFC 9113, 3.4).
pub const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// First byte of a TLS connection (RFC 8446, 5.1).
const TLS_HANDSHAKE: u8 = 22;

/// Methods that begin an HTTP/1 request where nobody said that HTTP is spoken: those of RFC 9110, PATCH, QUERY, and
/// WebDAV's. A line of another protocol must not be taken for HTTP.
const METHODS: [&[u8]; 18] = [
    b"GET",
    b"HEAD",
    b"POST",
    b"PUT",
    b"DELETE",
    b"OPTIONS",
    b"PATCH",
    b"TRACE",
    b"CONNECT",
    b"QUERY",
    b"PROPFIND",
    b"PROPPATCH",
    b"MKCOL",
    b"COPY",
    b"MOVE",
    b"LOCK",
    b"UNLOCK",
    b"REPORT",
];

/// What is spoken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Spoken {
    /// HTTP/1.x.
    Http1,
    /// HTTP/2 with prior knowledge.
    Http2,
    /// Anything else.
    Opaque,
}

/// What the first bytes say; `None` while they do not say enough. With `declared`, the port's config says HTTP.
pub fn spoken(bytes: &[u8], declared: bool) -> Option<Spoken> {
    let common = bytes.len().min(PREFACE.len());
    if common > 0 && bytes[..common] == PREFACE[..common] {
        // `P` may also begin POST; until it is clear, more bytes decide.
        return (bytes.len() >= PREFACE.len()).then_some(Spoken::Http2);
    }
    if declared {
        // No HTTP begins like a TLS record: who named the port is mistaken, and the connection goes through as it is.
        let spoken = if bytes.first() == Some(&TLS_HANDSHAKE) { Spoken::Opaque } else { Spoken::Http1 };
        return (!bytes.is_empty()).then_some(spoken);
    }
    http1(bytes)
}

/// `METHOD SP` and the beginning of a target: a path, `*`, a URI, or an authority after CONNECT.
fn http1(bytes: &[u8]) -> Option<Spoken> {
    let begins = |method: &&[u8]| {
        let common = bytes.len().min(method.len());
        bytes[..common] == method[..common]
    };
    let Some(space) = bytes.iter().position(|byte| *byte == b' ') else {
        let may_become = bytes.len() <= 9 && METHODS.iter().any(begins);
        return (!may_become).then_some(Spoken::Opaque);
    };
    if !METHODS.contains(&&bytes[..space]) {
        return Some(Spoken::Opaque);
    }
    let first = bytes.get(space + 1)?;
    let target = matches!(first, b'/' | b'*') || first.is_ascii_alphanumeric() || *first == b'[';
    Some(if target { Spoken::Http1 } else { Spoken::Opaque })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_first_bytes_decide() {
        let table: [(&[u8], Option<Spoken>); 12] = [
            (b"", None),
            (b"GE", None),
            (b"GET ", None),
            (b"GET /", Some(Spoken::Http1)),
            (b"P", None),
            (b"POST /a", Some(Spoken::Http1)),
            (b"PRI * HTTP/2.0\r\n", None),
            (PREFACE, Some(Spoken::Http2)),
            (b"\x16\x03\x01", Some(Spoken::Opaque)),
            (b"*1\r\n$4\r\nPING\r\n", Some(Spoken::Opaque)),
            (b"get key\r\n", Some(Spoken::Opaque)),
            (b"EHLO me\r\n", Some(Spoken::Opaque)),
        ];
        for (bytes, expected) in table {
            assert_eq!(spoken(bytes, false), expected, "{:?}", String::from_utf8_lossy(bytes));
        }
        assert_eq!(spoken(b"FROB /", true), Some(Spoken::Http1), "what is declared is believed");
        assert_eq!(spoken(PREFACE, true), Some(Spoken::Http2));
        assert_eq!(spoken(b"\x16\x03\x01", true), Some(Spoken::Opaque), "but TLS is TLS");
    }

    proptest! {
        /// Bytes that arrive one by one lead to the same decision as all at once.
        #[test]
        fn pieces_do_not_change_the_decision(bytes in prop::collection::vec(any::<u8>(), 0..40), declared: bool) {
            let by_and_by = (0..=bytes.len()).find_map(|end| spoken(&bytes[..end], declared));
            let at_once = spoken(&bytes, declared);
            prop_assert!(by_and_by == at_once || at_once.is_none());
        }

        #[test]
        fn never_waits_for_more_than_a_preface(bytes in prop::collection::vec(any::<u8>(), 24..64)) {
            prop_assert!(spoken(&bytes, false).is_some());
        }
    }
}
