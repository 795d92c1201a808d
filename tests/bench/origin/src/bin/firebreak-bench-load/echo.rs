//! Messages there and back: opaque bytes, or WebSocket messages on connections that were upgraded.

use std::{cell::RefCell, rc::Rc, time::Duration};

use anyhow::{Context, bail};
use futures::future::try_join_all;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::Instant,
};

use crate::To;

const UPGRADE: &[u8] = b"GET /ws HTTP/1.1\r\nhost: bench\r\nconnection: Upgrade\r\nupgrade: websocket\r\n\
    sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";

#[derive(Clone, Copy, Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    to: To,
    /// Bytes of a message.
    #[arg(long)]
    bytes: usize,
    /// How long.
    #[arg(long)]
    seconds: f64,
    /// Ask for WebSocket first, and frame the messages.
    #[arg(long)]
    websocket: bool,
}

pub(crate) async fn run(args: Args) -> anyhow::Result<Value> {
    let message: Rc<[u8]> = if args.websocket { frame(args.bytes)? } else { vec![b'x'; args.bytes] }.into();
    let mut streams = Vec::new();
    for _ in 0..args.to.connections {
        streams.push(open(args).await?);
    }
    let nanos = RefCell::new(Vec::new());
    let end = Instant::now() + Duration::from_secs_f64(args.seconds);
    try_join_all(streams.into_iter().map(|stream| talk(stream, &message, end, &nanos))).await?;
    let mut nanos = nanos.take();
    nanos.sort_unstable();
    let at = |percent: usize| nanos.get(nanos.len() * percent / 100).map_or(0.0, |nanos| f64::from(*nanos) / 1e6);
    // Each message goes through the proxy twice.
    Ok(json!({"messages": nanos.len(), "bytes": nanos.len() * message.len() * 2, "p50": at(50), "p99": at(99)}))
}

async fn open(args: Args) -> anyhow::Result<TcpStream> {
    let mut stream = TcpStream::connect(args.to.address).await.context("cannot connect")?;
    stream.set_nodelay(true)?;
    if args.websocket {
        stream.write_all(UPGRADE).await?;
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(stream.read_u8().await.context("no answer to the upgrade")?);
        }
        if !head.starts_with(b"HTTP/1.1 101 ") {
            bail!("not upgraded: {}", String::from_utf8_lossy(&head));
        }
    }
    Ok(stream)
}

async fn talk(mut stream: TcpStream, message: &[u8], end: Instant, nanos: &RefCell<Vec<u32>>) -> anyhow::Result<()> {
    let mut back = vec![0; message.len()];
    let (mut reader, mut writer) = stream.split();
    while Instant::now() < end {
        let sent = Instant::now();
        // Both at once: a message may be larger than all buffers on its way.
        tokio::try_join!(writer.write_all(message), reader.read_exact(&mut back))?;
        nanos.borrow_mut().push(u32::try_from(sent.elapsed().as_nanos()).unwrap_or(u32::MAX));
    }
    if back != message {
        bail!("what came back is not what was sent");
    }
    Ok(())
}

/// A masked binary frame (RFC 6455, 5.2) of less than 64 KiB.
fn frame(bytes: usize) -> anyhow::Result<Vec<u8>> {
    let length = u16::try_from(bytes).context("a message of at most 64 KiB")?.to_be_bytes();
    let mut frame = vec![0x82, 0xfe];
    frame.extend(length);
    frame.extend([1, 2, 3, 4]);
    frame.resize(frame.len() + bytes, b'x');
    Ok(frame)
}
