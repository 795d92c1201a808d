//! The service: accepts, answers as its [`Behaviour`] says, and records.

use std::{convert::Infallible, io, net::Ipv6Addr, sync::Arc, time::Duration};

use anyhow::Context;
use bytes::Bytes;
use futures::future;
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Full, combinators::UnsyncBoxBody};
use hyper::{body::Incoming, service::service_fn};
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto,
};
use parking_lot::Mutex;
use serde_json::json;
use socket2::SockRef;
use tokio::{
    net::{TcpListener, TcpStream},
    time::sleep,
};
use tokio_tungstenite::{WebSocketStream, tungstenite};

use super::{
    behaviour::Behaviour,
    grpc,
    record::{Recorder, Running},
    tcp,
};

/// A body of known length or a stream with trailers.
pub type Body = UnsyncBoxBody<Bytes, Infallible>;

/// Ports the service listens on.
#[derive(Clone, Debug, clap::Args)]
pub struct Ports {
    /// HTTP/1.1, HTTP/2, gRPC and WebSocket
    #[arg(long, default_values_t = [super::HTTP_PORT])]
    http: Vec<u16>,
    /// TCP that is sent back
    #[arg(long, default_values_t = [super::ECHO_PORT])]
    echo: Vec<u16>,
    /// TCP where the service speaks first
    #[arg(long, default_values_t = [super::GREETING_PORT])]
    greeting: Vec<u16>,
    /// Control, on loopback
    #[arg(long, default_value_t = super::CONTROL_PORT)]
    control: u16,
}

/// What all connections share.
#[derive(Debug, Default)]
struct Service {
    name: String,
    behaviour: Mutex<Behaviour>,
    recorder: Recorder,
}

/// The connection is to be cut instead of an answer.
#[derive(Debug, thiserror::Error)]
#[error("the connection is reset on purpose")]
struct Cut;

/// Serves until the process is told to end.
pub async fn run(ports: Ports) -> anyhow::Result<()> {
    let name = std::env::var("HOSTNAME").unwrap_or_default();
    let service = Arc::new(Service { name, ..Service::default() });
    for port in ports.http {
        tokio::spawn(accept(listen(port).await?, Arc::clone(&service)));
    }
    for port in ports.echo {
        tokio::spawn(tcp::echo(listen(port).await?));
    }
    for port in ports.greeting {
        tokio::spawn(tcp::greet(listen(port).await?));
    }
    let control = TcpListener::bind(("127.0.0.1", ports.control)).await.context("control port")?;
    tokio::spawn(accept_control(control, service));
    Ok(ended().await?)
}

async fn ended() -> io::Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    tokio::select! { _ = terminate.recv() => {} _ = interrupt.recv() => {} }
    Ok(())
}

/// Listens on both families.
async fn listen(port: u16) -> anyhow::Result<TcpListener> {
    TcpListener::bind((Ipv6Addr::UNSPECIFIED, port)).await.with_context(|| format!("port {port}"))
}

async fn accept(listener: TcpListener, service: Arc<Service>) {
    while let Ok((stream, _)) = listener.accept().await {
        tokio::spawn(connection(stream, Arc::clone(&service)));
    }
}

async fn connection(stream: TcpStream, service: Arc<Service>) -> anyhow::Result<()> {
    let stream = stream.into_std()?;
    // A second handle: once hyper has the stream, nothing else could set what its end looks like.
    let handle = Arc::new(stream.try_clone()?);
    let answer = service_fn(move |request| {
        let (service, handle) = (Arc::clone(&service), Arc::clone(&handle));
        async move {
            let result = service.answer(request).await;
            if result.is_err() {
                let _ = SockRef::from(&*handle).set_linger(Some(Duration::ZERO)); // close() then sends RST
            }
            result
        }
    });
    let io = TokioIo::new(TcpStream::from_std(stream)?);
    let server = auto::Builder::new(TokioExecutor::new());
    server.serve_connection_with_upgrades(io, answer).await.map_err(anyhow::Error::from_boxed)
}

