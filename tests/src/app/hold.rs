//! A caller that holds a stream open, exchanges a message on it again and again, and says at once when it is cut.

use std::time::Duration;

use anyhow::{Context, ensure};
use clap::ValueEnum;
use futures::{SinkExt, StreamExt};
use serde::{Deserialize, Serialize};
use tokio::{
    io::AsyncReadExt,
    net::TcpStream,
    time::{Instant, MissedTickBehavior, interval, timeout},
};
use tokio_tungstenite::{WebSocketStream, client_async, tungstenite::Message};

use super::grpc;

/// How long an exchange may take before the stream counts as cut.
const PATIENCE: Duration = Duration::from_secs(5);
/// Between two exchanges.
const PACE: Duration = Duration::from_millis(20);

/// What kind of stream.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum Kind {
    /// WebSocket
    Websocket,
    /// A gRPC call that streams both ways
    Grpc,
}

/// One line of what the holder prints.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "event")]
pub enum Event {
    /// The stream is open and the first exchange done.
    Open,
    /// The stream is no more, though nobody here ended it.
    Cut {
        /// What happened.
        error: String,
    },
    /// The holder was told to end.
    Closed {
        /// Messages that went there and came back.
        exchanges: u64,
        /// The longest that one took, in milliseconds.
        longest: u64,
    },
}

enum Stream {
    Websocket(Box<WebSocketStream<TcpStream>>),
    Grpc(grpc::Stream),
}

/// Holds a stream to `authority` (HOST:PORT) until standard input ends. Prints [`Event`]s, one a line.
pub async fn run(kind: Kind, authority: &str) -> anyhow::Result<()> {
    match hold(kind, authority).await {
        Ok(closed) => print(&closed),
        Err(error) => print(&Event::Cut { error: format!("{error:#}") }),
    }
}

async fn hold(kind: Kind, authority: &str) -> anyhow::Result<Event> {
    let mut stream = Stream::open(kind, authority).await?;
    stream.exchange("0").await?;
    print(&Event::Open)?;
    let mut input = tokio::io::stdin();
    let mut pace = interval(PACE);
    pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let (mut exchanges, mut longest) = (1, 0);
    let mut byte = [0];
    loop {
        tokio::select! {
            read = input.read(&mut byte) => if read? == 0 { return Ok(Event::Closed { exchanges, longest }) },
            _ = pace.tick() => {
                let start = Instant::now();
                stream.exchange(&exchanges.to_string()).await?;
                exchanges += 1;
                longest = longest.max(u64::try_from(start.elapsed().as_millis())?);
            }
        }
    }
}

fn print(event: &Event) -> anyhow::Result<()> {
    println!("{}", serde_json::to_string(event)?);
    Ok(())
}

impl Stream {
    async fn open(kind: Kind, authority: &str) -> anyhow::Result<Self> {
        Ok(match kind {
            Kind::Grpc => Self::Grpc(grpc::Stream::open(authority).await?),
            Kind::Websocket => {
                let stream = TcpStream::connect(authority).await.context("connect")?;
                let (socket, _) =
                    client_async(format!("ws://{authority}/websocket"), stream).await.context("upgrade")?;
                Self::Websocket(Box::new(socket))
            }
        })
    }

    async fn exchange(&mut self, message: &str) -> anyhow::Result<()> {
        match self {
            Self::Grpc(stream) => stream.exchange(message, PATIENCE).await,
            Self::Websocket(socket) => {
                socket.send(Message::text(message)).await.context("send")?;
                let back = timeout(PATIENCE, socket.next()).await.context("nothing came back in time")?;
                let back = back.context("the stream ended")?.context("receive")?;
                ensure!(back == Message::text(message), "something else came back: {back:?}");
                Ok(())
            }
        }
    }
}
