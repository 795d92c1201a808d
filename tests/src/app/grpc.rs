//! gRPC by hand, over hyper: messages of raw bytes, so that each header, frame and trailer of the protocol is under the test's
//! control (<https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md>).
//!
//! One method: what is received is sent back, message by message, until the caller has ended its side. That is a unary call
//! when the caller sends one message, and a stream when it goes on.

use std::{convert::Infallible, time::Duration};

use anyhow::{Context, bail, ensure};
use bytes::{BufMut, Bytes, BytesMut};
use futures::stream;
use http::{HeaderMap, HeaderValue, Method, Request, Response, header};
use http_body_util::{BodyExt, StreamBody};
use hyper::{
    body::{Body as _, Frame, Incoming},
    client::conn::http2::SendRequest,
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::{net::TcpStream, sync::mpsc, time::timeout};

use super::serve::Body;

/// The method that is called.
pub const PATH: &str = "/firebreak.test.Echo/Echo";
const CONTENT_TYPE: &str = "application/grpc";

/// Whether a request or response is gRPC.
pub fn is(headers: &HeaderMap) -> bool {
    headers.get(header::CONTENT_TYPE).is_some_and(|value| value.as_bytes().starts_with(CONTENT_TYPE.as_bytes()))
}

/// A message with its prefix: not compressed, and the length.
pub fn framed(message: &[u8]) -> Bytes {
    let mut frame = BytesMut::with_capacity(5 + message.len());
    frame.put_u8(0);
    frame.put_u32(u32::try_from(message.len()).unwrap_or(u32::MAX));
    frame.put_slice(message);
    frame.freeze()
}

/// Headers of a call or an answer.
pub fn headers(headers: &mut HeaderMap) {
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(CONTENT_TYPE));
    headers.insert(header::TE, HeaderValue::from_static("trailers"));
}

/// Sends back what the call sends, then `status` in the trailers; a status other than OK alone, as servers do that refuse.
pub(super) fn answer(request: Request<Incoming>, status: u8) -> Response<Body> {
    let echo = stream::unfold((status == 0).then(|| request.into_body()), |body| async {
        let frame = body?.frame_of_data().await;
        frame.map(|(data, body)| (Ok::<_, Infallible>(Frame::data(data)), Some(body)))
    });
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", HeaderValue::from(u16::from(status)));
    let end = stream::once(async move { Ok(Frame::trailers(trailers)) });
    let mut response = Response::new(StreamBody::new(futures::StreamExt::chain(echo, end)).boxed_unsync());
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(CONTENT_TYPE));
    response
}

trait DataFrames: Sized {
    async fn frame_of_data(self) -> Option<(Bytes, Self)>;
}

impl DataFrames for Incoming {
    async fn frame_of_data(mut self) -> Option<(Bytes, Self)> {
        loop {
            if let Ok(data) = self.frame().await?.ok()?.into_data() {
                return Some((data, self));
            }
        }
    }
}

/// A stream that stays open: what is sent comes back.
#[derive(Debug)]
pub struct Stream {
    send: mpsc::Sender<Result<Frame<Bytes>, Infallible>>,
    receive: Incoming,
    // Dropping it would end the connection once the stream is done; the stream's owner decides.
    _connection: SendRequest<Body>,
}

impl Stream {
    /// Opens a stream to `authority` (HOST:PORT).
    pub async fn open(authority: &str) -> anyhow::Result<Self> {
        let io = TokioIo::new(TcpStream::connect(authority).await.context("connect")?);
        let (mut client, connection) = hyper::client::conn::http2::handshake(TokioExecutor::new(), io).await?;
        tokio::spawn(connection);
        let (send, frames) = mpsc::channel(1);
        let frames = stream::unfold(frames, |mut frames| async { frames.recv().await.map(|frame| (frame, frames)) });
        let uri = format!("http://{authority}{PATH}");
        let mut request =
            Request::builder().method(Method::POST).uri(uri).body(StreamBody::new(frames).boxed_unsync())?;
        headers(request.headers_mut());
        let response = client.send_request(request).await.context("send the call")?;
        ensure!(is(response.headers()), "not gRPC: {response:?}");
        Ok(Self { send, receive: response.into_body(), _connection: client })
    }

    /// Sends a message and waits for it to come back.
    pub async fn exchange(&mut self, message: &str, patience: Duration) -> anyhow::Result<()> {
        let expected = framed(message.as_bytes());
        self.send.send(Ok(Frame::data(expected.clone()))).await.context("the stream takes nothing more")?;
        let mut received = BytesMut::new();
        while received.len() < expected.len() {
            let frame = timeout(patience, self.receive.frame()).await.context("nothing came back in time")?;
            match frame.transpose().context("the stream broke")? {
                None => bail!("the stream ended"),
                Some(frame) => match frame.into_data() {
                    Ok(data) => received.extend_from_slice(&data),
                    Err(frame) => bail!("the call ended: {frame:?}"),
                },
            }
        }
        ensure!(received == expected, "something else came back");
        ensure!(!self.receive.is_end_stream(), "the stream ended");
        Ok(())
    }
}
