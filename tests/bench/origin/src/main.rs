//! `firebreak-bench-origin H1-ADDRESS H2-ADDRESS ECHO-ADDRESS`: the callee of the benchmark.
//!
//! It does as little work a request as can be done, so that it is not the limit: HTTP/1 by hand, HTTP/2 by a library. What it
//! answers is in [`site`]. On the third address every byte comes back.

mod h1;
mod h2;
mod site;

use std::{env, rc::Rc};

use anyhow::Context;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    runtime::{Builder, LocalOptions},
    task::spawn_local,
};

use crate::site::Site;

fn main() -> anyhow::Result<()> {
    Builder::new_current_thread().enable_all().build_local(LocalOptions::default())?.block_on(run())
}

async fn run() -> anyhow::Result<()> {
    let mut addresses = env::args().skip(1);
    let mut next = || addresses.next().context("usage: firebreak-bench-origin H1-ADDRESS H2-ADDRESS ECHO-ADDRESS");
    let (h1, h2, raw) = (next()?, next()?, next()?);
    let site = Rc::new(Site::default());
    let h2_site = Rc::clone(&site);
    let raw = listen(&raw, |stream| async { echo(stream).await.unwrap_or_default() });
    let h2 = listen(&h2, move |stream| h2::serve(stream, Rc::clone(&h2_site)));
    let h1 = listen(&h1, move |stream| h1::serve(stream, Rc::clone(&site)));
    futures::future::try_join3(h1, h2, raw).await.map(|_| ())
}

async fn listen<F>(address: &str, serve: impl Fn(TcpStream) -> F) -> anyhow::Result<()>
where
    F: Future<Output = ()> + 'static,
{
    let listener = TcpListener::bind(address).await.with_context(|| format!("cannot listen on {address}"))?;
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        spawn_local(serve(stream));
    }
}

/// Sends back what comes.
async fn echo(mut stream: impl AsyncRead + AsyncWrite + Unpin) -> std::io::Result<()> {
    let mut buffer = vec![0; 64 * 1024];
    while let read @ 1.. = stream.read(&mut buffer).await? {
        stream.write_all(&buffer[..read]).await?;
    }
    Ok(())
}
