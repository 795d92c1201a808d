//! Connections that wait. Each has carried a request, as a pool's idle connections have.

use std::io::{Read, Write};

use anyhow::Context;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::To;

const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nhost: bench\r\n\r\n";

#[derive(Clone, Copy, Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    to: To,
}

pub(crate) async fn run(args: Args) -> anyhow::Result<Value> {
    let mut streams = Vec::new();
    for number in 0..args.to.connections {
        let mut stream = TcpStream::connect(args.to.address).await.context("cannot connect")?;
        exchange(&mut stream).await.with_context(|| format!("on connection {number}"))?;
        streams.push(stream);
    }
    println!("ready");
    std::io::stdout().flush()?;
    // The measurement goes on while this waits for its end. Nothing else is to be done here meanwhile.
    std::io::stdin().read_to_end(&mut Vec::new())?;
    let mut lost = 0;
    for stream in &mut streams {
        lost += usize::from(exchange(stream).await.is_err());
    }
    Ok(json!({"open": streams.len(), "lost": lost}))
}

async fn exchange(stream: &mut TcpStream) -> anyhow::Result<()> {
    stream.write_all(REQUEST).await?;
    let (mut buffer, mut filled) = ([0; 4096], 0);
    loop {
        let read = stream.read(&mut buffer[filled..]).await?;
        anyhow::ensure!(read > 0, "the connection ended");
        filled += read;
        // The body is the 64 bytes after the head.
        let head = buffer[..filled].windows(4).position(|four| four == b"\r\n\r\n");
        if head.is_some_and(|head| filled >= head + 4 + 64) {
            return Ok(());
        }
    }
}
