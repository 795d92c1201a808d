//! `firebreak-bench-origin H1-ADDRESS H2-ADDRESS`: answers every request with 64 bytes and five headers. HTTP/1 by hand, so
//! that it costs a fraction of what any proxy does; HTTP/2 by a library.

use std::{convert::Infallible, env};

use anyhow::Context;
use bytes::Bytes;
use http::Response;
use http_body_util::Full;
use hyper::{server::conn::http2, service::service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

const BODY: &[u8; 64] = b"0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";
const HEADERS: [(&str, &str); 4] =
    [("content-type", "text/plain"), ("cache-control", "no-store"), ("x-served-by", "origin"), ("etag", "\"2f-5a7c\"")];

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let mut addresses = env::args().skip(1);
    let mut next = || addresses.next().context("usage: firebreak-bench-origin H1-ADDRESS H2-ADDRESS");
    let (h1, h2) = (TcpListener::bind(next()?).await?, TcpListener::bind(next()?).await?);
    tokio::spawn(async move {
        while let Ok((stream, _)) = h2.accept().await {
            let _ = stream.set_nodelay(true);
            let service = service_fn(|_| async {
                let builder =
                    HEADERS.iter().fold(Response::builder(), |builder, (name, value)| builder.header(*name, *value));
                builder.body(Full::new(Bytes::from_static(BODY)))
            });
            tokio::spawn(http2::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(stream), service));
        }
        Ok::<_, Infallible>(())
    });
    let mut response = String::from("HTTP/1.1 200 OK\r\n");
    for (name, value) in HEADERS {
        response.extend([name, ": ", value, "\r\n"]);
    }
    response += "content-length: 64\r\n\r\n";
    let response = Bytes::from([response.as_bytes(), BODY].concat());
    loop {
        let (stream, _) = h1.accept().await?;
        stream.set_nodelay(true)?;
        tokio::spawn(answer(stream, response.clone()));
    }
}

/// One response for each empty line: requests of the benchmark have no body.
async fn answer(mut stream: TcpStream, response: Bytes) {
    let (mut buffer, mut kept) = ([0; 4096], 0);
    while let Ok(read @ 1..) = stream.read(&mut buffer[kept..]).await {
        let filled = kept + read;
        let Some(end) = buffer[..filled].windows(4).rposition(|four| four == b"\r\n\r\n") else {
            kept = filled % buffer.len();
            continue;
        };
        let requests = buffer[..end + 4].windows(4).filter(|four| *four == b"\r\n\r\n").count();
        for _ in 0..requests {
            if stream.write_all(&response).await.is_err() {
                return;
            }
        }
        buffer.copy_within(end + 4..filled, 0);
        kept = filled - (end + 4);
    }
}
