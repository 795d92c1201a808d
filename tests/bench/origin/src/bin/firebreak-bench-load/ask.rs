//! Requests whose every answer is wanted: to check that a proxy does what its config claims.

use bytes::Bytes;
use futures::future::join_all;
use http::Request;
use http_body_util::{BodyExt, Empty};
use hyper::client::conn::{http1, http2};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::{net::TcpStream, task::spawn_local, time::Instant};

use crate::To;

#[derive(Clone, Copy)]
struct Local;

impl<F: Future<Output: 'static> + 'static> hyper::rt::Executor<F> for Local {
    fn execute(&self, future: F) {
        spawn_local(future);
    }
}

#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    to: To,
    /// Path.
    path: String,
    /// Requests on each connection, one after the other.
    #[arg(long, default_value_t = 1)]
    requests: usize,
    /// HTTP/2, with this many streams on each connection at once.
    #[arg(long)]
    streams: Option<usize>,
}

pub(crate) async fn run(args: Args) -> anyhow::Result<Value> {
    let mut streams = Vec::new();
    for _ in 0..args.to.connections {
        streams.push(TcpStream::connect(args.to.address).await?);
    }
    let began = Instant::now();
    let answers = match args.streams {
        None => join_all(streams.into_iter().map(|stream| over_h1(stream, &args, began))).await.concat(),
        Some(at_once) => {
            join_all(streams.into_iter().map(|stream| over_h2(stream, at_once, &args, began))).await.concat()
        }
    };
    let answers: Vec<_> = answers.into_iter().map(|(status, at)| json!([status, at])).collect();
    Ok(answers.into())
}

/// Status, 0 for none, and milliseconds since the beginning.
type Seen = (u16, u128);

async fn over_h1(stream: TcpStream, args: &Args, began: Instant) -> Vec<Seen> {
    let Ok((mut sender, connection)) = http1::handshake(TokioIo::new(stream)).await else { return Vec::new() };
    spawn_local(async { drop(connection.await) });
    let mut seen = Vec::new();
    for _ in 0..args.requests {
        let status = async {
            sender.ready().await?;
            let mut request = request(&args.path);
            request.headers_mut().insert(http::header::HOST, http::HeaderValue::from_static("bench"));
            sender.send_request(request).await
        };
        seen.push(answer(status.await, began).await);
    }
    seen
}

async fn over_h2(stream: TcpStream, at_once: usize, args: &Args, began: Instant) -> Vec<Seen> {
    let Ok((sender, connection)) = http2::handshake(Local, TokioIo::new(stream)).await else { return Vec::new() };
    spawn_local(async { drop(connection.await) });
    let streams = (0..at_once).map(|_| {
        let mut sender = sender.clone();
        async move {
            let mut seen = Vec::new();
            for _ in 0..args.requests {
                let mut request = request(&args.path);
                // HTTP/2 wants scheme and authority.
                *request.uri_mut() = format!("http://bench{}", args.path).parse().unwrap_or_default();
                seen.push(answer(sender.send_request(request).await, began).await);
            }
            seen
        }
    });
    join_all(streams).await.concat()
}

fn request(path: &str) -> Request<Empty<Bytes>> {
    let mut request = Request::new(Empty::new());
    *request.uri_mut() = path.parse().unwrap_or_default();
    request
}

async fn answer(response: hyper::Result<http::Response<hyper::body::Incoming>>, began: Instant) -> Seen {
    let status = match response {
        Ok(response) => {
            let status = response.status().as_u16();
            if response.into_body().collect().await.is_ok() { status } else { 0 }
        }
        Err(_) => 0,
    };
    (status, began.elapsed().as_millis())
}
