use proptest::prelude::*;

use super::*;

/// All parts of `bytes`, which come in pieces of `piece`; what is left of them.
fn read(bytes: &[u8], piece: usize) -> Result<(Vec<u8>, Option<HeaderMap>, usize, bool), BadChunk> {
    let (mut chunks, mut buffer, mut data, mut trailers) = (Chunks::default(), BytesMut::new(), Vec::new(), None);
    let mut pieces = bytes.chunks(piece.max(1));
    loop {
        match chunks.next(&mut buffer)? {
            Some(Part::Data(part)) => data.extend_from_slice(&part),
            Some(Part::Trailers(map)) => trailers = Some(map),
            Some(Part::End) => {
                return Ok((data, trailers, buffer.len() + pieces.map(<[u8]>::len).sum::<usize>(), true));
            }
            None => match pieces.next() {
                Some(piece) => buffer.extend_from_slice(piece),
                None => return Ok((data, trailers, buffer.len(), false)),
            },
        }
    }
}

#[test]
fn what_is_no_chunk_is_refused() {
    for bytes in [
        "\r\n",
        "g\r\n",
        "-1\r\n",
        "0x5\r\nhello\r\n",
        "5\nhello\r\n",
        "5\r\nhello",
        "5\r\nhelloo\r\n",
        "5\r\rhello",
        "5;a\nb\r\nhello\r\n",
        " 5\r\nhello\r\n",
        "5 5\r\nhello\r\n",
        "0\r\nbad trailer\r\n\r\n",
        "11111111111111111\r\n",
        "0\r\n\n",
        "0\r\nx: 1\n\r\n",
        "0\r\nx: 1\r\n\n",
    ] {
        let read = read(bytes.as_bytes(), 100);
        assert!(read.as_ref().map_or(true, |(.., ended)| !ended), "{bytes:?}: {read:?}");
    }
    let long = format!("1;{}\r\n", "x".repeat(MAX_EXTENSIONS));
    assert_eq!(read(long.as_bytes(), 1000), Err(BadChunk::TooLong));
    let long = format!("0\r\nx: {}", "x".repeat(MAX_TRAILERS));
    assert_eq!(read(long.as_bytes(), 1000), Err(BadChunk::TooLong));
}

#[test]
fn the_end_is_known_with_the_last_byte_if_it_is_there() {
    let (mut chunks, mut buffer) = (Chunks::default(), BytesMut::from(&b"2\r\nhi\r\n0\r\n\r\nnext"[..]));
    assert_eq!(chunks.next(&mut buffer), Ok(Some(Part::Data(Bytes::from_static(b"hi")))));
    assert!(chunks.is_ended());
    assert_eq!(buffer, "next");
}

#[test]
fn trailers_that_come_too_late_are_dropped() {
    let bytes = b"0\r\nX-Sum: 7\r\ncontent-length: 5\r\nTransfer-Encoding: chunked\r\n\r\n";
    let (_, trailers, left, ended) = read(bytes, 3).unwrap();
    assert_eq!((left, ended), (0, true));
    assert_eq!(
        trailers.unwrap(),
        HeaderMap::from_iter([(HeaderName::from_static("x-sum"), HeaderValue::from_static("7"))])
    );
}

proptest! {
    #[test]
    fn what_was_written_in_chunks_is_read_in_whatever_pieces(
        chunks in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 1..300), 0..6),
        extension in "(;[a-z]{0,5}(=[a-z\"]{0,5})?)?",
        trailer in proptest::bool::ANY,
        piece in 1usize..50,
    ) {
        let mut bytes = Vec::new();
        for chunk in &chunks {
            bytes.extend_from_slice(format!("{:X}{extension}\r\n", chunk.len()).as_bytes());
            bytes.extend_from_slice(chunk);
            bytes.extend_from_slice(b"\r\n");
        }
        bytes.extend_from_slice(if trailer { b"0\r\nx-sum: 1\r\n\r\nGET" } else { b"0\r\n\r\nGET" });
        let (data, trailers, left, ended) = read(&bytes, piece).unwrap();
        prop_assert_eq!(data, chunks.concat());
        prop_assert_eq!((trailers.is_some(), left, ended), (trailer, 3, true));
    }

    #[test]
    fn no_bytes_are_read_twice_or_without_end(bytes in proptest::collection::vec(any::<u8>(), 0..500), piece in 1usize..50) {
        if let Ok((data, _, left, _)) = read(&bytes, piece) {
            prop_assert!(data.len() + left <= bytes.len());
        }
    }
}
