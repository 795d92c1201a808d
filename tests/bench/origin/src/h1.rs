//! HTTP/1.1, by hand: what a library does beside it costs more than all the rest of an answer.
//!
//! Only what the benchmark's callers send is understood: `Content-Length` and upgrades, no chunks.

use std::{io, rc::Rc};

use bytes::{Buf, Bytes, BytesMut};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::{
    echo,
    site::{Answer, HEADERS, Site},
};

const BUFFER: usize = 64 * 1024;

/// The answer to RFC 6455's example key, which is the one that the benchmark's caller sends.
const SWITCH: &[u8] = b"HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: upgrade\r\n\
    sec-websocket-accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";

/// Serves a connection to its end.
pub(crate) async fn serve(stream: TcpStream, site: Rc<Site>) {
    site.connected();
    // How it ended is the proxy's affair, which is what is measured.
    let _ = requests(stream, &site).await;
}

async fn requests(mut stream: TcpStream, site: &Site) -> io::Result<()> {
    let mut buffer = BytesMut::with_capacity(BUFFER);
    let mut last = Written::default();
    loop {
        let Some(end) = head(&mut stream, &mut buffer).await? else { return Ok(()) };
        let head = buffer.split_to(end).freeze();
        let path = path(&head);
        if path == "/ws" {
            stream.write_all(SWITCH).await?;
            return echo(stream).await;
        }
        let length = if head.starts_with(b"GET ") { 0 } else { content_length(&head)? };
        discard(&mut stream, &mut buffer, length).await?;
        let Some(answer) = site.answer(path) else {
            // Waits for the caller to give up.
            while stream.read_buf(&mut buffer).await? > 0 {}
            return Ok(());
        };
        if !last.is(&answer) {
            last = Written::new(answer);
        }
        stream.write_all(&last.bytes).await?;
    }
}

/// The last answer as it was written: callers ask for the same thing again and again.
#[derive(Default)]
struct Written {
    answer: Option<Answer>,
    bytes: Bytes,
}

impl Written {
    fn new(answer: Answer) -> Self {
        let bytes = written(&answer);
        Self { answer: Some(answer), bytes }
    }

    /// Bodies are equal when they are the same memory, which is not given away while it is held here.
    fn is(&self, answer: &Answer) -> bool {
        let same = |own: &Answer| {
            own.status == answer.status
                && std::ptr::eq(own.body.as_ptr(), answer.body.as_ptr())
                && own.body.len() == answer.body.len()
        };
        self.answer.as_ref().is_some_and(same)
    }
}

fn written(answer: &Answer) -> Bytes {
    let mut text = format!("HTTP/1.1 {} Answer\r\n", answer.status);
    for (name, value) in HEADERS {
        text.extend([name, ": ", value, "\r\n"]);
    }
    text.extend(["content-length: ", &answer.body.len().to_string(), "\r\n\r\n"]);
    [text.as_bytes(), &answer.body].concat().into()
}

/// Reads until the end of a head is there; `None` when the caller is gone.
async fn head(stream: &mut TcpStream, buffer: &mut BytesMut) -> io::Result<Option<usize>> {
    loop {
        if let Some(end) = buffer.windows(4).position(|four| four == b"\r\n\r\n") {
            return Ok(Some(end + 4));
        }
        buffer.reserve(BUFFER / 2);
        if stream.read_buf(buffer).await? == 0 {
            return Ok(None);
        }
    }
}

async fn discard(stream: &mut TcpStream, buffer: &mut BytesMut, mut length: usize) -> io::Result<()> {
    loop {
        let here = length.min(buffer.len());
        buffer.advance(here);
        length -= here;
        if length == 0 {
            return Ok(());
        }
        buffer.reserve(BUFFER);
        if stream.read_buf(buffer).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
}

fn content_length(head: &[u8]) -> io::Result<usize> {
    if value(head, b"transfer-encoding").is_some() {
        return Err(io::ErrorKind::Unsupported.into());
    }
    let number = value(head, b"content-length").and_then(|value| std::str::from_utf8(value).ok()?.parse().ok());
    Ok(number.unwrap_or(0))
}

/// The value of a header, in whatever case it is written.
fn value<'a>(head: &'a [u8], name: &[u8]) -> Option<&'a [u8]> {
    head.split(|byte| *byte == b'\n').skip(1).find_map(|line| {
        let (found, rest) = line.split_at_checked(name.len())?;
        (found.eq_ignore_ascii_case(name) && rest.first() == Some(&b':')).then(|| rest[1..].trim_ascii())
    })
}

fn path(head: &[u8]) -> &str {
    let path = head.split(|byte| *byte == b' ').nth(1).unwrap_or_default();
    std::str::from_utf8(path).unwrap_or_default()
}