impl Service {
    async fn answer(&self, request: Request<Incoming>) -> Result<Response<Body>, Cut> {
        if request.uri().path() == super::HEALTH {
            return Ok(text(StatusCode::OK, String::new()));
        }
        let (running, count) = self.recorder.begin(request.headers());
        let query = request.uri().query().unwrap_or_default();
        let behaviour = match self.behaviour.lock().with_query(query) {
            Ok(behaviour) => behaviour.drawn(count),
            Err(error) => return Ok(text(StatusCode::BAD_REQUEST, format!("{error:#}"))),
        };
        if request.headers().get(header::UPGRADE).is_some_and(|value| value == "websocket") {
            running.answered(StatusCode::SWITCHING_PROTOCOLS.as_u16());
            return Ok(websocket(request));
        }
        if grpc::is(request.headers()) {
            sleep(Duration::from_millis(behaviour.delay)).await;
            if behaviour.hang {
                future::pending::<()>().await;
            }
            running.answered(StatusCode::OK.as_u16());
            return Ok(grpc::answer(request, behaviour.grpc_status));
        }
        self.answer_http(request, behaviour, running).await
    }

    async fn answer_http(
        &self,
        request: Request<Incoming>,
        behaviour: Behaviour,
        running: Running,
    ) -> Result<Response<Body>, Cut> {
        let (parts, body) = request.into_parts();
        let received = body.collect().await.map_err(|_| Cut)?.to_bytes().len();
        sleep(Duration::from_millis(behaviour.delay)).await;
        if behaviour.hang {
            future::pending::<()>().await;
        }
        if behaviour.reset {
            return Err(Cut);
        }
        let status = StatusCode::from_u16(behaviour.status).unwrap_or(StatusCode::IM_A_TEAPOT);
        let body = if behaviour.size > 0 {
            "x".repeat(behaviour.size)
        } else {
            let (method, target) = (parts.method.as_str(), parts.uri.to_string());
            let headers = echoed(&parts.headers);
            json!({"pod": self.name, "method": method, "target": target, "received": received, "headers": headers})
                .to_string()
        };
        running.answered(status.as_u16());
        Ok(text(status, body))
    }
}

fn echoed(headers: &HeaderMap) -> serde_json::Map<String, serde_json::Value> {
    headers.iter().map(|(name, value)| (name.to_string(), String::from_utf8_lossy(value.as_bytes()).into())).collect()
}

fn text(status: StatusCode, text: String) -> Response<Body> {
    let mut response = Response::new(Full::new(Bytes::from(text)).boxed_unsync());
    *response.status_mut() = status;
    response
}

/// Switches to WebSocket (RFC 6455) and sends each message back.
fn websocket(mut request: Request<Incoming>) -> Response<Body> {
    let key = request.headers().get(header::SEC_WEBSOCKET_KEY).map(HeaderValue::as_bytes).unwrap_or_default();
    let accept = tungstenite::handshake::derive_accept_key(key);
    let upgrade = hyper::upgrade::on(&mut request);
    tokio::spawn(async move {
        let stream = TokioIo::new(upgrade.await?);
        let socket = WebSocketStream::from_raw_socket(stream, tungstenite::protocol::Role::Server, None).await;
        let (sink, stream) = futures::StreamExt::split(socket);
        futures::StreamExt::forward(stream, sink).await?;
        anyhow::Ok(())
    });
    let mut response = text(StatusCode::SWITCHING_PROTOCOLS, String::new());
    let headers = response.headers_mut();
    headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
    headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
    if let Ok(accept) = HeaderValue::from_str(&accept) {
        headers.insert(header::SEC_WEBSOCKET_ACCEPT, accept);
    }
    response
}

async fn accept_control(listener: TcpListener, service: Arc<Service>) {
    while let Ok((stream, _)) = listener.accept().await {
        let service = Arc::clone(&service);
        let answer = service_fn(move |request| {
            let service = Arc::clone(&service);
            async move { Ok::<_, Infallible>(control(&service, request).await) }
        });
        let server = hyper::server::conn::http1::Builder::new();
        tokio::spawn(server.serve_connection(TokioIo::new(stream), answer));
    }
}

/// `POST /behaviour` sets it and forgets what was seen; `GET /record` tells what was seen since.
async fn control(service: &Service, request: Request<Incoming>) -> Response<Body> {
    let path = request.uri().path().to_owned();
    let body = request.into_body().collect().await.map(http_body_util::Collected::to_bytes).unwrap_or_default();
    match path.as_str() {
        "/behaviour" => match serde_json::from_slice(&body) {
            Ok(behaviour) => {
                *service.behaviour.lock() = behaviour;
                service.recorder.clear();
                text(StatusCode::OK, String::new())
            }
            Err(error) => text(StatusCode::BAD_REQUEST, error.to_string()),
        },
        "/record" => text(StatusCode::OK, serde_json::to_string(&service.recorder.read()).unwrap_or_default()),
        _ => text(StatusCode::NOT_FOUND, "behaviour or record".into()),
    }
}
