//! As much of HTTP/2 as a callee needs that is to break its rules: RFC 9113 and, for heads, RFC 7541 without its tables.

use std::io;

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use super::{
    Protocol,
    peers::{Act, End, Rest, Stage, drip, end, until_closed},
};

const PREFACE: usize = 24;

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const CONTINUATION: u8 = 9;

/// Of SETTINGS and PING: ACK. Of DATA and HEADERS: END_STREAM.
const LAST: u8 = 1;
const END_HEADERS: u8 = 4;

/// What a frame may hold.
const MAX_FRAME: usize = 16_384;

/// One gRPC message of two bytes.
const MESSAGE: &[u8] = b"\0\0\0\0\x02hi";

/// Serves a connection as the script says.
pub(super) async fn serve(stage: &Stage, mut stream: TcpStream) -> io::Result<()> {
    stream.read_exact(&mut [0; PREFACE]).await?;
    stream.write_all(&frame(SETTINGS, 0, 0, &[])).await?;
    let mut number = 0;
    loop {
        let (kind, flags, id, payload) = read(&mut stream).await?;
        match kind {
            SETTINGS if flags & LAST == 0 => stream.write_all(&frame(SETTINGS, LAST, 0, &[])).await?,
            PING if flags & LAST == 0 => stream.write_all(&frame(PING, LAST, 0, &payload)).await?,
            HEADERS => number = stage.count(),
            _ => {}
        }
        if matches!(kind, HEADERS | DATA) && flags & LAST != 0 {
            let Some(left) = act(stage, stream, id, stage.act(number)).await? else { return Ok(()) };
            stream = left;
        }
    }
}

/// Does with a request what is to be done; the connection, if it goes on.
async fn act(stage: &Stage, mut stream: TcpStream, id: u32, act: Act) -> io::Result<Option<TcpStream>> {
    match act {
        Act::Answer(status, fields) => stream.write_all(&head(id, LAST, status, fields)).await?,
        Act::Trailers(status) => {
            let mut bytes = head(id, 0, 200, &[("content-type", "application/grpc")]);
            bytes.extend(frame(DATA, 0, id, MESSAGE));
            bytes.extend(fields_frame(id, LAST, &[("grpc-status", status)]));
            stream.write_all(&bytes).await?;
        }
        Act::BigHead(count, length) => {
            let value = "x".repeat(length);
            stream.write_all(&head(id, LAST, 200, &vec![("x-big", value.as_str()); count])).await?;
        }
        Act::Silence => {}
        Act::Raw(bytes) => {
            stream.write_all(bytes).await?;
            return end(stream, End::Close).await.map(|()| None);
        }
        Act::Ends(how) => return end(stream, how).await.map(|()| None),
        Act::Part(rest) => return part(stage, stream, id, rest).await,
        Act::ResetsStream(code) => stream.write_all(&frame(RST_STREAM, 0, id, &code.to_be_bytes())).await?,
        Act::GoesAway { looks } => {
            let last = if looks { id } else { 0 };
            stream.write_all(&frame(GOAWAY, 0, 0, &[last.to_be_bytes(), [0; 4]].concat())).await?;
            return end(stream, End::Close).await.map(|()| None);
        }
        Act::Chunks(_) => unreachable!("HTTP/2 has no chunks"),
    }
    Ok(Some(stream))
}

async fn part(stage: &Stage, mut stream: TcpStream, id: u32, rest: Rest) -> io::Result<Option<TcpStream>> {
    let (fields, body): (&[_], _) = match (stage.protocol, rest) {
        (Protocol::Grpc, _) => (&[("content-type", "application/grpc")], MESSAGE),
        (_, Rest::Short) => (&[("content-length", "10")], &b"part"[..]),
        _ => (&[], &b"part"[..]),
    };
    stream.write_all(&[head(id, 0, 200, fields), frame(DATA, 0, id, body)].concat()).await?;
    stage.head_seen().await;
    match rest {
        Rest::Ends(how) => return end(stream, how).await.map(|()| None),
        Rest::Silence => return until_closed(&mut stream).await.map(|()| None),
        Rest::Drips => return drip(&mut stream, &frame(DATA, 0, id, body)).await.map(|()| None),
        Rest::Raw(bytes) => {
            stream.write_all(bytes).await?;
            return end(stream, End::Close).await.map(|()| None);
        }
        Rest::ResetsStream(code) => stream.write_all(&frame(RST_STREAM, 0, id, &code.to_be_bytes())).await?,
        Rest::Short => stream.write_all(&frame(DATA, LAST, id, &[])).await?,
    }
    Ok(Some(stream))
}

/// The head of an answer.
fn head(id: u32, flags: u8, status: u16, fields: &[(&str, &str)]) -> Vec<u8> {
    let status = status.to_string();
    fields_frame(id, flags, &[&[(":status", status.as_str())], fields].concat())
}

/// Fields in as many frames as they need.
fn fields_frame(id: u32, flags: u8, fields: &[(&str, &str)]) -> Vec<u8> {
    let mut block = Vec::new();
    for (name, value) in fields {
        // Literal, never indexed, nothing compressed.
        block.push(0x10);
        for text in [name, value] {
            length(&mut block, text.len());
            block.extend(text.as_bytes());
        }
    }
    let parts: Vec<_> = block.chunks(MAX_FRAME).collect();
    let frames = parts.iter().enumerate().map(|(place, part)| {
        let (kind, flags) = if place == 0 { (HEADERS, flags) } else { (CONTINUATION, 0) };
        frame(kind, flags | if place + 1 == parts.len() { END_HEADERS } else { 0 }, id, part)
    });
    frames.collect::<Vec<_>>().concat()
}

/// RFC 7541, 5.1, with a prefix of seven bits.
fn length(block: &mut Vec<u8>, length: usize) {
    let Some(mut rest) = length.checked_sub(127) else { return block.push(u8::try_from(length).unwrap()) };
    block.push(127);
    while rest >= 128 {
        block.push(u8::try_from(rest % 128).unwrap() | 128);
        rest /= 128;
    }
    block.push(u8::try_from(rest).unwrap());
}

pub(super) fn frame(kind: u8, flags: u8, id: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&length[1..], &[kind, flags], &id.to_be_bytes(), payload].concat()
}

async fn read(stream: &mut TcpStream) -> io::Result<(u8, u8, u32, Vec<u8>)> {
    let mut head = [0; 9];
    stream.read_exact(&mut head).await?;
    let [a, b, c, kind, flags, id @ ..] = head;
    let mut payload = vec![0; u32::from_be_bytes([0, a, b, c]) as usize];
    stream.read_exact(&mut payload).await?;
    Ok((kind, flags, u32::from_be_bytes(id), payload))
}
