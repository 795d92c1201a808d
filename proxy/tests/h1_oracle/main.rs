//! Whatever bytes come, what the proxy writes of them is read by others as the proxy read them. `tests/fuzz/run` looks for bytes
//! of which that is not so, by coverage and for as long as one likes; here they are put together from what matters.
#![allow(missing_docs, reason = "tests are read, not called")]

mod oracle;

use proptest::prelude::*;

fn token() -> impl Strategy<Value = String> {
    prop_oneof![
        8 => prop::sample::select(vec![
            "\r\n", "\r\n\r\n", "\n", "\r", " ", "\t", ":", ": ", ",", ";", "0", "5", "1a", "hello", "chunked", "identity",
            "gzip, chunked", "close", "keep-alive", "0\r\n\r\n", "5\r\nhello\r\n", "5;a=b\r\nhello\r\n",
            "content-length: 5\r\n", "Content-Length: 0\r\n", "content-length: 5, 5\r\n", "transfer-encoding: chunked\r\n",
            "Transfer-Encoding : chunked\r\n", "connection: close\r\n", "x: 1\r\n", "X-A: b\r\n", " folded\r\n", "host: a\r\n",
            "expect: 100-continue\r\n", "trailer: x\r\n",
        ])
        .prop_map(str::to_owned),
        3 => prop::sample::select(vec![
            "GET / HTTP/1.1\r\nhost: a\r\n\r\n", "GET /b HTTP/1.0\r\nhost: a\r\n\r\n", "POST / HTTP/1.1\r\nhost: a\r\n",
            "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 5\r\n\r\nhello",
            "POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
        ])
        .prop_map(str::to_owned),
        1 => "[ -~]{1,6}",
        1 => "[\\x00-\\xff]{1,3}",
    ]
}

fn bytes(first: &'static [&'static str]) -> impl Strategy<Value = Vec<u8>> {
    (prop::sample::select(first), prop::collection::vec(token(), 0..16))
        .prop_map(|(first, rest)| (first.to_owned() + &rest.concat()).into_bytes())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4000))]

    #[test]
    fn requests_mean_the_same_to_all_readers(
        piece in 1u8.., bytes in bytes(&["", "POST / HTTP/1.1\r\nhost: a\r\n", "POST /a HTTP/1.0\r\nhost: a\r\n"]),
    ) {
        oracle::check_requests(&[&[piece], &bytes[..]].concat());
    }

    #[test]
    fn responses_mean_the_same_to_all_readers(
        piece in 1u8.., method: u8, bytes in bytes(&["", "HTTP/1.1 200 OK\r\n", "HTTP/1.0 404 Not\r\n", "HTTP/1.1 204 \r\n"]),
    ) {
        oracle::check_response(&[&[piece, method], &bytes[..]].concat());
    }
}

#[test]
fn both_readers_read() {
    let bytes = b"POST /a HTTP/1.1\r\nHost: a\r\ntransfer-encoding: chunked\r\n\r\n5;x\r\nhello\r\n3\r\nyou\r\n0\r\n\r\nGET /b HTTP/1.1\r\nhost: a\r\n\r\n\
        PUT /c HTTP/1.1\r\nhost: a\r\ncontent-length: 5\r\n\r\nhel";
    for piece in 1..80 {
        let (ours, written) = oracle::requests(bytes, piece);
        let told: Vec<_> = ours.iter().map(|one| (&*one.line, &*one.body, one.whole)).collect();
        assert_eq!(told, [("POST /a", &b"helloyou"[..], true), ("GET /b", b"", true), ("PUT /c", b"hel", false)]);
        let theirs = oracle::requests_by_hyper(&written);
        assert_eq!((&theirs[0], &theirs[1]), (&ours[0], &ours[1]));
    }
    let (ours, written) = oracle::response(b"HTTP/1.1 200 OK\r\n\r\nuntil the end", &http::Method::GET, 7).unwrap();
    assert_eq!((&*ours.line, &*ours.body, ours.whole), ("200", &b"until the end"[..], true));
    assert_eq!(oracle::response_by_hyper(&written, &http::Method::GET), Some(ours));
}
