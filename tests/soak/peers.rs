//! The callees: two that are good, one of them slow, and others that go wrong, each in its own way.

use std::{collections::HashMap, convert::Infallible, future::pending, net::SocketAddr, sync::Arc, time::Duration};

use bytes::Bytes;
use firebreak_tests::app::grpc;
use futures::{StreamExt, stream};
use http::{HeaderMap, HeaderValue, Request, Response, header};
use http_body_util::{BodyExt, Full, StreamBody, combinators::UnsyncBoxBody};
use hyper::{
    body::{Frame, Incoming},
    service::service_fn,
};
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto::Builder,
};
use parking_lot::Mutex;
use socket2::{Domain, SockRef, Socket, Type};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::{oneshot, watch},
    time::sleep,
};

type Body = UnsyncBoxBody<Bytes, Infallible>;

/// A large answer: more than the buffers on its way take.
pub(crate) const LARGE_FRAMES: usize = 384;
pub(crate) const LARGE_FRAME: usize = 16 * 1024;
/// What the slow callee takes at most: longer than a try may.
const SLOW_MILLIS: u64 = 400;
const GARBAGE: &[u8] = b"\x00\x01\xfe\xff 200 nonsense\r\nno header\r\n\r\n\x00";
const HALF: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\nhalf of it";

/// All callees.
pub(crate) struct Peers {
    /// Those that answer.
    pub(crate) good: Vec<SocketAddr>,
    /// Those that do not.
    pub(crate) bad: Vec<SocketAddr>,
    /// Whoever waits until a request has arrived.
    pub(crate) held: Arc<Held>,
    hang_up: watch::Sender<()>,
    /// Bound, and not listening: whoever connects is refused, and nobody else gets the port.
    _refusing: Socket,
}

/// How a callee goes wrong.
#[derive(Clone, Copy)]
enum Wrong {
    /// Resets the connection after the first bytes.
    Reset,
    /// Takes everything and says nothing, as if no packet came back.
    HalfOpen,
    /// Answers with what is no HTTP.
    Garbage,
    /// Breaks off in the middle of an answer.
    Cut,
}

/// Those who wait until their requests have arrived, by the requests' numbers.
#[derive(Default)]
pub(crate) struct Held(Mutex<HashMap<u64, oneshot::Sender<()>>>);

impl Held {
    /// Resolves when this request has arrived at a callee.
    pub(crate) fn arrival(&self, id: u64) -> oneshot::Receiver<()> {
        let (arrived, wait) = oneshot::channel();
        self.0.lock().insert(id, arrived);
        wait
    }

    fn arrived(&self, id: u64) {
        if let Some(waiting) = self.0.lock().remove(&id) {
            // Whoever waited may have got an answer instead.
            let _ = waiting.send(());
        }
    }

    /// It need not be waited for any more.
    pub(crate) fn forget(&self, id: u64) {
        self.0.lock().remove(&id);
    }
}

impl Peers {
    /// Starts them.
    pub(crate) async fn start() -> anyhow::Result<Self> {
        let held = Arc::new(Held::default());
        let hang_up = watch::Sender::new(());
        let mut good = Vec::new();
        for slow in [false, true] {
            let held = Arc::clone(&held);
            good.push(listen(&hang_up, move |stream| serve(Arc::clone(&held), slow, stream)).await?);
        }
        let mut bad = Vec::new();
        for wrong in [Wrong::Reset, Wrong::HalfOpen, Wrong::Garbage, Wrong::Cut] {
            bad.push(listen(&hang_up, move |stream| misbehave(wrong, stream)).await?);
        }
        let refusing = Socket::new(Domain::IPV4, Type::STREAM, None)?;
        refusing.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into())?;
        bad.extend(refusing.local_addr()?.as_socket());
        Ok(Self { good, bad, held, hang_up, _refusing: refusing })
    }

    /// Ends all connections; new ones are served.
    pub(crate) fn hang_up(&self) {
        self.hang_up.send_replace(());
    }
}

/// Serves each connection until its end, or until all are hung up.
async fn listen<F: Future<Output = ()> + Send + 'static>(
    hang_up: &watch::Sender<()>,
    serve: impl Fn(TcpStream) -> F + Send + 'static,
) -> anyhow::Result<SocketAddr> {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
    let address = listener.local_addr()?;
    let hang_up = hang_up.clone();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let (served, mut hung_up) = (serve(stream), hang_up.subscribe());
            tokio::spawn(async move {
                tokio::select! {
                    () = served => {}
                    _ = hung_up.changed() => {}
                }
            });
        }
    });
    Ok(address)
}

async fn serve(held: Arc<Held>, slow: bool, stream: TcpStream) {
    let service = service_fn(move |request| {
        let held = Arc::clone(&held);
        async move { Ok::<_, Infallible>(answer(&held, slow, request).await) }
    });
    // How a connection ends is the proxy's business.
    let _ = Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(stream), service).await;
}

async fn answer(held: &Held, slow: bool, request: Request<Incoming>) -> Response<Body> {
    if slow {
        sleep(Duration::from_millis(fastrand::u64(..SLOW_MILLIS))).await;
    }
    let path = request.uri().path().to_owned();
    let (what, id) = path.trim_start_matches('/').split_once('/').unwrap_or_default();
    match what {
        "hold" => {
            held.arrived(id.parse().unwrap_or_default());
            pending().await
        }
        "large" => {
            let frame = Bytes::from(vec![b'x'; LARGE_FRAME]);
            let frames = stream::repeat(frame).take(LARGE_FRAMES).map(|frame| Ok(Frame::data(frame)));
            Response::new(StreamBody::new(frames).boxed_unsync())
        }
        _ if grpc::is(request.headers()) => message(id),
        _ => {
            let length = request.into_body().collect().await.map_or(0, |body| body.to_bytes().len());
            Response::new(Full::from(format!("{id} {length}")).boxed_unsync())
        }
    }
}

/// One message, and the status in the trailers.
fn message(id: &str) -> Response<Body> {
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", HeaderValue::from_static("0"));
    let frames = [Ok(Frame::data(grpc::framed(id.as_bytes()))), Ok(Frame::trailers(trailers))];
    let mut response = Response::new(StreamBody::new(stream::iter(frames)).boxed_unsync());
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    response
}

async fn misbehave(wrong: Wrong, mut stream: TcpStream) {
    if matches!(wrong, Wrong::HalfOpen) {
        return pending().await;
    }
    let _ = stream.read(&mut [0; 1024]).await;
    match wrong {
        Wrong::Garbage => drop(stream.write_all(GARBAGE).await),
        Wrong::Cut => drop(stream.write_all(HALF).await),
        Wrong::Reset | Wrong::HalfOpen => drop(SockRef::from(&stream).set_linger(Some(Duration::ZERO))),
    }
}
