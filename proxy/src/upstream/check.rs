//! One health check: a question to an endpoint, on a connection of its own.
//!
//! A pooled connection could be well while no new one can be had, which is what a new caller would meet.

use std::{io, net::SocketAddr};

use bytes::{BufMut, Bytes, BytesMut};
use firebreak_crds::spec::{GrpcCheck, HealthCheck, HttpCheck};
use http::{HeaderMap, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper::{
    body::Incoming,
    client::conn::{http1, http2},
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use prost::Message;
use tokio::{net::TcpStream, time::timeout};

/// Most that is read of an answer.
const ANSWER: usize = 16 * 1024;
/// Before each message of gRPC: whether it is compressed, and its length.
const PREFIX: usize = 5;
/// `SERVING` of `grpc.health.v1.HealthCheckResponse.ServingStatus`.
const SERVING: i32 = 1;

const AGENT: &str = concat!("firebreak-health-check/", env!("CARGO_PKG_VERSION"));

/// Why an endpoint is not well.
#[derive(Debug, thiserror::Error)]
pub enum NotWell {
    /// No connection.
    #[error("it cannot be reached: {0}")]
    Connect(#[from] io::Error),
    /// No answer in time.
    #[error("it did not answer in time")]
    Slow,
    /// Something that is no answer.
    #[error("it does not speak HTTP as it should: {0}")]
    Http(#[from] hyper::Error),
    /// The check itself.
    #[error("the request cannot be made: {0}")]
    Request(#[from] http::Error),
    /// An answer that says so.
    #[error("it answered {0}")]
    Status(StatusCode),
    /// A gRPC status other than OK.
    #[error("it answered with gRPC status {0}")]
    Grpc(String),
    /// A health other than `SERVING`.
    #[error("it says that its health is {0} (1 is SERVING)")]
    NotServing(i32),
    /// An answer that is too long, breaks off, or is none.
    #[error("its answer cannot be read")]
    Answer,
}

/// The question of `grpc.health.v1.Health/Check`.
#[derive(Clone, PartialEq, Message)]
struct Question {
    #[prost(string, tag = "1")]
    service: String,
}

/// Its answer.
#[derive(Clone, PartialEq, Message)]
struct Health {
    #[prost(int32, tag = "1")]
    status: i32,
}

/// A connection that is closed when the check is over.
struct Talk(tokio::task::JoinHandle<()>);

impl Drop for Talk {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Asks the endpoint at `address` how it is.
///
/// # Errors
/// When it is not well, or says nothing in time.
pub async fn ask(check: &HealthCheck, address: SocketAddr) -> Result<(), NotWell> {
    let address = SocketAddr::new(address.ip(), check.port.unwrap_or(address.port()));
    let answer = async {
        let stream = TcpStream::connect(address).await?;
        match (&check.http, &check.grpc) {
            (Some(http), _) => by_http(http, stream, address).await,
            (_, Some(grpc)) => by_grpc(grpc, stream, address).await,
            _ => Ok(()),
        }
    };
    timeout(check.timeout(), answer).await.unwrap_or(Err(NotWell::Slow))
}

/// 200 to 399 is well, as for the kubelet.
async fn by_http(check: &HttpCheck, stream: TcpStream, address: SocketAddr) -> Result<(), NotWell> {
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    let _talk = Talk(tokio::spawn(async { drop(connection.await) }));
    let request = Request::get(&check.path)
        .header(header::HOST, check.host.clone().unwrap_or_else(|| address.to_string()))
        .header(header::USER_AGENT, AGENT)
        .header(header::CONNECTION, "close")
        .body(Full::<Bytes>::default())?;
    let answer = sender.send_request(request).await?;
    let status = answer.status();
    // Read to its end, so that the endpoint sees a caller that has got its answer; whatever it is, the status says enough.
    let _ = Limited::new(answer.into_body(), ANSWER).collect().await;
    if status.is_success() || status.is_redirection() { Ok(()) } else { Err(NotWell::Status(status)) }
}

/// As in <https://github.com/grpc/grpc/blob/master/doc/health-checking.md>.
async fn by_grpc(check: &GrpcCheck, stream: TcpStream, address: SocketAddr) -> Result<(), NotWell> {
    let (mut sender, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await?;
    let _talk = Talk(tokio::spawn(async { drop(connection.await) }));
    let question = Question { service: check.service.clone().unwrap_or_default() };
    let request = Request::post(format!("http://{address}/grpc.health.v1.Health/Check"))
        .header(header::CONTENT_TYPE, "application/grpc")
        .header(header::TE, "trailers")
        .header(header::USER_AGENT, AGENT)
        .body(Full::new(framed(&question)))?;
    let answer: Response<Incoming> = sender.send_request(request).await?;
    if answer.status() != StatusCode::OK {
        return Err(NotWell::Status(answer.status()));
    }
    passed(answer.headers())?;
    let whole = Limited::new(answer.into_body(), ANSWER).collect().await.map_err(|_| NotWell::Answer)?;
    if let Some(trailers) = whole.trailers() {
        passed(trailers)?;
    }
    let body = whole.to_bytes();
    let message = body.get(PREFIX..).ok_or(NotWell::Answer)?;
    let health = Health::decode(message).map_err(|_| NotWell::Answer)?;
    if health.status == SERVING { Ok(()) } else { Err(NotWell::NotServing(health.status)) }
}

fn framed(message: &impl Message) -> Bytes {
    let length = message.encoded_len();
    let mut body = BytesMut::with_capacity(PREFIX + length);
    body.put_u8(0);
    body.put_u32(u32::try_from(length).unwrap_or(u32::MAX));
    body.put_slice(&message.encode_to_vec());
    body.freeze()
}

fn passed(headers: &HeaderMap) -> Result<(), NotWell> {
    match headers.get("grpc-status") {
        Some(status) if status != "0" => Err(NotWell::Grpc(String::from_utf8_lossy(status.as_bytes()).into_owned())),
        _ => Ok(()),
    }
}
