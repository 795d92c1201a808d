use proptest::prelude::*;

use super::*;

fn request_of(bytes: &str) -> Result<RequestHead, HeadError> {
    request(&Bytes::copy_from_slice(bytes.as_bytes()))
}

fn response_of(bytes: &str) -> Result<ResponseHead, HeadError> {
    response(&Bytes::copy_from_slice(bytes.as_bytes()), &Method::GET)
}

#[test]
fn heads_end_with_an_empty_line_in_whatever_pieces() {
    let whole = b"\r\n\r\nGET / HTTP/1.1\r\nhost: a\r\n\r\nGET /b";
    for piece in 1..whole.len() {
        let (mut buffer, mut seen, mut heads) = (BytesMut::new(), 0, Vec::new());
        for bytes in whole.chunks(piece) {
            buffer.extend_from_slice(bytes);
            heads.extend(take(&mut buffer, &mut seen).unwrap());
        }
        assert_eq!(heads, ["GET / HTTP/1.1\r\nhost: a\r\n\r\n"], "in pieces of {piece}");
        assert_eq!(buffer, "GET /b");
    }
}

#[test]
fn a_head_is_at_most_so_large() {
    let mut buffer = BytesMut::from(&vec![b'x'; MAX_HEAD][..]);
    let mut seen = 0;
    assert_eq!(take(&mut buffer, &mut seen), Ok(None));
    buffer.extend_from_slice(b"\r\n\r\n");
    assert_eq!(take(&mut buffer, &mut seen), Err(HeadError::TooLarge));
    let many = |count: usize| format!("GET / HTTP/1.1\r\nhost: a\r\n{}\r\n", "x: 1\r\n".repeat(count));
    assert_eq!(request_of(&many(MAX_FIELDS - 1)).unwrap().parts.headers.len(), MAX_FIELDS);
    assert_eq!(request_of(&many(MAX_FIELDS)).unwrap_err(), HeadError::TooLarge);
}

#[test]
fn what_readers_could_disagree_about_is_refused() {
    for bad in [
        "GET / HTTP/1.1\r\n\r\n",
        "GET / HTTP/1.1\r\nhost: a\r\nhost: a\r\n\r\n",
        "GET / HTTP/1.1\r\nhost: a\r\ncontent-length: 1\r\ntransfer-encoding: chunked\r\n\r\n",
        "GET / HTTP/1.1\r\nhost: a\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\n",
        "GET / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked, identity\r\n\r\n",
        "GET / HTTP/1.1\r\nhost: a\r\nx : 1\r\n\r\n",
        "GET / HTTP/1.1\r\nhost: a\r\n x: 1\r\n\r\n",
        "GET / HTTP/1.1\r\nhost: a\r\nx: 1\r\n 2\r\n\r\n",
        "GET / HTTP/1.1\r\nhost: a\r\nx\r\n\r\n",
        "GET / HTTP/1.1\r\nhost: a\r\nx: a\0b\r\n\r\n",
        "GET / HTTP/1.1\r\nhost: a\r\nx: a\rb\r\n\r\n",
        "GET / HTTP/1.2\r\nhost: a\r\n\r\n",
        "GET / HTTP/2.0\r\nhost: a\r\n\r\n",
        "GET  / HTTP/1.1\r\nhost: a\r\n\r\n",
        "GET /a b HTTP/1.1\r\nhost: a\r\n\r\n",
        "G<T / HTTP/1.1\r\nhost: a\r\n\r\n",
        "GET /\r\nhost: a\r\n\r\n",
    ] {
        assert_eq!(request_of(bad).unwrap_err(), HeadError::Syntax, "{bad:?}");
    }
    assert!(request_of("GET / HTTP/1.0\r\n\r\n").is_ok(), "HTTP/1.0 need not name a host");
    for bad in [
        "HTTP/1.1 200 OK\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\n",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: gzip\r\n\r\n",
        "HTTP/1.1 20 OK\r\n\r\n",
        "HTTP/1.1 099 OK\r\n\r\n",
        "HTTP/3.1 200 OK\r\n\r\n",
        "ICY 200 OK\r\n\r\n",
    ] {
        assert_eq!(response_of(bad).unwrap_err(), HeadError::Syntax, "{bad:?}");
    }
}

#[test]
fn a_callee_that_says_two_lengths_is_not_asked_again() {
    let head = response_of("HTTP/1.1 200 OK\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n\r\n").unwrap();
    assert_eq!((head.framing, head.persistent), (Framing::Chunked, false));
    let head = response_of("HTTP/1.1 200 OK\r\ncontent-length: 5\r\nContent-Length: 5\r\n\r\n").unwrap();
    assert_eq!((head.framing, head.persistent), (Framing::Length(5), true));
    assert_eq!(head.parts.headers.get_all("content-length").iter().count(), 1);
}

#[test]
fn what_is_not_whole_yet_is_told_from_what_will_never_be() {
    let head = "POST /a?b HTTP/1.1\r\nHost: callee\r\nX-A: 1\r\n\r\n";
    for end in 1..head.len() {
        assert_eq!(could_be_request(&head.as_bytes()[..end]), Ok(()), "{end}");
    }
    assert_eq!(could_be_request(b"\x16\x03\x01"), Err(HeadError::Syntax));
    assert_eq!(could_be_response(b"HTTP/1.1 2"), Ok(()));
    assert_eq!(could_be_response(b"220 mail"), Err(HeadError::Syntax));
}

