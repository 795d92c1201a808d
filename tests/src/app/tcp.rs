//! Protocols that are not HTTP: one where the caller speaks first, one where the service does.

use std::time::Duration;

use anyhow::Context;
use serde::{Deserialize, Serialize};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::{TcpListener, TcpStream},
    time::{Instant, timeout},
};

/// What a caller of such a service saw.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Exchange {
    /// Milliseconds from the start until the first line was there.
    pub first_line_ms: u64,
    /// The lines received.
    pub lines: Vec<String>,
}

/// A caller of a TCP service.
#[derive(Clone, Debug, clap::Args)]
pub struct Talk {
    /// HOST:PORT
    address: String,
    /// What to say. Without it, only the greeting is waited for
    #[arg(long)]
    say: Option<String>,
    /// Wait for a greeting before speaking
    #[arg(long)]
    greeted: bool,
}

/// Sends back what comes.
pub async fn echo(listener: TcpListener) {
    while let Ok((mut stream, _)) = listener.accept().await {
        tokio::spawn(async move {
            let (mut read, mut write) = stream.split();
            tokio::io::copy(&mut read, &mut write).await
        });
    }
}

/// Speaks first, then sends back what comes.
pub async fn greet(listener: TcpListener) {
    while let Ok((mut stream, _)) = listener.accept().await {
        tokio::spawn(async move {
            stream.write_all(super::GREETING.as_bytes()).await?;
            let (mut read, mut write) = stream.split();
            tokio::io::copy(&mut read, &mut write).await
        });
    }
}

/// Connects, listens and speaks as told, with ten seconds for each line.
pub async fn talk(talk: Talk) -> anyhow::Result<Exchange> {
    let start = Instant::now();
    let mut stream = BufReader::new(TcpStream::connect(&talk.address).await.context("connect")?);
    let mut lines = Vec::new();
    let mut first = None;
    for (wanted, say) in [(talk.greeted, None), (talk.say.is_some(), talk.say.as_ref())] {
        if !wanted {
            continue;
        }
        if let Some(say) = say {
            stream.write_all(format!("{say}\n").as_bytes()).await?;
        }
        let mut line = String::new();
        timeout(Duration::from_secs(10), (&mut stream).take(4096).read_line(&mut line))
            .await
            .context("no line in 10 s")??;
        first.get_or_insert_with(|| start.elapsed().as_millis());
        lines.push(line.trim_end().to_owned());
    }
    Ok(Exchange { first_line_ms: u64::try_from(first.unwrap_or_default())?, lines })
}