#[test]
fn phrases_and_targets_go_on_as_they_came() {
    let mut out = BytesMut::new();
    let head = response_of("HTTP/1.1 200 Fine by me\r\n\r\n").unwrap();
    write_response(&head.parts, &head.spelling, Framing::Length(0), Version::HTTP_11, false, &mut out);
    assert_eq!(out, "HTTP/1.1 200 Fine by me\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
    // A target that names a host says which (RFC 9112, 3.2.2).
    for (target, host) in [("/", "a"), ("/a?b=c&d", "a"), ("*", "a"), ("http://b:80/b?c", "b:80"), ("//a/b", "a")] {
        let head = request_of(&format!("OPTIONS {target} HTTP/1.1\r\nhost: a\r\n\r\n")).unwrap();
        let mut out = BytesMut::new();
        write_request(&head.parts, &head.spelling, Framing::None, &mut out);
        assert_eq!(out, format!("OPTIONS {target} HTTP/1.1\r\nhost: {host}\r\n\r\n"));
    }
    for host in ["a, b", "a/b", "a@b", "a b", "<a>"] {
        assert_eq!(request_of(&format!("GET / HTTP/1.1\r\nhost: {host}\r\n\r\n")).unwrap_err(), HeadError::Syntax);
    }
    let head = request_of("CONNECT a:80 HTTP/1.1\r\nhost: a\r\n\r\n").unwrap();
    let mut out = BytesMut::new();
    write_request(&head.parts, &head.spelling, Framing::None, &mut out);
    assert!(out.starts_with(b"CONNECT a:80 HTTP/1.1\r\n"), "{out:?}");
    // A name and a password have no business there (RFC 9110, 4.2.4).
    let with_user = Bytes::from_static(b"GET http://user@b/ HTTP/1.1\r\nhost: a\r\n\r\n");
    assert_eq!(request(&with_user).unwrap_err(), HeadError::Syntax);
}

proptest! {
    /// What goes on says the same as what came, in the same words, and is read in the same way once more.
    #[test]
    fn a_head_goes_on_as_it_came(
        method in "[A-Z]{1,8}",
        path in "/[a-zA-Z0-9/_.-]{0,30}(\\?[a-z=&]{0,10})?",
        fields in proptest::collection::vec(("[Xx]-[A-Za-z]{1,12}", "([!-~]([ -~]{0,20}[!-~])?)?"), 0..20),
    ) {
        let fields = fields.iter().fold(String::new(), |fields, (name, value)| fields + name + ": " + value + "\r\n");
        let bytes = format!("{method} {path} HTTP/1.1\r\nHost: a\r\n{fields}\r\n");
        let head = request_of(&bytes).unwrap();
        let mut out = BytesMut::new();
        write_request(&head.parts, &head.spelling, head.framing, &mut out);
        let lines = |text: &str| {
            let mut lines: Vec<_> = text.lines().map(str::to_owned).collect();
            lines.sort_unstable();
            lines
        };
        prop_assert_eq!(lines(std::str::from_utf8(&out).unwrap()), lines(&bytes));
        let again = request(&out.freeze()).unwrap();
        prop_assert_eq!(again.parts.headers, head.parts.headers);
    }

    /// Whatever bytes come, what is taken for a head can be written and read again, and means the same.
    #[test]
    fn what_is_read_can_be_written(
        bytes in proptest::collection::vec(prop_oneof![
            Just("\r\n".to_owned()), Just("\n".to_owned()), Just(": ".to_owned()), Just(" ".to_owned()),
            Just("Host".to_owned()), Just("Content-Length".to_owned()), Just("Transfer-Encoding".to_owned()),
            Just("chunked".to_owned()), Just("\t".to_owned()), Just("\r".to_owned()), Just(",".to_owned()),
            "[0-9]{1,3}", "[ -~]{1,4}", Just("\u{e9}".to_owned()),
        ], 0..24),
    ) {
        let bytes = format!("GET / HTTP/1.1\r\nHost: a\r\n{}\r\n\r\n", bytes.concat());
        let mut buffer = BytesMut::from(bytes.as_bytes());
        let Ok(Some(taken)) = take(&mut buffer, &mut 0) else { return Ok(()) };
        let Ok(head) = request(&taken) else { return Ok(()) };
        let mut out = BytesMut::new();
        let mut parts = head.parts.clone();
        parts.headers.remove(header::TRANSFER_ENCODING);
        write_request(&parts, &head.spelling, head.framing, &mut out);
        let mut seen = 0;
        let whole = take(&mut out, &mut seen).unwrap().unwrap();
        prop_assert!(out.is_empty(), "nothing is left that could be another request: {:?}", out);
        let again = request(&whole).unwrap();
        prop_assert_eq!(again.framing, head.framing);
        prop_assert_eq!(again.persistent, head.persistent);
    }
}
